//! Cuts a byte stream into lines.

use super::LINE_BYTES_MAX;

/// The peer sent a line longer than [`LINE_BYTES_MAX`]. The stream cannot be followed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {LINE_BYTES_MAX} bytes")]
pub struct LineTooLong;

/// Collects bytes and gives out whole lines. Pure: the caller reads the socket.
#[derive(Debug, Default)]
pub struct LineDecoder {
    buffer: Vec<u8>,
    /// Everything before this has been given out.
    start: usize,
    /// Nothing between `start` and this is a newline.
    searched: usize,
}

impl LineDecoder {
    /// An empty decoder.
    pub fn new() -> LineDecoder {
        LineDecoder::default()
    }

    /// Adds what was read. Call [`next_line`](Self::next_line) until it has none before adding more, so that the
    /// buffer stays within one line and one read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its newline. Empty lines are skipped.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        loop {
            let Some(found) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                return match self.buffer.len() - self.start < LINE_BYTES_MAX {
                    true => Ok(None),
                    false => Err(LineTooLong),
                };
            };
            let (start, end) = (self.start, self.searched + found);
            self.start = end + 1;
            self.searched = end + 1;
            if end - start >= LINE_BYTES_MAX {
                return Err(LineTooLong);
            }
            if end > start {
                return Ok(Some(&self.buffer[start..end]));
            }
        }
    }

    /// True when the stream may end here: no line has been begun.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(decoder: &mut LineDecoder) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = decoder.next_line().unwrap() {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
        }
        lines
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let stream = b"one\n\ntwo\nthree\nfo";
        for size in 1..=stream.len() {
            let mut decoder = LineDecoder::new();
            let mut lines = Vec::new();
            for chunk in stream.chunks(size) {
                decoder.push(chunk);
                lines.extend(drain(&mut decoder));
            }
            assert_eq!(lines, ["one", "two", "three"], "chunks of {size}");
            assert!(!decoder.is_empty());
        }
    }

    #[test]
    fn the_longest_line_passes_and_one_more_byte_does_not() {
        let mut line = vec![b'x'; LINE_BYTES_MAX - 1];
        line.push(b'\n');
        let mut decoder = LineDecoder::new();
        decoder.push(&line);
        assert_eq!(decoder.next_line().unwrap().unwrap().len(), LINE_BYTES_MAX - 1);

        line.insert(0, b'x');
        let mut decoder = LineDecoder::new();
        decoder.push(&line);
        assert_eq!(decoder.next_line(), Err(LineTooLong));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_is_complete() {
        let mut decoder = LineDecoder::new();
        decoder.push(&vec![b'x'; LINE_BYTES_MAX]);
        assert_eq!(decoder.next_line(), Err(LineTooLong));
    }
}

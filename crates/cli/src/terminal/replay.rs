//! Output that was written before, without what a terminal answers.
//!
//! A program asks its terminal who it is, where the cursor is, which colours it has, and reads the answers as input. Whoever
//! sees that output later must not have his terminal answer: nobody waits for it any more, and it would be taken for what
//! was typed. Everything else is as it was written: of what was left open at the end, the rest is still to come.
//!
//! ```text
//!                  ┌── nothing that is answered: passed on ──┐
//!   ground ─ESC─► held ──────────────────────────────────────┴─► ground, or the rest of a text
//!                  └── it asks for something: dropped, up to its end
//! ```

/// The most of a sequence that is held before it is passed on. What asks for something is shorter.
const HELD_BYTES_MAX: usize = 1024;

/// What a terminal sends when it is sent `ENQ` is up to its user.
const ENQ: u8 = 0x05;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const ESC: u8 = 0x1b;

/// `CSI n t` that report something of the window.
const WINDOW_REPORTS: &[u16] = &[11, 13, 14, 15, 16, 18, 19, 20, 21];

/// Takes out what is answered, as long as output comes that was written before.
#[derive(Debug)]
pub struct Replay {
    /// So many bytes were.
    left: u64,
    parser: Parser,
    /// A sequence that has begun, and may be one that asks.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parser {
    Ground,
    Escape,
    Control,
    /// A text for the terminal, up to `BEL` or `ESC \`.
    Text,
    TextEscape,
    /// The rest of a text that is passed on, or dropped.
    Rest(Fate),
    RestEscape(Fate),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passed,
    Dropped,
}

impl Replay {
    /// Of so many bytes.
    pub fn of(bytes: u64) -> Replay {
        Replay { left: bytes, parser: Parser::Ground, held: Vec::new() }
    }

    /// So many bytes of it do not come.
    pub fn skip(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// What of this is to be printed.
    pub fn filter(&mut self, printed: &[u8]) -> Vec<u8> {
        let before = printed.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let (before, mut live) = printed.split_at(before);
        self.skip(before.len() as u64);
        let mut passed = Vec::with_capacity(printed.len());
        before.iter().for_each(|byte| self.step(*byte, &mut passed));
        if self.left == 0 {
            while self.is_dropping()
                && let Some((byte, rest)) = live.split_first()
            {
                self.step(*byte, &mut passed);
                live = rest;
            }
        }
        if self.left == 0 && !self.is_dropping() {
            // Whoever has asked half is still asking.
            passed.append(&mut self.held);
            self.parser = Parser::Ground;
            passed.extend(live);
        }
        passed
    }

    fn is_dropping(&self) -> bool {
        matches!(self.parser, Parser::Rest(Fate::Dropped) | Parser::RestEscape(Fate::Dropped))
    }

    fn step(&mut self, byte: u8, passed: &mut Vec<u8>) {
        use Parser as P;
        let (parser, is_asking) = match (self.parser, byte) {
            (P::Ground, ESC) => (P::Escape, false),
            (P::Ground, _) => return passed.extend((byte != ENQ).then_some(byte)),
            (P::Rest(fate), _) | (P::RestEscape(fate), CAN | SUB | ESC | b'\\') => {
                return self.rest(fate, byte, passed);
            }
            // What comes instead of a text's end is a sequence of its own.
            (P::RestEscape(fate), _) => {
                if fate == Fate::Passed {
                    passed.pop();
                }
                self.held = vec![ESC];
                self.parser = P::Escape;
                return self.step(byte, passed);
            }
            (_, CAN | SUB) => (P::Ground, false),
            (P::Text, BEL) | (P::TextEscape, b'\\') => {
                self.held.push(byte);
                return self.end(is_text_asking(&self.held), passed);
            }
            (P::Text, ESC) => (P::TextEscape, false),
            (P::Text, _) => (P::Text, false),
            (P::Escape | P::Control | P::TextEscape, ESC) => {
                passed.append(&mut self.held);
                (P::Escape, false)
            }
            (P::TextEscape, _) => {
                // The text has been given up for another sequence.
                let escape = self.held.pop();
                passed.append(&mut self.held);
                self.held.extend(escape);
                self.parser = P::Escape;
                return self.step(byte, passed);
            }
            (P::Escape, b'[') => (P::Control, false),
            (P::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (P::Text, false),
            (P::Escape, b' '..=b'/') => (P::Escape, false),
            (P::Escape, _) => (P::Ground, byte == b'Z'),
            (P::Control, b'@'..=b'~') => (P::Ground, is_control_asking(&self.held, byte)),
            (P::Control, _) => (P::Control, false),
        };
        self.held.push(byte);
        self.parser = parser;
        match parser {
            P::Ground => self.end(is_asking, passed),
            P::Text if is_device_text_asking(&self.held) => {
                self.held.clear();
                self.parser = P::Rest(Fate::Dropped);
            }
            P::Text | P::TextEscape | P::Control | P::Escape if self.held.len() >= HELD_BYTES_MAX => {
                passed.append(&mut self.held);
                self.parser = match parser {
                    P::Text => P::Rest(Fate::Passed),
                    P::TextEscape => P::RestEscape(Fate::Passed),
                    // Nothing that has an end is as long.
                    _ => P::Ground,
                };
            }
            _ => {}
        }
    }

    /// A sequence is complete.
    fn end(&mut self, is_asking: bool, passed: &mut Vec<u8>) {
        match is_asking {
            true => self.held.clear(),
            false => passed.append(&mut self.held),
        }
        self.parser = Parser::Ground;
    }

    /// Goes on with a text of which it is known what becomes.
    fn rest(&mut self, fate: Fate, byte: u8, passed: &mut Vec<u8>) {
        if fate == Fate::Passed {
            passed.push(byte);
        }
        self.parser = match (self.parser, byte) {
            (_, BEL | CAN | SUB) | (Parser::RestEscape(_), b'\\') => Parser::Ground,
            // In what is passed through another terminal, each comes twice.
            (Parser::RestEscape(Fate::Dropped), ESC) => Parser::Rest(fate),
            (_, ESC) => Parser::RestEscape(fate),
            _ => Parser::Rest(fate),
        };
    }
}

/// Whether a control sequence, `ESC [` with its parameters, asks for something when it ends so.
fn is_control_asking(held: &[u8], last: u8) -> bool {
    let held = held.get(2..).unwrap_or_default();
    let private = held.first().copied().filter(|byte| matches!(byte, b'?' | b'>' | b'<' | b'='));
    let intermediate = held.iter().copied().find(|byte| matches!(byte, b' '..=b'/'));
    let first = held.iter().skip(usize::from(private.is_some())).take_while(|byte| byte.is_ascii_digit());
    let first =
        first.fold(0u16, |number, byte| number.saturating_mul(10).saturating_add(u16::from(byte - b'0')));
    match (private, intermediate, last) {
        // Who it is, by three questions, and by its name.
        (_, None, b'c') | (Some(b'>'), None, b'q') | (None, None, b'x') => true,
        // Its state; `CSI > n` sets one.
        (None | Some(b'?'), None, b'n') | (_, Some(b'$'), b'p' | b'u' | b'w') => true,
        // The keyboard, its keys, what graphics it has.
        (Some(b'?'), None, b'u' | b'm' | b'S') => true,
        // Checksums, extents, colours, the mouse.
        (_, Some(b'*'), b'y') | (_, Some(b'"'), b'v') | (_, Some(b'#'), b'R' | b'|') => true,
        (_, Some(b'\''), b'|') => true,
        (None, None, b't') => WINDOW_REPORTS.contains(&first),
        _ => false,
    }
}

/// Whether a complete text asks for something: `OSC` with a `?` in place of a value, or for a report by its name.
fn is_text_asking(held: &[u8]) -> bool {
    let Some(text) = held.strip_prefix(b"\x1b]") else { return false };
    let text = text.strip_suffix(b"\x1b\\").or(text.strip_suffix(&[BEL])).unwrap_or(text);
    let mut fields = text.split(|byte| *byte == b';');
    match fields.next() {
        Some(b"1337") => fields.any(|field| field.starts_with(b"Report") || field.starts_with(b"Request")),
        _ => fields.any(|field| field == b"?"),
    }
}

/// Whether a text of which this is the beginning asks for something, or is answered: settings and capabilities, what is passed
/// through another terminal, and pictures, which are said to have been taken.
fn is_device_text_asking(held: &[u8]) -> bool {
    matches!(held, b"\x1bP$q" | b"\x1bP+q" | b"\x1bPtmux;" | b"\x1b_G")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece, and byte by byte.
    fn filtered(printed: &[u8]) -> String {
        let length = printed.len() as u64;
        let whole = Replay::of(length).filter(printed);
        let mut replay = Replay::of(length);
        let single: Vec<u8> = printed.iter().flat_map(|byte| replay.filter(&[*byte])).collect();
        assert_eq!(whole.escape_ascii().to_string(), single.escape_ascii().to_string());
        whole.escape_ascii().to_string()
    }

    #[test]
    fn what_a_terminal_answers_is_taken_out() {
        for asked in [
            &b"\x1b[c"[..],
            b"\x1b[0c",
            b"\x1b[>c",
            b"\x1b[>0c",
            b"\x1b[=c",
            b"\x1bZ",
            b"\x1b[5n",
            b"\x1b[6n",
            b"\x1b[?6n",
            b"\x1b[?996n",
            b"\x1b[>q",
            b"\x1b[>0q",
            b"\x1b[x",
            b"\x1b[?2026$p",
            b"\x1b[4$p",
            b"\x1b[?u",
            b"\x1b[?4m",
            b"\x1b[?1;1;0S",
            b"\x1b[18t",
            b"\x1b[14;2t",
            b"\x1b[1$w",
            b"\x1b]10;?\x07",
            b"\x1b]11;?\x1b\\",
            b"\x1b]4;7;?\x07",
            b"\x1b]52;c;?\x07",
            b"\x1b]1337;ReportCellSize\x07",
            b"\x1bP$q q\x1b\\",
            b"\x1bP+q544e;524742\x1b\\",
            b"\x1bPtmux;\x1b\x1b[c\x1b\\",
            b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\",
            b"\x05",
        ] {
            let printed = [b"before", asked, b"behind"].concat();
            assert_eq!(filtered(&printed), "beforebehind", "{}", asked.escape_ascii());
        }
    }

    #[test]
    fn what_no_terminal_answers_stays() {
        let long = [b"\x1b]52;c;".to_vec(), b"QUJD".repeat(1000), b"\x07".to_vec()].concat();
        for printed in [
            &b"plain \x1b[31mred\x1b[0m \xc3\xa4\r\n"[..],
            b"\x1b[?1049h\x1b[22;0;0t\x1b[2J\x1b[H\x1b[1;24r\x1b[23;0;0t\x1b[?1049l",
            b"\x1b[s\x1b[u\x1b[>1u\x1b[<u\x1b[=5u\x1b[ q\x1b[2 q\x1b[1\"q\x1b[>4;2m\x1b[>4n\x1b[3S",
            b"\x1b[!p\x1b7\x1b8\x1b(B\x1b)0\x1b#8\x1bc\x1b=\x1b>",
            b"\x1b]0;who am i?\x07\x1b]8;;http://a/?b\x1b\\link\x1b]8;;\x1b\\",
            b"\x1b]10;#ffffff\x07\x1bP1;2q#0;2;0;0;0~\x1b\\",
            b"\x1b[1\x18\x1b[2\x1b[3m\x1b]0;title\x1b[4mgiven up",
            &long,
        ] {
            assert_eq!(filtered(printed), printed.escape_ascii().to_string());
        }
    }

    #[test]
    fn what_is_written_now_is_as_it_is_and_so_is_what_ends_now() {
        let mut replay = Replay::of(10);
        replay.skip(4);
        assert_eq!(replay.filter(b"\x1b[6n\x1b"), b"");
        assert_eq!(replay.filter(b"[6n\x1b[c"), b"\x1b[6n\x1b[c");
        assert_eq!(replay.filter(b"\x1b[6n"), b"\x1b[6n");
        assert_eq!(Replay::of(0).filter(b"\x1b[c"), b"\x1b[c");
        // Of what has been dropped in part, nothing is printed.
        let mut replay = Replay::of(7);
        assert_eq!(replay.filter(b"\x1bP$q q\x1b"), b"");
        assert_eq!(replay.filter(b"\\now\x1b[c"), b"now\x1b[c");
    }

    #[test]
    fn no_sequence_is_held_without_limit() {
        let mut replay = Replay::of(u64::MAX);
        for begun in [&b"\x1b["[..], b"\x1b]0;", b"\x1bP1q", b"\x1b "] {
            let endless = [begun, &b"1".repeat(100_000)].concat();
            let passed = replay.filter(&endless).len();
            assert!(replay.held.len() < HELD_BYTES_MAX && passed > 90_000, "{}", begun.escape_ascii());
            replay.filter(b"\x1b\\");
        }
    }
}

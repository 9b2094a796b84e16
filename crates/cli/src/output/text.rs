//! Numbers, ages and foreign text in the words of people.

use wire::api::file::FileTime;
use wire::api::time::Timestamp;
use wire::bytestring::ByteString;

/// `text` without anything that moves a terminal's cursor. It may come from another machine.
pub fn one_line(text: &str) -> String {
    printable(text.trim_end())
}

/// The same with the blanks at its end, for a part of a line.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => line.push(' '),
            control if control.is_control() => line.extend(control.escape_default()),
            plain => line.push(plain),
        }
    }
    line
}

/// A name in a sentence: between backquotes, printable.
pub fn quoted(name: &[u8]) -> String {
    format!("`{}`", ByteString::from(name))
}

/// A number of bytes, to three digits or so: `999 B`, `1.5 KiB`, `37 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // What would round up to 1024 belongs to the next unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match value < 9.95 {
        true => format!("{value:.1} {}", UNITS[unit]),
        false => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// How long ago `then` was.
pub fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.unix().saturating_sub(then.unix());
    match seconds {
        0 => "now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A count and its noun: `1 file`, `2 files`.
pub fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        many if noun.ends_with('y') => format!("{many} {}ies", &noun[..noun.len() - 1]),
        many => format!("{many} {noun}s"),
    }
}

/// A file's time to the second, in UTC.
pub fn file_time(time: FileTime) -> String {
    match u64::try_from(time.seconds) {
        Ok(seconds) => Timestamp::from_unix(seconds).to_string(),
        Err(_) => format!("{} s before 1970", time.seconds.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_three_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10_240, "10 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn ages_are_in_the_greatest_whole_unit() {
        let at = Timestamp::from_unix;
        for (seconds, text) in
            [(0, "now"), (59, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (172_800, "2 d ago")]
        {
            assert_eq!(age(at(1_000_000 + seconds), at(1_000_000)), text);
        }
        assert_eq!(age(at(1), at(2)), "now");
    }

    #[test]
    fn foreign_text_stays_on_its_line() {
        assert_eq!(one_line("a\nb\u{1b}[2J\u{9b}c\n"), "a b\\u{1b}[2J\\u{9b}c");
    }
}

//! What a command has done to the terminal, as far as it has to be undone when the command cannot do so itself: it was
//! left, it was killed, or the link to it is gone.
//!
//! Follows the control sequences of ECMA-48 and xterm in what is printed, and takes note of those that last. A sequence may
//! come in any number of pieces. Nothing of what is printed is kept.

use std::collections::BTreeSet;

/// Modes that last, set by `CSI ? n h` and reset by `CSI ? n l`, with what they are in a terminal that nobody has changed.
const MODES: &[(u16, bool)] = &[
    // Cursor keys for applications, the cursor's visibility, the keypad.
    (1, false),
    (25, true),
    (66, false),
    // The mouse, in all its ways.
    (9, false),
    (1000, false),
    (1001, false),
    (1002, false),
    (1003, false),
    (1004, false),
    (1005, false),
    (1006, false),
    (1015, false),
    (1016, false),
    // The wheel as cursor keys, brackets around what is pasted, output that is held back.
    (1007, false),
    (2004, false),
    (2026, false),
    // The alternate screen comes last: leaving it may move the cursor.
    (47, false),
    (1047, false),
    (1049, false),
];

/// The modes that are the alternate screen.
const ALTERNATE: &[u16] = &[47, 1047, 1049];

/// The parameters of one sequence that are looked at; no program sets more modes at once.
const PARAMETERS_MAX: usize = 16;

/// How many levels of the keyboard protocol a terminal keeps.
const KEYBOARD_LEVELS_MAX: usize = 32;

/// A terminal's lasting state.
#[derive(Debug, Default)]
pub struct Screen {
    parser: Parser,
    /// Modes that are not as in a fresh terminal.
    changed: BTreeSet<u16>,
    keypad: bool,
    margins: bool,
    other_keys: bool,
    keyboard_levels: usize,
}

#[derive(Debug, Default)]
enum Parser {
    #[default]
    Ground,
    Escape,
    /// Behind `ESC` and a byte that takes another.
    Designation,
    Control(Control),
    /// A text for the terminal, up to `BEL` or `ESC \`.
    Text,
    TextEscape,
}

/// A control sequence as far as it has come.
#[derive(Debug, Default)]
struct Control {
    /// `?`, `>`, `<` or `=`.
    private: Option<u8>,
    parameters: Vec<u16>,
    intermediate: Option<u8>,
}

impl Screen {
    /// Takes note of what is printed.
    pub fn note(&mut self, printed: &[u8]) {
        for &byte in printed {
            let parser = std::mem::take(&mut self.parser);
            self.parser = self.step(parser, byte);
        }
    }

    /// Whether the alternate screen is shown.
    pub fn is_alternate(&self) -> bool {
        ALTERNATE.iter().any(|mode| self.changed.contains(mode))
    }

    /// What makes the terminal as it was; nothing if it is.
    pub fn restoring(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        (0..self.keyboard_levels).for_each(|_| bytes.extend(b"\x1b[<u"));
        if self.other_keys {
            bytes.extend(b"\x1b[>4m");
        }
        if self.keypad {
            bytes.extend(b"\x1b>");
        }
        if self.margins {
            bytes.extend(b"\x1b7\x1b[r\x1b8");
        }
        for (mode, is_usual) in MODES.iter().filter(|(mode, _)| self.changed.contains(mode)) {
            let end = if *is_usual { 'h' } else { 'l' };
            bytes.extend(format!("\x1b[?{mode}{end}").into_bytes());
        }
        if !bytes.is_empty() {
            bytes.extend(b"\x1b[0m");
        }
        bytes
    }

    fn step(&mut self, parser: Parser, byte: u8) -> Parser {
        match (parser, byte) {
            // These end whatever was begun.
            (_, 0x18 | 0x1a) => Parser::Ground,
            (Parser::Text, 0x07) => Parser::Ground,
            (Parser::Text, 0x1b) => Parser::TextEscape,
            (Parser::Text, _) => Parser::Text,
            (Parser::TextEscape, b'\\') => Parser::Ground,
            (_, 0x1b) => Parser::Escape,
            (Parser::Escape | Parser::TextEscape, byte) => self.escape(byte),
            (Parser::Designation, _) => Parser::Ground,
            (Parser::Control(control), byte) => self.control(control, byte),
            (Parser::Ground, _) => Parser::Ground,
        }
    }

    fn escape(&mut self, byte: u8) -> Parser {
        match byte {
            b'[' => return Parser::Control(Control::default()),
            b']' | b'P' | b'X' | b'^' | b'_' => return Parser::Text,
            b' '..=b'/' => return Parser::Designation,
            b'c' => *self = Screen::default(),
            b'=' => self.keypad = true,
            b'>' => self.keypad = false,
            _ => {}
        }
        Parser::Ground
    }

    fn control(&mut self, mut control: Control, byte: u8) -> Parser {
        match byte {
            b'?' | b'>' | b'<' | b'=' => control.private = Some(byte),
            b'0'..=b'9' => {
                if control.parameters.is_empty() {
                    control.parameters.push(0);
                }
                if let Some(last) = control.parameters.last_mut() {
                    *last = last.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                }
            }
            b';' | b':' if control.parameters.len() < PARAMETERS_MAX => {
                if control.parameters.is_empty() {
                    control.parameters.push(0);
                }
                control.parameters.push(0);
            }
            b' '..=b'/' => control.intermediate = Some(byte),
            b'@'..=b'~' => {
                self.carry_out(&control, byte);
                return Parser::Ground;
            }
            _ => {}
        }
        Parser::Control(control)
    }

    fn carry_out(&mut self, control: &Control, last: u8) {
        match (control.private, control.intermediate, last) {
            (Some(b'?'), None, b'h' | b'l') => {
                control.parameters.iter().for_each(|mode| self.set(*mode, last == b'h'));
            }
            (None, Some(b'!'), b'p') => {
                self.changed.retain(|mode| ALTERNATE.contains(mode));
                (self.keypad, self.margins) = (false, false);
            }
            (None, None, b'r') => self.margins = control.parameters.iter().any(|line| *line > 0),
            (Some(b'>'), None, b'm') if control.parameters.first() == Some(&4) => {
                self.other_keys = control.parameters.get(1).is_some_and(|level| *level > 0);
            }
            (Some(b'>'), None, b'u') => {
                self.keyboard_levels = (self.keyboard_levels + 1).min(KEYBOARD_LEVELS_MAX);
            }
            (Some(b'<'), None, b'u') => {
                let levels = control.parameters.first().copied().unwrap_or(1).max(1);
                self.keyboard_levels = self.keyboard_levels.saturating_sub(levels.into());
            }
            _ => {}
        }
    }

    fn set(&mut self, mode: u16, is_on: bool) {
        match MODES.iter().find(|(known, _)| *known == mode) {
            Some((_, is_usual)) if *is_usual != is_on => drop(self.changed.insert(mode)),
            Some(_) => drop(self.changed.remove(&mode)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(printed: &[u8]) -> String {
        let mut screen = Screen::default();
        screen.note(printed);
        // Byte by byte it is the same.
        let mut single = Screen::default();
        printed.iter().for_each(|byte| single.note(&[*byte]));
        assert_eq!(screen.restoring(), single.restoring());
        String::from_utf8(screen.restoring()).unwrap().replace('\x1b', "^")
    }

    #[test]
    fn what_was_undone_needs_no_more() {
        for printed in [
            &b"plain \x1b[31mred\x1b[0m"[..],
            b"\x1b[?1049h\x1b[?25l text \x1b[?25h\x1b[?1049l",
            b"\x1b[?1;2004h\x1b=\x1b[?2004;1l\x1b>",
            b"\x1b[2;10r\x1b[r",
            b"\x1b[>1u\x1b[>4;2m\x1b[<u\x1b[>4;0m",
            b"\x1b[?1049h\x1b[?1002h\x1bc",
            b"\x1b]0;[?1049h title\x07",
            b"\x1bP+q\x1b\\\x1b[?4242h\x1b[?104",
        ] {
            assert_eq!(after(printed), "", "{}", printed.escape_ascii());
        }
    }

    #[test]
    fn what_was_left_changed_is_restored_with_the_screen_last() {
        assert_eq!(after(b"\x1b[?1049h\x1b[?1h\x1b=\x1b[?25l"), "^>^[?1l^[?25h^[?1049l^[0m");
        assert_eq!(after(b"\x1b[?1000;1006h"), "^[?1000l^[?1006l^[0m");
        assert_eq!(after(b"\x1b[1;20r"), "^7^[r^8^[0m");
        assert_eq!(after(b"\x1b[>1u\x1b[>5u\x1b[<u"), "^[<u^[0m");
        // A soft reset leaves the screen as it is.
        assert_eq!(after(b"\x1b[?1049h\x1b[?2004h\x1b[!p"), "^[?1049l^[0m");
    }

    #[test]
    fn the_alternate_screen_is_known() {
        let mut screen = Screen::default();
        screen.note(b"\x1b[?104");
        assert!(!screen.is_alternate());
        screen.note(b"9h");
        assert!(screen.is_alternate());
        screen.note(b"\x1b[?1049l");
        assert!(!screen.is_alternate());
    }

    #[test]
    fn no_sequence_takes_memory_without_limit() {
        let mut screen = Screen::default();
        screen.note(b"\x1b[?");
        screen.note(&b"1;99999999999".repeat(10_000));
        let Parser::Control(control) = &screen.parser else { panic!("{screen:?}") };
        assert_eq!(control.parameters.len(), PARAMETERS_MAX);
        screen.note(&b"\x1b[>1u".repeat(1000));
        assert_eq!(screen.keyboard_levels, KEYBOARD_LEVELS_MAX);
    }
}

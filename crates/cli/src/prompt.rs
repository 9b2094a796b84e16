//! Questions to the person at the terminal.
//!
//! The terminal is `/dev/tty`, so that a command whose input and output are pipes can still ask. While a secret is
//! typed the terminal neither shows it nor turns keys into signals: an interrupt is read as a key, and the terminal's
//! settings are put back on every way out.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use wire::api::prompt::{Ask, PromptKind, Secret};

/// The longest answer. Longer than any passphrase, and it bounds what a runaway paste can fill.
const ANSWER_BYTES_MAX: usize = 4096;

const TERMINAL: &str = "/dev/tty";
const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const ERASE_LINE: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// Who can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompter {
    /// The person at the terminal.
    Terminal,
    /// Nobody.
    Nobody,
}

/// What came of a question.
#[derive(Debug)]
pub enum Answer {
    /// What was typed.
    Given(Secret),
    /// There is nobody, or the terminal was closed.
    Declined,
    /// The person called the command off.
    Interrupted,
}

impl Prompter {
    /// The terminal of this process, if it has one.
    pub fn of_process() -> Prompter {
        match open() {
            Ok(_) => Prompter::Terminal,
            Err(_) => Prompter::Nobody,
        }
    }

    /// Whether anybody can be asked.
    pub fn is_there(self) -> bool {
        self == Prompter::Terminal
    }

    /// Puts the question.
    pub fn ask(self, question: &Ask) -> Answer {
        match self {
            Prompter::Nobody => Answer::Declined,
            Prompter::Terminal => open().and_then(|tty| put(tty, question)).unwrap_or(Answer::Declined),
        }
    }
}

fn open() -> io::Result<File> {
    File::options().read(true).write(true).open(TERMINAL)
}

fn put(mut tty: File, question: &Ask) -> io::Result<Answer> {
    let text = printable(&question.text);
    let echo = match question.kind {
        PromptKind::Notice => {
            writeln!(tty, "{text}")?;
            return Ok(Answer::Given(Secret::new(String::new())));
        }
        PromptKind::Line => Echo::Shown,
        PromptKind::Secret => Echo::Hidden,
    };
    // Before the question is seen: what is typed in answer to it is neither lost nor shown.
    let mut tty = Quiet::enter(&tty)?;
    tty.write_all(text.as_bytes())?;
    read_answer(&mut tty, echo)
}

/// A question without the characters that could rewrite the screen; its lines stay lines.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push('\n'),
            '\r' | '\t' => shown.push(' '),
            control if control.is_control() => shown.extend(control.escape_default()),
            plain => shown.push(plain),
        }
    }
    shown
}

/// The terminal while it passes keys on one by one. Its settings come back when this is dropped.
struct Quiet<'a> {
    tty: &'a File,
    before: Termios,
}

impl Quiet<'_> {
    fn enter(tty: &File) -> io::Result<Quiet<'_>> {
        let before = tcgetattr(tty)?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed before the question was not an answer to it.
        tcsetattr(tty, OptionalActions::Flush, &quiet)?;
        Ok(Quiet { tty, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _gone = tcsetattr(self.tty, OptionalActions::Now, &self.before);
    }
}

impl Read for Quiet<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tty.read(buffer)
    }
}

impl Write for Quiet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tty.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tty.flush()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Echo {
    Shown,
    Hidden,
}

/// Reads keys up to the end of the line.
fn read_answer(tty: &mut (impl Read + Write), echo: Echo) -> io::Result<Answer> {
    let mut typed: Vec<u8> = Vec::new();
    let answer = loop {
        let mut key = [0];
        if tty.read(&mut key)? == 0 {
            break Answer::Declined;
        }
        match key[0] {
            b'\n' | b'\r' => match String::from_utf8(std::mem::take(&mut typed)) {
                Ok(text) => break Answer::Given(Secret::new(text)),
                Err(_) => break Answer::Declined,
            },
            INTERRUPT => break Answer::Interrupted,
            END if typed.is_empty() => break Answer::Declined,
            BACKSPACE | DELETE => erase(tty, &mut typed, echo)?,
            ERASE_LINE => {
                while !typed.is_empty() {
                    erase(tty, &mut typed, echo)?;
                }
            }
            control if control < b' ' => {}
            byte if typed.len() < ANSWER_BYTES_MAX => {
                typed.push(byte);
                if echo == Echo::Shown {
                    tty.write_all(&[byte])?;
                }
            }
            _ => {}
        }
    };
    typed.fill(0);
    tty.write_all(b"\n")?;
    Ok(answer)
}

/// Takes the last character back, all of its bytes.
fn erase(tty: &mut impl Write, typed: &mut Vec<u8>, echo: Echo) -> io::Result<()> {
    let Some(mut last) = typed.pop() else {
        return Ok(());
    };
    while last & 0xc0 == 0x80 {
        match typed.pop() {
            Some(byte) => last = byte,
            None => break,
        }
    }
    match echo {
        Echo::Shown => tty.write_all(b"\x08 \x08"),
        Echo::Hidden => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that will be pressed, and what the screen shows.
    struct Keys<'a>(&'a [u8], Vec<u8>);

    impl Read for Keys<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Keys<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn press(keys: &[u8], echo: Echo) -> (Option<String>, Vec<u8>) {
        let mut keys = Keys(keys, Vec::new());
        let answer = match read_answer(&mut keys, echo).unwrap() {
            Answer::Given(secret) => Some(secret.reveal().to_owned()),
            Answer::Declined | Answer::Interrupted => None,
        };
        (answer, keys.1)
    }

    #[test]
    fn a_secret_is_read_and_not_shown() {
        assert_eq!(press(b"hunter2\n", Echo::Hidden), (Some("hunter2".into()), b"\n".to_vec()));
    }

    #[test]
    fn a_line_is_shown_as_it_is_typed() {
        assert_eq!(press(b"yes\r", Echo::Shown), (Some("yes".into()), b"yes\n".to_vec()));
    }

    #[test]
    fn keys_edit_the_answer() {
        assert_eq!(press("aü\x7fb\n".as_bytes(), Echo::Hidden).0.as_deref(), Some("ab"));
        assert_eq!(press(b"wrong\x15right\n", Echo::Hidden).0.as_deref(), Some("right"));
        assert_eq!(press(b"\x7f\x7fa\n", Echo::Hidden).0.as_deref(), Some("a"));
    }

    #[test]
    fn an_interrupt_and_the_end_of_input_are_no_answers() {
        assert_eq!(press(b"ab\x03\n", Echo::Hidden).0, None);
        assert_eq!(press(b"\x04", Echo::Hidden).0, None);
        assert_eq!(press(b"ab", Echo::Hidden).0, None);
    }

    #[test]
    fn a_question_cannot_rewrite_the_screen() {
        assert_eq!(printable("sure?\n\u{1b}[2Jyes"), "sure?\n\\u{1b}[2Jyes");
    }
}

//! The keys with which a person speaks to this program while all others go to the command: those of ssh.
//!
//! ```text
//!              '~'              '.'  leave
//!  line start ─────► tilde ──┬─ '?'  help
//!   ▲   │ other              ├─ '~'  passes one tilde
//!   │   ▼                    └─ other: passes both
//!   └─ within   (carriage return, line feed)
//! ```

/// What was asked of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Leave the command to itself. What was typed behind it is dropped.
    Leave,
    /// Say which keys there are.
    Help,
}

/// Where in a line the next key comes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    LineStart,
    Tilde,
    Within,
}

/// Finds the keys in what is typed.
#[derive(Debug, Default)]
pub struct EscapeKeys(At);

impl EscapeKeys {
    /// Puts what is for the command into `passed`, and returns what is for this program.
    pub fn read(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> Option<Wish> {
        let mut wish = None;
        for &key in typed {
            match (self.0, key) {
                (At::Tilde, b'.') => {
                    self.0 = At::LineStart;
                    return Some(Wish::Leave);
                }
                (At::Tilde, b'?') => {
                    self.0 = At::LineStart;
                    wish = Some(Wish::Help);
                    continue;
                }
                (At::LineStart, b'~') => {
                    self.0 = At::Tilde;
                    continue;
                }
                (At::Tilde, b'~') => {}
                (At::Tilde, _) => passed.push(b'~'),
                (At::LineStart | At::Within, _) => {}
            }
            passed.push(key);
            self.0 = if matches!(key, b'\r' | b'\n') { At::LineStart } else { At::Within };
        }
        wish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece, and key by key.
    fn read(typed: &[u8]) -> (Vec<u8>, Option<Wish>) {
        let (mut whole, mut single) = (Vec::new(), Vec::new());
        let wish = EscapeKeys::default().read(typed, &mut whole);
        let mut keys = EscapeKeys::default();
        let mut last = None;
        for key in typed {
            last = keys.read(&[*key], &mut single).or(last);
            if last == Some(Wish::Leave) {
                break;
            }
        }
        assert_eq!((&whole, wish), (&single, last));
        (whole, wish)
    }

    #[test]
    fn a_tilde_at_the_start_of_a_line_is_for_this_program() {
        for (typed, passed, wish) in [
            (&b"~."[..], &b""[..], Some(Wish::Leave)),
            (b"ls\r~.dropped", b"ls\r", Some(Wish::Leave)),
            (b"\n~?\r", b"\n\r", Some(Wish::Help)),
            (b"~?~.", b"", Some(Wish::Leave)),
            (b"~~.", b"~.", None),
            (b"~~~.", b"~~.", None),
            (b"~a~.", b"~a~.", None),
            (b"cd ~/x\r", b"cd ~/x\r", None),
            (b"~\r~.", b"~\r", Some(Wish::Leave)),
            (b"a~.", b"a~.", None),
        ] {
            assert_eq!(read(typed), (passed.to_vec(), wish), "{}", typed.escape_ascii());
        }
    }
}

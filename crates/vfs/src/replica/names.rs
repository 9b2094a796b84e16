//! Names of the machine on this computer, and back.
//!
//! Names on the machine are bytes without `/` and NUL. What this computer cannot have in a name is written as a character of
//! Unicode's private use area: byte `NN` as U+F0NN, as other programs that bring POSIX to Windows do. These are
//!
//! - bytes that are not UTF-8, and the bytes of the characters U+F000 to U+F0FF themselves;
//! - on Windows, `\ : * ? " < > |` and control characters, a last dot or space, and the first letter of a device's name.
//!
//! So every name of the machine has exactly one name here, and another name of the machine never has the same. Whether this
//! computer can tell two of them apart is another matter: those with one [key](NameRules::key) it cannot.

use unicode_normalization::UnicodeNormalization;

use super::side::Refusal;

/// What this computer can have in a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRules {
    /// As POSIX has it, of UTF-8.
    Posix,
    /// Windows: capitals do not count, and much cannot be in a name.
    Windows,
    /// macOS: neither capitals nor the way in which an accent is written count.
    Mac,
}

/// The longest name here: UTF-16 units on Windows, bytes elsewhere.
const NAME_UNITS_MAX: usize = 255;

/// Of each kind of conflicting name, how many are tried.
const ALTERNATIVES_MAX: u32 = 10_000;

const PRIVATE: u32 = 0xf000;

/// Devices that Windows finds in every directory, whatever follows a dot behind them.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// Those of them that have a digit behind them.
const NUMBERED_DEVICES: [&str; 2] = ["com", "lpt"];

impl NameRules {
    /// What a file of the machine is called here.
    pub fn to_here(self, name: &[u8]) -> Result<Box<[u8]>, Refusal> {
        if !is_name(name) {
            return Err(Refusal::Refused("the machine has told of a name that is none".to_owned()));
        }
        let mut here = String::with_capacity(name.len());
        for chunk in name.utf8_chunks() {
            for character in chunk.valid().chars() {
                if (PRIVATE..=PRIVATE + 0xff).contains(&u32::from(character)) {
                    character.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| here.push(private(byte)));
                } else if self == NameRules::Windows && is_refused_by_windows(character) {
                    // These are all ASCII.
                    here.push(private(character as u8));
                } else {
                    here.push(character);
                }
            }
            chunk.invalid().iter().for_each(|byte| here.push(private(*byte)));
        }
        if self == NameRules::Windows {
            here = windows_name(here);
        }
        let is_too_long = self.units(&here) > NAME_UNITS_MAX;
        if is_too_long {
            return Err(Refusal::Refused("its name would be too long on this computer".to_owned()));
        }
        Ok(here.into_bytes().into())
    }

    /// What a file of this computer is called on the machine.
    pub fn to_there(self, name: &[u8]) -> Result<Box<[u8]>, Refusal> {
        let refused = |why: &str| Err(Refusal::Refused(why.to_owned()));
        let Ok(name) = std::str::from_utf8(name) else {
            return refused("its name is not Unicode");
        };
        let mut there = Vec::with_capacity(name.len());
        let mut put = |character: char| match u32::from(character).checked_sub(PRIVATE) {
            Some(byte @ 0..=0xff) => there.push(byte as u8),
            _ => there.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        };
        match self {
            NameRules::Mac => name.nfc().for_each(&mut put),
            NameRules::Posix | NameRules::Windows => name.chars().for_each(&mut put),
        }
        if there.is_empty() || there.contains(&b'/') || there.contains(&0) || there == b"." || there == b".."
        {
            return refused("its name cannot be on a machine");
        }
        if there.len() > NAME_UNITS_MAX {
            return refused("its name would be too long on the machine");
        }
        Ok(there.into())
    }

    /// Whether a file here that has one of these names has the other too: they differ at most in how an accent is written, which
    /// macOS does not keep. Names that differ in capitals are two, though none may be beside the other.
    pub fn is_one_name(self, one: &[u8], other: &[u8]) -> bool {
        one == other
            || matches!((self.to_there(one), self.to_there(other)), (Ok(one), Ok(other)) if one == other)
    }

    /// What is the same for all names that are one to this computer.
    pub fn key(self, name: &[u8]) -> Box<[u8]> {
        let text = String::from_utf8_lossy(name);
        match self {
            NameRules::Posix => name.into(),
            // Windows compares character by character, each as its single capital.
            NameRules::Windows => text.chars().map(single_capital).collect::<String>().into_bytes().into(),
            NameRules::Mac => {
                let folded = text.nfd().flat_map(char::to_lowercase).collect::<String>();
                folded.nfd().collect::<String>().into_bytes().into()
            }
        }
    }

    /// The name under which an edit of this computer is kept beside the machine's: `report (conflict from HOST).txt`, then with
    /// `HOST, 2` and so on. `is_taken` is asked of each.
    pub fn conflict_name<E>(
        self,
        name: &[u8],
        host: &str,
        is_taken: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<Option<Box<[u8]>>, E> {
        self.alternative(name, is_taken, |number| match number {
            1 => format!(" (conflict from {host})"),
            _ => format!(" (conflict from {host}, {number})"),
        })
    }

    /// The name here of a file whose own name this computer cannot tell from another's: `Makefile (2)`, and so on.
    pub fn alias<E>(
        self,
        name: &[u8],
        is_taken: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<Option<Box<[u8]>>, E> {
        self.alternative(name, is_taken, |number| format!(" ({})", number + 1))
    }

    fn alternative<E>(
        self,
        name: &[u8],
        mut is_taken: impl FnMut(&[u8]) -> Result<bool, E>,
        mark: impl Fn(u32) -> String,
    ) -> Result<Option<Box<[u8]>>, E> {
        let name = String::from_utf8_lossy(name);
        let (stem, extension) = match name.rfind('.') {
            Some(dot) if dot > 0 => name.split_at(dot),
            _ => (&*name, ""),
        };
        for number in 1..=ALTERNATIVES_MAX {
            let mark = mark(number);
            let mut stem = stem;
            // On the machine it must fit too, which counts bytes.
            while stem.len() + mark.len() + extension.len() > NAME_UNITS_MAX && !stem.is_empty() {
                stem = &stem[..stem.floor_char_boundary(stem.len() - 1)];
            }
            let candidate = format!("{stem}{mark}{extension}");
            if candidate.len() > NAME_UNITS_MAX {
                return Ok(None);
            }
            if !is_taken(candidate.as_bytes())? {
                return Ok(Some(candidate.into_bytes().into()));
            }
        }
        Ok(None)
    }

    fn units(self, name: &str) -> usize {
        match self {
            NameRules::Windows => name.encode_utf16().count(),
            NameRules::Posix | NameRules::Mac => name.len(),
        }
    }
}

/// Whether it names something in a directory, and not a way out of it.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b".."
}

fn private(byte: u8) -> char {
    char::from_u32(PRIVATE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn is_refused_by_windows(character: char) -> bool {
    character < ' ' || matches!(character, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
}

fn single_capital(character: char) -> char {
    let mut capitals = character.to_uppercase();
    match (capitals.next(), capitals.next()) {
        (Some(capital), None) => capital,
        _ => character,
    }
}

fn windows_name(mut name: String) -> String {
    if let Some(last @ ('.' | ' ')) = name.chars().last() {
        name.pop();
        name.push(private(last as u8));
    }
    if is_device(&name) {
        let first = name.remove(0);
        name.insert(0, private(first as u8));
    }
    name
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end_matches(' ').to_ascii_lowercase();
    let is_numbered = || {
        NUMBERED_DEVICES.iter().any(|device| {
            let mut rest = stem.strip_prefix(device).unwrap_or_default().chars();
            // The superscripts count as digits there.
            matches!((rest.next(), rest.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
        })
    };
    DEVICES.contains(&&*stem) || is_numbered()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [NameRules; 3] = [NameRules::Posix, NameRules::Windows, NameRules::Mac];

    fn here(rules: NameRules, name: &[u8]) -> String {
        String::from_utf8(rules.to_here(name).unwrap().into()).unwrap()
    }

    #[test]
    fn what_windows_cannot_have_in_a_name_is_written_otherwise() {
        for (name, expected) in [
            ("a:b", "a\u{f03a}b"),
            ("what?", "what\u{f03f}"),
            ("end.", "end\u{f02e}"),
            ("end ", "end\u{f020}"),
            ("con", "\u{f063}on"),
            ("NUL.txt", "\u{f04e}UL.txt"),
            ("lpt1 .x", "\u{f06c}pt1 .x"),
            ("com¹", "\u{f063}om¹"),
            ("console", "console"),
            ("com10", "com10"),
            ("line\nfeed", "line\u{f00a}feed"),
        ] {
            assert_eq!(here(NameRules::Windows, name.as_bytes()), expected);
            assert_eq!(*NameRules::Windows.to_there(expected.as_bytes()).unwrap(), *name.as_bytes());
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["a/b", "\u{f02f}", "a\u{f000}", "\u{f02e}\u{f02e}", "."] {
            assert!(NameRules::Windows.to_there(name.as_bytes()).is_err(), "{name:?}");
        }
        for (name, rules) in [&b".."[..], b".", b"", b"../x", b"/", b"a\0"]
            .into_iter()
            .flat_map(|name| ALL.map(|rules| (name, rules)))
        {
            assert!(rules.to_here(name).is_err(), "{name:?}");
        }
        assert!(NameRules::Mac.to_here(&[0xff; 255]).is_err());
        assert!(NameRules::Windows.to_here(&[0xff; 255]).is_ok());
        assert!(NameRules::Windows.to_there("é".repeat(200).as_bytes()).is_err());
    }

    #[test]
    fn names_that_are_one_to_this_computer_have_one_key() {
        let is_one = |rules: NameRules, a: &str, b: &str| rules.key(a.as_bytes()) == rules.key(b.as_bytes());
        assert!(is_one(NameRules::Windows, "README", "Readme"));
        assert!(!is_one(NameRules::Windows, "e\u{301}", "\u{e9}"));
        assert!(!is_one(NameRules::Windows, "ss", "ß"));
        assert!(is_one(NameRules::Mac, "e\u{301}", "\u{c9}"));
        assert!(!is_one(NameRules::Posix, "a", "A"));
        assert!(NameRules::Mac.is_one_name("e\u{301}".as_bytes(), "\u{e9}".as_bytes()));
        assert!(!NameRules::Mac.is_one_name(b"a", b"A"));
        assert!(!NameRules::Windows.is_one_name("e\u{301}".as_bytes(), "\u{e9}".as_bytes()));
    }

    #[test]
    fn another_name_keeps_the_extension_and_is_free() {
        let mut tried = 0;
        let name = NameRules::Windows.conflict_name(b"report.txt", "laptop", |_| {
            tried += 1;
            Ok::<_, ()>(tried < 3)
        });
        assert_eq!(*name.unwrap().unwrap(), *b"report (conflict from laptop, 3).txt");
        let alias = NameRules::Mac.alias(b".profile", |_| Ok::<_, ()>(false));
        assert_eq!(*alias.unwrap().unwrap(), *b".profile (2)");
        let long = NameRules::Posix.alias("é".repeat(127).as_bytes(), |_| Ok::<_, ()>(false));
        assert_eq!(long.unwrap().unwrap().len(), 254);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in proptest::collection::vec(1_u8..=255, 1..64)) {
            prop_assume!(!name.contains(&b'/') && name != b"." && name != b"..");
            for rules in ALL {
                let here = rules.to_here(&name).unwrap();
                let there = rules.to_there(&here).unwrap();
                // macOS tells no accent from another way to write it.
                prop_assert!(*there == *name || rules == NameRules::Mac && rules.key(&there) == rules.key(&name));
            }
        }
    }
}

//! The hosts that a configuration of ssh names, with what it includes. See ssh_config(5).
//!
//! Names are taken from every `Host` line, whatever ssh makes of it: a name that is offered is no promise. Patterns are no names.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use globset::GlobBuilder;

/// How much is read, of all files together.
const BYTES_MAX: u64 = 1 << 20;

/// How many files are opened, and how many entries of directories are looked at for the patterns of `Include`.
const FILES_MAX: usize = 256;
const ENTRIES_MAX: usize = 10_000;

/// How deep files may include each other: as deep as ssh goes.
const DEPTH_MAX: usize = 16;

/// The names in the configuration at `path`, in the order in which they are there. What it includes is looked for below `home`, as
/// that of a user is. What cannot be read is left out.
pub(super) fn hosts(path: &Path, home: Option<&Path>) -> Vec<String> {
    let mut reading =
        Reading { home, bytes: BYTES_MAX, files: FILES_MAX, entries: ENTRIES_MAX, hosts: Vec::new() };
    reading.read(path, 0);
    reading.hosts
}

struct Reading<'a> {
    home: Option<&'a Path>,
    /// What may still be read, opened and looked at.
    bytes: u64,
    files: usize,
    entries: usize,
    hosts: Vec<String>,
}

impl Reading<'_> {
    fn read(&mut self, path: &Path, depth: usize) {
        let Some(files) = self.files.checked_sub(1) else { return };
        self.files = files;
        let mut text = Vec::new();
        // A pipe would be waited for.
        let is_file = path.metadata().is_ok_and(|metadata| metadata.is_file());
        let Some(file) = is_file.then(|| File::open(path).ok()).flatten() else { return };
        if file.take(self.bytes).read_to_end(&mut text).is_err() {
            return;
        }
        self.bytes = self.bytes.saturating_sub(text.len() as u64);
        for line in String::from_utf8_lossy(&text).lines() {
            let (keyword, rest) = keyword(line);
            if keyword.eq_ignore_ascii_case("host") {
                self.hosts.extend(words(rest).into_iter().filter(|name| !name.contains(['*', '?', '!'])));
            } else if keyword.eq_ignore_ascii_case("include") && depth < DEPTH_MAX {
                for pattern in words(rest) {
                    for included in self.matches(&pattern) {
                        self.read(&included, depth + 1);
                    }
                }
            }
        }
    }

    /// The files of a pattern, in order.
    fn matches(&mut self, pattern: &str) -> Vec<PathBuf> {
        let path = match (pattern.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (None, Some(home)) => home.join(".ssh").join(pattern),
            (_, None) => PathBuf::from(pattern),
        };
        let mut found = vec![PathBuf::new()];
        for component in path.components() {
            found = match component {
                Component::Normal(name) if is_pattern(&name.to_string_lossy()) => {
                    let pattern = name.to_string_lossy().into_owned();
                    found.iter().flat_map(|directory| self.named(directory, &pattern)).collect()
                }
                literal => found.iter().map(|directory| directory.join(literal)).collect(),
            };
        }
        found
    }

    fn named(&mut self, directory: &Path, pattern: &str) -> Vec<PathBuf> {
        let Ok(glob) = GlobBuilder::new(pattern).literal_separator(true).build() else { return Vec::new() };
        let (glob, with_dot) = (glob.compile_matcher(), pattern.starts_with('.'));
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        let mut named = Vec::new();
        for entry in entries.take(self.entries) {
            self.entries -= 1;
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if glob.is_match(&name) && name.to_string_lossy().starts_with('.') == with_dot {
                named.push(directory.join(name));
            }
        }
        named.sort_unstable();
        named
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// A line's keyword, and what is behind it and behind the equals sign that may be there.
fn keyword(line: &str) -> (&str, &str) {
    let line = line.trim();
    let (keyword, rest) = line.split_at(line.find([' ', '\t', '=']).unwrap_or(line.len()));
    let rest = rest.trim_start();
    (keyword, rest.strip_prefix('=').unwrap_or(rest))
}

/// Words, which may be quoted, up to a comment.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut is_quoted, mut is_in_word) = (false, false);
    for letter in text.chars() {
        match letter {
            '#' if !is_quoted && !is_in_word => break,
            ' ' | '\t' if !is_quoted => is_in_word = false,
            _ => {
                if !is_in_word {
                    words.push(String::new());
                }
                is_in_word = true;
                match words.last_mut() {
                    Some(word) if letter != '"' => word.push(letter),
                    _ => is_quoted = !is_quoted,
                }
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts_of(files: &[(&str, &str)]) -> Vec<String> {
        let home = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a directory above")).expect("made");
            std::fs::write(path, text.replace("HOME", &home.path().display().to_string())).expect("written");
        }
        hosts(&home.path().join(".ssh/config"), Some(home.path()))
    }

    #[test]
    fn names_are_read_but_no_patterns_and_no_comments() {
        let config = "# Host no\nHost a b # c\n  HostName x\nhost=c\n\tHOST *.d !e \"f g\"\nHost = h\r\nMatch host i\nHost \"j";
        assert_eq!(hosts_of(&[(".ssh/config", config)]), ["a", "b", "c", "f g", "h", "j"]);
        assert!(hosts_of(&[]).is_empty());
    }

    #[test]
    fn what_is_included_is_read_where_it_is_included() {
        let found = hosts_of(&[
            (".ssh/config", "Host first\nInclude conf.d/*.conf ~/other HOME/abso?ute\nHost last\n"),
            (".ssh/conf.d/b.conf", "Host b\n"),
            (".ssh/conf.d/a.conf", "Host a\nInclude conf.d/deep/[xy]/hosts"),
            (".ssh/conf.d/.hidden.conf", "Host hidden\n"),
            (".ssh/conf.d/c.not", "Host c\n"),
            (".ssh/conf.d/deep/y/hosts", "Host y\n"),
            (".ssh/conf.d/deep/z/hosts", "Host z\n"),
            ("other", "Host other\n"),
            ("absolute", "Host absolute\n"),
        ]);
        assert_eq!(found, ["first", "a", "y", "b", "other", "absolute", "last"]);
    }

    #[test]
    fn files_that_include_themselves_or_too_much_end() {
        let found = hosts_of(&[(".ssh/config", "Host a\nInclude config config\n")]);
        assert_eq!(found.len(), FILES_MAX);
        let many = "Host abcdefgh\n".repeat(100_000);
        let found = hosts_of(&[(".ssh/config", &many)]);
        assert!((70_000..80_000).contains(&found.len()), "{}", found.len());
    }

    #[test]
    fn a_pipe_in_place_of_a_configuration_is_not_waited_for() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("config");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("made");
        assert!(hosts(&path, None).is_empty());
    }
}

//! Bash, which cuts words at colons and inserts candidates as they are.
//!
//! Its script passes the line up to the cursor and the part of the last word that will be replaced, which begins behind the
//! last character of `COMP_WORDBREAKS`: behind the colon of `ssh://`. So a candidate is given without what stands before
//! that, and quoted where the shell would read it as something else.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap_complete::engine;
use clap_complete::env::EnvCompleter;

/// The script, and what it is answered.
pub struct Bash;

const SCRIPT: &str = r#"_stead() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        COMPREPLY+=("$candidate")
    done < <(VARIABLE=bash COMPLETER -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
}
complete -o nospace -F _stead BIN
"#;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        "bash"
    }

    fn is(&self, name: &str) -> bool {
        name == self.name()
    }

    fn write_registration(
        &self,
        variable: &str,
        _name: &str,
        bin: &str,
        completer: &str,
        script: &mut dyn Write,
    ) -> io::Result<()> {
        let own = SCRIPT.replace("VARIABLE", variable).replace("COMPLETER", completer).replace("BIN", bin);
        script.write_all(own.as_bytes())
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        arguments: Vec<OsString>,
        directory: Option<&Path>,
        answer: &mut dyn Write,
    ) -> io::Result<()> {
        let [line, replaced] = arguments.as_slice() else { return Ok(()) };
        let (line, replaced) = (line.to_string_lossy(), replaced.to_string_lossy());
        let words = words(&line);
        let replaced_word = words_joined(&replaced);
        let last = words.last().map_or("", String::as_str);
        let stays = last.strip_suffix(replaced_word.as_str()).unwrap_or_default().to_owned();
        let is_quoted = replaced.starts_with(['\'', '"']);
        let at = words.len() - 1;
        let words = words.into_iter().map(OsString::from).collect();
        for candidate in engine::complete(command, words, at, directory)? {
            // What is not text, or has a line's end, cannot be told.
            let Some(value) = candidate.get_value().to_str() else { continue };
            let Some(shown) = value.strip_prefix(&stays).filter(|shown| !shown.contains(char::is_control))
            else {
                continue;
            };
            let shown = if is_quoted { shown.to_owned() } else { quoted(shown) };
            let end = if value.ends_with(['/', ':', '=']) || is_quoted { "" } else { " " };
            writeln!(answer, "{shown}{end}")?;
        }
        Ok(())
    }
}

/// The words of a line that has not come to its end: there is always a last one, which may be empty.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        let at = words.len() - 1;
        match (quote, char) {
            (None, ' ' | '\t') => {
                if !words[at].is_empty() {
                    words.push(String::new());
                }
            }
            (None, '\'' | '"') => quote = Some(char),
            (Some(open), char) if open == char => quote = None,
            (None | Some('"'), '\\') => words[at].extend(chars.next()),
            (_, char) => words[at].push(char),
        }
    }
    words
}

/// What a piece of a word says without its quotes.
fn words_joined(piece: &str) -> String {
    words(piece).join(" ")
}

/// A text as bash reads it as just that.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_ascii() && !char.is_ascii_alphanumeric() && !"._-+@%,=:/~".contains(char) {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_into_words_and_the_last_is_not_over() {
        let cut = |line: &str| words(line).join("|");
        assert_eq!(cut("stead"), "stead");
        assert_eq!(cut("stead ls "), "stead|ls|");
        assert_eq!(cut(r"stead  ls 'a b'c\ d ssh://x/y"), "stead|ls|a bc d|ssh://x/y");
        assert_eq!(cut(r#"stead ls "a b"#), "stead|ls|a b");
        assert_eq!(cut(r#"stead ls "a\"b\"#), "stead|ls|a\"b");
    }

    #[test]
    fn a_candidate_is_given_from_where_it_is_replaced_and_quoted() {
        let answer = |line: &str, replaced: &str| {
            let value = clap::Arg::new("value").value_parser(["ssh://box/a b", "ssh://box/dir/", "plain"]);
            let mut command = clap::Command::new("stead").arg(value);
            let mut answer = Vec::new();
            let arguments = vec![line.into(), replaced.into()];
            Bash.write_complete(&mut command, arguments, None, &mut answer).unwrap();
            String::from_utf8(answer).unwrap()
        };
        assert_eq!(answer("stead pl", "pl"), "plain \n");
        assert_eq!(answer("stead ssh://box/d", "//box/d"), "//box/dir/\n");
        assert_eq!(answer(r"stead ssh://box/a\ ", r"//box/a\ "), "//box/a\\ b \n");
        assert_eq!(answer("stead 'ssh://box/a", "'ssh://box/a"), "ssh://box/a b\n");
        assert_eq!(answer("stead nothing", "nothing"), "");
    }
}

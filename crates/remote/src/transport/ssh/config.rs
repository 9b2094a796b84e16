//! The configuration file that ssh is given: the user's, with defaults of ours behind it.
//!
//! ssh takes the first value that it finds for an option. So a file that includes the user's configuration first and
//! sets ours last changes nothing that the user has decided.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What the user and the system have not decided.
///
/// AES-128-GCM is the fastest cipher where the processor has AES, and ssh's own first choice is several times slower.
/// Compression costs more than any link that is worth mounting over. The intervals find a dead connection within a
/// minute.
const DEFAULTS: &str = "\
Host *
    Ciphers ^aes128-gcm@openssh.com
    Compression no
    ConnectTimeout 20
    ServerAliveInterval 15
    ServerAliveCountMax 3
";

/// What ssh does not take as an ordinary character of a path in `Include`.
const SPECIAL: &[u8] = b"*?[]{}\"'\\$%\n\r";

/// Whose configuration is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserConfig {
    /// `~/.ssh/config` of the user that ssh finds for its uid, then `/etc/ssh/ssh_config`, as ssh does by itself.
    Standard,
    /// This file alone, as `ssh -F` does.
    File(PathBuf),
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// ssh could not be told of such a path.
    #[error("the path of the ssh configuration `{}` is not absolute or has a character that ssh would expand", path.display())]
    Path {
        /// Which.
        path: PathBuf,
    },
    /// The named file cannot be read.
    #[error("could not read the ssh configuration `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Ours could not be written.
    #[error("could not write the ssh configuration `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Writes the file that ssh is given to `path`, in place of what is there. A running ssh is not disturbed.
pub fn write_config(path: &Path, user: &UserConfig) -> Result<(), ConfigError> {
    let text = config_text(user)?;
    let failed = |source| ConfigError::Write { path: path.to_owned(), source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // The error that counts is the one of the writing.
        drop(std::fs::remove_file(&temporary));
    }
    written.map_err(failed)
}

fn config_text(user: &UserConfig) -> Result<Vec<u8>, ConfigError> {
    let mut text = Vec::new();
    match user {
        UserConfig::Standard => {
            text.extend_from_slice(b"Include ~/.ssh/config\nInclude /etc/ssh/ssh_config\n")
        }
        UserConfig::File(path) => {
            let bytes = path.as_os_str().as_bytes();
            if !path.is_absolute() || bytes.iter().any(|byte| SPECIAL.contains(byte)) {
                return Err(ConfigError::Path { path: path.clone() });
            }
            // ssh passes over an included file that is not there. One that was asked for must be.
            std::fs::File::open(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            text.extend([b"Include \"", bytes, b"\"\n"].concat());
        }
    }
    text.extend_from_slice(DEFAULTS.as_bytes());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_configuration_comes_first() {
        let text = String::from_utf8(config_text(&UserConfig::Standard).unwrap()).unwrap();
        let order: Vec<_> = text.lines().take(3).collect();
        assert_eq!(order, ["Include ~/.ssh/config", "Include /etc/ssh/ssh_config", "Host *"]);
    }

    #[test]
    fn a_named_file_stands_alone_and_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a b");
        let user = UserConfig::File(path.clone());
        assert!(matches!(config_text(&user), Err(ConfigError::Read { .. })));
        std::fs::write(&path, "").unwrap();
        let text = String::from_utf8(config_text(&user).unwrap()).unwrap();
        assert!(text.starts_with(&format!("Include \"{}\"\nHost *\n", path.display())), "{text}");
    }

    #[test]
    fn a_path_that_ssh_would_expand_is_refused() {
        for path in ["/a*", "relative", "/a\"b", "/a\nb", "/%h", "/$HOME/x"] {
            let text = config_text(&UserConfig::File(path.into()));
            assert!(matches!(text, Err(ConfigError::Path { .. })), "{path}");
        }
    }

    #[test]
    fn only_the_user_may_read_what_is_written() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for _ in 0..2 {
            write_config(&path, &UserConfig::Standard).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

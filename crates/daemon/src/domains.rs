//! Domains of File Provider: mounts that the system serves itself, through the application that lies around the extension. Only that
//! application may add, remove and list them, so its program is asked; the system keeps them, and they are written down nowhere else.
//!
//! ```text
//!  mount.create ──► the machine has the directory? ──► Stead domains add mID NAME SOURCE ──► the system lists it
//!  status.get ────► Stead domains list: {"id","name","source","dir"}, one a line
//!  mount.remove ──► Stead domains remove mID
//! ```
//!
//! A domain is called as its mount is. Those that somebody has added by hand with other names are not the daemon's.
//!
//! What asks and what is understood of the answers is the same on every system, and tested; the system says where the program is,
//! if it has one.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::OnceCell;
use wire::api::id::MountId;
use wire::api::machine::Source;
use wire::api::mount::{Access, BackendName, Create, RemovedMount, SyncMode, Target};
use wire::api::{ErrorKind, ErrorObject, status};
use wire::bytestring::ByteString;

use crate::system;

/// How long the program may take: the system may ask the user meanwhile.
const CHANGE_DEADLINE: Duration = Duration::from_secs(90);

/// How long it may take to say what there is.
const LIST_DEADLINE: Duration = Duration::from_secs(10);

/// The most that is kept of what it says in an error.
const SAID_CHARS_MAX: usize = 512;

/// The application's program.
#[derive(Debug, Clone)]
pub struct Domains {
    program: PathBuf,
    /// The highest number of a domain that was there before this daemon, once it is known.
    last: Arc<OnceCell<u64>>,
}

/// One domain as the program tells of it.
#[derive(Debug, Deserialize)]
struct Listed {
    id: String,
    name: String,
    source: Option<String>,
    dir: Option<String>,
}

impl Domains {
    /// Those of this system, if it has any.
    pub fn of_system() -> Option<Domains> {
        let program = PathBuf::from(system::DOMAINS?);
        program.is_file().then(|| Domains::new(program))
    }

    fn new(program: PathBuf) -> Domains {
        Domains { program, last: Arc::default() }
    }

    /// The highest number that a domain had when it was first asked for, 0 if there was none. Until it is known, a new mount could
    /// get the number of a living domain.
    pub async fn last(&self) -> Result<u64, ErrorObject> {
        let first = || async {
            let listed = self.list().await?;
            Ok(listed.last().map_or(0, |mount| mount.id.number()))
        };
        self.last.get_or_try_init(first).await.copied()
    }

    /// Adds one. The system chooses its directory, and asks the extension for its content from then on.
    pub async fn add(&self, id: MountId, source: &Source) -> Result<status::Mount, ErrorObject> {
        let wanted = source.base_name().to_string();
        // Finder shows it by its name, and so does its directory.
        let is_taken = self.listed().await?.iter().any(|listed| listed.name == wanted);
        let name = if is_taken { format!("{wanted}-{id}") } else { wanted };
        self.ask(CHANGE_DEADLINE, &["add", &id.to_string(), &name, &source.to_string()]).await?;
        let mounts = match self.list().await {
            Ok(mounts) => mounts,
            Err(error) => {
                // Nobody is told its id, so it must not stay; it may be that nothing answers any more.
                if let Err(error) = self.ask(CHANGE_DEADLINE, &["remove", &id.to_string()]).await {
                    tracing::warn!(%id, %error, "a domain that was just added may stay");
                }
                return Err(error);
            }
        };
        let added = mounts.into_iter().find(|mount| mount.id == id);
        added.ok_or_else(|| failure(format!("the domain of `{source}` was added, and is not there")))
    }

    /// Takes one away, with what is here of its files.
    pub async fn remove(&self, mount: &status::Mount) -> Result<RemovedMount, ErrorObject> {
        self.ask(CHANGE_DEADLINE, &["remove", &mount.id.to_string()]).await?;
        Ok(RemovedMount { id: mount.id, dir: mount.dir.clone(), kept_aside: Vec::new() })
    }

    /// All of them, in the order of their ids.
    pub async fn list(&self) -> Result<Vec<status::Mount>, ErrorObject> {
        let mut mounts: Vec<_> = self.listed().await?.into_iter().filter_map(shown).collect();
        mounts.sort_by_key(|mount: &status::Mount| mount.id);
        Ok(mounts)
    }

    /// Those that are meant.
    pub async fn select(&self, target: &Target) -> Result<Vec<status::Mount>, ErrorObject> {
        let mut mounts = self.list().await?;
        mounts.retain(|mount| match target {
            Target::All => true,
            Target::Id(id) => mount.id == *id,
            Target::Dir(dir) => mount.dir == *dir,
        });
        Ok(mounts)
    }

    async fn listed(&self) -> Result<Vec<Listed>, ErrorObject> {
        let text = self.ask(LIST_DEADLINE, &["list"]).await?;
        let read = |line: &str| serde_json::from_str(line);
        let listed: Result<Vec<Listed>, _> = text.lines().filter(|line| !line.is_empty()).map(read).collect();
        listed
            .map_err(|error| failure(format!("`{}` says what is no domain: {error}", self.program.display())))
    }

    async fn ask(&self, deadline: Duration, words: &[&str]) -> Result<String, ErrorObject> {
        let shown = format!("{} domains {}", self.program.display(), words.join(" "));
        let mut program = Command::new(&self.program);
        program.arg("domains").args(words).stdin(Stdio::null()).kill_on_drop(true);
        let asked = tokio::time::timeout(deadline, program.output()).await;
        let output = asked
            .map_err(|_| ErrorObject::new(ErrorKind::TimedOut, format!("`{shown}` does not end")))?
            .map_err(|error| failure(format!("could not run `{shown}`: {error}")))?;
        if !output.status.success() {
            let said: String =
                String::from_utf8_lossy(&output.stderr).trim().chars().take(SAID_CHARS_MAX).collect();
            let said = ByteString::from(said.trim_start_matches("error: "));
            return Err(failure(format!("`{shown}` failed: {said}")));
        }
        String::from_utf8(output.stdout).map_err(|_| failure(format!("`{shown}` says what is not text")))
    }
}

/// What cannot be had of a domain is refused before it is added.
pub fn check(create: &Create) -> Result<(), ErrorObject> {
    let usage = |message: &str| Err(ErrorObject::new(ErrorKind::Usage, message));
    if matches!(create.source, Source::Thread { .. }) {
        return usage("threads are served by fuse alone");
    }
    if create.dir.is_some() {
        return usage("file-provider chooses the directory: say none");
    }
    if create.access == Access::ReadOnly || create.sync == SyncMode::Strict || !create.options.is_empty() {
        return usage("file-provider has neither options nor --read-only nor `strict`");
    }
    Ok(())
}

/// As a mount, if it is one of the daemon's.
fn shown(listed: Listed) -> Option<status::Mount> {
    let id = listed.id.parse().ok()?;
    let source = Source::parse_absolute(listed.source?.as_bytes()).ok()?;
    let dir = ByteString::from(listed.dir.unwrap_or_default());
    let active = status::MountStatus::Active;
    Some(status::Mount::of_system(id, source, dir, BackendName::FileProvider, active))
}

fn failure(message: String) -> ErrorObject {
    ErrorObject::new(ErrorKind::Failure, message)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Stands for the application: domains are files of a directory, each with what `list` says of it. Where there is a file `mute`,
    /// it can say nothing, and a domain with a file `ID.stays` is not removed.
    const APPLICATION: &str = r#"#!/bin/sh
cd "$(dirname "$0")" && [ "$1" = domains ] || exit 9
case "$2" in
    add) printf '{"id":"%s","name":"%s","source":"%s","dir":"/Cloud/Stead-%s"}\n' "$3" "$4" "$5" "$4" > "$3.domain" ;;
    remove) [ ! -e "$3.stays" ] || { echo "error: $3 is in use" >&2; exit 1; }; rm "$3.domain" 2>/dev/null || { echo "error: there is no domain $3" >&2; exit 1; } ;;
    list) [ ! -e mute ] || exit 1; cat ./*.domain 2>/dev/null || : ;;
    *) exit 2 ;;
esac
"#;

    pub(crate) fn domains() -> (tempfile::TempDir, Domains) {
        let scratch = tempfile::TempDir::new().unwrap();
        let program = scratch.path().join("Stead");
        install(&program, APPLICATION);
        (scratch, Domains::new(program))
    }

    fn install(program: &std::path::Path, script: &str) {
        // Closed by another process: one that this process has open for writing while it forks cannot be run.
        let mut sh = std::process::Command::new("sh")
            .args(["-c", "cat > \"$1\" && chmod 700 \"$1\"", "sh"])
            .arg(program)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut sh.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(sh.wait().unwrap().success());
    }

    pub(crate) fn source(text: &str) -> Source {
        Source::parse_absolute(text.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_domain_is_a_mount_until_it_is_removed() {
        let (_scratch, domains) = domains();
        assert_eq!(domains.list().await.unwrap(), []);
        let first = domains.add(MountId::new(7), &source("ssh://box/src")).await.unwrap();
        assert_eq!((first.id, first.dir.clone()), (MountId::new(7), "/Cloud/Stead-src".into()));
        assert_eq!(
            (first.backend, first.source.clone()),
            (BackendName::FileProvider, source("ssh://box/src"))
        );
        let second = domains.add(MountId::new(8), &source("ssh://other/home/src")).await.unwrap();
        assert_eq!(second.dir, "/Cloud/Stead-src-m8".into());
        assert_eq!(domains.list().await.unwrap(), [first.clone(), second.clone()]);
        let select = async |target: Target| -> Vec<u64> {
            domains.select(&target).await.unwrap().iter().map(|mount| mount.id.number()).collect()
        };
        assert_eq!(select(Target::All).await, [7, 8]);
        assert_eq!(select(Target::Id(MountId::new(8))).await, [8]);
        assert_eq!(select(Target::Dir(first.dir.clone())).await, [7]);
        assert!(select(Target::Id(MountId::new(9))).await.is_empty());
        assert_eq!(domains.remove(&first).await.unwrap().id, first.id);
        assert_eq!(domains.list().await.unwrap(), [second]);
        let error = domains.remove(&first).await.unwrap_err();
        assert!(error.message.ends_with("failed: there is no domain m7"), "{error}");
    }

    #[tokio::test]
    async fn what_was_added_by_hand_is_not_the_daemons() {
        let (scratch, domains) = domains();
        for (file, line) in [
            ("box.domain", r#"{"id":"box","name":"Box","source":"ssh://box/src","dir":"/Cloud/Stead-Box"}"#),
            ("m3.domain", r#"{"id":"m3","name":"Old","source":null,"dir":null}"#),
        ] {
            std::fs::write(scratch.path().join(file), format!("{line}\n")).unwrap();
        }
        assert_eq!(domains.list().await.unwrap(), []);
        let mount = domains.add(MountId::new(1), &source("ssh://box/Box")).await.unwrap();
        assert_eq!(mount.dir, "/Cloud/Stead-Box-m1".into());
    }

    #[tokio::test]
    async fn an_application_that_says_nonsense_is_an_error() {
        let (scratch, domains) = domains();
        std::fs::write(scratch.path().join("x.domain"), "nonsense\n").unwrap();
        assert_eq!(domains.list().await.unwrap_err().kind(), ErrorKind::Failure);
        let absent = Domains::new(scratch.path().join("absent"));
        assert!(absent.list().await.unwrap_err().message.starts_with("could not run"));
    }

    #[tokio::test]
    async fn the_last_number_is_asked_for_until_it_is_known() {
        let (scratch, domains) = domains();
        domains.add(MountId::new(7), &source("ssh://box/src")).await.unwrap();
        std::fs::write(scratch.path().join("mute"), "").unwrap();
        assert_eq!(domains.last().await.unwrap_err().kind(), ErrorKind::Failure);
        std::fs::remove_file(scratch.path().join("mute")).unwrap();
        assert_eq!(domains.last().await.unwrap(), 7);
        std::fs::write(scratch.path().join("mute"), "").unwrap();
        assert_eq!(domains.clone().last().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_domain_that_nobody_is_told_of_does_not_stay() {
        let (scratch, domains) = domains();
        // The list is asked for before and after, and answered once.
        let script = APPLICATION.replace("[ ! -e mute ] || exit 1;", "[ ! -e m7.domain ] || exit 1;");
        let program = scratch.path().join("other");
        install(&program, &script);
        let domains = Domains { program, ..domains };
        domains.add(MountId::new(7), &source("ssh://box/src")).await.unwrap_err();
        assert!(!scratch.path().join("m7.domain").exists());
    }

    #[test]
    fn what_a_domain_cannot_be_is_refused() {
        let create = |change: fn(&mut Create)| {
            let mut create = Create::new(source("ssh://box/src"), None, Default::default());
            change(&mut create);
            check(&create).map_err(|error| error.kind())
        };
        assert_eq!(create(|_| {}), Ok(()));
        for change in [
            |create: &mut Create| create.dir = Some("/m".into()),
            |create: &mut Create| create.access = Access::ReadOnly,
            |create: &mut Create| create.sync = SyncMode::Strict,
            |create: &mut Create| drop(create.options.insert("port".to_owned(), "1".to_owned())),
            |create: &mut Create| create.source = Source::Thread { name: "fix".to_owned() },
        ] {
            assert_eq!(create(change), Err(ErrorKind::Usage));
        }
    }
}

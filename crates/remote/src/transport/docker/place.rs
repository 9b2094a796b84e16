//! The agent's program in a container.
//!
//! ```text
//!              ┌─ the root can be written to ─► looked at ─ intact ───────────────────────────────► run
//!  container ──┤                                    └─ missing, or not as it was left ─► unpacked ─► looked at again
//!              └─ it cannot ─► a shell there finds a tmpfs from which programs may run, and writes it there
//! ```
//!
//! It is run only where nobody but root can have changed it: the file and all directories above it belong to root and can be
//! written to by nobody else, and the file has every byte of the program of this computer. The engine itself, as root, writes
//! and reads it, and needs no program in the container for that. A tmpfs is not to be seen from outside, and what may lie there
//! from before is not looked at but replaced.

use std::time::{SystemTime, UNIX_EPOCH};

use bollard::container::LogOutput;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use wire::api::error::ErrorKind;
use wire::worker::AgentFile;

use super::api::{Api, Container, Program};
use super::lock::lock;
use super::{CarrierError, content_of, directory_name, tar};

/// Where agents lie, in the root of a container.
const HOME: &str = ".stead";

/// The program's name.
const PROGRAM: &str = "stead-agent";

/// What an archive of the agent's directory has beside the program.
const HEADERS_BYTES_MAX: usize = 256 << 10;

/// What a script in a container may print.
const SAID_BYTES_MAX: usize = 4 << 10;

/// Puts the agent into a running container, if it is not there, and says where it is.
pub(super) async fn place(
    api: &Api,
    container: &Container,
    file: &AgentFile,
) -> Result<String, CarrierError> {
    let content = content_of(file)?;
    let directory = directory_name(file);
    if container.is_read_only {
        return place_in_memory(api, container, &directory, &content).await;
    }
    let path = format!("/{HOME}/{directory}/{PROGRAM}");
    let root = look(api, &container.id, "/").await?;
    if !root.is_some_and(|root| root == Owned::Root) {
        return Err(untrusted(container, "/"));
    }
    if is_intact(api, container, &directory, &content).await? {
        return Ok(path);
    }
    // Two that unpack at the same time would each take the file away that the other is about to run.
    let _lock = lock(&container.id).await;
    if is_intact(api, container, &directory, &content).await? {
        return Ok(path);
    }
    let (home, own) = (format!("{HOME}/"), format!("{HOME}/{directory}/"));
    let name = format!("{own}{PROGRAM}");
    let entries = [
        tar::Entry { name: &home, content: None },
        tar::Entry { name: &own, content: None },
        tar::Entry { name: &name, content: Some(&content) },
    ];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    api.unpack(&container.id, tar::write(&entries, now))
        .await
        .map_err(|error| unplaced(container, &error))?;
    match is_intact(api, container, &directory, &content).await? {
        true => Ok(path),
        false => Err(untrusted(container, &path)),
    }
}

/// Who could change what lies in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owned {
    Root,
    Others,
}

/// Looks at a directory; `None` if there is none.
async fn look(api: &Api, container: &str, path: &str) -> Result<Option<Owned>, CarrierError> {
    /// The first header, with what may be said about it before.
    const HEADER_BYTES_MAX: usize = 8 << 10;
    let Some(archive) = api.archive(container, path, HEADER_BYTES_MAX).await? else { return Ok(None) };
    Ok(Some(match tar::first(&archive) {
        Some(found) if found.is_directory && found.is_roots() && found.is_open() => Owned::Root,
        _ => Owned::Others,
    }))
}

/// Whether the agent is in its place, and nobody but root can have changed it.
async fn is_intact(
    api: &Api,
    container: &Container,
    directory: &str,
    content: &[u8],
) -> Result<bool, CarrierError> {
    if look(api, &container.id, &format!("/{HOME}")).await? != Some(Owned::Root) {
        return Ok(false);
    }
    let path = format!("/{HOME}/{directory}");
    let archive = api.archive(&container.id, &path, content.len() + HEADERS_BYTES_MAX).await?;
    let Some(archive) = archive else { return Ok(false) };
    let found: Vec<_> = tar::entries(&archive).collect();
    let [own, program] = found.as_slice() else { return Ok(false) };
    let all_are_roots = [own, program].iter().all(|entry| entry.is_roots() && entry.is_open());
    Ok(all_are_roots && own.is_directory && program.is_file && program.content == content)
}

fn untrusted(container: &Container, path: &str) -> CarrierError {
    let name = &container.name;
    let message = format!(
        "the agent is not run in the container `{name}`: others than root could change it at `{path}`"
    );
    let error = CarrierError::new(ErrorKind::Refused, message);
    match path {
        "/" => error.with_hint(format!("docker exec -u 0 {name} chown root:root /")),
        _ => error.with_hint(format!("docker exec -u 0 {name} rm -r /{HOME}")),
    }
}

fn unplaced(container: &Container, error: &CarrierError) -> CarrierError {
    let message = format!("could not put the agent into the container `{}`: {error}", container.name);
    CarrierError { message, ..error.clone() }
}

/// What the script prints.
const PLACED: &str = "STEAD-AGENT-PLACED ";
const NOWHERE: &str = "STEAD-AGENT-NOWHERE";
const UNPLACED: &str = "STEAD-AGENT-UNPLACED";

/// Finds a tmpfs of root's from which programs may run, and writes its standard input there: `$1` is the name of the
/// directory, `$2` the number of bytes.
const SCRIPT: &str = r#"
umask 022
found=
while read -r source point kind options rest; do
  case "$kind" in tmpfs) ;; *) continue ;; esac
  case ",$options," in *,noexec,*|*,ro,*) continue ;; esac
  case "$point" in /dev/shm) ;; /dev|/dev/*|/proc|/proc/*|/sys|/sys/*|*\\*) continue ;; esac
  [ -O "$point" ] || continue
  case "$(ls -ld "$point")" in d????-??-*|d????????[tT]*) ;; *) continue ;; esac
  found="$point"
  break
done < /proc/mounts
[ -n "$found" ] || { echo STEAD-AGENT-NOWHERE; exit 0; }
own="$found/.stead-$1"
[ -L "$own" ] || mkdir -m 755 "$own" 2>/dev/null
[ ! -L "$own" ] && [ -d "$own" ] && [ -O "$own" ] && chmod 755 "$own" || { echo STEAD-AGENT-UNPLACED; exit 0; }
new="$own/.new.$$"
cat > "$new" && [ "$(wc -c < "$new")" -eq "$2" ] && chmod 755 "$new" && mv -f "$new" "$own/stead-agent" ||
  { rm -f "$new"; echo STEAD-AGENT-UNPLACED; exit 0; }
echo "STEAD-AGENT-PLACED $own/stead-agent"
"#;

/// Puts the agent into a tmpfs. Only a program of the container's sees that.
async fn place_in_memory(
    api: &Api,
    container: &Container,
    directory: &str,
    content: &[u8],
) -> Result<String, CarrierError> {
    let name = &container.name;
    let refused = |why: &str| {
        let message = format!("the root of the container `{name}` is read-only, and {why}");
        CarrierError::new(ErrorKind::Refused, message)
            .with_hint("run the container with --tmpfs /run:exec, in which the agent has room")
    };
    let bytes = content.len().to_string();
    let command = ["sh", "-c", SCRIPT, "sh", directory, &bytes].map(str::to_owned).into();
    let program = Program { command, user: Some("0".to_owned()) };
    let started = api.start(container, program).await;
    let mut streams = started.map_err(|error| match error.kind {
        ErrorKind::Refused => refused("it has no shell that could put the agent elsewhere"),
        _ => error,
    })?;
    let sending = async {
        // A script that has decided reads no more.
        let _ended = streams.input.write_all(content).await;
        let _ended = streams.input.shutdown().await;
        std::future::pending::<std::convert::Infallible>().await
    };
    let hearing = async {
        let mut said = Vec::new();
        while let Some(Ok(output)) = streams.output.next().await {
            if let LogOutput::StdOut { message } = output {
                let room = SAID_BYTES_MAX.saturating_sub(said.len());
                said.extend_from_slice(&message[..message.len().min(room)]);
            }
        }
        said
    };
    // The engine may stop reading where the script does, and tell nobody.
    let said = tokio::select! {
        never = sending => match never {},
        said = hearing => said,
    };
    let said = String::from_utf8_lossy(&said);
    let path = said.lines().find_map(|line| line.strip_prefix(PLACED)).map(str::to_owned);
    let is_usual = |path: &String| path.starts_with('/') && !path.contains(char::is_control);
    if let Some(path) = path.filter(is_usual) {
        return Ok(path);
    }
    if said.lines().any(|line| line == NOWHERE) {
        return Err(refused("it has no tmpfs from which programs may run"));
    }
    if said.lines().any(|line| line == UNPLACED) {
        return Err(refused("the agent could not be written into its tmpfs"));
    }
    Err(refused("it has no shell that could put the agent elsewhere"))
}

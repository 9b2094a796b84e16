//! Whether and where a mount can be: what is checked before anything is started.
//!
//! Refused are a mount point that is missing with its parent, not a directory, not empty, or mounted already; a mount
//! inside its own source, since the agent would wait for the mount and the mount for the agent; a mount of what another
//! of ours shows, for the same reason; a mount inside another mount of the same tree, which contains itself; and one by
//! which a thread would see itself in place, directly or through others.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ::mount::mountpoint::{self, AroundError, Contents, MountEntry, MountPoint, MountPointError};
use wire::api::id::MountId;
use wire::api::machine::{Caller, Machine, Reconnect, Source, absolute};
use wire::api::mount::{Access, Backend, BackendName, Create, OPTION_BYTES_MAX, OPTIONS_MAX, SyncMode};
use wire::api::status;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::worker::{Heartbeat, ThreadPlace};

use crate::connection::heartbeat;
use crate::failure::{chain, from_io, kind_of};
use crate::system;

/// How many names are tried for a mount that was given none.
const NAMES_MAX: u32 = 1000;

/// The longest name that is made from a source's; the rest of a file name's 255 bytes is for a number.
const NAME_BYTES_MAX: usize = 240;

/// How many mounts may lie one in the other when it is looked for what a path shows.
const DEPTH_MAX: usize = 16;

/// How many paths are followed when it is looked whether a thread would see itself: more than mounts lie one in the other.
const STEPS_MAX: usize = 1000;

/// What is mounted where, as far as other mounts care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The mount point: absolute, without links.
    pub dir: PathBuf,
    /// What is there.
    pub shows: Shows,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shows {
    /// Files of a machine.
    Files {
        /// Whose.
        machine: Machine,
        /// Which of them; on this computer absolute and without links.
        path: PathBuf,
    },
    /// A thread, which no machine is needed for.
    Thread(Box<ThreadPlace>),
}

impl Place {
    /// The machine that it needs.
    pub fn machine(&self) -> Option<&Machine> {
        match &self.shows {
            Shows::Files { machine, .. } => Some(machine),
            Shows::Thread(_) => None,
        }
    }
}

/// A mount that may be made.
#[derive(Debug)]
pub struct Plan {
    /// What to show, with a path of this computer made absolute.
    pub source: Source,
    /// Where.
    pub place: Place,
    /// How to serve it.
    pub backend: Backend,
    /// Whether it may be written to.
    pub access: Access,
    /// What `close` waits for.
    pub sync: SyncMode,
    /// Whether a lost link is opened again.
    pub reconnect: Reconnect,
    /// How the liveness of the machine is watched.
    pub heartbeat: Heartbeat,
    /// Options of the backend.
    pub options: BTreeMap<String, String>,
    /// For whom.
    pub caller: Caller,
    /// Directories that were made for it, the innermost first.
    pub made: Vec<PathBuf>,
}

impl Plan {
    /// What is shown of it before it serves.
    pub fn status(&self, id: MountId) -> status::Mount {
        status::Mount {
            id,
            source: self.source.clone(),
            dir: ByteString::from(self.place.dir.as_path()),
            backend: BackendName::Fuse,
            status: status::MountStatus::Active,
            worker: None,
            journal: status::Journal::default(),
            counters: status::Counters::default(),
            operations: BTreeMap::new(),
            access: self.access,
            sync: self.sync,
            degraded: None,
            reason: None,
            health: status::Health::Healthy,
            crash: None,
            port: None,
            nfs: None,
            replayed: None,
        }
    }

    /// Removes the directories that were made for it. Blocks.
    pub fn undo(&self) {
        remove_made(&self.made);
    }

    /// The same, from where nothing may block.
    pub fn undo_in_background(self) {
        tokio::task::spawn_blocking(move || self.undo());
    }
}

/// Removes directories that are empty, the innermost first. One that somebody has put something into stays.
pub fn remove_made(made: &[PathBuf]) {
    for dir in made {
        match std::fs::remove_dir(dir) {
            Ok(()) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {}
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "could not remove a directory that was made")
            }
        }
    }
}

/// Checks a request against this computer and makes its mount point. Of a thread there is `thread`, and the request says the
/// directory. Blocks on the file system.
pub fn prepare(request: Create, mounts_dir: &Path, thread: Option<ThreadPlace>) -> Result<Plan, ErrorObject> {
    check_options(&request)?;
    let heartbeat =
        heartbeat(request.heartbeat_interval_ms, request.max_heartbeat_failures, Heartbeat::default())?;
    let (source, shows) = match thread {
        Some(thread) => (request.source.clone(), Shows::Thread(Box::new(thread))),
        None => resolve_source(&request.source, &request.caller)?,
    };
    let (dir, made) = match &request.dir {
        Some(dir) => named_dir(dir, contents(&request), &request.caller)?,
        None => chosen_dir(&source, mounts_dir)?,
    };
    let plan = Plan {
        source,
        place: Place { dir, shows },
        backend: request.backend,
        access: request.access,
        sync: request.sync,
        reconnect: request.reconnect,
        heartbeat,
        options: request.options,
        caller: request.caller,
        made,
    };
    match check_against(&plan.place, std::iter::empty()) {
        Ok(()) => Ok(plan),
        Err(error) => {
            plan.undo();
            Err(error)
        }
    }
}

fn usage(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(ErrorKind::Usage, message)
}

fn conflict(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(ErrorKind::Conflict, message)
}

fn check_options(request: &Create) -> Result<(), ErrorObject> {
    match request.backend {
        Backend::Auto | Backend::Fuse | Backend::Nfs => {}
        Backend::CloudFiles => return Err(usage("cloud-files is for Windows: here fuse or nfs")),
        Backend::FileProvider => return Err(usage(system::NO_FILE_PROVIDER)),
    }
    if request.options.len() > OPTIONS_MAX {
        return Err(usage(format!("more than {OPTIONS_MAX} options")));
    }
    let too_long = |(key, value): (&String, &String)| key.len().max(value.len()) > OPTION_BYTES_MAX;
    match request.options.iter().any(too_long) {
        true => Err(usage(format!("an option is longer than {OPTION_BYTES_MAX} bytes"))),
        false => Ok(()),
    }
}

/// What may be in the mount point: an option allows to hide it, and where nothing is mounted nothing is hidden. What
/// the options say beyond that is the worker's business, which refuses what it does not know.
fn contents(request: &Create) -> Contents {
    let is_on = |key: &str| request.options.get(key).is_some_and(|value| value != "no" && value != "false");
    match is_on("nonempty") || is_on("no-kernel-mount") {
        true => Contents::Any,
        false => Contents::Empty,
    }
}

fn resolve_source(source: &Source, caller: &Caller) -> Result<(Source, Shows), ErrorObject> {
    let (machine, path) = match source {
        Source::Thread { name } => {
            return Err(usage(format!("`thread:{name}` is not on a machine")));
        }
        Source::Files { machine, path } => (machine, path),
    };
    if *machine != Machine::Host {
        let shows = Shows::Files { machine: machine.clone(), path: path.as_path().to_owned() };
        return Ok((source.clone(), shows));
    }
    let home = caller.environment.get("HOME").map(ByteString::as_path).filter(|home| home.is_absolute());
    let wanted = home.unwrap_or(Path::new("/")).join(path.as_path());
    let found = std::fs::canonicalize(&wanted)
        .and_then(|found| Ok((std::fs::metadata(&found)?.is_dir(), found)))
        .map_err(|error| from_io(&format!("could not mount `{source}`"), &error))?;
    let (true, found) = found else {
        return Err(usage(format!("could not mount `{source}`: it is not a directory"))
            .with_hint("mount the directory that it is in"));
    };
    check_is_no_mount_of_ours(source, &found)?;
    let resolved = Source::files(Machine::Host, found.as_path())
        .map_err(|error| usage(format!("could not mount `{source}`: {error}")))?;
    Ok((resolved, Shows::Files { machine: Machine::Host, path: found }))
}

/// Refuses what one of our own mounts shows: its worker and the new mount's agent would wait for each other.
fn check_is_no_mount_of_ours(source: &Source, found: &Path) -> Result<(), ErrorObject> {
    match mountpoint::ours_around(found) {
        Ok(Some(mount)) => Err(inside_a_mount(source, &mount)),
        Ok(None) => Ok(()),
        Err(AroundError::Examine(error)) => Err(from_io(&format!("could not mount `{source}`"), &error)),
        Err(AroundError::Table(error)) => Err(ErrorObject::new(ErrorKind::Failure, chain(&error))),
    }
}

fn inside_a_mount(source: &Source, mount: &MountEntry) -> ErrorObject {
    let shown = String::from_utf8_lossy(&mount.source);
    let message = format!("`{source}` lies inside the mount of `{shown}` at `{}`", mount.path.display());
    conflict(message).with_hint("mount what that mount shows, from the machine it is on")
}

/// The directory that was asked for, made if only it itself is missing.
fn named_dir(
    dir: &ByteString,
    contents: Contents,
    caller: &Caller,
) -> Result<(PathBuf, Vec<PathBuf>), ErrorObject> {
    if dir.is_empty() || dir.as_bytes().contains(&0) {
        return Err(usage(format!("`{dir}` is not a directory's name")));
    }
    if !caller.cwd.as_bytes().starts_with(b"/") {
        return Err(usage("the caller's directory is not an absolute path"));
    }
    let wanted = ByteString::from(absolute(dir.as_bytes(), caller.cwd.as_bytes()));
    let wanted = wanted.as_path();
    let made = match std::fs::create_dir(wanted) {
        Ok(()) => vec![wanted.to_owned()],
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Vec::new(),
        // A directory of a read-only or foreign parent may still be there.
        Err(error) if wanted.is_dir() => {
            tracing::debug!(dir = %wanted.display(), %error, "the directory could not be made, and is there");
            Vec::new()
        }
        Err(error) => {
            let refusal = from_io(&format!("could not make the mount point `{dir}`"), &error);
            return Err(match wanted.parent() {
                Some(parent) if !parent.exists() => {
                    refusal.with_hint(format!("mkdir -p {}", parent.display()))
                }
                _ => refusal,
            });
        }
    };
    match check_point(wanted, contents) {
        Ok(found) => Ok((found, made)),
        Err(error) => {
            remove_made(&made);
            Err(error)
        }
    }
}

/// A directory named after the source, `NAME`, `NAME-2` and so on: the first that is not there or empty.
fn chosen_dir(source: &Source, mounts_dir: &Path) -> Result<(PathBuf, Vec<PathBuf>), ErrorObject> {
    std::fs::create_dir_all(mounts_dir)
        .map_err(|error| from_io(&format!("could not make `{}`", mounts_dir.display()), &error))?;
    let base = source.base_name();
    let base = &base.as_bytes()[..base.as_bytes().len().min(NAME_BYTES_MAX)];
    for number in 1..=NAMES_MAX {
        let name = match number {
            1 => base.to_vec(),
            number => [base, format!("-{number}").as_bytes()].concat(),
        };
        let wanted = mounts_dir.join(std::ffi::OsStr::from_bytes(&name));
        match std::fs::create_dir(&wanted) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(from_io(&format!("could not make `{}`", wanted.display()), &error)),
        }
        if let Ok(found) = check_point(&wanted, Contents::Empty) {
            return Ok((found, vec![wanted, mounts_dir.to_owned()]));
        }
    }
    let message = format!("there are {NAMES_MAX} directories for `{source}` in `{}`", mounts_dir.display());
    Err(conflict(message).with_hint("name a directory: stead mount SOURCE DIR"))
}

fn check_point(dir: &Path, contents: Contents) -> Result<PathBuf, ErrorObject> {
    match MountPoint::check(dir, contents) {
        Ok(point) => Ok(point.path().to_owned()),
        Err(error) => Err(point_error(&error)),
    }
}

fn point_error(error: &MountPointError) -> ErrorObject {
    let object = |kind| ErrorObject::new(kind, chain(error));
    match error {
        MountPointError::Missing(_) => object(ErrorKind::NotFound),
        MountPointError::NotADirectory(_) | MountPointError::NotEmpty(_) => {
            object(ErrorKind::Conflict).with_hint("choose an empty directory, or one that does not exist yet")
        }
        MountPointError::AlreadyMounted { path, .. } => {
            object(ErrorKind::Conflict).with_hint(format!("stead unmount {}", path.display()))
        }
        MountPointError::Stale(path) => {
            object(ErrorKind::Conflict).with_hint(format!("{} {}", system::UNMOUNT, path.display()))
        }
        MountPointError::Examine { source, .. } => object(kind_of(source)),
        MountPointError::Table(_) => object(ErrorKind::Failure),
    }
}

/// Checks a place against itself and against the mounts that are there. Pure.
pub fn check_against<'a>(
    place: &Place,
    others: impl Iterator<Item = (MountId, &'a Place)>,
) -> Result<(), ErrorObject> {
    let others: Vec<_> = others.collect();
    if let Some((id, _)) = others.iter().find(|(_, other)| other.dir == place.dir) {
        let message = format!("`{}` is already the directory of mount {id}", place.dir.display());
        return Err(conflict(message).with_hint(format!("stead unmount {id}")));
    }
    check_sees_not_itself(place, &others)?;
    // What is in a thread is nowhere else.
    let Some((machine, path)) = what_is_shown(place, &others) else { return Ok(()) };
    if machine == Machine::Host && place.dir.starts_with(&path) {
        let message =
            format!("`{}` lies inside `{}`, which it would show", place.dir.display(), path.display());
        return Err(conflict(message).with_hint("choose a directory outside of the source"));
    }
    let same_tree = |other: &Place| {
        let other = what_is_shown(other, &others);
        other.is_some_and(|(other_machine, other_path)| {
            other_machine == machine && (other_path.starts_with(&path) || path.starts_with(&other_path))
        })
    };
    let around = others.iter().find(|(_, other)| place.dir.starts_with(&other.dir) && same_tree(other));
    match around {
        Some((id, other)) => {
            let (dir, other) = (place.dir.display(), other.dir.display());
            let message = format!("`{dir}` lies inside mount {id} at `{other}`, which shows the same tree");
            Err(conflict(message).with_hint("choose a directory outside of that mount"))
        }
        None => Ok(()),
    }
}

/// Refuses a place through which a thread would see itself: its worker would wait for another one, and that for it.
fn check_sees_not_itself(place: &Place, others: &[(MountId, &Place)]) -> Result<(), ErrorObject> {
    let all: Vec<&Place> = others.iter().map(|(_, other)| *other).chain([place]).collect();
    let is_thread = |place: &&Place| matches!(place.shows, Shows::Thread(_));
    let begins = match is_thread(&place) {
        true => vec![place],
        false => all.iter().copied().filter(is_thread).collect(),
    };
    let Some((thread, way)) = begins.into_iter().find_map(|thread| Some((thread, way_back(thread, &all)?)))
    else {
        return Ok(());
    };
    let way: Vec<String> = way.iter().map(|path| format!("what is seen at `{}`", path.display())).collect();
    let message = format!(
        "`{}` would show {}, and so itself: they would wait for each other for ever",
        thread.dir.display(),
        way.join(", and that ")
    );
    Err(conflict(message).with_hint("choose another directory"))
}

/// The paths by which a thread comes back to where it is mounted: of what it sees, of what is seen there, and so on.
fn way_back(thread: &Place, all: &[&Place]) -> Option<Vec<PathBuf>> {
    /// A path that is looked at, whether what is mounted below it is seen too, and who looks.
    type Step = (PathBuf, bool, Option<usize>);
    let seen_by = |place: &Place, at: &Path| match &place.shows {
        Shows::Thread(shown) => shown.sees.as_ref().map(|sees| (sees.as_path().to_owned(), false)),
        Shows::Files { machine: Machine::Host, path } => {
            let rest = at.strip_prefix(&place.dir).unwrap_or(Path::new(""));
            // Joining an empty rest would add a slash.
            let whole = if rest.as_os_str().is_empty() { path.clone() } else { path.join(rest) };
            Some((whole, true))
        }
        Shows::Files { .. } => None,
    };
    let mut steps: Vec<Step> =
        seen_by(thread, &thread.dir).map(|(path, below)| (path, below, None)).into_iter().collect();
    let mut at = 0;
    while at < steps.len().min(STEPS_MAX) {
        let (path, below, _) = steps[at].clone();
        for place in
            all.iter().filter(|place| path.starts_with(&place.dir) || (below && place.dir.starts_with(&path)))
        {
            if place.dir == thread.dir {
                let from = std::iter::successors(Some(at), |at| steps[*at].2);
                let mut way: Vec<PathBuf> = from.map(|at| steps[at].0.clone()).collect();
                way.reverse();
                return Some(way);
            }
            let next = seen_by(place, &path);
            if let Some((next, below)) =
                next.filter(|(next, _)| steps.iter().all(|(known, ..)| known != next))
            {
                steps.push((next, below, Some(at)));
            }
        }
        at += 1;
    }
    None
}

/// What a place shows in the end: a path of this computer that lies in another mount is one of that mount's source. None if that is
/// a thread's.
fn what_is_shown(place: &Place, others: &[(MountId, &Place)]) -> Option<(Machine, PathBuf)> {
    let Shows::Files { machine, path } = &place.shows else { return None };
    let (mut machine, mut path) = (machine.clone(), path.clone());
    for _ in 0..DEPTH_MAX {
        if machine != Machine::Host {
            break;
        }
        let inside = |other: &&Place| path.starts_with(&other.dir);
        let deepest = others.iter().map(|(_, other)| *other).filter(inside);
        let Some(other) = deepest.max_by_key(|other| other.dir.as_os_str().len()) else {
            break;
        };
        let Ok(rest) = path.strip_prefix(&other.dir) else {
            break;
        };
        let Shows::Files { machine: other_machine, path: other_path } = &other.shows else { return None };
        // Joining an empty rest would add a slash.
        let next = if rest.as_os_str().is_empty() { other_path.clone() } else { other_path.join(rest) };
        (machine, path) = (other_machine.clone(), next);
    }
    Some((machine, path))
}

#[cfg(test)]
mod tests;

//! Domains: added, removed and listed by the application around the extension, since the system lets nobody else.
//!
//! `… domains add ID NAME SOURCE`, `… domains remove ID`, `… domains list`. What a domain shows is written into the app group's
//! container, where the extension finds it, and so is the daemon's socket. The daemon asks for all three, with its mounts' ids:
//!
//! | in the container | is |
//! |---|---|
//! | `daemon.sock` | the daemon's socket, or a link to it |
//! | `domains/ID.json` | [`Written`] |
//! | `domains/ID.catalogue` | the catalogue |

use std::path::PathBuf;
use std::process::ExitCode;
use std::ptr::NonNull;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use block2::RcBlock;
use objc2::AllocAnyThread;
use objc2::rc::Retained;
use objc2_file_provider::{
    NSFileProviderDomain, NSFileProviderManager, NSFileProviderRootContainerItemIdentifier,
};
use objc2_foundation::{NSArray, NSBundle, NSError, NSFileManager, NSString, NSURL};
use wire::api::machine::{Caller, Source};
use wire::bytestring::ByteString;

use crate::service::catalogue_file;

/// How long the system may take to add or remove a domain.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Where what a domain shows is.
pub(super) struct Place {
    pub(super) socket: PathBuf,
    pub(super) source: String,
    pub(super) caller: Caller,
    pub(super) catalogue: PathBuf,
    pub(super) host: String,
}

/// What is written of a domain.
#[derive(serde::Serialize, serde::Deserialize)]
struct Written {
    source: String,
    host: String,
}

fn container() -> Result<PathBuf, String> {
    let bundle = NSBundle::mainBundle();
    let key = NSString::from_str(super::GROUP_VARIABLE);
    let group = bundle.objectForInfoDictionaryKey(&key).and_then(|group| group.downcast::<NSString>().ok());
    let group = group.ok_or("Info.plist names no app group")?;
    let url = NSFileManager::defaultManager().containerURLForSecurityApplicationGroupIdentifier(&group);
    let path = url.and_then(|url| url.path()).ok_or("there is no container of the app group")?;
    Ok(PathBuf::from(path.to_string()))
}

/// What the extension finds of a domain.
pub(super) fn place(id: &str) -> Result<Place, String> {
    let container = container()?;
    let directory = container.join("domains");
    let file = directory.join(format!("{id}.json"));
    let text = std::fs::read(&file).map_err(|error| format!("`{}`: {error}", file.display()))?;
    let written: Written = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let caller = Caller {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        cwd: ByteString::from("/"),
        ..Caller::default()
    };
    let (socket, catalogue) = (container.join("daemon.sock"), catalogue_file(&directory, id));
    Ok(Place { socket, source: written.source, caller, catalogue, host: written.host })
}

pub(super) fn main(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let [what, id, name, source] = [(); 4].map(|()| arguments.next());
    let outcome = match (what.as_deref(), id, name, source) {
        (Some("add"), Some(id), Some(name), Some(source)) => add(&id, &name, &source),
        (Some("remove"), Some(id), None, None) => remove(&id),
        (Some("list"), None, None, None) => list(),
        _ => {
            eprintln!("error: domains add ID NAME SOURCE, domains remove ID or domains list");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn add(id: &str, name: &str, source: &str) -> Result<(), String> {
    let is_plain =
        |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_plain(id) {
        return Err(format!("`{}` cannot be the identifier of a domain", id.escape_debug()));
    }
    let parsed = Source::parse_absolute(source.as_bytes()).map_err(|error| error.to_string())?;
    let directory = container()?.join("domains");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let text = serde_json::to_vec(&Written { source: parsed.to_string(), host })
        .map_err(|error| error.to_string())?;
    std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    std::fs::write(directory.join(format!("{id}.json")), text).map_err(|error| error.to_string())?;
    let (id, name) = (NSString::from_str(id), NSString::from_str(name));
    // SAFETY: both are strings, and the domain is new.
    let domain = unsafe {
        NSFileProviderDomain::initWithIdentifier_displayName(NSFileProviderDomain::alloc(), &id, &name)
    };
    answered(|block| {
        // SAFETY: the block may be called on any thread.
        unsafe { NSFileProviderManager::addDomain_completionHandler(&domain, block) }
    })
}

fn remove(id: &str) -> Result<(), String> {
    let found = all()?.into_iter().find(|(found, _)| found == id);
    let Some((_, name)) = found else { return Err(format!("there is no domain `{}`", id.escape_debug())) };
    let (text, name) = (NSString::from_str(id), NSString::from_str(&name));
    // SAFETY: both are strings, and the domain is one that is there.
    let domain = unsafe {
        NSFileProviderDomain::initWithIdentifier_displayName(NSFileProviderDomain::alloc(), &text, &name)
    };
    answered(|block| {
        // SAFETY: the block may be called on any thread.
        unsafe { NSFileProviderManager::removeDomain_completionHandler(&domain, block) }
    })?;
    let directory = container()?.join("domains");
    for file in [directory.join(format!("{id}.json")), catalogue_file(&directory, id)] {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(())
}

/// One a line: what it is called, and what it shows and where, as far as that is known.
fn list() -> Result<(), String> {
    for (id, name) in all()? {
        let source = place(&id).map(|place| place.source).ok();
        let dir = directory(&id, &name);
        println!("{}", serde_json::json!({ "id": id, "name": name, "source": source, "dir": dir }));
    }
    Ok(())
}

/// Where the system shows a domain; none while it does not.
fn directory(id: &str, name: &str) -> Option<String> {
    let (id, name) = (NSString::from_str(id), NSString::from_str(name));
    // SAFETY: both are strings, and the domain is one that is there.
    let domain = unsafe {
        NSFileProviderDomain::initWithIdentifier_displayName(NSFileProviderDomain::alloc(), &id, &name)
    };
    // SAFETY: the domain is valid.
    let manager = unsafe { NSFileProviderManager::managerForDomain(&domain) }?;
    let (answer, waiting) = sync_channel(1);
    let block = RcBlock::new(move |url: *mut NSURL, _error: *mut NSError| {
        // SAFETY: null, or valid while the block is called.
        let path = unsafe { url.as_ref() }.and_then(NSURL::path).map(|path| path.to_string());
        // Only the first answer counts.
        let _second = answer.try_send(path);
    });
    // SAFETY: the identifier is the framework's own; the block may be called on any thread.
    unsafe {
        manager.getUserVisibleURLForItemIdentifier_completionHandler(
            NSFileProviderRootContainerItemIdentifier,
            &block,
        );
    }
    waiting.recv_timeout(ANSWER_DEADLINE).ok()?
}

/// Identifiers and names of the domains there are.
fn all() -> Result<Vec<(String, String)>, String> {
    let (answer, waiting) = sync_channel(1);
    let block = RcBlock::new(move |domains: NonNull<NSArray<NSFileProviderDomain>>, error: *mut NSError| {
        // SAFETY: the array is valid while the block is called.
        let domains = unsafe { domains.as_ref() };
        let domains = domains.to_vec().into_iter().map(|domain: Retained<NSFileProviderDomain>| {
            // SAFETY: a domain has both.
            unsafe { (domain.identifier().to_string(), domain.displayName().to_string()) }
        });
        // Only the first answer counts.
        let _second = answer.try_send(said(error).map(|()| domains.collect()));
    });
    // SAFETY: the block may be called on any thread.
    unsafe { NSFileProviderManager::getDomainsWithCompletionHandler(&block) };
    waiting.recv_timeout(ANSWER_DEADLINE).map_err(late)?
}

/// Asks, and waits for the answer.
fn answered(ask: impl FnOnce(&block2::DynBlock<dyn Fn(*mut NSError)>)) -> Result<(), String> {
    let (answer, waiting) = sync_channel(1);
    let block = RcBlock::new(move |error: *mut NSError| {
        // Only the first answer counts.
        let _second = answer.try_send(said(error));
    });
    ask(&block);
    waiting.recv_timeout(ANSWER_DEADLINE).map_err(late)?
}

fn said(error: *mut NSError) -> Result<(), String> {
    // SAFETY: null, or valid while the block is called.
    match unsafe { error.as_ref() } {
        None => Ok(()),
        Some(error) => Err(error.localizedDescription().to_string()),
    }
}

fn late(_: RecvTimeoutError) -> String {
    "the system does not answer".to_owned()
}

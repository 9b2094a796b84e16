//! Mounts that a daemon before this one has made.
//!
//! ```text
//! row ─► keeper.sock answers with the row's token ─► the mount goes on
//!  ├─ the keeper gave up ─► it has failed
//!  └─ neither, or it had never served ─► what is left of it is ended, unmounted, removed
//! ```

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use wire::api::machine::{Machine, Source};
use wire::worker::{CONFIG, CONFIG_BYTES_MAX, Dial, MountConfig};

use super::plan::{Place, Plan};
use super::remains::{Leftover, clean_up, detach};
use super::worker::{Found, Worker, end_remains};
use crate::database::{MountRow, Terms};
use crate::failure::chain;

/// A mount that goes on.
#[derive(Debug)]
pub struct Adopted {
    /// What the database says of it.
    pub row: MountRow,
    /// What its worker said when it last came to serve, and for whom it is.
    pub terms: Terms,
    /// What it is.
    pub plan: Plan,
    /// The control socket of the master that it reaches its machine through, if it does.
    pub control_path: Option<PathBuf>,
    /// How it was found.
    pub found: Standing,
}

/// How a mount was found.
#[derive(Debug)]
pub enum Standing {
    /// Its processes are there.
    Serving(Box<Worker>),
    /// They are not, and will not be.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

/// Finds out what has become of a mount. When there is nothing to go on with, nothing of it is left either.
pub async fn adopt(row: MountRow, state_dir: PathBuf) -> Option<Adopted> {
    let terms = row.terms.clone();
    let known = terms.and_then(|terms| match read_config(&state_dir) {
        Ok(config) => {
            let control_path = match &config.dial {
                Dial::Host => None,
                Dial::Ssh(dial) => Some(dial.control_path.as_path().to_owned()),
            };
            Some((plan(&row, &terms, config)?, terms, control_path))
        }
        Err(error) => {
            tracing::error!(mount = %row.id, %error, "it is not known what a mount was");
            None
        }
    });
    let found = match row.token {
        Some(token) => Worker::adopt(row.dir.as_path(), &state_dir, token).await,
        None => Found::Nobody,
    };
    let found = match (found, known) {
        (Found::Serving(worker), Some((plan, terms, control_path))) => {
            tracing::info!(mount = %row.id, source = %row.source, dir = %row.dir, "a mount is there from before");
            return Some(Adopted { row, terms, plan, control_path, found: Standing::Serving(worker) });
        }
        (Found::Failed { reason }, Some((plan, terms, _))) => {
            tracing::warn!(mount = %row.id, source = %row.source, reason, "a mount has failed before");
            return Some(Adopted {
                row,
                terms,
                plan,
                control_path: None,
                found: Standing::Failed { reason },
            });
        }
        (found, _) => found,
    };
    tracing::warn!(mount = %row.id, source = %row.source, dir = %row.dir, "taking away what is left of a mount");
    if let Found::Serving(mut worker) = found
        && let Err(error) = worker.end(false).await
    {
        tracing::error!(mount = %row.id, error = chain(&error), "its processes do not end");
    }
    // A dead worker with a thread that waits for the mount does not end before that.
    let dir = row.dir.as_path().to_owned();
    if let Err(error) = tokio::task::spawn_blocking(move || detach(&dir)).await {
        tracing::error!(mount = %row.id, %error, "detaching did not end");
    }
    end_remains(&state_dir, row.keeper.into_iter().chain(row.worker)).await;
    let (dir, made) = (row.dir.as_path().to_owned(), made(&row));
    let clearing = tokio::task::spawn_blocking(move || {
        clean_up(&dir, &made, &state_dir, Leftover::KeepUnknown);
    });
    if let Err(error) = clearing.await {
        tracing::error!(mount = %row.id, %error, "clearing a mount did not end");
    }
    None
}

fn made(row: &MountRow) -> Vec<PathBuf> {
    row.made.iter().map(|dir| dir.as_path().to_owned()).collect()
}

fn read_config(state_dir: &Path) -> io::Result<MountConfig> {
    let mut text = Vec::new();
    std::fs::File::open(state_dir.join(CONFIG))?.take(CONFIG_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn plan(row: &MountRow, terms: &Terms, config: MountConfig) -> Option<Plan> {
    let Source::Files { machine, path } = &row.source else {
        return None;
    };
    let (machine, path): (Machine, PathBuf) = (machine.clone(), path.as_path().to_owned());
    Some(Plan {
        source: row.source.clone(),
        place: Place { dir: row.dir.as_path().to_owned(), machine, path },
        backend: config.backend,
        access: config.access,
        sync: config.sync,
        reconnect: config.reconnect,
        heartbeat: config.heartbeat,
        options: config.options,
        caller: terms.caller.clone(),
        made: made(row),
    })
}

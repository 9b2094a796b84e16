//! `status.*`

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use wire::api::ErrorObject;
use wire::api::mount::Target;
use wire::api::status::Document;

use super::Daemon;
use crate::owner::{Event, ending};

/// How long workers may take to say how they do. Of one that does not answer in time, what it said last is shown.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// The whole document, with what workers say now.
pub async fn get(daemon: &Daemon) -> Result<Document, ErrorObject> {
    let mounts = daemon.owner.ask(|answer| Event::SelectMounts { target: Target::All, answer }).await?;
    let mut polls: JoinSet<()> = mounts.into_iter().map(|mount| async move { mount.poll().await }).collect();
    let threads = daemon.threads();
    let all = async {
        tokio::join!(threads.count(), async { while polls.join_next().await.is_some() {} });
    };
    if tokio::time::timeout(POLL_TIMEOUT, all).await.is_err() {
        tracing::debug!("some workers did not say how they do");
    }
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::Document { answer }).await;
    let mut document: Document = answered.await.map_err(|_| ending())?;
    if let Some(domains) = &daemon.domains {
        match domains.list().await {
            Ok(listed) => document.mounts.extend(listed),
            Err(error) => tracing::warn!(%error, "the domains of File Provider are not known"),
        }
        document.mounts.sort_by_key(|mount| mount.id);
    }
    Ok(document)
}

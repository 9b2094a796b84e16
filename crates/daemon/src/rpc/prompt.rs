//! `prompt.*`

use tokio::sync::oneshot;
use wire::api::prompt::{Reply, Request};
use wire::api::{ErrorKind, ErrorObject};

use super::Daemon;
use crate::owner::{Event, ending};
use crate::session::ClientContext;

/// Puts a question of ssh to the client whose ticket the askpass program shows.
pub async fn request(daemon: &Daemon, _: &ClientContext, request: Request) -> Result<Reply, ErrorObject> {
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::FindTicket { secret: request.ticket, answer }).await;
    let prompter = answered.await.map_err(|_| ending())?;
    let prompter =
        prompter.ok_or_else(|| ErrorObject::new(ErrorKind::Refused, "nobody waits for this prompt"))?;
    let answer = prompter.ask(request.kind, &request.text).await?;
    Ok(Reply { answer })
}

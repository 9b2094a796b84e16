//! The masters of one machine, and whom they may ask.
//!
//! The first login is that of the connection. A further one becomes necessary while a command waits for a mount, a
//! directory or a file; then what ssh asks is put to that command's terminal. One that nobody waits for, as when a worker
//! dials again, asks nobody.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use remote::askpass::{self, Server};
use remote::transport::ssh::{
    LoginOptions, Master, Masters, OpenMaster, OpeningMaster, Prompts, SshError, SshOptions,
};

use super::{ATTENDED_LOGIN, SshSettings, variables_of};
use crate::connection::Attendant;
use crate::prompt::Prompter;

/// The logins of one machine. Dropping them ends them.
#[derive(Debug)]
pub(super) struct Logins {
    pub(super) masters: Masters,
    pub(super) attendants: Attendants,
}

impl Logins {
    /// Logs in for the first time.
    pub(super) async fn start(
        settings: &Arc<SshSettings>,
        options: SshOptions,
        login: &LoginOptions,
    ) -> Result<Arc<Logins>, SshError> {
        let (attendants, further) = further(settings);
        let masters = Masters::start(options, login, further).await?;
        Ok(Arc::new(Logins { masters, attendants }))
    }

    /// Takes over the logins of a daemon before this one, if there are any.
    pub(super) async fn adopt(
        settings: &Arc<SshSettings>,
        options: &SshOptions,
    ) -> Result<Option<Arc<Logins>>, SshError> {
        let (attendants, further) = further(settings);
        let adopted = Masters::adopt(options, further).await?;
        Ok(adopted.map(|masters| Arc::new(Logins { masters, attendants })))
    }
}

/// Who may be asked for a further login, and how it is opened.
fn further(settings: &Arc<SshSettings>) -> (Attendants, Arc<Further>) {
    let attendants = Attendants::default();
    let further = Further { settings: Arc::clone(settings), attendants: attendants.clone() };
    (attendants, Arc::new(further))
}

/// The commands that wait for something of a machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Attendants {
    known: Arc<Mutex<Vec<Weak<Attendant>>>>,
}

impl Attendants {
    /// Knows `attendant` as long as it is there.
    pub(super) fn add(&self, attendant: &Arc<Attendant>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|attendant| attendant.strong_count() > 0);
        known.push(Arc::downgrade(attendant));
    }

    /// Whose login the next one is: the last that came of those who can be asked, if there is one.
    fn next(&self) -> Option<Arc<Attendant>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
        let askable = waiting.iter().rposition(|attendant| attendant.prompter.is_some());
        match askable {
            Some(position) => Some(waiting.swap_remove(position)),
            None => waiting.pop(),
        }
    }
}

/// Logs in again for those who wait.
struct Further {
    settings: Arc<SshSettings>,
    attendants: Attendants,
}

impl OpenMaster for Further {
    fn open(&self, mut options: SshOptions) -> OpeningMaster {
        let attendant = self.attendants.next();
        if let Some(attendant) = &attendant {
            // The keys of the first caller may be gone, and what waits now has its own.
            options.environment = variables_of(&attendant.caller);
        }
        let settings = Arc::clone(&self.settings);
        Box::pin(async move {
            match attendant.as_ref().and_then(|attendant| attendant.prompter.as_ref()) {
                None => Master::start(options, &LoginOptions::unattended()).await,
                Some(prompter) => start_asking(&settings, options, prompter).await,
            }
        })
    }
}

async fn start_asking(
    settings: &SshSettings,
    options: SshOptions,
    prompter: &Prompter,
) -> Result<Master, SshError> {
    let bound = askpass::link_program(&settings.runtime_dir, &settings.own_program)
        .and_then(|program| Server::bind(&settings.runtime_dir, program));
    let (mut server, environment) = match bound {
        Ok(bound) => bound,
        Err(error) => {
            tracing::warn!(%error, "nobody can be asked for a login");
            return Master::start(options, &LoginOptions::unattended()).await;
        }
    };
    let login = LoginOptions { prompts: Prompts::Ask(environment), timeout: ATTENDED_LOGIN };
    tokio::select! {
        started = Master::start(options, &login) => started,
        never = put_questions(&mut server, prompter) => match never {},
    }
}

/// Puts what ssh asks to a client, as long as this is polled.
async fn put_questions(server: &mut Server, prompter: &Prompter) -> std::convert::Infallible {
    while let Some(question) = server.next().await {
        let answer = prompter.ask(question.kind, &question.text).await;
        question
            .answer(answer.inspect_err(|error| tracing::debug!(%error, "a question was not answered")).ok());
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::api::machine::Caller;
    use wire::api::prompt::{PromptKind, Secret};

    fn attendant(prompter: Option<Prompter>) -> Arc<Attendant> {
        Attendant::new(&Caller::default(), prompter)
    }

    #[test]
    fn the_last_that_can_be_asked_is_next_and_nobody_who_waits_no_more() {
        let (prompter, _questions) = Prompter::new();
        let attendants = Attendants::default();
        assert!(attendants.next().is_none());
        let (first, second) = (attendant(Some(prompter.clone())), attendant(Some(prompter)));
        let script = attendant(None);
        for attendant in [&first, &second, &script] {
            attendants.add(attendant);
        }
        let next = || attendants.next().unwrap();
        assert!(Arc::ptr_eq(&next(), &second));
        drop(second);
        assert!(Arc::ptr_eq(&next(), &first));
        drop(first);
        assert!(Arc::ptr_eq(&next(), &script));
        drop(script);
        assert!(attendants.next().is_none());
    }

    #[tokio::test]
    async fn a_question_is_put_to_the_client_and_declined_when_it_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(askpass::PROGRAM_NAME);
        let (mut server, environment) = Server::bind(directory.path(), program).unwrap();
        let variables = environment.variables();
        let ask = move || {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
            };
            askpass::run(["the question".into()], variable)
        };
        let (prompter, mut questions) = Prompter::new();
        let asked = tokio::task::spawn_blocking(ask.clone());
        let (client, code) = tokio::select! {
            never = put_questions(&mut server, &prompter) => match never {},
            client = async {
                let question = questions.recv().await.unwrap();
                assert_eq!((question.kind, question.text.as_str()), (PromptKind::Secret, "the question"));
                question.answer.send(Some(Secret::new("answer".to_owned()))).unwrap();
                (questions, asked.await.unwrap())
            } => client,
        };
        assert_eq!(code, std::process::ExitCode::SUCCESS);
        drop(client);
        let asked = tokio::task::spawn_blocking(ask);
        let code = tokio::select! {
            never = put_questions(&mut server, &prompter) => match never {},
            code = asked => code.unwrap(),
        };
        assert_eq!(code, std::process::ExitCode::FAILURE);
    }
}

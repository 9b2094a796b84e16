//! Turns of threads.

use super::*;
use crate::database::{ThreadPhase, ThreadRow};
use crate::owner::threads::WAITING_MAX;

fn row() -> ThreadRow {
    ThreadRow {
        name: "fix".to_owned(),
        phase: ThreadPhase::Open,
        repo: "/app".into(),
        repository: "/app/.git".into(),
        owner: None,
        hash: "sha1".to_owned(),
        commit: String::new(),
        branch: "fix".to_owned(),
        onto: None,
        dir: "/app-fix".into(),
        makes_dir: false,
        sees: None,
        registration: None,
    }
}

type Taken = Result<(FoundThread, Turn), ErrorObject>;

impl Rig {
    async fn knows_a_thread(self) -> Rig {
        self.owner.send(Event::Thread(ThreadEvent::Known(Box::new(row())))).await;
        self
    }

    async fn take(&self) -> oneshot::Receiver<Taken> {
        let (answer, taken) = oneshot::channel();
        self.owner.send(Event::Thread(ThreadEvent::Take { name: "fix".to_owned(), answer })).await;
        // What was sent before is done.
        self.document().await;
        taken
    }
}

fn refusal(taken: Taken) -> ErrorKind {
    taken.expect_err("refused").kind()
}

#[tokio::test(start_paused = true)]
async fn turns_of_a_thread_are_taken_one_after_the_other() {
    let rig = rig().knows_a_thread().await;
    let (_, first) = rig.take().await.await.expect("answered").expect("nobody has it");
    let (mut second, gone, mut third) = (rig.take().await, rig.take().await, rig.take().await);
    drop(gone);
    second.try_recv().expect_err("it is the first's");
    drop(first);
    let (_, turn) = second.await.expect("answered").expect("it is the second's");
    third.try_recv().expect_err("it is the second's");
    drop(turn);
    drop(third.await.expect("answered").expect("who has gone has none"));
    drop(rig.take().await.await.expect("answered").expect("nobody has it"));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait_for_a_thread() {
    let rig = rig().knows_a_thread().await;
    let (_, turn) = rig.take().await.await.expect("answered").expect("nobody has it");
    let mut waiting = Vec::new();
    for _ in 0..WAITING_MAX {
        waiting.push(rig.take().await);
    }
    assert_eq!(refusal(rig.take().await.await.expect("answered")), ErrorKind::Conflict);
    waiting.pop();
    let last = rig.take().await;
    rig.owner.send(Event::Thread(ThreadEvent::Gone("fix".to_owned()))).await;
    for taken in waiting.into_iter().chain([last]) {
        assert_eq!(refusal(taken.await.expect("answered")), ErrorKind::NotFound);
    }
    // The turn was one of the thread that is gone.
    let rig = rig.knows_a_thread().await;
    let (_, next) = rig.take().await.await.expect("answered").expect("nobody has it");
    drop(turn);
    let mut waiting = rig.take().await;
    waiting.try_recv().expect_err("it is the next one's");
    drop(next);
    waiting.await.expect("answered").expect("it is free");
}

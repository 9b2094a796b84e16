//! Processes, as far as the owner knows of them.

use super::*;

fn process() -> ProcessRow {
    ProcessRow {
        id: ProcessId::new(1),
        machine: ssh_box(),
        command: vec!["sleep".into()],
        caller: Caller::default(),
        far: 1,
        pid: None,
        terminal: false,
        since: now(),
        outcome: None,
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_end_of_a_detached_process_hears_it_unless_it_is_forgotten() {
    let rig = rig();
    let id = process().id;
    let ask = |answer| rig.owner.send(Event::AwaitProcess { id, answer });
    let heard = async || {
        let (answer, heard) = oneshot::channel();
        ask(answer).await;
        heard.await
    };
    assert!(heard().await.is_err());
    rig.owner.send(Event::ProcessDetached(Box::new(process()))).await;
    let (early, hears) = oneshot::channel();
    ask(early).await;
    ask(oneshot::channel().0).await;
    rig.owner.send(Event::ProcessWatched(id, Ok(Outcome::Exited { code: 3 }))).await;
    assert_eq!(hears.await, Ok(Outcome::Exited { code: 3 }));
    assert_eq!(heard().await, Ok(Outcome::Exited { code: 3 }));
    rig.owner.send(Event::ForgetProcess(id)).await;
    assert!(heard().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_process_ends_with_its_connection_and_both_are_told() {
    let rig = rig();
    let _lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    let (answer, answered) = oneshot::channel();
    rig.owner.send(Event::Subscribe { topics: vec![Topic::Process], answer }).await;
    let mut events = answered.await.unwrap();
    let (record, ended) = ProcessRecord::attached(&process());
    rig.owner.send(Event::ProcessStarted(Box::new(record))).await;
    // It goes on with the next link.
    rig.lose(0);
    while rig.requests() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    rig.until(&[ConnectionState::Connected]).await;
    assert_eq!(rig.document().await.processes[0].state, "running");
    assert!(!*rig.link(1).last.borrow());
    rig.owner.ask(|answer| Event::Disconnect { machine: ssh_box(), answer }).await.unwrap();
    assert_eq!(ended.await.as_deref(), Ok("its connection was closed"));
    assert!(*rig.link(1).last.borrow() && !*rig.link(0).last.borrow());
    assert!(rig.document().await.processes.is_empty());
    let mut told = Vec::new();
    while told.len() < 2 {
        if let Some(Told::Event(event)) = events.next().await {
            told.push(event.happened.word());
        }
    }
    assert_eq!(told, ["running", "lost"]);
}

#[tokio::test(start_paused = true)]
async fn a_process_is_lost_when_nobody_tries_to_get_to_its_machine_any_more() {
    let rig = rig();
    let keep = Keep { reconnect: Some(Reconnect::Never), ..Keep::default() };
    let _lease = rig.owner.acquire(Wanted { keep, ..wanted(ssh_box()) }).await.unwrap();
    let (record, ended) = ProcessRecord::attached(&process());
    rig.owner.send(Event::ProcessStarted(Box::new(record))).await;
    rig.lose(0);
    assert_eq!(ended.await.as_deref(), Ok("its connection was lost: cut"));
    rig.until(&[ConnectionState::Disconnected]).await;
    assert!(rig.document().await.processes.is_empty());
}

use super::*;

fn ended(process: u64, is_told: bool) -> Ended {
    let process = ProcessId(process);
    let status = ExitStatus::Exited(0);
    Ended { process, pid: 1, started_on: 1, tail: Tail::default(), status, is_told, detached: None }
}

#[test]
fn a_process_that_is_being_started_is_not_started_again() {
    let processes = Processes::default();
    assert!(matches!(processes.claim(ProcessId(1), 1, false), Ok(Claim::Ours)));
    assert!(!processes.are_none());
    assert!(matches!(processes.claim(ProcessId(1), 1, false), Err(Errno::INVAL)));
    assert!(matches!(processes.claim(ProcessId(1), 2, false), Ok(Claim::Earlier)));
    assert!(processes.not_started(ProcessId(1)).is_none());
    assert!(matches!(processes.claim(ProcessId(1), 2, false), Ok(Claim::Ours)));
}

#[test]
fn an_end_that_was_not_told_is_kept_and_counts_as_a_process() {
    let processes = Processes::default();
    processes.keep_ended(ended(0, false));
    for process in 1..=2 * ENDED_KEPT_MAX as u64 {
        processes.keep_ended(ended(process, true));
    }
    let known = |process| lock(&processes.table).started_on(ProcessId(process)).is_some();
    assert!(known(0) && !known(1));
    assert_eq!(lock(&processes.table).ended.len(), 1 + ENDED_KEPT_MAX);
    for process in 1000..1000 + PROCESSES_MAX as u64 - 1 {
        processes.keep_ended(ended(process, false));
    }
    assert!(matches!(processes.claim(ProcessId(1), 1, false), Err(Errno::AGAIN)));
}

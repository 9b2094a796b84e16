//! `operation.*`

use wire::api::event::OperationState;
use wire::api::id::OperationId;
use wire::api::time::Timestamp;
use wire::api::{operation, status};

use super::{Method, json};

const OPERATION: OperationId = OperationId::new(1);

/// One that makes a microVM.
pub(super) fn an_operation(state: OperationState) -> status::Operation {
    let ended = (state != OperationState::Running).then(|| Timestamp::from_unix(1_767_225_601));
    status::Operation {
        id: OPERATION,
        kind: "vm create".to_owned(),
        name: "dev".to_owned(),
        state,
        stages: ["directory", "disk", "record"].map(str::to_owned).into(),
        stage: Some("disk".to_owned()),
        since: Timestamp::from_unix(1_767_225_600),
        ended,
        error: None,
    }
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method {
            call: operation::List {}.into(),
            reply: json(operation::Operations { operations: vec![an_operation(OperationState::Running)] }),
            text: "All operations that go on, and the last that have ended.",
        },
        Method {
            call: operation::Show { operation: OPERATION }.into(),
            reply: json(an_operation(OperationState::Running)),
            text: "One operation. `state` is `running`, `succeeded`, `failed` (with an `error`, as in a response) or `cancelled`. `stage`\n\
                   is one of its `stages`, or says which of them is being undone. Each that begins is an event of the topic `operation`.",
        },
        Method {
            call: operation::Wait { operation: OPERATION }.into(),
            reply: json(an_operation(OperationState::Succeeded)),
            text: "The same, answered once it has ended.",
        },
        Method {
            call: operation::Cancel { operation: OPERATION }.into(),
            reply: json(an_operation(OperationState::Cancelled)),
            text: "Has an operation end, and answers when nothing of it is left. One that comes to its end all the same is told as\n\
                   `succeeded`; one that has ended before is an error of kind `conflict`, unless it was cancelled.",
        },
    ]
}

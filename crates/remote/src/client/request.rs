//! What the client has to know of a request to send it, and of a reply to complain about it.

use wire::agent::file::{FileReply, FileRequest, Target};
use wire::agent::process::{ProcessReply, ProcessRequest};
use wire::agent::{HandleId, Reply, Request, RequestId, StreamWindow};

use super::lanes::What;

/// Whether the request takes a place among the session's mutations, so that the agent applies it once however often it
/// is sent.
///
/// Requests that only change what the session holds (opens, closes, locks, processes) take none: they name what they
/// make by an id of the client's choosing, and some of them wait without limit, which would keep the agent from
/// forgetting any later reply. A signal names nothing, and is not to be delivered twice.
pub(super) fn is_mutation(request: &Request) -> bool {
    let request = match request {
        Request::File(request) => request,
        Request::Process(request) => return matches!(request, ProcessRequest::Signal { .. }),
        Request::Describe => return false,
    };
    match request {
        FileRequest::SetAttributes { .. }
        | FileRequest::Symlink { .. }
        | FileRequest::MakeNode { .. }
        | FileRequest::MakeDirectory { .. }
        | FileRequest::Unlink { .. }
        | FileRequest::RemoveDirectory { .. }
        | FileRequest::Rename { .. }
        | FileRequest::Link { .. }
        | FileRequest::Create { .. }
        | FileRequest::CreateUnnamed { .. }
        | FileRequest::Put { .. }
        | FileRequest::PutMany { .. }
        | FileRequest::Write { .. }
        | FileRequest::Allocate { .. }
        | FileRequest::CopyRange { .. }
        | FileRequest::SetXattr { .. }
        | FileRequest::RemoveXattr { .. } => true,
        FileRequest::Open { flags, .. } => flags.truncate,
        FileRequest::Attach { .. }
        | FileRequest::Locate { .. }
        | FileRequest::Lookup { .. }
        | FileRequest::Stat { .. }
        | FileRequest::ReadLink { .. }
        | FileRequest::Read { .. }
        | FileRequest::Sync { .. }
        | FileRequest::Close { .. }
        | FileRequest::Seek { .. }
        | FileRequest::Digest { .. }
        | FileRequest::GetMany { .. }
        | FileRequest::Space { .. }
        | FileRequest::GetXattr { .. }
        | FileRequest::ListXattrs { .. }
        | FileRequest::Lock { .. }
        | FileRequest::TestLock { .. }
        | FileRequest::ReleaseLocks { .. }
        | FileRequest::List { .. }
        | FileRequest::Walk { .. }
        | FileRequest::Search { .. }
        | FileRequest::RemoveTree { .. }
        | FileRequest::Find { .. }
        | FileRequest::Watch { .. } => false,
    }
}

/// The credit a streamed request starts with; `None` for a request with one reply.
pub(super) fn window(request: &Request) -> Option<StreamWindow> {
    match request {
        Request::File(
            FileRequest::List { window, .. }
            | FileRequest::Walk { window, .. }
            | FileRequest::Search { window, .. }
            | FileRequest::RemoveTree { window, .. }
            | FileRequest::Find { window, .. }
            | FileRequest::Watch { window, .. },
        )
        | Request::Process(ProcessRequest::Spawn { window, .. } | ProcessRequest::Follow { window, .. }) => {
            Some(*window)
        }
        Request::File(_) | Request::Process(_) | Request::Describe => None,
    }
}

/// The same, to be changed.
pub(super) fn window_mut(request: &mut Request) -> Option<&mut StreamWindow> {
    match request {
        Request::File(
            FileRequest::List { window, .. }
            | FileRequest::Walk { window, .. }
            | FileRequest::Search { window, .. }
            | FileRequest::RemoveTree { window, .. }
            | FileRequest::Find { window, .. }
            | FileRequest::Watch { window, .. },
        )
        | Request::Process(ProcessRequest::Spawn { window, .. } | ProcessRequest::Follow { window, .. }) => {
            Some(window)
        }
        Request::File(_) | Request::Process(_) | Request::Describe => None,
    }
}

/// The open files that a request names.
pub(super) fn handles(request: &FileRequest) -> [Option<HandleId>; 2] {
    use FileRequest as F;
    match request {
        F::Read { handle, .. }
        | F::Write { handle, .. }
        | F::Close { handle }
        | F::Allocate { handle, .. }
        | F::Seek { handle, .. }
        | F::Digest { handle, .. }
        | F::Lock { handle, .. }
        | F::TestLock { handle, .. }
        | F::ReleaseLocks { handle, .. }
        | F::Stat { target: Target::Handle(handle) }
        | F::SetAttributes { target: Target::Handle(handle), .. }
        | F::Link { target: Target::Handle(handle), .. }
        | F::Sync { target: Target::Handle(handle), .. }
        | F::GetXattr { target: Target::Handle(handle), .. }
        | F::SetXattr { target: Target::Handle(handle), .. }
        | F::ListXattrs { target: Target::Handle(handle) }
        | F::RemoveXattr { target: Target::Handle(handle), .. } => [Some(*handle), None],
        F::CopyRange { from, to, .. } => [Some(*from), Some(*to)],
        _ => [None, None],
    }
}

/// What the request is to whoever decides in which order frames leave.
pub(super) fn what(id: RequestId, request: &Request) -> What {
    match request {
        Request::File(FileRequest::Write { handle, .. }) => What::Write { id, handle: *handle },
        Request::File(request) => What::Request { id, handles: handles(request) },
        Request::Process(_) | Request::Describe => What::Request { id, handles: [None, None] },
    }
}

/// How many bytes of a file are asked for; `None` where it is not such a request.
pub(super) fn bytes_asked(request: &Request) -> Option<usize> {
    match request {
        Request::File(FileRequest::Read { length, .. }) => Some(*length as usize),
        _ => None,
    }
}

/// Whether the answer comes as soon as it has been asked for, as far as the machine is concerned, and is short.
pub(super) fn is_prompt(request: &Request) -> bool {
    match request {
        Request::File(request) => matches!(
            request,
            FileRequest::Lookup { .. }
                | FileRequest::Stat { .. }
                | FileRequest::Close { .. }
                | FileRequest::Seek { .. }
        ),
        Request::Process(_) => false,
        Request::Describe => true,
    }
}

/// What kind of reply it is, without what it carries, which may be a user's.
pub(super) fn reply_name(reply: &Reply) -> &'static str {
    match reply {
        Reply::Description(_) => "Description",
        Reply::File(reply) => match reply {
            FileReply::Done => "Done",
            FileReply::Attached { .. } => "Attached",
            FileReply::Located { .. } => "Located",
            FileReply::Looked { .. } => "Looked",
            FileReply::Entry(_) => "Entry",
            FileReply::Removed { .. } => "Removed",
            FileReply::Renamed { .. } => "Renamed",
            FileReply::Opened { .. } => "Opened",
            FileReply::MadeMany { .. } => "MadeMany",
            FileReply::GotMany { .. } => "GotMany",
            FileReply::Data => "Data",
            FileReply::Written { .. } => "Written",
            FileReply::Position(_) => "Position",
            FileReply::Space(_) => "Space",
            FileReply::Lock(_) => "Lock",
            FileReply::Listing { .. } => "Listing",
            FileReply::Walked { .. } => "Walked",
            FileReply::Searched { .. } => "Searched",
            FileReply::TreeRemoved { .. } => "TreeRemoved",
            FileReply::Found { .. } => "Found",
            FileReply::Digested { .. } => "Digested",
            FileReply::Watched { .. } => "Watched",
        },
        Reply::Process(reply) => match reply {
            ProcessReply::Done => "process Done",
            ProcessReply::Started { .. } => "Started",
            ProcessReply::Dropped { .. } => "Dropped",
            ProcessReply::Output(_) => "Output",
            ProcessReply::Ended(_) => "Ended",
        },
    }
}

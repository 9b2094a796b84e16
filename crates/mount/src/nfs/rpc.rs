//! Remote procedure calls (RFC 5531) over a stream: records, call headers, replies.
//!
//! A record is one or more fragments, each with four bytes before it: the highest bit says that it is the last, the
//! others its length. A call is one record, a reply too.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nfs3_types::rpc::{
    RPC_VERSION_2, accept_stat_data, accepted_reply, auth_stat, fragment_header, msg_body, opaque_auth,
    rejected_reply, reply_body, rpc_msg,
};
use nfs3_types::xdr_codec::Pack;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::limits::{TRANSFER_BYTES_MAX, WAIT_FOR_PEER_MAX};
use super::xdr::{Arguments, Garbage};

/// The longest call: the largest write with its headers, which are under 1 KiB: a handle of 64 bytes and credentials of
/// 400.
pub const RECORD_BYTES_MAX: usize = TRANSFER_BYTES_MAX as usize + (4 << 10);

/// Fragments of one record. Clients send one; the bound ends a stream of empty ones.
const FRAGMENTS_MAX: usize = 64;

/// The longest body of credentials or of a verifier, by the protocol.
const AUTH_BYTES_MAX: usize = 400;

/// Groups in one credential, by the protocol.
const GROUPS_MAX: usize = 16;

/// The longest name a machine gives itself in its credentials, by the protocol.
const MACHINE_NAME_BYTES_MAX: usize = 255;

const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;

/// Why a connection cannot go on.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The stream ended within a record, or failed.
    #[error("could not read a record")]
    Read(#[from] io::Error),
    /// Longer than any call.
    #[error("a record of more than {RECORD_BYTES_MAX} bytes")]
    TooLong,
    /// More pieces than any client sends.
    #[error("a record of more than {FRAGMENTS_MAX} fragments")]
    TooManyFragments,
    /// The rest of a record did not come.
    #[error("the rest of a record did not come within {WAIT_FOR_PEER_MAX:?}")]
    TooSlow,
}

/// Reads one record. `None` at the end of the stream, which many clients reach by resetting the connection. Waits for the
/// first byte as long as it takes.
pub async fn read_record(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>, RecordError> {
    let mut header = [0; 4];
    match stream.read(&mut header[..1]).await {
        Ok(0) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        outcome => outcome?,
    };
    timeout(WAIT_FOR_PEER_MAX, rest_of_record(stream, header))
        .await
        .map_err(|_late| RecordError::TooSlow)?
        .map(Some)
}

async fn rest_of_record(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: [u8; 4],
) -> Result<Bytes, RecordError> {
    stream.read_exact(&mut header[1..]).await?;
    let mut record = BytesMut::new();
    for _ in 0..FRAGMENTS_MAX {
        let fragment = fragment_header::from(header);
        let length = fragment.fragment_length() as usize;
        if length > RECORD_BYTES_MAX - record.len() {
            return Err(RecordError::TooLong);
        }
        let end = record.len() + length;
        record.reserve(length);
        while record.len() < end {
            let left = (end - record.len()) as u64;
            if (&mut *stream).take(left).read_buf(&mut record).await? == 0 {
                return Err(RecordError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        if fragment.eof() {
            return Ok(record.freeze());
        }
        stream.read_exact(&mut header).await?;
    }
    Err(RecordError::TooManyFragments)
}

/// Who calls, as the call says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody in particular.
    Nobody,
    /// This user of the calling machine.
    User {
        /// The user.
        uid: u32,
        /// The user's group.
        gid: u32,
        /// The user's other groups.
        groups: Vec<u32>,
    },
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The client's number for it.
    pub xid: u32,
    /// Which program.
    pub program: u32,
    /// In which version.
    pub version: u32,
    /// Which of its procedures.
    pub procedure: u32,
    /// Who calls.
    pub claim: Claim,
    /// What with.
    pub arguments: Arguments,
}

/// A record that is not a call which can be carried out.
#[derive(Debug)]
pub enum NotACall {
    /// There is nothing to answer to: the stream is not what it should be.
    Unanswerable,
    /// This is the answer.
    Refused(Reply),
}

impl From<Garbage> for NotACall {
    fn from(_: Garbage) -> NotACall {
        NotACall::Unanswerable
    }
}

impl Call {
    /// Reads the header of a call.
    pub fn parse(record: Bytes) -> Result<Call, NotACall> {
        const CALL: u32 = 0;
        let mut arguments = Arguments::new(record);
        let (xid, kind) = (arguments.u32()?, arguments.u32()?);
        if kind != CALL {
            return Err(NotACall::Unanswerable);
        }
        if arguments.u32()? != RPC_VERSION_2 {
            let mismatch = rejected_reply::rpc_mismatch(RPC_VERSION_2, RPC_VERSION_2);
            return Err(NotACall::Refused(Reply::denied(xid, mismatch)));
        }
        let (program, version, procedure) = (arguments.u32()?, arguments.u32()?, arguments.u32()?);
        let credentials = (arguments.u32()?, arguments.opaque(AUTH_BYTES_MAX)?);
        let _verifier = (arguments.u32()?, arguments.opaque(AUTH_BYTES_MAX)?);
        match claim(credentials.0, credentials.1) {
            Ok(claim) => Ok(Call { xid, program, version, procedure, claim, arguments }),
            Err(why) => Err(NotACall::Refused(Reply::denied(xid, rejected_reply::auth_error(why)))),
        }
    }
}

fn claim(flavor: u32, body: Bytes) -> Result<Claim, auth_stat> {
    match flavor {
        AUTH_NONE => Ok(Claim::Nobody),
        AUTH_SYS => user(&mut Arguments::new(body)).map_err(|Garbage| auth_stat::AUTH_BADCRED),
        _ => Err(auth_stat::AUTH_TOOWEAK),
    }
}

fn user(body: &mut Arguments) -> Result<Claim, Garbage> {
    let _stamp = body.u32()?;
    let _machine = body.opaque(MACHINE_NAME_BYTES_MAX)?;
    let (uid, gid) = (body.u32()?, body.u32()?);
    let groups = body.numbers(GROUPS_MAX)?;
    body.end()?;
    Ok(Claim::User { uid, gid, groups })
}

/// The results of a procedure: what has been packed, then bytes that are sent as they are.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// In XDR.
    pub packed: Vec<u8>,
    /// The contents of an opaque whose length ends `packed`.
    pub opaque: Bytes,
}

impl Results {
    /// One value.
    pub fn packed(value: &impl Pack) -> Results {
        let mut packed = Vec::with_capacity(value.packed_size());
        pack(value, &mut packed);
        Results { packed, opaque: Bytes::new() }
    }
}

/// Packs a value behind what is there.
pub fn pack(value: &impl Pack, into: &mut Vec<u8>) {
    value.pack(into).expect("a vector takes any bytes, and no opaque here comes near 4 GiB");
}

/// A record that answers a call.
#[derive(Clone, Debug)]
pub struct Reply {
    head: Vec<u8>,
    opaque: Bytes,
}

impl Reply {
    fn new(xid: u32, body: reply_body<'_>, results: &Results) -> Reply {
        // The largest header of a reply, with the record's mark.
        const HEADER_BYTES: usize = 36;
        let mut head = Vec::with_capacity(HEADER_BYTES + results.packed.len());
        head.extend_from_slice(&[0; 4]);
        pack(&rpc_msg { xid, body: msg_body::REPLY(body) }, &mut head);
        head.extend_from_slice(&results.packed);
        let length = head.len() - 4 + results.opaque.len().next_multiple_of(4);
        let length = u32::try_from(length).expect("results are bounded by TRANSFER_BYTES_MAX");
        head[..4].copy_from_slice(&fragment_header::new(length, true).into_xdr_buf());
        Reply { head, opaque: results.opaque.clone() }
    }

    fn accepted(xid: u32, reply_data: accept_stat_data, results: &Results) -> Reply {
        let accepted = accepted_reply { verf: opaque_auth::default(), reply_data };
        Reply::new(xid, reply_body::MSG_ACCEPTED(accepted), results)
    }

    fn denied(xid: u32, why: rejected_reply) -> Reply {
        Reply::new(xid, reply_body::MSG_DENIED(why), &Results::default())
    }

    /// The procedure was carried out.
    pub fn results(xid: u32, results: &Results) -> Reply {
        Reply::accepted(xid, accept_stat_data::SUCCESS, results)
    }

    /// The procedure was not carried out.
    pub fn refused(xid: u32, why: accept_stat_data) -> Reply {
        Reply::accepted(xid, why, &Results::default())
    }

    /// The caller is not who may call.
    pub fn not_allowed(xid: u32, why: auth_stat) -> Reply {
        Reply::denied(xid, rejected_reply::auth_error(why))
    }

    /// Writes the record. A peer that takes nothing for a while is an error.
    pub async fn write(self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let padding = self.opaque.len().next_multiple_of(4) - self.opaque.len();
        write_all(stream, &self.head).await?;
        if self.opaque.is_empty() {
            return Ok(());
        }
        write_all(stream, &self.opaque).await?;
        write_all(stream, &[0; 3][..padding]).await
    }
}

async fn write_all(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    waited(WAIT_FOR_PEER_MAX, stream.write_all(bytes)).await
}

async fn waited<T>(wait: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(wait, io).await.map_err(|_late| io::Error::from(io::ErrorKind::TimedOut))?
}

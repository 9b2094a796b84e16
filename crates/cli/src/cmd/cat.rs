//! `stead cat`

use std::collections::VecDeque;
use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use wire::api::ErrorKind;
use wire::api::file::{CHUNK_BYTES_MAX, Close, Open, Purpose, Read};
use wire::api::machine::Source;

use crate::client::{Client, Ticket};
use crate::completion;
use crate::context::Context;
use crate::error::Result;

/// How many reads are under way at once: two megabytes, which fills a link of 100 MB/s at 20 ms.
const READS_IN_FLIGHT: usize = 8;

/// The bytes of one read.
const CHUNK: u32 = CHUNK_BYTES_MAX as u32;

/// Print files of a machine, byte for byte.
///
/// That is so with --json too, where only a failure is JSON; `stead stat --json` has what is known of a file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which files: MACHINE/PATH
    #[arg(required = true, value_name = "MACHINE/PATH", add = ArgValueCompleter::new(completion::sources))]
    sources: Vec<OsString>,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let sources = args.sources.iter().map(|text| context.source(text)).collect::<Result<Vec<_>>>()?;
    let client = context.daemon()?;
    sources.into_iter().try_for_each(|source| print(&client, source, context))
}

fn print(client: &Client, source: Source, context: &mut Context) -> Result<()> {
    let list = format!("stead ls {source}");
    let opened = client
        .call(Open { source, purpose: Purpose::Read, caller: context.caller() })
        .map_err(|error| error.hint_if(ErrorKind::Conflict, || list))?;
    let mut reader = Reader::new(opened.handle, 0, opened.entry.size);
    while let Some(chunk) = reader.next(client)? {
        context.output.raw(&chunk)?;
    }
    client.call(Close { handle: opened.handle })?;
    Ok(())
}

/// Reads a file from front to back with several requests under way.
///
/// The file may be another length than its size said: a pipe's is 0, and a log grows. So the end is where a read is
/// empty, and a read that was cut short is asked for again from where it ended.
pub struct Reader {
    handle: wire::api::id::HandleId,
    under_way: VecDeque<UnderWay>,
    /// Up to where the content has been given out.
    given: u64,
    /// Up to where content has been asked for.
    asked: u64,
    size: u64,
}

/// A read that has been asked for.
struct UnderWay {
    offset: u64,
    bytes: u32,
    ticket: Ticket<Read>,
}

impl Reader {
    /// Reads from `offset`, of a file that is about `size` bytes long.
    pub fn new(handle: wire::api::id::HandleId, offset: u64, size: u64) -> Reader {
        Reader { handle, under_way: VecDeque::new(), given: offset, asked: offset, size }
    }

    /// The next bytes; none at the end.
    pub fn next(&mut self, client: &Client) -> Result<Option<Vec<u8>>> {
        loop {
            self.ask(client)?;
            let Some(UnderWay { offset, bytes, ticket }) = self.under_way.pop_front() else {
                return Ok(None);
            };
            let mut chunk = client.wait(ticket)?.content.0;
            // More than was asked for is what the next read brings too.
            chunk.truncate(bytes as usize);
            if offset != self.given {
                // It was asked for before an earlier one turned out short.
                continue;
            }
            if chunk.is_empty() {
                self.under_way.drain(..).try_for_each(|read| client.wait(read.ticket).map(drop))?;
                return Ok(None);
            }
            self.given += chunk.len() as u64;
            if chunk.len() < bytes as usize {
                self.asked = self.given;
            }
            return Ok(Some(chunk));
        }
    }

    /// Waits for what is under way, before the file is closed.
    pub fn finish(self, client: &Client) {
        // Nobody wants to know any more what comes of it.
        self.under_way.into_iter().for_each(|read| drop(client.wait(read.ticket)));
    }

    /// Keeps requests under way: up to the size the file is said to have, and one beyond it to find the end.
    fn ask(&mut self, client: &Client) -> Result<()> {
        while self.under_way.len() < READS_IN_FLIGHT {
            let end = self.size.max(self.given);
            let is_needed = !self.under_way.iter().any(|read| read.offset >= end);
            if self.asked >= self.size && !is_needed {
                return Ok(());
            }
            let bytes = match u32::try_from(self.size.saturating_sub(self.asked)) {
                Ok(left @ 1..=CHUNK) => left,
                Ok(0) | Ok(_) | Err(_) => CHUNK,
            };
            let request = Read { handle: self.handle, offset: self.asked, bytes };
            let ticket = client.send(request)?;
            self.under_way.push_back(UnderWay { offset: self.asked, bytes, ticket });
            self.asked += u64::from(bytes);
        }
        Ok(())
    }
}

//! Changes, to bytes and back. All numbers are little endian.
//!
//! A record is changes, one behind the other: a byte that says which, then
//!
//! ```text
//!  1  origin      commit, tree: oids. uid, gid: 4 each. made: a time
//!  2  next        8: no number from this on was used
//!  3  node        number: 8. mode: 2. uid, gid, links: 4 each. device: 8. accessed, modified, changed: times. A byte that says
//!                 where its content is from:
//!                   0 none, a directory   1 written, in the plain file of its number
//!                   2 a file of the base   3 a symlink of the base: size, 8; an oid
//!                   4 a symlink: length, 2; what it holds
//!                   5 a fifo   6 a socket   7 a character device   8 a block device
//!                   9 a file, 10 a directory, 11 a symlink of the working copy: size, directory, number there: 8 each; a path
//!  4  gone        number: 8
//!  5  directory   number, parent, first number of its block: 8 each. count: 4. an oid, of its tree, or a byte of zero
//!  6  parent      number, parent: 8 each
//!  7  name        directory, number, cookie: 8 each. a name
//!  8  whiteout    directory: 8. a name
//!  9  unnamed     directory: 8. a name
//! 10  xattr       number: 8. a name. length of the value: 4. the value
//! 11  no xattr    number: 8. a name
//! 12  carried out request, file, request that is answered, or 0: 8 each
//! 13  answered    nothing: all requests are
//! 14  working copy  a path: where its root is
//! 15  in place    directory: 8. a path of the working copy: its names are in the directory, too
//! 16  graft       directory: 8. a name. a path of the working copy: what is there is in the directory under this name
//!
//! oid    length, 1: 20 or 32. so many bytes
//! time   seconds since 1970: 8. nanoseconds: 4
//! name   length, 2: 1 to 255. so many bytes
//! path   length, 2: 1 to 4095. so many bytes
//! ```

use std::sync::Arc;

use super::{Origin, Untrue};
use crate::Oid;
use crate::node::{
    Content, InPlace, Ino, Kind, LINK_BYTES_MAX, NAME_BYTES_MAX, Name, Node, Time, XATTR_BYTES_MAX,
    check_name,
};
use crate::objects::Revision;

/// One of the steps of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Origin(Origin),
    Next(u64),
    Node { ino: Ino, node: Node },
    Gone { ino: Ino },
    Directory { ino: Ino, parent: Ino, tree: Option<Oid>, first: u64, count: u32 },
    Parent { ino: Ino, parent: Ino },
    Name { directory: Ino, name: Name, ino: Ino, cookie: u64 },
    Whiteout { directory: Ino, name: Name },
    Unnamed { directory: Ino, name: Name },
    Xattr { ino: Ino, name: Box<[u8]>, value: Box<[u8]> },
    NoXattr { ino: Ino, name: Box<[u8]> },
    CarriedOut { request: u64, ino: Ino, answered: u64 },
    AllAnswered,
    WorkingCopy { path: Box<[u8]> },
    InPlace { directory: Ino, path: Box<[u8]> },
    Graft { directory: Ino, name: Name, path: Box<[u8]> },
}

mod tag {
    pub(super) const ORIGIN: u8 = 1;
    pub(super) const NEXT: u8 = 2;
    pub(super) const NODE: u8 = 3;
    pub(super) const GONE: u8 = 4;
    pub(super) const DIRECTORY: u8 = 5;
    pub(super) const PARENT: u8 = 6;
    pub(super) const NAME: u8 = 7;
    pub(super) const WHITEOUT: u8 = 8;
    pub(super) const UNNAMED: u8 = 9;
    pub(super) const XATTR: u8 = 10;
    pub(super) const NO_XATTR: u8 = 11;
    pub(super) const CARRIED_OUT: u8 = 12;
    pub(super) const ALL_ANSWERED: u8 = 13;
    pub(super) const WORKING_COPY: u8 = 14;
    pub(super) const IN_PLACE: u8 = 15;
    pub(super) const GRAFT: u8 = 16;
}

mod content {
    pub(super) const DIRECTORY: u8 = 0;
    pub(super) const WRITTEN: u8 = 1;
    pub(super) const BASE_FILE: u8 = 2;
    pub(super) const BASE_LINK: u8 = 3;
    pub(super) const SYMLINK: u8 = 4;
    pub(super) const FIFO: u8 = 5;
    pub(super) const SOCKET: u8 = 6;
    pub(super) const CHAR_DEVICE: u8 = 7;
    pub(super) const BLOCK_DEVICE: u8 = 8;
    pub(super) const FILE_IN_PLACE: u8 = 9;
    pub(super) const DIRECTORY_IN_PLACE: u8 = 10;
    pub(super) const LINK_IN_PLACE: u8 = 11;
}

impl Change {
    /// Appends it.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Change::Origin(Origin { revision, uid, gid, made }) => {
                to.push(tag::ORIGIN);
                put_oid(to, &revision.commit);
                put_oid(to, &revision.tree);
                to.extend_from_slice(&uid.to_le_bytes());
                to.extend_from_slice(&gid.to_le_bytes());
                put_time(to, *made);
            }
            Change::Next(next) => put_numbers(to, tag::NEXT, &[*next]),
            Change::Node { ino, node } => {
                put_numbers(to, tag::NODE, &[ino.0]);
                put_node(to, node);
            }
            Change::Gone { ino } => put_numbers(to, tag::GONE, &[ino.0]),
            Change::Directory { ino, parent, tree, first, count } => {
                put_numbers(to, tag::DIRECTORY, &[ino.0, parent.0, *first]);
                to.extend_from_slice(&count.to_le_bytes());
                match tree {
                    Some(tree) => put_oid(to, tree),
                    None => to.push(0),
                }
            }
            Change::Parent { ino, parent } => put_numbers(to, tag::PARENT, &[ino.0, parent.0]),
            Change::Name { directory, name, ino, cookie } => {
                put_numbers(to, tag::NAME, &[directory.0, ino.0, *cookie]);
                put_name(to, name);
            }
            Change::Whiteout { directory, name } => {
                put_numbers(to, tag::WHITEOUT, &[directory.0]);
                put_name(to, name);
            }
            Change::Unnamed { directory, name } => {
                put_numbers(to, tag::UNNAMED, &[directory.0]);
                put_name(to, name);
            }
            Change::Xattr { ino, name, value } => {
                put_numbers(to, tag::XATTR, &[ino.0]);
                put_name(to, name);
                to.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
                to.extend_from_slice(value);
            }
            Change::NoXattr { ino, name } => {
                put_numbers(to, tag::NO_XATTR, &[ino.0]);
                put_name(to, name);
            }
            Change::CarriedOut { request, ino, answered } => {
                put_numbers(to, tag::CARRIED_OUT, &[*request, ino.0, *answered]);
            }
            Change::AllAnswered => to.push(tag::ALL_ANSWERED),
            Change::WorkingCopy { path } => {
                to.push(tag::WORKING_COPY);
                put_short(to, path);
            }
            Change::InPlace { directory, path } => {
                put_numbers(to, tag::IN_PLACE, &[directory.0]);
                put_short(to, path);
            }
            Change::Graft { directory, name, path } => {
                put_numbers(to, tag::GRAFT, &[directory.0]);
                put_name(to, name);
                put_short(to, path);
            }
        }
    }
}

fn put_numbers(to: &mut Vec<u8>, tag: u8, numbers: &[u64]) {
    to.push(tag);
    numbers.iter().for_each(|number| to.extend_from_slice(&number.to_le_bytes()));
}

fn put_node(to: &mut Vec<u8>, node: &Node) {
    let Node { mode, uid, gid, links, device, accessed, modified, changed, content } = node;
    to.extend_from_slice(&mode.to_le_bytes());
    [uid, gid, links].iter().for_each(|number| to.extend_from_slice(&number.to_le_bytes()));
    to.extend_from_slice(&device.to_le_bytes());
    [accessed, modified, changed].iter().for_each(|time| put_time(to, **time));
    match content {
        Content::Directory => to.push(content::DIRECTORY),
        Content::Written => to.push(content::WRITTEN),
        Content::Base { is_link, oid, size } => {
            to.push(if *is_link { content::BASE_LINK } else { content::BASE_FILE });
            to.extend_from_slice(&size.to_le_bytes());
            put_oid(to, oid);
        }
        Content::Symlink(target) => {
            to.push(content::SYMLINK);
            put_short(to, target);
        }
        Content::Special(kind) => to.push(match kind {
            Kind::Socket => content::SOCKET,
            Kind::CharDevice => content::CHAR_DEVICE,
            Kind::BlockDevice => content::BLOCK_DEVICE,
            _ => content::FIFO,
        }),
        Content::InPlace { below, size } => {
            let tag = match below.kind {
                Kind::Directory => content::DIRECTORY_IN_PLACE,
                Kind::Symlink => content::LINK_IN_PLACE,
                _ => content::FILE_IN_PLACE,
            };
            put_numbers(to, tag, &[*size, below.directory.0, below.number]);
            put_short(to, &below.path);
        }
    }
}

fn put_time(to: &mut Vec<u8>, time: Time) {
    to.extend_from_slice(&time.seconds.to_le_bytes());
    to.extend_from_slice(&time.nanoseconds.to_le_bytes());
}

fn put_oid(to: &mut Vec<u8>, oid: &Oid) {
    to.push(u8::try_from(oid.as_slice().len()).unwrap_or(0));
    to.extend_from_slice(oid.as_slice());
}

fn put_name(to: &mut Vec<u8>, name: &[u8]) {
    put_short(to, name);
}

fn put_short(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
    to.extend_from_slice(bytes);
}

/// The changes of a record.
pub(crate) fn decode(record: &[u8]) -> Result<Vec<Change>, Untrue> {
    let (mut from, mut changes) = (Reader { left: record }, Vec::new());
    while !from.left.is_empty() {
        changes.push(from.change()?);
    }
    Ok(changes)
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn change(&mut self) -> Result<Change, Untrue> {
        Ok(match self.byte()? {
            tag::ORIGIN => Change::Origin(Origin {
                revision: Revision { commit: self.oid()?, tree: self.oid()? },
                uid: self.word()?,
                gid: self.word()?,
                made: self.time()?,
            }),
            tag::NEXT => Change::Next(self.number()?),
            tag::NODE => Change::Node { ino: self.ino()?, node: self.node()? },
            tag::GONE => Change::Gone { ino: self.ino()? },
            tag::DIRECTORY => Change::Directory {
                ino: self.ino()?,
                parent: self.ino()?,
                first: self.number()?,
                count: self.word()?,
                tree: self.optional_oid()?,
            },
            tag::PARENT => Change::Parent { ino: self.ino()?, parent: self.ino()? },
            tag::NAME => {
                let (directory, ino, cookie) = (self.ino()?, self.ino()?, self.number()?);
                Change::Name { directory, name: self.name()?, ino, cookie }
            }
            tag::WHITEOUT => Change::Whiteout { directory: self.ino()?, name: self.name()? },
            tag::UNNAMED => Change::Unnamed { directory: self.ino()?, name: self.name()? },
            tag::XATTR => Change::Xattr { ino: self.ino()?, name: self.xattr()?, value: self.value()? },
            tag::NO_XATTR => Change::NoXattr { ino: self.ino()?, name: self.xattr()? },
            tag::CARRIED_OUT => {
                Change::CarriedOut { request: self.number()?, ino: self.ino()?, answered: self.number()? }
            }
            tag::ALL_ANSWERED => Change::AllAnswered,
            tag::WORKING_COPY => Change::WorkingCopy { path: self.path()? },
            tag::IN_PLACE => Change::InPlace { directory: self.ino()?, path: self.path()? },
            tag::GRAFT => Change::Graft { directory: self.ino()?, name: self.name()?, path: self.path()? },
            _ => return Err(Untrue("a change that this release does not know")),
        })
    }

    fn node(&mut self) -> Result<Node, Untrue> {
        let mode = self.short()?;
        let (uid, gid, links, device) = (self.word()?, self.word()?, self.word()?, self.number()?);
        let (accessed, modified, changed) = (self.time()?, self.time()?, self.time()?);
        if mode > 0o7777 {
            return Err(Untrue("a mode that no file can have"));
        }
        let content = match self.byte()? {
            content::DIRECTORY => Content::Directory,
            content::WRITTEN => Content::Written,
            content::BASE_FILE => Content::Base { is_link: false, size: self.number()?, oid: self.oid()? },
            content::BASE_LINK => Content::Base { is_link: true, size: self.number()?, oid: self.oid()? },
            content::SYMLINK => Content::Symlink(self.short_bytes(LINK_BYTES_MAX)?.into()),
            content::FIFO => Content::Special(Kind::Fifo),
            content::SOCKET => Content::Special(Kind::Socket),
            content::CHAR_DEVICE => Content::Special(Kind::CharDevice),
            content::BLOCK_DEVICE => Content::Special(Kind::BlockDevice),
            content::FILE_IN_PLACE => self.in_place(Kind::File)?,
            content::DIRECTORY_IN_PLACE => self.in_place(Kind::Directory)?,
            content::LINK_IN_PLACE => self.in_place(Kind::Symlink)?,
            _ => return Err(Untrue("a content that this release does not know")),
        };
        Ok(Node { content, mode, uid, gid, links, device, accessed, modified, changed })
    }

    fn in_place(&mut self, kind: Kind) -> Result<Content, Untrue> {
        let (size, directory, number) = (self.number()?, self.ino()?, self.number()?);
        let below = InPlace { kind, directory, number, path: self.path()? };
        Ok(Content::InPlace { below: Arc::new(below), size })
    }

    fn path(&mut self) -> Result<Box<[u8]>, Untrue> {
        Ok(self.short_bytes(LINK_BYTES_MAX)?.into())
    }

    fn name(&mut self) -> Result<Name, Untrue> {
        let name = self.short_bytes(NAME_BYTES_MAX)?;
        check_name(name).map_err(|_| Untrue("a name that no file can have"))?;
        Ok(name.into())
    }

    fn xattr(&mut self) -> Result<Box<[u8]>, Untrue> {
        Ok(self.short_bytes(NAME_BYTES_MAX)?.into())
    }

    fn value(&mut self) -> Result<Box<[u8]>, Untrue> {
        let length = self.word()? as usize;
        if length > XATTR_BYTES_MAX {
            return Err(Untrue("a value that is too long"));
        }
        Ok(self.take(length)?.into())
    }

    fn short_bytes(&mut self, most: usize) -> Result<&'a [u8], Untrue> {
        let length = usize::from(self.short()?);
        if !(1..=most).contains(&length) {
            return Err(Untrue("a name that is empty or too long"));
        }
        self.take(length)
    }

    fn optional_oid(&mut self) -> Result<Option<Oid>, Untrue> {
        match self.byte()? {
            0 => Ok(None),
            length @ (20 | 32) => Ok(Some(Oid::from_bytes_or_panic(self.take(length.into())?))),
            _ => Err(Untrue("an object's number of a length that there is not")),
        }
    }

    fn oid(&mut self) -> Result<Oid, Untrue> {
        self.optional_oid()?.ok_or(Untrue("an object's number is not there"))
    }

    fn time(&mut self) -> Result<Time, Untrue> {
        let time = Time { seconds: self.number()?.cast_signed(), nanoseconds: self.word()? };
        if time.nanoseconds < 1_000_000_000 { Ok(time) } else { Err(Untrue("a time that is none")) }
    }

    fn ino(&mut self) -> Result<Ino, Untrue> {
        Ok(Ino(self.number()?))
    }

    fn byte(&mut self) -> Result<u8, Untrue> {
        Ok(self.array::<1>()?[0])
    }

    fn short(&mut self) -> Result<u16, Untrue> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn word(&mut self) -> Result<u32, Untrue> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<u64, Untrue> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Untrue> {
        let (array, left) = self.left.split_first_chunk().ok_or(CUT)?;
        self.left = left;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Untrue> {
        let (taken, left) = self.left.split_at_checked(length).ok_or(CUT)?;
        self.left = left;
        Ok(taken)
    }
}

/// A whole record ends within a change.
const CUT: Untrue = Untrue("a change is cut short");

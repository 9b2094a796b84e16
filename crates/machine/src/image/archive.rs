//! Archives of root file systems: tar, as it is, or packed by gzip or zstd.
//!
//! An archive is read twice. First all of it is put together as a [`Tree`], within limits and without a file being made of it;
//! then the contents of those files that are left go where the file system has them. An archive that has changed in between is
//! refused. What is in it is not trusted: no name of it is ever a name on this computer.
//!
//! Devices, set-user-id bits and capabilities are taken over: they mean something in the guest alone.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};
use wire::api::ErrorKind;

use super::digest::{Digest, Hasher};
use super::ext4::{CAPABILITY_BYTES_MAX, Ext4};
use super::tree::{Content, Kind, NodeId, Owner, Tree};
use crate::course::Course;
use crate::error::{Error, Result};

/// The most that an archive unpacks to.
pub const UNPACKED_BYTES_MAX: u64 = 64 << 30;

/// The longest of the entries that only say something of the next one: it has a path or two and some attributes.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// The most of them before an entry.
const EXTENSIONS_MAX: usize = 8;

const BLOCK_BYTES: usize = 512;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 << 10;

const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// An archive that is read from its beginning to its end.
pub(super) struct Archive<R> {
    stream: R,
    /// Which of the archives it is that a tree is made of.
    layer: u32,
    /// Of the entry that was read last: what there is yet of its content, and behind it up to the next one.
    left: u64,
    padding: u64,
    entries: u64,
}

/// An entry of an archive.
#[derive(Debug)]
pub(super) struct Entry {
    number: u64,
    /// As the archive has it.
    pub path: Vec<u8>,
    /// What it is.
    pub item: Item,
    /// Whose it is.
    pub owner: Owner,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum Item {
    /// A file of any kind.
    File(Kind),
    /// Another name of what has this path.
    Name(Vec<u8>),
}

/// What entries before an entry say of it.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    bytes: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<u64>,
    capability: Option<Box<[u8]>>,
}

/// What is in an archive. Blocks.
pub fn scan(path: &Path, course: &Course) -> Result<Tree> {
    let mut tree = Tree::default();
    let told = |error: Error| Error { message: format!("`{}`: {}", path.display(), error.message), ..error };
    let mut archive = Archive::new(open(path, UNPACKED_BYTES_MAX, course)?, 0);
    while let Some(entry) = archive.next().map_err(told)? {
        let put = match entry.item {
            Item::File(kind) => tree.put(&entry.path, kind, entry.owner),
            Item::Name(of) => tree.link(&entry.path, &of),
        };
        put.map_err(told)?;
    }
    Ok(tree)
}

/// A layer, to be read within so many bytes, with the digest of what it unpacks to.
pub(super) fn open_layer<'a>(
    path: &Path,
    layer: u32,
    left: u64,
    course: &'a Course,
) -> Result<Archive<Bounded<'a>>> {
    let stream = Bounded { hasher: Some(Hasher::default()), ..open(path, left, course)? };
    Ok(Archive::new(stream, layer))
}

/// Writes the contents of those files that are in the tree, of the archives that it was made of. Blocks.
pub fn fill(paths: &[PathBuf], tree: &Tree, ext4: &Ext4<'_>, course: &Course) -> Result<()> {
    let mut wanted = vec![HashMap::new(); paths.len()];
    for id in tree.walk() {
        if let Kind::File { bytes, content } = tree.node(id).kind {
            wanted[content.layer as usize].insert(content.entry, (id, bytes));
        }
    }
    let contents = paths.iter().zip(wanted).enumerate();
    for (layer, (path, wanted)) in contents.filter(|(_, (_, wanted))| !wanted.is_empty()) {
        let mut archive = Archive::new(open(path, UNPACKED_BYTES_MAX, course)?, layer as u32);
        fill_from(&mut archive, wanted, path, ext4)?;
    }
    Ok(())
}

fn fill_from(
    archive: &mut Archive<Bounded<'_>>,
    mut wanted: HashMap<u64, (NodeId, u64)>,
    path: &Path,
    ext4: &Ext4<'_>,
) -> Result<()> {
    let changed =
        || Error::new(ErrorKind::Conflict, format!("`{}` has changed while it was read", path.display()));
    while !wanted.is_empty() {
        let entry = archive.next()?.ok_or_else(changed)?;
        let Some((id, bytes)) = wanted.remove(&entry.number) else { continue };
        match entry.item {
            Item::File(Kind::File { bytes: found, .. }) if found == bytes => {
                ext4.fill(id, &mut archive.content())?;
            }
            _ => return Err(changed()),
        }
    }
    Ok(())
}

/// Opens an archive, whatever it is packed by.
fn open<'a>(path: &Path, left: u64, course: &'a Course) -> Result<Bounded<'a>> {
    const GZIP: &[u8] = b"\x1f\x8b";
    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
    const OTHERS: [(&[u8], &str); 3] = [(b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"), (b"PK\x03\x04", "zip")];
    let failed = |error| Error::file("read", path, &error);
    // A pipe that nobody writes to would be waited for to open.
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::new(ErrorKind::Usage, format!("`{}` is no regular file", path.display())));
    }
    let mut file: BufReader<File> = BufReader::with_capacity(CHUNK_BYTES, file);
    let start = file.fill_buf().map_err(failed)?;
    if let Some((_, name)) = OTHERS.into_iter().find(|(mark, _)| start.starts_with(mark)) {
        let message = format!("`{}` is packed by {name}", path.display());
        return Err(
            Error::new(ErrorKind::Usage, message).hint("unpack it to a tar, or pack that by gzip or zstd")
        );
    }
    let stream: Box<dyn Read> = match start {
        _ if start.starts_with(GZIP) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        _ if start.starts_with(ZSTD) => {
            Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?)
        }
        _ => Box::new(file),
    };
    Ok(Bounded { stream: BufReader::with_capacity(CHUNK_BYTES, stream), left, hasher: None, course })
}

/// A stream that ends with an error when it is too long, or nobody wants it any more.
pub(super) struct Bounded<'a> {
    stream: BufReader<Box<dyn Read>>,
    left: u64,
    /// Of all that was read, if somebody wants to know.
    hasher: Option<Hasher>,
    course: &'a Course,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stream.buffer().is_empty() {
            self.course.check().map_err(io::Error::other)?;
        }
        let read = self.stream.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            let message =
                format!("it unpacks to more than the {} GiB that are allowed", UNPACKED_BYTES_MAX >> 30);
            io::Error::other(Error::new(ErrorKind::Usage, message))
        })?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        Ok(read)
    }
}

impl Archive<Bounded<'_>> {
    /// Reads on to the end of the stream. Returns the digest of all of it, and how much might have been read yet.
    pub(super) fn end(mut self) -> Result<(Digest, u64)> {
        io::copy(&mut self.stream, &mut io::sink()).map_err(unreadable)?;
        Ok((self.stream.hasher.unwrap_or_default().end(), self.stream.left))
    }
}

/// An error of a stream: what its reader says, or that it is none of an archive.
fn unreadable(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => broken("it is cut off"),
        _ => broken(&error.to_string()),
    })
}

fn broken(why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("the archive cannot be read: {why}"))
}

impl<R: Read> Archive<R> {
    fn new(stream: R, layer: u32) -> Archive<R> {
        Archive { stream, layer, left: 0, padding: 0, entries: 0 }
    }

    /// The next entry. What is left of the content of the one before it is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        for _ in 0..=EXTENSIONS_MAX {
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => {
                    let text = self.extension(&header)?;
                    extensions.read(&text)?;
                }
                EntryType::GNULongName => extensions.path = Some(text_of(self.extension(&header)?)),
                EntryType::GNULongLink => extensions.target = Some(text_of(self.extension(&header)?)),
                // It is for all entries, and says nothing that is taken over.
                EntryType::XGlobalHeader => drop(self.extension(&header)?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
        Err(broken("an entry is behind too many others that describe it"))
    }

    /// The content of the entry that was read last.
    fn content(&mut self) -> impl Read {
        let content = (&mut self.stream).take(self.left);
        self.left = 0;
        content
    }

    /// The next header; none at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let between = self.left + std::mem::take(&mut self.padding);
        self.left = 0;
        let passed = io::copy(&mut (&mut self.stream).take(between), &mut io::sink()).map_err(unreadable)?;
        if passed < between {
            return Err(broken("it is cut off"));
        }
        let mut block = [0; BLOCK_BYTES];
        let mut first = (&mut self.stream).take(1);
        if first.read(&mut block[..1]).map_err(unreadable)? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut block[1..]).map_err(unreadable)?;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The sum is taken with eight spaces in its own place.
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let expected = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
        match header.cksum() {
            Ok(found) if found == expected => Ok(Some(header)),
            _ => Err(broken("it is no tar, or damaged")),
        }
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let bytes = number(header.entry_size())?;
        if bytes > EXTENSION_BYTES_MAX {
            return Err(broken("what it says of an entry is too long"));
        }
        self.begin_content(bytes);
        let mut text = Vec::new();
        let read = self.content().read_to_end(&mut text).map_err(unreadable)?;
        if read as u64 == bytes { Ok(text) } else { Err(broken("it is cut off")) }
    }

    fn begin_content(&mut self, bytes: u64) {
        self.left = bytes;
        self.padding = bytes.wrapping_neg() % BLOCK_BYTES as u64;
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let target = match extensions.target {
            Some(target) => target,
            None => header.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default(),
        };
        let whole = |of: Option<u64>, from: io::Result<u64>| of.map_or_else(|| number(from), Ok);
        let id = |of: u64| u32::try_from(of).map_err(|_| broken("an owner is no user"));
        let owner = Owner {
            // The highest bits are those of the file's kind.
            mode: (header.mode().map_err(unreadable)? & 0o7777) as u16,
            uid: id(whole(extensions.uid, header.uid())?)?,
            gid: id(whole(extensions.gid, header.gid())?)?,
            modified: whole(extensions.modified, header.mtime())?,
            capability: extensions.capability,
        };
        let number = self.entries;
        self.entries += 1;
        let item = match header.entry_type() {
            // So directories were told before they had a kind.
            EntryType::Regular if path.ends_with(b"/") => Item::File(Kind::Directory(Default::default())),
            EntryType::Regular | EntryType::Continuous => {
                let bytes = whole(extensions.bytes, header.entry_size())?;
                if bytes > UNPACKED_BYTES_MAX {
                    let message = format!("it has a file of more than {} GiB", UNPACKED_BYTES_MAX >> 30);
                    return Err(Error::new(ErrorKind::Usage, message));
                }
                self.begin_content(bytes);
                Item::File(Kind::File { bytes, content: Content { layer: self.layer, entry: number } })
            }
            EntryType::Directory => Item::File(Kind::Directory(Default::default())),
            EntryType::Symlink => Item::File(Kind::Link(target.into())),
            EntryType::Link => Item::Name(target),
            EntryType::Char => Item::File(device(header, Kind::Characters)?),
            EntryType::Block => Item::File(device(header, Kind::Blocks)?),
            EntryType::Fifo => Item::File(Kind::Pipe),
            EntryType::GNUSparse => return Err(sparse()),
            other => {
                return Err(broken(&format!(
                    "it has an entry of the unknown kind {:?}",
                    other.as_byte() as char
                )));
            }
        };
        Ok(Entry { number, path, item, owner })
    }
}

fn sparse() -> Error {
    broken("it has files with holes").hint("make it without --sparse")
}

fn number(read: io::Result<u64>) -> Result<u64> {
    read.map_err(|error| broken(&error.to_string()))
}

fn device(header: &Header, kind: fn(u32, u32) -> Kind) -> Result<Kind> {
    let part = |read: io::Result<Option<u32>>| Ok(read.map_err(unreadable)?.unwrap_or_default());
    let (major, minor) = (part(header.device_major())?, part(header.device_minor())?);
    // What the kernel keeps of them.
    match major < 1 << 12 && minor < 1 << 20 {
        true => Ok(kind(major, minor)),
        false => Err(broken("a device has a number that no kernel takes")),
    }
}

/// A path in an entry of its own ends with a zero byte.
fn text_of(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() == Some(&0) {
        text.pop();
    }
    text
}

impl Extensions {
    /// Each is its length, a space, a key, `=`, a value of any bytes, and a newline.
    fn read(&mut self, mut text: &[u8]) -> Result<()> {
        while !text.is_empty() {
            let (key, value, rest) =
                extension(text).ok_or_else(|| broken("what it says of an entry is damaged"))?;
            self.take(key, value)?;
            text = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let whole = || -> Result<u64> {
            let text = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            text.ok_or_else(|| broken("a number is none"))
        };
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.target = Some(value.to_vec()),
            b"size" => self.bytes = Some(whole()?),
            b"uid" => self.uid = Some(whole()?),
            b"gid" => self.gid = Some(whole()?),
            b"mtime" => self.modified = Some(seconds(value)),
            b"SCHILY.xattr.security.capability" => {
                if value.len() > CAPABILITY_BYTES_MAX {
                    return Err(broken("a file has capabilities that no kernel takes"));
                }
                self.capability = Some(value.into());
            }
            key if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
            _ => {}
        }
        Ok(())
    }
}

/// The first key and value, and what is behind them.
fn extension(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = text.iter().position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    let record = text.get(digits + 1..length)?.strip_suffix(b"\n")?;
    let end = record.iter().position(|&byte| byte == b'=')?;
    Some((&record[..end], &record[end + 1..], &text[length..]))
}

/// The whole seconds since 1970, of a number that may have a sign and digits after a point. What was before is 1970.
fn seconds(text: &[u8]) -> u64 {
    let whole = text.split(|&byte| byte == b'.').next().unwrap_or_default();
    std::str::from_utf8(whole).ok().and_then(|whole| whole.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! The kernel as an engine boots it fastest: not packed.
//!
//! A distribution's `vmlinuz` is a bzImage: a program that unpacks the real kernel, which takes an emulated processor seconds.
//! The kernel within is an ELF file, and has an entry for hypervisors (PVH). Of a bzImage (the kernel's
//! `Documentation/arch/x86/boot.rst`):
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0x1f1 | 1 | sectors of set-up after the first one |
//! | 0x202 | 4 | `HdrS` |
//! | 0x248 | 4 | where the packed kernel is, from the end of the set-up |
//! | 0x24c | 4 | its length; the last four bytes are the length of the kernel |
//!
//! It is packed by LZ4 in its old format (`02 21 4c 18`, then blocks, each after its length in four bytes) or by zstd.

use std::io::Read;
use std::path::Path;

use wire::api::ErrorKind;

use crate::error::{Error, Result};

/// The longest file that is taken for a kernel.
pub const KERNEL_BYTES_MAX: u64 = 256 << 20;

/// How much a block of LZ4's old format holds.
const BLOCK_BYTES_MAX: usize = 8 << 20;

const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

const ELF: &[u8] = b"\x7fELF";
const LZ4: &[u8] = b"\x02\x21\x4c\x18";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const GZIP: &[u8] = b"\x1f\x8b";
const XZ: &[u8] = b"\xfd7zXZ";

/// Reads a kernel, and unpacks it if it is packed. Blocks.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let content = read_bounded(path, KERNEL_BYTES_MAX)?;
    unpack(&content).map_err(|why| {
        Error::new(ErrorKind::Usage, format!("`{}` is no kernel that can be booted: {why}", path.display()))
            .hint("a vmlinuz of x86-64 that is packed by lz4 or zstd, or a vmlinux, can be")
    })
}

/// A whole file, if it is not longer than that. What is no regular file is refused, and not waited for.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |error| Error::file("read", path, &error);
    let mut options = std::fs::OpenOptions::new();
    // A pipe that nobody writes to would be waited for to open.
    let file = options.read(true).custom_flags(NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::new(ErrorKind::Usage, format!("`{}` is no regular file", path.display())));
    }
    let mut content = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > bytes_max {
        let message = format!("`{}` is longer than {bytes_max} bytes", path.display());
        return Err(Error::new(ErrorKind::Usage, message));
    }
    Ok(content)
}

/// The ELF file within, or why there is none.
pub fn unpack(kernel: &[u8]) -> std::result::Result<Vec<u8>, String> {
    if kernel.starts_with(ELF) {
        return Ok(kernel.to_vec());
    }
    let packed = packed(kernel).ok_or("it is neither an ELF file nor a bzImage")?;
    let (packed, length) = packed.split_at(packed.len().saturating_sub(4));
    let length: [u8; 4] = length.try_into().map_err(|_| "it is cut off")?;
    let length = u32::from_le_bytes(length) as usize;
    if length as u64 > KERNEL_BYTES_MAX {
        return Err(format!("it says that it has {length} bytes"));
    }
    let unpacked = match packed {
        _ if packed.starts_with(LZ4) => unpack_lz4(&packed[LZ4.len()..], length)?,
        _ if packed.starts_with(ZSTD) => unpack_zstd(packed, length)?,
        _ if packed.starts_with(GZIP) => return Err("it is packed by gzip".to_owned()),
        _ if packed.starts_with(XZ) => return Err("it is packed by xz".to_owned()),
        _ => return Err("it is packed in an unknown way".to_owned()),
    };
    match unpacked.len() == length && unpacked.starts_with(ELF) {
        true => Ok(unpacked),
        false => Err("what is packed in it is no kernel".to_owned()),
    }
}

fn packed(kernel: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| -> Option<usize> {
        let bytes = kernel.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if kernel.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup = (usize::from(*kernel.get(0x1f1)?) + 1) * 512;
    let start = setup.checked_add(word(0x248)?)?;
    kernel.get(start..start.checked_add(word(0x24c)?)?)
}

fn unpack_zstd(packed: &[u8], length: usize) -> std::result::Result<Vec<u8>, String> {
    let mut unpacked = Vec::with_capacity(length);
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(|error| error.to_string())?;
    let mut decoder = decoder.single_frame().take(length as u64 + 1);
    decoder.read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
    Ok(unpacked)
}

fn unpack_lz4(mut packed: &[u8], length: usize) -> std::result::Result<Vec<u8>, String> {
    let mut unpacked = Vec::with_capacity(length);
    while let Some((size, rest)) = packed.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        let block = rest.get(..size).ok_or("it is cut off")?;
        unpack_block(block, &mut unpacked, length).ok_or("it is damaged")?;
        packed = &rest[size..];
    }
    Ok(unpacked)
}

/// One block: literals and copies of what was before them in the block, in turns.
fn unpack_block(mut block: &[u8], out: &mut Vec<u8>, length: usize) -> Option<()> {
    let start = out.len();
    let most = length.min(start + BLOCK_BYTES_MAX);
    while let Some((&token, rest)) = block.split_first() {
        block = rest;
        let literals = number(usize::from(token >> 4), &mut block)?;
        if literals > most - out.len() {
            return None;
        }
        out.extend_from_slice(block.get(..literals)?);
        block = &block[literals..];
        // The last part has literals only.
        let Some((back, rest)) = block.split_first_chunk::<2>() else {
            return block.is_empty().then_some(());
        };
        block = rest;
        let back = usize::from(u16::from_le_bytes(*back));
        let copied = number(usize::from(token & 15), &mut block)? + 4;
        let from = out.len().checked_sub(back).filter(|from| back > 0 && *from >= start)?;
        if copied > most - out.len() {
            return None;
        }
        // What is copied may be part of the copy.
        for at in from..from + copied {
            out.push(out[at]);
        }
    }
    Some(())
}

/// A length: four bits, and further bytes when these are all ones.
fn number(bits: usize, block: &mut &[u8]) -> Option<usize> {
    let mut number = bits;
    if bits < 15 {
        return Some(number);
    }
    loop {
        let (&byte, rest) = block.split_first()?;
        *block = rest;
        number = number.checked_add(usize::from(byte))?;
        if byte < 255 {
            return Some(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A bzImage with this in it.
    fn image(packed: &[u8], length: usize) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
        image.extend(packed);
        image.extend((length as u32).to_le_bytes());
        image
    }

    fn kernel() -> Vec<u8> {
        ELF.iter().copied().chain((0..100_000_u32).map(|at| (at / 1000) as u8)).collect()
    }

    #[test]
    fn a_kernel_that_is_not_packed_is_itself() {
        assert_eq!(unpack(&kernel()).unwrap(), kernel());
    }

    #[test]
    fn a_kernel_packed_by_zstd_is_unpacked() {
        let packed = zstd::stream::encode_all(&kernel()[..], 3).unwrap();
        assert_eq!(unpack(&image(&packed, kernel().len())).unwrap(), kernel());
        let error = unpack(&image(&packed, kernel().len() - 1)).unwrap_err();
        assert!(error.contains("no kernel"), "{error}");
    }

    #[test]
    fn a_kernel_packed_by_lz4_is_unpacked() {
        // `\x7fELF` and a byte, of which 18 more and then three are made.
        let block = [0x5e, 0x7f, b'E', b'L', b'F', b'x', 1, 0, 0x30, b'e', b'n', b'd'];
        let packed = [LZ4, &(block.len() as u32).to_le_bytes(), &block].concat();
        let whole = [ELF, &[b'x'; 19], b"end"].concat();
        assert_eq!(unpack(&image(&packed, whole.len())).unwrap(), whole);
        for wrong in [whole.len() - 1, whole.len() + 1] {
            assert!(unpack(&image(&packed, wrong)).is_err(), "{wrong}");
        }
        for length in 0..packed.len() {
            assert!(unpack(&image(&packed[..length], whole.len())).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let pipe = scratch.path().join("vmlinuz");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        for path in [&pipe, Path::new("/dev/zero"), scratch.path()] {
            let error = read(path).unwrap_err();
            assert!(error.kind == ErrorKind::Usage && error.message.contains("regular"), "{error}");
        }
    }

    #[test]
    fn what_is_packed_otherwise_is_named() {
        assert!(unpack(&image(GZIP, 9)).unwrap_err().contains("gzip"));
        assert!(unpack(b"#!/bin/sh\n").unwrap_err().contains("bzImage"));
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0..2000usize) {
            drop(unpack(&image(&[LZ4, &(bytes.len() as u32).to_le_bytes(), &bytes].concat(), length)));
            drop(unpack(&image(&[ZSTD, &bytes].concat(), length)));
            drop(unpack(&bytes));
        }
    }
}

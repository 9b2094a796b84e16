//! What a microVM needs of this computer, looked at before anything is made, and by `stead doctor`.
//!
//! A guest takes memory as it touches it, and its disk takes room as it is written to. So what has to be there is what it boots with,
//! and not what it may come to.

use std::path::Path;

use wire::api::ErrorKind;
use wire::api::vm::MEMORY_MIB_MIN;

use crate::disk::QEMU_IMG;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::kernel::read_bounded;
use crate::program::need;

/// Room for what is written at a start, an initial file system of some MiB and two logs of one MiB each, and for a guest's first
/// words on its disk.
pub const DISK_FREE_BYTES_MIN: u64 = 64 << 20;

/// The longest table of this computer's memory.
const MEMORY_TABLE_BYTES_MAX: u64 = 64 << 10;

/// Whether there is room for what a start writes, and how much. Blocks.
pub fn disk_space(directory: &Path) -> Result<String> {
    // It is made with the first microVM.
    let mut there = directory.ancestors().filter(|directory| directory.is_dir());
    let place = there.next().unwrap_or(Path::new("/"));
    let found = rustix::fs::statvfs(place).map_err(|errno| Error::file("look at", place, &errno.into()))?;
    enough_room(place, found.f_bavail.saturating_mul(found.f_frsize))
}

fn enough_room(place: &Path, free: u64) -> Result<String> {
    let mebibytes = free >> 20;
    match free >= DISK_FREE_BYTES_MIN {
        true => Ok(format!("{mebibytes} MiB free")),
        false => {
            let least = DISK_FREE_BYTES_MIN >> 20;
            let message =
                format!("there are {mebibytes} MiB free in `{}`, and a vm needs {least}", place.display());
            Err(Error::new(ErrorKind::Failure, message).hint("stead image list shows what images take there"))
        }
    }
}

/// Whether a guest with this much memory can boot now, and how much there is. Blocks.
pub fn memory(memory_mib: u32) -> Result<String> {
    let table = read_bounded(Path::new("/proc/meminfo"), MEMORY_TABLE_BYTES_MAX)?;
    enough_memory(&String::from_utf8_lossy(&table), memory_mib)
}

fn enough_memory(table: &str, memory_mib: u32) -> Result<String> {
    let line = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).map(|kib| kib >> 10)
    };
    let (Some(total), Some(available)) = (line("MemTotal"), line("MemAvailable")) else {
        // What is not said cannot be too little.
        return Ok("unknown".to_owned());
    };
    let (all, free) = (total + line("SwapTotal").unwrap_or(0), available + line("SwapFree").unwrap_or(0));
    if u64::from(memory_mib) > all {
        let message =
            format!("this computer has {all} MiB of memory, less than the {memory_mib} MiB of the vm");
        return Err(Error::new(ErrorKind::Conflict, message).hint("stead vm set NAME --memory SIZE"));
    }
    let least = u64::from(memory_mib.min(MEMORY_MIB_MIN));
    if free < least {
        let message = format!("this computer has {free} MiB of memory free, and a guest boots with {least}");
        return Err(Error::new(ErrorKind::Conflict, message).hint("stead vm list shows what runs"));
    }
    Ok(format!("{available} MiB free"))
}

/// Whether what makes disks is there. Blocks.
pub fn disk_program() -> Result<String> {
    let program = need(QEMU_IMG.name, QEMU_IMG.package)?;
    Ok(program.display().to_string())
}

/// Whether what a guest boots from is there whole, by its length. Blocks.
pub fn image(image: &Image) -> Result<()> {
    let parts = [(image.kernel(), image.manifest.kernel.bytes), (image.root(), image.manifest.root.bytes)];
    for (path, bytes) in parts {
        let is = match std::fs::metadata(&path) {
            Ok(found) if found.len() == bytes => continue,
            Ok(found) => format!("has {} bytes, and the image had {bytes}", found.len()),
            Err(error) => format!("cannot be looked at: {error}"),
        };
        // Another image of that name would not do: what the guest has written is over this one.
        let hint = format!("put it back as it was: vms of the image `{}` need it", image.name);
        let message = format!("the image `{}` is damaged: `{}` {is}", image.name, path.display());
        return Err(Error::new(ErrorKind::Failure, message).hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_enough_for_what_a_guest_boots_with() {
        let table = |total: u64, available: u64, swap: u64| {
            let [total, available, swap] = [total, available, swap].map(|mib| mib << 10);
            format!(
                "MemTotal: {total} kB\nMemAvailable:  {available} kB\nSwapTotal: {swap} kB\nSwapFree: {swap} kB\n"
            )
        };
        assert_eq!(enough_memory(&table(4096, 200, 0), 2048).unwrap(), "200 MiB free");
        enough_memory(&table(4096, 100, 100), 2048).unwrap();
        for (table, memory, said) in [
            (table(4096, 100, 0), 2048, "boots with 128"),
            (table(1024, 900, 0), 2048, "less than the 2048 MiB"),
        ] {
            let error = enough_memory(&table, memory).unwrap_err();
            assert!(error.message.contains(said) && error.hint.is_some(), "{error}");
        }
        assert_eq!(enough_memory("", 2048).unwrap(), "unknown");
    }

    #[test]
    fn room_is_looked_for_where_the_directory_will_be() {
        let place = Path::new("/somewhere");
        enough_room(place, DISK_FREE_BYTES_MIN).unwrap();
        let error = enough_room(place, DISK_FREE_BYTES_MIN - 1).unwrap_err();
        assert!(error.message.contains("63 MiB free in `/somewhere`") && error.hint.is_some(), "{error}");
        let scratch = tempfile::tempdir().unwrap();
        let said = |directory: &Path| disk_space(directory).map(|said| said.contains("MiB"));
        assert!(said(&scratch.path().join("not/there")).is_ok_and(|is_said| is_said));
    }

    #[test]
    fn an_image_that_is_not_whole_is_not_booted() {
        use crate::image::{Content, Manifest};
        let scratch = tempfile::tempdir().unwrap();
        let content = |bytes| Content { bytes, blake3: String::new() };
        let manifest =
            Manifest { version: 1, kernel: content(3), root: content(4), created: 0, origin: None };
        let found = Image { name: "tiny".to_owned(), directory: scratch.path().to_owned(), manifest };
        std::fs::write(found.kernel(), "123").unwrap();
        let missing = image(&found).unwrap_err();
        std::fs::write(found.root(), "123").unwrap();
        let short = image(&found).unwrap_err();
        for error in [missing, short] {
            assert_eq!(error.kind, ErrorKind::Failure);
            assert!(error.hint.is_some_and(|hint| hint.contains("put it back")));
        }
        std::fs::write(found.root(), "1234").unwrap();
        image(&found).unwrap();
    }
}

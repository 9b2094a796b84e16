//! Those modules of a kernel without which a guest does not find its disk and its ports, in the order in which they load.
//!
//! What a module needs is in its section `.modinfo`: words that end with a zero byte, `depends=A,B` among them. `depmod` need
//! not have run. `modules.builtin` names those that are parts of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use wire::api::ErrorKind;

use crate::error::{Error, Result};
use crate::kernel::read_bounded;

/// What a guest has to have.
const NEEDED: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_console", "ext4"];

/// What it is better off with.
const WANTED: [&str; 5] = ["crc32c_generic", "virtio_rng", "virtio_net", "button", "overlay"];

/// The longest module.
const MODULE_BYTES_MAX: u64 = 32 << 20;

/// The most modules that a guest is given. It needs less than twenty.
pub(crate) const MODULES_MAX: usize = 256;

/// The most that they have together.
pub(crate) const MODULES_BYTES_MAX: u64 = 128 << 20;

/// The longest list of parts of the kernel.
const LIST_BYTES_MAX: u64 = 4 << 20;

/// The most files below a kernel's directory of modules.
const FILES_MAX: usize = 50_000;

/// A module, as it is loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// Of its file.
    pub name: String,
    /// Of its file, unpacked.
    pub content: Vec<u8>,
}

/// The modules that a guest is given, of the kernel whose modules are in `directory`: `lib/modules/VERSION`. Blocks.
pub fn gather(directory: &Path) -> Result<Vec<Module>> {
    let list = directory.join("modules.builtin");
    let builtin = read_bounded(&list, LIST_BYTES_MAX)?;
    let builtin: BTreeSet<String> =
        String::from_utf8_lossy(&builtin).lines().filter_map(|line| name_of(Path::new(line))).collect();
    let files = files(directory)?;
    let (taken, modules) = (BTreeSet::new(), Vec::new());
    let mut gathering = Gathering { directory, builtin, files, taken, left: MODULES_BYTES_MAX, modules };
    for name in WANTED.into_iter().take(1).chain(NEEDED).chain(WANTED.into_iter().skip(1)) {
        gathering.take(name, NEEDED.contains(&name))?;
    }
    Ok(gathering.modules)
}

struct Gathering<'a> {
    directory: &'a Path,
    builtin: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
    /// By name, with those that are not there.
    taken: BTreeSet<String>,
    /// How many bytes modules may have yet.
    left: u64,
    modules: Vec<Module>,
}

impl Gathering<'_> {
    /// A module after those that it needs. It is no deeper than modules are many.
    fn take(&mut self, name: &str, is_needed: bool) -> Result<()> {
        if self.builtin.contains(name) || !self.taken.insert(name.to_owned()) {
            return Ok(());
        }
        if self.taken.len() > MODULES_MAX {
            return Err(self.too_much(&format!("more than {MODULES_MAX} modules")));
        }
        let Some(path) = self.files.get(name).cloned() else {
            if !is_needed {
                return Ok(());
            }
            let message = format!("there is no module `{name}` in `{}`", self.directory.display());
            return Err(Error::new(ErrorKind::NotFound, message)
                .hint("take a kernel that is made for virtual machines"));
        };
        let content = content(&path)?;
        let left = self.left.checked_sub(content.len() as u64);
        self.left =
            left.ok_or_else(|| self.too_much(&format!("modules of more than {MODULES_BYTES_MAX} bytes")))?;
        for name in needs(&content).unwrap_or_default() {
            self.take(&name, true)?;
        }
        self.modules.push(Module { name: format!("{name}.ko"), content });
        Ok(())
    }

    fn too_much(&self, what: &str) -> Error {
        let message = format!("what a guest needs of `{}` is {what}", self.directory.display());
        Error::new(ErrorKind::Usage, message).hint("take a kernel that is made for virtual machines")
    }
}

/// Names are told apart no further than the kernel does.
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (name, kind) = name.split_once('.')?;
    matches!(kind, "ko" | "ko.xz" | "ko.zst").then(|| name.replace('-', "_"))
}

fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let (mut files, mut seen) = (BTreeMap::new(), 0);
    let mut directories = vec![directory.join("kernel")];
    while let Some(directory) = directories.pop() {
        let failed = |error| Error::file("list", &directory, &error);
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            seen += 1;
            if seen > FILES_MAX {
                let message = format!("`{}` has more than {FILES_MAX} files", directory.display());
                return Err(Error::new(ErrorKind::Usage, message));
            }
            match name_of(&entry.path()) {
                _ if kind.is_dir() => directories.push(entry.path()),
                Some(name) if kind.is_file() => drop(files.insert(name, entry.path())),
                _ => {}
            }
        }
    }
    Ok(files)
}

fn content(path: &Path) -> Result<Vec<u8>> {
    let packed = read_bounded(path, MODULE_BYTES_MAX)?;
    match path.extension().and_then(OsStr::to_str) {
        Some("zst") => {
            let mut content = Vec::new();
            let unpacking = zstd::stream::read::Decoder::with_buffer(&packed[..])
                .and_then(|decoder| decoder.take(MODULE_BYTES_MAX + 1).read_to_end(&mut content));
            let length = unpacking.map_err(|error| Error::file("unpack", path, &error))?;
            if length as u64 > MODULE_BYTES_MAX {
                let message = format!("`{}` has more than {MODULE_BYTES_MAX} bytes", path.display());
                return Err(Error::new(ErrorKind::Usage, message));
            }
            Ok(content)
        }
        Some("xz") => {
            let message = format!("the module `{}` is packed by xz", path.display());
            let hint = "unpack the modules of a copy: find COPY -name '*.ko.xz' -exec xz -d {} +";
            Err(Error::new(ErrorKind::Usage, message).hint(hint))
        }
        _ => Ok(packed),
    }
}

/// The modules that have to be loaded before this one, as far as they can be taken. `None` for what is no module.
fn needs(module: &[u8]) -> Option<Vec<String>> {
    let words = section(module, b".modinfo")?;
    let line = words.split(|&byte| byte == 0).find_map(|word| word.strip_prefix(b"depends="))?;
    let names = std::str::from_utf8(line).ok()?.split(',').filter(|name| !name.is_empty());
    // One more than can be taken is refused where it is taken.
    Some(names.take(MODULES_MAX + 1).map(|name| name.replace('-', "_")).collect())
}

/// A section of an ELF file of 64 bits, little endian.
fn section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let half =
        |at: usize| Some(usize::from(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?)));
    let word =
        |at: usize| Some(u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    let long = |at: usize| {
        usize::try_from(u64::from_le_bytes(file.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
    };
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count, names) = (long(0x28)?, half(0x3a)?, half(0x3c)?, half(0x3e)?);
    let header = |number: usize| table.checked_add(number.checked_mul(size)?);
    let content = |header: usize| {
        let start = long(header.checked_add(0x18)?)?;
        file.get(start..start.checked_add(long(header.checked_add(0x20)?)?)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|number| {
        let header = header(number)?;
        let name = names.get(word(header)?..)?.split(|&byte| byte == 0).next()?;
        (name == wanted).then(|| content(header)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF file with the two sections that matter.
    fn module(depends: &str) -> Vec<u8> {
        let (names, words) = (b"\0.names\0.modinfo\0", format!("license=GPL\0depends={depends}\0name=x\0"));
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let (names_at, words_at) = (file.len(), file.len() + names.len());
        file.extend(names);
        file.extend(words.as_bytes());
        let table = file.len();
        for (name, at, length) in [(1_u32, names_at, names.len()), (8, words_at, words.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend(header);
        }
        file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        file[0x3a..0x40].copy_from_slice(&[64, 0, 2, 0, 0, 0]);
        file
    }

    fn directory(modules: &[(&str, &str)], builtin: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("kernel/drivers")).unwrap();
        std::fs::write(directory.path().join("modules.builtin"), builtin).unwrap();
        for (name, depends) in modules {
            std::fs::write(directory.path().join("kernel/drivers").join(name), module(depends)).unwrap();
        }
        directory
    }

    const MODULES: [(&str, &str); 6] = [
        ("virtio_blk.ko", "virtio,virtio_ring"),
        ("virtio_console.ko", "virtio,virtio_ring"),
        ("virtio_pci.ko", "virtio_ring,virtio"),
        ("virtio.ko", "virtio_ring"),
        ("virtio_ring.ko", ""),
        ("virtio-rng.ko", "virtio"),
    ];

    #[test]
    fn modules_come_after_those_that_they_need() {
        let directory = directory(&MODULES, "kernel/fs/ext4/ext4.ko\n");
        let names: Vec<String> =
            gather(directory.path()).unwrap().into_iter().map(|module| module.name).collect();
        let expected = ["virtio_ring", "virtio", "virtio_pci", "virtio_blk", "virtio_console", "virtio_rng"];
        assert_eq!(names, expected.map(|name| format!("{name}.ko")));
    }

    #[test]
    fn a_module_that_is_missing_is_named() {
        let directory = directory(&MODULES[1..], "kernel/fs/ext4/ext4.ko\n");
        let error = gather(directory.path()).unwrap_err();
        assert!(error.message.contains("virtio_blk"), "{error}");
    }

    #[test]
    fn modules_that_need_each_other_are_taken_once() {
        let mut modules = MODULES;
        modules[4].1 = "virtio";
        let directory = directory(&modules, "kernel/fs/ext4/ext4.ko\n");
        assert_eq!(gather(directory.path()).unwrap().len(), modules.len());
    }

    #[test]
    fn modules_without_an_end_are_refused() {
        let chain: Vec<(String, String)> = (0..=MODULES_MAX)
            .map(|at| (format!("chain{at}.ko"), format!("chain{}", at + 1)))
            .chain([("virtio_pci.ko".to_owned(), "chain0".to_owned())])
            .collect();
        let chain: Vec<(&str, &str)> = chain.iter().map(|(name, needs)| (&name[..], &needs[..])).collect();
        let directory = directory(&chain, "");
        let error = gather(directory.path()).unwrap_err();
        assert!(error.message.contains("more than 256 modules"), "{error}");
    }

    #[test]
    fn a_module_that_unpacks_to_more_than_the_limit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("virtio_pci.ko.zst");
        let zeros = std::io::repeat(0).take(MODULE_BYTES_MAX + 1);
        std::fs::write(&path, zstd::stream::encode_all(zeros, 1).unwrap()).unwrap();
        let error = content(&path).unwrap_err();
        assert!(error.kind == ErrorKind::Usage && error.message.contains("more than"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_no_module(mut file in Just(module("a")), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20)) {
            for (at, byte) in changes {
                let at = at.index(file.len());
                file[at] = byte;
            }
            drop(needs(&file));
        }
    }
}

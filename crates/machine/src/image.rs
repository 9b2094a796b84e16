//! Images: what microVMs boot from.
//!
//! An image is a directory under `IMAGES`, named as the image is:
//!
//! | file | content |
//! |---|---|
//! | `image.json` | [`Manifest`] |
//! | `kernel` | an ELF file |
//! | `modules/` | the kernel's modules that a guest loads, and `order`: their names, a line each |
//! | `root.ext4` | the root file system, sparse |
//!
//! It is made in `IMAGES/.new-NAME`, and renamed when it is whole and on the disk; what is left there by whoever was killed is
//! removed by the next daemon. All that is needed only meanwhile is below it in `stage`. Whoever makes or removes an image has its name
//! for himself; several are made at once.

mod archive;
pub mod debian;
pub mod digest;
mod download;
mod ext4;
pub mod http;
mod layers;
pub mod registry;
mod root;
mod tree;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use registry::Pull;
use root::Examined;
use serde::{Deserialize, Serialize};
use supervisor::socket::private_directory;
use wire::api::ErrorKind;

use crate::course::Course;
use crate::disk::{self, Format};
use crate::error::{Error, Result};
use crate::kernel::{self, read_bounded};
use crate::modules::{self, MODULES_BYTES_MAX, Module};

/// The longest manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// The most images.
const IMAGES_MAX: usize = 1024;

/// The longest name of an image or a vm: a vm's is also its host name, and part of the path of a socket.
pub const NAME_BYTES_MAX: usize = 32;

/// The version of what is on disk.
const VERSION: u32 = 1;

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this form.
    pub version: u32,
    /// The kernel.
    pub kernel: Content,
    /// The root file system.
    pub root: Content,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Where it was pulled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Where an image was pulled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What it is called there.
    pub reference: String,
    /// What it was then: of an image of a registry, the digest of its manifest.
    pub digest: String,
    /// For which computers it is.
    pub platform: String,
    /// What programs of containers would run. A guest boots, and runs none of it.
    #[serde(default)]
    pub run: RunConfig,
}

/// What a program of containers would run of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    /// As whom.
    pub user: String,
    /// With which variables.
    pub env: Vec<String>,
    /// What always.
    pub entrypoint: Vec<String>,
    /// And with it if nothing else is said.
    pub cmd: Vec<String>,
    /// Where.
    pub working_dir: String,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 hash, in hexadecimal digits.
    pub blake3: String,
}

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub directory: PathBuf,
    /// What it is.
    pub manifest: Manifest,
}

/// An image to be made.
#[derive(Debug, Clone)]
pub struct Build {
    /// What it is to be called.
    pub name: String,
    /// What is to be its root.
    pub source: Source,
    /// The kernel's file; none for the one of this computer.
    pub kernel: Option<PathBuf>,
    /// The directory of the kernel's modules, `lib/modules/VERSION`; none for the one beside the kernel.
    pub modules: Option<PathBuf>,
}

/// What a root file system is made of.
#[derive(Debug, Clone)]
pub enum Source {
    /// A directory, with the owners that its files have here.
    Directory(PathBuf),
    /// A tar, which may be packed by gzip or zstd.
    Archive(PathBuf),
    /// Packages of this release of Debian.
    Debian(String),
    /// A disk that is an ext4 file system as a whole, raw or qcow2, of whatever origin.
    Disk(PathBuf),
    /// The layers of an image in a registry.
    Registry(Pull),
    /// The disk of a microVM that does not run, with the kernel of the image that it boots from.
    Vm {
        /// The disk.
        disk: PathBuf,
        /// How it is written down.
        format: Format,
        /// What it is over.
        image: Box<Image>,
    },
}

/// Checks that this can be the name of a new image or vm.
pub fn check_name(name: &str, noun: &str) -> Result<()> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = name.bytes().all(is_inner)
        && name.bytes().next().is_some_and(|byte| byte != b'-')
        && !name.ends_with('-')
        && name.len() <= NAME_BYTES_MAX;
    if is_name {
        return Ok(());
    }
    let message = format!("`{}` cannot be the name of a {noun}", name.escape_debug());
    Err(Error::new(ErrorKind::Usage, message)
        .hint(format!("take up to {NAME_BYTES_MAX} small letters, digits, and `-` between them")))
}

impl Image {
    /// Reads what is known of an image. Blocks.
    pub fn open(images: &Path, name: &str) -> Result<Image> {
        check_name(name, "image")?;
        let directory = images.join(name);
        let path = directory.join("image.json");
        if !path.exists() {
            let message = format!("there is no image `{name}`");
            return Err(Error::new(ErrorKind::NotFound, message).hint("stead image list"));
        }
        let text = read_bounded(&path, MANIFEST_BYTES_MAX)?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::Failure, format!("the image `{name}` is damaged: {error}"))
        })?;
        if manifest.version != VERSION {
            let message = format!("the image `{name}` is of another release's form, {}", manifest.version);
            return Err(Error::new(ErrorKind::Refused, message));
        }
        Ok(Image { name: name.to_owned(), directory, manifest })
    }

    /// The kernel's file.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("kernel")
    }

    /// The root file system's file.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root.ext4")
    }

    /// The modules that its guests load, in this order. Blocks.
    pub fn modules(&self) -> Result<Vec<Module>> {
        let directory = self.directory.join("modules");
        let order = read_bounded(&directory.join("order"), MANIFEST_BYTES_MAX)?;
        let (mut modules, mut left) = (Vec::new(), MODULES_BYTES_MAX);
        for name in String::from_utf8_lossy(&order).lines() {
            if name.contains('/') {
                return Err(Error::new(ErrorKind::Failure, format!("the image `{}` is damaged", self.name)));
            }
            let content = read_bounded(&directory.join(name), left)?;
            left -= content.len() as u64;
            modules.push(Module { name: name.to_owned(), content });
        }
        Ok(modules)
    }

    /// What it takes on this computer's disk, in bytes.
    pub fn occupied(&self) -> u64 {
        let of = |path: PathBuf| fs::metadata(path).map_or(0, |found| found.blocks() * 512);
        of(self.kernel()) + of(self.root())
    }
}

/// All images, by name. One that is damaged is not among them, and logged. Blocks.
pub fn list(images: &Path) -> Result<Vec<Image>> {
    let entries = match fs::read_dir(images) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", images, &error)),
    };
    let mut found = Vec::new();
    for entry in entries.take(IMAGES_MAX) {
        let entry = entry.map_err(|error| Error::file("list", images, &error))?;
        let Some(name) = entry.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned)
        else {
            continue;
        };
        match Image::open(images, &name) {
            Ok(image) => found.push(image),
            Err(error) => tracing::warn!(%error, "an image is passed over"),
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Removes an image. Nobody may use it. Blocks.
pub fn delete(images: &Path, name: &str) -> Result<()> {
    check_name(name, "image")?;
    let (path, going) = (images.join(name), images.join(format!(".old-{name}")));
    remove_left(&going)?;
    fs::rename(&path, &going).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("there is no image `{name}`")).hint("stead image list")
        }
        _ => Error::file("remove", &path, &error),
    })?;
    remove_tree(&going)
}

/// Makes an image, and says before each part what it does. Nothing is left of one that could not be made. Blocks.
pub fn build(images: &Path, build: &Build, course: &Course) -> Result<Image> {
    check_name(&build.name, "image")?;
    private_directory(images).map_err(|error| Error::new(ErrorKind::Failure, error.to_string()))?;
    let place = images.join(&build.name);
    if place.exists() {
        let message = format!("there is an image `{}` already", build.name);
        return Err(
            Error::new(ErrorKind::Conflict, message).hint(format!("stead image delete {}", build.name))
        );
    }
    let new = images.join(format!(".new-{}", build.name));
    remove_left(&new)?;
    make_private(&new)?;
    let made = fill(images, &new, build, course)
        .and_then(|()| sync(&new.join("modules")))
        .and_then(|()| sync(&new))
        .and_then(|()| fs::rename(&new, &place).map_err(|error| Error::file("make", &place, &error)));
    if let Err(error) = made {
        if let Err(left) = remove_tree(&new) {
            tracing::warn!(%left, "what was made of an image stays");
        }
        return Err(error);
    }
    sync(images)?;
    Image::open(images, &build.name)
}

/// Removes what could not be removed when it was time.
fn remove_left(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() { remove_tree(path) } else { Ok(()) }
}

/// Removes what was left half way, when nobody makes or removes an image. What cannot be removed is logged, and is in nobody's way. Blocks.
pub fn sweep(images: &Path) {
    let entries = match fs::read_dir(images) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(images = %images.display(), %error, "images cannot be listed");
            return;
        }
    };
    debian::sweep(images);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_half =
            [&b".new-"[..], b".old-"].iter().any(|start| name.as_encoded_bytes().starts_with(start));
        if is_half && let Err(error) = remove_tree(&entry.path()) {
            tracing::warn!(%error, "what is left of an image stays");
        }
    }
}

/// Waits until a file, or the names in a directory, are on the disk.
fn sync(path: &Path) -> Result<()> {
    let synced = fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::file("sync", path, &error))
}

/// Makes a directory that is its user's alone.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path).map_err(|error| Error::file("make", path, &error))
}

fn remove_tree(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).map_err(|error| Error::file("remove", path, &error))
}

fn fill(images: &Path, new: &Path, build: &Build, course: &Course) -> Result<()> {
    let stage = new.join("stage");
    let Found { examined, boot, origin } = examine(images, build, &stage, course)?;
    course.begin("unpacking the kernel")?;
    let (kernel_content, modules) = match &build.source {
        Source::Vm { image, .. } => (kernel::read(&image.kernel())?, image.modules()?),
        _ => {
            let (kernel, modules) = kernel_of(build, &boot)?;
            (kernel::read(&kernel)?, modules::gather(&modules)?)
        }
    };
    write(&new.join("kernel"), &kernel_content)?;
    make_private(&new.join("modules"))?;
    for module in &modules {
        write(&new.join("modules").join(&module.name), &module.content)?;
    }
    let order: String = modules.iter().map(|module| format!("{}\n", module.name)).collect();
    write(&new.join("modules/order"), order.as_bytes())?;
    course.begin("writing the root file system")?;
    let root = new.join("root.ext4");
    examined.write(&root, course)?;
    if stage.exists() {
        remove_tree(&stage)?;
    }
    let content = content_of(&root)?;
    let manifest = Manifest {
        version: VERSION,
        kernel: Content {
            bytes: kernel_content.len() as u64,
            blake3: blake3::hash(&kernel_content).to_hex().to_string(),
        },
        root: content,
        created: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        origin,
    };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest has only texts and numbers");
    write(&new.join("image.json"), &text)
}

/// What an image is to be made of.
struct Found {
    examined: Examined,
    /// Where a kernel is looked for.
    boot: PathBuf,
    origin: Option<Origin>,
}

/// Looks what is to be the root. `stage` is made if a place is needed meanwhile.
fn examine(images: &Path, build: &Build, stage: &Path, course: &Course) -> Result<Found> {
    const LOOKING: &str = "looking at the root file system";
    let (mut boot, mut origin) = (PathBuf::from("/boot"), None);
    let examined = match &build.source {
        Source::Directory(path) => {
            course.begin(LOOKING)?;
            root::examine_directory(path)?
        }
        Source::Archive(path) => {
            course.begin(LOOKING)?;
            root::examine_archive(path, course)?
        }
        Source::Debian(release) => {
            let installed = debian::install(stage, (images, &build.name), release, course)?;
            course.begin(LOOKING)?;
            boot = installed.boot;
            root::examine_archive(&installed.archive, course)?
        }
        Source::Registry(pull) => {
            let pulled = registry::pull(pull, stage, course)?;
            course.begin("looking at the layers")?;
            origin = Some(pulled.origin);
            root::examine_layers(&pulled.layers, course)?
        }
        Source::Disk(path) => Examined::Disk(path.clone(), disk::examine(path)?),
        Source::Vm { disk, format, image } => {
            origin = image.manifest.origin.clone();
            Examined::Disk(disk.clone(), *format)
        }
    };
    Ok(Found { examined, boot, origin })
}

fn content_of(path: &Path) -> Result<Content> {
    let mut hasher = blake3::Hasher::new();
    let read = fs::File::open(path).and_then(|file| hash(file, &mut hasher));
    Ok(Content {
        bytes: read.map_err(|error| Error::file("read", path, &error))?,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

fn hash(file: fs::File, hasher: &mut blake3::Hasher) -> std::io::Result<u64> {
    std::io::copy(&mut std::io::BufReader::with_capacity(1 << 20, file), hasher)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(|error| Error::file("write", path, &error))
}

/// The kernel to take, and the directory of its modules.
fn kernel_of(build: &Build, boot: &Path) -> Result<(PathBuf, PathBuf)> {
    let kernel = match &build.kernel {
        Some(kernel) => kernel.clone(),
        None => newest_kernel(boot)?,
    };
    if let Some(modules) = &build.modules {
        return Ok((kernel, modules.clone()));
    }
    let version = kernel.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('-'));
    // `ROOT/boot/vmlinuz-VERSION` and `ROOT/lib/modules/VERSION`, as a package has them.
    let root = kernel.parent().and_then(Path::parent);
    let beside = version.zip(root).and_then(|((_, version), root)| {
        let places = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(version));
        places.into_iter().find(|place| place.is_dir())
    });
    beside.map(|modules| (kernel.clone(), modules)).ok_or_else(|| {
        let message = format!("the modules of the kernel `{}` are not beside it", kernel.display());
        Error::new(ErrorKind::NotFound, message)
            .hint("name their directory: --modules DIR/lib/modules/VERSION")
    })
}

fn newest_kernel(boot: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(boot).into_iter().flatten().flatten();
    let kernels = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"vmlinuz-"));
    let newest = kernels.max_by_key(|entry| entry.metadata().and_then(|found| found.modified()).ok());
    newest.map(|entry| entry.path()).ok_or_else(|| {
        let message = format!("there is no kernel in `{}`", boot.display());
        let hint = "apt-get download linux-image-cloud-amd64's kernel, unpack it with dpkg -x, and give it with --kernel";
        Error::new(ErrorKind::NotFound, message).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_host_name_and_no_path() {
        for name in ["a", "debian", "debian-12", "0"] {
            check_name(name, "vm").unwrap();
        }
        for name in ["", "-a", "a-", "A", "a/b", "..", ".new", "a b", "a_b", &"a".repeat(33)] {
            assert!(check_name(name, "vm").is_err(), "{name}");
        }
    }

    #[test]
    fn an_image_that_cannot_be_made_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let (images, root) = (scratch.path().join("images"), scratch.path().join("root"));
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(scratch.path().join("vmlinuz"), "no kernel").unwrap();
        let kernel = Some(scratch.path().join("vmlinuz"));
        let wanted = Build {
            name: "a".into(),
            source: Source::Directory(root),
            kernel,
            modules: Some(scratch.path().to_owned()),
        };
        let (course, _client) = Course::new(|_| ()).unwrap();
        let error = build(&images, &wanted, &course).unwrap_err();
        assert!(error.message.contains("no kernel that can be booted"), "{error}");
        assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
        assert_eq!(list(&images).unwrap(), []);
    }

    #[test]
    fn what_was_left_half_way_is_swept_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        for name in [".new-1/modules", ".old-a", "a", ".other"] {
            fs::create_dir_all(scratch.path().join(name)).unwrap();
        }
        sweep(scratch.path());
        let left = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<std::collections::BTreeSet<_>>(), [".other".into(), "a".into()].into());
        sweep(&scratch.path().join("none"));
    }

    #[test]
    fn a_kernel_without_modules_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let kernel = Some(scratch.path().join("boot/vmlinuz-1"));
        let wanted = Build {
            name: "a".into(),
            source: Source::Directory(scratch.path().to_owned()),
            kernel,
            modules: None,
        };
        assert!(kernel_of(&wanted, Path::new("/boot")).unwrap_err().hint.unwrap().contains("--modules"));
    }

    #[test]
    fn an_image_that_is_not_there_or_damaged_is_told_apart() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(Image::open(scratch.path(), "a").unwrap_err().kind, ErrorKind::NotFound);
        fs::create_dir(scratch.path().join("a")).unwrap();
        fs::write(scratch.path().join("a/image.json"), "{").unwrap();
        assert_eq!(Image::open(scratch.path(), "a").unwrap_err().kind, ErrorKind::Failure);
        assert_eq!(list(scratch.path()).unwrap(), []);
        delete(scratch.path(), "a").unwrap();
        assert_eq!(delete(scratch.path(), "a").unwrap_err().kind, ErrorKind::NotFound);
    }
}

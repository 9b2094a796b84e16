//! `stead image`

use std::path::PathBuf;

use clap::Subcommand;
use wire::api::image::{Build, Delete, Image, List, Origin, Promote, Registry, Show, Source};
use wire::api::{Call, Method, ServerNotification};
use wire::bytestring::ByteString;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::{age, bytes, one_line, quoted};
use crate::output::{Align, Table};

/// Make and show images: what vms boot from.
///
/// An image is a kernel and a root file system. It is never changed: the agent comes with each start of a vm, and what a vm
/// writes is on a disk of its own.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an image of a root file system and a kernel; of Debian's packages unless a root is named
    ///
    /// Without --root and --from packages of Debian are downloaded by mmdebstrap, with systemd, git and their own kernel.
    Build(BuildArgs),
    /// Make an image of one in a registry of containers
    ///
    /// All layers are verified by their digests, and written to a root file system with the owners, modes, links and devices that they
    /// say. A vm boots it, with its init if it has one, and reaches the same files; what the image says is to be run as a container
    /// is shown by `image show`, and not run. Logins are those of `docker login`.
    Pull(PullArgs),
    /// Make an image of an existing disk
    Register(RegisterArgs),
    /// Make an image of the disk of a stopped vm
    Promote {
        /// Which vm
        vm: String,
        /// What to call the image
        name: String,
    },
    /// Show the images
    List,
    /// Show an image
    Show {
        /// Which one
        name: String,
    },
    /// Remove an image that no vm boots from
    Delete {
        /// Which one
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// What to call it: up to 32 small letters, digits and `-`
    name: String,
    /// The directory that is to be its root, with the owners that its files have here
    #[arg(long, value_name = "DIR", conflicts_with = "from")]
    root: Option<PathBuf>,
    /// The archive that is to be its root: a tar, which may be packed by gzip or zstd, with the owners that it says
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The release of Debian whose packages are to be its root [default: bookworm]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["root", "from"])]
    release: Option<String>,
    /// The kernel: a vmlinuz of x86-64 that is packed by lz4 or zstd, or a vmlinux. `auto` is the newest in /boot, or Debian's
    #[arg(long, value_name = "FILE", default_value = "auto")]
    kernel: PathBuf,
    /// The directory of the kernel's modules [default: ../lib/modules/VERSION, seen from a kernel called vmlinuz-VERSION]
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct PullArgs {
    /// What it is called there: [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], of docker.io without a host
    reference: String,
    /// What to call it here [default: the last part of the repository]
    #[arg(long)]
    name: Option<String>,
    /// For which computers, if there are several [default: those of this one's sort, such as linux/amd64]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// A host that may be spoken to without TLS, with its port if it has one; this very computer always may
    #[arg(long, value_name = "HOST")]
    plain_http: Option<String>,
    /// The kernel, as for `build`
    #[arg(long, value_name = "FILE", default_value = "auto")]
    kernel: PathBuf,
    /// The directory of the kernel's modules, as for `build`
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RegisterArgs {
    /// What to call it: up to 32 small letters, digits and `-`
    name: String,
    /// The disk, which is copied: an ext4 file system as a whole, raw or a qcow2 that stands alone
    #[arg(long, value_name = "FILE")]
    disk: PathBuf,
    /// The kernel, as for `build`
    #[arg(long, value_name = "FILE", default_value = "auto")]
    kernel: PathBuf,
    /// The directory of the kernel's modules, as for `build`
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    match args.command {
        Command::Build(args) => build(args, context),
        Command::Pull(args) => pull(args, context),
        Command::Register(args) => {
            let source = Source::Disk(absolute(args.disk, context));
            let build = wanted(args.name, source, args.kernel, args.modules, context);
            print(&make(build, context)?, context)
        }
        Command::Promote { vm, name } => print(&make(Promote { vm, name }, context)?, context),
        Command::List => {
            let images = context.daemon()?.call(List {})?;
            if context.output.is_json() {
                return context.output.document(&images);
            }
            table(&images.images, context)
        }
        Command::Show { name } => {
            let image = context.daemon()?.call(Show { name })?;
            if context.output.is_json() {
                return context.output.document(&image);
            }
            table(std::slice::from_ref(&image), context)?;
            image.origin.as_ref().map_or(Ok(()), |origin| show_origin(origin, context))
        }
        Command::Delete { name } => {
            let deleted = context.daemon()?.call(Delete { name })?;
            if context.output.is_json() {
                return context.output.document(&deleted);
            }
            context.output.line(format_args!("{}  deleted", deleted.name))
        }
    }
}

fn build(args: BuildArgs, context: &mut Context) -> Result<()> {
    let source = match (args.root, args.from) {
        (Some(root), _) => Source::Directory(absolute(root, context)),
        (None, Some(archive)) => Source::Archive(absolute(archive, context)),
        (None, None) => Source::Debian(args.release),
    };
    let build = wanted(args.name, source, args.kernel, args.modules, context);
    print(&make(build, context)?, context)
}

fn pull(args: PullArgs, context: &mut Context) -> Result<()> {
    let name = args.name.or_else(|| name_of(&args.reference)).ok_or_else(|| {
        Error::usage(format!("{} says no name for the image", quoted(args.reference.as_bytes())))
            .hint("stead image pull REFERENCE --name NAME")
    })?;
    let docker = context.variable("DOCKER_CONFIG").map(PathBuf::from);
    let docker = docker.or_else(|| context.variable("HOME").map(|home| PathBuf::from(home).join(".docker")));
    let source = Source::Registry(Registry {
        reference: args.reference,
        platform: args.platform,
        plain_http: args.plain_http,
        docker_config: docker.map(|docker| absolute(docker, context)),
    });
    let build = wanted(name, source, args.kernel, args.modules, context);
    print(&make(build, context)?, context)
}

/// What an image is called here if nobody says so: the last part of its repository, as a name may be.
fn name_of(reference: &str) -> Option<String> {
    let whole = reference.split('@').next().unwrap_or_default();
    let last = whole.rsplit('/').next().unwrap_or_default();
    let last = last.split(':').next().unwrap_or_default();
    let name = last.replace(['.', '_'], "-");
    (!name.is_empty()).then_some(name)
}

/// Where it is from, and what a program of containers would run of it.
fn show_origin(origin: &Origin, context: &mut Context) -> Result<()> {
    let run = origin.run.clone().unwrap_or_default();
    let words = |words: &[String]| words.iter().map(|word| one_line(word)).collect::<Vec<_>>().join(" ");
    let lines = [
        ("from", one_line(&origin.reference)),
        ("digest", one_line(&origin.digest)),
        ("platform", one_line(&origin.platform)),
        ("user", one_line(&run.user)),
        ("directory", one_line(&run.working_dir)),
        ("entrypoint", words(&run.entrypoint)),
        ("command", words(&run.cmd)),
    ];
    let variables = run.env.iter().map(|variable| ("variable", one_line(variable)));
    for (what, text) in lines.into_iter().chain(variables).filter(|(_, text)| !text.is_empty()) {
        context.output.line(format_args!("{what:<10}  {text}"))?;
    }
    Ok(())
}

fn absolute(path: PathBuf, context: &Context) -> ByteString {
    ByteString::from(context.cwd.join(path))
}

fn wanted(
    name: String,
    source: Source,
    kernel: PathBuf,
    modules: Option<PathBuf>,
    context: &Context,
) -> Build {
    let kernel = (kernel.as_os_str() != "auto").then(|| absolute(kernel, context));
    Build { name, source, kernel, modules: modules.map(|path| absolute(path, context)) }
}

/// Has an image made, and shows how far that is. It is called off when this process ends.
fn make<M: Method<Reply = Image> + Into<Call>>(params: M, context: &mut Context) -> Result<Image> {
    let client = context.daemon()?;
    let ticket = client.send(params)?;
    client.wait_noting(ticket, |notification| {
        if let ServerNotification::ImageProgress(progress) = notification
            && context.output.shows_progress()
        {
            context.output.note(format_args!("{}: {}", progress.name, one_line(&progress.part)));
        }
    })
}

fn print(image: &Image, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(image);
    }
    context.output.line(format_args!("{}  {}", image.name, bytes(image.occupied)))
}

fn table(images: &[Image], context: &mut Context) -> Result<()> {
    let columns = [
        ("IMAGE", Align::Left),
        ("SIZE", Align::Right),
        ("ON DISK", Align::Right),
        ("AGE", Align::Left),
        ("VMS", Align::Left),
    ];
    let mut table = Table::new(&columns);
    let now = context.output.now();
    for image in images {
        table.row([
            image.name.clone().into(),
            bytes(image.bytes).into(),
            bytes(image.occupied).into(),
            age(now, image.created).into(),
            image.vms.join(" ").into(),
        ]);
    }
    context.output.list(&table, "no images: `stead image build` makes one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_called_as_its_repository_ends() {
        for (reference, name) in [
            ("debian", Some("debian")),
            ("debian:12", Some("debian")),
            ("ghcr.io/a/b_c.d:1@sha256:0", Some("b-c-d")),
            ("localhost:5000/a", Some("a")),
            ("", None),
            ("a/", None),
        ] {
            assert_eq!(name_of(reference).as_deref(), name, "{reference}");
        }
    }
}

//! `image.*`
//!
//! Whoever makes or removes an image, or a microVM from one, has a turn with it for as long as that takes, see [`crate::images`].

use machine::course::{Course, Said};
use machine::disk;
use machine::image::debian::RELEASE;
use machine::image::registry::Pull;
use machine::image::{self, check_name};
use tokio::sync::mpsc;
use wire::api::image::{
    Build, Delete, Deleted, Image, Images, Origin, Progress, Promote, RunConfig, Show, Source,
};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::{Daemon, vm};
use crate::images::{Place, Reservation};
use crate::session::ClientContext;
use crate::vm::{blocking, from_machine, places};

/// Parts of the work that may wait to be told to a client. There are fewer.
const PARTS_MAX: usize = 64;

/// Makes an image, for as long as the client that asked for it is there.
pub async fn build(daemon: &Daemon, context: &ClientContext, build: Build) -> Result<Image, ErrorObject> {
    let absolute = |path: ByteString, what: &str| match path.as_path().is_absolute() {
        true => Ok(path.as_path().to_owned()),
        false => {
            Err(ErrorObject::new(ErrorKind::Usage, format!("the {what} `{path}` is not an absolute path")))
        }
    };
    let wanted = image::Build {
        name: build.name,
        source: match build.source {
            Source::Directory(path) => image::Source::Directory(absolute(path, "root")?),
            Source::Archive(path) => image::Source::Archive(absolute(path, "archive")?),
            Source::Disk(path) => image::Source::Disk(absolute(path, "disk")?),
            Source::Registry(wanted) => image::Source::Registry(Pull {
                reference: wanted.reference,
                platform: wanted.platform,
                plain: wanted.plain_http,
                docker: wanted.docker_config.map(|path| absolute(path, "directory of docker")).transpose()?,
            }),
            Source::Debian(release) => image::Source::Debian(release.unwrap_or_else(|| RELEASE.to_owned())),
        },
        kernel: build.kernel.map(|path| absolute(path, "kernel")).transpose()?,
        modules: build.modules.map(|path| absolute(path, "directory of modules")).transpose()?,
    };
    let images = daemon.paths.images_dir();
    let name = wanted.name.clone();
    let turn = turn(daemon, context, &name).await?;
    let built = make(context, turn, name, move |course| image::build(&images, &wanted, course)).await?;
    Ok(shown(&built, Vec::new()))
}

/// Makes an image of what a microVM has written. It stays stopped meanwhile.
pub async fn promote(
    daemon: &Daemon,
    context: &ClientContext,
    promote: Promote,
) -> Result<Image, ErrorObject> {
    check_name(&promote.name, "image").map_err(|error| from_machine(&error))?;
    let vm = vm::named(daemon, &promote.vm).await?.name;
    let name = promote.name.clone();
    // The vm can be used until it is its turn.
    let turn = turn(daemon, context, &name).await?;
    let lease = vm::lend(daemon, &vm).await?;
    let (images, places) = (daemon.paths.images_dir(), places(&daemon.paths, &vm));
    let built = make(context, turn, name, move |course| {
        let _stopped = lease;
        let gone = || machine::Error::new(ErrorKind::NotFound, format!("the vm `{vm}` has no disk"));
        let record = places.read()?.ok_or_else(gone)?;
        let (disk, format) = disk::find(&places.directory).ok_or_else(gone)?;
        let over = Box::new(image::Image::open(&images, &record.image)?);
        let source = image::Source::Vm { disk, format, image: over };
        let wanted = image::Build { name: promote.name, source, kernel: None, modules: None };
        image::build(&images, &wanted, course)
    });
    Ok(shown(&built.await?, Vec::new()))
}

/// A new image's name, and a place to make it.
type Making = (Reservation, Place);

/// The name of a new image, and a place to make it once there is one. The client is told that it waits.
async fn turn(daemon: &Daemon, context: &ClientContext, name: &str) -> Result<Making, ErrorObject> {
    check_name(name, "image").map_err(|error| from_machine(&error))?;
    let reservation = daemon.images.to_make(name)?;
    if let Some(place) = daemon.images.free_place() {
        return Ok((reservation, place));
    }
    let part = "waiting for other images".to_owned();
    // One that has gone takes its turn along.
    let _gone = context.client.notify(Progress { name: name.to_owned(), part }).await;
    Ok((reservation, daemon.images.place().await))
}

/// Does what makes an image, tells the client of each part, and calls it off when the client goes. Its end is waited for by nobody
/// then: its name is kept until nothing of it is left.
async fn make(
    context: &ClientContext,
    turn: Making,
    name: String,
    work: impl FnOnce(&Course) -> machine::Result<image::Image> + Send + 'static,
) -> Result<image::Image, ErrorObject> {
    let (parts, mut begun) = mpsc::channel(PARTS_MAX);
    let told = {
        let name = name.clone();
        move |said: Said<'_>| {
            if let Said::Begun(part) = said {
                tracing::info!(image = name, part, "an image is made");
            }
            // A client that reads nothing is told less.
            drop(parts.try_send(said.text().to_owned()));
        }
    };
    let (course, wanted) = Course::new(told).map_err(|error| from_machine(&error))?;
    let making = tokio::spawn(async move {
        let _turn = turn;
        blocking(move || work(&course)).await
    });
    // The work has the other end, and ends before it.
    while let Some(part) = begun.recv().await {
        if context.client.notify(Progress { name: name.clone(), part }).await.is_err() {
            break;
        }
    }
    let made = making.await.map_err(|error| ErrorObject::internal(error.to_string()))?;
    drop(wanted);
    made
}

/// One of them.
pub async fn show(daemon: &Daemon, show: Show) -> Result<Image, ErrorObject> {
    let images = daemon.paths.images_dir();
    let found = blocking(move || image::Image::open(&images, &show.name)).await?;
    let vms = users(daemon, &found.name).await?;
    Ok(shown(&found, vms))
}

/// All of them.
pub async fn list(daemon: &Daemon) -> Result<Images, ErrorObject> {
    let images = daemon.paths.images_dir();
    let found = blocking(move || image::list(&images)).await?;
    let vms = vm::list(daemon).await?.vms;
    let users = |image: &image::Image| {
        vms.iter().filter(|vm| vm.image == image.name).map(|vm| vm.name.clone()).collect()
    };
    let brief = |image: &image::Image| {
        let shown = shown(image, users(image));
        Image { origin: shown.origin.map(|origin| Origin { run: None, ..origin }), ..shown }
    };
    Ok(Images { images: found.iter().map(brief).collect() })
}

/// Removes one that no microVM boots from.
pub async fn delete(daemon: &Daemon, delete: Delete) -> Result<Deleted, ErrorObject> {
    check_name(&delete.name, "image").map_err(|error| from_machine(&error))?;
    let turn = daemon.images.to_remove(&delete.name)?;
    let users = users(daemon, &delete.name).await?;
    if let Some(first) = users.first() {
        let message = format!("the image `{}` is used by {}", delete.name, users.join(", "));
        let hint = format!("stead vm delete {first}");
        return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint));
    }
    let (images, name) = (daemon.paths.images_dir(), delete.name.clone());
    // A client that goes does not end it: its name is kept until nothing of it is left.
    let removing = tokio::spawn(async move {
        let _turn = turn;
        blocking(move || image::delete(&images, &name)).await
    });
    removing.await.map_err(|error| ErrorObject::internal(error.to_string()))??;
    Ok(Deleted { name: delete.name })
}

async fn users(daemon: &Daemon, image: &str) -> Result<Vec<String>, ErrorObject> {
    let vms = vm::list(daemon).await?.vms;
    Ok(vms.into_iter().filter(|vm| vm.image == image).map(|vm| vm.name).collect())
}

fn shown(image: &image::Image, vms: Vec<String>) -> Image {
    Image {
        name: image.name.clone(),
        bytes: image.manifest.root.bytes,
        occupied: image.occupied(),
        root: image.manifest.root.blake3.clone(),
        kernel: image.manifest.kernel.blake3.clone(),
        created: Timestamp::from_unix(image.manifest.created),
        vms,
        origin: image.manifest.origin.as_ref().map(origin),
    }
}

fn origin(from: &image::Origin) -> Origin {
    let image::RunConfig { user, env, entrypoint, cmd, working_dir } = from.run.clone();
    Origin {
        reference: from.reference.clone(),
        digest: from.digest.clone(),
        platform: from.platform.clone(),
        run: Some(RunConfig { user, env, entrypoint, cmd, working_dir }),
    }
}

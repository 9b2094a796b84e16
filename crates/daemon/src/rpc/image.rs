//! `image.*`
//!
//! Whoever makes or removes an image, or a microVM from one, holds the daemon's one lock of images for as long as that takes.

use machine::image::{self, check_name};
use wire::api::image::{Build, Delete, Deleted, Image, Images, Show};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::{Daemon, vm};
use crate::vm::blocking;

/// Makes an image. It is made whether whoever asked for it stays or not.
pub async fn build(daemon: &Daemon, build: Build) -> Result<Image, ErrorObject> {
    let absolute = |path: ByteString, what: &str| match path.as_path().is_absolute() {
        true => Ok(path.as_path().to_owned()),
        false => {
            Err(ErrorObject::new(ErrorKind::Usage, format!("the {what} `{path}` is not an absolute path")))
        }
    };
    let wanted = image::Build {
        name: build.name,
        root: absolute(build.root, "root")?,
        kernel: build.kernel.map(|path| absolute(path, "kernel")).transpose()?,
        modules: build.modules.map(|path| absolute(path, "directory of modules")).transpose()?,
    };
    let (lock, images) = (std::sync::Arc::clone(&daemon.images), daemon.paths.images_dir());
    let building = tokio::spawn(async move {
        let _alone = lock.lock().await;
        let name = wanted.name.clone();
        let told = move |stage: &str| tracing::info!(image = name, stage, "an image is made");
        blocking(move || image::build(&images, &wanted, told)).await
    });
    let built = building.await.map_err(|error| ErrorObject::internal(error.to_string()))??;
    Ok(shown(&built, Vec::new()))
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
    Ok(Images { images: found.iter().map(|image| shown(image, users(image))).collect() })
}

/// Removes one that no microVM boots from.
pub async fn delete(daemon: &Daemon, delete: Delete) -> Result<Deleted, ErrorObject> {
    check_name(&delete.name, "image").map_err(|error| crate::vm::from_machine(&error))?;
    let _alone = daemon.images.lock().await;
    let users = users(daemon, &delete.name).await?;
    if let Some(first) = users.first() {
        let message = format!("the image `{}` is used by {}", delete.name, users.join(", "));
        let hint = format!("stead vm delete {first}");
        return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint));
    }
    let (images, name) = (daemon.paths.images_dir(), delete.name.clone());
    blocking(move || image::delete(&images, &name)).await?;
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
    }
}

//! `image.*`

use wire::api::image;
use wire::api::time::Timestamp;

use super::{Method, json};

pub(super) fn methods() -> Vec<Method> {
    let name = || "tiny".to_owned();
    let build = image::Build {
        name: name(),
        source: image::Source::Directory("/srv/root".into()),
        kernel: Some("/boot/vmlinuz-6.1.0".into()),
        modules: Some("/lib/modules/6.1.0".into()),
    };
    let an_image = image::Image {
        name: name(),
        bytes: 512 << 20,
        occupied: 60 << 20,
        root: "af1349b9f5f9a1a6".repeat(4),
        kernel: "0123456789abcdef".repeat(4),
        created: Timestamp::from_unix(1_767_225_600),
        vms: Vec::new(),
        origin: None,
    };
    let pull = image::Build {
        name: "debian".to_owned(),
        source: image::Source::Registry(image::Registry {
            reference: "docker.io/library/debian:12".to_owned(),
            platform: None,
            plain_http: None,
            docker_config: Some("/home/u/.docker".into()),
        }),
        kernel: None,
        modules: None,
    };
    let pulled = image::Image {
        name: "debian".to_owned(),
        origin: Some(image::Origin {
            reference: "docker.io/library/debian:12".to_owned(),
            digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            platform: "linux/amd64".to_owned(),
            run: Some(image::RunConfig { cmd: vec!["bash".to_owned()], ..image::RunConfig::default() }),
        }),
        ..an_image.clone()
    };
    vec![
        Method {
            call: build.into(),
            reply: json(&an_image),
            text: "Makes an image of a root file system and a kernel. `source` is `{\"directory\": PATH}` or `{\"archive\": PATH}`, a tar\n\
                   which may be packed by gzip or zstd, `{\"debian\": RELEASE}`, where `null` is a release that is\n\
                   known to work, or `{\"disk\": PATH}`, an ext4 file system as a whole, raw or qcow2. Without `kernel` the newest in `/boot` is taken, without `modules` those\n\
                   beside the kernel. `image.progress` tells what is being done; the end of the connection calls it off.",
        },
        Method {
            call: pull.into(),
            reply: json(&pulled),
            text: "The same of an image in a registry of containers. `platform` is `OS/ARCHITECTURE`, `plain_http` a host that may\n\
                   be spoken to without TLS, `docker_config` the directory with the `config.json` in which docker keeps logins.\n\
                   `origin.run` is what a program of containers would run, which a guest does not; `image.list` leaves it out.",
        },
        Method {
            call: image::Promote { vm: "dev".to_owned(), name: name() }.into(),
            reply: json(&an_image),
            text: "Makes an image of the disk of a microVM, which has to be stopped and stays so meanwhile. It keeps the kernel.",
        },
        Method {
            call: image::Show { name: name() }.into(),
            reply: json(&an_image),
            text: "One image. `vms` are those that boot from it.",
        },
        Method {
            call: image::List {}.into(),
            reply: json(image::Images { images: vec![an_image] }),
            text: "All images, by name.",
        },
        Method {
            call: image::Delete { name: name() }.into(),
            reply: json(image::Deleted { name: name() }),
            text: "Removes an image. One that a microVM boots from is kept, with an error of kind `conflict`.",
        },
    ]
}

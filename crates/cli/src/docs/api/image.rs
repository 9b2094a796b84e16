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
    vec![
        Method {
            call: build.into(),
            reply: json(&an_image),
            text: "Makes an image of a root file system and a kernel. `source` is `{\"directory\": PATH}` or `{\"archive\": PATH}`, a tar\n\
                   which may be packed by gzip or zstd, `{\"debian\": RELEASE}`, where `null` is a release that is\n\
                   known to work, `{\"disk\": PATH}`, an ext4 file system as a whole, raw or qcow2, or `{\"registry\": {\"reference\": NAME}}`,\n\
                   an image in a registry of containers; there `platform` may be `OS/ARCHITECTURE`, `plain_http` a host that is\n\
                   spoken to without TLS, and `docker_config` the directory with the `config.json` in which docker keeps logins. `origin`\n\
                   of such an image says where it is from; its `run`, which is not in lists, is what a program of containers would\n\
                   run, and a guest does not. Without `kernel` the newest in `/boot` is taken, without `modules` those\n\
                   beside the kernel. `image.progress` tells what is being done; the end of the connection calls it off.",
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

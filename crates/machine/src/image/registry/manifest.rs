//! What registries say of images: lists, manifests and configurations, of OCI and of Docker, which differ in little but names.

use std::fmt;

use serde::Deserialize;
use wire::api::ErrorKind;

use super::super::RunConfig;
use super::super::digest::Digest;
use super::reference::Reference;
use crate::error::{Error, Result};

/// All kinds of manifests that are understood.
pub const KINDS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What a layer's kind begins with, if it is an archive of files. How it is packed is seen from its content.
const LAYER_KINDS: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];

/// The most layers of an image: engines make no more than 127.
const LAYERS_MAX: usize = 256;

/// The most images of a list.
const IMAGES_MAX: usize = 1024;

/// What is kept at the most of what programs of containers would run: it is shown, as JSON in one line.
const RUN_BYTES_MAX: usize = 64 << 10;

/// For which computers an image is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// As Go calls it.
    pub os: String,
    /// As Go calls it.
    pub architecture: String,
    /// Of the architecture.
    #[serde(default)]
    pub variant: Option<String>,
}

/// What is somewhere else, by what it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its kind.
    #[serde(default)]
    pub media_type: String,
    digest: String,
    /// Its length.
    pub size: u64,
    /// For which computers it is, in a list.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// One image for each of several platforms.
#[derive(Debug, Deserialize)]
pub struct Index {
    manifests: Vec<Descriptor>,
}

/// An image.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    /// What it is.
    pub config: Descriptor,
    /// What it is made of, from the lowest.
    pub layers: Vec<Descriptor>,
}

/// Either.
#[derive(Debug)]
pub enum Parsed {
    /// An image.
    Manifest(Manifest),
    /// A list of them.
    Index(Index),
}

/// What an image is.
#[derive(Debug, Deserialize)]
pub struct Config {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<Run>,
    /// Its layers.
    pub rootfs: RootFs,
}

/// The layers as they are unpacked.
#[derive(Debug, Deserialize)]
pub struct RootFs {
    /// The digest of each one's archive.
    pub diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

impl Descriptor {
    /// What it is told by.
    pub fn digest(&self) -> Result<Digest> {
        Digest::parse(&self.digest)
    }
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Refused, message)
}

/// Tells a list from an image, by what they have: not all say what they are.
pub fn parse(content: &[u8]) -> Result<Parsed> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u32,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let damaged = |error: serde_json::Error| refused(format!("the manifest cannot be understood: {error}"));
    let shape: Shape = serde_json::from_slice(content).map_err(damaged)?;
    if shape.schema_version != 2 {
        return Err(refused(format!("the manifest is of the old form {}", shape.schema_version)));
    }
    match (shape.manifests, shape.layers) {
        (Some(_), None) => {
            let index: Index = serde_json::from_slice(content).map_err(damaged)?;
            match index.manifests.len() > IMAGES_MAX {
                true => Err(refused(format!("it is a list of more than {IMAGES_MAX} images"))),
                false => Ok(Parsed::Index(index)),
            }
        }
        (None, Some(_)) => {
            let manifest: Manifest = serde_json::from_slice(content).map_err(damaged)?;
            manifest.check()?;
            Ok(Parsed::Manifest(manifest))
        }
        _ => Err(refused("the manifest is neither an image nor a list of them".to_owned())),
    }
}

impl Manifest {
    fn check(&self) -> Result<()> {
        if self.layers.is_empty() || self.layers.len() > LAYERS_MAX {
            return Err(refused(format!(
                "it has {} layers, and should have 1 to {LAYERS_MAX}",
                self.layers.len()
            )));
        }
        for layer in &self.layers {
            let kind: String = layer.media_type.chars().take(100).collect();
            let packing = LAYER_KINDS.iter().find_map(|known| kind.strip_prefix(known));
            if !matches!(packing, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd")) {
                return Err(refused(format!(
                    "it has a layer that is no archive of files, but `{}`",
                    kind.escape_debug()
                )));
            }
        }
        Ok(())
    }
}

impl Index {
    /// The image for a platform: the first one that fits.
    pub fn choose(&self, platform: &Platform, reference: &Reference) -> Result<&Descriptor> {
        let fits = |image: &&Descriptor| image.platform.as_ref().is_some_and(|other| platform.takes(other));
        self.manifests.iter().find(fits).ok_or_else(|| {
            let others = self.manifests.iter().filter_map(|image| image.platform.as_ref());
            // What is not an image is of no platform.
            let others: Vec<String> =
                others.filter(|other| other.os != "unknown").take(20).map(ToString::to_string).collect();
            let message = format!("`{reference}` is not there for {platform}, but for {}", others.join(", "));
            Error::new(ErrorKind::NotFound, message).hint("say which one with --platform OS/ARCHITECTURE")
        })
    }
}

impl Config {
    /// What a registry says it is.
    pub fn parse(content: &[u8]) -> Result<Config> {
        serde_json::from_slice(content)
            .map_err(|error| refused(format!("the configuration cannot be understood: {error}")))
    }

    /// Whether it is of this manifest, and for this platform.
    pub fn check(&self, manifest: &Manifest, platform: &Platform) -> Result<()> {
        let (layers, digests) = (manifest.layers.len(), self.rootfs.diff_ids.len());
        if layers != digests {
            return Err(refused(format!("it has {layers} layers, and digests of {digests}")));
        }
        let own = self.platform();
        match platform.takes(&own) {
            true => Ok(()),
            false => {
                let message = format!("it is for {own}, and not for {platform}");
                Err(Error::new(ErrorKind::NotFound, message)
                    .hint(format!("take it all the same: --platform {own}")))
            }
        }
    }

    /// For which computers it is.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// What programs of containers would run.
    pub fn run(&self) -> Result<RunConfig> {
        let run = self.config.as_ref();
        let texts =
            |of: fn(&Run) -> &Option<Vec<String>>| run.and_then(|run| of(run).clone()).unwrap_or_default();
        let text = |of: fn(&Run) -> &Option<String>| run.and_then(|run| of(run).clone()).unwrap_or_default();
        let run = RunConfig {
            user: text(|run| &run.user),
            env: texts(|run| &run.env),
            entrypoint: texts(|run| &run.entrypoint),
            cmd: texts(|run| &run.cmd),
            working_dir: text(|run| &run.working_dir),
        };
        let lists = [&run.env, &run.entrypoint, &run.cmd].into_iter().flatten();
        // With what stands between them.
        let bytes: usize = lists.chain([&run.user, &run.working_dir]).map(|text| text.len() + 4).sum();
        match bytes > RUN_BYTES_MAX {
            true => Err(refused(format!("what it says to be run has more than {} KiB", RUN_BYTES_MAX >> 10))),
            false => Ok(run),
        }
    }
}

impl Platform {
    /// Of images that this computer can boot.
    pub fn own() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`.
    pub fn parse(text: &str) -> Result<Platform> {
        let is_word = |word: &&str| {
            !word.is_empty()
                && word.len() <= 32
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
        };
        let parts: Vec<&str> = text.split('/').collect();
        let platform = match parts[..] {
            _ if !parts.iter().all(is_word) => None,
            [os, architecture] => Some((os, architecture, None)),
            [os, architecture, variant] => Some((os, architecture, Some(variant.to_owned()))),
            _ => None,
        };
        let (os, architecture, variant) = platform.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("`{}` is no platform", text.escape_debug()))
                .hint("linux/amd64 is one")
        })?;
        Ok(Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }

    /// Whether this other one will do for it.
    fn takes(&self, other: &Platform) -> bool {
        let variants = self.variant.is_none() || self.variant == other.variant;
        self.os == other.os && self.architecture == other.architecture && variants
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| text.chars().take(32).collect::<String>().escape_debug().to_string();
        write!(formatter, "{}/{}", shown(&self.os), shown(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(formatter, "/{}", shown(variant)),
            None => Ok(()),
        }
    }
}

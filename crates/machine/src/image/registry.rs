//! Images from registries of containers, as the OCI distribution and image specifications have them.
//!
//! ```text
//!  reference ─► list of manifests ─► manifest of a platform ─► configuration ─► layers ─► files in the stage
//!               (if it is one)         by its digest             by its digest    by their digests
//! ```
//!
//! Nothing is taken that is not what its digest says: the manifest is what the tag is now or what the reference says, and all else is
//! named by what it is in something that has been verified. The configuration has the digest of each layer's archive as it is
//! unpacked, which [`super::layers`] verifies.
//!
//! A registry is not trusted:
//!
//! - All that it says has a limit, also what it says of lengths: what is downloaded is measured, and is refused before it begins if
//!   there is no room for it. What is said about other places to have a layer from is not followed.
//! - It is told who asks when it wants to know, once for each pull, and so is the service for tokens that it names, which is asked
//!   for the right to read this one repository. Where an answer leads on to another host, that one is told nothing.
//! - What is broken off or refused for now is tried again, so often at most, and a layer goes on where it was.
//!
//! Layers are not kept: they are in the stage of the image that is made, and go with it. What is kept is the image.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::Url;
use wire::api::ErrorKind;

use super::digest::Digest;
use super::download::{self, Download, Progress, differs};
use super::http::{Answer, Attempt, Http, Patience, Request, Trouble};
use super::layers::Layer;
use super::{Origin, root};
use crate::course::{Course, called_off};
use crate::error::{Error, Result};
use credentials::{Login, sensitive};
use manifest::{Config, Descriptor, Index, Manifest, Parsed, Platform};
use reference::Reference;

pub mod credentials;
pub mod manifest;
pub mod reference;

/// The longest manifest or list of them: registries take none that is longer.
const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// The longest configuration.
const CONFIG_BYTES_MAX: usize = 4 << 20;

/// The longest answer of a service for tokens.
const TOKEN_BYTES_MAX: usize = 256 << 10;

/// The most that is downloaded for one image.
pub const DOWNLOAD_BYTES_MAX: u64 = 64 << 30;

/// Docker's own header with the digest of a manifest.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// An image to be pulled.
#[derive(Debug, Clone)]
pub struct Pull {
    /// What it is called there.
    pub reference: String,
    /// For which computers, as `OS/ARCHITECTURE`; none for those of this one's sort.
    pub platform: Option<String>,
    /// A host that is spoken to without TLS, with a port if it has one.
    pub plain: Option<String>,
    /// Docker's directory, where logins are kept.
    pub docker: Option<PathBuf>,
}

/// What has been pulled.
#[derive(Debug)]
pub struct Pulled {
    /// From the lowest.
    pub layers: Vec<Layer>,
    /// What it is.
    pub origin: Origin,
}

/// Downloads the layers of an image to a directory, which is made. Blocks.
pub fn pull(pull: &Pull, stage: &Path, course: &Course) -> Result<Pulled> {
    pull_patiently(pull, stage, course, Patience::default())
}

fn pull_patiently(pull: &Pull, stage: &Path, course: &Course, patience: Patience) -> Result<Pulled> {
    let reference = Reference::parse(&pull.reference)?;
    let platform = match &pull.platform {
        Some(platform) => Platform::parse(platform)?,
        None => Platform::own(),
    };
    super::make_private(stage)?;
    let http = Http::new(patience, pull.plain.clone());
    while_wanted(course, async {
        let login = credentials::find(pull.docker.as_deref(), reference.login()).await?;
        let registry = Registry::new(&http, &reference, login)?;
        registry.pull(&platform, stage, course).await
    })
}

/// Does something that waits for others until it is done or called off.
pub(super) fn while_wanted<T>(course: &Course, work: impl Future<Output = Result<T>>) -> Result<T> {
    use std::os::fd::AsFd;
    use tokio::net::unix::pipe::Receiver;
    let failed =
        |error: &dyn std::fmt::Display| Error::new(ErrorKind::Failure, format!("could not wait: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(&error))?;
    let done = runtime.block_on(async {
        let fd = course.as_fd().try_clone_to_owned().map_err(|error| failed(&error))?;
        // It becomes readable when its other end is closed.
        let end = Receiver::from_owned_fd(fd).map_err(|error| failed(&error))?;
        tokio::select! {
            done = work => done,
            _ = end.readable() => Err(called_off()),
        }
    });
    // A name may be looked up yet, which cannot be called off.
    runtime.shutdown_background();
    done
}

/// A repository of a registry.
struct Registry<'a> {
    http: &'a Http,
    reference: &'a Reference,
    base: Url,
    login: Option<Login>,
    /// What was had for the login.
    authorization: RefCell<Option<HeaderValue>>,
}

impl<'a> Registry<'a> {
    fn new(http: &'a Http, reference: &'a Reference, login: Option<Login>) -> Result<Registry<'a>> {
        let authority = reference.authority();
        let base = format!("{}://{authority}/v2/{}/", http.scheme(authority), reference.repository);
        let base = Url::parse(&base).map_err(|error| {
            Error::new(ErrorKind::Usage, format!("`{reference}` is no place to ask: {error}"))
        })?;
        Ok(Registry { http, reference, base, login, authorization: RefCell::new(None) })
    }

    async fn pull(&self, platform: &Platform, stage: &Path, course: &Course) -> Result<Pulled> {
        course.begin(&format!("asking for {}", self.reference))?;
        let (manifest, digest) = self.manifest(platform).await?;
        let config = self.small(&manifest.config, CONFIG_BYTES_MAX).await?;
        let config = Config::parse(&config)?;
        config.check(&manifest, platform)?;
        let layers = self.layers(&manifest, &config, stage, course).await?;
        let origin = Origin {
            reference: self.reference.to_string(),
            digest: digest.to_string(),
            platform: config.platform().to_string(),
            run: config.run()?,
        };
        Ok(Pulled { layers, origin })
    }

    /// The manifest for a platform, and its digest.
    async fn manifest(&self, platform: &Platform) -> Result<(Manifest, Digest)> {
        let content =
            self.tried(|| self.manifest_content(self.reference.which(), self.reference.digest())).await?;
        let index: Index = match manifest::parse(&content)? {
            Parsed::Manifest(manifest) => return Ok((manifest, Digest::of(&content))),
            Parsed::Index(index) => index,
        };
        let chosen = index.choose(platform, self.reference)?;
        let digest = chosen.digest()?;
        let content = self.tried(|| self.manifest_content(digest.to_string(), Some(digest))).await?;
        match manifest::parse(&content)? {
            Parsed::Manifest(manifest) => Ok((manifest, digest)),
            Parsed::Index(_) => {
                let message = format!("`{}` has a list of lists of images", self.reference);
                Err(Error::new(ErrorKind::Refused, message))
            }
        }
    }

    async fn manifest_content(&self, which: String, expected: Option<Digest>) -> Attempt<Vec<u8>> {
        let request = Request { headers: vec![(ACCEPT, manifest::KINDS.join(", "))], ..Request::default() };
        let mut answer = self.get(&format!("manifests/{which}"), request).await?;
        let content = answer.content(MANIFEST_BYTES_MAX).await?;
        let said = answer.headers.get(CONTENT_DIGEST).and_then(|digest| digest.to_str().ok());
        let said = said.filter(|said| said.starts_with("sha256:")).map(Digest::parse).transpose()?;
        let found = Digest::of(&content);
        match [expected, said].into_iter().flatten().find(|wanted| *wanted != found) {
            Some(wanted) => Err(differs("the manifest", found, wanted).into()),
            None => Ok(content),
        }
    }

    /// Something that is kept in memory.
    async fn small(&self, descriptor: &Descriptor, bytes_max: usize) -> Result<Vec<u8>> {
        let digest = descriptor.digest()?;
        let content = self
            .tried(async || {
                let mut answer = self.get(&format!("blobs/{digest}"), Request::default()).await?;
                answer.content(bytes_max).await
            })
            .await?;
        let found = Digest::of(&content);
        match found == digest {
            true => Ok(content),
            false => Err(differs("the configuration", found, digest)),
        }
    }

    /// Downloads all layers, each once.
    async fn layers(
        &self,
        manifest: &Manifest,
        config: &Config,
        stage: &Path,
        course: &Course,
    ) -> Result<Vec<Layer>> {
        let mut wanted: Vec<(Digest, u64)> = Vec::new();
        for layer in &manifest.layers {
            let digest = layer.digest()?;
            if !wanted.iter().any(|(other, _)| *other == digest) {
                wanted.push((digest, layer.size));
            }
        }
        let total = wanted.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
        if total > DOWNLOAD_BYTES_MAX {
            let message =
                format!("`{}` has more than {} GiB of layers", self.reference, DOWNLOAD_BYTES_MAX >> 30);
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let stage_file = File::open(stage).map_err(|error| Error::file("open", stage, &error))?;
        root::check_space(stage, &stage_file, total)?;
        let mut progress = Progress::new(total, course);
        for (digest, size) in wanted {
            let (path, place) = (stage.join(digest.digits()), format!("blobs/{digest}"));
            let download = Download::new(&path, "a layer", digest, size)?;
            let asked = async |request| self.get(&place, request).await;
            download.carry_out(asked, self.http.patience().pause, &mut progress).await?;
        }
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        layers
            .map(|(layer, unpacked)| {
                let path = stage.join(layer.digest()?.digits());
                Ok(Layer { path, unpacked: Digest::parse(unpacked)? })
            })
            .collect()
    }

    async fn tried<T>(&self, work: impl AsyncFnMut() -> Attempt<T>) -> Result<T> {
        download::tried(self.http.patience().pause, work).await
    }

    /// Asks the registry, and says who asks if it wants to know.
    async fn get(&self, path: &str, mut request: Request) -> Attempt<Answer> {
        let url = self.base.join(path).map_err(|error| Error::new(ErrorKind::Usage, error.to_string()))?;
        request.authorization = self.authorization.borrow().clone();
        let answer = self.http.get(&url, &request).await?;
        let answer = match answer.status {
            // What was had for the login may have ended. Who refuses what has just been had is not asked again.
            StatusCode::UNAUTHORIZED => {
                let authorization = self.authorize(&answer).await?;
                *self.authorization.borrow_mut() = Some(authorization.clone());
                request.authorization = Some(authorization);
                self.http.get(&url, &request).await?
            }
            _ => answer,
        };
        self.judge(answer)
    }

    fn judge(&self, answer: Answer) -> Attempt<Answer> {
        let (place, status) = (&answer.place, answer.status);
        let host = self.reference.authority();
        match status {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = format!("`{host}` refuses `{}`: {status}", self.reference);
                let error = Error::new(ErrorKind::Refused, message);
                Err(error.hint(format!("docker login {}", self.reference.login())).into())
            }
            StatusCode::NOT_FOUND => {
                let message = format!("`{place}` is not there: {status}");
                Err(Error::new(ErrorKind::NotFound, message).into())
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Trouble::passing(format!("`{host}` has been asked too often for now: {status}")))
            }
            status if status.is_server_error() => {
                Err(Trouble::passing(format!("`{place}` has failed: {status}")))
            }
            _ => Err(Error::new(ErrorKind::Failure, format!("`{place}` has answered {status}")).into()),
        }
    }

    /// What the registry wants to be said with a request.
    async fn authorize(&self, answer: &Answer) -> Attempt<HeaderValue> {
        let refused = |why: &str| {
            let message = format!("`{}` refuses `{}`: {why}", self.reference.authority(), self.reference);
            Error::new(ErrorKind::Refused, message).hint(format!("docker login {}", self.reference.login()))
        };
        let challenges = answer.headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<&str> = challenges.filter_map(|value| value.to_str().ok()).collect();
        let of = |scheme: &str| {
            challenges.iter().find_map(|text| {
                let (said, rest) = text.split_once(' ').unwrap_or((text, ""));
                said.eq_ignore_ascii_case(scheme).then_some(rest)
            })
        };
        if let Some(bearer) = of("Bearer") {
            return self.token(bearer).await;
        }
        let basic = of("Basic").ok_or_else(|| refused("it does not say how to log in"));
        basic.map(drop)?;
        let login = self.login.as_ref().and_then(Login::basic);
        Ok(login.ok_or_else(|| refused("it wants a login"))?)
    }

    /// Asks the service that the registry names for a token.
    async fn token(&self, challenge: &str) -> Attempt<HeaderValue> {
        let host = self.reference.authority();
        let broken = |why: &str| Error::new(ErrorKind::Failure, format!("`{host}` gives no token: {why}"));
        let realm = parameter(challenge, "realm").ok_or_else(|| broken("it does not say where"))?;
        let mut url = Url::parse(&realm).map_err(|_| broken("where it says is no place"))?;
        let service = parameter(challenge, "service").unwrap_or_default();
        let scope = format!("repository:{}:pull", self.reference.repository);
        let mut request = Request::default();
        if let Some(Login::Identity(token)) = &self.login {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("client_id", "stead");
            form.append_pair("service", &service).append_pair("scope", &scope);
            form.append_pair("refresh_token", token.expose());
            request.form = Some(form.finish());
            request.headers.push((CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned()));
        } else {
            url.query_pairs_mut().append_pair("service", &service).append_pair("scope", &scope);
            request.authorization = self.login.as_ref().and_then(Login::basic);
        }
        let answer = self.http.get(&url, &request).await?;
        let content = self.judge(answer)?.content(TOKEN_BYTES_MAX).await?;
        let said: Token = serde_json::from_slice(&content).map_err(|_| broken("what it says is none"))?;
        let token = said.token.or(said.access_token).ok_or_else(|| broken("it says none"))?;
        Ok(sensitive(&format!("Bearer {token}")).ok_or_else(|| broken("what it says is none"))?)
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// A parameter of what a registry wants: `KEY="VALUE"`, between commas.
fn parameter(challenge: &str, key: &str) -> Option<String> {
    let mut rest = challenge;
    while let Some((name, behind)) = rest.split_once('=') {
        let (value, next) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => behind.split_at(behind.find(',').unwrap_or(behind.len())),
        };
        if name.trim_matches([' ', ',']).eq_ignore_ascii_case(key) {
            return Some(value.to_owned());
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests;

//! What an image is called in registries: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`.
//!
//! The first part is a host if it has a `.` or a `:` in it, or is `localhost`; without one it is `docker.io`, where a repository of
//! one part is below `library/`. Without a tag and a digest the tag is `latest`. With a digest the tag says nothing.

use std::fmt;

use wire::api::ErrorKind;

use super::super::digest::Digest;
use crate::error::{Error, Result};

/// The longest reference: a host has 253 bytes, a repository 255, a tag 128 and a digest 71.
const REFERENCE_BYTES_MAX: usize = 768;

const TAG_BYTES_MAX: usize = 128;

/// The registry of names without a host, how its programs reach it, and under which name logins to it are kept.
const HUB: (&str, &str, &str) = ("docker.io", "registry-1.docker.io", "https://index.docker.io/v1/");

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    host: String,
    /// The image without what says which one of it.
    pub repository: String,
    which: Which,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// As people write it.
    pub fn parse(text: &str) -> Result<Reference> {
        Reference::parts(text).ok_or_else(|| {
            let shown: String = text.chars().take(100).collect();
            let message = format!("`{}` is no image of a registry", shown.escape_debug());
            Error::new(ErrorKind::Usage, message)
                .hint("write it as debian:12 or registry.example.org/team/image:1.0")
        })
    }

    fn parts(text: &str) -> Option<Reference> {
        if text.len() > REFERENCE_BYTES_MAX {
            return None;
        }
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(Digest::parse(digest).ok()?)),
            None => (text, None),
        };
        let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (host, rest) = match text.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest),
            _ => (HUB.0, text),
        };
        let (repository, tag) = rest.split_once(':').unwrap_or((rest, "latest"));
        let repository = match host == HUB.0 && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        let is_right = is_authority(host) && repository.split('/').all(is_component) && is_tag(tag);
        let which = digest.map_or_else(|| Which::Tag(tag.to_owned()), Which::Digest);
        is_right.then(|| Reference { host: host.to_owned(), repository, which })
    }

    /// Whom to ask, with a port if there is one.
    pub fn authority(&self) -> &str {
        if self.host == HUB.0 { HUB.1 } else { &self.host }
    }

    /// Under which name a login is kept.
    pub fn login(&self) -> &str {
        if self.host == HUB.0 { HUB.2 } else { &self.host }
    }

    /// What to ask for: a tag or a digest.
    pub fn which(&self) -> String {
        match &self.which {
            Which::Tag(tag) => tag.clone(),
            Which::Digest(digest) => digest.to_string(),
        }
    }

    /// What it has to be, if that is said.
    pub fn digest(&self) -> Option<Digest> {
        match self.which {
            Which::Tag(_) => None,
            Which::Digest(digest) => Some(digest),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.digest().is_some() { '@' } else { ':' };
        write!(formatter, "{}/{}{sign}{}", self.host, self.repository, self.which())
    }
}

fn is_authority(host: &str) -> bool {
    let is_name = |name: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_inner))
    };
    let is_address = |name: &str| {
        let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (is_name(name) || is_address(name)) && is_port(port),
        _ => is_name(host) || is_address(host),
    }
}

fn is_component(name: &str) -> bool {
    let is_end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_inner = |byte: u8| is_end(byte) || matches!(byte, b'.' | b'_' | b'-');
    name.bytes().all(is_inner)
        && name.bytes().next().is_some_and(is_end)
        && name.bytes().next_back().is_some_and(is_end)
        && !name.contains("..")
}

fn is_tag(tag: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().all(is_inner)
        && tag.bytes().next().is_some_and(|byte| byte != b'.' && byte != b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_as_programs_of_containers_read_it() {
        let digest = format!("@{}", Digest::of(b""));
        for (text, whole, authority) in [
            ("debian", "docker.io/library/debian:latest", "registry-1.docker.io"),
            ("team/image:1.0", "docker.io/team/image:1.0", "registry-1.docker.io"),
            ("docker.io/debian:12", "docker.io/library/debian:12", "registry-1.docker.io"),
            ("ghcr.io/a/b/c_d", "ghcr.io/a/b/c_d:latest", "ghcr.io"),
            ("localhost/a", "localhost/a:latest", "localhost"),
            ("127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b", "127.0.0.1:5000"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.to_string().as_str(), reference.authority()), (whole, authority));
        }
        let told = Reference::parse(&format!("a.b/c:1{digest}")).unwrap();
        assert_eq!((told.digest(), told.to_string()), (Some(Digest::of(b"")), format!("a.b/c{digest}")));
        assert_eq!(Reference::parse("debian").unwrap().login(), "https://index.docker.io/v1/");
    }

    #[test]
    fn what_is_none_is_refused_and_leads_nowhere_else() {
        for text in [
            "",
            ":",
            "/",
            "Debian",
            "a:",
            "a b",
            "a/../b",
            "../a",
            "a@sha256:0",
            "a:b:c",
            "user@host/a",
            "host.x:/a",
            "host.x:99999/a",
            "http://a/b",
            "a//b",
            "a.b/",
            "a?b",
            "a#b",
            "a.b\\c/d",
            "a.b%2f/c",
            "[::1/a",
            "-a",
            &"a/".repeat(500),
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}

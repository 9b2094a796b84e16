//! Where one end of a tunnel is: a TCP address or a unix socket.
//!
//! ```text
//!  8080              TCP, on the loopback
//!  db.internal:5432  TCP; a name is looked up on the side whose end it is
//!  127.0.0.1:80      TCP, [::1]:80 as well
//!  /run/app.sock     a unix socket, by its absolute path
//! ```
//!
//! The same text is its form in JSON and on the stream to a machine. Whoever reads one holds it against these rules: a host
//! is an address or a name as in DNS, a port has no sign and no leading zero, a path is one that a socket's address can hold.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytestring::ByteString;

/// The longest path of a unix socket, without its NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The longest name of a host, as in DNS.
const HOST_BYTES_MAX: usize = 253;

/// The host when none is given.
const LOOPBACK: &str = "localhost";

/// One end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A TCP port.
    Tcp {
        /// An address, without brackets, or a name. `localhost` is the loopback, whatever a resolver says.
        host: String,
        /// 0 has the system choose one, where it is listened on.
        port: u16,
    },
    /// A unix socket.
    Unix {
        /// Absolute.
        path: ByteString,
    },
}

/// A text is not an end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing is there.
    #[error("an end of a tunnel is missing: write PORT, HOST:PORT or /PATH")]
    Missing,
    /// What should be a port is none.
    #[error("`{0}` is not a port: it is a number up to 65535")]
    Port(ByteString),
    /// What should be a host is none.
    #[error("`{0}` is neither an address nor the name of a host; an IPv6 address is written in brackets")]
    Host(ByteString),
    /// A path that a socket cannot have.
    #[error(
        "`{0}` is not the path of a unix socket: it is absolute, has at most {SOCKET_PATH_BYTES_MAX} bytes, and no NUL"
    )]
    Path(ByteString),
    /// There are more ends than two.
    #[error("`{0}` is too much: a tunnel is LOCAL:REMOTE, and a path has no colon in it")]
    Rest(ByteString),
}

impl Endpoint {
    /// Reads one that is alone.
    pub fn parse(text: &[u8]) -> Result<Endpoint, EndpointError> {
        match Endpoint::parse_first(text)? {
            (endpoint, None) => Ok(endpoint),
            (_, Some(rest)) => Err(EndpointError::Rest(rest.into())),
        }
    }

    /// Reads `LOCAL:REMOTE`.
    pub fn parse_pair(text: &[u8]) -> Result<(Endpoint, Endpoint), EndpointError> {
        let (local, rest) = Endpoint::parse_first(text)?;
        Ok((local, Endpoint::parse(rest.ok_or(EndpointError::Missing)?)?))
    }

    /// Reads the first one, and gives what is behind the colon that follows it. What has only digits is a port, what begins
    /// with a slash a path, and anything else a host, which has a port.
    fn parse_first(text: &[u8]) -> Result<(Endpoint, Option<&[u8]>), EndpointError> {
        if text.first() == Some(&b'[') {
            let end = text.iter().position(|byte| *byte == b']');
            let end = end.ok_or_else(|| EndpointError::Host(text.into()))?;
            let host = checked_host(&text[1..end], Brackets::Around)?;
            let port = text[end + 1..].strip_prefix(b":").ok_or_else(|| EndpointError::Port(text.into()))?;
            let (port, rest) = split(port);
            return Ok((Endpoint::Tcp { host, port: checked_port(port)? }, rest));
        }
        let (first, rest) = split(text);
        match first.first() {
            None => Err(EndpointError::Missing),
            Some(b'/') => Ok((Endpoint::Unix { path: checked_path(first)? }, rest)),
            Some(_) if first.iter().all(u8::is_ascii_digit) => {
                Ok((Endpoint::Tcp { host: LOOPBACK.to_owned(), port: checked_port(first)? }, rest))
            }
            Some(_) => {
                let host = checked_host(first, Brackets::None)?;
                let (port, rest) = split(rest.ok_or_else(|| EndpointError::Host(text.into()))?);
                Ok((Endpoint::Tcp { host, port: checked_port(port)? }, rest))
            }
        }
    }

    /// The text that it is read from.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}").into_bytes(),
            Endpoint::Tcp { host, port } => format!("{host}:{port}").into_bytes(),
            Endpoint::Unix { path } => path.as_bytes().to_vec(),
        }
    }

    /// Whether a system can listen there: on an address of its own or the loopback, and not on a name.
    pub fn is_own_address(&self) -> bool {
        match self {
            Endpoint::Tcp { host, .. } => host == LOOPBACK || is_address(host),
            Endpoint::Unix { .. } => true,
        }
    }

    /// Whether there can be anything to connect to.
    pub fn is_definite(&self) -> bool {
        !matches!(self, Endpoint::Tcp { port: 0, .. })
    }
}

fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == b':') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn checked_port(text: &[u8]) -> Result<u16, EndpointError> {
    let is_plain =
        text == b"0" || (text.iter().all(u8::is_ascii_digit) && text.first().is_some_and(|d| *d != b'0'));
    let number = std::str::from_utf8(text).ok().filter(|_| is_plain).and_then(|text| text.parse().ok());
    number.ok_or_else(|| EndpointError::Port(text.into()))
}

/// Whether a host was written in brackets.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Brackets {
    Around,
    None,
}

fn is_address(host: &str) -> bool {
    Ipv4Addr::from_str(host).is_ok() || Ipv6Addr::from_str(host).is_ok()
}

fn checked_host(text: &[u8], brackets: Brackets) -> Result<String, EndpointError> {
    let wrong = || EndpointError::Host(text.into());
    let host = std::str::from_utf8(text).map_err(|_| wrong())?;
    let is_label = |label: &str| {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && !label.starts_with('-') && label.bytes().all(is_word)
    };
    // A last label of digits alone makes an address of it, and then a whole one is wanted.
    let is_numeric =
        host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    let is_good = match brackets {
        Brackets::Around => Ipv6Addr::from_str(host).is_ok(),
        Brackets::None if is_numeric => Ipv4Addr::from_str(host).is_ok(),
        Brackets::None => host.len() <= HOST_BYTES_MAX && host.split('.').all(is_label),
    };
    if is_good { Ok(host.to_owned()) } else { Err(wrong()) }
}

fn checked_path(text: &[u8]) -> Result<ByteString, EndpointError> {
    let is_good = text.len() <= SOCKET_PATH_BYTES_MAX && !text.contains(&0) && !text.ends_with(b"/");
    if is_good { Ok(text.into()) } else { Err(EndpointError::Path(text.into())) }
}

/// For people; see [`ByteString`] on what is escaped.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ByteString::from(self.to_bytes()), f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => ByteString::from(self.to_bytes()).serialize(serializer),
            false => serializer.serialize_bytes(&self.to_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Endpoint, D::Error> {
        let text = match deserializer.is_human_readable() {
            true => ByteString::deserialize(deserializer)?.into_bytes(),
            false => serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec(),
        };
        Endpoint::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    fn unix(path: &str) -> Endpoint {
        Endpoint::Unix { path: path.into() }
    }

    #[test]
    fn a_pair_is_read_as_it_is_meant() {
        let cases = [
            ("8080:80", tcp("localhost", 8080), tcp("localhost", 80)),
            ("0:80", tcp("localhost", 0), tcp("localhost", 80)),
            ("8080:db.internal:5432", tcp("localhost", 8080), tcp("db.internal", 5432)),
            ("127.0.0.1:8080:80", tcp("127.0.0.1", 8080), tcp("localhost", 80)),
            ("0.0.0.0:1:a_b-c:2", tcp("0.0.0.0", 1), tcp("a_b-c", 2)),
            ("[::1]:8080:[2001:db8::1]:80", tcp("::1", 8080), tcp("2001:db8::1", 80)),
            ("8080:/run/docker.sock", tcp("localhost", 8080), unix("/run/docker.sock")),
            ("/tmp/a:/tmp/b", unix("/tmp/a"), unix("/tmp/b")),
            ("/tmp/a b:5432", unix("/tmp/a b"), tcp("localhost", 5432)),
        ];
        for (text, local, remote) in cases {
            assert_eq!(Endpoint::parse_pair(text.as_bytes()), Ok((local, remote)), "{text}");
        }
    }

    #[test]
    fn what_is_no_end_of_a_tunnel_is_refused() {
        let long = format!("/{}", "a".repeat(SOCKET_PATH_BYTES_MAX));
        let cases = [
            "",
            ":",
            "80",
            "80:",
            ":80",
            "80:80:80:80",
            "65536:80",
            "080:80",
            "+80:80",
            "-1:80",
            "80:host",
            "80:1.2.3:4",
            "80:256.1.1.1:4",
            "80:::1:4",
            "80:[::1]",
            "80:[::1]80",
            "80:[1.2.3.4]:5",
            "80:-h:4",
            "80:a..b:4",
            "80:a b:4",
            "80:h/x:4",
            "80:/a:/b",
            "80:relative/path",
            "80:/dir/",
            "80:/a\0b",
            "80:.sock",
            "80:\u{e9}:4",
            &long,
        ];
        for text in cases {
            assert!(Endpoint::parse_pair(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Endpoint::parse(b"80:\xff:4").is_err());
    }

    #[test]
    fn an_end_survives_both_forms() {
        for end in [
            tcp("localhost", 80),
            tcp("::1", 0),
            unix("/run/x"),
            Endpoint::Unix { path: b"/\xff"[..].into() },
        ] {
            assert_eq!(Endpoint::parse(&end.to_bytes()).as_ref(), Ok(&end));
            let json = serde_json::to_string(&end).unwrap();
            assert_eq!(serde_json::from_str::<Endpoint>(&json).unwrap(), end, "{json}");
            let bytes = crate::frame::encode_head(&end, 0).unwrap();
            assert_eq!(
                crate::frame::decode_head::<Endpoint>(&bytes[crate::frame::PREFIX_BYTES..]).unwrap(),
                end
            );
        }
    }

    #[test]
    fn a_name_is_not_listened_on_and_port_0_is_not_connected_to() {
        assert!(
            tcp("localhost", 0).is_own_address()
                && tcp("0.0.0.0", 1).is_own_address()
                && unix("/x").is_own_address()
        );
        assert!(!tcp("db.internal", 1).is_own_address());
        assert!(tcp("db", 1).is_definite() && unix("/x").is_definite() && !tcp("db", 0).is_definite());
    }
}

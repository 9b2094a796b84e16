//! Asking for something over HTTP/1.1, plain or through TLS: the only thing of this crate that reaches other computers.
//!
//! Whoever answers is not trusted. Each part of an answer has a time, and its content has to come at a rate, so that nobody keeps an
//! image half made by saying little. What is read has a limit of its reader's.
//!
//! - Plain HTTP is spoken with this very computer, and with one host that the user has named. All else goes through TLS, with the
//!   certificates that this computer trusts.
//! - An answer may lead on to another place, a few times. What says who asks goes to the first place's host alone, and never from TLS
//!   to plain HTTP, where nothing goes at all.
//! - Every request has a connection of its own: there are few, and most are long.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::{Host, Url};
use wire::api::ErrorKind;

use crate::error::{Error, Result};

/// How often an answer may lead on. A registry leads to where its layers are, which may lead on once more.
const REDIRECTS_MAX: usize = 5;

/// The longest part of an answer before its content.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The most lines of it.
const HEADERS_MAX: usize = 100;

/// How long others may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To be reached.
    pub connect: Duration,
    /// To begin an answer.
    pub reply: Duration,
    /// In each such time at least `window_bytes` of an answer come, or all that is left of it.
    pub window: Duration,
    /// See `window`.
    pub window_bytes: u64,
    /// Before something is tried again; twice as long each time.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(30),
            reply: Duration::from_secs(60),
            window: Duration::from_secs(30),
            window_bytes: 64 << 10,
            pause: Duration::from_secs(1),
        }
    }
}

/// Why there is no answer, and whether there may be one later.
#[derive(Debug)]
pub struct Trouble {
    /// What is wrong.
    pub error: Error,
    /// Whether it is worth another try.
    pub may_pass: bool,
}

/// An answer, or why there is none.
pub type Attempt<T> = std::result::Result<T, Trouble>;

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble { error, may_pass: false }
    }
}

impl Trouble {
    /// What may be otherwise the next time.
    pub fn passing(message: String) -> Trouble {
        Trouble { error: Error::new(ErrorKind::Unreachable, message), may_pass: true }
    }
}

/// What is asked for.
#[derive(Debug, Default)]
pub struct Request {
    /// What is said with it.
    pub headers: Vec<(HeaderName, String)>,
    /// Who asks: for the first place's host alone.
    pub authorization: Option<HeaderValue>,
    /// What is sent, as a form.
    pub form: Option<String>,
}

/// Who asks.
pub struct Http {
    patience: Patience,
    /// Besides this very computer, who is spoken to without TLS: a host, and the port if it has one.
    plain: Option<String>,
    roots: RootCertStore,
}

/// An answer whose content is yet to come.
#[derive(Debug)]
pub struct Answer {
    /// Where it is from.
    pub place: String,
    /// What it is.
    pub status: StatusCode,
    /// What is said before its content.
    pub headers: HeaderMap,
    body: Incoming,
    patience: Patience,
    window: (Instant, u64),
}

/// Both sorts of connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Http {
    /// With the certificates that this computer trusts. Reads them, so it blocks.
    pub fn new(patience: Patience, plain: Option<String>) -> Http {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "a certificate is passed over");
        }
        // One that is damaged is trusted by nobody.
        let (_added, _damaged) = roots.add_parsable_certificates(found.certs);
        Http::trusting(roots, patience, plain)
    }

    fn trusting(roots: RootCertStore, patience: Patience, plain: Option<String>) -> Http {
        Http { patience, plain, roots }
    }

    /// How long others may take.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// How this host is spoken to.
    pub fn scheme(&self, authority: &str) -> &'static str {
        let url = Url::parse(&format!("http://{authority}/"));
        if url.is_ok_and(|url| self.may_be_plain(&url)) { "http" } else { "https" }
    }

    fn may_be_plain(&self, url: &Url) -> bool {
        let is_here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
            Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
            None => false,
        };
        is_here || self.plain.as_deref() == Some(&authority(url))
    }

    /// Asks for what is there, wherever that leads.
    pub async fn get(&self, url: &Url, request: &Request) -> Attempt<Answer> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let is_first = at.origin() == url.origin();
            let answer = self.ask(&at, request, is_first).await?;
            if !answer.status.is_redirection() || answer.status == StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
            at = self.next(&at, &answer)?;
        }
        Err(failure(format!("`{}` leads on more than {REDIRECTS_MAX} times", shown(url))).into())
    }

    /// Where an answer leads.
    fn next(&self, at: &Url, answer: &Answer) -> Result<Url> {
        let nowhere = || failure(format!("`{}` leads to nowhere", answer.place));
        let location = answer.headers.get(LOCATION).and_then(|to| to.to_str().ok()).ok_or_else(nowhere)?;
        let next = at.join(location).map_err(|_| nowhere())?;
        if at.scheme() == "https" && next.scheme() != "https" {
            let message = format!("`{}` leads from TLS to `{}`, which is none", answer.place, shown(&next));
            return Err(Error::new(ErrorKind::Refused, message));
        }
        Ok(next)
    }

    async fn ask(&self, url: &Url, request: &Request, is_first: bool) -> Attempt<Answer> {
        let place = shown(url);
        let connecting = timeout(self.patience.connect, self.connect(url, &place)).await;
        let stream = connecting.map_err(|_| late(&place, "be reached", self.patience.connect))??;
        let asking = timeout(self.patience.reply, self.send(stream, url, request, is_first, &place)).await;
        let (status, headers, body) = asking.map_err(|_| late(&place, "answer", self.patience.reply))??;
        let window = (Instant::now(), 0);
        Ok(Answer { place, status, headers, body, patience: self.patience, window })
    }

    async fn connect(&self, url: &Url, place: &str) -> Attempt<Box<dyn Stream>> {
        let unreachable =
            |error: &dyn std::fmt::Display| Trouble::passing(format!("could not reach `{place}`: {error}"));
        let is_plain = match url.scheme() {
            "https" => false,
            "http" if self.may_be_plain(url) => true,
            _ => {
                let message = format!("`{place}` is not asked: what it says could be anybody's");
                let error = Error::new(ErrorKind::Refused, message);
                return Err(error
                    .hint("only --plain-http HOST has a host of a network you trust asked without TLS")
                    .into());
            }
        };
        let host = url.host().ok_or_else(|| failure(format!("`{place}` has no host")))?;
        let port = url.port_or_known_default().unwrap_or(443);
        let stream = match &host {
            Host::Domain(name) => TcpStream::connect((*name, port)).await,
            Host::Ipv4(address) => TcpStream::connect((IpAddr::from(*address), port)).await,
            Host::Ipv6(address) => TcpStream::connect((IpAddr::from(*address), port)).await,
        };
        let stream = stream.map_err(|error| unreachable(&error))?;
        if is_plain {
            return Ok(Box::new(stream));
        }
        let name = match host {
            Host::Domain(name) => {
                ServerName::try_from(name.to_owned()).map_err(|error| failure(error.to_string()))?
            }
            Host::Ipv4(address) => ServerName::from(IpAddr::from(address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::from(address)),
        };
        let stream = self.tls()?.connect(name, stream).await.map_err(|error| unreachable(&error))?;
        Ok(Box::new(stream))
    }

    fn tls(&self) -> Result<TlsConnector> {
        if self.roots.is_empty() {
            let message = "this computer trusts no certificates";
            return Err(Error::new(ErrorKind::Failure, message).hint("apt-get install ca-certificates"));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failure(error.to_string()))?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    async fn send(
        &self,
        stream: Box<dyn Stream>,
        url: &Url,
        request: &Request,
        is_first: bool,
        place: &str,
    ) -> Attempt<(StatusCode, HeaderMap, Incoming)> {
        let broken = |error: hyper::Error| Trouble::passing(format!("`{place}` has not answered: {error}"));
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // It ends with the answer, or with the runtime.
        tokio::spawn(connection);
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let (method, body) = match &request.form {
            Some(form) => (Method::POST, form.clone()),
            None => (Method::GET, String::new()),
        };
        let mut asked = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority(url))
            .header(USER_AGENT, concat!("stead/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &request.headers {
            asked = asked.header(name, value);
        }
        if let Some(authorization) = request.authorization.as_ref().filter(|_| is_first) {
            asked = asked.header(AUTHORIZATION, authorization);
        }
        let asked = asked.body(Full::new(Bytes::from(body)));
        let asked = asked.map_err(|error| failure(format!("`{place}` cannot be asked: {error}")))?;
        let (head, body) = sender.send_request(asked).await.map_err(broken)?.into_parts();
        Ok((head.status, head.headers, body))
    }
}

impl Answer {
    /// The next piece of its content; none at its end.
    pub async fn chunk(&mut self) -> Attempt<Option<Bytes>> {
        loop {
            let (begun, came) = self.window;
            let Ok(frame) = timeout_at(begun + self.patience.window, self.body.frame()).await else {
                if came < self.patience.window_bytes {
                    return Err(self.slow().into());
                }
                self.window = (Instant::now(), 0);
                continue;
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| {
                Trouble::passing(format!("the answer of `{}` was cut off: {error}", self.place))
            })?;
            // What is said behind the content is of no use.
            let Ok(chunk) = frame.into_data() else { continue };
            self.window.1 += chunk.len() as u64;
            // Late is only who is waited for: here the reader has been busy.
            if Instant::now() >= begun + self.patience.window {
                self.window = (Instant::now(), 0);
            }
            return Ok(Some(chunk));
        }
    }

    fn slow(&self) -> Error {
        let (bytes, seconds) = (self.patience.window_bytes >> 10, self.patience.window.as_secs());
        let message = format!("`{}` is too slow: less than {bytes} KiB in {seconds} s", self.place);
        Error::new(ErrorKind::TimedOut, message)
    }

    /// All of its content, which has no more than so many bytes.
    pub async fn content(&mut self, bytes_max: usize) -> Attempt<Vec<u8>> {
        let mut content = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if content.len() + chunk.len() > bytes_max {
                let message = format!("the answer of `{}` is longer than {bytes_max} bytes", self.place);
                return Err(Error::new(ErrorKind::Refused, message).into());
            }
            content.extend_from_slice(&chunk);
        }
        Ok(content)
    }
}

/// A host, and its port if that is not the usual one.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A place as it may be told and logged: what follows the path may say who asks.
pub fn shown(url: &Url) -> String {
    let path: String = url.path().chars().take(300).collect();
    format!("{}://{}{path}", url.scheme(), authority(url))
}

fn failure(message: String) -> Error {
    Error::new(ErrorKind::Failure, message)
}

fn late(place: &str, what: &str, patience: Duration) -> Trouble {
    let message = format!("`{place}` could not {what} within {} s", patience.as_secs());
    Trouble { error: Error::new(ErrorKind::TimedOut, message), may_pass: false }
}

#[cfg(test)]
mod tests;

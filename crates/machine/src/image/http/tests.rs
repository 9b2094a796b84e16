use std::sync::Mutex;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

// Of a root that nothing trusts, made by `openssl` for a hundred years and for `localhost` alone.
const ROOT: &[u8] = include_bytes!("root.pem");
const CERTIFICATE: &[u8] = include_bytes!("localhost.pem");
const KEY: &[u8] = include_bytes!("localhost.key");

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn patience() -> Patience {
    Patience { pause: Duration::from_millis(1), ..Patience::default() }
}

fn http(plain: Option<&str>) -> Http {
    Http::trusting(RootCertStore::empty(), patience(), plain.map(str::to_owned))
}

/// Serves a text over TLS to whoever trusts it. Returns its port.
async fn serve_tls() -> u16 {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = [0; 1024];
            let _asked = stream.read(&mut asked).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    port
}

#[test]
fn who_answers_through_tls_has_a_certificate_that_is_trusted_and_is_its_own() {
    block_on(async {
        let port = serve_tls().await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ROOT).unwrap()).unwrap();
        let trusting = Http::trusting(roots, patience(), None);
        let get = async |http: &Http, host: &str| {
            let url = Url::parse(&format!("https://{host}:{port}/")).unwrap();
            http.get(&url, &Request::default()).await?.content(10).await
        };
        assert_eq!(get(&trusting, "localhost").await.unwrap(), b"hello");
        let other = get(&trusting, "127.0.0.1").await.unwrap_err().error;
        assert!(other.message.contains("certificate"), "{other}");
        let none = get(&http(None), "localhost").await.unwrap_err().error;
        assert_eq!(none.hint.as_deref(), Some("apt-get install ca-certificates"));
        let untrusted = get(&Http::new(patience(), None), "localhost").await.unwrap_err().error;
        assert!(untrusted.message.contains("certificate"), "{untrusted}");
    });
}

#[test]
fn plain_http_is_for_this_computer_and_for_whom_the_user_has_named() {
    let (strict, named) = (http(None), http(Some("registry.lan:5000")));
    for here in ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000"] {
        assert_eq!(strict.scheme(here), "http", "{here}");
    }
    for there in [
        "registry.lan",
        "registry.lan:5001",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
    ] {
        assert_eq!((strict.scheme(there), named.scheme(there)), ("https", "https"), "{there}");
    }
    assert_eq!((strict.scheme("registry.lan:5000"), named.scheme("registry.lan:5000")), ("https", "http"));
    let asked = block_on(strict.get(&Url::parse("http://registry.lan/").unwrap(), &Request::default()));
    let refused = asked.unwrap_err().error;
    assert!(refused.kind == ErrorKind::Refused && refused.hint.unwrap().contains("--plain-http"));
}

#[test]
fn what_follows_a_path_is_not_told() {
    let url = Url::parse("https://user:word@a.example:8443/path?secret=1#x").unwrap();
    assert_eq!(shown(&url), "https://a.example:8443/path");
}

/// Answers each connection with a text, and keeps what it was asked.
async fn serve(answers: Vec<String>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = [0; 4096];
            let read = stream.read(&mut text).await.unwrap();
            kept.lock().unwrap().push(String::from_utf8_lossy(&text[..read]).into_owned());
            // Whoever has read enough goes.
            let _gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, asked)
}

#[test]
fn an_answer_is_no_longer_than_its_reader_wants() {
    block_on(async {
        let long = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n");
        let content = format!("{}{}", long("Content-Length: 100000\r\n"), "x".repeat(100_000));
        let head = long(&format!("X: {}\r\n", "x".repeat(4 * HEAD_BYTES_MAX)));
        let headers = long(&"X: x\r\n".repeat(HEADERS_MAX + 1));
        let (port, _) = serve(vec![content, head, headers]).await;
        let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let http = http(None);
        let mut answer = http.get(&url, &Request::default()).await.unwrap();
        let error = answer.content(99_999).await.unwrap_err();
        assert!(error.error.message.contains("longer than 99999") && !error.may_pass);
        for _ in 0..2 {
            assert!(http.get(&url, &Request::default()).await.is_err());
        }
    });
}

#[test]
fn who_asks_is_told_to_nobody_that_an_answer_leads_to() {
    block_on(async {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (elsewhere, asked_elsewhere) = serve(vec![ok.clone()]).await;
        let to = |place: &str| format!("HTTP/1.1 307 X\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n");
        let (port, asked) =
            serve(vec![to("/again"), ok, to(&format!("http://127.0.0.1:{elsewhere}/x"))]).await;
        let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let secret = || Some(HeaderValue::from_static("Basic c2VjcmV0"));
        for _ in 0..2 {
            http(None).get(&url, &Request { authorization: secret(), ..Request::default() }).await.unwrap();
        }
        assert!(asked.lock().unwrap().iter().all(|asked| asked.contains("c2VjcmV0")));
        let elsewhere = asked_elsewhere.lock().unwrap();
        assert!(elsewhere.len() == 1 && !elsewhere[0].contains("c2VjcmV0"), "{elsewhere:?}");
    });
}

#[test]
fn an_answer_leads_on_a_few_times_and_to_no_other_sort_of_place() {
    block_on(async {
        let to = |place: &str| format!("HTTP/1.1 302 X\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n");
        let (port, asked) = serve(vec![to("/"); REDIRECTS_MAX + 1]).await;
        let url = |port: u16| Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let error = http(None).get(&url(port), &Request::default()).await.unwrap_err().error;
        assert!(error.message.contains("leads on"), "{error}");
        assert_eq!(asked.lock().unwrap().len(), REDIRECTS_MAX + 1);
        let places = ["file:///etc/passwd", "http://a.example/", "ftp://127.0.0.1/", "http://", "data:,x"];
        let (port, _) = serve(places.map(to).into()).await;
        for place in places {
            assert!(http(None).get(&url(port), &Request::default()).await.is_err(), "{place}");
        }
        // From TLS nothing leads out of it.
        let (port, _) = serve(vec![to("http://127.0.0.1/")]).await;
        let answer = http(None).ask(&url(port), &Request::default(), true).await.unwrap();
        let tls = Url::parse("https://a.example/").unwrap();
        assert_eq!(http(None).next(&tls, &answer).unwrap_err().kind, ErrorKind::Refused);
    });
}

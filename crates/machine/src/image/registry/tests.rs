//! A registry that does what a good one does not. The good one is a real one, in the tests of the whole.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tar::{EntryType, Header};

use super::super::download::ATTEMPTS_MAX;
use super::super::{Build, Source, build};
use super::*;

/// What it is asked: the path, and the headers, all small.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    headers: String,
}

/// What it says, as bytes from the first one on, and what it does then.
type Answering = Box<dyn Fn(&Asked, &mut TcpStream) -> std::io::Result<()> + Send + Sync>;

struct Hostile {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

fn reply(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

impl Hostile {
    fn new(
        answer: impl Fn(&Asked, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let (kept, answer) = (Arc::clone(&asked), Arc::new(Box::new(answer) as Answering));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(asked) = heard(&stream) else { return };
                    kept.lock().unwrap().push(asked.clone());
                    // Whoever has heard enough goes.
                    let _gone = answer(&asked, &mut stream);
                });
            }
        });
        Hostile { port, asked }
    }

    /// One that has an image, and does something else where `otherwise` has.
    fn with(
        image: &Image,
        otherwise: impl Fn(&Asked, &mut TcpStream) -> Option<std::io::Result<()>> + Send + Sync + 'static,
    ) -> Hostile {
        let image = image.clone();
        Hostile::new(move |asked, stream| {
            if let Some(done) = otherwise(asked, stream) {
                return done;
            }
            match image.files.iter().find(|(path, _)| *path == asked.path) {
                Some((_, content)) => reply(stream, 200, "", content),
                None => reply(stream, 404, "", b"none"),
            }
        })
    }

    fn good(image: &Image) -> Hostile {
        Hostile::with(image, |_, _| None)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn wanted(&self, which: &str) -> Pull {
        let reference = format!("127.0.0.1:{}/team/image{which}", self.port);
        Pull { reference, platform: Some("linux/amd64".into()), plain: None, docker: None }
    }

    fn pull(&self) -> Result<(tempfile::TempDir, Pulled)> {
        pulled(&self.wanted(""), patience())
    }

    fn error(&self) -> Error {
        self.pull().map(|_| ()).unwrap_err()
    }
}

fn heard(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines().map_while(std::io::Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    Some(Asked { path, headers: headers.join("\n") })
}

fn patience() -> Patience {
    Patience { pause: Duration::from_millis(1), ..Patience::default() }
}

fn pulled(pull: &Pull, patience: Patience) -> Result<(tempfile::TempDir, Pulled)> {
    let scratch = tempfile::tempdir().unwrap();
    let (course, _client) = Course::new(|_| ()).unwrap();
    let pulled = pull_patiently(pull, &scratch.path().join("stage"), &course, patience)?;
    Ok((scratch, pulled))
}

fn packed(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(EntryType::Regular);
    header.set_size(content.len() as u64);
    header.set_mode(0o4755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}

/// What a registry has of an image, by path.
#[derive(Debug, Clone)]
struct Image {
    files: Vec<(String, Vec<u8>)>,
    manifest: serde_json::Value,
    layers: Vec<Vec<u8>>,
}

const LAYER_KIND: &str = "application/vnd.oci.image.layer.v1.tar";

impl Image {
    fn new() -> Image {
        let noise: Vec<u8> =
            (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        Image::of(vec![packed("bin/sh", &noise), packed("etc/motd", b"hello")])
    }

    fn of(layers: Vec<Vec<u8>>) -> Image {
        let digests: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        Image::with_config(
            layers,
            &json!({
                "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": digests},
                "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sh"], "Cmd": null, "User": "daemon", "WorkingDir": "/tmp"},
            }),
        )
    }

    fn with_config(layers: Vec<Vec<u8>>, config: &serde_json::Value) -> Image {
        let config = config.to_string().into_bytes();
        let told = |kind: &str, content: &[u8]| json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()});
        let listed: Vec<serde_json::Value> = layers.iter().map(|layer| told(LAYER_KIND, layer)).collect();
        let manifest = json!({"schemaVersion": 2, "config": told("c", &config), "layers": listed});
        let mut image = Image { files: vec![], manifest: manifest.clone(), layers: layers.clone() };
        for content in layers.iter().chain([&config]) {
            image.files.push((format!("/v2/team/image/blobs/{}", Digest::of(content)), content.clone()));
        }
        image.tag(&manifest)
    }

    /// The same with something else as its manifest.
    fn tag(&self, manifest: &serde_json::Value) -> Image {
        let mut image = self.clone();
        let content = manifest.to_string().into_bytes();
        image.files.retain(|(path, _)| !path.ends_with("/manifests/latest"));
        image.files.push(("/v2/team/image/manifests/latest".to_owned(), content.clone()));
        image.files.push((format!("/v2/team/image/manifests/{}", Digest::of(&content)), content));
        image.manifest = manifest.clone();
        image
    }

    fn layer_path(&self, at: usize) -> String {
        format!("/v2/team/image/blobs/{}", Digest::of(&self.layers[at]))
    }
}

#[test]
fn what_is_pulled_is_what_the_registry_has_for_this_platform() {
    let image = Image::new();
    let entry = |architecture: &str, content: &serde_json::Value| {
        let content = content.to_string();
        json!({"digest": Digest::of(content.as_bytes()).to_string(), "size": content.len(),
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let list = json!({"schemaVersion": 2, "manifests": [
        entry("arm64", &json!({})), entry("amd64", &image.manifest), entry("unknown", &json!({})),
    ]});
    let registry = Hostile::good(&image.tag(&list));
    let (_scratch, pulled) = registry.pull().unwrap();
    for (layer, content) in pulled.layers.iter().zip(&image.layers) {
        assert_eq!((&std::fs::read(&layer.path).unwrap(), layer.unpacked), (content, Digest::of(content)));
    }
    let origin = pulled.origin;
    assert_eq!(origin.digest, Digest::of(image.manifest.to_string().as_bytes()).to_string());
    assert_eq!(
        (origin.platform.as_str(), origin.run.entrypoint),
        ("linux/amd64", vec!["/bin/sh".to_owned()])
    );
    assert_eq!(origin.reference, format!("127.0.0.1:{}/team/image:latest", registry.port));
    // By digest it is the same, and nothing else is taken for it.
    let whole = pulled_by(&registry, &format!("@{}", origin.digest));
    assert_eq!(whole.unwrap().1.origin.digest, origin.digest);

    let other = Pull { platform: Some("linux/s390x".into()), ..registry.wanted("") };
    let error = self::pulled(&other, patience()).map(|_| ()).unwrap_err();
    assert!(
        error.kind == ErrorKind::NotFound && error.message.contains("linux/arm64, linux/amd64"),
        "{error}"
    );
}

fn pulled_by(registry: &Hostile, which: &str) -> Result<(tempfile::TempDir, Pulled)> {
    pulled(&registry.wanted(which), patience())
}

#[test]
fn a_layer_that_two_have_comes_once() {
    let layer = packed("a", b"same");
    let image = Image::of(vec![layer.clone(), layer]);
    let registry = Hostile::good(&image);
    let (_scratch, pulled) = registry.pull().unwrap();
    assert_eq!(pulled.layers.len(), 2);
    let path = image.layer_path(0);
    assert_eq!(registry.asked().iter().filter(|asked| asked.path == path).count(), 1);
}

#[test]
fn nothing_is_taken_that_is_not_what_its_digest_says() {
    let image = Image::new();
    let told = |error: &Error| error.kind == ErrorKind::Refused && error.message.contains("digest");
    // A manifest, by reference and by what the registry itself says.
    let other = Digest::of(b"other");
    let mut lying = image.clone();
    lying.files.push((format!("/v2/team/image/manifests/{other}"), image.manifest.to_string().into_bytes()));
    let error = pulled_by(&Hostile::good(&lying), &format!("@{other}")).map(|_| ()).unwrap_err();
    assert!(told(&error), "{error}");
    let registry = Hostile::with(&image, move |asked, stream| {
        let header = format!("Docker-Content-Digest: {other}\r\n");
        asked.path.contains("manifests").then(|| reply(stream, 200, &header, b"{}"))
    });
    assert!(told(&registry.error()), "{}", registry.error());
    // The configuration and a layer, with one bit changed.
    for (path, content) in image.files.iter().filter(|(path, _)| path.contains("blobs")) {
        let (path, mut content) = (path.clone(), content.clone());
        content[10] ^= 1;
        let registry = Hostile::with(&image, move |asked, stream| {
            (asked.path == path).then(|| reply(stream, 200, "", &content))
        });
        assert!(told(&registry.error()), "{}", registry.error());
    }
}

#[test]
fn what_has_no_end_ends() {
    let image = Image::new();
    for part in ["manifests", "blobs"] {
        let registry = Hostile::with(&image, move |asked, stream| {
            let endless = |stream: &mut TcpStream| {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                let chunk = [b"10000\r\n", &[b' '; 65536][..], b"\r\n"].concat();
                loop {
                    stream.write_all(&chunk)?;
                }
            };
            asked.path.contains(part).then(|| endless(stream))
        });
        let error = registry.error();
        assert!(error.kind == ErrorKind::Refused && error.message.contains("longer than"), "{error}");
    }
    let path = image.layer_path(1);
    let registry = Hostile::with(&image, move |asked, stream| {
        (asked.path == path).then(|| reply(stream, 200, "", &[0; 1 << 20]))
    });
    let error = registry.error();
    assert!(error.message.contains("is longer than the"), "{error}");
}

#[test]
fn what_is_too_large_is_refused_before_it_comes() {
    let image = Image::new();
    for (size, said) in [(DOWNLOAD_BYTES_MAX + 1, "GiB of layers"), (u64::MAX, "GiB of layers")] {
        let mut manifest = image.manifest.clone();
        manifest["layers"][0]["size"] = json!(size);
        let registry = Hostile::good(&image.tag(&manifest));
        let error = registry.error();
        assert!(error.message.contains(said), "{error}");
        assert!(registry.asked().iter().all(|asked| asked.path != image.layer_path(0)));
    }
}

#[test]
fn a_layer_that_is_broken_off_goes_on_where_it_was() {
    let image = Image::new();
    let (path, content) = (image.layer_path(0), image.layers[0].clone());
    for knows_ranges in [true, false] {
        let (path, content) = (path.clone(), content.clone());
        let registry = Hostile::with(&image, move |asked, stream| {
            if asked.path != path {
                return None;
            }
            let range = asked.headers.lines().find_map(|line| line.strip_prefix("range: bytes="));
            let start = range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
            Some(match start {
                Some(start) if knows_ranges => {
                    let range =
                        format!("Content-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len());
                    reply(stream, 206, &range, &content[start..])
                }
                Some(_) => reply(stream, 200, "", &content),
                None => {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
                    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[..100_000]))
                }
            })
        });
        let (_scratch, pulled) = registry.pull().unwrap();
        assert!(std::fs::read(&pulled.layers[0].path).unwrap() == image.layers[0], "{knows_ranges}");
    }
}

#[test]
fn who_fails_again_and_again_is_given_up() {
    let image = Image::new();
    let path = image.layer_path(0);
    for status in [0, 500, 503, 429] {
        let path = path.clone();
        let registry = Hostile::with(&image, move |asked, stream| {
            (asked.path == path).then(|| match status {
                // Cut off, each time.
                0 => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"),
                status => reply(stream, status, "", b""),
            })
        });
        assert_eq!(registry.error().kind, ErrorKind::Unreachable, "{status}");
        let tries = registry.asked().iter().filter(|asked| asked.path == image.layer_path(0)).count();
        assert_eq!(tries, ATTEMPTS_MAX as usize, "{status}");
    }
}

#[test]
fn who_wants_a_login_again_and_again_is_refused() {
    let image = Image::new();
    let registry = Hostile::new(move |asked, stream| {
        if asked.path.starts_with("/token") {
            return reply(stream, 200, "", br#"{"token": "t"}"#);
        }
        let host = asked.headers.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        reply(
            stream,
            401,
            &format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n"),
            b"",
        )
    });
    let error = registry.error();
    assert!(error.kind == ErrorKind::Refused && error.hint.unwrap().starts_with("docker login 127.0.0.1"));
    assert_eq!(registry.asked().len(), 3);
    // Where the service is that gives tokens, there may be no TLS.
    let elsewhere = Hostile::with(&image, |_, stream| {
        let wants = "WWW-Authenticate: Bearer realm=\"http://a.example/token\"\r\n";
        Some(reply(stream, 401, wants, b""))
    });
    assert_eq!(elsewhere.error().kind, ErrorKind::Refused);
    for wants in ["", "WWW-Authenticate: Basic realm=\"x\"\r\n", "WWW-Authenticate: Negotiate\r\n"] {
        let registry = Hostile::with(&image, move |_, stream| Some(reply(stream, 401, wants, b"")));
        assert_eq!((registry.error().kind, registry.asked().len()), (ErrorKind::Refused, 1), "{wants}");
    }
}

#[test]
fn a_login_is_told_to_the_registry_and_its_service_and_to_nobody_it_leads_to() {
    let image = Image::new();
    let store = Hostile::good(&image);
    let (layer, port) = (image.layer_path(0), store.port);
    for sort in ["Basic", "Bearer"] {
        let layer = layer.clone();
        let registry = Hostile::with(&image, move |asked, stream| {
            let host = asked.headers.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            // user:word
            let is_login = asked.headers.contains("authorization: Basic dXNlcjp3b3Jk");
            let is_known =
                if sort == "Basic" { is_login } else { asked.headers.contains("authorization: Bearer t0") };
            if asked.path.starts_with("/token") {
                let is_right = is_login && asked.path.ends_with("scope=repository%3Ateam%2Fimage%3Apull");
                return Some(reply(
                    stream,
                    if is_right { 200 } else { 401 },
                    "",
                    br#"{"access_token": "t0"}"#,
                ));
            }
            if !is_known {
                let wants =
                    format!("WWW-Authenticate: {sort} realm=\"http://{host}/token\", service=\"s\"\r\n");
                return Some(reply(stream, 401, &wants, b""));
            }
            let there = format!("Location: http://127.0.0.1:{port}{layer}\r\n");
            (asked.path == layer).then(|| reply(stream, 307, &there, b""))
        });
        let docker = tempfile::tempdir().unwrap();
        let config = format!(r#"{{"auths": {{"127.0.0.1:{}": {{"auth": "dXNlcjp3b3Jk"}}}}}}"#, registry.port);
        std::fs::write(docker.path().join("config.json"), config).unwrap();
        let wanted = Pull { docker: Some(docker.path().to_owned()), ..registry.wanted("") };
        pulled(&wanted, patience()).unwrap();
        // It is asked who asks once, and not for each part.
        let refused =
            registry.asked().iter().filter(|asked| !asked.headers.contains("authorization")).count();
        assert_eq!(refused, 1, "{sort}");
    }
    let asked = store.asked();
    assert!(
        asked.len() == 2 && asked.iter().all(|asked| !asked.headers.contains("authorization")),
        "{asked:?}"
    );
}

#[test]
fn who_says_little_at_a_time_is_left() {
    let image = Image::new();
    let path = image.layer_path(0);
    let registry = Hostile::with(&image, move |asked, stream| {
        let mut drip = || {
            stream.set_read_timeout(Some(Duration::from_millis(5)))?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 301056\r\n\r\n")?;
            loop {
                stream.write_all(b"x")?;
                // Nothing comes back, and this is how long that is waited for.
                let _nothing = stream.read(&mut [0]);
            }
        };
        (asked.path == path).then(&mut drip)
    });
    let patience = Patience { window: Duration::from_millis(300), window_bytes: 1 << 20, ..patience() };
    let error = pulled(&registry.wanted(""), patience).map(|_| ()).unwrap_err();
    assert!(error.kind == ErrorKind::TimedOut && error.message.contains("too slow"), "{error}");
    let silent = Hostile::new(|_, stream| stream.read(&mut [0]).map(drop));
    let patience = Patience { reply: Duration::from_millis(300), ..patience };
    let error = pulled(&silent.wanted(""), patience).map(|_| ()).unwrap_err();
    assert!(error.kind == ErrorKind::TimedOut && error.message.contains("answer"), "{error}");
}

#[test]
fn a_pull_that_is_called_off_ends_at_once() {
    let (begun, awaited) = std::sync::mpsc::channel();
    let registry = Hostile::new(move |_, stream| {
        begun.send(()).unwrap();
        // Until the other end is closed.
        stream.read(&mut [0]).map(drop)
    });
    let (course, client) = Course::new(|_| ()).unwrap();
    let ending = std::thread::spawn(move || {
        awaited.recv().unwrap();
        drop(client);
    });
    let scratch = tempfile::tempdir().unwrap();
    let error = pull(&registry.wanted(""), &scratch.path().join("stage"), &course).map(|_| ()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Interrupted);
    ending.join().unwrap();
}

#[test]
fn what_is_no_image_of_files_is_refused() {
    let image = Image::new();
    let with = |path: &str, value: serde_json::Value| {
        let mut manifest = image.manifest.clone();
        *manifest.pointer_mut(path).unwrap() = value;
        manifest
    };
    for (manifest, said) in [
        (json!({"schemaVersion": 1, "fsLayers": []}), "old form 1"),
        (json!({"schemaVersion": 2}), "neither"),
        (json!([]), "understood"),
        (with("/layers", json!([])), "0 layers"),
        (with("/layers/0/mediaType", json!("application/x\u{1b}")), "no archive of files"),
        (with("/layers/0/digest", json!("sha256:../../../etc/passwd")), "no SHA-256 digest"),
        (with("/config/digest", json!("sha512:00")), "no SHA-256 digest"),
        (with("/layers/0/size", json!(-1)), "understood"),
        (with("/layers", json!([image.manifest["layers"][0]])), "digests of 2"),
    ] {
        let error = Hostile::good(&image.tag(&manifest)).error();
        assert!(error.message.contains(said), "{said}: {error}");
    }
    let arm = json!({"os": "linux", "architecture": "arm64", "rootfs": {"diff_ids": [Digest::of(b"").to_string()]}});
    let error = Hostile::good(&Image::with_config(vec![packed("a", b"")], &arm)).error();
    assert!(error.kind == ErrorKind::NotFound && error.message.contains("for linux/arm64"), "{error}");
}

/// What becomes an image, or why it does not. Whatever comes of it, nothing is left of one that does not.
fn built(image: &Image) -> Error {
    let scratch = tempfile::tempdir().unwrap();
    let images = scratch.path().join("images");
    let registry = Hostile::good(image);
    let wanted = Build {
        name: "a".into(),
        source: Source::Registry(registry.wanted("")),
        // It comes to the kernel with whatever is to be a root, and no further.
        kernel: Some(scratch.path().join("none")),
        modules: Some(scratch.path().to_owned()),
    };
    let (course, _client) = Course::new(|_| ()).unwrap();
    let error = build(&images, &wanted, &course).unwrap_err();
    assert_eq!(std::fs::read_dir(&images).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    error
}

#[test]
fn a_hostile_layer_is_refused_and_leaves_nothing() {
    let one = |name: &str, content: &[u8]| Image::of(vec![packed(name, content)]);
    let mut bomb = packed("bomb", b"");
    let mut header = Header::from_byte_slice(bomb[..512].try_into().unwrap()).clone();
    header.set_size(super::super::archive::UNPACKED_BYTES_MAX + 1);
    header.set_cksum();
    bomb[..512].copy_from_slice(header.as_bytes());
    let unlike = Image::with_config(
        vec![packed("a", b"")],
        &json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [Digest::of(b"other").to_string()]},
        }),
    );
    for (image, said) in [
        (one("../../../../tmp/escaped", b""), "leads out"),
        (one("/../escaped", b""), "leads out"),
        (one("a/../b", b""), "leads out"),
        (one(".wh..", b""), "takes away"),
        (Image::of(vec![bomb]), "GiB"),
        (Image::of(vec![b"no archive".repeat(100)]), "no tar"),
        (Image::of(vec![packed("a", b"")[..700].to_vec()]), "cut off"),
        (unlike, "unpacks to"),
    ] {
        let error = built(&image);
        assert!(error.message.contains(said), "{said}: {error}");
    }
    // What is none comes to the kernel.
    let error = built(&one("/etc/passwd", b""));
    assert!(error.message.contains("none"), "{error}");
}

use super::*;

const CWD: &[u8] = b"/home/u";

fn ssh(user: Option<&str>, host: &str, port: Option<u16>) -> Machine {
    Machine::Ssh(SshTarget::new(user, host, port).unwrap())
}

fn files(machine: Machine, path: &str) -> Source {
    Source::files(machine, path).unwrap()
}

#[test]
fn sources_are_read_as_people_write_them() {
    let cases = [
        ("/srv/data", files(Machine::Host, "/srv/data")),
        ("/", files(Machine::Host, "/")),
        ("/srv//data/./x/", files(Machine::Host, "/srv/data/x")),
        ("src", files(Machine::Host, "/home/u/src")),
        ("./src", files(Machine::Host, "/home/u/src")),
        ("../v", files(Machine::Host, "/home/u/../v")),
        (".", files(Machine::Host, "/home/u")),
        ("./a:b", files(Machine::Host, "/home/u/a:b")),
        ("a/b:c", files(Machine::Host, "/home/u/a/b:c")),
        ("/a:b", files(Machine::Host, "/a:b")),
        ("./host/x", files(Machine::Host, "/home/u/host/x")),
        ("host", files(Machine::Host, "")),
        ("host/", files(Machine::Host, "/")),
        ("host/srv", files(Machine::Host, "/srv")),
        ("host/~/src", files(Machine::Host, "src")),
        ("host:/srv", files(Machine::Host, "/srv")),
        ("host:src", files(Machine::Host, "src")),
        ("host:///srv", files(Machine::Host, "/srv")),
        ("hosts", files(Machine::Host, "/home/u/hosts")),
        ("ssh://box", files(ssh(None, "box", None), "")),
        ("ssh://box/", files(ssh(None, "box", None), "/")),
        ("ssh://box/src", files(ssh(None, "box", None), "/src")),
        ("ssh://box//src/", files(ssh(None, "box", None), "/src")),
        ("ssh://box/~", files(ssh(None, "box", None), "")),
        ("ssh://box/~/src", files(ssh(None, "box", None), "src")),
        ("ssh://box/~//etc", files(ssh(None, "box", None), "etc")),
        ("ssh://box/~u/src", files(ssh(None, "box", None), "/~u/src")),
        ("ssh://me@box:2222/src", files(ssh(Some("me"), "box", Some(2222)), "/src")),
        ("ssh://me@dom@box/src", files(ssh(Some("me@dom"), "box", None), "/src")),
        ("ssh://10.0.0.1:22/x", files(ssh(None, "10.0.0.1", Some(22)), "/x")),
        ("ssh://[::1]/x", files(ssh(None, "::1", None), "/x")),
        ("ssh://me@[::1]:22/x", files(ssh(Some("me"), "::1", Some(22)), "/x")),
        ("ssh://[fe80::1%eth0]/x", files(ssh(None, "fe80::1%eth0", None), "/x")),
        ("ssh://box/a%20b", files(ssh(None, "box", None), "/a%20b")),
        ("ssh://box/a@b:c", files(ssh(None, "box", None), "/a@b:c")),
        ("box:/src", files(ssh(None, "box", None), "/src")),
        ("box:src", files(ssh(None, "box", None), "src")),
        ("box:", files(ssh(None, "box", None), "")),
        ("me@box:/src", files(ssh(Some("me"), "box", None), "/src")),
        ("me@box:a:b", files(ssh(Some("me"), "box", None), "a:b")),
        ("box:2222/x", files(ssh(None, "box", None), "2222/x")),
        ("[::1]:/src", files(ssh(None, "::1", None), "/src")),
        ("me@[fe80::1%eth0]:src", files(ssh(Some("me"), "fe80::1%eth0", None), "src")),
        ("docker://web/srv", files(Machine::Docker { container: "web".into() }, "/srv")),
        ("vm://dev", files(Machine::Vm { name: "dev".into() }, "")),
        ("thread:fix-1", Source::Thread { name: "fix-1".into() }),
    ];
    for (text, expected) in cases {
        assert_eq!(Source::parse(text.as_bytes(), CWD), Ok(expected), "{text}");
    }
}

#[test]
fn hostile_and_mistaken_sources_are_refused() {
    let long_host = format!("{}:/x", "a".repeat(HOST_BYTES_MAX + 1));
    let cases: &[&[u8]] = &[
        b"",
        b"-oProxyCommand=x:/src",
        b"ssh://-oProxyCommand=x/src",
        b"ssh://-l@box/src",
        b"-l@box:/src",
        b"ssh://b;x/src",
        b"ssh://$(x)/src",
        b"ssh://`x`/src",
        b"ssh://b x/src",
        b"ssh://b\nx/src",
        b"ssh://me;x@box/src",
        b"ssh://me\\@box/src",
        b"ssh:///src",
        b"ssh://@box/src",
        b"ssh://me@/src",
        b"ssh://box:/src",
        b"ssh://box:0/src",
        b"ssh://box:65536/src",
        b"ssh://box:+22/src",
        b"ssh://box:22x/src",
        b"ssh://[::1/src",
        b"ssh://[::1]x/src",
        b"ssh://[::1]22/src",
        b"ssh://[box]/src",
        b"ssh://[::g]/src",
        b"ssh://[fe80::1%]/src",
        b"ssh://[fe80::1%e;x]/src",
        b"ssh://::1/src",
        b"ssh://b\xffx/src",
        b":/src",
        b"@box:/src",
        b"::1:/src",
        b"fe80::1:/src",
        b".hidden:/src",
        b"http://box/src",
        b"file:///src",
        b"host://box/src",
        b"docker:///x",
        b"docker://-x/y",
        b"docker://a b/y",
        b"vm://../x",
        b"vm://a..b/x",
        b"thread:",
        b"thread:-x",
        b"thread:a/b",
        b"thread:a..b",
        b"thread:a.",
        b"/a\0b",
        b"ssh://box/a\0b",
        long_host.as_bytes(),
    ];
    for text in cases {
        let outcome = Source::parse(text, CWD);
        assert!(outcome.is_err(), "{}: {outcome:?}", ByteString::from(*text));
    }
    assert!(Source::parse(&vec![b'a'; PATH_BYTES_MAX + 1], CWD).is_err());
}

#[test]
fn errors_say_what_is_wrong_on_one_printable_line() {
    let error = |text: &[u8]| Source::parse(text, CWD).unwrap_err().to_string();
    assert_eq!(error(b"::1:/src"), "`::1:` is not a host name; an IPv6 address stands in brackets: [::1]");
    assert_eq!(error(b"ssh://-x/"), "`-x` is not a host name");
    assert_eq!(error(b"ssh:///"), "`` is not a host name; a machine is ssh://[USER@]HOST[:PORT]");
    assert_eq!(
        error(b"http://x"),
        "there are no `http://` machines; there are host, ssh://, docker:// and vm://"
    );
    assert_eq!(error(b"ssh://b\x1b[2J/"), "`b\\x1b[2J` is not a host name");
    assert_eq!(error(b"ssh://box:99999/"), "`99999` is not a port");
}

#[test]
fn the_canonical_text_reads_back_to_the_same_source() {
    let machines = [
        Machine::Host,
        ssh(None, "box", None),
        ssh(Some("me@dom"), "box", Some(1)),
        ssh(Some("d\\me"), "::1", Some(65535)),
        ssh(None, "fe80::1%eth0", None),
        Machine::Docker { container: "web".into() },
        Machine::Vm { name: "dev".into() },
    ];
    let paths: &[&[u8]] = &[
        b"",
        b"/",
        b"/src",
        b"src",
        b"a/b",
        b"/~",
        b"/~/x",
        b"~",
        b"~/x",
        b"/~u",
        b"..",
        b"/..",
        b"a:b",
        b"/a:b@c",
        b"/\xff\n\\",
        b"//x",
        b"./x",
        b"/a b",
        b"host",
        b"/://x",
    ];
    for machine in &machines {
        for path in paths {
            let source = Source::files(machine.clone(), *path).unwrap();
            assert_eq!(Source::parse_absolute(&source.to_bytes()), Ok(source.clone()), "{source}");
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source, "{json}");
        }
    }
}

#[test]
fn canonical_texts() {
    let text = |source: Source| source.to_string();
    assert_eq!(text(files(Machine::Host, "/srv")), "host/srv");
    assert_eq!(text(files(Machine::Host, "")), "host");
    assert_eq!(text(files(ssh(None, "box", None), "/src")), "ssh://box/src");
    assert_eq!(text(files(ssh(None, "box", None), "src")), "ssh://box/~/src");
    assert_eq!(text(files(ssh(Some("me"), "::1", Some(22)), "/")), "ssh://me@[::1]:22/");
    assert_eq!(text(Source::Thread { name: "fix".into() }), "thread:fix");
}

#[test]
fn machines_are_read_as_people_write_them() {
    let cases = [
        ("host", Machine::Host),
        ("host:", Machine::Host),
        ("host://", Machine::Host),
        ("box", ssh(None, "box", None)),
        ("box:", ssh(None, "box", None)),
        ("me@box", ssh(Some("me"), "box", None)),
        ("[::1]", ssh(None, "::1", None)),
        ("[::1]:", ssh(None, "::1", None)),
        ("me@[::1]", ssh(Some("me"), "::1", None)),
        ("ssh://box", ssh(None, "box", None)),
        ("ssh://box/", ssh(None, "box", None)),
        ("ssh://me@box:22", ssh(Some("me"), "box", Some(22))),
        ("docker://web", Machine::Docker { container: "web".into() }),
        ("vm://dev", Machine::Vm { name: "dev".into() }),
    ];
    for (text, expected) in cases {
        assert_eq!(Machine::parse(text.as_bytes()), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_a_machine_is_refused() {
    let cases = [
        "",
        "/",
        "/src",
        "./box",
        "box/src",
        "ssh://box/src",
        "box:/",
        "box:src",
        "thread:x",
        "-box",
        "::1",
        "a b",
        "host/x",
    ];
    for text in cases {
        assert!(Machine::parse(text.as_bytes()).is_err(), "{text}: {:?}", Machine::parse(text.as_bytes()));
    }
}

#[test]
fn a_machine_reads_back_as_it_was_printed() {
    for text in ["host", "ssh://box", "ssh://me@[::1]:22", "ssh://d\\me@box", "docker://web", "vm://dev"] {
        assert_eq!(Machine::parse(text.as_bytes()).unwrap().to_string(), text);
    }
}

#[test]
fn a_directory_is_named_after_what_it_shows() {
    let name = |text: &str| Source::parse(text.as_bytes(), CWD).unwrap().base_name().to_string();
    assert_eq!(name("ssh://box/src/app"), "app");
    assert_eq!(name("ssh://box/"), "box");
    assert_eq!(name("ssh://box/src/.."), "src");
    assert_eq!(name("box:"), "box");
    assert_eq!(name("/"), "host");
    assert_eq!(name("thread:fix"), "fix");
}

#[test]
fn what_names_an_engine_is_kept_for_containers_only() {
    let variables = ["DOCKER_HOST", "HOME", "SECRET"].map(|name| (name.to_owned(), "x".into()));
    let caller = Caller { environment: variables.into(), ..Caller::default() };
    let kept =
        |machine: &Machine| -> Vec<String> { caller.known_to(machine).environment.into_keys().collect() };
    assert_eq!(kept(&Machine::Host), ["HOME"]);
    assert_eq!(kept(&Machine::Docker { container: "web".into() }), ["DOCKER_HOST", "HOME"]);
}

use e2e::{Place, Program, suites};

suites! {
    fn cargo_builds_tests_and_rebuilds_a_crate(p) {
        write_workspace(p);
        let dir = p.path("app");
        Program::cargo("build", &dir).ok();
        assert_eq!(Program::new(dir.join("target/debug/app")).ok().text(), "the answer is 42\n");
        Program::cargo("test", &dir).ok();

        let again = Program::cargo("build", &dir).arg("-v").ok();
        assert!(again.errors().contains("Fresh app"), "built again without a change: {again}");

        let source = p.path("app/answer/src/lib.rs");
        let text = std::fs::read_to_string(&source).unwrap().replace("6 * 7", "6 * 7 + 1");
        std::fs::write(&source, text).unwrap();
        Program::cargo("build", &dir).ok();
        assert_eq!(Program::new(dir.join("target/debug/app")).ok().text(), "the answer is 43\n");
        Program::cargo("clean", &dir).ok();
        assert!(!p.far_path("app/target").exists());
    }
}

fn write_workspace(p: &Place) {
    let files = [
        (
            "app/Cargo.toml",
            "[workspace]\nmembers = [\"answer\"]\n[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
             build = \"build.rs\"\n[dependencies]\nanswer = { path = \"answer\" }\n",
        ),
        (
            "app/build.rs",
            "fn main() {\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
             std::fs::write(format!(\"{out}/made.rs\"), \"const PREFIX: &str = \\\"the answer is\\\";\").unwrap();\n}\n",
        ),
        (
            "app/src/main.rs",
            "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\nfn main() {\n    \
             println!(\"{PREFIX} {}\", answer::answer());\n}\n",
        ),
        ("app/answer/Cargo.toml", "[package]\nname = \"answer\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
        (
            "app/answer/src/lib.rs",
            "pub fn answer() -> u32 {\n    6 * 7\n}\n#[test]\nfn it_is_even() {\n    assert_eq!(answer() % 2, 0);\n}\n",
        ),
    ];
    for (name, text) in files {
        std::fs::create_dir_all(p.path(name).parent().unwrap()).unwrap();
        p.file(name, text);
    }
}

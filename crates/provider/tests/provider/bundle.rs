//! What the bundle is made of, as far as it can be looked at here.

use std::path::{Path, PathBuf};
use std::process::Command;

fn macos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../platform/macos")
}

/// The elements of a property list, in order, once it is seen that each is closed where it has to be.
fn elements(text: &str) -> Vec<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for part in text.split('<').skip(1) {
        let (tag, content) = part.split_once('>').expect("a tag ends");
        match tag {
            tag if tag.starts_with(['?', '!']) || tag.ends_with('/') => {}
            tag if tag.starts_with('/') => assert_eq!(open.pop(), Some(&tag[1..]), "in {text}"),
            tag => {
                open.push(tag.split(' ').next().unwrap_or(tag));
                found.push(format!("{} {}", tag, content.trim()));
            }
        }
    }
    assert!(open.is_empty(), "{open:?} is not closed");
    found
}

#[test]
fn property_lists_are_well_formed_and_name_what_the_program_has() {
    let mut count = 0;
    for file in std::fs::read_dir(macos()).unwrap() {
        let path = file.unwrap().path();
        let is_list = path.extension().is_some_and(|end| end == "plist" || end == "entitlements");
        if !is_list {
            continue;
        }
        count += 1;
        let found = elements(&std::fs::read_to_string(&path).unwrap());
        assert!(found[0].starts_with("plist "), "{}", path.display());
        let has = |element: &str| found.iter().any(|found| found == element);
        assert!(has("string @GROUP@"), "{}", path.display());
        if path.ends_with("extension-Info.plist") {
            assert!(has("string SteadFileProvider") && has("string com.apple.fileprovider-nonui"));
        }
        if path.extension().is_some_and(|end| end == "entitlements") {
            assert!(has("key com.apple.security.app-sandbox"));
            let is_debugged = has("key com.apple.security.get-task-allow");
            assert_eq!(is_debugged, path.to_string_lossy().contains("development"));
        }
    }
    assert_eq!(count, 6);
}

#[test]
fn nothing_that_needs_a_profile_is_signed_without_one() {
    for kind in ["development", "distribution"] {
        let path = macos().join(format!("extension-{kind}.entitlements"));
        let script = macos().join("without-profile.sed");
        let left = Command::new("sed").arg("-f").arg(script).arg(&path).output().unwrap();
        assert!(left.status.success());
        let mut expected = elements(&std::fs::read_to_string(&path).unwrap());
        let is_needy = expected.iter().any(|element| element.contains("com.apple.developer."));
        assert_eq!(is_needy, kind == "development");
        expected.retain(|element| !element.contains("com.apple.developer."));
        assert_eq!(elements(&String::from_utf8(left.stdout).unwrap()), expected, "{kind}");
    }
}

#[test]
fn the_script_is_read_by_a_shell_and_refuses_what_it_cannot_do() {
    let script = macos().join("build.sh");
    assert!(Command::new("sh").arg("-n").arg(&script).status().unwrap().success());
    for arguments in [
        &["only"][..],
        &["org.example", "TEAM", "neither"],
        &["a b", "TEAM"],
        &["org.example", "TEAM", "development", "Apple Development: somebody"],
        &["org.example", "TEAM", "development", "Apple Development: somebody", "/nonexistent"],
        &["org.example", "TEAM", "development", "-", "/dev/null"],
    ] {
        let ended = Command::new("sh").arg(&script).args(arguments).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
    }
}

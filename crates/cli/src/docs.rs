//! Documents that are made from the program, so that they cannot say anything else than it does.

pub mod api;
pub mod cli;

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn check(name: &str, text: &str) {
        let path = root().join("docs").join(name);
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        let first = written.lines().zip(text.lines()).find(|(written, text)| written != text);
        assert!(
            written == text,
            "docs/{name} is not current: run `cargo xtask docs`; it differs at {first:?}"
        );
    }

    #[test]
    fn the_help_in_the_documents_is_current() {
        check("cli.md", &super::cli::text());
    }

    #[test]
    fn the_api_in_the_documents_is_current() {
        check("api.md", &super::api::text());
    }

    #[test]
    fn every_promise_to_users_is_a_test() {
        let mut sources = String::new();
        read_all(&root().join("crates/e2e/tests"), &mut sources);
        let promises = std::fs::read_to_string(root().join("docs/semantics.md")).unwrap();
        let promises: Vec<&str> = promises.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        assert!(promises.len() > 40, "the headings are not found");
        for promise in promises {
            let name = promise.trim().to_lowercase().replace('\'', "").replace(' ', "_");
            assert!(sources.contains(&format!("fn {name}(")), "no test is called {name}");
        }
    }

    fn read_all(directory: &Path, text: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_all(&path, text);
            } else if path.extension().is_some_and(|end| end == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn links_between_documents_lead_somewhere() {
        let mut documents =
            vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("CONTRIBUTING.md")];
        for directory in ["docs", "docs/decisions"] {
            let entries =
                std::fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
            documents.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
        }
        for document in documents {
            let text = std::fs::read_to_string(&document).unwrap();
            for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let is_local = !target.contains("://");
                let leads = !is_local || document.parent().unwrap().join(target).exists();
                assert!(leads, "{} links to {target}", document.display());
            }
        }
    }
}

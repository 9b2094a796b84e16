//! Somebody saves a file by renaming another over it, while it is replaced from here.

use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::Path;

use wire::agent::HandleId;
use wire::agent::file::RenameMode;

use super::*;

/// A line at whose other end something happens before a request is served; where that says so, the line is cut instead.
struct Hooked<H> {
    line: StreamLine,
    hook: H,
    is_cut: bool,
}

impl<H: FnMut(&FileRequest) -> ControlFlow<()>> Line for Hooked<H> {
    fn ask(&mut self, request: FileRequest, payload: &[u8]) -> Result<(FileReply, Bytes), LineError> {
        self.is_cut = self.is_cut || (self.hook)(&request).is_break();
        if self.is_cut {
            return Err(LineError::Lost("cut".to_owned()));
        }
        self.line.ask(request, payload)
    }

    fn pages(
        &mut self,
        request: FileRequest,
        take: &mut dyn FnMut(FileReply, Bytes) -> ControlFlow<()>,
    ) -> Result<(), LineError> {
        self.line.pages(request, take)
    }

    fn clock(&mut self) -> Result<Time, LineError> {
        self.line.clock()
    }

    fn new_handle(&mut self) -> HandleId {
        self.line.new_handle()
    }
}

/// Replaces `f`, which has the content `old`, by `sent`, with something happening meanwhile.
fn replaced(root: &Path, hook: impl FnMut(&FileRequest) -> ControlFlow<()>) -> Answer<Entry> {
    let path = root.as_os_str().as_encoded_bytes();
    fs::write(root.join("f"), "old").unwrap();
    let seen = {
        let mut far = far(root);
        let parent = far.root().clone();
        far.list(&parent).unwrap().into_iter().find(|entry| *entry.name == *b"f").unwrap()
    };
    let mut far = Far::attach(Hooked { line: line(), hook, is_cut: false }, path).unwrap();
    let at = At { identity: seen.identity, parent: far.root().clone(), name: seen.name };
    far.replace(&at, &seen.content, &facts("sent"), &mut Cursor::new("sent"))
}

fn save(root: &Path, content: &str) {
    fs::write(root.join("aside"), content).unwrap();
    fs::rename(root.join("aside"), root.join("f")).unwrap();
}

fn is_exchange(request: &FileRequest) -> bool {
    matches!(request, FileRequest::Rename { mode: RenameMode::Exchange, .. })
}

/// What another computer sees, with the contents, whatever was left behind.
fn shown(root: &Path) -> Vec<String> {
    let mut far = far(root);
    let parent = far.root().clone();
    let names =
        far.list(&parent).unwrap().into_iter().map(|entry| String::from_utf8(entry.name.into()).unwrap());
    let mut contents: Vec<String> = names.map(|name| fs::read_to_string(root.join(name)).unwrap()).collect();
    contents.sort();
    contents
}

#[test]
fn what_is_saved_while_new_content_is_sent_keeps_its_name() {
    let root = directory();
    let path = root.path();
    let answer = replaced(path, |request| {
        if matches!(request, FileRequest::Write { .. }) {
            save(path, "saved");
        }
        ControlFlow::Continue(())
    });
    changed(answer);
    assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "saved");
    assert_eq!(fs::read_dir(path).unwrap().count(), 1);
}

#[test]
fn what_is_saved_right_before_the_names_are_exchanged_is_given_its_name_back() {
    let root = directory();
    let path = root.path();
    let mut exchanges = 0;
    let answer = replaced(path, |request| {
        exchanges += usize::from(is_exchange(request));
        if is_exchange(request) && exchanges == 1 {
            save(path, "saved");
        }
        ControlFlow::Continue(())
    });
    changed(answer);
    assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "saved");
    assert_eq!(fs::read_dir(path).unwrap().count(), 1);
}

#[test]
fn what_is_saved_and_never_given_its_name_back_is_shown() {
    let root = directory();
    let path = root.path();
    let mut exchanges = 0;
    let answer = replaced(path, |request| {
        exchanges += usize::from(is_exchange(request));
        if !is_exchange(request) {
            return ControlFlow::Continue(());
        }
        save(path, "saved");
        if exchanges == 1 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(matches!(answer, Err(Refusal::Cut)), "{answer:?}");
    assert_eq!(shown(path), ["saved", "saved"]);
}

#[test]
fn what_is_written_to_new_content_before_it_goes_again_is_kept() {
    let root = directory();
    let path = root.path();
    let mut exchanges = 0;
    let answer = replaced(path, |request| {
        exchanges += usize::from(is_exchange(request));
        match exchanges {
            1 if is_exchange(request) => save(path, "saved"),
            2 if is_exchange(request) => fs::write(path.join("f"), "written").unwrap(),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    changed(answer);
    assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "saved");
    assert_eq!(shown(path), ["saved", "written"]);
}

#[test]
fn two_computers_that_replace_one_file_do_not_take_each_others_content() {
    let root = directory();
    let path = root.path();
    let mut has_sent = false;
    let answer = replaced(path, |request| {
        if is_exchange(request) && !has_sent {
            has_sent = true;
            let mut other = far(path);
            let parent = other.root().clone();
            let entry = other.list(&parent).unwrap().into_iter().find(|entry| *entry.name == *b"f").unwrap();
            let at = At { identity: entry.identity, parent, name: entry.name };
            let sent = Cursor::new("other");
            other.replace(&at, &entry.content, &facts("other"), &mut { sent }).unwrap();
        }
        ControlFlow::Continue(())
    });
    changed(answer);
    assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "other");
    assert_eq!(shown(path), ["other"]);
}

#[test]
fn a_renaming_that_is_refused_is_not_done_in_another_way() {
    let root = directory();
    let path = root.path();
    fs::write(path.join("f"), "old").unwrap();
    let refused = std::cell::Cell::new(0);
    let mut far =
        Far::attach(Refusing { line: line(), refused: &refused }, path.as_os_str().as_encoded_bytes())
            .unwrap();
    let parent = far.root().clone();
    let seen = far.list(&parent).unwrap().remove(0);
    let at = At { identity: seen.identity, parent, name: seen.name };
    let answer = far.replace(&at, &seen.content, &facts("sent"), &mut Cursor::new("sent"));
    assert!(matches!(answer, Err(Refusal::Refused(_))), "{answer:?}");
    let answer = far.remove(&at, &seen.content, None);
    assert!(matches!(answer, Err(Refusal::Refused(_))), "{answer:?}");
    assert_eq!((refused.get(), shown(path)), (2, vec!["old".to_owned()]));
    assert_eq!(fs::read_dir(path).unwrap().count(), 1);
}

/// A line to a machine that does not let anybody exchange names or take a free one now.
struct Refusing<'a> {
    line: StreamLine,
    refused: &'a std::cell::Cell<u32>,
}

impl Line for Refusing<'_> {
    fn ask(&mut self, request: FileRequest, payload: &[u8]) -> Result<(FileReply, Bytes), LineError> {
        if matches!(request, FileRequest::Rename { .. }) {
            self.refused.set(self.refused.get() + 1);
            let errno = wire::agent::Errno(vfs::errno::Errno::EPERM.0);
            return Err(LineError::Failed(wire::agent::Failure { errno, detail: String::new() }));
        }
        self.line.ask(request, payload)
    }

    fn pages(
        &mut self,
        request: FileRequest,
        take: &mut dyn FnMut(FileReply, Bytes) -> ControlFlow<()>,
    ) -> Result<(), LineError> {
        self.line.pages(request, take)
    }

    fn clock(&mut self) -> Result<Time, LineError> {
        self.line.clock()
    }

    fn new_handle(&mut self) -> HandleId {
        self.line.new_handle()
    }
}

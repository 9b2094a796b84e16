use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use wire::api::ErrorKind;

use super::*;
use crate::error::Error;

/// Where something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Preparing,
    BeforeItIsDone,
    AfterItIsDone,
    Verifying,
    CalledOff,
    CalledOffVerifying,
}

const FAULTS: [Fault; 6] = [
    Fault::Preparing,
    Fault::BeforeItIsDone,
    Fault::AfterItIsDone,
    Fault::Verifying,
    Fault::CalledOff,
    Fault::CalledOffVerifying,
];

type Client = Arc<Mutex<Option<crate::course::Client>>>;

/// A part that is a file of its number. It goes wrong as it is told to.
struct Fake {
    number: usize,
    fault: Option<Fault>,
    /// Whether it cannot be undone.
    stays: bool,
    said: Arc<Mutex<Vec<String>>>,
    client: Client,
}

impl Fake {
    fn fails(&self, fault: Fault) -> Result<()> {
        if self.fault == Some(fault) {
            return Err(Error::new(ErrorKind::Failure, format!("{fault:?} {}", self.number)));
        }
        Ok(())
    }

    fn note(&self, what: &str) {
        self.said.lock().unwrap().push(format!("{what} {}", self.number));
    }

    fn file(&self, places: &Places) -> std::path::PathBuf {
        places.directory.join(self.number.to_string())
    }
}

impl Capability for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn prepare(&self, _: &Places, _: &Course) -> Result<()> {
        self.note("prepare");
        self.fails(Fault::Preparing)
    }

    fn apply(&self, places: &Places, _: &Course) -> Result<()> {
        self.note("apply");
        self.fails(Fault::BeforeItIsDone)?;
        fs::write(self.file(places), "").unwrap();
        if self.fault == Some(Fault::CalledOff) {
            *self.client.lock().unwrap() = None;
        }
        self.fails(Fault::AfterItIsDone)
    }

    fn verify(&self, places: &Places, course: &Course) -> Result<()> {
        self.note("verify");
        assert!(self.file(places).exists());
        self.fails(Fault::Verifying)?;
        match self.fault {
            Some(Fault::CalledOffVerifying) => {
                *self.client.lock().unwrap() = None;
                course.check()
            }
            _ => Ok(()),
        }
    }

    fn undo(&self, places: &Places) -> Result<()> {
        self.note("undo");
        match self.stays {
            true => Err(Error::new(ErrorKind::Failure, "it stays")),
            false => {
                crate::vm::gone(fs::remove_file(self.file(places))).unwrap();
                Ok(())
            }
        }
    }
}

/// What came of it, what was said in which order, and what is left.
fn carried_out(
    count: usize,
    fault: Option<(usize, Fault)>,
    stays: Option<usize>,
) -> (Result<()>, Vec<String>, usize) {
    let scratch = tempfile::tempdir().unwrap();
    let places = places(scratch.path());
    fs::create_dir(&places.directory).unwrap();
    let (course, client) = Course::new(|_| ()).unwrap();
    let (said, client) = (Arc::default(), Arc::new(Mutex::new(Some(client))));
    let fake = |number| -> Box<dyn Capability> {
        Box::new(Fake {
            number,
            fault: fault.and_then(|(at, fault)| (at == number).then_some(fault)),
            stays: stays == Some(number),
            said: Arc::clone(&said),
            client: Arc::clone(&client),
        })
    };
    let all: Capabilities = (0..count).map(fake).collect();
    let outcome = carry_out(&all, &places, &course);
    let left = fs::read_dir(&places.directory).unwrap().count();
    drop(all);
    let said = std::mem::take(&mut *said.lock().unwrap());
    (outcome, said, left)
}

fn places(scratch: &Path) -> Places {
    Places { directory: scratch.join("vm"), runtime: scratch.join("run") }
}

#[test]
fn all_parts_are_prepared_before_one_is_done() {
    let (outcome, said, left) = carried_out(2, None, None);
    outcome.unwrap();
    assert_eq!(said, ["prepare 0", "prepare 1", "apply 0", "verify 0", "apply 1", "verify 1"]);
    assert_eq!(left, 2);
}

#[test]
fn whatever_goes_wrong_at_whichever_part_nothing_is_left() {
    const COUNT: usize = 4;
    for at in 0..COUNT {
        for fault in FAULTS {
            let (outcome, said, left) = carried_out(COUNT, Some((at, fault)), None);
            let error = outcome.unwrap_err();
            let is_called_off = matches!(fault, Fault::CalledOff | Fault::CalledOffVerifying);
            let kind = if is_called_off { ErrorKind::Interrupted } else { ErrorKind::Failure };
            assert_eq!((error.kind, left), (kind, 0), "{fault:?} at {at}: {said:?}");
            let undone: Vec<String> = said.iter().filter(|what| what.starts_with("undo")).cloned().collect();
            let begun = if fault == Fault::Preparing { 0 } else { at + 1 };
            let expected: Vec<String> = (0..begun).rev().map(|number| format!("undo {number}")).collect();
            assert_eq!(undone, expected, "{fault:?} at {at}");
        }
    }
}

#[test]
fn a_part_that_cannot_be_undone_keeps_none_from_being_undone() {
    let (outcome, said, left) = carried_out(4, Some((3, Fault::Verifying)), Some(1));
    assert_eq!(outcome.unwrap_err().message, "Verifying 3");
    assert_eq!(left, 1);
    assert_eq!(said.last().unwrap(), "undo 0");
}

proptest! {
    #[test]
    fn all_is_done_or_nothing(
        count in 0_usize..8,
        at in 0_usize..8,
        fault in prop::option::of(prop::sample::select(FAULTS.to_vec())),
    ) {
        let fault = fault.map(|fault| (at, fault)).filter(|(at, _)| *at < count);
        let (outcome, said, left) = carried_out(count, fault, None);
        prop_assert_eq!(outcome.is_err(), fault.is_some());
        prop_assert_eq!(left, if fault.is_some() { 0 } else { count });
        let first = said.iter().position(|what| what.starts_with("apply")).unwrap_or(said.len());
        prop_assert!(said[first..].iter().all(|what| !what.starts_with("prepare")));
    }
}

mod of_a_vm {
    use super::*;
    use crate::disk;
    use crate::image::{Content, Image, Manifest};
    use crate::vm::{Record, list};

    /// An image with nothing but a root file system.
    fn image(scratch: &Path) -> Image {
        let directory = scratch.join("image");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("root.ext4"), vec![0; 1 << 20]).unwrap();
        let content = |bytes| Content { bytes, blake3: String::new() };
        let manifest =
            Manifest { version: 1, kernel: content(0), root: content(1 << 20), created: 0, origin: None };
        Image { name: "tiny".to_owned(), directory, manifest }
    }

    fn parts(image: &Image, disk_mib: Option<u32>, fault: Option<Fault>) -> Capabilities {
        let record = Record::new("tiny", "qemu", 1, 256);
        let client = Arc::default();
        let fake = Fake { number: 7, fault, stays: false, said: Arc::default(), client };
        let disk = Disk { base: Base::image(image), disk_mib };
        vec![Box::new(Directory), Box::new(disk), Box::new(Written(record)), Box::new(fake)]
    }

    #[test]
    fn a_vm_is_there_whole_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let (image, places) = (image(scratch.path()), places(&scratch.path().join("vms")));
        let (course, client) = Course::new(|_| ()).unwrap();
        let made = |disk_mib, fault| carry_out(&parts(&image, disk_mib, fault), &places, &course);
        for fault in [Fault::Preparing, Fault::BeforeItIsDone, Fault::AfterItIsDone, Fault::Verifying] {
            assert!(made(None, Some(fault)).is_err());
            assert!(!places.directory.exists(), "{fault:?}");
        }
        // What somebody left without a record is in nobody's way.
        fs::create_dir_all(places.directory.join("half")).unwrap();
        made(Some(2), None).unwrap();
        assert!(!places.directory.join("half").exists());
        let (path, format) = disk::find(&places.directory).unwrap();
        assert_eq!(disk::bytes_seen(&path, format).unwrap(), 2 << 20);
        assert_eq!(list(&scratch.path().join("vms"), |_| places.clone()).vms.len(), 1);
        // One that is there stays.
        assert_eq!(made(None, None).unwrap_err().kind, ErrorKind::Conflict);
        assert!(places.read().unwrap().is_some());
        places.remove().unwrap();
        drop(client);
        assert_eq!(made(None, None).unwrap_err().kind, ErrorKind::Interrupted);
        assert!(!places.directory.exists());
    }
}

use super::*;
use crate::snapshot::tests::{Rig, kept};
use crate::snapshot::{Purpose, sweep, take};

fn stopped(held: &BTreeSet<String>) -> Circumstances<'_> {
    Circumstances { is_running: false, held, free: |_| Ok(u64::MAX) }
}

fn names(vm: &Path) -> Vec<String> {
    list(vm).into_iter().map(|snapshot| snapshot.name).collect()
}

impl Rig {
    fn clear(&self, is_running: bool) {
        let held = BTreeSet::new();
        clear(&self.vm(), &Circumstances { is_running, ..stopped(&held) }, &self.course);
    }

    /// Why snapshots stay.
    fn reasons(&self, now: &Circumstances<'_>) -> Vec<String> {
        let stay = clear(&self.vm(), now, &self.course);
        stay.iter().map(|(name, stays)| format!("{name}: {}", stays.text())).collect()
    }

    /// Another microVM, with a disk over this snapshot.
    fn fork(&self, name: &str, snapshot: &Snapshot) -> PathBuf {
        let fork = self.scratch.path().join("vms").join(name);
        fs::create_dir(&fork).unwrap();
        // As where blocks are not shared.
        disk::overlay(&fork.join("root.qcow2"), (&snapshot.disk, snapshot.format), &self.course).unwrap();
        fork
    }

    /// A snapshot of each byte up to that one, and one more byte on the disk.
    fn snapshots(&self, count: u8) -> Vec<Snapshot> {
        let one = |byte: u8| {
            self.write(&self.vm(), byte);
            take(&self.vm(), &kept(&format!("of-{byte}")), &self.course).unwrap()
        };
        let taken = (1..=count).map(one).collect();
        self.write(&self.vm(), count + 1);
        taken
    }

    /// Whether disks are over each other here; else each snapshot stands alone, and there is less to see.
    fn has_layers(&self) -> bool {
        disk::find(&self.vm()).unwrap().1 == Format::Qcow2
    }
}

#[test]
fn one_goes_from_wherever_it_is_and_the_others_stay_as_they_are() {
    let rig = Rig::new();
    let vm = rig.vm();
    let taken = rig.snapshots(3);
    for (gone, left) in [("of-2", &[1, 3][..]), ("of-1", &[3]), ("of-3", &[])] {
        doom(&vm, gone, &stopped(&BTreeSet::new())).unwrap();
        doom(&vm, gone, &stopped(&BTreeSet::new())).unwrap();
        rig.clear(false);
        assert_eq!(names(&vm), left.iter().map(|byte| format!("of-{byte}")).collect::<Vec<_>>());
        for &byte in left {
            let is = &taken[usize::from(byte) - 1];
            assert_eq!(rig.first((&is.disk, is.format)), byte);
        }
        assert_eq!(rig.first_of(&vm), 4);
    }
    assert_eq!(fs::read_dir(directory(&vm)).unwrap().count(), 0);
    assert_eq!(doom(&vm, "of-1", &stopped(&BTreeSet::new())).unwrap_err().kind, ErrorKind::NotFound);
    rig.write(&vm, 5);
    assert_eq!(rig.first_of(&vm), 5);
}

#[test]
fn what_a_guest_may_read_or_another_vm_is_made_of_is_only_marked() {
    let rig = Rig::new();
    let vm = rig.vm();
    let [one, two] = &rig.snapshots(2)[..] else { panic!("two are taken") };
    if !rig.has_layers() {
        return;
    }
    // A vm that runs.
    doom(&vm, "of-2", &stopped(&BTreeSet::new())).unwrap();
    rig.clear(true);
    assert!(list(&vm)[1].record.is_doomed);
    assert_eq!(users(&vm, "of-2").unwrap(), ["dev".to_owned()].into());
    let refused = open(&vm, "of-2").unwrap_err();
    assert!(refused.kind == ErrorKind::Conflict && refused.message.contains("being deleted"), "{refused}");
    // Another one above it.
    let fork = rig.fork("fork", two);
    rig.clear(false);
    doom(&vm, "of-1", &stopped(&BTreeSet::new())).unwrap();
    rig.clear(false);
    assert_eq!(names(&vm), ["of-1", "of-2"]);
    assert_eq!(users(&vm, "of-2").unwrap(), ["dev".to_owned(), "fork".to_owned()].into());
    let seen = [one, two].map(|snapshot| rig.first((&snapshot.disk, snapshot.format)));
    assert_eq!((seen, rig.first_of(&fork), rig.first_of(&vm)), ([1, 2], 2, 3));
    fs::remove_dir_all(fork).unwrap();
    rig.clear(false);
    assert_eq!((names(&vm), rig.first_of(&vm)), (Vec::new(), 3));
}

#[test]
fn one_that_was_taken_for_a_fork_goes_with_the_last_one_that_is_made_of_it() {
    let rig = Rig::new();
    let vm = rig.vm();
    rig.write(&vm, 1);
    let taken = take(&vm, &Purpose::Fork, &rig.course).unwrap();
    rig.write(&vm, 2);
    // Its disk is not made yet.
    let held = [taken.name.clone()].into();
    clear(&vm, &stopped(&held), &rig.course);
    assert_eq!(names(&vm), ["snap-1"]);
    let forks = ["fork", "other"].map(|name| rig.fork(name, &taken));
    for fork in forks {
        rig.clear(false);
        assert_eq!(open(&vm, "snap-1").unwrap(), taken);
        assert_eq!(rig.first_of(&fork), 1);
        fs::remove_dir_all(fork).unwrap();
    }
    // As long as the vm runs, its own disk is over it.
    rig.clear(true);
    assert_eq!(names(&vm).is_empty(), !rig.has_layers());
    rig.clear(false);
    assert_eq!((names(&vm), rig.first_of(&vm)), (Vec::new(), 2));
    // One that somebody wanted stays.
    take(&vm, &Purpose::Kept(None), &rig.course).unwrap();
    rig.clear(false);
    assert_eq!(names(&vm), ["snap-1"]);
}

#[test]
fn one_that_was_going_when_all_ended_goes_from_wherever_it_was() {
    for step in 0..4 {
        let rig = Rig::new();
        let vm = rig.vm();
        let taken = rig.snapshots(2);
        if !rig.has_layers() {
            return;
        }
        let (lower, upper) = (&taken[0].disk, &taken[1].disk);
        doom(&vm, "of-1", &stopped(&BTreeSet::new())).unwrap();
        if step > 0 {
            disk::commit(upper, &rig.course).unwrap();
        }
        if step > 1 {
            fs::rename(lower, upper).unwrap();
        }
        if step > 2 {
            fs::remove_file(record_in(&directory(&vm).join("of-1"))).unwrap();
        }
        assert_eq!((rig.first((upper, Format::Qcow2)), rig.first_of(&vm)), (2, 3), "{step}");
        // As the next daemon does.
        sweep(&vm);
        rig.clear(false);
        assert_eq!(names(&vm), ["of-2"], "{step}");
        assert_eq!(fs::read_dir(directory(&vm)).unwrap().count(), 1, "{step}");
        assert_eq!((rig.first((upper, Format::Qcow2)), rig.first_of(&vm)), (2, 3), "{step}");
    }
}

#[test]
fn a_disk_that_has_grown_since_keeps_its_size() {
    let rig = Rig::new();
    let vm = rig.vm();
    rig.snapshots(1);
    disk::grow(&vm, 3 << 20).unwrap();
    doom(&vm, "of-1", &stopped(&BTreeSet::new())).unwrap();
    rig.clear(false);
    let (root, format) = disk::find(&vm).unwrap();
    assert_eq!((names(&vm), disk::bytes_seen(&root, format).unwrap()), (Vec::new(), 3 << 20));
    assert_eq!(rig.first_of(&vm), 2);
}

#[test]
fn nothing_goes_while_it_is_not_known_what_all_disks_are_over() {
    let rig = Rig::new();
    let vm = rig.vm();
    let taken = rig.snapshots(1);
    if !rig.has_layers() {
        return;
    }
    let fork = rig.fork("fork", &taken[0]);
    fs::rename(&fork, rig.scratch.path().join("vms/lost")).unwrap();
    // One of a vm without a record, over a disk that is elsewhere for now.
    let (away, image) = (rig.scratch.path().join("away"), rig.scratch.path().join("image"));
    fs::create_dir(rig.scratch.path().join("vms/other")).unwrap();
    disk::overlay(&rig.scratch.path().join("vms/other/root.qcow2"), (&image, Format::Raw), &rig.course)
        .unwrap();
    fs::rename(&image, &away).unwrap();
    fs::write(rig.scratch.path().join("vms/file"), "").unwrap();
    doom(&vm, "of-1", &stopped(&BTreeSet::new())).unwrap();
    rig.clear(false);
    assert_eq!(names(&vm), ["of-1"]);
    fs::rename(&away, &image).unwrap();
    rig.clear(false);
    assert_eq!(names(&vm), ["of-1"], "a disk of `lost` is over it");
    fs::remove_dir_all(rig.scratch.path().join("vms/lost")).unwrap();
    rig.clear(false);
    assert_eq!(names(&vm), Vec::<String>::new());
}

#[test]
fn what_stays_says_why() {
    let rig = Rig::new();
    let vm = rig.vm();
    let [one, two] = &rig.snapshots(2)[..] else { panic!("two are taken") };
    if !rig.has_layers() {
        return;
    }
    let (none, held) = (BTreeSet::new(), BTreeSet::from(["of-1".to_owned()]));
    doom(&vm, "of-1", &stopped(&held)).unwrap();
    assert_eq!(rig.reasons(&stopped(&held)), ["of-1: a vm is being made of it"]);
    let held = BTreeSet::from(["of-2".to_owned()]);
    assert_eq!(rig.reasons(&stopped(&held)), ["of-1: a vm is being made of another snapshot"]);
    let running = Circumstances { is_running: true, ..stopped(&none) };
    assert_eq!(rig.reasons(&running), ["of-1: its vm runs"]);
    let web = rig.fork("web", two);
    assert_eq!(rig.reasons(&running), ["of-1: made of what came after it: web"]);
    rig.fork("api", one);
    assert_eq!(rig.reasons(&running), ["of-1: made of it: api"]);
    for fork in [web, rig.scratch.path().join("vms/api")] {
        fs::remove_dir_all(fork).unwrap();
    }
    assert_eq!(rig.reasons(&stopped(&none)), [] as [String; 0]);
    assert_eq!(names(&vm), ["of-2"]);
}

#[test]
fn disks_are_put_together_where_there_is_room_or_not_at_all() {
    let rig = Rig::new();
    let vm = rig.vm();
    rig.snapshots(1);
    if !rig.has_layers() {
        return;
    }
    let held = BTreeSet::new();
    let full = Circumstances { free: |_| Ok(KEPT_FREE_BYTES), ..stopped(&held) };
    let (root, _) = disk::find(&vm).unwrap();
    let written = fs::metadata(&root).unwrap().blocks() * 512;
    let expected =
        format!("up to {} MiB, and 64 MiB are free, of which 64 are kept", written.div_ceil(1 << 20));
    let refused = doom(&vm, "of-1", &full).unwrap_err();
    assert!(refused.message.contains(&expected) && refused.hint.is_some(), "{refused}");
    assert!(!list(&vm)[0].record.is_doomed, "it is as it was");
    // One that was to wait says so once it could go.
    let running = Circumstances { is_running: true, ..full };
    doom(&vm, "of-1", &running).unwrap();
    match &clear(&vm, &full, &rig.course)["of-1"] {
        Stays::Failed(error) => assert!(error.message.contains(&expected), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!((names(&vm), rig.first_of(&vm)), (vec!["of-1".to_owned()], 2));
    assert_eq!((rig.reasons(&stopped(&held)), rig.first_of(&vm)), (Vec::new(), 2));
}

#[test]
fn putting_disks_together_can_be_called_off_and_is_done_again() {
    let rig = Rig::new();
    let vm = rig.vm();
    rig.snapshots(1);
    if !rig.has_layers() {
        return;
    }
    let held = BTreeSet::new();
    doom(&vm, "of-1", &stopped(&held)).unwrap();
    let (course, client) = Course::new(|_| ()).unwrap();
    drop(client);
    match &clear(&vm, &stopped(&held), &course)["of-1"] {
        Stays::Failed(error) => assert_eq!(error.kind, ErrorKind::Interrupted),
        other => panic!("{other:?}"),
    }
    assert_eq!((names(&vm), rig.first_of(&vm)), (vec!["of-1".to_owned()], 2));
    assert_eq!((rig.reasons(&stopped(&held)), rig.first_of(&vm)), (Vec::new(), 2));
    assert_eq!(names(&vm), [] as [String; 0]);
}

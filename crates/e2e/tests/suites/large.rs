use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use e2e::{Kind, Program, suites};

const SPARSE_BYTES: u64 = 4 << 30;

/// What the issue asks of a directory; on the disk a tenth proves the test.
const ENTRIES: usize = 1_000_000;

suites! {
    fn a_sparse_file_of_four_gibibytes_is_written_read_and_copied(p) {
        let file = File::options().read(true).write(true).create_new(true).open(p.path("sparse")).unwrap();
        file.set_len(SPARSE_BYTES).unwrap();
        let places = [0, (1 << 31) - 5, (1 << 32) - 4096, SPARSE_BYTES - 10];
        for at in places {
            file.write_all_at(b"0123456789", at).unwrap();
        }
        file.sync_all().unwrap();
        for at in places {
            let mut back = [0; 10];
            file.read_exact_at(&mut back, at).unwrap();
            assert_eq!(&back, b"0123456789");
        }
        drop(file);
        assert_eq!(p.path("sparse").metadata().unwrap().len(), SPARSE_BYTES);
        assert!(p.far_path("sparse").metadata().unwrap().blocks() < 1000);

        Program::new("cp").args(["--sparse=auto", "--reflink=never"]).arg(p.path("sparse")).arg(p.path("copy")).ok();
        assert!(p.far_path("copy").metadata().unwrap().blocks() < 1000, "the copy is sparse too");
        let minutes = Duration::from_secs(300);
        Program::new("cmp").arg(p.path("copy")).arg(p.far_path("sparse")).deadline(minutes).ok();
    }

    fn a_directory_of_a_million_entries_is_listed_whole(p) {
        let entries = if p.kind == Kind::Disk { ENTRIES / 10 } else { ENTRIES };
        std::fs::create_dir(p.far_path("d")).unwrap();
        for number in 0..entries {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                p.far_path(format!("d/entry-{number:07}")),
                rustix::fs::FileType::RegularFile,
                rustix::fs::Mode::from_raw_mode(0o644),
                0,
            )
            .unwrap();
        }
        let minutes = Duration::from_secs(300);
        let listing = Program::new("find").arg(p.path("d")).args(["-mindepth", "1", "-printf", "x"]);
        assert_eq!(listing.deadline(minutes).ok().stdout.len(), entries);
        assert!(p.path(format!("d/entry-{:07}", entries - 1)).exists());
        assert!(!p.path("d/entry-absent").exists());
        p.file("d/one more", "");
        assert!(p.far_path("d/one more").exists());
    }
}

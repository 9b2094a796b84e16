//! The file system in memory that a guest's kernel begins with.
//!
//! An archive of cpio's `newc` format: for each entry a header of 110 digits and letters, its name with a zero byte, and its
//! content, header and name together and content each filled up to four bytes. The header is `070701` and thirteen numbers of
//! eight hexadecimal digits: inode, mode, user, group, links, time, length, device (two), node (two), length of the name, sum.
//! An entry called `TRAILER!!!` is the end.

use crate::modules::Module;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// What a guest begins with: its init, its agent, and its kernel's modules.
pub fn write(init: &[u8], agent: &[u8], modules: &[Module]) -> Vec<u8> {
    let order: String = modules.iter().map(|module| format!("{}\n", module.name)).collect();
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "modules"] {
        archive.add(directory, DIRECTORY, (0, 0), &[]);
    }
    // What the first process says before it has any file system.
    archive.add("dev/console", CONSOLE, (5, 1), &[]);
    archive.add("init", PROGRAM, (0, 0), init);
    archive.add("agent", PROGRAM, (0, 0), agent);
    archive.add("modules/order", FILE, (0, 0), order.as_bytes());
    for module in modules {
        archive.add(&format!("modules/{}", module.name), FILE, (0, 0), &module.content);
    }
    archive.end()
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, node: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let length = u32::try_from(content.len()).expect("an agent and a module have less than 4 GiB");
        let name_length = u32::try_from(name.len() + 1).expect("names are short");
        let numbers = [self.entries, mode, 0, 0, links, 0, length, 0, 0, node.0, node.1, name_length, 0];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.fill();
        self.bytes.extend(content);
        self.fill();
    }

    fn fill(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entries = 0;
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_lists_what_was_put_into_it() {
        let modules = [Module { name: "a.ko".to_owned(), content: vec![7; 5] }];
        let archive = write(b"init", b"agent", &modules);
        let (mut at, mut entries) = (0, Vec::new());
        while at < archive.len() {
            let header = std::str::from_utf8(&archive[at..at + 110]).unwrap();
            let number = |field: usize| usize::from_str_radix(&header[6 + 8 * field..][..8], 16).unwrap();
            assert!(header.starts_with("070701"));
            let name = at + 110..at + 110 + number(11) - 1;
            let content = (name.end + 1).next_multiple_of(4);
            entries.push((
                String::from_utf8(archive[name].to_vec()).unwrap(),
                archive[content..content + number(6)].to_vec(),
            ));
            at = (content + number(6)).next_multiple_of(4);
        }
        let content = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap().1.clone();
        assert_eq!((content("init"), content("agent")), (b"init".to_vec(), b"agent".to_vec()));
        assert_eq!(content("modules/order"), b"a.ko\n");
        assert_eq!(content("modules/a.ko"), [7; 5]);
        assert_eq!(entries.last().unwrap().0, "TRAILER!!!");
    }
}

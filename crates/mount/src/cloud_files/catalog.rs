//! Where on the machine the content of each file here is, for those who fetch it: they must not wait for the replica, which may be
//! sending a file for longer than Windows waits for anybody.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use vfs::replica::item::{Identity, Item, ItemId, Kind, SideName, Token};
use vfs::replica::side::At;
use vfs::replica::{Anchor, Replica};
use wire::agent::name::Name;

use crate::far::Directories;

/// A version on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in an item")]
pub struct Origin {
    pub at: At,
    pub content: Token,
    pub size: u64,
}

impl Origin {
    /// As much of a range as there is.
    pub fn within(&self, range: Range<u64>) -> Range<u64> {
        super::translate::blocks(range, self.size)
    }
}

/// By what each file is known here.
#[derive(Debug, Default)]
pub struct Catalog {
    origins: HashMap<Identity, Origin>,
    /// What directories here are on the machine.
    counterparts: HashMap<Identity, Identity>,
    /// Where they are there.
    directories: Arc<Directories>,
    /// Here, and of a directory on the machine.
    known_as: HashMap<ItemId, (Identity, Option<Identity>)>,
    anchor: Option<Anchor>,
}

impl Catalog {
    /// The content of a file here; `None` of what the machine does not have as this version.
    pub fn origin(&self, here: &Identity, content: &Token) -> Option<&Origin> {
        self.origins.get(here).filter(|origin| origin.content == *content)
    }

    /// What a directory here is on the machine. The root is not told of.
    pub fn directory(&self, here: &Identity) -> Option<&Identity> {
        self.counterparts.get(here)
    }

    /// Where the machine's directories are. As long as nothing has changed it is the same one.
    pub fn directories(&self) -> Arc<Directories> {
        Arc::clone(&self.directories)
    }

    /// Takes over what has changed since it was called last.
    pub fn follow(&mut self, replica: &mut Replica) -> vfs::replica::Result<()> {
        loop {
            let Some(anchor) = self.anchor else {
                return self.take_all(replica);
            };
            let Ok(changes) = replica.changes(anchor)? else {
                return self.take_all(replica);
            };
            for id in changes.gone {
                self.forget(id);
            }
            for item in &changes.changed {
                self.take(replica, item)?;
            }
            self.anchor = Some(changes.anchor);
            if !changes.is_more {
                return Ok(());
            }
        }
    }

    fn take_all(&mut self, replica: &mut Replica) -> vfs::replica::Result<()> {
        *self = Catalog { anchor: Some(replica.anchor()?), ..Catalog::default() };
        let mut waiting = vec![ItemId::ROOT];
        while let Some(directory) = waiting.pop() {
            for item in replica.children(directory)? {
                if item.kind == Kind::Directory {
                    waiting.push(item.id);
                }
                self.take(replica, &item)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, replica: &mut Replica, item: &Item) -> vfs::replica::Result<()> {
        self.forget(item.id);
        let (Some(here), Some(there)) = (&item.here, &item.there) else { return Ok(()) };
        let parent = replica.item(there.parent)?;
        let Some(parent) = parent.as_ref().and_then(|parent| parent.on(SideName::There)) else {
            return Ok(());
        };
        if item.kind == Kind::Directory {
            let Ok(name) = Name::new(&there.name[..]) else { return Ok(()) };
            let place = (parent.identity.clone(), name);
            if self.directories.get(&there.identity) != Some(&place) {
                Arc::make_mut(&mut self.directories).insert(there.identity.clone(), place);
            }
            self.counterparts.insert(here.identity.clone(), there.identity.clone());
            self.known_as.insert(item.id, (here.identity.clone(), Some(there.identity.clone())));
            return Ok(());
        }
        let at = At {
            identity: there.identity.clone(),
            parent: parent.identity.clone(),
            name: there.name.clone(),
        };
        let origin = Origin { at, content: there.content.clone(), size: there.size };
        self.known_as.insert(item.id, (here.identity.clone(), None));
        self.origins.insert(here.identity.clone(), origin);
        Ok(())
    }

    fn forget(&mut self, id: ItemId) {
        let Some((here, there)) = self.known_as.remove(&id) else { return };
        self.origins.remove(&here);
        self.counterparts.remove(&here);
        if let Some(there) = there {
            Arc::make_mut(&mut self.directories).remove(&there);
        }
    }
}

#[cfg(test)]
mod tests {
    use vfs::replica::Listing;
    use vfs::replica::item::Entry;
    use vfs::replica::names::NameRules;
    use vfs::replica::side::{Answer, Facts, Here, Side, There};

    use super::*;

    /// Answers to each making with what was to be made.
    struct Echo(u8);

    fn entry(identity: &[u8], name: &[u8], content: &[u8]) -> Entry {
        Entry {
            identity: identity.into(),
            name: name.into(),
            kind: Kind::File,
            mode: 0o644,
            size: 10_000,
            content: content.into(),
            edit: None,
        }
    }

    impl Side for Echo {
        fn list(&mut self, _: &Identity) -> Answer<Vec<Entry>> {
            unreachable!("nothing is looked at")
        }
        fn is_gone(&mut self, _: &Identity) -> Answer<bool> {
            Ok(true)
        }
        fn make_directory(&mut self, _: &Identity, _: &[u8], _: u16) -> Answer<Entry> {
            unreachable!("there are no directories")
        }
        fn rename(&mut self, from: &At, _: &Identity, name: &[u8]) -> Answer<Entry> {
            Ok(entry(&from.identity, name, b"v1"))
        }
        fn set_mode(&mut self, _: &At, _: u16) -> Answer<Entry> {
            unreachable!("permissions stay")
        }
        fn remove(&mut self, _: &At, _: &Token, _: Option<&Token>) -> Answer<()> {
            Ok(())
        }
    }

    impl Here for Echo {
        fn make_placeholder(&mut self, _: &Identity, name: &[u8], facts: &Facts) -> Answer<Entry> {
            self.0 += 1;
            Ok(entry(&[b'h', self.0], name, &facts.content))
        }
        fn refresh(&mut self, _: &At, _: &Token, _: &Facts) -> Answer<Entry> {
            unreachable!("nothing is written")
        }
        fn settle(&mut self, _: &At, _: &Token, _: &Token) -> Answer<Entry> {
            unreachable!("nothing is written")
        }
        fn open(&mut self, _: &At, _: &Token) -> Answer<Box<dyn std::io::Read + '_>> {
            unreachable!("nothing is written")
        }
    }

    impl There for Echo {
        fn make_file(
            &mut self,
            _: &Identity,
            _: &[u8],
            _: &Facts,
            _: &mut dyn std::io::Read,
        ) -> Answer<Entry> {
            unreachable!("nothing is made there")
        }
        fn replace(&mut self, _: &At, _: &Token, _: &Facts, _: &mut dyn std::io::Read) -> Answer<Entry> {
            unreachable!("nothing is written")
        }
        fn read(&mut self, _: &At, _: &Token, _: u64, _: u32) -> Answer<Vec<u8>> {
            unreachable!("nothing is read")
        }
        fn is_same(&mut self, _: &At, _: &Token, _: &mut dyn std::io::Read) -> Answer<bool> {
            unreachable!("nothing is compared")
        }
    }

    fn show(replica: &mut Replica, entries: Vec<Entry>) {
        let listing = Listing { directory: Identity::from(&b"there"[..]), entries };
        replica.observe(SideName::There, vec![listing]).unwrap();
        let (mut here, mut there) = (Echo(0), Echo(0));
        while replica.step(&mut here, &mut there).unwrap() == vfs::replica::Outcome::Stepped {}
    }

    #[test]
    fn it_follows_what_files_are_called_on_the_machine_and_which_are_gone() {
        let place = tempfile::tempdir().unwrap();
        let mut replica = Replica::open(&place.path().join("replica"), NameRules::Windows, "box").unwrap();
        replica.set_root(SideName::Here, b"here"[..].into()).unwrap();
        replica.set_root(SideName::There, b"there"[..].into()).unwrap();
        let mut catalog = Catalog::default();
        catalog.follow(&mut replica).unwrap();
        let (here, version) = (Identity::from(&b"h\x01"[..]), Token::from(&b"v1"[..]));
        assert_eq!(catalog.origin(&here, &version), None);
        show(&mut replica, vec![entry(b"t", b"a", b"v1")]);
        catalog.follow(&mut replica).unwrap();
        let origin = catalog.origin(&here, &version).unwrap();
        assert_eq!((&*origin.at.name, &*origin.at.parent), (&b"a"[..], &b"there"[..]));
        assert_eq!(origin.within(5_000..20_000), 4096..10_000);
        assert_eq!(catalog.origin(&here, &Token::from(&b"v2"[..])), None);
        show(&mut replica, vec![entry(b"t", b"b", b"v1")]);
        catalog.follow(&mut replica).unwrap();
        assert_eq!(*catalog.origin(&here, &version).unwrap().at.name, *b"b");
        // One that begins anew has the same.
        let mut another = Catalog::default();
        another.follow(&mut replica).unwrap();
        assert_eq!(another.origin(&here, &version), catalog.origin(&here, &version));
        show(&mut replica, vec![]);
        catalog.follow(&mut replica).unwrap();
        assert_eq!(catalog.origin(&here, &version), None);
    }
}

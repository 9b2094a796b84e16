//! What a replica knows of one file.

/// A file of a replica, for as long as it is on either side, under every name. Never given twice by one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(pub i64);

impl ItemId {
    /// The directory that holds all others.
    pub const ROOT: ItemId = ItemId(1);
}

/// The longest [`Identity`] and [`Token`], in bytes: four numbers, with room for a digest. File Provider keeps at most 128.
pub const TOKEN_BYTES_MAX: usize = 64;

/// The longest name, in bytes: 255 units of UTF-16 have three times as many in UTF-8.
pub const NAME_BYTES_MAX: usize = 3 * 255;

/// What a side knows a file by, whatever its name. Two names on one side never have the same one: a side that has several
/// names for a file puts the name into it.
pub type Identity = Box<[u8]>;

/// Which content a file has on a side. Compared for equality alone.
pub type Token = Box<[u8]>;

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SideName {
    /// This computer.
    Here,
    /// The machine.
    There,
}

impl SideName {
    /// The other one.
    pub fn other(self) -> SideName {
        match self {
            SideName::Here => SideName::There,
            SideName::There => SideName::Here,
        }
    }
}

/// What kind of file. An item never changes its kind: a name that does is another item. Other kinds are not replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "POSIX's own words")]
pub enum Kind {
    Directory,
    File,
    /// Its content is what it points to.
    Symlink,
}

/// A file as a side shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the side knows it by.
    pub identity: Identity,
    /// As the side writes it: of the machine the bytes, of this computer UTF-8.
    pub name: Box<[u8]>,
    /// What kind.
    pub kind: Kind,
    /// Permissions.
    pub mode: u16,
    /// In bytes; 0 for a directory.
    pub size: u64,
    /// On the machine, the version of its content. Here, the version on the machine that it was made from: empty where it
    /// was made from none, or nothing is known of that. Empty for a directory.
    pub content: Token,
    /// Here only: its content was written to since, and this is how. What is written to is all there.
    pub edit: Option<Token>,
}

/// An [`Entry`] in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Seen {
    pub identity: Identity,
    pub parent: ItemId,
    pub name: Box<[u8]>,
    pub mode: u16,
    pub size: u64,
    pub content: Token,
    pub edit: Option<Token>,
}

impl Seen {
    /// What was shown in this directory.
    pub fn new(parent: ItemId, entry: Entry) -> Seen {
        let Entry { identity, name, kind: _, mode, size, content, edit } = entry;
        Seen { identity, parent, name, mode, size, content, edit }
    }

    /// Whether it is under this name.
    pub fn is_at(&self, parent: ItemId, name: &[u8]) -> bool {
        self.parent == parent && *self.name == *name
    }
}

/// What both sides last had in common: the base of every comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// In which directory.
    pub parent: ItemId,
    /// Its name on this computer.
    pub here: Box<[u8]>,
    /// Its name on the machine.
    pub there: Box<[u8]>,
    /// Its permissions.
    pub mode: u16,
    /// The machine's version of its content.
    pub content: Token,
}

/// What the platform compares: each number grows when what it counts changes on either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Of its content.
    pub content: u64,
    /// Of its name, its directory and its permissions.
    pub metadata: u64,
}

/// A file on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which.
    pub id: ItemId,
    /// What kind.
    pub kind: Kind,
    /// On this computer, if it is there.
    pub here: Option<Seen>,
    /// On the machine, if it is there.
    pub there: Option<Seen>,
    /// What they had in common, if they ever did.
    pub agreed: Option<Agreed>,
    /// What the platform compares.
    pub version: Version,
    /// The name under which it is being set aside.
    pub aside: Option<Box<[u8]>>,
    /// Why a side refused what should be done to it. It waits until it changes, or is tried again.
    pub refused: Option<String>,
}

impl Item {
    /// As the side has it.
    pub fn on(&self, side: SideName) -> Option<&Seen> {
        match side {
            SideName::Here => self.here.as_ref(),
            SideName::There => self.there.as_ref(),
        }
    }

    pub(crate) fn on_mut(&mut self, side: SideName) -> &mut Option<Seen> {
        match side {
            SideName::Here => &mut self.here,
            SideName::There => &mut self.there,
        }
    }

    /// Whether it was moved or renamed on the side since both agreed.
    pub(crate) fn is_moved(&self, side: SideName) -> bool {
        let (Some(agreed), Some(seen)) = (&self.agreed, self.on(side)) else { return false };
        let name = if side == SideName::Here { &agreed.here } else { &agreed.there };
        !seen.is_at(agreed.parent, name)
    }

    /// Whether the side has content that the other never had. A directory has none.
    pub(crate) fn is_edited(&self, side: SideName) -> bool {
        if self.kind == Kind::Directory {
            return false;
        }
        match (side, self.on(side), &self.agreed) {
            (SideName::Here, Some(seen), _) => seen.edit.is_some(),
            (SideName::There, Some(seen), Some(agreed)) => seen.content != agreed.content,
            (SideName::There, Some(_), None) => true,
            (_, None, _) => false,
        }
    }

    /// Whether both sides have the same and know it.
    pub fn is_settled(&self) -> bool {
        let (Some(here), Some(there), Some(agreed)) = (&self.here, &self.there, &self.agreed) else {
            return self.here.is_none() && self.there.is_none() && self.agreed.is_none();
        };
        let is_same_content =
            self.kind == Kind::Directory || here.edit.is_none() && here.content == there.content;
        here.is_at(agreed.parent, &agreed.here)
            && there.is_at(agreed.parent, &agreed.there)
            && here.mode == agreed.mode
            && there.mode == agreed.mode
            && is_same_content
            && agreed.content == there.content
    }
}

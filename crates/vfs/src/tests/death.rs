//! A process dies at whatever instant, with requests under way; another goes on. The kernel asks again for what it was not
//! answered, and finds that everything it was told still holds, and that everything it asked for happened once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::errno::Errno;
use crate::file::{AttributeChanges, FileId, Kind, RenameMode, ThreadId};
use crate::log::Records;
use crate::request::{RequestId, answering};
use crate::testing::Random;
use crate::vfs::{AttributeTarget, Recording, Removal, Restored};
use crate::{Options, SyncMode};

/// Files that were said to be made before they were.
static AHEAD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are written at once, at multiples of it.
const WORD: usize = 8;
const WORDS: u64 = 6;
const APPEND: OpenFlags = OpenFlags { append: true, ..BOTH };
const UNDER_WAY_MAX: usize = 6;

/// What a kernel asks for. Names are made once, so that whatever happens twice fails.
#[derive(Clone, Debug, PartialEq)]
enum Ask {
    Lookup {
        at: (Ino, String),
    },
    Create {
        at: (Ino, String),
        append: bool,
        exclusive: bool,
    },
    MakeDirectory {
        at: (Ino, String),
    },
    Unlink {
        at: (Ino, String),
    },
    Rename {
        from: (Ino, String),
        to: (Ino, String),
    },
    Link {
        ino: Ino,
        by: (Ino, String),
        at: (Ino, String),
    },
    Open {
        ino: Ino,
        by: (Ino, String),
        append: bool,
    },
    Write {
        file: Held,
        from: u64,
        to: u64,
        version: u64,
    },
    Append {
        file: Held,
        token: u64,
    },
    Truncate {
        ino: Ino,
        by: (Ino, String),
    },
    /// The mode of an open file.
    Mode {
        file: Held,
        mode: u16,
    },
    Flush {
        file: Held,
    },
    Sync {
        file: Held,
    },
    Release {
        file: Held,
    },
}

impl Ask {
    /// Carried out twice it would do harm.
    fn happens_once(&self) -> bool {
        !matches!(self, Ask::Lookup { .. } | Ask::Open { .. } | Ask::Write { .. })
            && !matches!(self, Ask::Flush { .. } | Ask::Sync { .. } | Ask::Release { .. })
    }

    fn names(&self) -> Vec<&(Ino, String)> {
        match self {
            Ask::Lookup { at } | Ask::Create { at, .. } | Ask::MakeDirectory { at } | Ask::Unlink { at } => {
                vec![at]
            }
            Ask::Link { by, at, .. } => vec![by, at],
            Ask::Open { by, .. } | Ask::Truncate { by, .. } => vec![by],
            Ask::Rename { from, to } => vec![from, to],
            _ => Vec::new(),
        }
    }

    fn node(&self) -> Option<Ino> {
        match self {
            Ask::Link { ino, .. } | Ask::Open { ino, .. } | Ask::Truncate { ino, .. } => Some(*ino),
            Ask::Write { file, .. } | Ask::Append { file, .. } | Ask::Mode { file, .. } => Some(file.ino),
            Ask::Flush { file } | Ask::Sync { file } | Ask::Release { file } => Some(file.ino),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    handle: HandleId,
    ino: Ino,
    id: FileId,
    append: bool,
}

/// What was written to a file and answered.
#[derive(Clone, Debug, Default)]
struct Content {
    append: bool,
    words: BTreeMap<u64, u64>,
    tokens: Vec<u64>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<Ino, (FileId, Kind, u64)>,
    names: BTreeMap<(Ino, String), FileId>,
    content: HashMap<FileId, Content>,
    modes: HashMap<FileId, u16>,
    files: Vec<Held>,
    asked: BTreeMap<u64, Ask>,
    requests: u64,
    version: u64,
}

impl State {
    fn given(&mut self, view: View) {
        let node = self.nodes.entry(view.ino).or_insert((view.id, view.attributes.kind, 0));
        assert_eq!(node.0, view.id, "{:?} was another file", view.ino);
        node.2 += 1;
    }

    fn is_busy(&self, ino: Ino) -> bool {
        self.asked.values().any(|ask| ask.node() == Some(ino))
    }

    fn is_busy_name(&self, at: &(Ino, String)) -> bool {
        self.asked.values().any(|ask| ask.names().contains(&at))
    }

    fn busy_words(&self, id: FileId) -> HashSet<u64> {
        let words = |ask: &Ask| match ask {
            Ask::Write { file, from, to, .. } if file.id == id => *from..*to,
            Ask::Truncate { ino, .. } if self.nodes[ino].0 == id => 0..WORDS,
            _ => 0..0,
        };
        self.asked.values().flat_map(words).collect()
    }

    fn busy_tokens(&self) -> HashSet<u64> {
        let token = |ask: &Ask| if let Ask::Append { token, .. } = ask { Some(*token) } else { None };
        self.asked.values().filter_map(token).collect()
    }

    fn fresh_name(&mut self, random: &mut Random) -> (Ino, String) {
        self.version += 1;
        let mut directories: Vec<_> =
            self.nodes.iter().filter(|(_, node)| node.1 == Kind::Directory).map(|(ino, _)| *ino).collect();
        directories.sort_unstable();
        (*random.pick(&directories).expect("the root"), format!("n{}", self.version))
    }

    /// A name that nothing is asked for, nor what has it: a kernel tries again what crosses a change of another name, which is
    /// another matter.
    fn some_name(&self, random: &mut Random) -> Option<(Ino, String)> {
        let free = |(at, id): &(&(Ino, String), &FileId)| {
            !self.is_busy_name(at)
                && !self.nodes.iter().any(|(ino, node)| node.0 == **id && self.is_busy(*ino))
        };
        let free: Vec<_> = self.names.iter().filter(free).map(|(at, _)| at.clone()).collect();
        random.pick(&free).cloned()
    }

    fn some_node(&self, random: &mut Random) -> Option<Ino> {
        let linked: HashSet<_> = self.names.values().collect();
        let is_file = |node: &(FileId, Kind, u64)| node.1 == Kind::File && linked.contains(&node.0);
        let mut free: Vec<_> = self
            .nodes
            .iter()
            .filter(|(ino, node)| is_file(node) && !self.is_busy(**ino))
            .map(|(ino, _)| *ino)
            .collect();
        free.sort_unstable();
        random.pick(&free).copied()
    }

    /// A node, and a name that leads to it.
    fn some_node_by_name(&self, random: &mut Random) -> Option<(Ino, (Ino, String))> {
        let ino = self.some_node(random)?;
        let id = self.nodes[&ino].0;
        let mut names = self.names.iter().filter(|(_, of)| **of == id).map(|(at, _)| at);
        let name = names.next()?.clone();
        let is_free = !self.is_busy_name(&name) && !names.any(|at| self.is_busy_name(at));
        is_free.then_some((ino, name))
    }

    fn some_file(&self, random: &mut Random) -> Option<Held> {
        random.pick(&self.files).copied()
    }

    /// Something a kernel may ask for now.
    fn ask(&mut self, random: &mut Random) -> Option<Ask> {
        let ask = match random.below(19) {
            0 => Ask::Lookup { at: self.some_name(random)? },
            1 | 2 => {
                let at = self.fresh_name(random);
                Ask::Create { at, append: random.below(3) == 0, exclusive: random.below(2) == 0 }
            }
            3 => Ask::MakeDirectory { at: self.fresh_name(random) },
            4 => Ask::Unlink { at: self.some_name(random)? },
            5 => Ask::Rename { from: self.some_name(random)?, to: self.fresh_name(random) },
            6 => {
                let (ino, by) = self.some_node_by_name(random)?;
                Ask::Link { ino, by, at: self.fresh_name(random) }
            }
            7 => {
                let (ino, by) = self.some_node_by_name(random)?;
                Ask::Open { ino, by, append: self.content[&self.nodes[&ino].0].append }
            }
            8 => {
                let (ino, by) = self.some_node_by_name(random)?;
                if self.content[&self.nodes[&ino].0].append {
                    return None;
                }
                Ask::Truncate { ino, by }
            }
            9 => Ask::Flush { file: self.some_file(random)? },
            10 => Ask::Sync { file: self.some_file(random)? },
            11 => {
                let file = self.some_file(random).filter(|file| !self.is_busy(file.ino))?;
                self.files.retain(|other| other.handle != file.handle);
                Ask::Release { file }
            }
            12 | 13 => {
                let file = self.some_file(random)?;
                let is_set = |ask: &Ask| matches!(ask, Ask::Mode { file: of, .. } if of.id == file.id);
                if self.asked.values().any(is_set) {
                    return None;
                }
                Ask::Mode { file, mode: random.below(0o1000) as u16 }
            }
            _ => {
                let file = self.some_file(random)?;
                self.version += 1;
                if file.append {
                    Ask::Append { file, token: self.version }
                } else {
                    let from = random.below(WORDS);
                    let to = (from + 1 + random.below(3)).min(WORDS);
                    let busy = self.busy_words(file.id);
                    if (from..to).any(|word| busy.contains(&word)) {
                        return None;
                    }
                    Ask::Write { file, from, to, version: self.version }
                }
            }
        };
        Some(ask)
    }
}

/// A kernel, the machine, and the process between them for as long as it lives.
struct Life {
    memory: Arc<Memory>,
    vfs: Arc<Vfs<Memory>>,
    state: Arc<Mutex<State>>,
}

impl Life {
    /// Carries a request out and answers it; the process may die between any two steps.
    async fn perform(vfs: Arc<Vfs<Memory>>, state: Arc<Mutex<State>>, number: u64, ask: Ask) {
        let request = RequestId(number);
        let slot = if ask.happens_once() { vfs.choose(request).await } else { None };
        tokio::task::yield_now().await;
        let answer = answering(request, slot, Life::carry_out(&vfs, &ask)).await;
        vfs.commit();
        tokio::task::yield_now().await;
        let (views, opened) = answer.unwrap_or_else(|errno| panic!("{errno} for {number}: {ask:?}"));
        Life::answered(&mut state.lock(), number, ask, views, opened);
        tokio::task::yield_now().await;
        vfs.settle(request);
    }

    async fn carry_out(vfs: &Arc<Vfs<Memory>>, ask: &Ask) -> Result<(Option<View>, Option<HandleId>)> {
        match ask {
            Ask::Lookup { at } => match vfs.lookup(at.0, at.1.as_bytes()).await? {
                Looked::Present(view) => Ok((Some(view), None)),
                Looked::Absent(_) => Err(Errno::ENOENT),
            },
            Ask::Create { at, append, exclusive } => {
                let flags = OpenFlags { exclusive: *exclusive, ..if *append { APPEND } else { BOTH } };
                let (name, by) = (at.1.as_bytes(), ThreadId::UNKNOWN);
                // A kernel looks before it makes.
                if let Looked::Present(view) = vfs.lookup(at.0, name).await? {
                    vfs.forget(view.ino, 1);
                }
                let (mut view, opened) =
                    match vfs.create_ahead(at.0, name, (0o644, flags), CALLER, by).await? {
                        Some(made) => {
                            AHEAD.fetch_add(1, Ordering::Relaxed);
                            made
                        }
                        None => vfs.create(at.0, name, 0o644, flags, CALLER).await?,
                    };
                // The model knows files by what they are.
                vfs.attributes(view.ino.into()).await?;
                view.id = vfs.id(view.ino)?;
                Ok((Some(view), Some(opened.handle)))
            }
            Ask::MakeDirectory { at } => {
                Ok((Some(vfs.make_directory(at.0, at.1.as_bytes(), 0o755, CALLER).await?), None))
            }
            Ask::Unlink { at } => {
                vfs.remove(at.0, at.1.as_bytes(), Removal::Other).await.map(|()| (None, None))
            }
            Ask::Rename { from, to } => {
                let (from, to) = ((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()));
                vfs.rename(from, to, RenameMode::NoReplace).await.map(|()| (None, None))
            }
            Ask::Link { ino, by, at } => {
                Life::walk(vfs, by).await?;
                Ok((Some(vfs.link(*ino, at.0, at.1.as_bytes()).await?), None))
            }
            Ask::Open { ino, by, append } => {
                Life::walk(vfs, by).await?;
                let opened = vfs.open(*ino, if *append { APPEND } else { BOTH }).await?;
                Ok((None, Some(opened.handle)))
            }
            Ask::Write { file, from, to, version } => {
                let bytes: Vec<u8> = (*from..*to).flat_map(|_| version.to_le_bytes()).collect();
                let length = bytes.len() as u32;
                let offset = from * WORD as u64;
                let taken = vfs
                    .write(file.handle, offset, bytes.into(), WriteFrom::Caller(ThreadId::UNKNOWN), false)
                    .await?;
                assert_eq!(taken, length);
                Ok((None, None))
            }
            Ask::Append { file, token } => {
                let bytes = bytes::Bytes::copy_from_slice(&token.to_le_bytes());
                vfs.write(file.handle, 0, bytes, WriteFrom::Caller(ThreadId::UNKNOWN), false)
                    .await
                    .map(|_| (None, None))
            }
            Ask::Truncate { ino, by } => {
                Life::walk(vfs, by).await?;
                let changes = AttributeChanges { size: Some(0), ..AttributeChanges::default() };
                vfs.set_attributes((*ino).into(), changes).await.map(|_| (None, None))
            }
            Ask::Mode { file, mode } => {
                let changes = AttributeChanges { mode: Some(*mode), ..AttributeChanges::default() };
                let by = ThreadId::UNKNOWN;
                // By name it might cross a change of the name.
                let of = AttributeTarget { ino: file.ino, handle: Some(file.handle) };
                let expected = match vfs.set_attributes_ahead(of, changes, by).await? {
                    Some(expected) => expected,
                    None => vfs.set_attributes(of, changes).await?,
                };
                assert_eq!(expected.mode, *mode);
                Ok((None, None))
            }
            Ask::Flush { file } => vfs.flush(file.handle, 0, None).await.map(|()| (None, None)),
            Ask::Sync { file } => vfs.sync(file.handle, true).await.map(|()| (None, None)),
            Ask::Release { file } => {
                vfs.release(file.handle);
                Ok((None, None))
            }
        }
    }

    /// A kernel looks a name up before it uses what has it.
    async fn walk(vfs: &Arc<Vfs<Memory>>, (parent, name): &(Ino, String)) -> Result<()> {
        if let Looked::Present(view) = vfs.lookup(*parent, name.as_bytes()).await? {
            vfs.forget(view.ino, 1);
        }
        Ok(())
    }

    /// The kernel has the answer.
    fn answered(state: &mut State, number: u64, ask: Ask, view: Option<View>, opened: Option<HandleId>) {
        state.asked.remove(&number);
        if let Some(view) = view {
            state.given(view);
        }
        match ask {
            Ask::Lookup { at } => assert_eq!(state.names[&at], view.expect("present").id, "{at:?}"),
            Ask::Create { at, append, .. } => {
                let view = view.expect("made");
                let handle = opened.expect("opened");
                assert!(state.files.iter().all(|file| file.handle != handle), "{handle:?} is in use");
                state.files.push(Held { handle, ino: view.ino, id: view.id, append });
                state.names.insert(at, view.id);
                state.content.insert(view.id, Content { append, ..Content::default() });
            }
            Ask::MakeDirectory { .. } | Ask::Flush { .. } | Ask::Sync { .. } | Ask::Release { .. } => {}
            Ask::Unlink { at } => drop(state.names.remove(&at)),
            Ask::Rename { from, to } => {
                let id = state.names.remove(&from).expect("a name");
                state.names.insert(to, id);
            }
            Ask::Link { ino, at, .. } => {
                let id = view.expect("linked").id;
                assert_eq!(state.nodes[&ino].0, id);
                state.names.insert(at, id);
            }
            Ask::Open { ino, append, .. } => {
                let handle = opened.expect("opened");
                assert!(state.files.iter().all(|file| file.handle != handle), "{handle:?} is in use");
                state.files.push(Held { handle, ino, id: state.nodes[&ino].0, append });
            }
            Ask::Write { file, from, to, version } => {
                let content = state.content.get_mut(&file.id).expect("a file");
                content.words.extend((from..to).map(|word| (word, version)));
            }
            Ask::Append { file, token } => {
                state.content.get_mut(&file.id).expect("a file").tokens.push(token)
            }
            Ask::Mode { file, mode } => drop(state.modes.insert(file.id, mode)),
            Ask::Truncate { ino, .. } => {
                let id = state.nodes[&ino].0;
                state.content.get_mut(&id).expect("a file").words.clear();
            }
        }
    }

    fn start(&self, number: u64, ask: Ask) {
        tokio::spawn(Life::perform(self.vfs.clone(), self.state.clone(), number, ask));
    }

    /// Asks for things until death.
    async fn live(&self, random: &mut Random, steps: u64) {
        for _ in 0..steps {
            let asked = {
                let mut state = self.state.lock();
                let ask = if state.asked.len() < UNDER_WAY_MAX { state.ask(random) } else { None };
                ask.map(|ask| {
                    state.requests += 2;
                    let number = state.requests;
                    state.asked.insert(number, ask.clone());
                    (number, ask)
                })
            };
            if let Some((number, ask)) = asked {
                self.start(number, ask);
            }
            match random.below(12) {
                0 => self.forget_some(random),
                1 => self.vfs.record_done(),
                _ => {}
            }
            for _ in 0..random.below(5) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn forget_some(&self, random: &mut Random) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(ino) = state.some_node(random) else { return };
        if !state.files.iter().any(|file| file.ino == ino) {
            let (_, _, lookups) = state.nodes.remove(&ino).expect("known");
            self.vfs.forget(ino, lookups);
        }
    }

    /// Everything that the kernel has is what it was, and every byte that was taken is there.
    async fn check(&self) {
        let (nodes, files) = {
            let state = self.state.lock();
            (state.nodes.clone(), state.files.clone())
        };
        for (ino, (id, kind, lookups)) in nodes {
            let table = self.vfs.table.lock();
            assert_eq!((table.id(ino), table.kind(ino)), (Ok(id), Ok(kind)), "{ino:?}");
            assert!(ino == Ino::ROOT || table.lookups(ino) >= lookups, "{ino:?}");
        }
        for file in files {
            let found = self.vfs.read(file.handle, 0, 1 << 20).await.expect("open");
            let found: Vec<_> = found
                .chunks(WORD)
                .map(|word| u64::from_le_bytes(word.try_into().expect("whole words")))
                .collect();
            let (seen, _) = self.vfs.attributes(file.ino.into()).await.expect("seen");
            let state = self.state.lock();
            let is_set = |ask: &Ask| matches!(ask, Ask::Mode { file: of, .. } if of.id == file.id);
            if !state.asked.values().any(is_set) {
                let mode = state.modes.get(&file.id).copied().unwrap_or(0o644);
                assert_eq!(seen.mode, mode, "{file:?}");
            }
            let content = &state.content[&file.id];
            if file.append {
                let busy = state.busy_tokens();
                let distinct: HashSet<_> = found.iter().collect();
                assert_eq!(distinct.len(), found.len(), "appended twice: {found:?}");
                assert!(
                    content.tokens.iter().all(|token| distinct.contains(token)),
                    "{file:?}: {found:?}, {content:?}"
                );
                assert!(found.iter().all(|token| content.tokens.contains(token) || busy.contains(token)));
                continue;
            }
            let busy = state.busy_words(file.id);
            for word in (0..WORDS).filter(|word| !busy.contains(word)) {
                let expected = content.words.get(&word).copied().unwrap_or(0);
                let found = found.get(word as usize).copied().unwrap_or(0);
                assert_eq!(found, expected, "word {word} of {file:?}");
            }
        }
    }
}

/// What is on the disk at this instant, but for the last write, of which any part may be.
fn remains(from: &Path, to: &Path, random: &mut Random) {
    for name in ["state", "journal.0", "journal.1"] {
        let Ok(mut bytes) = std::fs::read(from.join(name)) else { continue };
        let mut torn = Records::default();
        torn.push(200, |content| content.extend_from_slice(&[0; 30]));
        let torn = torn_prefix(&torn, random);
        if random.below(2) == 0 && !bytes.is_empty() {
            bytes.extend_from_slice(&torn);
        }
        std::fs::write(to.join(name), bytes).expect("copied");
    }
}

fn torn_prefix(records: &Records, random: &mut Random) -> Vec<u8> {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("log");
    crate::log::Log::create(&path, records).expect("written");
    let whole = std::fs::read(&path).expect("read")[16..].to_vec();
    whole[..random.below(whole.len() as u64) as usize].to_vec()
}

fn lives_of_one_mount(seed: u64) {
    let mut random = Random(seed);
    let memory = Memory::new();
    memory.jitter(4, seed);
    let sync = [SyncMode::Close, SyncMode::Async, SyncMode::Strict][(seed % 5 % 3) as usize];
    let options = Options { sync, limits: crate::table::Limits { idle_nodes: 2 }, ..Options::default() };
    let state = Arc::new(Mutex::new(State::default()));
    state.lock().nodes.insert(Ino::ROOT, (memory.root().id, Kind::Directory, 0));
    let mut directory = tempfile::tempdir().expect("a directory");
    // What was opened there, and died before anybody heard of it.
    let mut orphans = 0;
    for life in 0..6 {
        let is_last = life == 5;
        let next = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let recording = if life == 0 {
                Recording::Fresh(directory.path().to_owned())
            } else {
                let restored = Restored::read(directory.path()).expect("readable").expect("recorded");
                Recording::Restored(Box::new(restored))
            };
            let notices = Arc::new(Notices::default());
            let vfs = Vfs::recorded(memory.clone(), memory.root(), options, notices, recording);
            let life = Life { memory: memory.clone(), vfs, state: state.clone() };
            if random.below(2) == 0 {
                life.check().await;
            }
            let again: Vec<_> = life.state.lock().asked.clone().into_iter().collect();
            again.into_iter().for_each(|(number, ask)| life.start(number, ask));
            let steps = random.below(120);
            life.live(&mut random, steps).await;
            if is_last {
                end(&life, orphans).await;
            }
            assert_eq!(life.vfs.record_failure(), None);
            remains(directory.path(), next.path(), &mut random);
            let opening = |ask: &&Ask| matches!(ask, Ask::Open { .. });
            orphans += life.state.lock().asked.values().filter(opening).count();
        });
        drop(runtime);
        directory = next;
    }
}

/// Everything is answered and given back; nothing stays.
async fn end(life: &Life, orphans: usize) {
    for _ in 0..100_000 {
        if life.state.lock().asked.is_empty() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(life.state.lock().asked, BTreeMap::new());
    life.check().await;
    let (nodes, files) = {
        let mut state = life.state.lock();
        (std::mem::take(&mut state.nodes), std::mem::take(&mut state.files))
    };
    files.iter().for_each(|file| life.vfs.release(file.handle));
    life.vfs.drain().await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    life.vfs.record_done();
    // Answered, and not asked for again.
    life.vfs.unsettled().into_iter().for_each(|request| life.vfs.settle(request));
    nodes.into_iter().for_each(|(ino, (_, _, lookups))| life.vfs.forget(ino, lookups));
    assert_eq!((life.vfs.open_handles(), life.vfs.unwritten_bytes()), (Vec::new(), 0));
    assert!(life.memory.open_handles() <= orphans, "{} handles stay", life.memory.open_handles());
    assert_eq!(life.memory.unsettled(), 0, "answers are kept for ever");
}

#[test]
fn whatever_dies_when_everything_asked_for_happens_once() {
    for seed in 0..60 {
        let outcome = std::panic::catch_unwind(|| lives_of_one_mount(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
    let ahead = AHEAD.load(Ordering::Relaxed);
    assert!(ahead > 50, "{ahead} files only were said to be made before they were");
}

//! INIT: what the kernel offers and what the server wants become what holds for the life of the mount.

use super::abi::{self, Flavour, InitFlags};
use super::request::Dialect;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of one WRITE. The kernel's own limit (`fs.fuse.max_pages_limit`) is 256 pages unless it was raised.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;

/// The least `max_write` the kernel knows.
const WRITE_BYTES_MIN: u32 = 4096;

/// Pages of one request when [`InitFlags::MAX_PAGES`] is not granted.
const PAGES_WITHOUT_FLAG: u32 = 32;

/// File systems stacked on each other that the kernel allows (`FILESYSTEM_MAX_STACK_DEPTH`).
const STACK_DEPTH_MAX: u32 = 2;

/// What the server would like.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of these, what the kernel offers is granted. [`Wanted::TRANSPORT`] concerns this module alone; all
    /// others change what the server is asked and belong to who answers.
    pub flags: InitFlags,
    /// Bytes of one WRITE, at most [`WRITE_BYTES_MAX`].
    pub max_write: u32,
    /// Bytes the kernel reads ahead.
    pub max_readahead: u32,
    /// Requests that no process waits for (readahead, write-back, asynchronous direct I/O) in progress at
    /// once.
    pub max_background: u16,
    /// From this many on, the mount counts as congested and speculative work is held back.
    pub congestion_threshold: u16,
    /// Nanoseconds that times are rounded to: 1, or a power of ten up to one second.
    pub time_granularity: u32,
    /// With [`InitFlags::PASSTHROUGH`]: how deep backing file systems may be stacked, counting this one; 1 or
    /// 2.
    pub max_stack_depth: u32,
}

impl Wanted {
    /// What concerns the exchange of messages and not their meaning.
    pub const TRANSPORT: InitFlags = InitFlags(
        InitFlags::ASYNC_READ.0
            | InitFlags::BIG_WRITES.0
            | InitFlags::MAX_PAGES.0
            | InitFlags::INIT_EXT.0
            | InitFlags::SETXATTR_EXT.0
            | InitFlags::ABORT_ERROR.0
            | InitFlags::PARALLEL_DIROPS.0
            | InitFlags::ASYNC_DIO.0
            | InitFlags::HAS_EXPIRE_ONLY.0
            | InitFlags::HAS_RESEND.0,
    );
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            flags: Self::TRANSPORT,
            max_write: WRITE_BYTES_MAX,
            max_readahead: WRITE_BYTES_MAX,
            max_background: 64,
            congestion_threshold: 48,
            time_granularity: 1,
            max_stack_depth: 1,
        }
    }
}

/// What holds. A process that takes a mount over has this from its predecessor, since the kernel sends INIT
/// once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// The smaller of the two minor versions.
    pub minor: u32,
    /// Granted.
    pub flags: InitFlags,
    /// Bytes of one WRITE.
    pub max_write: u32,
    /// Pages of one request.
    pub max_pages: u16,
    /// Bytes the kernel reads ahead.
    pub max_readahead: u32,
    /// See [`Wanted::max_background`].
    pub max_background: u16,
    /// See [`Wanted::congestion_threshold`].
    pub congestion_threshold: u16,
    /// See [`Wanted::time_granularity`].
    pub time_granularity: u32,
    /// See [`Wanted::max_stack_depth`]; 0 without passthrough.
    pub max_stack_depth: u32,
}

impl Negotiated {
    /// How requests of this kernel are laid out from now on.
    pub fn dialect(&self, flavour: &'static Flavour) -> Dialect {
        Dialect::of(flavour, self.flags)
    }

    /// Whether all of `flags` were granted.
    pub fn has(&self, flags: InitFlags) -> bool {
        self.flags.contains(flags)
    }

    /// Whether requests that a dead server had taken can be had again. Without it they wait until an abort.
    pub fn can_resend(&self) -> bool {
        self.has(InitFlags::HAS_RESEND)
    }

    fn layout(&self) -> abi::InitOut {
        let (flags, flags2) = self.flags.words();
        abi::InitOut {
            major: abi::VERSION_MAJOR,
            minor: self.minor,
            max_readahead: self.max_readahead,
            flags,
            max_background: self.max_background,
            congestion_threshold: self.congestion_threshold,
            max_write: self.max_write,
            time_gran: self.time_granularity,
            max_pages: self.max_pages,
            map_alignment: 0,
            flags2,
            max_stack_depth: self.max_stack_depth,
            request_timeout: 0,
            unused: [0; 11],
        }
    }
}

/// The kernel speaks a protocol that this module does not. Answer INIT with EPROTO.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "the kernel speaks FUSE {major}.{minor}; needed is {}.{minor_min} or newer of the same major version",
    abi::VERSION_MAJOR
)]
pub struct UnsupportedVersion {
    /// Offered.
    pub major: u32,
    /// Offered.
    pub minor: u32,
    /// Needed.
    pub minor_min: u32,
}

/// Decides what holds, and the reply that says so. `page_bytes` is the system's page size.
///
/// Granted are the flags that are wanted and offered, less passthrough when it cannot be: the kernel excludes
/// it with its writeback cache and without a stack depth.
pub fn negotiate(
    offer: &abi::InitIn,
    wanted: &Wanted,
    page_bytes: u32,
) -> Result<(Negotiated, abi::InitOut), UnsupportedVersion> {
    negotiate_with(abi::OWN, offer, wanted, page_bytes)
}

/// As [`negotiate`], with a kernel that speaks so.
pub(super) fn negotiate_with(
    flavour: &Flavour,
    offer: &abi::InitIn,
    wanted: &Wanted,
    page_bytes: u32,
) -> Result<(Negotiated, abi::InitOut), UnsupportedVersion> {
    let minor_min = flavour.minor_min;
    if offer.major != abi::VERSION_MAJOR || offer.minor < minor_min {
        return Err(UnsupportedVersion { major: offer.major, minor: offer.minor, minor_min });
    }
    let flags = grant(flavour, offer, wanted);
    let page_bytes = page_bytes.max(1);
    let pages_max = match !flavour.counts_pages || flags.contains(InitFlags::MAX_PAGES) {
        true => u32::from(u16::MAX),
        false => PAGES_WITHOUT_FLAG,
    };
    let max_write = wanted.max_write.clamp(WRITE_BYTES_MIN, WRITE_BYTES_MAX);
    let max_pages = max_write.div_ceil(page_bytes).min(pages_max);
    let negotiated = Negotiated {
        minor: offer.minor.min(flavour.minor_max),
        flags,
        max_write: max_write.min(max_pages.saturating_mul(page_bytes)).max(WRITE_BYTES_MIN),
        max_pages: max_pages as u16,
        max_readahead: wanted.max_readahead.min(offer.max_readahead),
        max_background: wanted.max_background,
        congestion_threshold: wanted.congestion_threshold.min(wanted.max_background),
        time_granularity: wanted.time_granularity,
        max_stack_depth: if flags.contains(InitFlags::PASSTHROUGH) { wanted.max_stack_depth } else { 0 },
    };
    let layout = negotiated.layout();
    Ok((negotiated, layout))
}

fn grant(flavour: &Flavour, offer: &abi::InitIn, wanted: &Wanted) -> InitFlags {
    let mut offered = InitFlags::from_words(offer.flags, offer.flags2) & flavour.init_flags;
    if !offered.contains(InitFlags::INIT_EXT) {
        offered = InitFlags::from_words(offered.words().0, 0);
    }
    let mut granted = wanted.flags & offered;
    if !granted.contains(InitFlags::INIT_EXT) {
        granted = InitFlags::from_words(granted.words().0, 0);
    }
    let depth_is_valid = (1..=STACK_DEPTH_MAX).contains(&wanted.max_stack_depth);
    if granted.contains(InitFlags::WRITEBACK_CACHE) || !depth_is_valid {
        granted = granted - InitFlags::PASSTHROUGH;
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_BYTES: u32 = 4096;

    fn offer(minor: u32, flags: InitFlags) -> abi::InitIn {
        let (low, high) = flags.words();
        let unused = [0; 11];
        abi::InitIn { major: 7, minor, max_readahead: 128 << 10, flags: low, flags2: high, unused }
    }

    fn everything() -> InitFlags {
        InitFlags(u64::MAX)
    }

    #[test]
    fn granted_is_what_is_wanted_and_offered() {
        let (negotiated, out) = negotiate(&offer(45, everything()), &Wanted::default(), PAGE_BYTES).unwrap();
        assert_eq!(negotiated.flags, Wanted::TRANSPORT);
        assert_eq!((out.major, out.minor, out.max_write, out.max_pages), (7, 45, 1 << 20, 256));
        assert_eq!((out.max_readahead, out.time_gran), (128 << 10, 1));
        assert_eq!(InitFlags::from_words(out.flags, out.flags2), negotiated.flags);
        assert!(negotiated.can_resend() && negotiated.dialect(abi::OWN).setxattr_ext);
    }

    #[test]
    fn a_newer_kernel_is_answered_with_the_newest_known_minor() {
        let (negotiated, out) = negotiate(&offer(99, everything()), &Wanted::default(), PAGE_BYTES).unwrap();
        assert_eq!((negotiated.minor, out.minor), (abi::VERSION_MINOR, abi::VERSION_MINOR));
    }

    #[test]
    fn the_high_word_counts_only_when_the_kernel_says_that_it_is_there() {
        let offer = offer(36, everything() - InitFlags::INIT_EXT);
        let (negotiated, _) = negotiate(&offer, &Wanted::default(), PAGE_BYTES).unwrap();
        assert!(!negotiated.can_resend());
    }

    #[test]
    fn an_old_kernel_gets_short_writes_and_the_old_dialect() {
        let (negotiated, out) =
            negotiate(&offer(31, InitFlags::ASYNC_READ), &Wanted::default(), PAGE_BYTES).unwrap();
        assert_eq!((out.max_pages, out.max_write), (32, 128 << 10));
        assert!(!negotiated.dialect(abi::OWN).setxattr_ext);
    }

    #[test]
    fn passthrough_and_the_writeback_cache_exclude_each_other() {
        let mut wanted = Wanted { flags: Wanted::TRANSPORT | InitFlags::PASSTHROUGH, ..Wanted::default() };
        let (alone, out) = negotiate(&offer(45, everything()), &wanted, PAGE_BYTES).unwrap();
        assert!(alone.has(InitFlags::PASSTHROUGH));
        assert_eq!(out.max_stack_depth, 1);
        wanted.flags |= InitFlags::WRITEBACK_CACHE;
        let (both, out) = negotiate(&offer(45, everything()), &wanted, PAGE_BYTES).unwrap();
        assert!(both.has(InitFlags::WRITEBACK_CACHE) && !both.has(InitFlags::PASSTHROUGH));
        assert_eq!(out.max_stack_depth, 0);
    }

    #[test]
    fn other_protocols_are_refused() {
        for (major, minor) in [(6, 40), (8, 0), (7, 30)] {
            let offer = abi::InitIn { major, minor, ..abi::InitIn::default() };
            let refused = negotiate(&offer, &Wanted::default(), PAGE_BYTES);
            assert_eq!(refused.unwrap_err(), UnsupportedVersion { major, minor, minor_min: 31 });
        }
    }

    #[test]
    fn of_macos_only_the_bits_that_mean_the_same_are_granted() {
        let flavour = &abi::darwin::FLAVOUR;
        let wanted = Wanted { flags: everything(), ..Wanted::default() };
        let (negotiated, out) = negotiate_with(flavour, &offer(19, everything()), &wanted, 16 << 10).unwrap();
        assert_eq!((negotiated.flags.words(), out.flags, out.flags2), ((0xfff, 0), 0xfff, 0));
        assert!(!negotiated.can_resend() && !negotiated.dialect(flavour).setxattr_ext);
        assert_eq!(out.max_write, WRITE_BYTES_MAX, "however few pages");
        let (newer, _) = negotiate_with(flavour, &offer(40, everything()), &wanted, 4096).unwrap();
        assert_eq!(newer.minor, 19);
        assert!(negotiate_with(flavour, &offer(18, everything()), &wanted, 4096).is_err());
    }

    #[test]
    fn what_was_negotiated_survives_in_the_state_file() {
        let wanted = Wanted { flags: everything(), ..Wanted::default() };
        let (negotiated, _) = negotiate(&offer(45, everything()), &wanted, PAGE_BYTES).unwrap();
        let text = serde_json::to_string(&negotiated).unwrap();
        assert_eq!(serde_json::from_str::<Negotiated>(&text).unwrap(), negotiated);
    }
}

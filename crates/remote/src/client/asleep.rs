//! For how long the computer was asleep: time that the clock of deadlines does not count.

#[cfg(target_os = "linux")]
mod here {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    /// For how long the computer was asleep since it was started.
    pub(in crate::client) fn so_far() -> Duration {
        let read = |clock| {
            let time = clock_gettime(clock);
            Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
        };
        read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
    }
}

#[cfg(not(target_os = "linux"))]
mod here {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    use rustix::time::{ClockId, clock_gettime};

    /// For how long the computer was asleep since this was called first. The monotonic clock of macOS counts that, and deadlines do
    /// not; where both do, as on FreeBSD, it is nothing.
    pub(in crate::client) fn so_far() -> Duration {
        static BEGAN: OnceLock<(Duration, Instant)> = OnceLock::new();
        let (clock, instant) = BEGAN.get_or_init(|| (monotonic(), Instant::now()));
        monotonic().saturating_sub(*clock).saturating_sub(instant.elapsed())
    }

    fn monotonic() -> Duration {
        let time = clock_gettime(ClockId::Monotonic);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
    }
}

pub(super) use here::so_far;

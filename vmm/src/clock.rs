//! The machine's two clocks: host monotonic time since its start, and the host's time-stamp counter.
#![allow(unsafe_code)] // RDTSC is an intrinsic.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use devices::Nanos;
use devices::time::WallClock;

/// Machine time: nanoseconds of host monotonic time since the clock was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that reads zero now.
    pub(crate) fn start() -> Clock {
        Clock {
            start: Instant::now(),
        }
    }

    /// Leaves `time` out: the machine stood still.
    pub(crate) fn leave_out(&mut self, time: Duration) {
        self.start += time;
    }

    /// The machine time now.
    pub(crate) fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The host's calendar time in UTC, for the real-time clock.
pub(crate) fn wall_clock() -> WallClock {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => WallClock {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        Err(_) => WallClock::default(),
    }
}

/// The host's time-stamp counter.
pub(crate) fn host_tsc() -> u64 {
    // SAFETY: RDTSC has no precondition; CR4.TSD is clear in Linux unless a process asks for it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

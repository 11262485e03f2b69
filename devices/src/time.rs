//! Machine time.
//!
//! No device reads a clock. The caller passes the time into every access and into
//! [`Chipset::advance`](crate::Chipset::advance): nanoseconds since the machine was started, on
//! whatever clock the machine runs (the host's monotonic clock, or a virtual one in a test).
//! Time that goes backwards is treated as time that stands still.

use serde::{Deserialize, Serialize};

/// A point in machine time: nanoseconds since the machine was started.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Nanos(pub u64);

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

impl Nanos {
    /// The start of the machine.
    pub const ZERO: Self = Self(0);
    /// The end of time; used as "never" inside comparisons.
    pub const MAX: Self = Self(u64::MAX);

    /// The point `secs` seconds after the start.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC))
    }

    /// The point `millis` milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// The point `micros` microseconds after the start.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// This point, `nanos` nanoseconds later.
    #[must_use]
    pub const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to here; 0 if `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// An oscillator that has been running since the start of the machine.
///
/// Both conversions are exact: rounding never accumulates, and
/// `ticks_at(time_of(t)) == t` for every tick that can be represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequency(u64);

impl Frequency {
    /// An oscillator of `hz` cycles per second, between 1 and 1,000,000,000.
    pub const fn new(hz: u32) -> Self {
        assert!(hz >= 1 && hz as u64 <= NANOS_PER_SEC);
        Self(hz as u64)
    }

    /// Cycles per second.
    pub const fn hz(self) -> u32 {
        // `new` takes no more than 32 bits.
        self.0 as u32
    }

    /// Complete cycles between the start of the machine and `now`.
    #[inline]
    pub const fn ticks_at(self, now: Nanos) -> u64 {
        // Seconds and remainder apart, so that no 128-bit division is needed.
        let secs = now.0 / NANOS_PER_SEC;
        let rest = now.0 % NANOS_PER_SEC;
        secs * self.0 + rest * self.0 / NANOS_PER_SEC
    }

    /// The first point in time at which [`ticks_at`](Self::ticks_at) is at least `tick`.
    #[inline]
    pub const fn time_of(self, tick: u64) -> Nanos {
        let secs = tick / self.0;
        let rest = tick % self.0;
        Nanos(
            secs.saturating_mul(NANOS_PER_SEC)
                .saturating_add((rest * NANOS_PER_SEC).div_ceil(self.0)),
        )
    }
}

/// A calendar clock outside of the machine, as seen at machine time zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallClock {
    /// Seconds since 1970-01-01 00:00:00, in the time zone that the guest is to see.
    pub seconds: i64,
    /// Nanoseconds into that second, below 1,000,000,000.
    pub nanos: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_exact_inverses() {
        for hz in [1, 32_768, 1_193_182, 3_579_545, 1_000_000_000] {
            let f = Frequency::new(hz);
            for tick in [0, 1, 2, 1000, 1_193_181, 1_193_182, 1_193_183, 987_654_321] {
                let at = f.time_of(tick);
                assert_eq!(f.ticks_at(at), tick, "{hz} Hz, tick {tick}");
                if tick > 0 {
                    assert_eq!(
                        f.ticks_at(Nanos(at.0 - 1)),
                        tick - 1,
                        "{hz} Hz, tick {tick}"
                    );
                }
            }
        }
    }

    #[test]
    fn ends_of_time_do_not_overflow() {
        let f = Frequency::new(1_000_000_000);
        assert_eq!(f.ticks_at(Nanos::MAX), u64::MAX);
        assert_eq!(Frequency::new(1).time_of(u64::MAX), Nanos::MAX);
        assert_eq!(Nanos::MAX.after(1), Nanos::MAX);
        assert_eq!(Nanos::ZERO.since(Nanos::MAX), 0);
    }
}

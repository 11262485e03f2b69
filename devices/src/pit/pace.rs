//! The ticks of counter 0 on their way to IRQ 0: made up for when the host was late, and never so
//! close that the guest does nothing but take them.
//!
//! A guest that is slower than its own clock - on a busy host, or nested in another emulator - may
//! need longer to handle a tick than the next one is away. A real machine that is as slow hangs:
//! each return from the handler is followed by the next interrupt. Here a tick waits after the
//! handler of the one before for as long as that took, so that half of the time is left for
//! what the guest was doing. A guest that handles its ticks in time notices nothing of it.

use serde::{Deserialize, Serialize};

use crate::Nanos;

/// The longest wait after a handler. A handler that seems to take longer was stopped, with the
/// whole machine, and not busy.
const LONGEST_REST: Nanos = Nanos(50_000_000);

/// A guest is far behind with this part of a second's ticks to be made up for, or with the one of a
/// counter that it sets for each tick.
const FAR_BEHIND: u32 = 8;

/// Where the last tick is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Its handler has ended, and the rest after it.
    Idle,
    /// The line has risen; the processor has not acknowledged it.
    Requested,
    /// Acknowledged at this time; the interrupt controller holds back another one.
    InService(Nanos),
    /// The handler has ended; another tick waits until this time.
    Resting(Nanos),
}

/// Ticks that have come and are not delivered, and what the last one is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pacer {
    stage: Stage,
    owed: u32,
}

impl Pacer {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Idle,
            owed: 0,
        }
    }

    /// `rising` edges have come, of a counter that makes `per_second` of them (0 if it is not
    /// periodic): no more than these are kept. True if the line is to rise now.
    pub(super) fn come(&mut self, rising: u64, per_second: u32, now: Nanos) -> bool {
        if rising == 0 {
            return self.wait_over(now);
        }
        // An edge while a request is there is part of it, as in the interrupt controller. The line
        // rises again all the same: who polls the controller acknowledges unseen.
        let merged = self.stage == Stage::Requested;
        let owed = u64::from(self.owed)
            .saturating_add(rising)
            .saturating_sub(u64::from(merged));
        self.owed = owed.min(u64::from(u32::MAX)) as u32;
        let due = self.wait_over(now) || merged;
        self.owed = self.owed.min(per_second.max(1));
        due
    }

    /// The processor has acknowledged the interrupt.
    pub(super) fn acknowledged(&mut self, now: Nanos) {
        self.stage = Stage::InService(now);
    }

    /// Whether the end of a handler is waited for.
    pub(super) fn is_in_service(&self) -> bool {
        matches!(self.stage, Stage::InService(_))
    }

    /// The interrupt controller lets another tick through: the handler has ended. True if the line
    /// is to rise now. `per_second` as in [`Self::come`].
    pub(super) fn handled(&mut self, per_second: u32, now: Nanos) -> bool {
        if let Stage::InService(since) = self.stage {
            let took = now.0.saturating_sub(since.0).min(LONGEST_REST.0);
            let rest = if self.owed > per_second / FAR_BEHIND {
                took
            } else {
                took / 4
            };
            self.stage = Stage::Resting(Nanos(now.0.saturating_add(rest)));
        }
        self.wait_over(now)
    }

    /// When the line is to rise, if a tick waits for its time.
    pub(super) fn next_event(&self) -> Option<Nanos> {
        match self.stage {
            Stage::Resting(until) if self.owed > 0 => Some(until),
            _ => None,
        }
    }

    /// The counter gets a new mode, which starts without a debt: there is left what the interrupt
    /// controller would have latched.
    pub(super) fn forget(&mut self) {
        self.owed = match self.stage {
            Stage::InService(_) | Stage::Resting(_) => self.owed.min(1),
            Stage::Idle | Stage::Requested => 0,
        };
    }

    /// Brings a saved state into the range that it can be in.
    pub(super) fn sanitize(&mut self, per_second: u32) {
        self.owed = self.owed.min(per_second.max(1));
    }

    fn wait_over(&mut self, now: Nanos) -> bool {
        if matches!(self.stage, Stage::Resting(until) if now >= until) {
            self.stage = Stage::Idle;
        }
        let due = self.stage == Stage::Idle && self.owed > 0;
        if due {
            self.owed -= 1;
            self.stage = Stage::Requested;
        }
        due
    }
}

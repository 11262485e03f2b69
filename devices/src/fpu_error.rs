//! The coprocessor error latch of a PC (PIIX, "coprocessor error support"): FERR# of the
//! processor raises IRQ 13, and a write to port F0h takes it back.

use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::line::Line;

/// Coprocessor busy clear; F1h, coprocessor reset, does the same here.
pub const CLEAR_BUSY: u16 = 0xf0;

/// State of the latch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FpuErrorState {
    ferr: bool,
    ignne: bool,
    /// The latch behind IRQ 13: set by FERR#, cleared by the guest.
    latched: bool,
}

/// The coprocessor error latch.
#[derive(Debug)]
pub struct FpuError {
    // Wiring.
    irq13: Line,
    // Volatile.
    state: FpuErrorState,
}

impl FpuError {
    /// A latch that drives `irq13`.
    pub fn new(irq13: Line) -> Self {
        Self {
            irq13,
            state: FpuErrorState::default(),
        }
    }

    /// The FERR# wire: an unmasked floating-point error is pending in a processor with
    /// CR0.NE = 0 (true), or none is (false).
    pub fn set_ferr(&mut self, asserted: bool) {
        let rose = asserted && !self.state.ferr;
        self.state.ferr = asserted;
        if rose {
            self.latch(true);
        }
        if !asserted {
            // IGNNE# is held until FERR# goes away.
            self.state.ignne = false;
        }
    }

    /// The IGNNE# wire: the processor is to go on in spite of the pending error.
    pub fn ignne(&self) -> bool {
        self.state.ignne
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.state = FpuErrorState::default();
        self.irq13.set(false);
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &FpuErrorState {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: FpuErrorState) {
        self.irq13.set(state.latched);
        self.state = state;
    }

    fn latch(&mut self, set: bool) {
        self.state.latched = set;
        self.irq13.set(set);
    }
}

impl PortDevice for FpuError {
    fn port_read(&mut self, _port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        AccessSize::Byte.ones()
    }

    fn port_write(&mut self, _port: u16, _size: AccessSize, _value: u32, _now: Nanos) {
        self.latch(false);
        self.state.ignne = self.state.ferr;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::LineBank;

    #[test]
    fn error_raises_irq13_until_port_f0h() {
        let bank = LineBank::new();
        let mut latch = FpuError::new(bank.line(13));
        latch.port_write(CLEAR_BUSY, AccessSize::Byte, 0, Nanos::ZERO);
        assert!(!latch.ignne(), "nothing to ignore");
        latch.set_ferr(true);
        assert!(bank.is_high(13) && !latch.ignne());
        latch.port_write(CLEAR_BUSY, AccessSize::Byte, 0, Nanos::ZERO);
        assert!(!bank.is_high(13) && latch.ignne());
        latch.set_ferr(true);
        assert!(!bank.is_high(13), "still the same error");
        latch.set_ferr(false);
        assert!(!latch.ignne());
        latch.set_ferr(true);
        let saved = latch.state().clone();
        latch.reset();
        assert!(!bank.is_high(13));
        latch.restore(saved);
        assert!(bank.is_high(13));
        // The error goes away, the request stays until the guest clears it.
        latch.set_ferr(false);
        let saved = latch.state().clone();
        latch.restore(saved);
        assert!(bank.is_high(13));
    }
}

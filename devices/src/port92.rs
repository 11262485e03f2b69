//! Port 92h, the PS/2 system control port A: a fast A20 gate and processor reset.

use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::event::{EventSink, ResetKind, Signal};
use crate::line::Line;

/// The port.
pub const PORT92: u16 = 0x92;
/// Bit 0: a change from 0 to 1 resets the processor.
pub const INIT_NOW: u8 = 0x01;
/// Bit 1: gate A20.
pub const A20: u8 = 0x02;
/// The bits that hold what is written. The others (watchdog, security lock, disk light) read
/// as 0.
const WRITABLE: u8 = INIT_NOW | A20;

/// State of the port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port92State {
    value: u8,
}

/// System control port A.
#[derive(Debug)]
pub struct Port92 {
    // Wiring.
    a20: Line,
    events: EventSink,
    // Volatile.
    state: Port92State,
}

impl Port92 {
    /// A port that drives `a20` (low after power-on) and asks `events` for a processor reset.
    pub fn new(a20: Line, events: EventSink) -> Self {
        Self {
            a20,
            events,
            state: Port92State::default(),
        }
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.restore(Port92State::default());
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &Port92State {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: Port92State) {
        self.state = state;
        self.a20.set(self.state.value & A20 != 0);
    }
}

impl PortDevice for Port92 {
    fn port_read(&mut self, _port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        u32::from(self.state.value)
    }

    fn port_write(&mut self, _port: u16, _size: AccessSize, value: u32, _now: Nanos) {
        let value = value as u8 & WRITABLE;
        if value & !self.state.value & INIT_NOW != 0 {
            self.events.signal(Signal::Reset(ResetKind::Processor));
        }
        self.state.value = value;
        self.a20.set(value & A20 != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ChipsetEvent;
    use crate::line::LineBank;
    use crate::testing::fuzz_ports;

    fn write(port: &mut Port92, value: u32) {
        port.port_write(PORT92, AccessSize::Byte, value, Nanos::ZERO);
    }

    #[test]
    fn a20_follows_bit_1_and_reset_takes_an_edge_of_bit_0() {
        let (bank, events) = (LineBank::new(), EventSink::new());
        let mut port = Port92::new(bank.line(0), events.clone());
        assert!(!bank.is_high(0));
        write(&mut port, 0x02);
        assert!(bank.is_high(0) && !events.is_raised());
        write(&mut port, 0xff);
        assert_eq!(port.port_read(PORT92, AccessSize::Byte, Nanos::ZERO), 0x03);
        let reset = ChipsetEvent::Reset(ResetKind::Processor);
        assert_eq!(events.take().collect::<Vec<_>>(), [reset]);
        write(&mut port, 0x01);
        assert!(!events.is_raised(), "no edge");
        assert!(!bank.is_high(0));
        let saved = Port92State { value: 2 };
        port.restore(saved);
        assert!(bank.is_high(0));
        port.reset();
        assert!(!bank.is_high(0));
    }

    #[test]
    fn random_accesses_do_not_panic() {
        let mut port = Port92::new(LineBank::new().line(0), EventSink::new());
        fuzz_ports(1, &mut port, &[PORT92], AccessSize::Byte, |_, _| {});
    }
}

//! Port 92h, the PS/2 system control port A: a fast A20 gate and processor reset.

use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::a20::A20Gate;
use crate::device::{AccessSize, PortDevice};
use crate::event::{EventSink, ResetKind, Signal};

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
    a20: A20Gate,
    events: EventSink,
    // Volatile.
    state: Port92State,
}

impl Port92 {
    /// A port that sets `a20` and asks `events` for a processor reset.
    pub fn new(a20: A20Gate, events: EventSink) -> Self {
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
    }
}

impl PortDevice for Port92 {
    fn port_read(&mut self, _port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        let a20 = if self.a20.is_open() { A20 } else { 0 };
        u32::from(self.state.value & INIT_NOW | a20)
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
    use crate::testing::fuzz_ports;

    fn write(port: &mut Port92, value: u32) {
        port.port_write(PORT92, AccessSize::Byte, value, Nanos::ZERO);
    }

    #[test]
    fn a20_follows_bit_1_and_reset_takes_an_edge_of_bit_0() {
        let (a20, events) = (A20Gate::new(), EventSink::new());
        let mut port = Port92::new(a20.clone(), events.clone());
        let read = |port: &mut Port92| port.port_read(PORT92, AccessSize::Byte, Nanos::ZERO);
        write(&mut port, 0x00);
        assert!(!a20.is_open() && !events.is_raised());
        write(&mut port, 0xff);
        assert_eq!(read(&mut port), 0x03);
        let reset = ChipsetEvent::Reset(ResetKind::Processor);
        assert_eq!(events.take().collect::<Vec<_>>(), [reset]);
        write(&mut port, 0x01);
        assert!(!events.is_raised(), "no edge");
        assert!(!a20.is_open());
        a20.set(true);
        assert_eq!(read(&mut port), 0x03, "somebody else has opened the gate");
        port.reset();
        assert_eq!(read(&mut port), 0x02);
    }

    #[test]
    fn random_accesses_do_not_panic() {
        let mut port = Port92::new(A20Gate::new(), EventSink::new());
        fuzz_ports(1, &mut port, &[PORT92], AccessSize::Byte, |_, _| {});
    }
}

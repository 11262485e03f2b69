//! The 8254 programmable interval timer, and port 61h with the gate and output of counter 2.
//!
//! Counter 0 drives IRQ 0. Counter 1 (memory refresh) is there and drives nothing. Counting is
//! exact: every read computes the count from the time of the access.
//!
//! # When the host is late
//!
//! The time between two calls may span several periods of counter 0, because the host was busy or
//! the guest had interrupts off. One rising edge is made at once. Those missed in the periodic
//! modes 2 and 3 are kept and delivered one by one, each after the handler of the one before, so
//! that a guest which counts ticks keeps the time. At most one second's worth of ticks is kept; what
//! is beyond that is lost, so that a machine that was stopped for long does not spend its first
//! minutes on timer interrupts. A guest that is too slow for its ticks is given time between them
//! (`pace.rs`).

use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::line::Line;

mod counter;
mod pace;
pub mod spec;
#[cfg(test)]
mod tests;

use counter::Counter;
use pace::Pacer;
use spec::{
    Access, CONTROL, COUNTER0, PIT_CLOCK, PORT_B, PortB, READ_BACK, READ_BACK_NO_COUNT,
    READ_BACK_NO_STATUS, REFRESH_TOGGLE_NANOS,
};

/// State of the timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    counters: [Counter; 3],
    port_b: u8,
    /// IOCHK and SERR of port 61h.
    nmi_sources: u8,
    /// Ticks of counter 0 that are still to be delivered.
    pacer: Pacer,
    /// Level of the IRQ 0 wire: high from the first edge on.
    irq0: bool,
}

impl PitState {
    fn power_on(now: Nanos) -> Self {
        let mut counters = [Counter::new(true), Counter::new(true), Counter::new(false)];
        for counter in &mut counters {
            counter.advance(PIT_CLOCK.ticks_at(now));
        }
        Self {
            counters,
            port_b: 0,
            nmi_sources: 0,
            pacer: Pacer::new(),
            irq0: false,
        }
    }
}

/// What can ask for an NMI on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NmiSource {
    /// IOCHK# of the ISA bus: a parity error, or a card's own trouble.
    IoChannelCheck,
    /// SERR# of the PCI bus.
    SystemError,
}

/// The interval timer.
#[derive(Debug)]
pub struct Pit {
    // Wiring.
    irq0: Line,
    // Volatile.
    state: PitState,
}

impl Pit {
    /// An idle timer whose counter 0 drives `irq0`.
    pub fn new(irq0: Line) -> Self {
        Self {
            irq0,
            state: PitState::power_on(Nanos::ZERO),
        }
    }

    /// Makes the edges that are due.
    pub fn advance(&mut self, now: Nanos) {
        let [counter0, ..] = &mut self.state.counters;
        let rising = counter0.advance(PIT_CLOCK.ticks_at(now));
        self.tick(rising, now);
    }

    /// When [`Self::advance`] has something to do: OUT of counter 0 rises, or a tick has waited long
    /// enough.
    pub fn next_event(&self) -> Option<Nanos> {
        let [counter0, ..] = &self.state.counters;
        let rising = counter0.next_rising().map(|tick| PIT_CLOCK.time_of(tick));
        [rising, self.state.pacer.next_event()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The processor has acknowledged IRQ 0. [`Self::irq0_handled`] is to follow.
    pub fn irq0_acknowledged(&mut self, now: Nanos) {
        self.state.pacer.acknowledged(now);
    }

    /// Whether IRQ 0 was acknowledged, and is not handled yet.
    #[inline]
    pub fn is_irq0_in_service(&self) -> bool {
        self.state.pacer.is_in_service()
    }

    /// IRQ 0 is neither in service nor masked any more: soon time for a tick that was missed.
    pub fn irq0_handled(&mut self, now: Nanos) {
        self.advance(now);
        let per_second = self.ticks_per_second();
        if self.state.pacer.handled(per_second, now) {
            self.raise();
        }
    }

    /// A fault on the ISA bus (IOCHK#), or a system error on the PCI bus (SERR#): noted in port 61h
    /// unless it is disabled there.
    pub fn nmi_source(&mut self, source: NmiSource) {
        let bit = match source {
            NmiSource::IoChannelCheck => PortB::IOCHK,
            NmiSource::SystemError => PortB::SERR,
        };
        self.state.nmi_sources |= (bit & self.enabled_nmi_sources()).bits();
    }

    /// Port 61h asks for an NMI.
    pub fn wants_nmi(&self) -> bool {
        self.state.nmi_sources != 0
    }

    fn enabled_nmi_sources(&self) -> PortB {
        let control = PortB::from_bits_truncate(self.state.port_b);
        let mut enabled = PortB::empty();
        enabled.set(PortB::IOCHK, !control.contains(PortB::IOCHK_DISABLE));
        enabled.set(PortB::SERR, !control.contains(PortB::SERR_DISABLE));
        enabled
    }

    /// What the speaker plays: the count of counter 2 in periods of 1/1193182 s, if it is on.
    pub fn speaker(&self) -> Option<u32> {
        let [.., counter2] = &self.state.counters;
        let on = PortB::GATE2 | PortB::SPEAKER;
        let enabled = PortB::from_bits_truncate(self.state.port_b).contains(on);
        counter2.period().filter(|_| enabled)
    }

    /// Power-on state.
    pub fn reset(&mut self, now: Nanos) {
        self.state = PitState::power_on(now);
        self.irq0.set(false);
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &PitState {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, mut state: PitState) {
        for counter in &mut state.counters {
            counter.sanitize();
        }
        self.state = state;
        let per_second = self.ticks_per_second();
        self.state.pacer.sanitize(per_second);
        self.irq0.set(self.state.irq0);
    }

    /// Rising edges that counter 0 makes in a second; 0 if it is not periodic.
    fn ticks_per_second(&self) -> u32 {
        let [counter0, ..] = &self.state.counters;
        counter0
            .period()
            .map_or(0, |period| PIT_CLOCK.hz() / period.max(1))
    }

    /// OUT of counter 0 rose `rising` times.
    fn tick(&mut self, rising: u64, now: Nanos) {
        let per_second = self.ticks_per_second();
        if self.state.pacer.come(rising, per_second, now) {
            self.raise();
        }
    }

    fn raise(&mut self) {
        // The line stays high until the next edge: the request must not vanish because the host
        // looks while OUT is low again.
        self.irq0.edge();
        self.state.irq0 = true;
    }

    fn write_control(&mut self, value: u8, now: Nanos) {
        let tick = PIT_CLOCK.ticks_at(now);
        let select = value >> 6;
        if select == READ_BACK {
            for (index, counter) in self.state.counters.iter_mut().enumerate() {
                if value >> (index + 1) & 1 != 0 {
                    counter.advance(tick);
                    if value & READ_BACK_NO_COUNT == 0 {
                        counter.latch_count();
                    }
                    if value & READ_BACK_NO_STATUS == 0 {
                        counter.latch_status();
                    }
                }
            }
        } else if let Some(counter) = self.state.counters.get_mut(usize::from(select)) {
            match Access::from_control(value) {
                None => {
                    counter.advance(tick);
                    counter.latch_count();
                }
                Some(access) => {
                    counter.advance(tick);
                    let rising = counter.control(value, access);
                    if select == 0 {
                        self.state.pacer.forget();
                        self.tick(rising, now);
                    }
                }
            }
        }
    }

    fn read_port_b(&mut self, now: Nanos) -> u8 {
        let [.., counter2] = &mut self.state.counters;
        counter2.advance(PIT_CLOCK.ticks_at(now));
        let mut value = PortB::from_bits_truncate(self.state.port_b);
        value |= PortB::from_bits_truncate(self.state.nmi_sources);
        value.set(PortB::OUT2, counter2.out());
        value.set(PortB::REFRESH, (now.0 / REFRESH_TOGGLE_NANOS) & 1 != 0);
        value.bits()
    }
}

impl PortDevice for Pit {
    fn port_read(&mut self, port: u16, _size: AccessSize, now: Nanos) -> u32 {
        if port == PORT_B {
            return u32::from(self.read_port_b(now));
        }
        if port == COUNTER0 {
            self.advance(now);
        }
        let index = usize::from(port.wrapping_sub(COUNTER0));
        match self.state.counters.get_mut(index) {
            Some(counter) => {
                counter.advance(PIT_CLOCK.ticks_at(now));
                u32::from(counter.read())
            }
            // The control word register cannot be read; nobody drives the bus.
            None => AccessSize::Byte.ones(),
        }
    }

    fn port_write(&mut self, port: u16, _size: AccessSize, value: u32, now: Nanos) {
        // Whatever is written to counter 0, edges before it must not be lost.
        self.advance(now);
        let tick = PIT_CLOCK.ticks_at(now);
        let value = value as u8;
        match port {
            PORT_B => {
                self.state.port_b = value & PortB::WRITABLE.bits();
                self.state.nmi_sources &= self.enabled_nmi_sources().bits();
                let gate = value & PortB::GATE2.bits() != 0;
                let [.., counter2] = &mut self.state.counters;
                counter2.advance(tick);
                if counter2.gate() != gate {
                    counter2.set_gate(gate);
                }
            }
            CONTROL => self.write_control(value, now),
            _ => {
                let index = usize::from(port.wrapping_sub(COUNTER0));
                if let Some(counter) = self.state.counters.get_mut(index) {
                    counter.advance(tick);
                    counter.write(value);
                }
            }
        }
    }
}

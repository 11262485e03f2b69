//! A 16550A serial port.
//!
//! The data path (transmitter, receiver buffer, divisor latch, line and modem control, loop back)
//! is the `Serial` of the crate `vm-superio`. Its interrupt side is a button that is pushed:
//! there is no level to drive a wire with, IIR is cleared whole by a read, FCR is ignored and the
//! FIFO is always on. A PC needs what the data sheet says, so this module keeps IER, FCR and the
//! pending conditions itself, and computes IIR and the interrupt line from them:
//!
//! - one source at a time in IIR, by priority; reading it clears only the transmitter's;
//! - a line that is high while an enabled condition lasts, and only with MCR.OUT2 set;
//! - FIFO enable, trigger level, receiver reset; a FIFO of 16 bytes, or 1 when it is off;
//! - changes of the modem lines in loop back mode (MSR bits 3-0), and overrun in it.
//!
//! Characters are sent the moment they are written, at any baud rate.

use std::convert::Infallible;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use tracing::warn;
use vm_superio::serial::{Error as SuperioError, NoEvents, SerialState as SuperioState};
use vm_superio::{Serial as Superio, Trigger};

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::limit::LogLimit;
use crate::line::Line;

pub mod spec;
#[cfg(test)]
mod tests;

use spec::{
    FIFO_SIZE, Fcr, IER, IIR_FCR, Ier, LCR, LSR, Lcr, Lsr, MCR, MSR, Mcr, Msr, PORTS, RBR_THR, iir,
};

/// Where the guest's output goes.
pub type Sink = Box<dyn Write + Send>;

/// The interrupt line is computed here, so the button does nothing.
#[derive(Debug)]
struct NoTrigger;

impl Trigger for NoTrigger {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What this module adds to `vm-superio`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    ier: u8,
    fcr: u8,
    /// Copy of the register in the data path.
    lcr: u8,
    /// Copy of the register in the data path.
    mcr: u8,
    /// The transmitter's interrupt condition: set when THR becomes empty, cleared by reading IIR.
    thr_empty: bool,
    overrun: bool,
    /// MSR bits 3-0.
    modem_delta: u8,
    /// MSR bits 7-4 as the other end of the cable drives them.
    modem_lines: u8,
}

/// What a cable with somebody at its other end carries.
const CONNECTED: Msr = Msr::CTS.union(Msr::DSR).union(Msr::DCD);
/// The bits of MSR that are lines.
const LINES: Msr = CONNECTED.union(Msr::RI);

impl Registers {
    const fn power_on() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            thr_empty: false,
            overrun: false,
            modem_delta: 0,
            modem_lines: CONNECTED.bits(),
        }
    }
}

/// State of the serial port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    registers: Registers,
    divisor: [u8; 2],
    lsr: u8,
    scratch: u8,
    receiver: Vec<u8>,
}

/// The serial port.
pub struct Serial {
    // Wiring.
    irq: Line,
    base: u16,
    // Volatile.
    data: Superio<NoTrigger, NoEvents, Sink>,
    registers: Registers,
    lost: u64,
    log: LogLimit,
}

impl Serial {
    /// A port at `base` that drives `irq` and sends what the guest writes to `sink`.
    pub fn new(base: u16, irq: Line, sink: Sink) -> Self {
        let mut serial = Self {
            irq,
            base,
            data: Superio::new(NoTrigger, sink),
            registers: Registers::power_on(),
            lost: 0,
            log: LogLimit::default(),
        };
        serial.reset();
        serial
    }

    /// How many bytes [`enqueue_input`](Self::enqueue_input) would take now.
    pub fn can_accept_input(&self) -> usize {
        if self.mcr().contains(Mcr::LOOP) {
            return 0;
        }
        let capacity = if self.fifo_enabled() { FIFO_SIZE } else { 1 };
        capacity.saturating_sub(self.received())
    }

    /// Bytes arrive from the other end of the cable. Returns how many were taken; the rest has to
    /// be offered again when the guest has read some.
    pub fn enqueue_input(&mut self, bytes: &[u8]) -> usize {
        let room = self.can_accept_input().min(bytes.len());
        let taken = bytes
            .get(..room)
            .and_then(|bytes| self.data.enqueue_raw_bytes(bytes).ok())
            .unwrap_or(0);
        self.drive();
        taken
    }

    /// The other end of the cable drives its lines: CTS, DSR, DCD and RI of `lines`. All but RI are on
    /// to start with. In loop back mode the port does not see them.
    pub fn set_modem_lines(&mut self, lines: Msr) {
        let before = self.modem_lines();
        self.registers.modem_lines = (lines & LINES).bits();
        self.note_modem_change(before);
        self.drive();
    }

    /// Bytes that the sink did not take.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The sink, to flush it or to look at what was written.
    pub fn sink_mut(&mut self) -> &mut Sink {
        self.data.writer_mut()
    }

    /// The MR pin: registers go back to their initial values; the divisor and scratch stay.
    pub fn reset(&mut self) {
        let before = self.data.state();
        let fresh = SuperioState {
            baud_divisor_low: before.baud_divisor_low,
            baud_divisor_high: before.baud_divisor_high,
            scratch: before.scratch,
            line_control: 0,
            modem_control: 0,
            ..SuperioState::default()
        };
        self.replace(&fresh);
        self.registers = Registers {
            // The cable stays in.
            modem_lines: self.registers.modem_lines,
            ..Registers::power_on()
        };
        self.drive();
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> SerialState {
        let state = self.data.state();
        SerialState {
            registers: self.registers.clone(),
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            lsr: state.line_status,
            scratch: state.scratch,
            receiver: state.in_buffer,
        }
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: &SerialState) {
        let [baud_divisor_low, baud_divisor_high] = state.divisor;
        let mut in_buffer = state.receiver.clone();
        in_buffer.truncate(FIFO_SIZE);
        self.replace(&SuperioState {
            baud_divisor_low,
            baud_divisor_high,
            line_control: state.registers.lcr,
            line_status: state.lsr,
            modem_control: state.registers.mcr,
            scratch: state.scratch,
            in_buffer,
            ..SuperioState::default()
        });
        self.registers = state.registers.clone();
        self.registers.ier &= 0x0f;
        self.registers.mcr &= 0x1f;
        self.registers.modem_delta &= 0x0f;
        self.registers.modem_lines &= LINES.bits();
        self.drive();
    }

    /// Puts another state behind the same sink.
    fn replace(&mut self, state: &SuperioState) {
        let sink = std::mem::replace(self.data.writer_mut(), Box::new(io::sink()));
        match Superio::from_state(state, NoTrigger, NoEvents, sink) {
            Ok(data) => self.data = data,
            // Only for a receiver that is too full, which the callers exclude.
            Err(error) => warn!(%error, "state of the serial port refused"),
        }
    }

    fn dlab(&self) -> bool {
        self.registers.lcr & Lcr::DLAB.bits() != 0
    }

    fn mcr(&self) -> Mcr {
        Mcr::from_bits_truncate(self.registers.mcr)
    }

    fn fifo_enabled(&self) -> bool {
        self.registers.fcr & Fcr::ENABLE.bits() != 0
    }

    /// Bytes waiting in the receiver.
    fn received(&self) -> usize {
        SUPERIO_FIFO_SIZE.saturating_sub(self.data.fifo_capacity())
    }

    fn trigger_level(&self) -> usize {
        match self.registers.fcr >> 6 {
            _ if !self.fifo_enabled() => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    /// The pending interrupt with the highest priority, as IIR names it.
    fn pending(&self) -> Option<u8> {
        let enabled = Ier::from_bits_truncate(self.registers.ier);
        let received = self.received();
        if enabled.contains(Ier::ELSI) && self.registers.overrun {
            Some(iir::LINE_STATUS)
        } else if enabled.contains(Ier::ERBFI) && received >= self.trigger_level() {
            Some(iir::RX_DATA)
        } else if enabled.contains(Ier::ERBFI) && received > 0 {
            // The four character times of the time-out are over at once.
            Some(iir::RX_TIMEOUT)
        } else if enabled.contains(Ier::ETBEI) && self.registers.thr_empty {
            Some(iir::THR_EMPTY)
        } else if enabled.contains(Ier::EDSSI) && self.registers.modem_delta != 0 {
            Some(iir::MODEM_STATUS)
        } else {
            None
        }
    }

    fn drive(&mut self) {
        // In loop back mode OUT2 is disconnected from its pin.
        let mcr = self.mcr();
        let routed = mcr.contains(Mcr::OUT2) && !mcr.contains(Mcr::LOOP);
        let asserted = routed && self.pending().is_some();
        self.irq.set(asserted);
    }

    fn read(&mut self, register: u8) -> u8 {
        let dlab = self.dlab();
        let value = match register {
            IER if !dlab => self.registers.ier,
            IIR_FCR => {
                let pending = self.pending();
                if pending == Some(iir::THR_EMPTY) {
                    self.registers.thr_empty = false;
                }
                let fifo = if self.fifo_enabled() { iir::FIFO } else { 0 };
                pending.unwrap_or(iir::NONE) | fifo
            }
            LSR => {
                let overrun = std::mem::take(&mut self.registers.overrun);
                let error = if overrun { Lsr::OE.bits() } else { 0 };
                self.data.read(LSR) | error
            }
            MSR => self.modem_lines().bits() | std::mem::take(&mut self.registers.modem_delta),
            _ => self.data.read(register),
        };
        self.drive();
        value
    }

    fn write(&mut self, register: u8, value: u8) {
        let dlab = self.dlab();
        match register {
            RBR_THR if !dlab => self.transmit(value),
            IER if !dlab => {
                let before = self.registers.ier;
                self.registers.ier = value & 0x0f;
                // Enabling the interrupt while THR is empty asserts it at once.
                if self.registers.ier & !before & Ier::ETBEI.bits() != 0 {
                    self.registers.thr_empty = true;
                }
            }
            IIR_FCR => self.write_fcr(value),
            LCR => {
                self.registers.lcr = value;
                self.pass(LCR, value);
            }
            MCR => self.write_mcr(value),
            // LSR and MSR are read-only.
            LSR | MSR => {}
            _ => self.pass(register, value),
        }
        self.drive();
    }

    fn transmit(&mut self, value: u8) {
        if self.mcr().contains(Mcr::LOOP) {
            let capacity = if self.fifo_enabled() { FIFO_SIZE } else { 1 };
            if self.received() >= capacity {
                self.registers.overrun = true;
            } else {
                self.pass(RBR_THR, value);
            }
        } else {
            self.pass(RBR_THR, value);
        }
        // THR was full for a moment: the line falls and rises again.
        self.registers.thr_empty = false;
        self.drive();
        self.registers.thr_empty = true;
    }

    fn write_fcr(&mut self, value: u8) {
        let before = self.registers.fcr;
        let fcr = Fcr::from_bits_truncate(value);
        self.registers.fcr = if fcr.contains(Fcr::ENABLE) {
            value & (Fcr::ENABLE | Fcr::DMA_MODE | Fcr::TRIGGER).bits()
        } else {
            0
        };
        let toggled = (before ^ value) & Fcr::ENABLE.bits() != 0;
        // Both FIFOs are cleared when they are switched on or off.
        if toggled || fcr.contains(Fcr::ENABLE | Fcr::RESET_RX) {
            while self.received() > 0 {
                self.data_byte();
            }
        }
    }

    /// Takes a byte out of the receiver, whatever DLAB says.
    fn data_byte(&mut self) -> u8 {
        let lcr = self.registers.lcr;
        self.pass(LCR, lcr & !Lcr::DLAB.bits());
        let byte = self.data.read(RBR_THR);
        self.pass(LCR, lcr);
        byte
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_lines();
        self.registers.mcr = value & 0x1f;
        self.pass(MCR, value & 0x1f);
        self.note_modem_change(before);
    }

    /// The modem lines as the port sees them.
    fn modem_lines(&mut self) -> Msr {
        if self.mcr().contains(Mcr::LOOP) {
            Msr::from_bits_truncate(self.data.read(MSR)) & LINES
        } else {
            Msr::from_bits_truncate(self.registers.modem_lines)
        }
    }

    /// Sets the deltas of modem lines that are not what they were `before`.
    fn note_modem_change(&mut self, before: Msr) {
        let changed = before ^ self.modem_lines();
        let mut delta = Msr::from_bits_retain(self.registers.modem_delta);
        delta.set(
            Msr::DCTS,
            delta.contains(Msr::DCTS) || changed.contains(Msr::CTS),
        );
        delta.set(
            Msr::DDSR,
            delta.contains(Msr::DDSR) || changed.contains(Msr::DSR),
        );
        delta.set(
            Msr::DDCD,
            delta.contains(Msr::DDCD) || changed.contains(Msr::DCD),
        );
        // Only the trailing edge of the ring indicator counts.
        let ring_ended = changed.contains(Msr::RI) && before.contains(Msr::RI);
        delta.set(Msr::TERI, delta.contains(Msr::TERI) || ring_ended);
        self.registers.modem_delta = delta.bits();
    }

    fn pass(&mut self, register: u8, value: u8) {
        match self.data.write(register, value) {
            Ok(()) | Err(SuperioError::FullFifo | SuperioError::Trigger(_)) => {}
            Err(SuperioError::IOError(error)) => {
                self.lost += 1;
                if self.log.allow() {
                    warn!(%error, "output of the serial port was lost");
                }
            }
        }
    }
}

/// Size of the receiver buffer of `vm-superio`.
const SUPERIO_FIFO_SIZE: usize = 64;

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serial")
            .field("base", &self.base)
            .field("irq", &self.irq)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl PortDevice for Serial {
    fn port_read(&mut self, port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        let register = port.wrapping_sub(self.base) % PORTS;
        u32::from(self.read(register as u8))
    }

    fn port_write(&mut self, port: u16, _size: AccessSize, value: u32, _now: Nanos) {
        let register = port.wrapping_sub(self.base) % PORTS;
        self.write(register as u8, value as u8);
    }
}

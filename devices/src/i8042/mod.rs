//! The keyboard controller ("8042") with a keyboard and a mouse behind it, the gate of A20 and
//! the processor's reset.

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::Nanos;
use crate::a20::A20Gate;
use crate::device::{AccessSize, PortDevice};
use crate::event::{EventSink, ResetKind, Signal};
use crate::limit::LogLimit;
use crate::line::Line;

mod keyboard;
mod mouse;
mod queue;
mod scan_codes;
pub mod spec;
#[cfg(test)]
mod tests;

use keyboard::Keyboard;
use mouse::Mouse;
use spec::{
    BYTE_NANOS, COMMAND, Config, INPUT_PORT, INTERFACE_OK, NO_PASSWORD, OutputPort,
    SELF_TEST_PASSED, SET2_TO_SET1, Status, command,
};

/// Where the byte in the output buffer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    Keyboard,
    Aux,
}

/// What the next byte written to port 60h belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    /// Nothing: it goes to the keyboard.
    Keyboard,
    Ram(u8),
    OutputPort,
    KeyboardBuffer,
    AuxBuffer,
    Aux,
}

/// State of the controller and its devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// Location 0 is the command byte.
    ram: [u8; 32],
    output_port: u8,
    /// The output buffer; keeps its value when it has been read.
    buffer: u8,
    /// The output buffer is full.
    full: Option<Source>,
    /// An answer of the controller that waits for the output buffer to become free.
    answer: Option<(u8, Source)>,
    expect: Expect,
    /// The last write went to port 64h.
    a2: bool,
    /// Translation: the byte before was the break prefix.
    release: bool,
    /// When the next byte of a device has arrived, if one is on its way.
    arrives: Option<Nanos>,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl I8042State {
    fn power_on() -> Self {
        let mut ram = [0; 32];
        // As firmware leaves it, for guests that are started without any.
        let config = Config::KBD_INT | Config::SYS | Config::AUX_DISABLE | Config::TRANSLATE;
        if let Some(first) = ram.first_mut() {
            *first = config.bits();
        }
        Self {
            ram,
            output_port: (OutputPort::RESET_N | OutputPort::A20).bits(),
            buffer: 0,
            full: None,
            answer: None,
            expect: Expect::Keyboard,
            a2: false,
            release: false,
            arrives: None,
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
        }
    }

    fn config(&self) -> Config {
        Config::from_bits_truncate(self.ram.first().copied().unwrap_or(0))
    }

    fn set_config(&mut self, config: Config) {
        if let Some(first) = self.ram.first_mut() {
            *first = config.bits();
        }
    }
}

/// The keyboard controller.
#[derive(Debug)]
pub struct I8042 {
    // Wiring.
    irq1: Line,
    irq12: Line,
    a20: A20Gate,
    events: EventSink,
    // Volatile.
    state: I8042State,
    log: LogLimit,
}

impl I8042 {
    /// A controller whose output buffer drives `irq1` and `irq12`, and whose output port sets
    /// `a20` and asks `events` for a processor reset.
    pub fn new(irq1: Line, irq12: Line, a20: A20Gate, events: EventSink) -> Self {
        let mut controller = Self {
            irq1,
            irq12,
            a20,
            events,
            state: I8042State::power_on(),
            log: LogLimit::default(),
        };
        controller.drive();
        controller
    }

    /// Keys were pressed or released, told as scan codes of set 2; what the guest gets is of the set
    /// that it has chosen. False if the keyboard is disabled or its buffer is full, and the codes
    /// were dropped.
    pub fn keys(&mut self, scan_codes: &[u8], now: Nanos) -> bool {
        let taken = self.state.keyboard.keys(scan_codes, now);
        self.advance(now);
        taken
    }

    /// The mouse moved right by `dx`, up by `dy`, its wheel turned towards the user by `dz`;
    /// `buttons` are bit 0 left, bit 1 right, bit 2 middle.
    pub fn mouse(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8, now: Nanos) {
        self.state.mouse.moved(dx, dy, dz, buttons);
        self.advance(now);
    }

    /// The keyboard's indicators: bit 0 scroll lock, bit 1 number lock, bit 2 caps lock.
    pub fn leds(&self) -> u8 {
        self.state.keyboard.leds()
    }

    /// Lets keys repeat and the mouse report, and takes over bytes that have arrived.
    pub fn advance(&mut self, now: Nanos) {
        self.state.keyboard.advance(now);
        self.state.mouse.advance(now);
        if self.state.arrives.is_some_and(|at| at <= now) && self.state.full.is_none() {
            self.state.arrives = None;
            self.fill();
            // There may be room for a report now.
            self.state.mouse.advance(now);
        }
        self.schedule(now);
        self.drive();
    }

    /// When the next byte arrives, a key repeats, or the mouse has something to report.
    pub fn next_event(&self) -> Option<Nanos> {
        let arrives = self.state.arrives.filter(|_| self.state.full.is_none());
        arrives
            .into_iter()
            .chain(self.state.keyboard.next_event())
            .chain(self.state.mouse.next_event())
            .min()
    }

    #[cfg(test)]
    fn keyboard_repeats_at(&self) -> Option<Nanos> {
        self.state.keyboard.next_event()
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.state = I8042State::power_on();
        self.drive();
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &I8042State {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: I8042State) {
        self.state = state;
        self.state.keyboard.sanitize();
        self.state.mouse.sanitize();
        self.drive();
    }

    /// Whether a device is allowed to send and has something.
    fn waiting(&self) -> Option<Source> {
        let config = self.state.config();
        if !config.contains(Config::KBD_DISABLE) && !self.state.keyboard.output.is_empty() {
            Some(Source::Keyboard)
        } else if !config.contains(Config::AUX_DISABLE) && !self.state.mouse.output.is_empty() {
            Some(Source::Aux)
        } else {
            None
        }
    }

    /// Starts the transfer of a byte if one is waiting and the line is idle.
    fn schedule(&mut self, now: Nanos) {
        let free = self.state.full.is_none() && self.state.arrives.is_none();
        if free && self.waiting().is_some() {
            self.state.arrives = Some(now.after(BYTE_NANOS));
        }
    }

    /// Moves a byte of a device into the output buffer. A break prefix that translation swallows
    /// is followed by its scan code at once.
    fn fill(&mut self) {
        while self.state.full.is_none() {
            let Some(source) = self.waiting() else { return };
            let byte = match source {
                Source::Keyboard => self.state.keyboard.output.pop(),
                Source::Aux => self.state.mouse.output.pop(),
            };
            let Some(byte) = byte else { return };
            let byte = match source {
                Source::Keyboard => self.translate(byte),
                Source::Aux => Some(byte),
            };
            if let Some(byte) = byte {
                self.put(byte, source);
            }
        }
    }

    /// Set 2 to set 1, if that is on. `None` for a break prefix.
    fn translate(&mut self, byte: u8) -> Option<u8> {
        if !self.state.config().contains(Config::TRANSLATE) {
            return Some(byte);
        }
        if byte == 0xf0 {
            self.state.release = true;
            return None;
        }
        let code = SET2_TO_SET1.get(usize::from(byte)).copied().unwrap_or(byte);
        let release = std::mem::take(&mut self.state.release);
        Some(if release { code | 0x80 } else { code })
    }

    fn put(&mut self, byte: u8, source: Source) {
        self.state.buffer = byte;
        self.state.full = Some(source);
    }

    /// An answer of the controller itself: at once, or when the output buffer has been read.
    fn answer(&mut self, byte: u8, source: Source) {
        if self.state.full.is_none() {
            self.put(byte, source);
        } else {
            self.state.answer = Some((byte, source));
        }
    }

    /// Drives the wires.
    fn drive(&mut self) {
        let config = self.state.config();
        let full = self.state.full;
        self.irq1
            .set(full == Some(Source::Keyboard) && config.contains(Config::KBD_INT));
        self.irq12
            .set(full == Some(Source::Aux) && config.contains(Config::AUX_INT));
    }

    fn read_data(&mut self, now: Nanos) -> u8 {
        let value = self.state.buffer;
        if self.state.full.take().is_some() {
            // The lines fall before the next byte raises them again.
            self.drive();
            if let Some((byte, source)) = self.state.answer.take() {
                self.put(byte, source);
            }
        }
        self.advance(now);
        value
    }

    fn read_status(&self) -> u8 {
        let mut status = Status::INH;
        status.set(Status::OBF, self.state.full.is_some());
        status.set(Status::AUX_OBF, self.state.full == Some(Source::Aux));
        status.set(Status::SYS, self.state.config().contains(Config::SYS));
        status.set(Status::A2, self.state.a2);
        status.bits()
    }

    fn read_output_port(&self) -> u8 {
        let mut port = OutputPort::from_bits_retain(self.state.output_port);
        port.set(OutputPort::A20, self.a20.is_open());
        port.set(OutputPort::KBD_IRQ, self.irq1.is_high());
        port.set(OutputPort::AUX_IRQ, self.irq12.is_high());
        port.bits()
    }

    fn write_output_port(&mut self, value: u8) {
        self.state.output_port = value | OutputPort::RESET_N.bits();
        let port = OutputPort::from_bits_truncate(value);
        self.a20.set(port.contains(OutputPort::A20));
        if value & OutputPort::RESET_N.bits() == 0 {
            self.events.signal(Signal::Reset(ResetKind::Processor));
        }
    }

    fn change_config(&mut self, flag: Config, on: bool) {
        let mut config = self.state.config();
        config.set(flag, on);
        self.state.set_config(config);
    }

    fn write_command(&mut self, value: u8) {
        self.state.a2 = true;
        self.state.expect = Expect::Keyboard;
        match value {
            command::READ_RAM..=0x3f => {
                let index = usize::from(value & 0x1f);
                let byte = self.state.ram.get(index).copied().unwrap_or(0);
                self.answer(byte, Source::Keyboard);
            }
            command::WRITE_RAM..=0x7f => self.state.expect = Expect::Ram(value & 0x1f),
            command::TEST_PASSWORD => self.answer(NO_PASSWORD, Source::Keyboard),
            command::DISABLE_AUX => self.change_config(Config::AUX_DISABLE, true),
            command::ENABLE_AUX => self.change_config(Config::AUX_DISABLE, false),
            command::TEST_AUX | command::TEST_KBD => {
                self.answer(INTERFACE_OK, Source::Keyboard);
            }
            command::SELF_TEST => {
                self.change_config(Config::SYS, true);
                self.answer(SELF_TEST_PASSED, Source::Keyboard);
            }
            command::DISABLE_KBD => self.change_config(Config::KBD_DISABLE, true),
            command::ENABLE_KBD => self.change_config(Config::KBD_DISABLE, false),
            command::READ_INPUT => self.answer(INPUT_PORT, Source::Keyboard),
            command::READ_OUTPUT => {
                let port = self.read_output_port();
                self.answer(port, Source::Keyboard);
            }
            command::WRITE_OUTPUT => self.state.expect = Expect::OutputPort,
            command::WRITE_KBD_BUFFER => self.state.expect = Expect::KeyboardBuffer,
            command::WRITE_AUX_BUFFER => self.state.expect = Expect::AuxBuffer,
            command::WRITE_AUX => self.state.expect = Expect::Aux,
            command::DISABLE_A20 => self.a20.set(false),
            command::ENABLE_A20 => self.a20.set(true),
            command::READ_TEST => self.answer(0, Source::Keyboard),
            command::PULSE..=0xff => {
                // Only the reset line does anything when pulsed.
                if value & OutputPort::RESET_N.bits() == 0 {
                    self.events.signal(Signal::Reset(ResetKind::Processor));
                }
            }
            _ => {
                if self.log.allow() {
                    warn!(
                        command = format_args!("{value:#04x}"),
                        "unknown 8042 command"
                    );
                }
            }
        }
    }

    fn write_data(&mut self, value: u8) {
        self.state.a2 = false;
        match std::mem::replace(&mut self.state.expect, Expect::Keyboard) {
            Expect::Keyboard => {
                // Sending to the keyboard enables its clock.
                self.change_config(Config::KBD_DISABLE, false);
                self.state.keyboard.receive(value);
            }
            Expect::Ram(index) => {
                if let Some(byte) = self.state.ram.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
            Expect::OutputPort => self.write_output_port(value),
            Expect::KeyboardBuffer => self.answer(value, Source::Keyboard),
            Expect::AuxBuffer => self.answer(value, Source::Aux),
            Expect::Aux => {
                self.change_config(Config::AUX_DISABLE, false);
                self.state.mouse.receive(value);
            }
        }
    }
}

impl PortDevice for I8042 {
    fn port_read(&mut self, port: u16, _size: AccessSize, now: Nanos) -> u32 {
        self.advance(now);
        u32::from(if port == COMMAND {
            self.read_status()
        } else {
            self.read_data(now)
        })
    }

    fn port_write(&mut self, port: u16, _size: AccessSize, value: u32, now: Nanos) {
        self.advance(now);
        if port == COMMAND {
            self.write_command(value as u8);
        } else {
            self.write_data(value as u8);
        }
        self.advance(now);
    }
}

//! The two DMA controllers of a PC AT ("8237A" pair) with their page registers.
//!
//! The controllers know nothing of memory. A device raises a DREQ wire; [`Dma::next_channel`] says
//! which channel is to be served, and [`Dma::transfer`] moves what the device has or wants, with
//! the machine's memory handed in as a [`GuestMemory`]. So the machine decides when memory is written,
//! and through what.
//!
//! A transfer takes no time: the device spreads its requests over time.

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::limit::LogLimit;
use crate::line::{Line, LineBank};
use crate::memory::GuestMemory;

mod chip;
pub mod spec;
#[cfg(test)]
mod tests;

use chip::Chip;
use spec::{COMMAND_MEMORY_TO_MEMORY, DMA1_END, DMA2, DMA2_END, Mode, PAGE_OF_CHANNEL, register};

/// The channel that leads from the second controller to the first.
const CASCADE_CHANNEL: u8 = 4;
/// Bytes moved at a time: never across a multiple, so that a burst is in one page of memory.
const BURST: usize = 512;

/// A device while the controller acknowledges its request (DACK).
pub trait DmaDevice {
    /// Bytes that the device moves for the request it makes now.
    fn pending(&self) -> usize;
    /// The device is read (IOR#) as often as `data` is long, at most [`pending`](Self::pending)
    /// times. One that wants to be written to leaves its part of the bus alone: ones.
    fn read(&mut self, data: &mut [u8]);
    /// The device is written to (IOW#).
    fn write(&mut self, data: &[u8]);
    /// The request has been served as far as the count allowed; `terminal_count` is the wire TC.
    fn served(&mut self, terminal_count: bool, now: Nanos);
}

/// Nobody answers: what a channel without a device moves when software requests it.
struct OpenBus;

impl DmaDevice for OpenBus {
    fn pending(&self) -> usize {
        usize::MAX
    }

    fn read(&mut self, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _data: &[u8]) {}

    fn served(&mut self, _terminal_count: bool, _now: Nanos) {}
}

/// State of both controllers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmaState {
    bytes: Chip,
    words: Chip,
    /// By the low four bits of the port; the first is not there.
    pages: [u8; 16],
}

impl DmaState {
    fn power_on() -> Self {
        let mut words = Chip::new();
        // As firmware leaves it, for guests that are started without any.
        words.mask = 0x0e;
        words.channel(CASCADE_CHANNEL).mode = Mode::CASCADE.bits();
        Self {
            bytes: Chip::new(),
            words,
            pages: [0; 16],
        }
    }

    fn chip(&mut self, channel: u8) -> &mut Chip {
        if channel < CASCADE_CHANNEL {
            &mut self.bytes
        } else {
            &mut self.words
        }
    }

    fn page(&self, channel: u8) -> u8 {
        let index = PAGE_OF_CHANNEL.get(usize::from(channel));
        index
            .and_then(|&index| self.pages.get(usize::from(index)))
            .copied()
            .unwrap_or(0)
    }
}

/// The DMA controllers.
#[derive(Debug)]
pub struct Dma {
    // Wiring.
    dreq: LineBank,
    // Volatile.
    state: DmaState,
    log: LogLimit,
}

impl Dma {
    /// Controllers without devices.
    pub fn new() -> Self {
        Self {
            dreq: LineBank::new(),
            state: DmaState::power_on(),
            log: LogLimit::default(),
        }
    }

    /// A wire to DREQ of `channel`: 0 to 3 move bytes, 5 to 7 words.
    pub fn dreq_line(&self, channel: u8) -> Line {
        self.dreq.line(channel)
    }

    /// The channel that is to be served next, if any: hardware requests that are not masked, and
    /// software requests, in the fixed order of priority.
    pub fn next_channel(&self) -> Option<u8> {
        let words = &self.state.words;
        // The first controller asks for the bus through the second.
        let cascade = words.is_enabled() && words.mask & 1 == 0;
        let bytes = (0..CASCADE_CHANNEL).filter(|_| cascade);
        let words_channels = CASCADE_CHANNEL + 1..8;
        bytes.chain(words_channels).find(|&channel| {
            let chip = if channel < CASCADE_CHANNEL {
                &self.state.bytes
            } else {
                words
            };
            let Some(registers) = chip.channels.get(usize::from(channel & 3)) else {
                return false;
            };
            let bit = 1 << (channel & 3);
            let hardware = chip.mask & bit == 0 && self.dreq.is_high(channel);
            // Software requests need block mode (data sheet, "Request Register"), and no mask stops
            // them.
            let software = chip.request & bit != 0 && registers.mode().contains(Mode::BLOCK);
            chip.is_enabled() && !registers.is_cascade() && (hardware || software)
        })
    }

    /// Serves `channel`, which [`Self::next_channel`] has named, with what its `device` asks for.
    /// Without a device only a request of software moves anything. False if nothing was moved.
    pub fn transfer(
        &mut self,
        channel: u8,
        device: Option<&mut dyn DmaDevice>,
        memory: &mut dyn GuestMemory,
        now: Nanos,
    ) -> bool {
        let mut open_bus = OpenBus;
        let software = self.state.chip(channel).request & 1 << (channel & 3) != 0;
        let device = match device {
            Some(device) if self.dreq.is_high(channel) => device,
            _ if software => &mut open_bus,
            _ => return false,
        };
        let unit = if channel < CASCADE_CHANNEL { 1 } else { 2 };
        let page = self.state.page(channel);
        let chip = self.state.chip(channel);
        let registers = chip.channel(channel);
        let transfers = (device.pending() / unit).min(registers.left());
        if transfers == 0 {
            return false;
        }
        let terminal = transfers == registers.left();
        let mut left = transfers;
        while left > 0 {
            let run = Run::new(registers.address, registers.mode(), page, unit, left);
            run.carry_out(device, memory);
            registers.step(run.transfers);
            left -= run.transfers;
        }
        if terminal {
            chip.terminal_count(channel);
        }
        device.served(terminal, now);
        true
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.state = DmaState::power_on();
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &DmaState {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: DmaState) {
        self.state = state;
        self.state.bytes.sanitize();
        self.state.words.sanitize();
    }

    /// DREQ of the four channels from `first` on.
    fn requests(&self, first: u8) -> u8 {
        (0..4)
            .filter(|&index| self.dreq.is_high(first + index))
            .fold(0, |bits, index| bits | 1 << index)
    }

    fn decode(port: u16) -> Register {
        match port {
            0..=DMA1_END => Register::Chip {
                first: 0,
                register: port as u8,
            },
            // Address line 0 is not decoded.
            DMA2..=DMA2_END => Register::Chip {
                first: CASCADE_CHANNEL,
                register: ((port - DMA2) >> 1) as u8,
            },
            _ => Register::Page(usize::from(port & 0x0f)),
        }
    }
}

impl Default for Dma {
    fn default() -> Self {
        Self::new()
    }
}

/// What a port leads to.
enum Register {
    Chip { first: u8, register: u8 },
    Page(usize),
}

/// Transfers between the device and a contiguous piece of memory.
struct Run {
    mode: Mode,
    /// Lowest address of the piece.
    address: u64,
    transfers: usize,
    /// Bytes of a transfer.
    unit: usize,
}

impl Run {
    /// As many of `left` transfers as lie together. The page stays: addresses wrap around within
    /// 64 KiB, and within 128 KiB where words are moved.
    fn new(address: u16, mode: Mode, page: u8, unit: usize, left: usize) -> Self {
        let down = mode.contains(Mode::DECREMENT);
        let burst = BURST / unit;
        let place = usize::from(address) % burst;
        let room = if down { place + 1 } else { burst - place };
        let transfers = left.min(room);
        let lowest = if down {
            address - (transfers - 1) as u16
        } else {
            address
        };
        let address = if unit == 1 {
            u64::from(page) << 16 | u64::from(lowest)
        } else {
            u64::from(page & 0xfe) << 16 | u64::from(lowest) << 1
        };
        Self {
            mode,
            address,
            transfers,
            unit,
        }
    }

    fn carry_out(&self, device: &mut dyn DmaDevice, memory: &mut dyn GuestMemory) {
        let mut buffer = [0xff; BURST];
        let Some(data) = buffer.get_mut(..self.transfers * self.unit) else {
            return;
        };
        let kind = self.mode & (Mode::READ | Mode::WRITE);
        if kind == Mode::READ {
            // What is no memory reads as ones and takes nothing: the bus tells nobody.
            if memory.read(self.address, data).is_err() {
                data.fill(0xff);
            }
            self.reverse(data);
            device.write(data);
        } else {
            // A device on a verify transfer is read from, and nobody listens.
            device.read(data);
            if kind == Mode::WRITE {
                self.reverse(data);
                let _ = memory.write(self.address, data);
            }
        }
    }

    /// Downwards, the first transfer has the highest address.
    fn reverse(&self, data: &mut [u8]) {
        if self.mode.contains(Mode::DECREMENT) {
            data.reverse();
            if self.unit == 2 {
                data.chunks_exact_mut(2).for_each(|word| word.reverse());
            }
        }
    }
}

impl PortDevice for Dma {
    fn port_read(&mut self, port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        let value = match Self::decode(port) {
            Register::Chip { first, register } => {
                let requests = self.requests(first);
                self.state.chip(first).read(register, requests)
            }
            Register::Page(index) => self.state.pages.get(index).copied().unwrap_or(0xff),
        };
        u32::from(value)
    }

    fn port_write(&mut self, port: u16, _size: AccessSize, value: u32, _now: Nanos) {
        let value = value as u8;
        match Self::decode(port) {
            Register::Chip { first, register } => {
                self.state.chip(first).write(register, value);
                let memory_to_memory =
                    register == register::COMMAND && value & COMMAND_MEMORY_TO_MEMORY != 0;
                if memory_to_memory && self.log.allow() {
                    warn!("there are no memory-to-memory DMA transfers");
                }
            }
            Register::Page(index) => {
                if let Some(page) = self.state.pages.get_mut(index) {
                    *page = value;
                }
            }
        }
    }
}

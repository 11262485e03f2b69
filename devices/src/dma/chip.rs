//! One 8237A: four channels and their common registers.

use serde::{Deserialize, Serialize};

use super::spec::{COMMAND_DISABLE, Mode, SET_BIT, register};

/// One channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Channel {
    pub(super) base_address: u16,
    pub(super) base_count: u16,
    pub(super) address: u16,
    /// Transfers left, minus one.
    pub(super) count: u16,
    pub(super) mode: u8,
}

impl Channel {
    pub(super) fn mode(&self) -> Mode {
        Mode::from_bits_truncate(self.mode)
    }

    pub(super) fn is_cascade(&self) -> bool {
        self.mode().contains(Mode::CASCADE)
    }

    /// Transfers until terminal count, 1 to 65,536.
    pub(super) fn left(&self) -> usize {
        usize::from(self.count) + 1
    }

    /// Accounts for `transfers`, no more than are [left](Self::left).
    pub(super) fn step(&mut self, transfers: usize) {
        // Up to 65,536 of them: a round trip, which changes nothing.
        let transfers = transfers as u16;
        self.address = if self.mode().contains(Mode::DECREMENT) {
            self.address.wrapping_sub(transfers)
        } else {
            self.address.wrapping_add(transfers)
        };
        self.count = self.count.wrapping_sub(transfers);
    }
}

/// One controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chip {
    pub(super) channels: [Channel; 4],
    pub(super) command: u8,
    /// Masked channels, one bit each.
    pub(super) mask: u8,
    /// Channels requested by software.
    pub(super) request: u8,
    /// Channels that have reached terminal count since the status was read.
    terminal: u8,
    /// The next byte of an address or count is the high one.
    high: bool,
}

impl Chip {
    /// After RESET or a master clear; addresses, counts and modes are undefined then.
    pub(super) fn new() -> Self {
        Self {
            channels: Default::default(),
            command: 0,
            mask: 0x0f,
            request: 0,
            terminal: 0,
            high: false,
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.command & COMMAND_DISABLE == 0
    }

    pub(super) fn channel(&mut self, index: u8) -> &mut Channel {
        let [c0, c1, c2, c3] = &mut self.channels;
        match index & 3 {
            0 => c0,
            1 => c1,
            2 => c2,
            _ => c3,
        }
    }

    /// The count of a channel went below zero.
    pub(super) fn terminal_count(&mut self, index: u8) {
        let bit = 1 << (index & 3);
        self.terminal |= bit;
        self.request &= !bit;
        let channel = self.channel(index);
        if channel.mode().contains(Mode::AUTO_INIT) {
            channel.address = channel.base_address;
            channel.count = channel.base_count;
        } else {
            self.mask |= bit;
        }
    }

    /// `requests` are the channels whose DREQ is high.
    pub(super) fn read(&mut self, register: u8, requests: u8) -> u8 {
        match register {
            0..=register::LAST_OF_CHANNELS => {
                let high = self.high;
                self.high = !high;
                let channel = self.channel(register >> 1);
                let value = if register & 1 == 0 {
                    channel.address
                } else {
                    channel.count
                };
                let [low_byte, high_byte] = value.to_le_bytes();
                if high { high_byte } else { low_byte }
            }
            register::COMMAND => {
                let terminal = std::mem::take(&mut self.terminal);
                (requests | self.request) << 4 | terminal
            }
            // The temporary register is filled by memory-to-memory transfers only.
            register::MASTER_CLEAR => 0,
            register::ALL_MASKS => 0xf0 | self.mask,
            _ => 0xff,
        }
    }

    pub(super) fn write(&mut self, register: u8, value: u8) {
        let bit = 1 << (value & 3);
        match register {
            0..=register::LAST_OF_CHANNELS => self.write_channel(register, value),
            register::COMMAND => self.command = value,
            register::REQUEST => set(&mut self.request, bit, value & SET_BIT != 0),
            register::SINGLE_MASK => set(&mut self.mask, bit, value & SET_BIT != 0),
            register::MODE => self.channel(value).mode = value & !3,
            register::CLEAR_FLIP_FLOP => self.high = false,
            register::MASTER_CLEAR => {
                let channels = std::mem::take(&mut self.channels);
                *self = Self {
                    channels,
                    ..Self::new()
                };
            }
            register::CLEAR_MASKS => self.mask = 0,
            _ => self.mask = value & 0x0f,
        }
    }

    /// Base and current registers are written together.
    fn write_channel(&mut self, register: u8, value: u8) {
        let high = self.high;
        self.high = !high;
        let channel = self.channel(register >> 1);
        let (base, current) = if register & 1 == 0 {
            (&mut channel.base_address, &mut channel.address)
        } else {
            (&mut channel.base_count, &mut channel.count)
        };
        let [low_byte, high_byte] = base.to_le_bytes();
        let bytes = if high {
            [low_byte, value]
        } else {
            [value, high_byte]
        };
        *base = u16::from_le_bytes(bytes);
        *current = *base;
    }

    /// Brings a damaged snapshot into range.
    pub(super) fn sanitize(&mut self) {
        self.mask &= 0x0f;
        self.request &= 0x0f;
        self.terminal &= 0x0f;
        for channel in &mut self.channels {
            channel.mode &= !3;
        }
    }
}

fn set(bits: &mut u8, bit: u8, on: bool) {
    if on { *bits |= bit } else { *bits &= !bit }
}

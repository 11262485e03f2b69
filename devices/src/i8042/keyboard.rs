//! An IBM enhanced (MF2) keyboard with 101/102 keys.

use serde::{Deserialize, Serialize};

use super::queue::ByteQueue;
use super::spec::device;

/// What the device type command answers: an MF2 keyboard.
const IDENTITY: [u8; 2] = [0xab, 0x83];
/// Command: switch the indicators.
const SET_LEDS: u8 = 0xed;
/// Command: echo.
const ECHO: u8 = 0xee;
/// Command: choose or ask for the scan code set.
const SCAN_CODE_SET: u8 = 0xf0;

/// What the next byte from the host belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    Command,
    Leds,
    ScanCodeSet,
    Typematic,
    /// FBh-FDh: a list of keys of set 3, ended by a command.
    KeyList,
}

/// State of the keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    pub(super) output: ByteQueue,
    expect: Expect,
    scanning: bool,
    scan_code_set: u8,
    leds: u8,
    typematic: u8,
}

impl Keyboard {
    pub(super) fn new() -> Self {
        Self {
            output: ByteQueue::default(),
            expect: Expect::Command,
            scanning: true,
            scan_code_set: 2,
            leds: 0,
            // 10.9 characters per second after 500 ms.
            typematic: 0x2b,
        }
    }

    /// The indicators: bit 0 scroll lock, bit 1 number lock, bit 2 caps lock.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    /// Scan codes of keys that moved. False if they were dropped.
    pub(super) fn keys(&mut self, codes: &[u8]) -> bool {
        self.scanning && self.output.data(codes)
    }

    fn defaults(&mut self) {
        let fresh = Self::new();
        self.scan_code_set = fresh.scan_code_set;
        self.typematic = fresh.typematic;
        self.expect = Expect::Command;
    }

    /// A byte from the host.
    pub(super) fn receive(&mut self, byte: u8) {
        let expect = std::mem::replace(&mut self.expect, Expect::Command);
        // A command in the place of a parameter ends the command before it.
        match expect {
            Expect::Leds if byte < 0x80 => {
                self.leds = byte & 7;
                self.output.answer(&[device::ACK]);
            }
            Expect::Typematic if byte < 0x80 => {
                self.typematic = byte;
                self.output.answer(&[device::ACK]);
            }
            Expect::ScanCodeSet if byte == 0 => {
                self.output.answer(&[device::ACK, self.scan_code_set]);
            }
            Expect::ScanCodeSet if byte <= 3 => {
                self.scan_code_set = byte;
                self.output.answer(&[device::ACK]);
            }
            Expect::KeyList if byte < 0x90 => {
                self.expect = Expect::KeyList;
                self.output.answer(&[device::ACK]);
            }
            _ => self.command(byte),
        }
    }

    fn command(&mut self, byte: u8) {
        // Every command except these two drops what is waiting.
        if byte != device::RESEND && byte != ECHO {
            self.output.clear();
        }
        match byte {
            ECHO => self.output.answer(&[ECHO]),
            device::RESEND => {
                let last = self.output.last();
                self.output.answer(&[last]);
            }
            device::RESET => {
                let output = std::mem::take(&mut self.output);
                *self = Self {
                    output,
                    ..Self::new()
                };
                self.output.answer(&[device::ACK, device::BAT_OK]);
            }
            device::IDENTIFY => {
                let [first, second] = IDENTITY;
                self.output.answer(&[device::ACK, first, second]);
            }
            device::SET_DEFAULTS => {
                self.defaults();
                self.output.answer(&[device::ACK]);
            }
            device::DISABLE => {
                self.defaults();
                self.scanning = false;
                self.output.answer(&[device::ACK]);
            }
            device::ENABLE => {
                self.scanning = true;
                self.output.answer(&[device::ACK]);
            }
            SET_LEDS => self.expect_after_ack(Expect::Leds),
            SCAN_CODE_SET => self.expect_after_ack(Expect::ScanCodeSet),
            device::SET_RATE => self.expect_after_ack(Expect::Typematic),
            // Key attributes of set 3, for all keys: taken, without effect.
            0xf7..=0xfa => self.output.answer(&[device::ACK]),
            0xfb..=0xfd => self.expect_after_ack(Expect::KeyList),
            _ => self.output.answer(&[device::RESEND]),
        }
    }

    fn expect_after_ack(&mut self, expect: Expect) {
        self.expect = expect;
        self.output.answer(&[device::ACK]);
    }
}

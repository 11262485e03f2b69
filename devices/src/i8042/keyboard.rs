//! An IBM enhanced (MF2) keyboard with 101/102 keys.

use serde::{Deserialize, Serialize};

use super::queue::ByteQueue;
use super::scan_codes::{self, Held, Key, KeyEvent, Manner};
use super::spec::device;
use crate::Nanos;

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
    /// FBh-FDh: a list of keys of set 3, ended by a command. They get this manner.
    KeyList(Manner),
}

/// A key that repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Repeat {
    key: Key,
    at: Nanos,
}

/// Codes of set 3 that a manner is kept for.
const SET3_CODES: usize = 0x90;

/// State of the keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    pub(super) output: ByteQueue,
    expect: Expect,
    scanning: bool,
    scan_code_set: u8,
    leds: u8,
    typematic: u8,
    /// Modifiers that are held down.
    held: Held,
    /// The key pressed last, if it is still down and repeats.
    repeat: Option<Repeat>,
    /// What keys do in set 3, by their codes.
    manners: Vec<Manner>,
}

fn default_manners() -> Vec<Manner> {
    (0..SET3_CODES as u8).map(Manner::default_of).collect()
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
            held: Held::default(),
            repeat: None,
            manners: default_manners(),
        }
    }

    /// The indicators: bit 0 scroll lock, bit 1 number lock, bit 2 caps lock.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    /// Keys moved: their codes in set 2. False if they were dropped, all of them.
    pub(super) fn keys(&mut self, codes: &[u8], now: Nanos) -> bool {
        if !self.scanning {
            return false;
        }
        let mut held = self.held;
        let mut repeat = self.repeat;
        let mut output = Vec::new();
        for event in scan_codes::parse(codes) {
            held.follow(event);
            output.extend(self.codes_of(event, held));
            if event.pressed {
                let repeats = self.manner(event.key).typematic;
                let at = now.after(self.delay_nanos());
                let key = event.key;
                repeat = repeats.then_some(Repeat { key, at });
            } else if repeat.is_some_and(|repeat| repeat.key == event.key) {
                repeat = None;
            }
        }
        let taken = self.output.data(&output);
        if taken {
            (self.held, self.repeat) = (held, repeat);
        }
        taken
    }

    /// Repeats the key that is held, if that is due.
    pub(super) fn advance(&mut self, now: Nanos) {
        let Some(Repeat { key, at }) = self.repeat else {
            return;
        };
        if at > now {
            return;
        }
        // A guest that does not keep up gets no more of them than it reads.
        if self.output.is_empty() {
            let event = KeyEvent { key, pressed: true };
            let codes = self.codes_of(event, self.held);
            self.output.data(&codes);
        }
        let at = now.after(self.period_nanos());
        self.repeat = Some(Repeat { key, at });
    }

    /// When the key that is held repeats.
    pub(super) fn next_event(&self) -> Option<Nanos> {
        self.repeat.map(|repeat| repeat.at)
    }

    fn codes_of(&self, event: KeyEvent, held: Held) -> Vec<u8> {
        if !event.pressed && !self.manner(event.key).release {
            return Vec::new();
        }
        scan_codes::encode(self.scan_code_set, event, held)
    }

    fn manner(&self, key: Key) -> Manner {
        if self.scan_code_set == 3 {
            let code = scan_codes::set3(key);
            let manner = code.and_then(|code| self.manners.get(usize::from(code)));
            manner.copied().unwrap_or(Manner::MAKE)
        } else if key == Key::PAUSE {
            Manner::MAKE
        } else {
            Manner::ALL
        }
    }

    /// Bits 6:5 of the typematic byte: 250 ms to 1 s.
    fn delay_nanos(&self) -> u64 {
        (u64::from(self.typematic >> 5 & 3) + 1) * 250_000_000
    }

    /// Bits 4:0: (8 + A) * 2^B * 4.17 ms, A the low three of them, B the high two.
    fn period_nanos(&self) -> u64 {
        let mantissa = u64::from(self.typematic & 7) + 8;
        let exponent = self.typematic >> 3 & 3;
        (mantissa << exponent) * 4_166_667
    }

    fn defaults(&mut self) {
        let fresh = Self::new();
        self.scan_code_set = fresh.scan_code_set;
        self.typematic = fresh.typematic;
        self.manners = fresh.manners;
        self.repeat = None;
        self.expect = Expect::Command;
    }

    /// Brings a damaged snapshot into range.
    pub(super) fn sanitize(&mut self) {
        self.manners.resize(SET3_CODES, Manner::TYPEMATIC);
        self.scan_code_set = self.scan_code_set.clamp(1, 3);
        self.leds &= 7;
        self.output.sanitize();
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
                self.repeat = None;
                self.output.answer(&[device::ACK]);
            }
            Expect::KeyList(manner) if usize::from(byte) < SET3_CODES => {
                self.expect = Expect::KeyList(manner);
                if let Some(of_key) = self.manners.get_mut(usize::from(byte)) {
                    *of_key = manner;
                }
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
                self.held = Held::default();
                self.output.answer(&[device::ACK]);
            }
            device::ENABLE => {
                self.scanning = true;
                self.output.answer(&[device::ACK]);
            }
            SET_LEDS => self.expect_after_ack(Expect::Leds),
            SCAN_CODE_SET => self.expect_after_ack(Expect::ScanCodeSet),
            device::SET_RATE => self.expect_after_ack(Expect::Typematic),
            0xf7..=0xfa => {
                let manner = match byte {
                    0xf7 => Manner::TYPEMATIC,
                    0xf8 => Manner::MAKE_BREAK,
                    0xf9 => Manner::MAKE,
                    _ => Manner::ALL,
                };
                self.manners.fill(manner);
                self.output.answer(&[device::ACK]);
            }
            0xfb => self.expect_after_ack(Expect::KeyList(Manner::TYPEMATIC)),
            0xfc => self.expect_after_ack(Expect::KeyList(Manner::MAKE_BREAK)),
            0xfd => self.expect_after_ack(Expect::KeyList(Manner::MAKE)),
            _ => self.output.answer(&[device::RESEND]),
        }
    }

    fn expect_after_ack(&mut self, expect: Expect) {
        self.expect = expect;
        self.output.answer(&[device::ACK]);
    }
}

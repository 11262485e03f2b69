//! A PS/2 mouse with three buttons, and a wheel for drivers that know the IntelliMouse knock.

use serde::{Deserialize, Serialize};

use super::queue::ByteQueue;
use super::spec::device;
use crate::Nanos;
use crate::time::NANOS_PER_SEC;

const SCALING_1_TO_1: u8 = 0xe6;
const SCALING_2_TO_1: u8 = 0xe7;
const SET_RESOLUTION: u8 = 0xe8;
const STATUS_REQUEST: u8 = 0xe9;
const STREAM_MODE: u8 = 0xea;
const READ_DATA: u8 = 0xeb;
const RESET_WRAP: u8 = 0xec;
const SET_WRAP: u8 = 0xee;
const REMOTE_MODE: u8 = 0xf0;

/// Sampling rates that, set one after the other, turn the wheel on.
const WHEEL_KNOCK: [u8; 3] = [200, 100, 80];
/// Device type of a plain mouse and of one with its wheel on.
const IDENTITY_PLAIN: u8 = 0;
const IDENTITY_WHEEL: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    Command,
    Resolution,
    SampleRate,
}

/// State of the mouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mouse {
    pub(super) output: ByteQueue,
    expect: Expect,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    resolution: u8,
    sample_rate: u8,
    /// The three sampling rates set last, oldest first.
    knock: [u8; 3],
    wheel: bool,
    /// Movement that has not been sent, in units of [`UNIT`].
    dx: i32,
    dy: i32,
    dz: i32,
    buttons: u8,
    /// Buttons as they were reported last.
    reported: u8,
    /// Before then there is no report: the sampling rate.
    sample_at: Nanos,
}

/// Movement is kept in parts of a count at 4 counts per millimetre, so that none is lost at less.
const UNIT: i32 = 4;
/// Movement that is kept at most.
const MOST: i32 = 4096 * UNIT;

impl Mouse {
    pub(super) fn new() -> Self {
        Self {
            output: ByteQueue::default(),
            expect: Expect::Command,
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            sample_rate: 100,
            knock: [0; 3],
            wheel: false,
            dx: 0,
            dy: 0,
            dz: 0,
            buttons: 0,
            reported: 0,
            sample_at: Nanos::ZERO,
        }
    }

    /// The mouse moved right by `dx`, up by `dy`, its wheel turned down by `dz`; `buttons` are
    /// bit 0 left, bit 1 right, bit 2 middle. Movement that finds no room is kept for later.
    pub(super) fn moved(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8) {
        let add = |sum: i32, delta: i32| {
            sum.saturating_add(delta.saturating_mul(UNIT))
                .clamp(-MOST, MOST)
        };
        self.dx = add(self.dx, dx);
        self.dy = add(self.dy, dy);
        self.dz = self.dz.saturating_add(dz).clamp(-64, 64);
        self.buttons = buttons & 7;
    }

    /// Reports what has changed since the last sample, in stream mode.
    pub(super) fn advance(&mut self, now: Nanos) {
        if self.wants_report() && self.sample_at <= now && self.report(true) {
            let rate = u64::from(self.sample_rate.max(1));
            self.sample_at = now.after(NANOS_PER_SEC / rate);
        }
    }

    /// When there is something to report.
    pub(super) fn next_event(&self) -> Option<Nanos> {
        // Without room the next read of a byte is the occasion.
        let room = self.output.has_room(self.packet_length());
        (self.wants_report() && room).then_some(self.sample_at)
    }

    fn wants_report(&self) -> bool {
        let moved = self.counts(self.dx) != 0 || self.counts(self.dy) != 0;
        let turned = self.wheel && self.dz != 0;
        let changed = moved || turned || self.buttons != self.reported;
        self.reporting && !self.remote && !self.wrap && changed
    }

    /// A count at the resolution that is set: 1, 2, 4 or 8 in a millimetre.
    fn count_size(&self) -> i32 {
        (UNIT << 2) >> (self.resolution & 3)
    }

    fn counts(&self, movement: i32) -> i32 {
        (movement / self.count_size()).clamp(-255, 255)
    }

    fn packet_length(&self) -> usize {
        if self.wheel { 4 } else { 3 }
    }

    /// Queues one movement packet; false if there is no room, and nothing has changed. Scaling
    /// concerns stream mode only.
    fn report(&mut self, stream: bool) -> bool {
        let (dx, dy) = (self.counts(self.dx), self.counts(self.dy));
        let dz = self.dz.clamp(-8, 7);
        let told = |counts| {
            if stream && self.scaling {
                scale(counts)
            } else {
                counts
            }
        };
        let (x, y) = (told(dx), told(dy));
        let sign = |delta: i32, bit: u8| if delta < 0 { bit } else { 0 };
        let head = 0x08 | self.buttons | sign(x, 0x10) | sign(y, 0x20);
        let packet = [head, x as u8, y as u8, dz as u8];
        let length = self.packet_length();
        let sent = self.output.data(packet.get(..length).unwrap_or_default());
        if sent {
            self.dx -= dx * self.count_size();
            self.dy -= dy * self.count_size();
            self.dz -= dz;
            self.reported = self.buttons;
        }
        sent
    }

    /// Brings a damaged snapshot into range.
    pub(super) fn sanitize(&mut self) {
        self.resolution &= 3;
        self.buttons &= 7;
        self.dx = self.dx.clamp(-MOST, MOST);
        self.dy = self.dy.clamp(-MOST, MOST);
        self.dz = self.dz.clamp(-64, 64);
        self.output.sanitize();
    }

    fn defaults(&mut self) {
        let fresh = Self::new();
        self.reporting = false;
        self.remote = false;
        self.scaling = false;
        self.resolution = fresh.resolution;
        self.sample_rate = fresh.sample_rate;
        self.dx = 0;
        self.dy = 0;
        self.dz = 0;
    }

    /// A byte from the host.
    pub(super) fn receive(&mut self, byte: u8) {
        if self.wrap && byte != device::RESET && byte != RESET_WRAP {
            self.output.answer(&[byte]);
            return;
        }
        match std::mem::replace(&mut self.expect, Expect::Command) {
            Expect::Command => self.command(byte),
            Expect::Resolution => {
                self.resolution = byte & 3;
                self.output.answer(&[device::ACK]);
            }
            Expect::SampleRate => {
                self.sample_rate = byte;
                let [_, second, third] = self.knock;
                self.knock = [second, third, byte];
                self.wheel |= self.knock == WHEEL_KNOCK;
                self.output.answer(&[device::ACK]);
            }
        }
    }

    fn command(&mut self, byte: u8) {
        if byte != device::RESEND {
            self.output.clear();
        }
        match byte {
            device::RESET => {
                let output = std::mem::take(&mut self.output);
                *self = Self {
                    output,
                    buttons: self.buttons,
                    ..Self::new()
                };
                self.output
                    .answer(&[device::ACK, device::BAT_OK, IDENTITY_PLAIN]);
                return;
            }
            device::RESEND => {
                let last = self.output.last();
                self.output.answer(&[last]);
                return;
            }
            device::IDENTIFY => {
                let identity = if self.wheel {
                    IDENTITY_WHEEL
                } else {
                    IDENTITY_PLAIN
                };
                self.output.answer(&[device::ACK, identity]);
                return;
            }
            STATUS_REQUEST => {
                let status = u8::from(self.remote) << 6
                    | u8::from(self.reporting) << 5
                    | u8::from(self.scaling) << 4
                    | (self.buttons & 1) << 2
                    | (self.buttons & 4) >> 1
                    | (self.buttons & 2) >> 1;
                let answer = [device::ACK, status, self.resolution, self.sample_rate];
                self.output.answer(&answer);
                return;
            }
            READ_DATA => {
                self.output.answer(&[device::ACK]);
                self.report(false);
                return;
            }
            SET_RESOLUTION => self.expect = Expect::Resolution,
            device::SET_RATE => self.expect = Expect::SampleRate,
            SCALING_1_TO_1 => self.scaling = false,
            SCALING_2_TO_1 => self.scaling = true,
            STREAM_MODE => self.remote = false,
            REMOTE_MODE => self.remote = true,
            SET_WRAP => self.wrap = true,
            RESET_WRAP => self.wrap = false,
            device::ENABLE => self.reporting = true,
            device::DISABLE => self.reporting = false,
            device::SET_DEFAULTS => self.defaults(),
            _ => {
                self.output.answer(&[device::RESEND]);
                return;
            }
        }
        self.output.answer(&[device::ACK]);
    }
}

/// Scaling 2:1: small movements get smaller, large ones larger.
fn scale(counts: i32) -> i32 {
    let scaled = match counts.abs() {
        0 => 0,
        1 | 2 => 1,
        3 => 3,
        4 => 6,
        5 => 9,
        more => (2 * more).min(255),
    };
    scaled * counts.signum()
}

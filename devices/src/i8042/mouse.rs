//! A PS/2 mouse with three buttons, and a wheel for drivers that know the IntelliMouse knock.

use serde::{Deserialize, Serialize};

use super::queue::ByteQueue;
use super::spec::device;

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
    /// Movement that has not been sent.
    dx: i32,
    dy: i32,
    dz: i32,
    buttons: u8,
}

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
        }
    }

    /// The mouse moved right by `dx`, up by `dy`, its wheel turned down by `dz`; `buttons` are
    /// bit 0 left, bit 1 right, bit 2 middle. Movement that finds no room is kept for later.
    pub(super) fn moved(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8) {
        let add = |sum: i32, delta: i32| sum.saturating_add(delta).clamp(-4096, 4096);
        self.dx = add(self.dx, dx);
        self.dy = add(self.dy, dy);
        self.dz = add(self.dz, dz).clamp(-64, 64);
        let clicked = self.buttons != buttons & 7;
        self.buttons = buttons & 7;
        if !self.reporting || self.remote {
            return;
        }
        if clicked || (self.dx, self.dy, self.dz) != (0, 0, 0) {
            self.report();
        }
    }

    /// Queues one movement packet. Without room for it nothing changes.
    fn report(&mut self) -> bool {
        let dx = self.dx.clamp(-255, 255);
        let dy = self.dy.clamp(-255, 255);
        let dz = self.dz.clamp(-8, 7);
        let sign = |delta: i32, bit: u8| if delta < 0 { bit } else { 0 };
        let head = 0x08 | self.buttons | sign(dx, 0x10) | sign(dy, 0x20);
        let packet = [head, dx as u8, dy as u8, dz as u8];
        let length = if self.wheel { 4 } else { 3 };
        let sent = self.output.data(packet.get(..length).unwrap_or_default());
        if sent {
            self.dx -= dx;
            self.dy -= dy;
            self.dz -= dz;
        }
        sent
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
                self.report();
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

//! One counter of the 8254.
//!
//! A counter is evaluated lazily: [`Counter::advance`] carries it from the tick it was last
//! looked at to another one, in constant time however far that is.

use serde::{Deserialize, Serialize};

use super::spec::{Access, Mode, PIT_CLOCK, STATUS_NULL_COUNT, STATUS_OUT};
use crate::Nanos;

/// State of one counter. Counts are kept in binary; BCD only changes modulus and appearance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    mode: Mode,
    bcd: bool,
    access: Access,
    /// CR: the count as it was written.
    cr: u16,
    /// Low byte of a two-byte write that is not complete.
    written_low: Option<u8>,
    /// CR holds a count that CE has not taken over.
    null_count: bool,
    /// A count was written since the control word.
    armed: bool,
    /// The next clock loads CE from CR.
    load: bool,
    /// CE has been loaded since the control word.
    running: bool,
    /// The count CE was loaded with, 1 to the modulus.
    period: u32,
    /// CE; in mode 3, clocks since the start of the half-cycle.
    ce: u32,
    /// Modes 0, 1, 4, 5: the terminal count was reached.
    expired: bool,
    gate: bool,
    out: bool,
    /// Tick of the last evaluation.
    tick: u64,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    /// The next byte read is the high one of two.
    read_high: bool,
}

/// The largest count, written as 0 in binary counting.
const MAX_COUNT: u32 = 1 << 16;

impl Counter {
    /// A counter after power-on: undefined by the data sheet; idle here.
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: Mode::RateGenerator,
            bcd: false,
            access: Access::LsbMsb,
            cr: 0,
            written_low: None,
            null_count: true,
            armed: false,
            load: false,
            running: false,
            period: MAX_COUNT,
            ce: 0,
            expired: false,
            gate,
            out: true,
            tick: 0,
            latched_count: None,
            latched_status: None,
            read_high: false,
        }
    }

    /// Brings a deserialized state into the range that a counter can be in.
    pub(super) fn sanitize(&mut self) {
        self.tick = self.tick.min(PIT_CLOCK.ticks_at(Nanos::MAX));
        // A control word changes the radix at once, the count only when it is loaded.
        self.period = self.period.clamp(1, MAX_COUNT);
        self.ce = self.ce.min(MAX_COUNT);
        if self.running && self.mode == Mode::SquareWave {
            self.ce = self.ce.min(self.half(self.period).saturating_sub(1));
        }
    }

    pub(super) fn out(&self) -> bool {
        self.out
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// Whether OUT is a train of pulses that missed ticks can be made up for.
    pub(super) fn is_periodic(&self) -> bool {
        matches!(self.mode, Mode::RateGenerator | Mode::SquareWave)
    }

    /// The count in effect, in clocks, and whether it repeats; for the speaker.
    pub(super) fn period(&self) -> Option<u32> {
        (self.running && self.is_periodic()).then_some(self.period)
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { MAX_COUNT }
    }

    /// The number that CR stands for: 1 to the modulus, 0 being the largest.
    fn initial_count(&self) -> u32 {
        let count = if self.bcd {
            // Digits above 9 are not legal; they carry over.
            (0..4).fold(0, |sum, digit| {
                sum + u32::from(self.cr >> (4 * digit) & 0xf) * 10u32.pow(digit)
            }) % 10_000
        } else {
            u32::from(self.cr)
        };
        if count == 0 { self.modulus() } else { count }
    }

    /// Length in clocks of the current half-cycle of mode 3 for a count.
    fn half(&self, period: u32) -> u32 {
        if self.out {
            period.div_ceil(2)
        } else {
            period / 2
        }
    }

    /// Whether GATE lets the counting element count.
    fn counting(&self) -> bool {
        self.running && (self.gate || matches!(self.mode, Mode::OneShot | Mode::HardwareStrobe))
    }

    /// Goes on to tick `to`. Returns how often OUT rose on the way.
    pub(super) fn advance(&mut self, to: u64) -> u64 {
        let mut clocks = to.saturating_sub(self.tick);
        if clocks == 0 {
            return 0;
        }
        self.tick = to;
        let mut rising = 0;
        if self.load {
            clocks -= 1;
            rising += self.load_ce();
        }
        if clocks > 0 && self.counting() {
            rising += match self.mode {
                Mode::RateGenerator => self.count_rate(clocks),
                Mode::SquareWave => self.count_square(clocks),
                _ => self.count_once(clocks),
            };
        }
        rising
    }

    fn set_out(&mut self, out: bool) -> u64 {
        let rose = out && !self.out;
        self.out = out;
        u64::from(rose)
    }

    fn take_count(&mut self) {
        self.period = self.initial_count();
        self.null_count = false;
    }

    /// The clock that moves CR into CE.
    fn load_ce(&mut self) -> u64 {
        self.load = false;
        self.running = true;
        self.expired = false;
        self.take_count();
        self.ce = self.period;
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => self.set_out(false),
            Mode::SquareWave => {
                self.ce = 0;
                self.set_out(true)
            }
            Mode::RateGenerator => {
                let rose = self.set_out(true);
                self.out = self.ce != 1;
                rose
            }
            Mode::SoftwareStrobe | Mode::HardwareStrobe => self.set_out(true),
        }
    }

    /// Modes 0, 1, 4, 5: CE passes zero once with effect and keeps wrapping after that.
    fn count_once(&mut self, clocks: u64) -> u64 {
        let strobe = matches!(self.mode, Mode::SoftwareStrobe | Mode::HardwareStrobe);
        let modulus = self.modulus();
        let mut rising = 0;
        if self.expired {
            // The strobe, if this was one, is over.
            rising += self.set_out(true);
        } else {
            let left = u64::from(self.ce);
            if clocks >= left {
                self.expired = true;
                if !strobe {
                    rising += self.set_out(true);
                } else if clocks > left {
                    self.out = false;
                    rising += self.set_out(true);
                } else {
                    self.out = false;
                }
            }
        }
        let wrapped = (clocks % u64::from(modulus)) as u32;
        self.ce = (self.ce + modulus - wrapped) % modulus;
        if !self.expired && self.ce == 0 {
            self.ce = modulus;
        }
        rising
    }

    /// Mode 2: OUT is low while CE is 1, and rises when CE is loaded again.
    fn count_rate(&mut self, clocks: u64) -> u64 {
        let left = u64::from(self.ce);
        let mut rising = 0;
        if clocks < left {
            self.ce -= clocks as u32;
        } else {
            let mut clocks = clocks - left;
            rising += u64::from(self.period > 1);
            self.take_count();
            let period = u64::from(self.period);
            if period > 1 {
                rising += clocks / period;
            }
            clocks %= period;
            self.ce = self.period - clocks as u32;
        }
        self.out = self.ce != 1;
        rising
    }

    /// Mode 3: OUT is high for the longer half of the count and low for the shorter.
    fn count_square(&mut self, mut clocks: u64) -> u64 {
        let mut rising = 0;
        loop {
            let left = u64::from(self.half(self.period).saturating_sub(self.ce));
            if clocks < left {
                self.ce += clocks as u32;
                return rising;
            }
            clocks -= left;
            self.ce = 0;
            rising += self.set_out(!self.out);
            // A new count is taken over at the end of a half-cycle.
            self.take_count();
            rising += clocks / u64::from(self.period);
            clocks %= u64::from(self.period);
        }
    }

    /// The tick at which OUT rises next if nobody interferes.
    pub(super) fn next_rising(&self) -> Option<u64> {
        let one_level = matches!(self.mode, Mode::TerminalCount | Mode::OneShot);
        if self.load && !self.out && !one_level {
            // Loading ends a strobe.
            return Some(self.tick + 1);
        }
        let (start, out, ce, period) = if self.load {
            let period = self.initial_count();
            let ce = if self.mode == Mode::SquareWave {
                0
            } else {
                period
            };
            let out = !matches!(self.mode, Mode::TerminalCount | Mode::OneShot);
            (self.tick + 1, out, ce, period)
        } else if self.running {
            (self.tick, self.out, self.ce, self.period)
        } else {
            return None;
        };
        let gated = !matches!(self.mode, Mode::OneShot | Mode::HardwareStrobe);
        if gated && !self.gate {
            return None;
        }
        let expired = self.expired && !self.load;
        let clocks = match self.mode {
            Mode::TerminalCount | Mode::OneShot => (!expired).then_some(ce)?,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => match (expired, out) {
                (false, _) => ce + 1,
                (true, false) => 1,
                (true, true) => return None,
            },
            Mode::RateGenerator => (period > 1).then_some(ce)?,
            Mode::SquareWave => {
                let next = if self.null_count {
                    self.initial_count()
                } else {
                    period
                };
                if out {
                    (period.div_ceil(2) - ce.min(period.div_ceil(2))) + next / 2
                } else {
                    period / 2 - ce.min(period / 2)
                }
            }
        };
        Some(start + u64::from(clocks.max(1)))
    }

    /// A control word for this counter. Returns how often OUT rose.
    pub(super) fn control(&mut self, control: u8, access: Access) -> u64 {
        self.mode = Mode::from_control(control);
        self.bcd = control & 1 != 0;
        self.access = access;
        self.cr = 0;
        self.written_low = None;
        self.null_count = true;
        self.armed = false;
        self.load = false;
        self.running = false;
        self.expired = false;
        self.latched_count = None;
        self.latched_status = None;
        self.read_high = false;
        self.set_out(self.mode != Mode::TerminalCount)
    }

    /// A byte of a count.
    pub(super) fn write(&mut self, value: u8) {
        let count = match self.access {
            Access::Lsb => u16::from(value),
            Access::Msb => u16::from(value) << 8,
            Access::LsbMsb => match self.written_low.take() {
                None => {
                    self.written_low = Some(value);
                    if self.mode == Mode::TerminalCount {
                        // The first byte stops the counter and lowers OUT at once.
                        self.running = false;
                        self.load = false;
                        self.out = false;
                    }
                    return;
                }
                Some(low) => u16::from_le_bytes([low, value]),
            },
        };
        self.cr = count;
        self.null_count = true;
        self.armed = true;
        match self.mode {
            Mode::TerminalCount => {
                self.out = false;
                self.load = true;
            }
            Mode::SoftwareStrobe => self.load = true,
            // While counting, the new count waits for the end of the (half-)cycle.
            Mode::RateGenerator | Mode::SquareWave => self.load |= !self.running,
            // The trigger loads it.
            Mode::OneShot | Mode::HardwareStrobe => {}
        }
    }

    /// A new level of GATE. Returns how often OUT rose.
    pub(super) fn set_gate(&mut self, gate: bool) -> u64 {
        let before = std::mem::replace(&mut self.gate, gate);
        match self.mode {
            Mode::OneShot | Mode::HardwareStrobe if gate && !before => {
                self.load = self.armed;
                0
            }
            Mode::RateGenerator | Mode::SquareWave if gate && !before => {
                self.load = self.armed;
                0
            }
            // GATE low sets OUT high at once.
            Mode::RateGenerator | Mode::SquareWave if !gate && before => self.set_out(true),
            _ => 0,
        }
    }

    /// The count as software sees it.
    fn visible_count(&self) -> u16 {
        let count = if self.mode == Mode::SquareWave && self.running {
            // CE starts at the next lower even number and goes down by two.
            (self.period & !1).saturating_sub(2 * self.ce)
        } else {
            self.ce
        } % self.modulus();
        if self.bcd {
            (0..4).fold(0, |bcd, digit| {
                bcd | (count / 10u32.pow(digit) % 10) << (4 * digit)
            }) as u16
        } else {
            count as u16
        }
    }

    /// Counter latch command. A count that is already latched stays.
    pub(super) fn latch_count(&mut self) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.visible_count());
        }
    }

    /// Read-back command for the status. A status that is already latched stays.
    pub(super) fn latch_status(&mut self) {
        if self.latched_status.is_none() {
            let out = if self.out { STATUS_OUT } else { 0 };
            let null = if self.null_count {
                STATUS_NULL_COUNT
            } else {
                0
            };
            let mode = self.mode.number() << 1 | u8::from(self.bcd);
            self.latched_status = Some(out | null | self.access.bits() | mode);
        }
    }

    /// A read of the counter's port.
    pub(super) fn read(&mut self) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = self.latched_count.unwrap_or_else(|| self.visible_count());
        let [low, high] = count.to_le_bytes();
        let (value, last) = match self.access {
            Access::Lsb => (low, true),
            Access::Msb => (high, true),
            Access::LsbMsb if self.read_high => (high, true),
            Access::LsbMsb => (low, false),
        };
        self.read_high = !last;
        if last {
            self.latched_count = None;
        }
        value
    }
}

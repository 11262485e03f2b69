//! The MC146818 real-time clock and its battery-backed RAM ("CMOS").
//!
//! The time is not counted but computed: wall-clock time at the start of the machine (injected),
//! plus machine time, plus what software has changed by setting the clock. Flags and interrupts
//! are evaluated when somebody looks or when [`Rtc::next_event`] is due.

use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::fdc::{self, DriveKind};
use crate::line::Line;
use crate::time::{NANOS_PER_SEC, WallClock};

mod calendar;
pub mod spec;
#[cfg(test)]
mod tests;

use calendar::{DAY_SECONDS, DateTime, Format};
use spec::{
    ALARM_ANY, CENTURY, DATA, DAY, EXTENDED_DATA, EXTENDED_INDEX, FIRST_UPDATE_NANOS, HOURS,
    HOURS_ALARM, INDEX, MINUTES, MINUTES_ALARM, MONTH, NMI_DISABLE, REGISTER_A, REGISTER_B,
    REGISTER_C, REGISTER_D, RTC_CLOCK, RegA, RegB, RegC, SECONDS, SECONDS_ALARM, UIP_NANOS, VRT,
    WEEKDAY, YEAR, cmos,
};

/// Bytes of a bank of RAM; the first has the clock's registers.
const RAM_SIZE: usize = 128;

/// State of the clock and its RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    index: u8,
    nmi_disabled: bool,
    /// Everything that is not computed: alarms, registers A and B, RAM. While SET is 1 also the
    /// time registers, as software writes them.
    ram: Vec<u8>,
    /// Register C without IRQF.
    flags: u8,
    /// Seconds since 1970 at machine time `-phase`.
    base: i64,
    /// Nanoseconds that the second in progress was old at machine time zero.
    phase: u64,
    /// The time at which the divider chain was stopped, if it is.
    held: Option<i64>,
    /// Flags are evaluated up to here.
    evaluated: Nanos,
    extended_index: u8,
    /// The upper bank.
    extended_ram: Vec<u8>,
}

/// The real-time clock.
#[derive(Debug)]
pub struct Rtc {
    // Wiring.
    irq8: Line,
    // Volatile (the battery keeps most of it over a reset).
    state: RtcState,
}

impl Rtc {
    /// A clock that shows `wall` at machine time zero and drives `irq8`.
    pub fn new(irq8: Line, wall: WallClock) -> Self {
        let mut ram = vec![0; RAM_SIZE];
        for (index, value) in [
            // 1024 Hz, as a PC's firmware leaves it.
            (REGISTER_A, RegA::DV_32K.bits() | 0x06),
            (REGISTER_B, RegB::H24.bits()),
        ] {
            if let Some(byte) = ram.get_mut(usize::from(index)) {
                *byte = value;
            }
        }
        Self {
            irq8,
            state: RtcState {
                index: 0,
                nmi_disabled: false,
                ram,
                flags: 0,
                base: wall.seconds,
                phase: u64::from(wall.nanos) % NANOS_PER_SEC,
                held: None,
                evaluated: Nanos::ZERO,
                extended_index: 0,
                extended_ram: vec![0; RAM_SIZE],
            },
        }
    }

    /// Writes a byte of RAM from outside, as the firmware's set-up would (see [`spec::cmos`]).
    /// The clock's own registers cannot be written this way.
    pub fn set_ram(&mut self, index: u8, value: u8) {
        if index > REGISTER_D
            && index != CENTURY
            && let Some(byte) = self.state.ram.get_mut(usize::from(index))
        {
            *byte = value;
        }
    }

    /// Puts the size of memory where firmware looks for it. `bytes` counts from address zero.
    pub fn set_memory_size(&mut self, bytes: u64) {
        let kib = bytes / 1024;
        let extended = kib.saturating_sub(1024).min(63 * 1024) as u16;
        let above_16m = (kib.saturating_sub(16 * 1024) / 64).min(0xffff) as u16;
        for (index, value) in [
            (cmos::BASE_MEMORY, kib.min(640) as u16),
            (cmos::EXTENDED_MEMORY, extended),
            (cmos::EXTENDED_MEMORY_POST, extended),
            (cmos::MEMORY_ABOVE_16M, above_16m),
        ] {
            let [low, high] = value.to_le_bytes();
            self.set_ram(index, low);
            self.set_ram(index + 1, high);
        }
    }

    /// Puts the kinds of the floppy drives where firmware looks for them.
    pub fn set_floppy_drives(&mut self, drives: [Option<DriveKind>; fdc::DRIVES]) {
        let [first, second] = drives.map(|drive| drive.map_or(0, DriveKind::cmos_type));
        self.set_ram(cmos::FLOPPY, first << 4 | second);
        let count = drives.iter().flatten().count() as u8;
        // Bit 0: there are any; bits 7:6: how many more than one.
        let any = u8::from(count > 0);
        let equipment = self.ram(cmos::EQUIPMENT) & 0x3e;
        self.set_ram(
            cmos::EQUIPMENT,
            equipment | any | count.saturating_sub(1) << 6,
        );
    }

    /// Whether port 70h bit 7 keeps NMI from the processor.
    pub fn nmi_disabled(&self) -> bool {
        self.state.nmi_disabled
    }

    /// Sets the flags that are due and drives IRQ 8.
    pub fn advance(&mut self, now: Nanos) {
        self.evaluate(now);
        self.drive();
    }

    /// When IRQ 8 is raised next, if software does not interfere.
    pub fn next_event(&self) -> Option<Nanos> {
        let enables = self.reg_b();
        if self.interrupt_flags() != 0 {
            // It is raised already.
            return None;
        }
        let from = self.state.evaluated;
        let periodic = self
            .periodic_shift()
            .filter(|_| enables.contains(RegB::PIE))
            .map(|shift| {
                let period = RTC_CLOCK.ticks_at(from) >> shift;
                RTC_CLOCK.time_of((period + 1) << shift)
            });
        let mut seconds = None;
        if self.updating() {
            if enables.contains(RegB::UIE) {
                seconds = Some(1);
            } else if enables.contains(RegB::AIE) {
                seconds = self.seconds_to_alarm(self.time(from));
            }
        }
        let update = seconds.map(|seconds| {
            let second = self.second(from).saturating_add(seconds);
            second.checked_mul(NANOS_PER_SEC).map_or(Nanos::MAX, |end| {
                Nanos(end.saturating_sub(self.state.phase))
            })
        });
        [periodic, update].into_iter().flatten().min()
    }

    /// The RESET# pin: interrupts off, flags clear. Time and RAM stay.
    pub fn reset(&mut self, now: Nanos) {
        self.evaluate(now);
        let off = RegB::PIE | RegB::AIE | RegB::UIE | RegB::SQWE;
        self.set_ram_raw(REGISTER_B, (self.reg_b() - off).bits());
        self.state.flags = 0;
        self.state.index = 0;
        self.state.extended_index = 0;
        self.state.nmi_disabled = false;
        self.drive();
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &RtcState {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, mut state: RtcState) {
        state.ram.resize(RAM_SIZE, 0);
        state.extended_ram.resize(RAM_SIZE, 0);
        state.index &= 0x7f;
        state.extended_index &= 0x7f;
        state.phase %= NANOS_PER_SEC;
        // Keeps sums of seconds far from overflow.
        let limit = i64::MAX / 4;
        state.base = state.base.clamp(-limit, limit);
        state.held = state.held.map(|held| held.clamp(-limit, limit));
        self.state = state;
        self.drive();
    }

    fn ram(&self, index: u8) -> u8 {
        self.state
            .ram
            .get(usize::from(index))
            .copied()
            .unwrap_or(0xff)
    }

    fn set_ram_raw(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.state.ram.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    fn reg_a(&self) -> RegA {
        RegA::from_bits_truncate(self.ram(REGISTER_A))
    }

    fn reg_b(&self) -> RegB {
        RegB::from_bits_truncate(self.ram(REGISTER_B))
    }

    fn format(&self) -> Format {
        Format(self.reg_b())
    }

    /// Whether the time registers advance once a second.
    fn updating(&self) -> bool {
        self.state.held.is_none() && !self.reg_b().contains(RegB::SET)
    }

    /// Updates between the start of the base second and `now`.
    fn second(&self, now: Nanos) -> u64 {
        now.after(self.state.phase).0 / NANOS_PER_SEC
    }

    /// The time of day, in seconds since 1970.
    fn time(&self, now: Nanos) -> i64 {
        self.state
            .held
            .unwrap_or_else(|| self.state.base + self.second(now) as i64)
    }

    fn set_time(&mut self, seconds: i64, now: Nanos) {
        match &mut self.state.held {
            Some(held) => *held = seconds,
            None => self.state.base = seconds - self.second(now) as i64,
        }
    }

    /// Base-2 logarithm of the periodic interrupt's period in 32.768 kHz ticks.
    fn periodic_shift(&self) -> Option<u32> {
        if self.state.held.is_some() {
            return None;
        }
        match (self.reg_a() & RegA::RS).bits() {
            0 => None,
            // The first two rates are those of 8 and 9.
            rate @ (1 | 2) => Some(u32::from(rate) + 6),
            rate => Some(u32::from(rate) - 1),
        }
    }

    /// Sets the flags for what happened since the last evaluation.
    fn evaluate(&mut self, now: Nanos) {
        let from = self.state.evaluated;
        if now <= from {
            return;
        }
        self.state.evaluated = now;
        if let Some(shift) = self.periodic_shift()
            && RTC_CLOCK.ticks_at(from) >> shift != RTC_CLOCK.ticks_at(now) >> shift
        {
            self.state.flags |= RegC::PF.bits();
        }
        if self.updating() {
            let updates = self.second(now) - self.second(from);
            if updates > 0 {
                self.state.flags |= RegC::UF.bits();
                let alarm = self.seconds_to_alarm(self.time(from));
                if alarm.is_some_and(|seconds| seconds <= updates) {
                    self.state.flags |= RegC::AF.bits();
                }
            }
        }
    }

    /// Seconds from `time` to the next update at which the alarm matches, 1 to 86400.
    fn seconds_to_alarm(&self, time: i64) -> Option<u64> {
        let format = self.format();
        let hour = AlarmField::new(self.ram(HOURS_ALARM), 24, |h| format.encode_hour(h))?;
        let minute = AlarmField::new(self.ram(MINUTES_ALARM), 60, |m| format.encode(m))?;
        let second = AlarmField::new(self.ram(SECONDS_ALARM), 60, |s| format.encode(s))?;
        let start = time.rem_euclid(DAY_SECONDS) as u64 + 1;
        let mut at = start;
        // Each step leaves the hour, the minute or the second that does not match. All three can
        // match, so there are at most about 24 + 2 * (60 + 60) steps.
        while at < start + DAY_SECONDS as u64 {
            if !hour.matches(at / 3600 % 24) {
                at = (at / 3600 + 1) * 3600;
            } else if !minute.matches(at / 60 % 60) {
                at = (at / 60 + 1) * 60;
            } else if !second.matches(at % 60) {
                at += 1;
            } else {
                return Some(at - start + 1);
            }
        }
        None
    }

    /// Flags that are set and enabled. Bits of B and C are in the same places.
    fn interrupt_flags(&self) -> u8 {
        self.state.flags & self.ram(REGISTER_B) & (RegC::PF | RegC::AF | RegC::UF).bits()
    }

    fn drive(&mut self) {
        let asserted = self.interrupt_flags() != 0;
        self.irq8.set(asserted);
    }

    /// A time register as it shows `seconds` since 1970.
    fn encode_time(&self, index: u8, seconds: i64) -> u8 {
        let date = DateTime::from_unix(seconds);
        let format = self.format();
        let two_digits = |value: i64| format.encode(value.rem_euclid(100) as u8);
        match index {
            SECONDS => format.encode(date.second),
            MINUTES => format.encode(date.minute),
            HOURS => format.encode_hour(date.hour),
            WEEKDAY => format.encode(date.weekday),
            DAY => format.encode(date.day),
            MONTH => format.encode(date.month),
            YEAR => two_digits(date.year),
            _ => two_digits(date.year / 100),
        }
    }

    /// The time that the time registers in RAM stand for.
    fn decode_time(&self) -> i64 {
        let format = self.format();
        let number = |index: u8| format.decode(self.ram(index));
        DateTime {
            year: i64::from(number(CENTURY).min(99)) * 100 + i64::from(number(YEAR).min(99)),
            month: number(MONTH),
            day: number(DAY),
            weekday: 1,
            hour: format.decode_hour(self.ram(HOURS)),
            minute: number(MINUTES),
            second: number(SECONDS),
        }
        .to_unix()
    }

    /// Copies the running time into the RAM behind the time registers.
    fn freeze_time(&mut self, now: Nanos) {
        let time = self.time(now);
        for index in [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY] {
            let value = self.encode_time(index, time);
            self.set_ram_raw(index, value);
        }
    }

    fn read_register(&mut self, now: Nanos) -> u8 {
        let index = self.state.index;
        match index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                if self.reg_b().contains(RegB::SET) {
                    self.ram(index)
                } else {
                    self.encode_time(index, self.time(now))
                }
            }
            REGISTER_A => {
                let into_second = now.after(self.state.phase).0 % NANOS_PER_SEC;
                let updating = self.updating() && into_second >= NANOS_PER_SEC - UIP_NANOS;
                let uip = if updating { RegA::UIP.bits() } else { 0 };
                self.ram(REGISTER_A) | uip
            }
            REGISTER_C => {
                let irqf = if self.interrupt_flags() != 0 {
                    RegC::IRQF.bits()
                } else {
                    0
                };
                let value = self.state.flags | irqf;
                self.state.flags = 0;
                self.drive();
                value
            }
            REGISTER_D => VRT,
            _ => self.ram(index),
        }
    }

    fn write_register(&mut self, value: u8, now: Nanos) {
        let index = self.state.index;
        match index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                if self.reg_b().contains(RegB::SET) {
                    self.set_ram_raw(index, value);
                } else {
                    // Without SET the running counters are written directly.
                    self.freeze_time(now);
                    self.set_ram_raw(index, value);
                    self.set_time(self.decode_time(), now);
                }
            }
            REGISTER_A => self.write_a(value, now),
            REGISTER_B => self.write_b(value, now),
            REGISTER_C | REGISTER_D => {}
            _ => self.set_ram_raw(index, value),
        }
    }

    fn write_a(&mut self, value: u8, now: Nanos) {
        let value = value & !RegA::UIP.bits();
        let held = value & RegA::DV_RESET.bits() == RegA::DV_RESET.bits();
        self.set_ram_raw(REGISTER_A, value);
        match self.state.held {
            None if held => self.state.held = Some(self.time(now)),
            Some(time) if !held => {
                // The first update comes half a second after the release.
                self.state.held = None;
                let into = now.0 % NANOS_PER_SEC;
                self.state.phase = (2 * NANOS_PER_SEC - FIRST_UPDATE_NANOS - into) % NANOS_PER_SEC;
                self.set_time(time, now);
            }
            _ => {}
        }
    }

    fn write_b(&mut self, value: u8, now: Nanos) {
        let before = self.reg_b();
        let mut after = RegB::from_bits_truncate(value);
        if after.contains(RegB::SET) {
            // Setting SET clears UIE.
            after -= RegB::UIE;
            if !before.contains(RegB::SET) {
                self.freeze_time(now);
            }
        }
        self.set_ram_raw(REGISTER_B, after.bits());
        if before.contains(RegB::SET) && !after.contains(RegB::SET) {
            self.set_time(self.decode_time(), now);
        }
        self.drive();
    }
}

/// What an alarm register matches.
enum AlarmField {
    Any,
    Only(u8),
}

impl AlarmField {
    /// What `byte` matches of the values below `end`; `None` if that is nothing.
    fn new(byte: u8, end: u8, encode: impl Fn(u8) -> u8) -> Option<Self> {
        if byte >= ALARM_ANY {
            return Some(Self::Any);
        }
        (0..end)
            .find(|&value| encode(value) == byte)
            .map(Self::Only)
    }

    fn matches(&self, value: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Only(only) => u64::from(*only) == value,
        }
    }
}

impl PortDevice for Rtc {
    fn port_read(&mut self, port: u16, _size: AccessSize, now: Nanos) -> u32 {
        match port {
            DATA => {
                self.advance(now);
                u32::from(self.read_register(now))
            }
            EXTENDED_DATA => {
                let index = usize::from(self.state.extended_index);
                let byte = self.state.extended_ram.get(index);
                byte.map_or(AccessSize::Byte.ones(), |&byte| u32::from(byte))
            }
            // The index registers cannot be read; nobody drives the bus.
            _ => AccessSize::Byte.ones(),
        }
    }

    fn port_write(&mut self, port: u16, _size: AccessSize, value: u32, now: Nanos) {
        let value = value as u8;
        match port {
            INDEX => {
                self.state.index = value & !NMI_DISABLE;
                self.state.nmi_disabled = value & NMI_DISABLE != 0;
            }
            DATA => {
                self.advance(now);
                self.write_register(value, now);
            }
            EXTENDED_INDEX => self.state.extended_index = value & 0x7f,
            _ => {
                let index = usize::from(self.state.extended_index);
                if let Some(byte) = self.state.extended_ram.get_mut(index) {
                    *byte = value;
                }
            }
        }
    }
}

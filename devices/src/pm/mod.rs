//! Power management: the ACPI fixed registers with SCI, the power management timer, soft off,
//! and the two ways to a reset of the system that are not the keyboard controller.
//!
//! There is no system management mode: writing SMI_CMD has the effect that the firmware's
//! handler would have. Sleep states other than S5 are not there and \_S1 to \_S4 are not
//! announced; entering one is ignored.

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::event::{EventSink, ResetKind, Signal};
use crate::limit::LogLimit;
use crate::line::Line;

pub mod spec;
#[cfg(test)]
mod tests;

use spec::{
    ACPI_DISABLE, ACPI_ENABLE, APM_STATUS, PM_BASE, PM_CLOCK, PM_TIMER_BITS, Pm1, Pm1Cnt,
    RESET_CONTROL, ResetControl, SLP_TYP_S5, SMI_CMD,
};

/// State of the power management registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmState {
    status: u16,
    enable: u16,
    control: u16,
    apm_control: u8,
    apm_status: u8,
    reset_control: u8,
    /// Half-periods of the timer's highest bit that have been accounted for.
    half_periods: u64,
}

/// Power management.
#[derive(Debug)]
pub struct Pm {
    // Wiring.
    sci: Line,
    events: EventSink,
    /// Where the register block is.
    base: u16,
    // Volatile.
    state: PmState,
    log: LogLimit,
}

/// How often the timer's highest bit has changed.
fn half_periods(now: Nanos) -> u64 {
    PM_CLOCK.ticks_at(now) >> (PM_TIMER_BITS - 1)
}

impl Pm {
    /// Registers after power-on that drive `sci` and ask `events` for power-off and reset.
    pub fn new(sci: Line, events: EventSink) -> Self {
        Self {
            sci,
            events,
            base: PM_BASE,
            state: PmState::default(),
            log: LogLimit::default(),
        }
    }

    /// The register block starts at port `base` from now on.
    pub(crate) fn set_base(&mut self, base: u16) {
        self.base = base;
    }

    /// Somebody presses the power button. A guest that listens shuts itself down.
    pub fn press_power_button(&mut self) {
        self.state.status |= Pm1::PWRBTN.bits();
        self.drive();
    }

    /// Whether the guest has taken the hardware over from the firmware (SCI_EN).
    pub fn acpi_enabled(&self) -> bool {
        self.state.control & Pm1Cnt::SCI_EN.bits() != 0
    }

    /// Accounts for the timer.
    pub fn advance(&mut self, now: Nanos) {
        let passed = half_periods(now);
        if passed > self.state.half_periods {
            self.state.half_periods = passed;
            self.state.status |= Pm1::TMR.bits();
        }
        self.drive();
    }

    /// When the timer raises SCI next.
    pub fn next_event(&self) -> Option<Nanos> {
        let enabled = self.acpi_enabled() && self.state.enable & Pm1::TMR.bits() != 0;
        (enabled && !self.sci.is_high()).then(|| {
            let next = self.state.half_periods.saturating_add(1);
            PM_CLOCK.time_of(next.saturating_mul(1 << (PM_TIMER_BITS - 1)))
        })
    }

    /// Power-on state.
    pub fn reset(&mut self, now: Nanos) {
        self.state = PmState {
            half_periods: half_periods(now),
            ..PmState::default()
        };
        self.drive();
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &PmState {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: PmState) {
        self.state = state;
        self.drive();
    }

    fn drive(&mut self) {
        let active = self.state.status & self.state.enable & Pm1::ENABLES.bits();
        let asserted = self.acpi_enabled() && active != 0;
        self.sci.set(asserted);
    }

    /// The register block, one double word at a time.
    fn read_block(&self, offset: u16, now: Nanos) -> u32 {
        match offset & !3 {
            0 => u32::from(self.state.status) | u32::from(self.state.enable) << 16,
            4 => u32::from(self.state.control),
            _ => PM_CLOCK.ticks_at(now) as u32 & ((1 << PM_TIMER_BITS) - 1),
        }
    }

    /// A write of the bytes of a double word that are ones in `mask`.
    fn write_block(&mut self, offset: u16, value: u32, mask: u32) {
        let halves = |bits: u32| (bits as u16, (bits >> 16) as u16);
        let ((low, high), (low_mask, high_mask)) = (halves(value), halves(mask));
        match offset & !3 {
            0 => {
                self.state.status &= !(low & low_mask);
                let enable = self.state.enable & !high_mask | high & high_mask;
                self.state.enable = enable & Pm1::ENABLES.bits();
            }
            4 if low_mask != 0 => self.write_control(low, low_mask),
            // The timer is read-only.
            _ => {}
        }
        self.drive();
    }

    fn write_control(&mut self, value: u16, mask: u16) {
        let kept = (Pm1Cnt::BM_RLD | Pm1Cnt::SLP_TYP).bits() & mask;
        self.state.control = self.state.control & !kept | value & kept;
        if value & mask & Pm1Cnt::SLP_EN.bits() != 0 {
            let slp_typ = Pm1Cnt::from_bits_truncate(self.state.control).slp_typ();
            if slp_typ == SLP_TYP_S5 {
                self.events.signal(Signal::PowerOff);
            } else if self.log.allow() {
                warn!(slp_typ, "sleep state is not supported");
            }
        }
    }

    fn write_smi_cmd(&mut self, value: u8) {
        self.state.apm_control = value;
        match value {
            ACPI_ENABLE => self.state.control |= Pm1Cnt::SCI_EN.bits(),
            ACPI_DISABLE => self.state.control &= !Pm1Cnt::SCI_EN.bits(),
            _ => {}
        }
        self.drive();
    }

    fn write_reset_control(&mut self, value: u8) {
        let new = ResetControl::from_bits_truncate(value);
        let old = ResetControl::from_bits_truncate(self.state.reset_control);
        if new.contains(ResetControl::RST_CPU) && !old.contains(ResetControl::RST_CPU) {
            let kind = if new.contains(ResetControl::SYS_RST) {
                ResetKind::System
            } else {
                ResetKind::Processor
            };
            self.events.signal(Signal::Reset(kind));
        }
        self.state.reset_control = new.bits();
    }
}

impl PortDevice for Pm {
    fn port_read(&mut self, port: u16, _size: AccessSize, now: Nanos) -> u32 {
        match port {
            SMI_CMD => u32::from(self.state.apm_control),
            APM_STATUS => u32::from(self.state.apm_status),
            RESET_CONTROL => u32::from(self.state.reset_control),
            _ => {
                self.advance(now);
                let offset = port.wrapping_sub(self.base);
                self.read_block(offset, now) >> (8 * (offset & 3))
            }
        }
    }

    fn port_write(&mut self, port: u16, size: AccessSize, value: u32, now: Nanos) {
        match port {
            SMI_CMD => self.write_smi_cmd(value as u8),
            APM_STATUS => self.state.apm_status = value as u8,
            RESET_CONTROL => self.write_reset_control(value as u8),
            _ => {
                self.advance(now);
                let offset = port.wrapping_sub(self.base);
                let shift = 8 * (offset & 3);
                self.write_block(offset, value << shift, size.ones() << shift);
            }
        }
    }
}

//! One 8259A.

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::spec::{Icw1, Icw4, Ocw2, Ocw3, SPURIOUS};

/// Where the initialization sequence stands (data sheet, figure 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Init {
    /// Never initialized: no interrupts.
    PowerOn,
    /// ICW1 was written.
    ExpectIcw2,
    ExpectIcw3,
    ExpectIcw4,
    /// Operational.
    Done,
}

/// State of one interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chip {
    init: Init,
    icw1: u8,
    /// Bits 7-3 of the vectors.
    base: u8,
    icw4: u8,
    imr: u8,
    /// Edges that were seen and not yet acknowledged.
    edges: u8,
    isr: u8,
    /// Levels of the inputs.
    inputs: u8,
    /// ELCR: inputs that are level-triggered.
    elcr: u8,
    /// The level with the lowest priority; the next one up has the highest.
    lowest: u8,
    rotate_on_aeoi: bool,
    read_isr: bool,
    poll: bool,
    special_mask: bool,
    /// Inputs that a slave is wired to.
    cascade: u8,
}

impl Chip {
    /// A chip that has just got power; `cascade` are the inputs with a slave behind them.
    pub(super) fn new(cascade: u8) -> Self {
        Self {
            init: Init::PowerOn,
            icw1: 0,
            base: 0,
            icw4: 0,
            imr: 0,
            edges: 0,
            isr: 0,
            inputs: 0,
            elcr: 0,
            lowest: 7,
            rotate_on_aeoi: false,
            read_isr: false,
            poll: false,
            special_mask: false,
            cascade,
        }
    }

    /// Brings a deserialized state into the range that the chip can be in.
    pub(super) fn sanitize(&mut self) {
        self.lowest &= 7;
        self.base &= 0xf8;
    }

    /// Inputs that trigger by level. A slave's output falls in each acknowledge cycle and rises
    /// again if it has more, so the master sees the same as if it looked at the level.
    fn level_triggered(&self) -> u8 {
        if self.icw1 & Icw1::LTIM.bits() != 0 {
            0xff
        } else {
            self.elcr | self.cascade
        }
    }

    /// The interrupt request register.
    fn irr(&self) -> u8 {
        // A request lasts only as long as its input is high.
        (self.edges | self.level_triggered()) & self.inputs
    }

    pub(super) fn elcr(&self) -> u8 {
        self.elcr
    }

    pub(super) fn set_elcr(&mut self, value: u8) {
        self.elcr = value;
    }

    pub(super) fn imr(&self) -> u8 {
        self.imr
    }

    pub(super) fn isr(&self) -> u8 {
        self.isr
    }

    /// New levels for the inputs in `changed`; `rose` are those with a rising edge since.
    pub(super) fn set_inputs(&mut self, changed: u8, high: u8, rose: u8) {
        self.inputs = self.inputs & !changed | high & changed;
        self.edges |= rose & changed;
        self.edges &= self.inputs;
    }

    /// Priority of a level: 0 is the highest.
    fn priority(&self, level: u8) -> u8 {
        level.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }

    /// The level in `set` with the highest priority.
    fn highest(&self, set: u8) -> Option<u8> {
        // Rotate so that the highest priority comes to bit 0.
        let first = (self.lowest + 1) & 7;
        let rotated = set.rotate_right(u32::from(first));
        (rotated != 0).then(|| (rotated.trailing_zeros() as u8 + first) & 7)
    }

    /// The level that the chip asks to be served, if any.
    pub(super) fn pending(&self) -> Option<u8> {
        if self.init != Init::Done {
            return None;
        }
        let level = self.highest(self.irr() & !self.imr)?;
        let mut blocking = self.isr;
        if self.special_mask {
            // Levels in service that are masked do not hold lower ones back.
            blocking &= !self.imr;
        }
        if self.icw4 & Icw4::SFNM.bits() != 0 {
            // A slave in service may be interrupted by itself.
            blocking &= !self.cascade;
        }
        match self.highest(blocking) {
            Some(served) if self.priority(served) <= self.priority(level) => None,
            _ => Some(level),
        }
    }

    /// INTA: the pending level goes into service. `None` if the request has gone.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let level = self.pending()?;
        let bit = 1 << level;
        self.edges &= !bit;
        if self.icw4 & Icw4::AEOI.bits() == 0 {
            self.isr |= bit;
        } else if self.rotate_on_aeoi {
            self.lowest = level;
        }
        Some(level)
    }

    /// The vector for a level; without one, that of a spurious interrupt.
    pub(super) fn vector(&self, level: Option<u8>) -> u8 {
        self.base | level.unwrap_or(SPURIOUS)
    }

    /// A read with A0 = 0 or A0 = 1.
    pub(super) fn read(&mut self, a0: bool) -> u8 {
        if self.poll {
            // A read after a poll command takes the place of INTA.
            self.poll = false;
            return self.acknowledge().map_or(0, |level| 0x80 | level);
        }
        match (a0, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr(),
        }
    }

    /// A write with A0 = 0.
    pub(super) fn write_command(&mut self, value: u8) {
        if value & Icw1::ICW1.bits() != 0 {
            self.start_init(value);
        } else if value & Ocw3::OCW3.bits() != 0 {
            self.ocw3(Ocw3::from_bits_truncate(value));
        } else {
            self.ocw2(Ocw2::from_byte(value));
        }
    }

    /// A write with A0 = 1.
    pub(super) fn write_data(&mut self, value: u8) {
        match self.init {
            Init::PowerOn | Init::Done => self.imr = value,
            Init::ExpectIcw2 => {
                self.base = value & 0xf8;
                self.init = if self.icw1 & Icw1::SNGL.bits() == 0 {
                    Init::ExpectIcw3
                } else {
                    self.after_icw3()
                };
            }
            // The wiring of a PC is fixed: the word is taken and has no effect.
            Init::ExpectIcw3 => self.init = self.after_icw3(),
            Init::ExpectIcw4 => {
                self.icw4 = value;
                if value & Icw4::UPM.bits() == 0 {
                    warn!("8259A set to MCS-80/85 mode; vectors stay those of 8086 mode");
                }
                self.init = Init::Done;
            }
        }
    }

    fn after_icw3(&self) -> Init {
        if self.icw1 & Icw1::IC4.bits() != 0 {
            Init::ExpectIcw4
        } else {
            Init::Done
        }
    }

    /// ICW1 clears what the data sheet lists under "initialization command words".
    fn start_init(&mut self, icw1: u8) {
        self.icw1 = icw1;
        self.init = Init::ExpectIcw2;
        self.icw4 = 0;
        // The edge sense circuit is reset: an input has to rise again.
        self.edges = 0;
        self.imr = 0;
        self.isr = 0;
        self.lowest = 7;
        self.rotate_on_aeoi = false;
        self.special_mask = false;
        self.read_isr = false;
        self.poll = false;
    }

    fn ocw2(&mut self, command: Ocw2) {
        match command {
            Ocw2::Nop => {}
            Ocw2::ClearRotateOnAutoEoi => self.rotate_on_aeoi = false,
            Ocw2::SetRotateOnAutoEoi => self.rotate_on_aeoi = true,
            Ocw2::NonSpecificEoi => {
                self.non_specific_eoi();
            }
            Ocw2::RotateOnNonSpecificEoi => {
                if let Some(level) = self.non_specific_eoi() {
                    self.lowest = level;
                }
            }
            Ocw2::SpecificEoi(level) => self.isr &= !(1 << level),
            Ocw2::SetPriority(level) => self.lowest = level,
            Ocw2::RotateOnSpecificEoi(level) => {
                self.isr &= !(1 << level);
                self.lowest = level;
            }
        }
    }

    /// Ends the highest level in service; in special mask mode, the highest not masked.
    fn non_specific_eoi(&mut self) -> Option<u8> {
        let candidates = if self.special_mask {
            self.isr & !self.imr
        } else {
            self.isr
        };
        let level = self.highest(candidates)?;
        self.isr &= !(1 << level);
        Some(level)
    }

    fn ocw3(&mut self, command: Ocw3) {
        if command.contains(Ocw3::ESMM) {
            self.special_mask = command.contains(Ocw3::SMM);
        }
        if command.contains(Ocw3::P) {
            self.poll = true;
        } else if command.contains(Ocw3::RR) {
            self.read_isr = command.contains(Ocw3::RIS);
        }
    }
}

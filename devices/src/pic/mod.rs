//! The two 8259A interrupt controllers of a PC, cascaded through IRQ 2, with the edge/level
//! control registers of the PIIX.
//!
//! Requests follow the data sheet: an edge is latched, and the request lasts while the input
//! stays high. If it falls before the processor acknowledges, the vector is that of IRQ 7 or
//! IRQ 15 and nothing goes into service.

use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::line::{Line, LineBank};

mod chip;
pub mod spec;
#[cfg(test)]
mod tests;

use chip::Chip;
use spec::{CASCADE, ELCR1, ELCR1_MASK, ELCR2, ELCR2_MASK};

/// State of both controllers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicState {
    master: Chip,
    slave: Chip,
}

impl PicState {
    fn power_on() -> Self {
        Self {
            master: Chip::new(1 << CASCADE),
            slave: Chip::new(0),
        }
    }
}

/// The interrupt controllers.
#[derive(Debug)]
pub struct Pic {
    // Wiring.
    inputs: LineBank,
    // Volatile.
    state: PicState,
    /// INTR as of the last change; recomputed after each.
    intr: bool,
    // Statistics.
    acknowledged: [u64; 16],
    spurious: u64,
}

impl Pic {
    /// Controllers that have just got power, with nothing wired to them.
    pub fn new() -> Self {
        Self {
            inputs: LineBank::new(),
            state: PicState::power_on(),
            intr: false,
            acknowledged: [0; 16],
            spurious: 0,
        }
    }

    /// A wire to input IRQ `irq`, 0 to 15. IRQ 2 belongs to the cascade and leads nowhere.
    pub fn line(&self, irq: u8) -> Line {
        match irq {
            CASCADE => Line::unconnected(),
            0..=15 => self.inputs.line(irq),
            _ => Line::unconnected(),
        }
    }

    /// The INTR wire to the processor.
    #[inline]
    pub fn output(&mut self) -> bool {
        if self.inputs.has_changes() {
            self.sync();
        }
        self.intr
    }

    /// The processor acknowledges an interrupt (two INTA cycles) and gets the vector.
    pub fn acknowledge(&mut self) -> u8 {
        self.sync();
        let level = self.state.master.acknowledge();
        let vector = if level == Some(CASCADE) {
            let level = self.state.slave.acknowledge();
            self.count(level.map(|level| level + 8));
            self.state.slave.vector(level)
        } else {
            self.count(level);
            self.state.master.vector(level)
        };
        self.update();
        vector
    }

    /// Whether IRQ `irq` is masked in its controller.
    pub fn is_masked(&self, irq: u8) -> bool {
        let imr = match irq {
            0..=7 => self.state.master.imr(),
            _ => self.state.slave.imr(),
        };
        imr >> (irq & 7) & 1 != 0
    }

    /// Whether the controller of IRQ `irq` would pass on another request of it: it is neither in
    /// service nor masked.
    pub fn is_open(&self, irq: u8) -> bool {
        let chip = match irq {
            0..=7 => &self.state.master,
            _ => &self.state.slave,
        };
        (chip.imr() | chip.isr()) >> (irq & 7) & 1 == 0
    }

    /// How often each IRQ was acknowledged.
    pub fn acknowledged(&self) -> &[u64; 16] {
        &self.acknowledged
    }

    /// How many acknowledge cycles found no request.
    pub fn spurious(&self) -> u64 {
        self.spurious
    }

    /// Power-on state. The wires keep their levels; edges are forgotten.
    pub fn reset(&mut self) {
        self.state = PicState::power_on();
        self.inputs.take_changes();
        self.read_levels();
        self.update();
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &PicState {
        &self.state
    }

    /// Goes back to a saved state. Levels are taken from the wires as they are now.
    pub fn restore(&mut self, state: PicState) {
        self.state = state;
        self.state.master.sanitize();
        self.state.slave.sanitize();
        self.inputs.take_changes();
        self.read_levels();
        self.update();
    }

    fn count(&mut self, irq: Option<u8>) {
        match irq.and_then(|irq| self.acknowledged.get_mut(usize::from(irq))) {
            Some(count) => *count += 1,
            None => self.spurious += 1,
        }
    }

    fn read_levels(&mut self) {
        let high = (0..16)
            .filter(|&irq| self.inputs.is_high(irq))
            .fold(0u16, |bits, irq| bits | 1 << irq);
        self.state.master.set_inputs(0xff, high as u8, 0);
        self.state.slave.set_inputs(0xff, (high >> 8) as u8, 0);
    }

    /// Looks at the wires.
    fn sync(&mut self) {
        if let Some(change) = self.inputs.take_changes() {
            let byte = |bits: u32, index: u32| (bits >> (8 * index)) as u8;
            let chips = [(0, &mut self.state.master), (1, &mut self.state.slave)];
            for (index, chip) in chips {
                chip.set_inputs(
                    byte(change.changed, index),
                    byte(change.high, index),
                    byte(change.rose, index),
                );
            }
            self.update();
        }
    }

    /// Drives the cascade and INTR.
    fn update(&mut self) {
        let cascade = if self.state.slave.pending().is_some() {
            1 << CASCADE
        } else {
            0
        };
        self.state.master.set_inputs(1 << CASCADE, cascade, 0);
        self.intr = self.state.master.pending().is_some();
    }
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl PortDevice for Pic {
    fn port_read(&mut self, port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        self.sync();
        let value = match port {
            ELCR1 => self.state.master.elcr(),
            ELCR2 => self.state.slave.elcr(),
            _ => {
                let chip = if port & 0x80 == 0 {
                    &mut self.state.master
                } else {
                    &mut self.state.slave
                };
                let value = chip.read(port & 1 != 0);
                // A read may have been a poll.
                self.update();
                value
            }
        };
        u32::from(value)
    }

    fn port_write(&mut self, port: u16, _size: AccessSize, value: u32, _now: Nanos) {
        self.sync();
        let value = value as u8;
        match port {
            ELCR1 => self.state.master.set_elcr(value & ELCR1_MASK),
            ELCR2 => self.state.slave.set_elcr(value & ELCR2_MASK),
            _ => {
                let chip = if port & 0x80 == 0 {
                    &mut self.state.master
                } else {
                    &mut self.state.slave
                };
                if port & 1 == 0 {
                    chip.write_command(value);
                } else {
                    chip.write_data(value);
                }
            }
        }
        self.update();
    }
}

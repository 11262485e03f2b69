//! Wires between devices.
//!
//! A device owns [`Line`]s and drives their level; it does not know where they lead. A
//! [`LineBank`] is the other end of up to 32 wires: the inputs of an interrupt controller, or an
//! OR gate. Several lines may drive one wire, which is high while any of them is (the shared,
//! level-triggered interrupts of PCI).
//!
//! The bank remembers that a wire *rose* even if it has fallen since, so a receiver that looks
//! only now and then loses no edge.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// Number of wires of a [`LineBank`].
pub const WIRES: u8 = 32;

struct Shared {
    /// For each wire, how many lines hold it high.
    drivers: [AtomicU16; WIRES as usize],
    /// Wires that went from low to high since the last look.
    rose: AtomicU32,
    /// Wires that changed at all since the last look.
    changed: AtomicU32,
}

impl Shared {
    fn drive(&self, wire: u8, high: bool) {
        let Some(drivers) = self.drivers.get(usize::from(wire)) else {
            return;
        };
        let bit = 1 << wire;
        if high {
            if drivers.fetch_add(1, Ordering::AcqRel) == 0 {
                self.rose.fetch_or(bit, Ordering::AcqRel);
                self.changed.fetch_or(bit, Ordering::AcqRel);
            }
        } else if drivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.changed.fetch_or(bit, Ordering::AcqRel);
        }
    }

    fn is_high(&self, wire: u8) -> bool {
        self.drivers
            .get(usize::from(wire))
            .is_some_and(|drivers| drivers.load(Ordering::Acquire) != 0)
    }
}

/// What happened on the wires of a [`LineBank`] since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineChanges {
    /// Wires that changed, one bit each.
    pub changed: u32,
    /// Of those, the wires that are high now.
    pub high: u32,
    /// Of those, the wires that rose at least once.
    pub rose: u32,
}

/// The receiving end of 32 wires.
#[derive(Clone)]
pub struct LineBank {
    shared: Arc<Shared>,
}

impl LineBank {
    /// A bank of wires, all low.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                drivers: [const { AtomicU16::new(0) }; WIRES as usize],
                rose: AtomicU32::new(0),
                changed: AtomicU32::new(0),
            }),
        }
    }

    /// A new driver, low, for wire `wire`. Driving a wire that does not exist has no effect.
    pub fn line(&self, wire: u8) -> Line {
        Line {
            bank: Some(self.shared.clone()),
            wire,
            high: false,
        }
    }

    /// Whether wire `wire` is high.
    pub fn is_high(&self, wire: u8) -> bool {
        self.shared.is_high(wire)
    }

    /// Whether [`take_changes`](Self::take_changes) would return something. Cheap.
    #[inline]
    pub fn has_changes(&self) -> bool {
        self.shared.changed.load(Ordering::Acquire) != 0
    }

    /// What changed since the last call, or `None`.
    #[inline]
    pub fn take_changes(&self) -> Option<LineChanges> {
        if !self.has_changes() {
            return None;
        }
        let changed = self.shared.changed.swap(0, Ordering::AcqRel);
        let rose = self.shared.rose.swap(0, Ordering::AcqRel);
        let high = (0..WIRES)
            .filter(|&wire| changed >> wire & 1 != 0 && self.shared.is_high(wire))
            .fold(0, |bits, wire| bits | 1 << wire);
        Some(LineChanges {
            changed,
            high,
            rose,
        })
    }
}

impl Default for LineBank {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LineBank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let high = (0..WIRES).filter(|&wire| self.is_high(wire));
        f.write_str("LineBank ")?;
        f.debug_list().entries(high).finish()
    }
}

/// The driving end of a wire. Dropping it lets the wire go.
pub struct Line {
    bank: Option<Arc<Shared>>,
    wire: u8,
    high: bool,
}

impl Line {
    /// A line that leads nowhere.
    pub const fn unconnected() -> Self {
        Self {
            bank: None,
            wire: 0,
            high: false,
        }
    }

    /// Drives the line to a level. Driving it to the level it has costs a comparison.
    #[inline]
    pub fn set(&mut self, high: bool) {
        if self.high == high {
            return;
        }
        self.high = high;
        if let Some(bank) = &self.bank {
            bank.drive(self.wire, high);
        }
    }

    /// Makes a rising edge and leaves the line high.
    pub fn edge(&mut self) {
        self.set(false);
        self.set(true);
    }

    /// The level this line is driven to.
    pub fn is_high(&self) -> bool {
        self.high
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.high { "high" } else { "low" };
        match self.bank {
            Some(_) => write!(f, "Line({}, {level})", self.wire),
            None => write!(f, "Line(unconnected, {level})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_pulse_is_still_seen() {
        let bank = LineBank::new();
        let mut line = bank.line(3);
        assert_eq!(bank.take_changes(), None);
        line.set(true);
        line.set(false);
        let changes = bank.take_changes().unwrap();
        assert_eq!((changes.rose, changes.high), (1 << 3, 0));
        assert_eq!(bank.take_changes(), None);
    }

    #[test]
    fn a_shared_wire_is_high_while_any_driver_is() {
        let bank = LineBank::new();
        let (mut a, mut b) = (bank.line(9), bank.line(9));
        a.set(true);
        b.set(true);
        assert!(bank.is_high(9));
        a.set(false);
        assert!(bank.is_high(9));
        drop(b);
        assert!(!bank.is_high(9));
    }

    #[test]
    fn an_edge_on_a_high_line_is_a_new_edge() {
        let bank = LineBank::new();
        let mut line = bank.line(0);
        line.set(true);
        bank.take_changes();
        line.edge();
        let changes = bank.take_changes().unwrap();
        assert_eq!((changes.rose, changes.high), (1, 1));
    }

    #[test]
    fn wires_that_do_not_exist_are_harmless() {
        let bank = LineBank::new();
        bank.line(200).edge();
        Line::unconnected().edge();
        assert_eq!(bank.take_changes(), None);
        assert!(!bank.is_high(200));
    }
}

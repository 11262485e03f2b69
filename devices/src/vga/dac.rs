//! The palette DAC: 256 colours of three components.

use serde::{Deserialize, Serialize};

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// State of the DAC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dac {
    pub(super) mask: u8,
    /// Three components for each colour.
    colours: Vec<u8>,
    read_index: u8,
    write_index: u8,
    /// The component that is next.
    component: u8,
    /// Components of a colour that is being written.
    pending: [u8; 2],
    /// The address was set for reading.
    reading: bool,
    /// Components have eight bits, not six.
    pub(super) wide: bool,
}

impl Default for Dac {
    fn default() -> Self {
        Self {
            mask: 0xff,
            colours: vec![0; 3 * 256],
            read_index: 0,
            write_index: 0,
            component: 0,
            pending: [0; 2],
            reading: false,
            wide: false,
        }
    }
}

impl Dac {
    pub(super) fn set_read_index(&mut self, index: u8) {
        self.read_index = index;
        self.component = 0;
        self.reading = true;
    }

    pub(super) fn set_write_index(&mut self, index: u8) {
        self.write_index = index;
        self.component = 0;
        self.reading = false;
    }

    pub(super) fn write_index(&self) -> u8 {
        self.write_index
    }

    /// The state register: 3 after the read address was set, 0 after the write address.
    pub(super) fn state(&self) -> u8 {
        if self.reading { 3 } else { 0 }
    }

    pub(super) fn read(&mut self) -> u8 {
        let at = usize::from(self.read_index) * 3 + usize::from(self.component);
        let value = self.colours.get(at).copied().unwrap_or(0);
        self.component += 1;
        if self.component >= 3 {
            self.component = 0;
            self.read_index = self.read_index.wrapping_add(1);
        }
        value
    }

    /// A colour changes once its third component is written.
    pub(super) fn write(&mut self, value: u8) {
        let value = if self.wide { value } else { value & 0x3f };
        if let Some(pending) = self.pending.get_mut(usize::from(self.component)) {
            *pending = value;
            self.component += 1;
            return;
        }
        let [red, green] = self.pending;
        let at = usize::from(self.write_index) * 3;
        if let Some(colour) = self.colours.get_mut(at..at + 3) {
            colour.copy_from_slice(&[red, green, value]);
        }
        self.component = 0;
        self.write_index = self.write_index.wrapping_add(1);
    }

    /// What the monitor shows for a number, eight bits for each component.
    pub(super) fn colour(&self, number: u8) -> Rgb {
        let at = usize::from(number & self.mask) * 3;
        let widen = |value: u8| {
            if self.wide {
                value
            } else {
                value << 2 | value >> 4 & 3
            }
        };
        match self.colours.get(at..at + 3) {
            Some(&[red, green, blue]) => [widen(red), widen(green), widen(blue)],
            _ => [0; 3],
        }
    }

    /// Brings a restored state into range.
    pub(super) fn sanitize(&mut self) {
        self.colours.resize(3 * 256, 0);
        self.component = self.component.min(2);
    }
}

//! When display memory behaves like RAM, so that the machine may give the guest RAM in its place.
//!
//! In text modes and in mode 13h a write stores a byte and a read returns it, at an address that
//! the guest's own determines. While that is so, trapping each access is a waste: the machine
//! copies the window into RAM, lets the guest have that, and copies it back when the picture is
//! looked at or the registers change. Latches are not loaded by reads that nobody sees; every
//! program that wants them sets the graphics controller first, which ends the window.

use serde::{Deserialize, Serialize};

use super::Vga;
use super::spec::{Misc, WINDOW};

/// Accesses in a row, registers untouched, before a window is offered: switching costs as much as
/// some hundred trapped accesses.
const PATIENCE: u32 = 256;

/// Guest-physical addresses at which display memory is like RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoWindow {
    /// First guest-physical address; page aligned.
    pub address: u64,
    /// Bytes; whole pages.
    pub bytes: u64,
    layout: Layout,
}

/// How an offset in the window leads to a plane and a byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Layout {
    /// Bit 0 is the plane, and 0 in the offset.
    OddEven,
    /// Bits 1:0 are the plane, and 0 in the offset.
    Chain4,
    /// No planes: the bank of a linear mode starts here.
    Linear(u32),
}

impl Layout {
    /// Linear address in display memory of an offset in the window.
    fn linear(self, offset: u32) -> u32 {
        match self {
            Self::OddEven => (offset & !1) << 2 | offset & 1,
            Self::Chain4 => (offset & !3) << 2 | offset & 3,
            Self::Linear(start) => start.wrapping_add(offset),
        }
    }
}

impl Vga {
    /// The window in which display memory is like RAM now.
    fn plain_window(&self) -> Option<VideoWindow> {
        if !self.misc().contains(Misc::RAM_ENABLE) || !self.graphics.is_plain() {
            return None;
        }
        let (offset, bytes) = self.graphics.window();
        let layout = if self.vbe.enabled() {
            // The linear frame buffer would be a second way to the same bytes.
            (self.vbe.is_linear() && !self.vbe.linear_open() && bytes <= 0x1_0000)
                .then_some(Layout::Linear(self.vbe.bank_offset()))
        } else if self.sequencer.chain4() {
            (self.sequencer.map_mask() == 15 && bytes <= 0x1_0000).then_some(Layout::Chain4)
        } else {
            let odd_even = self.sequencer.odd_even()
                && self.graphics.host_odd_even()
                && self.graphics.chain_odd_even()
                && self.graphics.read_map() & 2 == 0
                && self.sequencer.map_mask() == 3;
            (odd_even && bytes <= 0x1_0000).then_some(Layout::OddEven)
        };
        layout.map(|layout| VideoWindow {
            address: WINDOW + offset,
            bytes,
            layout,
        })
    }

    /// The guest used display memory the slow way.
    pub(super) fn note_access(&mut self) {
        self.accesses = self.accesses.saturating_add(1);
        if self.accesses == PATIENCE && self.window.is_none() {
            self.window = self.plain_window();
            self.window_changed |= self.window.is_some();
        }
    }

    /// A register was written that the window may depend on.
    pub(super) fn note_register(&mut self) {
        self.accesses = 0;
        if self.window.is_some() && self.window != self.plain_window() {
            self.window = None;
            self.window_changed = true;
        }
    }

    /// Display memory changes behind the window: what the machine holds of it is worth nothing.
    pub(super) fn drop_window(&mut self) {
        self.accesses = 0;
        self.stale = true;
        if self.window.take().is_some() {
            self.window_changed = true;
        }
    }

    /// Where the machine may let the guest have RAM in place of display memory.
    pub fn window(&self) -> Option<VideoWindow> {
        self.window
    }

    /// Whether [`window`](Self::window) has changed since the last call.
    pub fn take_window_change(&mut self) -> bool {
        std::mem::take(&mut self.window_changed)
    }

    /// What display memory holds in `window`: what the RAM has to hold to start with.
    pub fn load_window(&mut self, window: &VideoWindow) -> Vec<u8> {
        self.stale = false;
        (0..window.bytes as u32)
            .map(|offset| self.memory.byte(window.layout.linear(offset)))
            .collect()
    }

    /// What the RAM in place of `window` holds: takes it over into display memory.
    pub fn store_window(&mut self, window: &VideoWindow, bytes: &[u8]) {
        if self.stale {
            return;
        }
        for (offset, byte) in (0..window.bytes as u32).zip(bytes) {
            self.memory.set_byte(window.layout.linear(offset), *byte);
        }
    }
}

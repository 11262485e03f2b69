//! When display memory behaves like RAM, so that the machine may give the guest RAM in its place.
//!
//! In text modes, in mode 13h and in the linear frame buffer a write stores a byte and a read
//! returns it, at an address that the guest's own determines. While that is so, trapping each
//! access is a waste: the machine copies the window into RAM, lets the guest have that, and copies
//! it back when the picture is looked at or the registers change. Latches are not loaded by reads
//! that nobody sees; every program that wants them sets the graphics controller first, which ends
//! the window.
//!
//! The linear frame buffer is offered as soon as it is open, up to the end of what is shown, and
//! whole once the guest has used what lies behind that. The legacy window is then a second way to
//! the same bytes: [`VideoWindow::stand_in`] says where in the RAM an access to it belongs.

use serde::{Deserialize, Serialize};

use super::Vga;
use super::spec::{Misc, WINDOW, WINDOW_LEN};

/// Accesses in a row, registers untouched, before a window is offered: switching costs as much as
/// some hundred trapped accesses.
pub(super) const PATIENCE: u32 = 256;

/// The part of the linear frame buffer that is offered ends at a multiple of this, so that a guest
/// that pans does not move the end each time.
const LINEAR_STEP: u32 = 0x1_0000;

/// Guest-physical addresses at which display memory is like RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoWindow {
    /// First guest-physical address; page aligned.
    pub address: u64,
    /// Bytes; whole pages.
    pub bytes: u64,
    layout: Layout,
    /// Tells a window from one at the same place before it, the contents of which are worth
    /// nothing.
    number: u32,
}

impl VideoWindow {
    /// Whether the window is the linear frame buffer.
    pub fn is_linear(&self) -> bool {
        self.address >= WINDOW + WINDOW_LEN
    }

    fn is_at(&self, other: &Self) -> bool {
        (self.address, self.bytes, self.layout) == (other.address, other.bytes, other.layout)
    }
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
            // The linear frame buffer is the way to the same bytes then.
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
            number: 0,
        })
    }

    /// The linear frame buffer, as far as it is to be RAM now.
    fn linear_window(&self) -> Option<VideoWindow> {
        let address = self.frame_buffer_at?;
        if !self.vbe.linear_open() || !self.vbe.is_linear() || address < WINDOW + WINDOW_LEN {
            return None;
        }
        let memory = self.memory.len();
        let mut bytes = self.vbe.shown_end(memory).next_multiple_of(LINEAR_STEP);
        if self.memory.accesses >= PATIENCE {
            bytes = memory;
        }
        // What has been RAM in this mode stays so: a guest turns pages back and forth.
        let before = self.window.filter(|window| window.address == address);
        let before = before.map_or(0, |window| window.bytes);
        Some(VideoWindow {
            address,
            bytes: u64::from(bytes.min(memory)).max(before),
            layout: Layout::Linear(0),
            number: 0,
        })
    }

    /// What the window has to be now; the legacy one only if it was offered before.
    fn wanted_window(&self, legacy: bool) -> Option<VideoWindow> {
        let linear = self.linear_window();
        linear.or_else(|| legacy.then(|| self.plain_window()).flatten())
    }

    fn set_window(&mut self, wanted: Option<VideoWindow>) {
        let same = match (&wanted, &self.window) {
            (Some(wanted), Some(window)) => wanted.is_at(window),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.windows = self.windows.wrapping_add(1);
            let number = self.windows;
            self.window = wanted.map(|window| VideoWindow { number, ..window });
            self.window_changed = true;
        }
    }

    /// The base address of the linear frame buffer is this one now.
    pub(crate) fn place_frame_buffer(&mut self, address: Option<u64>) {
        self.frame_buffer_at = address;
        self.set_window(self.wanted_window(self.window.is_some()));
    }

    /// After accesses to the linear frame buffer that were trapped.
    pub(crate) fn follow_frame_buffer(&mut self) {
        if self.memory.accesses >= PATIENCE && self.window.is_some_and(|w| w.is_linear()) {
            self.set_window(self.linear_window());
        }
    }

    /// The guest used display memory the slow way.
    pub(super) fn note_access(&mut self, times: u32) {
        let before = self.accesses;
        self.accesses = before.saturating_add(times);
        if before < PATIENCE && self.accesses >= PATIENCE && self.window.is_none() {
            self.set_window(self.wanted_window(true));
        }
    }

    /// A register was written that the window may depend on.
    pub(super) fn note_register(&mut self) {
        self.accesses = 0;
        if let Some(window) = self.window {
            let wanted = self.plain_window().filter(|wanted| wanted.is_at(&window));
            let linear = self.linear_window();
            self.set_window(linear.or(wanted));
        } else if self.frame_buffer_at.is_some() {
            self.set_window(self.linear_window());
        }
    }

    /// Display memory changes behind the window: what the machine holds of it is worth nothing.
    pub(super) fn drop_window(&mut self) {
        self.accesses = 0;
        self.stale = true;
        self.set_window(None);
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
        if let Layout::Linear(start) = window.layout
            && let bytes = self.memory.linear(start, window.bytes as usize)
            && bytes.len() as u64 == window.bytes
        {
            return bytes.to_vec();
        }
        (0..window.bytes as u32)
            .map(|offset| self.memory.byte(window.layout.linear(offset)))
            .collect()
    }

    /// What the RAM in place of `window` holds: takes it over into display memory.
    pub fn store_window(&mut self, window: &VideoWindow, bytes: &[u8]) {
        if self.stale {
            return;
        }
        if let Layout::Linear(start) = window.layout {
            let length = bytes.len().min(window.bytes as usize);
            self.memory
                .set_linear(start, bytes.get(..length).unwrap_or_default());
            return;
        }
        for (offset, byte) in (0..window.bytes as u32).zip(bytes) {
            self.memory.set_byte(window.layout.linear(offset), *byte);
        }
    }

    /// Where in the RAM that stands in for `window` an access to a guest-physical address outside
    /// of it belongs: the legacy window's bank, while the linear frame buffer is RAM.
    pub fn stand_in(&self, window: &VideoWindow, address: u64, bytes: u64) -> Option<u64> {
        if !window.is_linear() || !self.vbe.is_linear() {
            return None;
        }
        let offset = self.window_offset(address.checked_sub(WINDOW)?)?;
        self.window_offset(address + bytes.checked_sub(1)? - WINDOW)?;
        let mask = self.memory.len() - 1;
        let at = u64::from(self.vbe.bank_offset().wrapping_add(offset) & mask);
        (at + bytes <= window.bytes).then_some(window.address + at)
    }
}

//! When the beam is where: retrace status and blinking, from machine time.

use crate::time::{NANOS_PER_SEC, Nanos};

use super::crtc::Crtc;
use super::sequencer::Sequencer;
use super::spec::{Misc, Status1};

/// Frames after which the cursor changes between on and off.
const CURSOR_FRAMES: u64 = 8;
/// Frames after which blinking characters change.
const BLINK_FRAMES: u64 = 16;

/// The timing of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// Dots in a second.
    clock: u64,
    /// Dots of a line, blanking included.
    line: u64,
    /// Dots of a line that are shown.
    shown: u64,
    /// Lines of a frame.
    lines: u64,
    /// Lines that are shown.
    lines_shown: u64,
    /// First line of the retrace, and the first behind it.
    retrace: (u64, u64),
}

/// 720x400 text at 70 Hz: for register values that no monitor would follow.
const TEXT: Timing = Timing {
    clock: 28_322_000,
    line: 900,
    shown: 720,
    lines: 449,
    lines_shown: 400,
    retrace: (412, 414),
};

impl Timing {
    /// What the registers say.
    pub(super) fn new(crtc: &Crtc, sequencer: &Sequencer, misc: Misc) -> Self {
        let clock = if misc.contains(Misc::CLOCK_28) {
            28_322_000
        } else {
            25_175_000
        };
        let dots = u64::from(sequencer.dots()) << u32::from(sequencer.half_clock());
        let (start, length) = crtc.vertical_retrace();
        let timing = Self {
            clock,
            line: u64::from(crtc.horizontal_total()) * dots,
            shown: u64::from(crtc.columns()) * dots,
            lines: u64::from(crtc.vertical_total()),
            lines_shown: u64::from(crtc.lines()),
            retrace: (u64::from(start), u64::from(start + length)),
        };
        let sane = (8_000_000..50_000_000).contains(&timing.frame_nanos())
            && timing.lines_shown < timing.lines
            && timing.retrace.0 < timing.lines
            && timing.shown < timing.line;
        if sane { timing } else { TEXT }
    }

    /// Duration of a frame; never 0.
    fn frame_nanos(&self) -> u64 {
        (self.line * self.lines * NANOS_PER_SEC / self.clock).max(1)
    }

    /// Where the beam is at `now`.
    pub(super) fn status(&self, now: Nanos) -> Status1 {
        let dot = now.0 % self.frame_nanos() * self.clock / NANOS_PER_SEC;
        let (line, column) = (dot / self.line, dot % self.line);
        let mut status = Status1::empty();
        status.set(
            Status1::DISPLAY_DISABLED,
            line >= self.lines_shown || column >= self.shown,
        );
        status.set(
            Status1::VRETRACE,
            (self.retrace.0..self.retrace.1).contains(&line),
        );
        status
    }

    /// A blinking cursor is on.
    pub(super) fn cursor_on(&self, now: Nanos) -> bool {
        (now.0 / self.frame_nanos() / CURSOR_FRAMES).is_multiple_of(2)
    }

    /// Blinking characters are on.
    pub(super) fn blink_on(&self, now: Nanos) -> bool {
        (now.0 / self.frame_nanos() / BLINK_FRAMES).is_multiple_of(2)
    }
}

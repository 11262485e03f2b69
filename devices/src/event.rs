//! What devices ask of the machine they are in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How far a reset goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Only the processor (RESET# or INIT# through the keyboard controller or port 92h): memory
    /// and devices keep their state. 286 software leaves protected mode this way; a guest that
    /// wants to reboot relies on the firmware to notice that it did not ask for that.
    Processor,
    /// The processor and all devices (port CF9h).
    System,
}

/// Something that happened in the chipset and that the machine has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChipsetEvent {
    /// The guest asked for a reset.
    Reset(ResetKind),
    /// The guest switched the power off.
    PowerOff,
    /// An edge of the NMI wire.
    Nmi,
    /// A device waits for guest memory: [`Chipset::transfer`](crate::Chipset::transfer).
    Dma,
    /// The firmware area leads elsewhere, as [`Chipset::pam`](crate::Chipset::pam) says.
    Pam,
    /// Video memory is elsewhere, or is like RAM in another place:
    /// [`Chipset::video_window`](crate::Chipset::video_window),
    /// [`Chipset::video_ranges`](crate::Chipset::video_ranges).
    Video,
    /// The A20 gate is open (true) or forces address bit 20 to zero (false) from now on.
    A20(bool),
}

/// A request that a device raises. Levels, such as A20, are wires and not signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Reset(ResetKind),
    PowerOff,
    Nmi,
    Dma,
    Pam,
    Video,
}

impl Signal {
    const fn bit(self) -> u8 {
        match self {
            Self::Reset(ResetKind::Processor) => 1,
            Self::Reset(ResetKind::System) => 2,
            Self::PowerOff => 4,
            Self::Nmi => 8,
            Self::Dma => 16,
            Self::Pam => 32,
            Self::Video => 64,
        }
    }
}

/// The devices' end of the machine's attention: remembers which signals were raised.
#[derive(Clone, Debug, Default)]
pub struct EventSink {
    raised: Arc<AtomicU8>,
}

impl EventSink {
    /// A sink without signals.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.raised.fetch_or(signal.bit(), Ordering::AcqRel);
    }

    /// Whether a signal was raised. Cheap.
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire) != 0
    }

    /// The signals raised since the last call, each once, strongest first.
    pub(crate) fn take(&self) -> impl Iterator<Item = ChipsetEvent> + use<> {
        let raised = self.raised.swap(0, Ordering::AcqRel);
        [
            (Signal::PowerOff, ChipsetEvent::PowerOff),
            (
                Signal::Reset(ResetKind::System),
                ChipsetEvent::Reset(ResetKind::System),
            ),
            (
                Signal::Reset(ResetKind::Processor),
                ChipsetEvent::Reset(ResetKind::Processor),
            ),
            (Signal::Nmi, ChipsetEvent::Nmi),
            (Signal::Pam, ChipsetEvent::Pam),
            (Signal::Dma, ChipsetEvent::Dma),
            (Signal::Video, ChipsetEvent::Video),
        ]
        .into_iter()
        .filter(move |(signal, _)| raised & signal.bit() != 0)
        .map(|(_, event)| event)
    }
}

//! The A20 gate: one latch that the keyboard controller and port 92h both set.
//!
//! On boards whose chipset emulates the keyboard controller's gate, whoever was written to last
//! decides, and programs rely on it: they try one way after the other until address bit 20 follows,
//! and firmware leaves both open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle to the latch. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct A20Gate {
    open: Arc<AtomicBool>,
}

impl A20Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self {
            open: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Opens (true) or closes the gate.
    pub fn set(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// Whether address bit 20 reaches the bus.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}

impl Default for A20Gate {
    fn default() -> Self {
        Self::new()
    }
}

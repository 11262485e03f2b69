//! Making a vCPU leave translated code from another thread.
#![allow(unsafe_code)] // writes two words of a context that another thread runs on

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a kick changes: the two pointers that translated code follows now and then.
#[derive(Debug)]
pub(crate) struct KickTarget {
    kicked: AtomicBool,
    /// The vCPU is alive: the pointers below may be used.
    armed: std::sync::Mutex<Option<Pointers>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pointers {
    pub(crate) poll: *const AtomicU64,
    pub(crate) jump_table: *const AtomicU64,
    pub(crate) faulting_poll: u64,
    pub(crate) empty_table: u64,
}

// SAFETY: the pointers are to atomics inside a context; they are used only under the lock, and the
// owner takes them out before it unmaps the context.
unsafe impl Send for Pointers {}

impl KickTarget {
    pub(crate) fn new() -> Arc<KickTarget> {
        Arc::new(KickTarget {
            kicked: AtomicBool::new(false),
            armed: std::sync::Mutex::new(None),
        })
    }

    pub(crate) fn arm(&self, pointers: Option<Pointers>) {
        *self
            .armed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = pointers;
    }

    /// Kicked since the last [`KickTarget::take`]?
    pub(crate) fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::SeqCst)
    }

    pub(crate) fn take(&self) -> bool {
        self.kicked.load(Ordering::Relaxed) && self.kicked.swap(false, Ordering::SeqCst)
    }

    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        let armed = self
            .armed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(pointers) = *armed {
            // SAFETY: armed, so the context is mapped; see `Pointers`.
            unsafe {
                (*pointers.poll).store(pointers.faulting_poll, Ordering::SeqCst);
                (*pointers.jump_table).store(pointers.empty_table, Ordering::SeqCst);
            }
        }
    }
}

/// A handle with which any thread makes a running vCPU leave translated code.
#[derive(Debug, Clone)]
pub struct Kicker(pub(crate) Arc<KickTarget>);

impl Kicker {
    /// Makes the vCPU leave with [`Exit::Kicked`](crate::Exit::Kicked) soon. When it does not run,
    /// its next run comes back at once.
    pub fn kick(&self) {
        self.0.kick();
    }
}

//! The lookaside: pages that translated code may write and its window does not let it.
//!
//! A page that was a page table until lately stays read-only in the windows, because it will soon be
//! one again, and nothing depends on what is written to it meanwhile (`shadow-mmu`, "Former page
//! tables"). An instruction that meets such pages is translated as a call to Rust; making and ending
//! a process takes hundreds of these accesses. Rust enters the page here, and a stub (see
//! [`super::shortcut`]) finds it again without Rust.
//!
//! Only such pages are entered: what a window can map is better mapped, and Rust has to see how often
//! an instruction meets that, to take its hint back.
//!
//! Everything is forgotten when [`Mmu::direct_epoch`] changes, before translated code runs again.

use super::engine::Engine;
use shadow_mmu::{Mmu, Privilege};

/// Number of entries; the low bits of the page number pick one.
pub(crate) const ENTRIES: usize = 64;
/// Largest operand: none of these has to be aligned.
pub(crate) const LARGEST: u32 = 8;

/// In the low bits of a tag: whose accesses may use the entry. A tag of 0 is none.
pub(crate) const fn owner(cpl: u8) -> u32 {
    match cpl {
        3 => 2,
        _ => 1,
    }
}

/// A page.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Entry {
    /// Linear address of the page, and [`owner`].
    pub(crate) tag: u64,
    /// Host address of the page minus its linear address.
    pub(crate) base: u64,
}

/// The part of the context that the stub uses.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Lookaside {
    pub(crate) entries: [Entry; ENTRIES],
    /// A stub that does nothing: there is nothing to commit.
    pub(crate) nothing: u64,
    /// Accesses that met an entry.
    pub(crate) hits: u64,
}

impl Default for Lookaside {
    fn default() -> Self {
        Lookaside {
            entries: [Entry::default(); ENTRIES],
            nothing: 0,
            hits: 0,
        }
    }
}

/// What the entries are good for.
#[derive(Debug, Default)]
pub(super) struct Validity {
    epoch: u64,
    /// There are entries.
    used: bool,
}

impl Engine {
    /// Forgets what may be wrong.
    #[inline]
    pub(super) fn check_lookaside(&mut self, mmu: &Mmu) {
        let now = mmu.direct_epoch();
        if self.lookaside.epoch == now {
            return;
        }
        self.lookaside.epoch = now;
        if std::mem::take(&mut self.lookaside.used) {
            self.cache.context_mut().lookaside.entries = [Entry::default(); ENTRIES];
        }
    }

    /// Writes to the page of `linear` can go to the page of `host`.
    pub(super) fn enter_lookaside(&mut self, mmu: &Mmu, linear: u32, host: u64) {
        self.check_lookaside(mmu);
        self.lookaside.used = true;
        let cpl = match self.privilege() {
            Privilege::User => 3,
            Privilege::Supervisor => 0,
        };
        let lookaside = &mut self.cache.context_mut().lookaside;
        if let Some(entry) = lookaside.entries.get_mut((linear >> 12) as usize % ENTRIES) {
            *entry = Entry {
                tag: u64::from(linear & !0xFFF | owner(cpl)),
                base: host.wrapping_sub(u64::from(linear)),
            };
        }
    }
}

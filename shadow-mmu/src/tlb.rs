//! A small software TLB in front of the guest page walk, for accesses that the VMM carries out itself.

use crate::ram::HostPage;
use crate::types::{PhysTarget, Privilege};

const ENTRIES: usize = 1024;

/// A translation that is known to be good: accessed (and, if writable, dirty) bits are set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlbEntry {
    tag: u32,
    linear_page: u32,
    /// Guest page frame, A20 gate applied.
    pub(crate) frame: u32,
    /// Page of the memory file, for RAM and ROM.
    pub(crate) page: HostPage,
    pub(crate) target: PhysTarget,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
}

/// Tag that no space has.
const NO_TAG: u32 = 0;

const EMPTY: TlbEntry = TlbEntry {
    tag: NO_TAG,
    linear_page: 0,
    frame: 0,
    page: 0,
    target: PhysTarget::Hole,
    writable: false,
    executable: false,
};

/// Direct-mapped, one half for pages of user spaces, one for supervisor spaces. Entries carry the tag of the space they were
/// derived with, so that a CR3 load need not touch them.
#[derive(Debug)]
pub(crate) struct Tlb {
    user: Box<[TlbEntry; ENTRIES]>,
    supervisor: Box<[TlbEntry; ENTRIES]>,
    /// Tags of the active user and supervisor spaces.
    user_tag: u32,
    supervisor_tag: u32,
    /// Supervisor accesses may use entries of user pages (CR0.WP = 1).
    split: bool,
    /// Counts what may have made a translation wrong: see [`Mmu::direct_epoch`](crate::Mmu::direct_epoch).
    epoch: u64,
}

/// What to enter in the TLB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlbFill {
    pub(crate) frame: u32,
    pub(crate) page: HostPage,
    pub(crate) target: PhysTarget,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
}

impl Tlb {
    pub(crate) fn new() -> Tlb {
        Tlb {
            user: Box::new([EMPTY; ENTRIES]),
            supervisor: Box::new([EMPTY; ENTRIES]),
            user_tag: NO_TAG,
            supervisor_tag: NO_TAG,
            split: false,
            epoch: 0,
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What was said of some page does not hold any more, though its translation may.
    pub(crate) fn next_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Makes the entries with these tags the ones looked at.
    pub(crate) fn activate(&mut self, user_tag: u32, supervisor_tag: u32, split: bool) {
        self.next_epoch();
        (self.user_tag, self.supervisor_tag, self.split) = (user_tag, supervisor_tag, split);
    }

    #[inline]
    pub(crate) fn lookup(&self, linear_page: u32, privilege: Privilege) -> Option<&TlbEntry> {
        let index = linear_page as usize % ENTRIES;
        // With paging off one space serves both.
        if privilege == Privilege::Supervisor || self.user_tag == self.supervisor_tag {
            let entry = &self.supervisor[index];
            if entry.linear_page == linear_page && entry.tag == self.supervisor_tag {
                return Some(entry);
            }
            if !self.split {
                return None;
            }
        }
        let entry = &self.user[index];
        (entry.linear_page == linear_page && entry.tag == self.user_tag).then_some(entry)
    }

    /// Enters a translation of a page of a user space (`user`) or of a supervisor space.
    pub(crate) fn insert(&mut self, linear_page: u32, user: bool, fill: TlbFill) {
        let TlbFill {
            frame,
            page,
            target,
            writable,
            executable,
        } = fill;
        let (half, tag) = if user {
            (&mut self.user, self.user_tag)
        } else {
            (&mut self.supervisor, self.supervisor_tag)
        };
        half[linear_page as usize % ENTRIES] = TlbEntry {
            tag,
            linear_page,
            frame,
            page,
            target,
            writable,
            executable,
        };
    }

    /// Forgets a page of the space with this tag.
    pub(crate) fn remove(&mut self, linear_page: u32, tag: u32) {
        self.next_epoch();
        let index = linear_page as usize % ENTRIES;
        for entry in [&mut self.user[index], &mut self.supervisor[index]] {
            if entry.linear_page == linear_page && entry.tag == tag {
                entry.tag = NO_TAG;
            }
        }
    }

    /// The entries that lookups can hit now: linear page, whether of the user half, and the entry.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u32, bool, &TlbEntry)> {
        let user = self
            .user
            .iter()
            .filter(|e| e.tag == self.user_tag)
            .map(|e| (e.linear_page, true, e));
        let supervisor = self
            .supervisor
            .iter()
            .filter(|e| e.tag == self.supervisor_tag)
            .map(|e| (e.linear_page, false, e));
        user.chain(supervisor)
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        self.next_epoch();
        self.user.fill(EMPTY);
        self.supervisor.fill(EMPTY);
    }
}

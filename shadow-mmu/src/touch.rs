//! Accesses that the VMM carries out for translated code: which of them a mapping would have spared.

use crate::mmu::Mmu;
use crate::pool::{bits, leaf_page};
use crate::ram::HostPage;
use crate::{Access, PAGE_SHIFT, Privilege};

/// Pages remembered, by a hash of their linear address.
const REMEMBERED: usize = 1024;

/// A page that was met while it was not mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Touch {
    linear_page: u32,
    /// Page of the memory file + 1.
    page: HostPage,
    slot: u8,
    write: bool,
}

/// Pages that were met once. Only a memory: what is forgotten, or remembered too long, costs time at most.
#[derive(Debug)]
pub(crate) struct Touches(Box<[Touch; REMEMBERED]>);

impl Default for Touches {
    fn default() -> Self {
        Touches(Box::new([Touch::default(); REMEMBERED]))
    }
}

impl Touches {
    /// Remembers a touch; true if it was remembered already.
    fn again(&mut self, touch: Touch) -> bool {
        let place = self.0.get_mut(touch.linear_page as usize % REMEMBERED);
        place.is_some_and(|last| std::mem::replace(last, touch) == touch)
    }
}

impl Mmu {
    /// An access that [`Mmu::plan`] has found to be direct: true if translated code could have made it itself, because its
    /// page is mapped for it. A page that is not is mapped when it is met for the second time: what is touched once,
    /// or is another page each time, is not worth a mapping.
    pub fn is_within_reach(&mut self, linear: u32, access: Access) -> bool {
        let page = linear >> PAGE_SHIFT;
        let write = access.is_write();
        let slots = match access.privilege {
            Privilege::User => [Some(self.active.user), None],
            // The pages of users are in their own space.
            Privilege::Supervisor => [Some(self.active.supervisor), Some(self.active.user)],
        };
        for slot in slots.into_iter().flatten() {
            let Some(space) = self.spaces.get(slot) else {
                continue;
            };
            let Some(leaf) = space.tree.leaf(&self.pool, page) else {
                continue;
            };
            if space.is_stale() || write && leaf.entry & bits::RW == 0 {
                return false;
            }
            let target = leaf_page(leaf.entry);
            let mapped = space.window.as_ref().and_then(|w| w.mapped(page));
            if mapped.is_some_and(|m| m.page == target && (m.writable || !write)) {
                return true;
            }
            let touch = Touch {
                linear_page: page,
                page: target + 1,
                slot,
                write,
            };
            return self.touches.again(touch) && self.map_page(slot, page);
        }
        false
    }
}

//! Watched pages: linear pages that no window maps, so that every access of translated code to them faults.

use crate::MmuEvent;
use crate::mmu::Mmu;
use crate::pool::bits;

/// Guest-linear page numbers, at most one for each debug register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watched([Option<u32>; 4]);

impl Watched {
    #[inline]
    pub(crate) fn contains(&self, page: u32) -> bool {
        self.0.contains(&Some(page))
    }

    /// A page of `first..first + count` is watched.
    #[inline]
    pub(crate) fn any_within(&self, first: u32, count: u32) -> bool {
        self.0
            .iter()
            .flatten()
            .any(|&page| page.wrapping_sub(first) < count)
    }
}

impl Mmu {
    /// Replaces the set of watched linear pages, at most four: the pages of data breakpoints. No window of any space maps them
    /// from now on, and a legal access of translated code to one is answered by
    /// [`FaultOutcome::Trapped`](crate::FaultOutcome::Trapped). Aliases ([`Mmu::code_page_alias`]) end. Shadow tables, and accesses of the VMM, are not concerned.
    pub fn watch_pages(&mut self, pages: impl IntoIterator<Item = u32>) {
        let mut watched = Watched::default();
        for (place, page) in watched.0.iter_mut().zip(pages) {
            *place = Some(page);
        }
        self.watched = watched;
        self.tlb.next_epoch();
        let slots: Vec<u8> = self.spaces.iter().map(|(slot, _)| slot).collect();
        for page in watched.0.into_iter().flatten() {
            for &slot in &slots {
                self.unmap_page(slot, page);
                self.end_alias(slot, page);
            }
        }
    }

    fn end_alias(&mut self, slot: u8, page: u32) {
        let Some(space) = self.spaces.get(slot) else {
            return;
        };
        if space
            .tree
            .leaf(&self.pool, page)
            .is_some_and(|leaf| leaf.entry & bits::CODE != 0)
        {
            self.events.push(MmuEvent::Unmapped {
                space: space.id,
                first_page: page,
                pages: 1,
            });
        }
    }

    /// Takes one page out of the window of a space. Its shadow entry stays.
    fn unmap_page(&mut self, slot: u8, page: u32) {
        let Some(window) = self.spaces.get_mut(slot).and_then(|s| s.window.as_mut()) else {
            return;
        };
        if window.mapped(page).is_none() {
            return;
        }
        self.vmas -= window.vmas();
        let done = window.unmap(page, 1, &mut self.stats);
        self.vmas += window.vmas();
        if let Err(error) = done {
            tracing::warn!(%error, "a watched page could not be unmapped; window emptied");
            self.empty_window(slot);
        }
    }
}

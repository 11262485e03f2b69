//! Zaps and traces: taking away what was derived, and bringing windows in line with their trees.

use crate::mmu::Mmu;
use crate::pool::{ENTRIES, Mapper, bits, leaf_page};
use crate::ram::HostPage;
use crate::space::Space;
use crate::traces::{TableUse, Trace};
use crate::types::{MmuEvent, Privilege, View};
use crate::window::{Mapped, Window};

/// Why a window has to follow its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Guest tables changed: like a stale TLB entry, the mapping may live until the window is next handed out.
    Zap,
    /// A page came under a trace, and must not be written from now on.
    Trace,
}

/// What has to happen to a page of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    Unmap,
    ReadOnly,
    Writable,
}

impl Mmu {
    /// The window to run code of privilege `p` on. Brings it in line with its shadow tree first, and makes `p` the privilege in
    /// use: while the user window is in use, zaps change it at once.
    ///
    /// To be called whenever the privilege of the code to run changes, and again before a window is used after any call that
    /// may have left it unclean ([`Mmu::view_is_clean`]): a change of paging, a write through the trace hook, or
    /// [`Mmu::trace_code`].
    pub fn view(&mut self, p: Privilege) -> View {
        self.in_use = p;
        self.clean_view(p)
    }

    /// As [`Mmu::view`], but the privilege in use stays what it is: for supervisor code that reaches into the user window.
    pub fn clean_view(&mut self, p: Privilege) -> View {
        let slot = self.slot_of(p);
        if p == Privilege::User && self.prediction.is_some() {
            self.apply_prediction();
        }
        if self.spaces.get(slot).is_some_and(Space::is_stale) {
            self.sync(slot);
        }
        self.ensure_window(slot);
        match self.spaces.get(slot) {
            Some(Space {
                id,
                window: Some(window),
                ..
            }) => View {
                space: *id,
                base: window.base(),
            },
            // Cannot happen: three windows were reserved at the start, and an active space may take one from a cached one.
            _ => {
                tracing::error!("no window for an active space");
                View {
                    space: self.space_of(p),
                    base: 0,
                }
            }
        }
    }

    /// The window for accesses of privilege `p`, if nothing is put off for it. Changes nothing.
    #[inline]
    pub fn ready_view(&self, p: Privilege) -> Option<View> {
        let space = self.spaces.get(self.slot_of(p)).filter(|s| !s.is_stale())?;
        let base = space.window.as_ref()?.base();
        Some(View {
            space: space.id,
            base,
        })
    }

    /// The view that [`Mmu::view`] would return, if it had nothing to do for it.
    #[inline]
    pub fn standing_view(&self, p: Privilege) -> Option<View> {
        if p == Privilege::User && self.prediction.is_some() {
            return None;
        }
        self.ready_view(p)
    }

    /// Tells which privilege is in use, after a change that [`Mmu::view`] was not called for because
    /// [`Mmu::standing_view`] had said that it would not do anything.
    #[inline]
    pub fn set_privilege(&mut self, p: Privilege) {
        self.in_use = p;
    }

    /// Nothing is put off for the window of privilege `p`: it may be used as it is.
    #[inline]
    pub fn view_is_clean(&self, p: Privilege) -> bool {
        self.spaces
            .get(self.slot_of(p))
            .is_some_and(|s| !s.is_stale() && s.window.is_some())
    }

    /// Gives a space a window, if need be that of the cached space least recently used.
    pub(crate) fn ensure_window(&mut self, slot: u8) {
        if self.spaces.get(slot).is_none_or(|s| s.window.is_some()) {
            return;
        }
        let window = match self.spare_windows.pop() {
            Some(window) => Some(window),
            None => Window::reserve().ok().or_else(|| self.steal_window()),
        };
        if let (Some(window), Some(space)) = (window, self.spaces.get_mut(slot)) {
            self.vmas += window.vmas();
            space.window = Some(window);
            space.stale.clear();
        }
    }

    fn steal_window(&mut self) -> Option<Window> {
        let inactive = self
            .spaces
            .iter()
            .filter(|(slot, s)| !self.is_active(*slot) && s.window.is_some());
        let (slot, _) = inactive.min_by_key(|(_, s)| s.used)?;
        let space = self.spaces.get_mut(slot)?;
        space.stale.clear();
        let mut window = space.window.take()?;
        self.vmas -= window.vmas();
        window.clear(&mut self.stats).ok()?;
        Some(window)
    }

    /// Empties windows, the least recently used first, until `extra` more host mappings fit the budget. The trees stay.
    pub(crate) fn make_room(&mut self, extra: usize) {
        if self.vmas + extra <= self.config.mapping_budget {
            return;
        }
        // Some slack, or the next fill would be here again.
        let goal = self.config.mapping_budget / 8 * 7;
        let mut order: Vec<(bool, u64, u8)> = self
            .spaces
            .iter()
            .filter(|(_, s)| s.window.as_ref().is_some_and(|w| w.vmas() > 1))
            .map(|(slot, s)| (self.is_active(slot), s.used, slot))
            .collect();
        order.sort_unstable();
        for (_, _, slot) in order {
            if self.vmas + extra <= goal {
                break;
            }
            self.empty_window(slot);
        }
    }

    pub(crate) fn empty_window(&mut self, slot: u8) {
        let Some(space) = self.spaces.get_mut(slot) else {
            return;
        };
        space.stale.clear();
        if let Some(window) = &mut space.window {
            self.vmas -= window.vmas();
            let cleared = window.clear(&mut self.stats);
            self.vmas += window.vmas();
            self.stats.windows_emptied += 1;
            if let Err(error) = cleared {
                // Giving the address space back cannot need memory; the space gets another window.
                tracing::error!(%error, "cannot empty a window");
                self.vmas -= window.vmas();
                space.window = None;
            }
        }
    }

    /// Removes the shadow entry of one linear page.
    pub(crate) fn zap_page(&mut self, slot: u8, page: u32) {
        let Some(space) = self.spaces.get_mut(slot) else {
            return;
        };
        self.tlb.remove(page, space.tag);
        let Some(leaf) = space.tree.leaf(&self.pool, page) else {
            return;
        };
        self.stats.zaps += 1;
        space.tree.clear_leaf(&mut self.pool, page);
        if leaf.entry & bits::CODE != 0 {
            self.events.push(MmuEvent::Unmapped {
                space: space.id,
                first_page: page,
                pages: 1,
            });
        }
        self.follow(slot, page, 1, Cause::Zap);
    }

    /// Removes everything that was derived from a directory entry, and the dependence on it.
    pub(crate) fn zap_region(&mut self, slot: u8, region: u32) {
        let Some(space) = self.spaces.get_mut(slot) else {
            return;
        };
        if space.regions.get(region).is_none() {
            return;
        }
        self.stats.zaps += 1;
        let table = space.regions.remove(region);
        self.user_regions_dirty |= slot == self.active.supervisor;
        let pages = space.regions.geometry.region_pages();
        let first = region * pages;
        let (mut any, mut code) = (false, false);
        for chunk in (first..first + pages).step_by(ENTRIES as usize) {
            let cleared = space.tree.clear_chunk(&mut self.pool, chunk);
            any |= cleared.any;
            code |= cleared.code;
        }
        if code {
            self.events.push(MmuEvent::Unmapped {
                space: space.id,
                first_page: first,
                pages,
            });
        }
        if let Some(table) = table
            && self
                .traces
                .remove_use(table, TableUse { slot, region }, false)
        {
            self.clear_trace(table, Trace::TABLE);
        }
        self.retag(slot);
        if any {
            self.follow(slot, first, pages, Cause::Zap);
        }
    }

    /// The tree of a space has lost entries or rights in a range: lets the window follow, now or when it is next used.
    pub(crate) fn follow(&mut self, slot: u8, first: u32, count: u32, cause: Cause) {
        let Some(space) = self.spaces.get_mut(slot) else {
            return;
        };
        space.mark_stale(first, count);
        if !space.is_stale() {
            return;
        }
        let now = slot == self.active.supervisor
            || slot == self.active.user
                && (cause == Cause::Trace || self.in_use == Privilege::User);
        if now {
            self.sync(slot)
        } else {
            self.stats.deferred_zaps += 1
        }
    }

    /// Compares the stale ranges of a window with the tree, and unmaps or protects what differs.
    pub(crate) fn sync(&mut self, slot: u8) {
        let Some(space) = self.spaces.get_mut(slot) else {
            return;
        };
        let ranges = space.stale.take();
        let Space {
            tree,
            window: Some(window),
            ..
        } = space
        else {
            return;
        };
        self.vmas -= window.vmas();
        let mut failed = None;
        let mut run: Option<(Repair, u32, u32)> = None;
        for (first, end) in ranges {
            let mut at = first;
            while let Some(page) = window.next_mapped(at, end) {
                at = page + 1;
                let Some(mapped) = window.mapped(page) else {
                    continue;
                };
                let leaf = tree.leaf(&self.pool, page).map(|l| Mapped {
                    page: leaf_page(l.entry),
                    writable: l.entry & bits::RW != 0,
                });
                let repair = match leaf {
                    None => Repair::Unmap,
                    Some(wanted) if wanted == mapped => continue,
                    Some(wanted) if wanted.page == mapped.page => match wanted.writable {
                        false => Repair::ReadOnly,
                        true => Repair::Writable,
                    },
                    Some(wanted) => {
                        // The guest has put another page there, as it does after a write to a shared one.
                        let stats = &mut self.stats;
                        let mapped = window.map(self.ram.file(), page, 1, wanted, stats);
                        failed = failed.or(mapped.err());
                        continue;
                    }
                };
                // One call for neighbours; unmapping may run across what is not mapped anyway.
                if let Some((kind, _, last)) = &mut run
                    && *kind == repair
                    && (*last + 1 == page
                        || repair == Repair::Unmap && window.next_mapped(*last + 1, page).is_none())
                {
                    *last = page;
                    continue;
                }
                failed = failed.or(self::repair(
                    window,
                    run.replace((repair, page, page)),
                    &mut self.stats,
                )
                .err());
            }
        }
        failed = failed.or(self::repair(window, run, &mut self.stats).err());
        self.vmas += window.vmas();
        if let Some(error) = failed {
            // The host is short of mappings: an empty window is always right, and frees some.
            tracing::warn!(%error, "a window could not be brought up to date; emptied");
            self.empty_window(slot);
        }
    }

    /// Puts a page under a trace: no leaf maps it writable from now on.
    pub(crate) fn set_trace(&mut self, page: HostPage, why: Trace) {
        let fresh = self.traces.set(page, why);
        self.tlb.next_epoch();
        if why == Trace::TABLE {
            self.end_aliases(page);
        }
        if !fresh {
            return;
        }
        self.stats.traces_set += 1;
        self.split_large_leaves(page);
        let mappers: Vec<Mapper> = self.pool.mappers(page).collect();
        for m in mappers {
            let entry = self.pool.entry(m.table, m.index);
            if entry & bits::RW != 0 {
                self.pool.set(m.table, m.index, entry & !bits::RW);
                self.follow(m.slot, m.linear_page, 1, Cause::Trace);
            }
        }
    }

    /// A page becomes a page table: whoever writes it past its trace has to stop ([`Mmu::code_page_alias`]).
    fn end_aliases(&mut self, page: HostPage) {
        let mappers: Vec<Mapper> = self.pool.mappers(page).collect();
        for m in mappers {
            if self.pool.entry(m.table, m.index) & bits::CODE != 0
                && let Some(space) = self.spaces.get(m.slot)
            {
                self.events.push(MmuEvent::Unmapped {
                    space: space.id,
                    first_page: m.linear_page,
                    pages: 1,
                });
            }
        }
    }

    /// A former page table has been written to as ordinary memory, or is about to be.
    pub(crate) fn end_former(&mut self, page: HostPage) {
        if self.traces.is_former(page) {
            self.clear_trace(page, Trace::FORMER | Trace::FAULTED);
        }
    }

    /// Ends a reason to trace a page. Write access comes back at the next write to it, if no other reason is left.
    pub(crate) fn clear_trace(&mut self, page: HostPage, why: Trace) {
        if self.traces.clear(page, why) {
            self.stats.traces_cleared += 1;
        }
    }

    /// Removes every leaf that maps a page of memory.
    pub(crate) fn unmap_memory(&mut self, page: HostPage) {
        self.split_large_leaves(page);
        let mappers: Vec<Mapper> = self.pool.mappers(page).collect();
        for m in mappers {
            self.zap_page(m.slot, m.linear_page);
        }
    }

    fn split_large_leaves(&mut self, page: HostPage) {
        let large: Vec<Mapper> = self.pool.large_mappers(page).collect();
        for m in large {
            if let Some(space) = self.spaces.get_mut(m.slot) {
                space.tree.ensure_table(&mut self.pool, m.linear_page);
            }
        }
    }
}

/// Carries out a repair of consecutive pages.
fn repair(
    window: &mut Window,
    run: Option<(Repair, u32, u32)>,
    stats: &mut crate::MmuStats,
) -> Result<(), nix::errno::Errno> {
    match run {
        None => Ok(()),
        Some((Repair::Unmap, first, last)) => window.unmap(first, last - first + 1, stats),
        Some((kind, first, last)) => {
            let writable = kind == Repair::Writable;
            window.protect(first, last - first + 1, writable, stats)
        }
    }
}

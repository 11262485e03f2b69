//! Extents: stretches of memory that are contiguous in linear and physical addresses, entered and mapped as a whole.

use crate::fill::LeafSpec;
use crate::mmu::Mmu;
use crate::phys::Frame;
use crate::pool::{ENTRIES, bits, leaf_page};
use crate::space::{Space, SpaceKind};
use crate::walk::{A, D, P, Paging, U, W, XD};
use crate::window::WINDOW_PAGES;

impl Mmu {
    /// Makes or updates the shadow entry of a page of an extent, and with it those of the whole extent.
    pub(crate) fn install_extent(&mut self, slot: u8, page: u32, spec: LeafSpec) {
        let frame = self.map.lookup(spec.gpa);
        let wanted = self.compose(frame, spec);
        let Some(space) = self.spaces.get_mut(slot) else {
            return;
        };
        let old = space.tree.leaf(&self.pool, page).map(|l| l.entry);
        let chunk = page & !(ENTRIES - 1);
        let chunk_spec = LeafSpec {
            gpa: spec.gpa - (u64::from(page - chunk) << 12),
            ..spec
        };
        match old {
            None => {
                self.stats.shadow_fills += 1;
                self.install_chunk(slot, chunk, chunk_spec);
                self.extend(slot, chunk, chunk_spec);
            }
            Some(old) if wanted & bits::MAY_WRITE != 0 && old & bits::MAY_WRITE == 0 => {
                // The dirty bit of the whole extent has been set.
                self.raise_chunk(slot, chunk, chunk_spec);
            }
            Some(old) if wanted & bits::RW != 0 && old & bits::RW == 0 => {
                // No longer traced.
                space.tree.set_leaf(&mut self.pool, page, old | bits::RW);
            }
            Some(_) => {}
        }
    }

    /// Enters the 2 MiB at linear page `chunk`: as one leaf if its memory is as contiguous and nothing in it is traced. False if
    /// there is no memory in it.
    fn install_chunk(&mut self, slot: u8, chunk: u32, spec: LeafSpec) -> bool {
        let first = self.map.lookup(spec.gpa);
        let frame = |i: u32| self.map.lookup(spec.gpa + (u64::from(i) << 12));
        let uniform = matches!(first, Frame::Ram(page) if page % ENTRIES == 0
            && !self.traces.any_in_chunk(page)
            && (1..ENTRIES).all(|i| frame(i) == Frame::Ram(page + i)));
        if uniform {
            let entry = self.compose(first, spec);
            let Some(space) = self.spaces.get_mut(slot) else {
                return false;
            };
            if space.tree.directory_entry(&self.pool, chunk) == 0 {
                space.tree.set_large(&mut self.pool, chunk, entry);
                return true;
            }
        }
        let mut any = false;
        for i in 0..ENTRIES {
            let entry = self.compose(self.map.lookup(spec.gpa + (u64::from(i) << 12)), spec);
            let Some(space) = self.spaces.get_mut(slot) else {
                return false;
            };
            if entry != 0 {
                any = true;
                if space.tree.leaf(&self.pool, chunk + i).is_none() {
                    space.tree.set_leaf(&mut self.pool, chunk + i, entry);
                }
            }
        }
        any
    }

    /// Gives write access to the 2 MiB at linear page `chunk`, where it is not traced.
    fn raise_chunk(&mut self, slot: u8, chunk: u32, spec: LeafSpec) {
        for i in 0..ENTRIES {
            let entry = self.compose(self.map.lookup(spec.gpa + (u64::from(i) << 12)), spec);
            let Some(space) = self.spaces.get_mut(slot) else {
                return;
            };
            match space.tree.leaf(&self.pool, chunk + i) {
                Some(leaf) if leaf.large => {
                    // Large leaves have no traced pages.
                    space
                        .tree
                        .set_large(&mut self.pool, chunk, entry | leaf.entry & bits::CODE);
                    return;
                }
                Some(leaf) => {
                    space
                        .tree
                        .set_leaf(&mut self.pool, chunk + i, entry | leaf.entry & bits::CODE)
                }
                None => {}
            }
        }
    }

    /// Enters the neighbours of a new chunk on both sides, as far as the guest maps them in the same way with their accessed
    /// (and dirty) bits set, and nothing is there yet.
    fn extend(&mut self, slot: u8, chunk: u32, spec: LeafSpec) {
        for up in [true, false] {
            let (mut at, mut gpa) = (chunk, spec.gpa);
            loop {
                let step = 1u64 << 21;
                let next = if up {
                    (at.checked_add(ENTRIES), gpa.checked_add(step))
                } else {
                    (at.checked_sub(ENTRIES), gpa.checked_sub(step))
                };
                let (Some(next), Some(next_gpa)) = next else {
                    break;
                };
                (at, gpa) = (next, next_gpa);
                let free = at < WINDOW_PAGES
                    && self
                        .spaces
                        .get(slot)
                        .is_some_and(|s| s.tree.directory_entry(&self.pool, at) & bits::P == 0);
                if !free || !self.register_like(slot, chunk, at, gpa, spec) {
                    break;
                }
                if !self.install_chunk(slot, at, LeafSpec { gpa, ..spec }) {
                    break;
                }
            }
        }
    }

    /// The guest maps linear page `at` to `gpa` by a large page like the one at `chunk`; its region is registered.
    fn register_like(&mut self, slot: u8, chunk: u32, at: u32, gpa: u64, spec: LeafSpec) -> bool {
        let Some(paging) = self.paging else {
            return true;
        };
        let pages = paging.geometry().region_pages();
        let (home, region) = (chunk / pages, at / pages);
        if home == region {
            return true;
        }
        let Some(like) = self.spaces.get(slot).and_then(|s| s.regions.get(home)) else {
            return false;
        };
        let entry = paging.directory_entry(self.tables(), region);
        let pde = entry.value;
        let same = entry.cacheable
            && paging.is_large(pde)
            && pde & A != 0
            && (pde & D != 0 || !spec.may_write)
            && (pde ^ like) & (U | W | XD) == 0
            && paging.large_address(pde) + (u64::from(at % pages) << 12) == gpa;
        if same {
            self.register_region(slot, &paging, region, pde);
        }
        same
    }

    /// The pages around `page` (with shadow entry `entry`) that one call can map along with it: contiguous, not mapped, of the
    /// same rights.
    pub(crate) fn run_around(&mut self, slot: u8, page: u32, entry: u64) -> (u32, u32) {
        let (low, high) = if entry & bits::EXTENT != 0 {
            (0, WINDOW_PAGES)
        } else {
            let block = self
                .config
                .fault_around
                .clamp(1, ENTRIES)
                .next_power_of_two();
            let low = page & !(block - 1);
            self.install_neighbours(slot, page, entry, low, low + block);
            (low, low + block)
        };
        let Some(space) = self.spaces.get(slot) else {
            return (page, 1);
        };
        let Space {
            tree,
            window: Some(window),
            ..
        } = space
        else {
            return (page, 1);
        };
        let like = |leaf: u64, at: u32| {
            let distance = i64::from(at) - i64::from(page);
            i64::from(leaf_page(leaf)) == i64::from(leaf_page(entry)) + distance
                && (leaf ^ entry) & bits::RW == 0
        };
        // 2 MiB leaves are passed in one step.
        let whole = |at: u32| {
            let e = tree.directory_entry(&self.pool, at);
            e & (bits::P | bits::PS) == bits::P | bits::PS
                && like(e, at)
                && window.next_mapped(at, at + ENTRIES).is_none()
                && !self.watched.any_within(at, ENTRIES)
        };
        let single = |at: u32| {
            window.mapped(at).is_none()
                && !self.watched.contains(at)
                && tree.leaf(&self.pool, at).is_some_and(|l| like(l.entry, at))
        };
        let mut end = page + 1;
        while end < high {
            if end.is_multiple_of(ENTRIES) && high - end >= ENTRIES && whole(end) {
                end += ENTRIES;
            } else if single(end) {
                end += 1;
            } else {
                break;
            }
        }
        let mut first = page;
        while first > low {
            if first.is_multiple_of(ENTRIES) && first - low >= ENTRIES && whole(first - ENTRIES) {
                first -= ENTRIES;
            } else if single(first - 1) {
                first -= 1;
            } else {
                break;
            }
        }
        (first, end - first)
    }

    /// Enters the neighbours of a 4 KiB page that are contiguous with it and legal already.
    fn install_neighbours(&mut self, slot: u8, page: u32, entry: u64, low: u32, high: u32) {
        let host = leaf_page(entry);
        for (i, at) in (page + 1..high).enumerate() {
            if !self.install_neighbour(slot, at, host.wrapping_add(i as u32 + 1), entry) {
                break;
            }
        }
        for (i, at) in (low..page).rev().enumerate() {
            if !self.install_neighbour(slot, at, host.wrapping_sub(i as u32 + 1), entry) {
                break;
            }
        }
    }

    /// What a page-table entry lets be mapped without a bit of it being set: it is present and accessed.
    fn legal_already(
        &self,
        paging: &Paging,
        kind: SpaceKind,
        pde: u64,
        pte: u64,
    ) -> Option<LeafSpec> {
        let legal = pte & (P | A) == P | A
            && pte & paging.reserved_in_table() == 0
            && kind.holds(pde & pte & U != 0);
        legal.then(|| LeafSpec {
            kind,
            gpa: paging.page_address(pte),
            may_write: kind.writable(pde & pte & W != 0) && pte & D != 0,
            no_execute: paging.execute_disabled(pde | pte),
            extent: false,
        })
    }

    /// The guest has written a present and accessed page-table entry of the user space that is loaded: enters
    /// the page. Its window follows when it is next handed out, by at most one call where it has the page.
    pub(crate) fn prefill(&mut self, slot: u8, region: u32, index: u32, pte: u64) {
        let (Some(paging), Some(space)) = (self.paging, self.spaces.get(slot)) else {
            return;
        };
        if slot != self.active.user || !space.kind.is_user() {
            return;
        }
        let Some(pde) = space.regions.get(region) else {
            return;
        };
        let spec = self
            .legal_already(&paging, space.kind, pde, pte)
            .filter(|spec| matches!(self.map.lookup(spec.gpa), Frame::Ram(_)));
        if let Some(spec) = spec {
            self.stats.prefilled += 1;
            let page = region * paging.geometry().region_pages() + index;
            self.install(slot, page, spec);
        }
    }

    fn install_neighbour(&mut self, slot: u8, page: u32, host: u32, like: u64) -> bool {
        let (Some(paging), Some(space)) = (self.paging, self.spaces.get(slot)) else {
            return false;
        };
        if space.tree.leaf(&self.pool, page).is_some() {
            return true;
        }
        let geometry = space.regions.geometry;
        let region = page / geometry.region_pages();
        let (Some(pde), Some(table)) = (space.regions.get(region), space.regions.table(region))
        else {
            return false;
        };
        let index = page % geometry.region_pages();
        let pte = if geometry.pae {
            self.ram.load_u64(table, index)
        } else {
            u64::from(self.ram.load_u32(table, index))
        };
        let Some(spec) = self
            .legal_already(&paging, space.kind, pde, pte)
            .filter(|spec| self.map.lookup(spec.gpa) == Frame::Ram(host))
        else {
            return false;
        };
        let entry = self.compose(Frame::Ram(host), spec);
        if (entry ^ like) & bits::RW != 0 {
            return false;
        }
        if let Some(space) = self.spaces.get_mut(slot) {
            self.stats.shadow_fills += 1;
            space.tree.set_leaf(&mut self.pool, page, entry);
        }
        true
    }
}

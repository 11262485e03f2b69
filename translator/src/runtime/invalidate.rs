//! What follows when memory that translations were made from changes, and when the cache is full.

use super::engine::Engine;
use crate::codegen::Thunk;
use crate::state::InterruptShadow;
use shadow_mmu::{Mmu, MmuEvent};

impl Engine {
    /// Carries out what happened to the memory that translations were made from.
    pub(super) fn drain_events(&mut self, mmu: &mut Mmu) {
        if !mmu.has_events() {
            return;
        }
        let mut events = std::mem::take(&mut self.events);
        mmu.take_events(&mut events);
        for event in events.drain(..) {
            match event {
                MmuEvent::CodeWritten { gfn, offset, len } => {
                    self.code_written(mmu, gfn, u32::from(offset), u32::from(len));
                }
                MmuEvent::Unmapped {
                    space,
                    first_page,
                    pages,
                } => {
                    self.stores.remove(space, first_page, pages);
                    for (key, table) in &mut self.code_spaces {
                        if key.space == space {
                            let (first, count) = key.eip_pages(first_page, pages);
                            table.clear_pages(first, count);
                        }
                    }
                }
                MmuEvent::SpaceDropped(space) => {
                    self.stores.drop_space(space);
                    self.forget_sides();
                    if let Some(view) = self.view {
                        self.cache.context_mut().store_table = self.stores.address(view.space);
                    }
                    let gone = self.code_spaces.extract_if(|key, _| key.space == space);
                    gone.for_each(|(_, table)| self.spare_tables.put(table));
                    if self.code_space.is_some_and(|key| key.space == space) {
                        self.code_space = None;
                        self.changed = true;
                    }
                }
            }
        }
        self.events = events;
    }

    pub(super) fn code_written(&mut self, mmu: &mut Mmu, gfn: u32, offset: u32, len: u32) {
        for index in self.units.remove_range(gfn, offset, offset + len) {
            self.kill(index);
        }
        self.units.forget_jumps(gfn, offset, offset + len);
        if self.units.page_is_empty(gfn)
            && let Some(page) = self.units.pages.get_mut(&gfn)
            && std::mem::take(&mut page.traced)
        {
            mmu.untrace_code(gfn);
        }
    }

    /// A retired thunk has no entry in any jump table: callers that do without it take the entry for the proof that it
    /// is what it was (`codegen/thunk.rs`), and nobody is told when the bytes of a retired unit are written.
    fn forget_thunk(&mut self, index: u32) {
        let Some(unit) = self.units.get(index) else {
            return;
        };
        let entry = (unit.host - self.cache.code_start()) as u32;
        if Thunk::of(&unit.instructions, entry).is_some() {
            for (key, table) in &mut self.code_spaces {
                if key.mode == unit.key.mode {
                    table.forget(unit.key.eip, entry);
                }
            }
        }
    }

    /// Makes every way into a retired unit lead to the dead stub.
    pub(super) fn kill(&mut self, index: u32) {
        let Some(unit) = self.units.get(index) else {
            return;
        };
        let host = unit.host;
        self.forget_thunk(index);
        self.stats.invalidations += 1;
        self.plant_dead_call(host);
    }

    pub(super) fn plant_dead_call(&mut self, at: u64) {
        let target = self.cache.stubs.dead;
        self.cache.patch(at, &[0xE8]);
        self.cache.patch_rel32(at + 1, target);
    }

    /// The instruction under way at host address `at` is completed, but if its unit is no longer
    /// valid, that is left in front of the next one. True if that is where it is now: EIP says where.
    pub(super) fn leave_if_dead(&mut self, at: u64) -> bool {
        let unit = self
            .units
            .at_host(at)
            .and_then(|index| self.units.get(index))
            .filter(|unit| unit.dead && !unit.key.mode.is_single());
        let Some(unit) = unit else {
            return false;
        };
        let offset = (at - unit.host) as u32;
        let next = unit.instructions.partition_point(|map| map.host < offset);
        let Some(next) = unit.instructions.get(next) else {
            return false;
        };
        let (host, eip) = (unit.host + u64::from(next.host), next.guest.ip32());
        if host != at {
            // Behind a call: not in the way of the one that the entry of the unit has become.
            self.plant_dead_call(host);
            return false;
        }
        let shadow = unit.shadow_at(at);
        if shadow != InterruptShadow::None {
            self.cache.context_mut().cpu.interrupt_shadow = shadow;
        }
        self.set_eip(eip);
        true
    }

    /// Gives one unit up: a hint says that it should be translated differently.
    pub(super) fn discard(&mut self, index: u32) {
        self.units.retire(index);
        self.kill(index);
    }

    /// Gives up every unit that has a copy of the instruction at `gpa`: they were translated without its new hint.
    pub(super) fn discard_copies(&mut self, gpa: u32) {
        let offset = gpa & 0xFFF;
        for index in self.units.remove_range(gpa >> 12, offset, offset + 1) {
            self.kill(index);
        }
    }

    /// Empties the cache.
    pub(crate) fn flush(&mut self, mmu: &mut Mmu) {
        self.stats.flushes += 1;
        self.read_samples();
        for gfn in self.units.clear() {
            mmu.untrace_code(gfn);
        }
        for table in self.code_spaces.values_mut() {
            table.clear();
        }
        self.stores.clear();
        self.cache.clear();
        self.stepping = None;
        self.volatile = None;
        self.forward = None;
    }
}

//! Pages that hold code and data: stores that keep off the code get a form that does not fault.
//!
//! The first stores to a page with code are replayed as any trapped access. Once a page has met a few
//! that hit none of its code, it gets an alias in the store table, and each instruction that meets it
//! again is translated in the checked form.

use super::engine::{Engine, Step};
use super::faults::{At, TRAPPED_STRINGS_BEFORE_CALLOUT};
use super::store_table::next_code;
use crate::codegen::AccessHint;
use iced_x86::Instruction;
use shadow_mmu::{Mmu, PhysTarget, Resolved};

/// Stores beside the code of a page after which it gets an alias.
const DATA_STORES_BEFORE_ALIAS: u32 = 2;

/// Linear pages with an alias to one page of memory that are remembered without a look at them.
const MAX_ALIASES: usize = 16;

/// Bytes that one store of `insn` writes, at most.
fn store_bytes(insn: &Instruction) -> u32 {
    match insn.memory_size().size() as u32 {
        0 => 4,
        size => size,
    }
}

impl Engine {
    /// Answers a store to a traced page at `linear`, if the page is one with code and the store is
    /// beside it. `None`: to be handled as any other trapped access.
    pub(super) fn store_beside_code(
        &mut self,
        at: At,
        linear: u32,
        resolved: Resolved,
        mmu: &mut Mmu,
    ) -> Option<Step> {
        if self.mode.is_slow() || resolved.target != PhysTarget::Ram || !resolved.traced {
            return None;
        }
        let (gfn, offset) = ((resolved.gpa >> 12) as u32, resolved.gpa as u32 & 0xFFF);
        let code = self.units.code_map(gfn)?;
        if next_code(code, offset) - offset < store_bytes(&at.insn).min(4096 - offset) {
            return None;
        }
        let repeated = at.insn.has_rep_prefix() || at.insn.has_repne_prefix();
        if at.insn.is_string_instruction()
            && repeated
            && self.units.count_trapped(at.gpa) <= TRAPPED_STRINGS_BEFORE_CALLOUT
        {
            return None;
        }
        let page = self.units.pages.get_mut(&gfn)?;
        page.data_stores += 1;
        if page.data_stores <= DATA_STORES_BEFORE_ALIAS {
            return None;
        }
        let fresh = self.add_alias(mmu, linear, gfn)?;
        match self.units.hint(at.gpa) {
            AccessHint::None | AccessHint::Wrapped => {
                Some(self.learn(at, AccessHint::CheckedStore))
            }
            AccessHint::CheckedStore if fresh => Some(self.hidden(at)),
            _ => None,
        }
    }

    /// Makes checked stores to a linear page go to `gfn`'s memory. True if they did not before; `None`
    /// if they cannot.
    fn add_alias(&mut self, mmu: &mut Mmu, linear: u32, gfn: u32) -> Option<bool> {
        let space = self.view?.space;
        let page = linear >> 12;
        if self.stores.has_alias(space, page) {
            return Some(false);
        }
        let host = mmu.code_page_alias(linear, self.privilege())? as u64;
        let code = self.units.code_map(gfn)?;
        let bases = &mut self.cache.context_mut().store_bases;
        if self.stores.add(space, page, host, code, bases).is_none() {
            // No room for another base: all aliases are found again by faults.
            self.clear_aliases();
            return None;
        }
        if let Some(known) = self.units.pages.get_mut(&gfn)
            && !known.aliases.contains(&(space, page))
        {
            if known.aliases.len() >= MAX_ALIASES {
                let stores = &self.stores;
                known
                    .aliases
                    .retain(|&(space, page)| stores.has_alias(space, page));
            }
            known.aliases.push((space, page));
        }
        self.cache.context_mut().store_table = self.stores.address(space);
        self.stats.aliases += 1;
        Some(true)
    }

    /// A checked store met the trap region: there is code now, or there was when the table was made.
    /// True if it can be tried again.
    pub(super) fn refresh_alias(&mut self, linear: u32, mmu: &mut Mmu) -> bool {
        let Some(view) = self.view else {
            return false;
        };
        let access = shadow_mmu::Access::write(self.privilege());
        let Ok(resolved) = mmu.resolve(linear, access) else {
            return false;
        };
        match self.units.code_map((resolved.gpa >> 12) as u32) {
            Some(code) => self.stores.refresh(view.space, linear >> 12, code),
            None => false,
        }
    }

    /// The bytes of a new unit are no place for stores.
    pub(super) fn note_code(&mut self, index: u32) {
        self.units.mark_code(index);
        let Some(unit) = self.units.get(index) else {
            return;
        };
        for (gfn, shift) in unit.pages() {
            let Some(page) = self.units.pages.get(&gfn) else {
                continue;
            };
            for &(space, linear_page) in &page.aliases {
                for (first, end) in unit.code_ranges() {
                    let (first, end) = (first.saturating_sub(shift), end.saturating_sub(shift));
                    if end != 0 {
                        self.stores.add_code(space, linear_page, first, end);
                    }
                }
            }
        }
    }

    pub(super) fn clear_aliases(&mut self) {
        self.stores.clear();
        for page in self.units.pages.values_mut() {
            page.aliases.clear();
        }
    }
}

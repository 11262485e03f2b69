//! From CS:EIP to a unit: the context made ready for the mode, the unit found or translated.

use super::engine::{Engine, Step, UNUSABLE_BASE};
use super::jump_table::JumpTable;
use super::jumps::LearnedJump;
use super::units::{Unit, UnitKey, Units};
use crate::codegen::mode::{Mode, SegmentClass};
use crate::codegen::{AccessHint, CodeSource, JumpForm, Thunk, Translation, build, features};
use crate::state::seg;
use crate::system::CpuModel;
use crate::{Exit, Platform};
use iced_x86::Instruction;
use shadow_mmu::{Access, Mmu, PhysTarget, Privilege, SpaceId, View};

/// What a jump table belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CodeSpace {
    pub(super) space: SpaceId,
    pub(super) mode: Mode,
    pub(super) code_base: u32,
    pub(super) code_limit: u32,
}

impl CodeSpace {
    /// The pages of EIP (first and number) that reach into linear pages `first..first + pages`: the
    /// two differ by the base of CS.
    pub(super) fn eip_pages(&self, first: u32, pages: u32) -> (u32, u32) {
        let aligned = self.code_base & 0xFFF == 0;
        let before = u32::from(!aligned);
        let first = first
            .wrapping_sub(self.code_base >> 12)
            .wrapping_sub(before);
        (first & 0xF_FFFF, pages + before)
    }
}

/// Most code spaces that keep their jump table.
const MAX_CODE_SPACES: usize = 512;
/// A unit never needs more bytes of code than this.
const UNIT_RESERVE: usize = 64 << 10;
/// What is fetched for a unit of one instruction, which has 15 bytes at most.
const FETCH_BYTES: usize = 16;

struct PageSource<'a> {
    units: &'a Units,
    page: u32,
    model: &'a CpuModel,
    checks_mxcsr: bool,
    key: &'a UnitKey,
    /// The jump table that the unit will use, if it is known already.
    table: Option<&'a JumpTable>,
    /// Host address that offsets in the table are from.
    code_start: u64,
}

impl CodeSource for PageSource<'_> {
    fn hint(&self, page_offset: u32) -> AccessHint {
        if page_offset >= 4096 {
            AccessHint::None
        } else {
            self.units.hint(self.page | page_offset)
        }
    }

    fn jump_form(&self, page_offset: u32) -> JumpForm {
        let page = self.units.pages.get(&(self.page >> 12));
        page.and_then(|page| page.jumps.get(&page_offset))
            .map_or(JumpForm::Counted, LearnedJump::form)
    }

    fn supports(&self, insn: &Instruction) -> bool {
        features::supports(*self.model, insn)
    }

    fn checks_mxcsr(&self) -> bool {
        self.checks_mxcsr
    }

    fn thunk(&self, target: u32) -> Option<Thunk> {
        let entry = self.table?.get(target)?;
        let index = self.units.at_host(self.code_start + u64::from(entry))?;
        let unit = self.units.get(index).filter(|unit| {
            !unit.dead
                && unit.host == self.code_start + u64::from(entry)
                && unit.key.eip == target
                && unit.key.mode == self.key.mode
                && unit.second_page.is_none()
        })?;
        Thunk::of(&unit.instructions, entry)
    }
}

impl Engine {
    /// The host address to enter for CS:EIP; translates if need be. An exception met while
    /// fetching is delivered (`Step::Boundary`).
    pub(super) fn locate(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        single: bool,
    ) -> Result<u64, Step> {
        let mut mode = Mode::of(self.state());
        let tf = mode.traps();
        let slow = std::mem::take(&mut self.slow_next);
        if slow {
            mode = mode.slow();
        } else if single {
            mode = mode.single();
        }
        let cpu = self.state();
        let (eip, linear) = (cpu.eip, cpu.linear_eip());
        let code_limit = cpu.seg[seg::CS].limit;
        let access = Access::execute(self.privilege());
        let resolved = match mmu.resolve(linear, access) {
            Ok(resolved) => resolved,
            Err(fault) => return Err(self.raise(mmu, platform, fault.into())),
        };
        if !is_memory(resolved.target) {
            // What a device holds may change at any time: each instruction is fetched anew.
            mode = mode.single();
        }
        self.make_ready(mmu, mode);
        let key = UnitKey {
            gpa: resolved.gpa as u32,
            eip,
            mode,
            code_limit,
        };
        self.drop_volatile();
        let found = self.units.find(&key);
        let index = match found {
            Some(index) if self.second_page_agrees(mmu, index, linear, access) => index,
            _ => {
                if let Some(stale) = found {
                    self.discard(stale);
                }
                self.translate(mmu, platform, key, linear, resolved.target)?
            }
        };
        let Some(unit) = self.units.get(index) else {
            return Err(Step::Leave(Exit::Internal("a unit vanished".into())));
        };
        let host = unit.host;
        if let Some(view) = self.view {
            mmu.mark_code(view.space, linear >> 12);
            if unit.second_page.is_some() {
                mmu.mark_code(view.space, linear.wrapping_add(4095) >> 12);
            }
        }
        if mode.is_single() {
            self.stepping = Some(index);
            self.stats.slow_instructions += u64::from(slow && !tf);
        } else if !self.logging
            && self.volatile.is_none()
            && let Some(space) = self.code_space
            && let Some(table) = self.code_spaces.get_mut(&space)
        {
            if !table.knows_page(eip) {
                // What holds for this unit holds for the others of its page: a process that begins finds the
                // programs of those before it page by page and not unit by unit.
                for (eip, host) in self.units.siblings(&key) {
                    table.set(eip, (host - self.cache.code_start()) as u32);
                }
            }
            table.set(eip, (host - self.cache.code_start()) as u32);
        }
        if let Some((from, forward_key)) = self.forward.take()
            && forward_key == key
            && self
                .units
                .get(index)
                .is_some_and(|unit| unit.second_page.is_none())
        {
            self.cache.patch(from, &[0xE9]);
            self.cache.patch_rel32(from + 1, host);
            self.relink_learned(index);
        }
        if self.logging {
            let cpu = self.state();
            tracing::trace!(target: "ringshift::exec", "{eip:08x} {:08x?} {:08x} mode {:08x}", cpu.gpr, cpu.eflags, mode.bits());
        }
        if self.privilege() == Privilege::User {
            self.stats.entries_user += 1;
        } else {
            self.stats.entries_supervisor += 1;
        }
        Ok(host)
    }

    /// A unit that crosses a page depends on where both are.
    pub(super) fn second_page_agrees(
        &self,
        mmu: &mut Mmu,
        index: u32,
        linear: u32,
        access: Access,
    ) -> bool {
        let Some(second) = self.units.get(index).and_then(|unit| unit.second_page) else {
            return true;
        };
        let next = (linear | 0xFFF).wrapping_add(1);
        mmu.resolve(next, access)
            .is_ok_and(|r| (r.gpa >> 12) as u32 == second)
    }

    /// Makes the context ready for `mode`: window, segment bases, jump table.
    pub(super) fn make_ready(&mut self, mmu: &mut Mmu, mode: Mode) {
        let view = mmu.view(self.privilege());
        if !self.changed && self.view == Some(view) && self.mode == mode {
            return;
        }
        self.changed = false;
        self.stats.window_switches += u64::from(self.view.is_none_or(|v| v.base != view.base));
        self.mode = mode;
        self.view = Some(view);
        let readable = self.cache.quiet_poll();
        let store_table = self.stores.address(view.space);
        let context = self.cache.context_mut();
        context.window = view.base;
        context.store_table = store_table;
        for row in &mut context.store_bases {
            row[0] = view.base;
        }
        for (index, segment) in context.cpu.seg.iter().enumerate() {
            let usable = match mode.class(index) {
                SegmentClass::General => false,
                SegmentClass::Based => SegmentClass::has_full_range(segment),
                _ => true,
            };
            let base = view.base + u64::from(segment.base);
            context.checked_base[index] = if SegmentClass::is_plain(segment) {
                base
            } else {
                UNUSABLE_BASE
            };
            context.segment_check[index] = if usable { readable } else { UNUSABLE_BASE };
            context.segment_base[index] = if usable { base } else { UNUSABLE_BASE };
        }
        let code = context.cpu.seg[seg::CS];
        if mode.is_single() {
            return;
        }
        let key = CodeSpace {
            space: view.space,
            mode,
            code_base: code.base,
            code_limit: code.limit,
        };
        if self.code_space == Some(key) {
            self.note_side();
            return;
        }
        if !self.code_spaces.contains_key(&key) {
            self.bound_jump_tables();
            if self.code_spaces.len() >= MAX_CODE_SPACES {
                self.code_spaces.clear();
                self.forget_sides();
            }
            match self.spare_tables.take(code.limit) {
                Ok(table) => {
                    self.code_spaces.insert(key, table);
                }
                Err(error) => {
                    tracing::warn!(%error, "no memory for a jump table: indirect jumps will be slow")
                }
            }
        }
        self.code_space = Some(key);
        self.note_side();
    }

    /// Empties the jump tables when they have become large: misses fill them again.
    fn bound_jump_tables(&mut self) {
        let bytes: usize = self.code_spaces.values().map(JumpTable::bytes).sum();
        if bytes + self.spare_tables.bytes() > self.record_bytes {
            self.stats.tables_emptied += 1;
            self.spare_tables.clear();
            self.code_spaces.values_mut().for_each(JumpTable::clear);
        }
    }

    /// Routes supervisor accesses to user pages: see `AccessHint::UserWindow`.
    pub(super) fn refresh_regions(&mut self, mmu: &mut Mmu) {
        let (user, supervisor) = (mmu.view(Privilege::User), mmu.view(Privilege::Supervisor));
        self.set_regions(mmu, user, supervisor);
    }

    fn set_regions(&mut self, mmu: &mut Mmu, user: View, supervisor: View) {
        self.regions_spaces = Some((user.space, supervisor.space));
        let regions = mmu.user_regions();
        let generation = regions.generation;
        let context = self.cache.context_mut();
        for (window, is_user) in context.regions.iter_mut().zip(regions.flags) {
            *window = if is_user { user.base } else { supervisor.base };
        }
        self.regions_generation = generation;
        self.regions_usable = true;
    }

    /// Before code is entered, which may change to supervisor privilege: brings the regions up to date where that takes no change of a
    /// window, as after a load of CR3. Otherwise makes them unusable: the next access faults and refreshes
    /// them, so that a window is not brought in line for each of many changes to come.
    pub(super) fn check_regions(&mut self, mmu: &mut Mmu) {
        let Some(known) = self.regions_spaces else {
            return; // nothing that was translated uses them
        };
        let spaces = (
            mmu.space_of(Privilege::User),
            mmu.space_of(Privilege::Supervisor),
        );
        match (
            mmu.ready_view(Privilege::User),
            mmu.ready_view(Privilege::Supervisor),
        ) {
            (Some(user), Some(supervisor)) => {
                let current = self.regions_usable
                    && known == spaces
                    && mmu.user_regions().generation == self.regions_generation;
                if !current {
                    self.set_regions(mmu, user, supervisor);
                }
            }
            _ if self.regions_usable => self.invalidate_regions(),
            _ => {}
        }
    }

    pub(super) fn invalidate_regions(&mut self) {
        self.cache.context_mut().regions = [UNUSABLE_BASE; 256];
        self.regions_usable = false;
    }

    pub(super) fn regions_usable(&self) -> bool {
        self.regions_usable
    }

    pub(super) fn translate(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        key: UnitKey,
        linear: u32,
        target: PhysTarget,
    ) -> Result<u32, Step> {
        if self.cache.free() < UNIT_RESERVE || self.units.bytes() > self.record_bytes {
            self.flush(mmu);
        } else if self.units.review_due() {
            self.bound_jump_tables();
        }
        let page_offset = key.gpa & 0xFFF;
        let in_page = 4096 - page_offset;
        let mut code = vec![0; in_page as usize];
        if key.mode.is_single() {
            code.truncate(FETCH_BYTES);
        }
        read_code(mmu, platform, u64::from(key.gpa), target, &mut code);
        let mut second_page = None;
        let mut second_target = PhysTarget::Ram;
        let built = loop {
            let origin = self.cache.next_address();
            let translation = Translation {
                eip: key.eip,
                code: &code,
                in_page,
                page_offset,
                mode: key.mode,
                code_limit: key.code_limit,
                origin,
                stubs: &self.cache.stubs,
                count: self.count,
                loops: !self.count && !self.logging,
            };
            let source = PageSource {
                units: &self.units,
                page: key.gpa & !0xFFF,
                model: &self.model,
                checks_mxcsr: self.checks_mxcsr,
                key: &key,
                table: self.code_space.and_then(|key| self.code_spaces.get(&key)),
                code_start: self.cache.code_start(),
            };
            let built = build(
                &mut self.asm,
                translation,
                &source,
                std::mem::take(&mut self.buffer),
            );
            if !built.needs_next_page || second_page.is_some() {
                break built;
            }
            self.buffer = built.code;
            let next = (linear | 0xFFF).wrapping_add(1);
            let resolved = match mmu.resolve(next, Access::execute(self.privilege())) {
                Ok(resolved) => resolved,
                Err(fault) => return Err(self.raise(mmu, platform, fault.into())),
            };
            let mut rest = [0; 16];
            read_code(mmu, platform, resolved.gpa, resolved.target, &mut rest);
            second_target = resolved.target;
            code.extend_from_slice(&rest);
            second_page = Some((resolved.gpa >> 12) as u32);
        };
        let host = self.cache.next_address();
        self.cache.append(&built.code);
        self.stats.units += 1;
        self.stats.instructions_translated += built.instructions.len() as u64;
        self.stats.guest_bytes += u64::from(built.end - built.first);
        self.stats.host_bytes += built.code.len() as u64;
        let gfn = key.gpa >> 12;
        let index = self.units.insert(Unit {
            key,
            host,
            host_bytes: built.code.len() as u32,
            instructions: built.instructions.into_boxed_slice(),
            sites: built.sites.into_boxed_slice(),
            first: built.first,
            end: built.end,
            second_page,
            untranslated: built.untranslated.map(String::into_boxed_str),
            dead: false,
        });
        self.buffer = built.code;
        self.note_code(index);
        if !is_memory(target) || !is_memory(second_target) {
            self.volatile = Some((index, self.cache.used()));
        }
        self.trace(mmu, gfn, target);
        if let Some(second) = second_page {
            self.trace(mmu, second, second_target);
        }
        Ok(index)
    }

    /// Forgets the unit that was made from device memory, if the last one was; its room is used again.
    fn drop_volatile(&mut self) {
        let Some((index, end)) = self.volatile.take() else {
            return;
        };
        self.discard(index);
        if self.cache.used() == end
            && let Some(host) = self.units.pop_dead(index)
        {
            self.cache.rewind(host);
        }
        if self.stepping == Some(index) {
            self.stepping = None;
        }
    }

    pub(super) fn trace(&mut self, mmu: &mut Mmu, gfn: u32, target: PhysTarget) {
        if is_memory(target)
            && let Some(page) = self.units.pages.get_mut(&gfn)
            && !std::mem::replace(&mut page.traced, true)
        {
            mmu.trace_code(gfn);
        }
    }
}

/// RAM or ROM: a trace tells when it changes.
fn is_memory(target: PhysTarget) -> bool {
    matches!(target, PhysTarget::Ram | PhysTarget::Rom)
}

/// Reads code from memory, or from a device or hole the way the bus would answer.
fn read_code(
    mmu: &mut Mmu,
    platform: &mut dyn Platform,
    gpa: u64,
    target: PhysTarget,
    code: &mut [u8],
) {
    if is_memory(target) && mmu.read_phys(gpa, code).is_ok() {
        return;
    }
    let mut at = gpa;
    for chunk in code.chunks_mut(8) {
        platform.mmio_read(at, chunk);
        at += chunk.len() as u64;
    }
}

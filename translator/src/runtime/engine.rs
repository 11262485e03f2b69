//! The engine: finds or makes the unit for CS:EIP, enters it, and handles what comes back.

use super::cache::CodeCache;
use super::context::Context;
use super::jump_table::JumpTable;
use super::kick::{KickTarget, Kicker, Pointers};
use super::prepare::Bounce;
use super::stats::Stats;
use super::units::{FastMap, Unit, UnitKey, Units};
use super::{signal, switch};
use crate::codegen::asm::Asm;
use crate::codegen::mode::{Mode, SegmentClass};
use crate::codegen::{AccessHint, CodeSource, Translation, build, features};
use crate::state::{CpuState, InterruptShadow, cr0, eflags, reg, seg};
use crate::system::{CpuModel, Exception, System, vector};
use crate::{Exit, Platform, RunLimits};
use iced_x86::Instruction;
use shadow_mmu::{Access, Mmu, MmuEvent, PhysTarget, Privilege, SpaceId, View};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a jump table belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CodeSpace {
    space: SpaceId,
    mode: Mode,
    code_base: u32,
    code_limit: u32,
}

/// Most code spaces that keep their jump table.
const MAX_CODE_SPACES: usize = 512;
/// A unit never needs more bytes of code than this.
const UNIT_RESERVE: usize = 64 << 10;
/// A non-canonical address: an access through it raises #GP on the host.
const UNUSABLE_BASE: u64 = 0x4000_0000_0000_0000;
/// Host RFLAGS bits that are always there: bit 1 and IF.
const HOST_FLAGS: u64 = 0x202;

/// What to do after an exit has been handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// At an instruction boundary, `eip` says where.
    Boundary,
    /// Go on inside the unit, at this host address.
    Resume(u64),
    /// Come back to the machine.
    Leave(Exit),
}

/// The runtime of one vCPU.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(super) cache: CodeCache,
    pub(super) units: Units,
    code_spaces: FastMap<CodeSpace, JumpTable>,
    empty_table: JumpTable,
    asm: Asm,
    buffer: Vec<u8>,
    events: Vec<MmuEvent>,
    pub(super) stats: Stats,
    pub(super) model: CpuModel,
    pub(super) strict: bool,
    pub(super) kick: Arc<KickTarget>,
    /// The mode, view and code space that the context was last made ready for.
    pub(super) mode: Mode,
    pub(super) view: Option<View>,
    code_space: Option<CodeSpace>,
    /// Segments or mode may have changed since.
    pub(super) changed: bool,
    pub(super) bounce: Bounce,
    /// The single-instruction unit that was entered last.
    pub(super) stepping: Option<u32>,
    /// Run the next instruction alone, with all accesses through Rust.
    pub(super) slow_next: bool,
    /// A dead unit was entered: its entry shall lead to its successor.
    pub(super) forward: Option<(u64, UnitKey)>,
    /// Instructions completed in single-instruction units.
    pub(super) single_steps: u64,
    regions_generation: u64,
    /// The spaces that the regions lead to.
    regions_spaces: Option<(SpaceId, SpaceId)>,
    regions_usable: bool,
    fsgsbase: bool,
    /// The execution log is on: units are neither linked nor put into jump tables.
    pub(super) logging: bool,
}

struct PageSource<'a> {
    units: &'a Units,
    page: u32,
    model: &'a CpuModel,
}

impl CodeSource for PageSource<'_> {
    fn hint(&self, page_offset: u32) -> AccessHint {
        if page_offset >= 4096 {
            AccessHint::None
        } else {
            self.units.hint(self.page | page_offset)
        }
    }

    fn supports(&self, insn: &Instruction) -> bool {
        features::supports(*self.model, insn)
    }
}

impl Engine {
    pub(crate) fn new(
        cpu: CpuState,
        cache_bytes: usize,
        strict: bool,
        model: CpuModel,
    ) -> io::Result<Engine> {
        let mode = Mode::of(&cpu);
        let context = Context {
            cpu,
            flags: HOST_FLAGS,
            scratch: [0; 4],
            stack: 0,
            window: 0,
            gs_base: 0,
            host_rsp: 0,
            target: 0,
            site: 0,
            reason: 0,
            eflags_rest: 0,
            interrupt_flag: 0,
            fpu_loaded: 0,
            poll: 0.into(),
            sti_poll: 0,
            sti_jump_table: 0,
            jump_table: 0.into(),
            segment_base: [UNUSABLE_BASE; 6],
            checked_base: [UNUSABLE_BASE; 6],
            segment_check: [UNUSABLE_BASE; 6],
            fpu_ensure: 0,
            regions: [UNUSABLE_BASE; 256],
            limit_check: 0,
            fault_address: 0,
            fault_error: 0,
            fault_vector: 0,
        };
        let cache = CodeCache::new(cache_bytes, context)?;
        let empty_table = JumpTable::new(u32::MAX)?;
        let kick = KickTarget::new();
        kick.arm(Some(Pointers {
            poll: &raw const cache.context().poll,
            jump_table: &raw const cache.context().jump_table,
            faulting_poll: cache.faulting_poll(),
            empty_table: empty_table.address(),
        }));
        Ok(Engine {
            cache,
            units: Units::default(),
            code_spaces: FastMap::default(),
            empty_table,
            asm: Asm::new(),
            buffer: Vec::new(),
            events: Vec::new(),
            stats: Stats::default(),
            model,
            strict,
            kick,
            mode,
            view: None,
            code_space: None,
            changed: true,
            bounce: Bounce::default(),
            stepping: None,
            slow_next: false,
            forward: None,
            single_steps: 0,
            regions_generation: u64::MAX,
            regions_spaces: None,
            regions_usable: false,
            fsgsbase: switch::host_has_fsgsbase(),
            logging: false,
        })
    }

    pub(crate) fn state(&self) -> &CpuState {
        &self.cache.context().cpu
    }

    pub(crate) fn state_mut(&mut self) -> &mut CpuState {
        self.changed = true;
        &mut self.cache.context_mut().cpu
    }

    pub(crate) fn kicker(&self) -> Kicker {
        Kicker(self.kick.clone())
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn privilege(&self) -> Privilege {
        if self.state().cpl == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        }
    }

    pub(super) fn system<'a>(
        &'a mut self,
        mmu: &'a mut Mmu,
        platform: &'a mut dyn Platform,
    ) -> System<'a> {
        System {
            cpu: &mut self.cache.context_mut().cpu,
            mmu,
            platform,
            model: &self.model,
        }
    }

    /// Runs until something makes it come back. `single`: no more than one instruction.
    pub(crate) fn run(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        limits: RunLimits,
        single: bool,
    ) -> Exit {
        signal::install();
        self.changed = true;
        self.logging = tracing::enabled!(target: "ringshift::exec", tracing::Level::TRACE);
        self.cache.context_mut().gs_base = u64::MAX;
        let context = self.cache.context_pointer();
        let (range, stub) = (self.cache.code_range(), self.cache.stubs.fault);
        signal::with_active(context, range, stub, || {
            self.run_units(mmu, platform, limits, single)
        })
    }

    fn run_units(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        limits: RunLimits,
        single: bool,
    ) -> Exit {
        let mut decided = self.decision_inputs();
        let steps_before = self.single_steps;
        loop {
            self.drain_events(mmu);
            if single {
                if self.single_steps != steps_before {
                    return Exit::Budget;
                }
            } else if let Some(exit) = self.boundary(platform, limits, &mut decided) {
                return exit;
            }
            let shadow = self.state().interrupt_shadow != InterruptShadow::None;
            if shadow {
                self.cache.context_mut().cpu.interrupt_shadow = InterruptShadow::None;
            }
            let entry = match self.locate(mmu, platform, single || shadow) {
                Ok(entry) => entry,
                Err(Step::Leave(exit)) => return exit,
                Err(_) => {
                    // An exception was delivered instead: that counts as the instruction.
                    self.single_steps += 1;
                    continue;
                }
            };
            if let Some(exit) = self.execute(entry, mmu, platform) {
                return exit;
            }
        }
    }

    /// What the decision looks at, packed for comparison.
    fn decision_inputs(&self) -> (u32, u32) {
        let cpu = self.state();
        const FLAGS: u32 = eflags::IF | eflags::IOPL | eflags::VM | eflags::TF;
        (cpu.eflags & FLAGS, Mode::of(cpu).bits())
    }

    /// Reasons to leave at an instruction boundary.
    fn boundary(
        &mut self,
        platform: &mut dyn Platform,
        limits: RunLimits,
        decided: &mut (u32, u32),
    ) -> Option<Exit> {
        if self.kick.take() {
            return Some(Exit::Kicked);
        }
        if platform.attention() {
            return Some(Exit::Attention);
        }
        if self.state().accepts_interrupts() && platform.interrupt_pending() {
            return Some(Exit::InterruptReady);
        }
        if limits.stop_to_decide && self.changed {
            let inputs = self.decision_inputs();
            if inputs != *decided {
                *decided = inputs;
                if self.state().cpl == 3 {
                    return Some(Exit::Decide);
                }
            }
        }
        None
    }

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
                    for (key, table) in &mut self.code_spaces {
                        if key.space == space {
                            // EIP and linear address differ by the base of CS.
                            let base_page = key.code_base >> 12;
                            let count = if key.code_base & 0xFFF == 0 {
                                pages
                            } else {
                                pages + 1
                            };
                            let first = first_page.wrapping_sub(base_page) & 0xF_FFFF;
                            let first = if count == pages {
                                first
                            } else {
                                first.wrapping_sub(1) & 0xF_FFFF
                            };
                            table.clear_pages(first, count);
                        }
                    }
                }
                MmuEvent::SpaceDropped(space) => {
                    self.code_spaces.retain(|key, _| key.space != space);
                    if self.code_space.is_some_and(|key| key.space == space) {
                        self.code_space = None;
                        self.changed = true;
                    }
                }
            }
        }
        self.events = events;
    }

    fn code_written(&mut self, mmu: &mut Mmu, gfn: u32, offset: u32, len: u32) {
        for index in self.units.remove_range(gfn, offset, offset + len) {
            self.kill(index);
        }
        if self.units.page_is_empty(gfn)
            && let Some(page) = self.units.pages.get_mut(&gfn)
            && std::mem::take(&mut page.traced)
        {
            mmu.untrace_code(gfn);
        }
    }

    /// Makes every way into a retired unit lead to the dead stub.
    fn kill(&mut self, index: u32) {
        let Some(unit) = self.units.get(index) else {
            return;
        };
        let host = unit.host;
        self.stats.invalidations += 1;
        self.plant_dead_call(host);
    }

    pub(super) fn plant_dead_call(&mut self, at: u64) {
        let target = self.cache.stubs.dead;
        self.cache.patch(at, &[0xE8]);
        self.cache.patch_rel32(at + 1, target);
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

    /// The host address to enter for CS:EIP; translates if need be. An exception met while
    /// fetching is delivered (`Step::Boundary`).
    fn locate(
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
        self.make_ready(mmu, mode);
        let cpu = self.state();
        let (eip, linear) = (cpu.eip, cpu.linear_eip());
        let code_limit = cpu.seg[seg::CS].limit;
        let access = Access::execute(self.privilege());
        let resolved = match mmu.resolve(linear, access) {
            Ok(resolved) => resolved,
            Err(fault) => return Err(self.raise(mmu, platform, fault.into())),
        };
        let key = UnitKey {
            gpa: resolved.gpa as u32,
            eip,
            mode,
            code_limit,
        };
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
            && let Some(space) = self.code_space
            && let Some(table) = self.code_spaces.get_mut(&space)
        {
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
    fn second_page_agrees(&self, mmu: &mut Mmu, index: u32, linear: u32, access: Access) -> bool {
        let Some(second) = self.units.get(index).and_then(|unit| unit.second_page) else {
            return true;
        };
        let next = (linear | 0xFFF).wrapping_add(1);
        mmu.resolve(next, access)
            .is_ok_and(|r| (r.gpa >> 12) as u32 == second)
    }

    /// Makes the context ready for `mode`: window, segment bases, jump table.
    fn make_ready(&mut self, mmu: &mut Mmu, mode: Mode) {
        let view = mmu.view(self.privilege());
        if !self.changed && self.view == Some(view) && self.mode == mode {
            return;
        }
        self.changed = false;
        self.mode = mode;
        self.view = Some(view);
        let code_start = self.cache.code_start();
        let readable = self.cache.quiet_poll();
        let context = self.cache.context_mut();
        context.window = view.base;
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
        debug_assert!(code_start != 0);
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
            return;
        }
        if !self.code_spaces.contains_key(&key) {
            if self.code_spaces.len() >= MAX_CODE_SPACES {
                self.code_spaces.clear();
            }
            match JumpTable::new(code.limit) {
                Ok(table) => {
                    self.code_spaces.insert(key, table);
                }
                Err(error) => {
                    tracing::warn!(%error, "no memory for a jump table: indirect jumps will be slow")
                }
            }
        }
        self.code_space = Some(key);
    }

    /// Routes supervisor accesses to user pages: see `AccessHint::UserWindow`.
    pub(super) fn refresh_regions(&mut self, mmu: &mut Mmu) {
        let (user, supervisor) = (mmu.view(Privilege::User), mmu.view(Privilege::Supervisor));
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

    /// Makes the regions unusable when they are out of date: the access faults and refreshes them.
    fn check_regions(&mut self, mmu: &mut Mmu) {
        if !self.regions_usable {
            return;
        }
        let spaces = (
            mmu.space_of(Privilege::User),
            mmu.space_of(Privilege::Supervisor),
        );
        let stale = self.regions_spaces != Some(spaces)
            || !mmu.view_is_clean(Privilege::User)
            || mmu.user_regions().generation != self.regions_generation;
        if stale {
            self.invalidate_regions();
        }
    }

    pub(super) fn invalidate_regions(&mut self) {
        self.cache.context_mut().regions = [UNUSABLE_BASE; 256];
        self.regions_usable = false;
    }

    pub(super) fn regions_usable(&self) -> bool {
        self.regions_usable
    }

    fn translate(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        key: UnitKey,
        linear: u32,
        target: PhysTarget,
    ) -> Result<u32, Step> {
        if self.cache.free() < UNIT_RESERVE {
            self.flush(mmu);
        }
        let page_offset = key.gpa & 0xFFF;
        let in_page = 4096 - page_offset;
        let mut code = vec![0; in_page as usize];
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
            };
            let source = PageSource {
                units: &self.units,
                page: key.gpa & !0xFFF,
                model: &self.model,
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
            code.extend_from_slice(&rest);
            second_page = Some((resolved.gpa >> 12) as u32);
            second_target = resolved.target;
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
        self.trace(mmu, gfn, target);
        if let Some(second) = second_page {
            self.trace(mmu, second, second_target);
        }
        Ok(index)
    }

    fn trace(&mut self, mmu: &mut Mmu, gfn: u32, target: PhysTarget) {
        if matches!(target, PhysTarget::Ram | PhysTarget::Rom)
            && let Some(page) = self.units.pages.get_mut(&gfn)
            && !std::mem::replace(&mut page.traced, true)
        {
            mmu.trace_code(gfn);
        }
    }

    /// Empties the cache.
    pub(crate) fn flush(&mut self, mmu: &mut Mmu) {
        self.stats.flushes += 1;
        for gfn in self.units.clear() {
            mmu.untrace_code(gfn);
        }
        for table in self.code_spaces.values_mut() {
            table.clear();
        }
        self.cache.clear();
        self.stepping = None;
        self.forward = None;
    }

    /// Enters at `entry`, handles exits, and goes on inside units as long as that is possible.
    fn execute(&mut self, entry: u64, mmu: &mut Mmu, platform: &mut dyn Platform) -> Option<Exit> {
        // A unit does not rely on FPU state being loaded when it is entered.
        self.cache.context_mut().fpu_loaded = 0;
        let mut target = entry;
        loop {
            self.enter(target, mmu, platform);
            match self.handle_exit(mmu, platform) {
                Step::Resume(address) => target = address,
                Step::Boundary => return None,
                Step::Leave(exit) => return Some(exit),
            }
        }
    }

    fn enter(&mut self, target: u64, mmu: &mut Mmu, platform: &mut dyn Platform) {
        self.check_regions(mmu);
        let pending = platform.interrupt_pending();
        let stubs = self.cache.stubs;
        let (quiet, faulting) = (self.cache.quiet_poll(), self.cache.faulting_poll());
        let table = self
            .code_space
            .and_then(|key| self.code_spaces.get(&key))
            .unwrap_or(&self.empty_table)
            .address();
        let empty = self.empty_table.address();
        let in_window = self.mode.stack_in_window();
        let context = self.cache.context_mut();
        let cpu = &context.cpu;
        context.flags = u64::from(cpu.eflags & eflags::LIVE) | HOST_FLAGS;
        context.eflags_rest = cpu.eflags & !(eflags::LIVE | eflags::IF) | eflags::FIXED;
        context.interrupt_flag = u8::from(cpu.interrupt_flag());
        let esp = u64::from(cpu.gpr[reg::ESP]);
        context.stack = if in_window { context.window | esp } else { esp };
        context.fpu_ensure = if cpu.cr0 & (cr0::TS | cr0::EM) != 0 {
            stubs.fpu_unavailable
        } else if context.fpu_loaded != 0 {
            stubs.fpu_ready
        } else {
            stubs.fpu_load
        };
        context.sti_poll = if pending { faulting } else { quiet };
        context.sti_jump_table = if pending { empty } else { table };
        context.target = target;
        context.poll.store(quiet, Ordering::SeqCst);
        context.jump_table.store(table, Ordering::SeqCst);
        if self.kick.is_kicked() {
            // Arrived while the pointers were being set: the unit runs to its first poll.
            context.poll.store(faulting, Ordering::SeqCst);
            context.jump_table.store(empty, Ordering::SeqCst);
        }
        if context.gs_base != context.window {
            context.gs_base = context.window;
            switch::set_gs_base(context.window, self.fsgsbase);
        }
        switch::run(self.cache.context_pointer());
        let context = self.cache.context_mut();
        context.cpu.eflags = (context.flags as u32 & eflags::LIVE)
            | context.eflags_rest
            | if context.interrupt_flag != 0 {
                eflags::IF
            } else {
                0
            };
    }

    /// Delivers an exception raised at the current boundary.
    pub(super) fn raise(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
        exception: Exception,
    ) -> Step {
        if exception.vector == vector::PF {
            self.stats.true_faults += 1;
        } else {
            self.stats.exceptions += 1;
        }
        self.changed = true;
        match self.system(mmu, platform).deliver(exception) {
            Ok(()) => Step::Boundary,
            Err(_) => Step::Leave(Exit::Shutdown),
        }
    }

    /// Takes the pending external interrupt.
    pub(crate) fn take_interrupt(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Option<Exit> {
        if !platform.interrupt_pending() {
            return None;
        }
        let number = platform.acknowledge_interrupt();
        self.stats.interrupts += 1;
        self.changed = true;
        match self
            .system(mmu, platform)
            .deliver(Exception::external(number))
        {
            Ok(()) => None,
            Err(_) => Some(Exit::Shutdown),
        }
    }
}

/// Reads code from memory, or from a device or hole the way the bus would answer.
fn read_code(
    mmu: &mut Mmu,
    platform: &mut dyn Platform,
    gpa: u64,
    target: PhysTarget,
    code: &mut [u8],
) {
    if matches!(target, PhysTarget::Ram | PhysTarget::Rom) && mmu.read_phys(gpa, code).is_ok() {
        return;
    }
    let mut at = gpa;
    for chunk in code.chunks_mut(8) {
        platform.mmio_read(at, chunk);
        at += chunk.len() as u64;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kick.arm(None);
    }
}

//! The engine: finds or makes the unit for CS:EIP, enters it, and handles what comes back.

use super::cache::CodeCache;
use super::context::{Context, JUMP_SLOTS, Reason};
use super::crossing::{self, Sides};
use super::jump_table::{JumpTable, SpareTables};
use super::jumps::HOT_JUMP;
use super::kick::{KickTarget, Kicker, Pointers};
use super::locate::CodeSpace;
use super::lookaside::{Lookaside, Validity};
use super::mxcsr;
use super::prepare::Bounce;
use super::profile::Profiler;
use super::shortcut::Shortcuts;
use super::stats::Stats;
use super::store_table::{SIZES, Stores, VALUES};
use super::units::{FastMap, UnitKey, Units};
use super::{signal, switch};
use crate::codegen::asm::Asm;
use crate::codegen::mode::Mode;
use crate::state::{CpuState, InterruptShadow, eflags, reg};
use crate::system::debug::Armed;
use crate::system::{CpuModel, EventKind, Exception, System, vector};
use crate::{Exit, Platform, RunLimits};
use shadow_mmu::{Mmu, MmuEvent, Privilege, SpaceId, View};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A non-canonical address: an access through it raises #GP on the host.
pub(in crate::runtime) const UNUSABLE_BASE: u64 = 0x4000_0000_0000_0000;
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
    pub(super) code_spaces: FastMap<CodeSpace, JumpTable>,
    pub(super) empty_table: JumpTable,
    pub(super) stores: Stores,
    pub(super) spare_tables: SpareTables,
    pub(super) asm: Asm,
    pub(super) buffer: Vec<u8>,
    pub(super) events: Vec<MmuEvent>,
    pub(super) stats: Stats,
    pub(super) model: CpuModel,
    /// The host's MXCSR has bits that are reserved in the model.
    pub(super) checks_mxcsr: bool,
    pub(super) strict: bool,
    /// Count the guest instructions that are executed.
    pub(super) count: bool,
    pub(super) kick: Arc<KickTarget>,
    /// Where time goes, if that was asked for.
    pub(super) profiler: Option<Box<Profiler>>,
    /// The mode, view and code space that the context was last made ready for.
    pub(super) mode: Mode,
    pub(super) view: Option<View>,
    pub(super) code_space: Option<CodeSpace>,
    /// Segments or mode may have changed since.
    pub(super) changed: bool,
    pub(super) bounce: Bounce,
    pub(super) lookaside: Validity,
    /// The string instruction carried out last met nothing but plain memory.
    pub(super) string_direct: bool,
    /// The single-instruction unit that was entered last.
    pub(super) stepping: Option<u32>,
    /// A unit that holds for one entry only, made from device memory; and where the cache ended
    /// behind it.
    pub(super) volatile: Option<(u32, usize)>,
    /// Run the next instruction alone, with all accesses through Rust.
    pub(super) slow_next: bool,
    /// A dead unit was entered: its entry shall lead to its successor.
    pub(super) forward: Option<(u64, UnitKey)>,
    /// Instructions completed in single-instruction units.
    pub(super) single_steps: u64,
    /// Entries to come that load FPU state unasked.
    pub(super) fpu_entries: u32,
    pub(super) regions_generation: u64,
    /// The spaces that the regions lead to.
    pub(super) regions_spaces: Option<(SpaceId, SpaceId)>,
    pub(super) regions_usable: bool,
    pub(super) fsgsbase: bool,
    /// Shortcuts may switch the window: they load GS base themselves.
    pub(super) shortcuts: bool,
    /// Where they may take the guest.
    pub(super) sides: Sides,
    /// As [`RunLimits::stop_to_decide`] says for this run.
    pub(super) stop_to_decide: bool,
    /// The next instruction runs in spite of a pending x87 exception: IGNNE#.
    pub(super) ignore_fpu_error: bool,
    /// The breakpoints that jump tables and windows leave room for.
    pub(super) armed: Armed,
    /// The execution log is on: units are neither linked nor put into jump tables.
    pub(super) logging: bool,
    /// Warnings about unknown model-specific registers that may still be logged.
    pub(super) msr_warnings: u32,
    /// Most bytes of records of units; and as many of jump tables.
    pub(super) record_bytes: usize,
}

/// Most warnings about unknown model-specific registers.
const MSR_WARNINGS: u32 = 10;

impl Engine {
    pub(crate) fn new(
        cpu: CpuState,
        cache_bytes: usize,
        record_bytes: usize,
        strict: bool,
        count: bool,
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
            fpu_environment: [0; 7],
            fpu_guard: 0,
            commit: 0,
            regions: [UNUSABLE_BASE; 256],
            limit_check: 0,
            instructions: 0,
            fault_address: 0,
            fault_error: 0,
            fault_vector: 0,
            store_table: 0,
            store_bases: [[0; VALUES]; SIZES],
            direction: 1,
            shortcuts: Shortcuts::default(),
            jump_counts: [HOT_JUMP; JUMP_SLOTS],
            lookaside: Lookaside::default(),
        };
        let mut cache = CodeCache::new(cache_bytes, context)?;
        cache.context_mut().lookaside.nothing = cache.stubs.nothing;
        if !crossing::host_has_lahf() {
            cache.stubs.load_segment = 0; // units do without shortcuts
        }
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
            stores: Stores::new()?,
            spare_tables: SpareTables::default(),
            asm: Asm::new(),
            buffer: Vec::new(),
            events: Vec::new(),
            stats: Stats::default(),
            model,
            checks_mxcsr: mxcsr::host_mxcsr_mask() & !model.mxcsr_mask() != 0,
            strict,
            count,
            kick,
            profiler: None,
            mode,
            view: None,
            code_space: None,
            changed: true,
            bounce: Bounce::default(),
            lookaside: Validity::default(),
            string_direct: false,
            stepping: None,
            volatile: None,
            slow_next: false,
            forward: None,
            single_steps: 0,
            fpu_entries: 0,
            regions_generation: u64::MAX,
            regions_spaces: None,
            regions_usable: false,
            ignore_fpu_error: false,
            armed: Armed::default(),
            fsgsbase: switch::host_has_fsgsbase(),
            shortcuts: switch::host_has_fsgsbase(),
            sides: Sides::default(),
            stop_to_decide: false,
            logging: false,
            msr_warnings: MSR_WARNINGS,
            record_bytes,
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
        if let Some(profiler) = &mut self.profiler {
            profiler.attach();
        }
        self.changed = true;
        self.stop_to_decide = limits.stop_to_decide;
        self.logging = tracing::enabled!(target: "ringshift::exec", tracing::Level::TRACE);
        self.cache.context_mut().gs_base = u64::MAX;
        let context = self.cache.context_pointer();
        let (range, stub) = (self.cache.code_range(), self.cache.stubs.fault);
        let exit = signal::with_active(context, range, stub, || {
            self.run_units(mmu, platform, limits, single)
        });
        self.stats.instructions = self.count.then_some(self.cache.context().instructions);
        self.stats.looked_up_accesses = self.cache.context().lookaside.hits;
        exit
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
            // An event goes first; then the instruction reports its error again.
            let ignore_fpu_error = std::mem::take(&mut self.ignore_fpu_error);
            // In the order of Intel SDM vol. 3A, table 6-2: traps of the instruction before, NMI,
            // interrupts, the breakpoint on the next instruction.
            if self.state().debug_trap_due() {
                match self.debug_trap(mmu, platform) {
                    Some(exit) => return exit,
                    // The frame may have hit a data breakpoint: due before the handler begins.
                    None => continue,
                }
            }
            if single {
                if self.single_steps != steps_before {
                    return Exit::Budget;
                }
            } else {
                if self.state().accepts_nmi()
                    && let Some(exit) = self.take_nmi(mmu, platform)
                {
                    return exit;
                }
                if let Some(exit) = self.boundary(platform, limits, &mut decided) {
                    return exit;
                }
            }
            let watched = match self.breakpoints(mmu, platform) {
                Ok(watched) => watched,
                Err(Step::Leave(exit)) => return exit,
                Err(_) => continue,
            };
            // In force for one instruction, whether that takes one entry or several.
            let shadow = self.state().interrupt_shadow;
            let alone = single || watched || shadow != InterruptShadow::None;
            let completed = self.single_steps;
            let entry = match self.locate(mmu, platform, alone) {
                Ok(entry) => entry,
                Err(Step::Leave(exit)) => return exit,
                Err(_) => {
                    // An exception was delivered instead: that counts as the instruction.
                    self.single_steps += 1;
                    continue;
                }
            };
            if single && self.privilege() == Privilege::User {
                self.stats.replays_user += 1;
            }
            self.cache.context_mut().cpu.interrupt_shadow = InterruptShadow::None;
            let masked = ignore_fpu_error.then(|| self.mask_fpu_error());
            let exit = self.execute(entry, mmu, platform);
            if let Some(control) = masked {
                self.unmask_fpu_error(control);
            }
            if self.state().ferr {
                self.follow_fpu_error(platform);
            }
            if shadow != InterruptShadow::None && self.single_steps == completed {
                self.cache.context_mut().cpu.interrupt_shadow = shadow;
            }
            if let Some(exit) = exit {
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

    /// Enters at `entry`, handles exits, and goes on inside units as long as that is possible.
    fn execute(&mut self, entry: u64, mmu: &mut Mmu, platform: &mut dyn Platform) -> Option<Exit> {
        self.choose_fpu_state();
        let mut target = entry;
        loop {
            let invalidations = self.stats.invalidations;
            self.enter(target, mmu, platform);
            match self.handle_exit(mmu, platform) {
                Step::Resume(address) => {
                    // A window was filled, a device worked: code may have changed on the way.
                    self.drain_events(mmu);
                    if self.stats.invalidations != invalidations && self.leave_if_dead(address) {
                        return None;
                    }
                    target = address;
                }
                Step::Boundary => return None,
                Step::Leave(exit) => return Some(exit),
            }
        }
    }

    fn enter(&mut self, target: u64, mmu: &mut Mmu, platform: &mut dyn Platform) {
        self.check_regions(mmu);
        self.check_lookaside(mmu);
        let pending = platform.interrupt_pending();
        self.arrange_shortcuts(mmu, pending);
        let (quiet, faulting) = (self.cache.quiet_poll(), self.cache.faulting_poll());
        let fpu_missing = self.cache.fpu_missing();
        let table = self
            .code_space
            .and_then(|key| self.code_spaces.get(&key))
            .unwrap_or(&self.empty_table)
            .address();
        let empty = self.empty_table.address();
        let in_window = self.mode.stack_in_window();
        let alone = self.mode.is_single();
        let context = self.cache.context_mut();
        let cpu = &context.cpu;
        context.flags = u64::from(cpu.eflags & eflags::LIVE) | HOST_FLAGS;
        context.eflags_rest = cpu.eflags & !(eflags::LIVE | eflags::IF) | eflags::FIXED;
        if !alone {
            // It lasts for one instruction, and only an instruction breakpoint asks for it.
            context.eflags_rest &= !eflags::RF;
        }
        context.direction = if cpu.eflags & eflags::DF != 0 {
            u32::MAX
        } else {
            1
        };
        context.interrupt_flag = u8::from(cpu.interrupt_flag());
        let esp = u64::from(cpu.gpr[reg::ESP]);
        context.stack = if in_window { context.window | esp } else { esp };
        context.fpu_guard = if context.fpu_loaded != 0 {
            quiet
        } else {
            fpu_missing
        };
        context.sti_poll = if pending { faulting } else { quiet };
        context.sti_jump_table = if pending { empty } else { table };
        context.target = target;
        // A store that a kick must not overtake is a locked one: only where there is something to store.
        if context.poll.load(Ordering::SeqCst) != quiet {
            context.poll.store(quiet, Ordering::SeqCst);
        }
        if context.jump_table.load(Ordering::SeqCst) != table {
            context.jump_table.store(table, Ordering::SeqCst);
        }
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
        self.follow_crossing(mmu);
        let context = self.cache.context();
        if context.reason == Reason::Fault as u32 && self.cache.stub_range().contains(&context.site)
        {
            self.unwind_shortcut();
        }
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
        let mut exception = exception;
        let cpu = &mut self.cache.context_mut().cpu;
        match exception.kind {
            // The instruction is not done, so nothing it has met on the way counts.
            EventKind::Fault => cpu.pending_debug = 0,
            EventKind::Trap if exception.vector == vector::DB => {
                exception.dr6 |= std::mem::take(&mut cpu.pending_debug);
            }
            _ => {}
        }
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

impl Drop for Engine {
    fn drop(&mut self) {
        self.kick.arm(None);
    }
}

//! The direct engine: guest code on the KVM vCPU, over the shadow tables of the machine's MMU.

use std::os::fd::AsFd;
use std::sync::Arc;

use decision::{EngineCosts, ExitKind, HostSupport};
use shadow_mmu::{Access, AccessKind, FaultCode, FaultOutcome, Mmu, Privilege, TableEdit};
use translator::state::{FxState, Rights, Segment, cr0, eflags, seg};
use translator::system::debug::dr6;
use translator::{CpuState, Exit, Platform};

use super::descriptors::{Kind, ShadowTable, read_linear};
use super::instruction;
use super::kvm::SetupError;
use super::layout::LDT_SELECTOR;
use super::world::{Context, Failure, FpuUse, Leave, World, WorldError};
use crate::engine::{DirectEngine, DirectExit, DirectStatistics, Kick, RegistersLost};
use crate::inputs::DescriptorTables;

/// The flags that the guest's code has on the processor as they are. TF, RF and VM are clear in
/// every state that is legal (RF only matters with breakpoints); VIF and VIP mean nothing without
/// CR4.PVI.
const CARRIED_FLAGS: u32 =
    eflags::STATUS | eflags::DF | eflags::IF | eflags::IOPL | eflags::NT | eflags::AC | eflags::ID;

/// TI in a selector: the LDT.
const TABLE_INDICATOR: u16 = 1 << 2;
const RPL: u16 = 3;

/// Registers of [`Context::data`] in [`CpuState::seg`].
const DATA_SEGMENTS: [usize; 4] = [seg::DS, seg::ES, seg::FS, seg::GS];

/// Runs after one that used the FPU in which the FPU is loaded on entry.
const EAGER_RUNS: u32 = 16;

/// Runs that may fail before direct execution is given up: it is no use on such a host, or for such a
/// guest.
const MOST_RESCUED_RUNS: u64 = 256;

/// Of these, how many warnings tell: a guest can cause them, where the host's processor is not right.
const MOST_WARNINGS: u64 = 5;

/// Hidden faults without an instruction done in between, the MMU saying each time that the page is
/// there now, before the translator gets the instruction. One that begins and ends in two pages, with
/// two operands that do, has eight, or twice as many where each is read before it is written.
const MOST_FAULTS_IN_PLACE: u32 = 16;

/// The direct engine.
#[derive(Debug)]
pub struct DirectExecution {
    world: World,
    support: HostSupport,
    costs: EngineCosts,
    gdt: ShadowTable,
    ldt: ShadowTable,
    /// The guest has its memory.
    attached: bool,
    /// See [`EAGER_RUNS`].
    eager_runs: u32,
    /// The bits of MXCSR that the host has.
    mxcsr_mask: u32,
    hidden_faults: u64,
    /// The run ended with a single-step trap.
    stepped: bool,
    rescued_runs: u64,
    /// Spare room.
    edits: Vec<TableEdit>,
}

/// A page fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    address: u64,
    error: u32,
}

/// Whether guest code gets on between its hidden faults. A processor that goes on to fault where the
/// shadow table has the page (at one address, or at two in turn) would stop the guest for good.
#[derive(Debug, Default)]
struct Progress {
    last: Option<Context>,
    faults: u32,
}

impl Progress {
    /// A fault with these registers; false if it is one too many with the same.
    fn fault(&mut self, context: &Context) -> bool {
        if self.last.as_ref() == Some(context) {
            self.faults += 1;
        } else {
            self.last = Some(*context);
            self.faults = 1;
        }
        self.faults <= MOST_FAULTS_IN_PLACE
    }
}

const fn leave(exit: Exit, kind: ExitKind) -> DirectExit {
    DirectExit {
        exit,
        kind,
        rescued: false,
    }
}

const fn replay(kind: ExitKind) -> DirectExit {
    leave(Exit::Replay, kind)
}

impl DirectExecution {
    /// A direct engine for a host that can do this at these costs. The guest's memory is connected at
    /// the first run; the MMU must keep a mirror of its table edits with the pool at [`TABLE_POOL_BASE`](super::TABLE_POOL_BASE).
    pub(super) fn new(support: HostSupport, costs: EngineCosts) -> Result<Self, SetupError> {
        Ok(Self {
            world: World::new()?,
            support,
            costs,
            gdt: ShadowTable::new(Kind::Gdt),
            ldt: ShadowTable::new(Kind::Ldt),
            attached: false,
            eager_runs: 0,
            mxcsr_mask: translator::host_mxcsr_mask(),
            hidden_faults: 0,
            stepped: false,
            rescued_runs: 0,
            edits: Vec::new(),
        })
    }

    fn attach(&mut self, mmu: &Mmu) -> Result<(), SetupError> {
        if !self.attached {
            // The file may be longer than RAM: ROM lies behind it.
            let size = nix::sys::stat::fstat(mmu.ram_file().as_fd())?.st_size;
            self.world.attach(mmu.ram_file(), size.unsigned_abs())?;
            self.attached = true;
        }
        Ok(())
    }

    /// Tells the world everything it needs to run `state`.
    fn load(&mut self, state: &CpuState, tables: &DescriptorTables) -> Context {
        let context = context_of(state);
        let memory = self.world.monitor_memory();
        let (gdt, ldt) = (tables.gdt(), tables.ldt());
        self.gdt.update(memory, state.gdtr.base, gdt, self.support);
        self.ldt.update(memory, state.ldtr.base, ldt, self.support);
        let ldtr = if ldt.is_empty() { 0 } else { LDT_SELECTOR };
        self.world.load(&context, ldtr);

        let tsc_offset = state.msrs.tsc_offset;
        let tsc_traps = !self.world.set_tsc_offset(tsc_offset);
        let trap = if tsc_traps {
            translator::state::cr4::TSD
        } else {
            0
        };
        self.world.set_guest_control(state.cr0, state.cr4 | trap);
        let fpu_use = self.fpu_use(state);
        self.world
            .load_fpu(&loadable(&state.fpu, self.mxcsr_mask).0, fpu_use);
        context
    }

    fn fpu_use(&mut self, state: &CpuState) -> FpuUse {
        if state.cr0 & (cr0::TS | cr0::EM) != 0 {
            return FpuUse::Forbidden;
        }
        if self.eager_runs == 0 {
            return FpuUse::Lazy;
        }
        self.eager_runs -= 1;
        FpuUse::Eager
    }

    /// Hands the table edits of the MMU to the monitor and selects the current space.
    fn follow_tables(&mut self, mmu: &mut Mmu) -> Result<(), WorldError> {
        let root = mmu.shadow_root(Privilege::User).address;
        mmu.take_edits(&mut self.edits);
        keep_last(&mut self.edits);
        for edit in self.edits.drain(..) {
            self.world.edit(edit.address, edit.value)?;
        }
        let top = mmu.read_table(root).ok_or(WorldError::Edit(root))?;
        self.world.set_space(top[0])
    }

    /// Runs until something needs the run loop.
    fn run_loaded(
        &mut self,
        context: &mut Context,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Result<DirectExit, WorldError> {
        let mut progress = Progress::default();
        loop {
            if self.world.kicker().take() {
                return Ok(leave(Exit::Kicked, ExitKind::Kick));
            }
            if platform.attention() {
                return Ok(leave(Exit::Attention, ExitKind::Kick));
            }
            if platform.interrupt_pending() {
                return Ok(leave(Exit::InterruptReady, ExitKind::Interrupt));
            }
            self.follow_tables(mmu)?;
            match self.world.run(context)? {
                Leave::Kicked => return Ok(leave(Exit::Kicked, ExitKind::Kick)),
                Leave::Refused { vector, error } => {
                    tracing::debug!(target: "ringshift::direct", vector, error, ?context, "refused");
                    return Ok(replay(ExitKind::StateChanged));
                }
                Leave::GaveUp => return Ok(replay(ExitKind::Internal)),
                Leave::Exception {
                    vector: 14,
                    error,
                    address,
                } => {
                    let fault = Fault { address, error };
                    if !progress.fault(context) {
                        tracing::debug!(target: "ringshift::direct", ?fault, ?context, "faults stay");
                        return Ok(replay(ExitKind::Exception));
                    }
                    if let Some(exit) = page_fault(mmu, fault) {
                        return Ok(exit);
                    }
                    self.hidden_faults += 1;
                }
                // The guest has set TF and this is the trap for it, behind the instruction that
                // followed: the translator has nothing to run to find that out.
                Leave::Exception {
                    vector: 1, address, ..
                } if address & u64::from(dr6::BS) != 0 => {
                    self.stepped = true;
                    return Ok(replay(ExitKind::Exception));
                }
                Leave::Exception { vector, .. } => return Ok(self.exception(context, mmu, vector)),
            }
        }
    }

    /// Any exception but a page fault: the translator finds out what it means.
    fn exception(&self, context: &mut Context, mmu: &Mmu, vector: u8) -> DirectExit {
        let base = self.segment(context.cs).base;
        if matches!(vector, 1 | 3 | 4) {
            let mut before = [0; 2];
            let at = base.wrapping_add(context.eip).wrapping_sub(2);
            read_linear(mmu, at, &mut before);
            let length = instruction::trap_length(vector, before);
            context.eip = context.eip.wrapping_sub(length);
        }
        replay(instruction::kind(mmu, base.wrapping_add(context.eip)))
    }

    /// Puts what the guest left behind into the vCPU's state.
    fn save(&mut self, context: &Context, state: &mut CpuState, mmu: &mut Mmu) {
        state.gpr = context.gpr;
        state.eip = context.eip;
        let kept = state.eflags & (eflags::VIF | eflags::VIP);
        if std::mem::take(&mut self.stepped) {
            state.pending_debug |= dr6::BS;
        }
        // RF is what the processor pushes for a fault; the instruction has not begun.
        let carried = context.eflags & (CARRIED_FLAGS | eflags::TF);
        state.eflags = carried | kept | eflags::FIXED;
        let selectors = [(seg::CS, context.cs), (seg::SS, context.ss)];
        let data = DATA_SEGMENTS.into_iter().zip(context.data);
        for (index, selector) in selectors.into_iter().chain(data) {
            if state.seg[index].selector != selector {
                state.seg[index] = self.segment(selector);
            }
        }
        if let Some(area) = self.world.fpu() {
            if self.eager_runs == 0 {
                self.eager_runs = EAGER_RUNS;
            }
            state.fpu = FxState(area);
        }
        let memory = self.world.monitor_memory();
        self.gdt.store_accessed(memory, mmu);
        self.ldt.store_accessed(memory, mmu);
    }

    /// After a run that failed, with the context that it was last entered with: the translator goes on
    /// from where guest code stands, if that can be found out.
    fn failed(
        &mut self,
        error: WorldError,
        context: &mut Context,
        state: &mut CpuState,
        mmu: &mut Mmu,
    ) -> Result<DirectExit, RegistersLost> {
        if !self.world.rescue(&error, context) {
            self.give_up(&error);
            return Err(RegistersLost(error.to_string()));
        }
        self.rescued_runs += 1;
        if self.rescued_runs <= MOST_WARNINGS {
            tracing::warn!(target: "ringshift::direct", %error, "direct execution failed; the translator goes on");
        }
        self.save(context, state, mmu);
        if self.rescued_runs == MOST_RESCUED_RUNS {
            self.give_up(&"it failed too often");
        } else if let WorldError::Edit(_) = error {
            self.give_up(&error); // the monitor's tables are not the MMU's any more
        } else if let Err(error) = self.world.recover() {
            self.give_up(&error);
        }
        Ok(DirectExit {
            rescued: true,
            ..replay(ExitKind::Internal)
        })
    }

    /// Fault injection, for tests: a later run fails like this, once.
    pub fn order_failure(&mut self, failure: Failure) {
        self.world.order_failure(failure);
    }

    /// Nothing runs directly any more.
    fn give_up(&mut self, why: &dyn std::fmt::Display) {
        tracing::warn!(target: "ringshift::direct", %why, "no more direct execution: everything runs translated");
        self.support = HostSupport::NONE;
    }

    /// The hidden part that goes with a selector that guest code has loaded.
    fn segment(&self, selector: u16) -> Segment {
        if selector & !RPL == 0 {
            return Segment {
                selector,
                rights: Rights::UNUSABLE,
                ..Segment::default()
            };
        }
        let table = if selector & TABLE_INDICATOR == 0 {
            &self.gdt
        } else {
            &self.ldt
        };
        table.segment(self.world.monitor_memory(), selector)
    }
}

impl DirectEngine for DirectExecution {
    fn support(&self) -> HostSupport {
        self.support
    }

    fn costs(&self) -> EngineCosts {
        self.costs
    }

    fn run(
        &mut self,
        state: &mut CpuState,
        mmu: &mut Mmu,
        tables: &DescriptorTables,
        platform: &mut dyn Platform,
    ) -> Result<DirectExit, RegistersLost> {
        if let Err(error) = self.attach(mmu) {
            self.give_up(&error);
            return Ok(replay(ExitKind::Internal));
        }
        let mut context = self.load(state, tables);
        match self.run_loaded(&mut context, mmu, platform) {
            Ok(exit) => {
                self.save(&context, state, mmu);
                Ok(exit)
            }
            Err(error) => self.failed(error, &mut context, state, mmu),
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::new(self.world.kicker().clone())
    }

    fn statistics(&self) -> DirectStatistics {
        let counters = self.world.counters();
        DirectStatistics {
            entries: counters.entries,
            hidden_faults: self.hidden_faults,
            kvm_exits: counters.runs,
            table_edits: counters.edits,
            rescued_runs: self.rescued_runs,
        }
    }
}

/// Drops edits that a later one of the same entry makes pointless; their order does not matter, as
/// CR3 is loaded after all of them.
fn keep_last(edits: &mut Vec<TableEdit>) {
    edits.reverse();
    edits.sort_by_key(|edit| edit.address); // stable: the last edit of an entry comes first
    edits.dedup_by_key(|edit| edit.address);
}

/// The fast path: a fault that the shadow table caused and that filling it resolves. `None` if so.
fn page_fault(mmu: &mut Mmu, fault: Fault) -> Option<DirectExit> {
    let code = FaultCode::from_bits_truncate(fault.error);
    let kind = if code.contains(FaultCode::WRITE) {
        AccessKind::Write
    } else if code.contains(FaultCode::FETCH) {
        AccessKind::Execute
    } else {
        AccessKind::Read
    };
    let access = Access {
        kind,
        privilege: Privilege::User,
    };
    let Ok(linear) = u32::try_from(fault.address) else {
        return Some(replay(ExitKind::Exception));
    };
    match mmu.shadow_fault(linear, access) {
        FaultOutcome::Filled | FaultOutcome::UserPage => None,
        FaultOutcome::Trapped(_) => Some(replay(ExitKind::DeviceMemory)),
        FaultOutcome::PageFault(_) => Some(replay(ExitKind::Exception)),
    }
}

fn context_of(state: &CpuState) -> Context {
    Context {
        gpr: state.gpr,
        eip: state.eip,
        eflags: state.eflags & CARRIED_FLAGS | eflags::FIXED,
        cs: state.seg[seg::CS].selector,
        ss: state.seg[seg::SS].selector,
        data: DATA_SEGMENTS.map(|index| state.seg[index].selector),
    }
}

/// An FPU state that `fxrstor` takes: bits of MXCSR outside of `mask` would be #GP in the monitor.
fn loadable(state: &FxState, mask: u32) -> FxState {
    let mut area = *state;
    for (byte, mask) in area.0[24..28].iter_mut().zip(mask.to_le_bytes()) {
        *byte &= mask;
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_edit_of_an_entry_counts() {
        let edit = |address, value| TableEdit { address, value };
        let mut edits = vec![
            edit(16, 1),
            edit(8, 2),
            edit(16, 3),
            edit(8, 4),
            edit(24, 5),
            edit(8, 0),
        ];
        keep_last(&mut edits);
        assert_eq!(edits, [edit(8, 0), edit(16, 3), edit(24, 5)]);
    }

    #[test]
    fn faults_without_progress_come_to_an_end() {
        let at = |eip| Context {
            eip,
            ..Context::default()
        };
        let mut progress = Progress::default();
        for eip in 0..100 {
            // A string instruction stays where it is and gets on all the same.
            for ecx in 0..3 {
                let mut context = at(eip);
                context.gpr[1] = ecx;
                assert!(progress.fault(&context));
            }
        }
        let allowed = (0..1000).take_while(|_| progress.fault(&at(7))).count();
        assert_eq!(allowed as u32, MOST_FAULTS_IN_PLACE);
        assert!(progress.fault(&at(8)), "the next instruction");
    }

    #[test]
    fn reserved_bits_of_mxcsr_are_not_loaded() {
        let mut state = FxState::initial();
        state.0[24..28].copy_from_slice(&0xFFFF_FFFFu32.to_le_bytes());
        for mask in [0x0000_FFBFu32, 0x0000_FFFF] {
            assert_eq!(loadable(&state, mask).0[24..28], mask.to_le_bytes());
        }
        assert_eq!(loadable(&FxState::initial(), 0xFFBF), FxState::initial());
    }
}

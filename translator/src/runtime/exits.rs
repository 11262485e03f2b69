//! What translated code leaves for, except faults and memory accesses.

use std::ops::RangeInclusive;

use super::context::Reason;
use super::engine::{Engine, Step};
use crate::codegen::mode::Mode;
use crate::codegen::{CalloutKind, SiteKind, table_jump};
use crate::state::{CpuState, InterruptShadow, eflags, reg, seg};
use crate::system::{Exception, Flow, debug};
use crate::{Exit, Platform};
use iced_x86::{Instruction, Mnemonic, OpKind};
use shadow_mmu::Mmu;

/// Model-specific registers that kernels look for knowing that they may be absent: no reason for a
/// warning (Intel SDM vol. 4, table 2-2).
const PROBED_MSRS: [RangeInclusive<u32>; 7] = [
    0x3A..=0x3A,               // IA32_FEATURE_CONTROL
    0xCE..=0xCF,               // MSR_PLATFORM_INFO, IA32_CORE_CAPABILITIES
    0x10A..=0x10B,             // IA32_ARCH_CAPABILITIES, IA32_FLUSH_CMD
    0x140..=0x140,             // MISC_FEATURE_ENABLES
    0x179..=0x17B,             // IA32_MCG_CAP, IA32_MCG_STATUS, IA32_MCG_CTL
    0x480..=0x493,             // VMX capabilities
    0xC000_0080..=0xC001_1FFF, // IA32_EFER, and AMD's own
];

/// Bytes of a CALL rel32.
const CALL_BYTES: u64 = 5;

impl Engine {
    /// Handles the exit that the context describes.
    pub(super) fn handle_exit(&mut self, mmu: &mut Mmu, platform: &mut dyn Platform) -> Step {
        let context = self.cache.context();
        let (site, target) = (context.site, context.scratch[0] as u32);
        let reason = Reason::from_raw(context.reason);
        if let Some(reason) = reason {
            self.stats.exits.count(reason);
        }
        if self.profiler.is_some() {
            self.read_samples();
        }
        match reason {
            Some(Reason::Miss) => {
                self.stats.misses += 1;
                self.set_eip(target);
                Step::Boundary
            }
            Some(Reason::Callout) => self.callout(site, mmu, platform),
            Some(Reason::Link) => self.link(site),
            Some(Reason::Dead) => self.dead(site),
            Some(Reason::Fault) => self.fault(mmu, platform),
            Some(Reason::Prepare) => self.prepare(site, mmu, platform),
            Some(Reason::Commit) => self.commit(site, mmu, platform),
            Some(Reason::Stepped) => {
                let next = self
                    .stepping
                    .and_then(|index| self.units.get(index))
                    .and_then(|unit| unit.instructions.first())
                    .map(|first| first.guest.next_ip32());
                match next {
                    Some(eip) => {
                        self.set_eip(eip);
                        self.host_step_done(mmu)
                    }
                    None => internal("a step ended in no unit"),
                }
            }
            Some(Reason::SteppedTo) => {
                self.set_eip(target);
                self.host_step_done(mmu)
            }
            None => internal("an exit without a reason"),
        }
    }

    /// An instruction that ran alone, or an iteration of one, is complete: the single-step trap is
    /// due if TF was set when it began. A load of SS takes none (Intel SDM vol. 3A, section 6.8.3).
    fn step_done(&mut self, mmu: &mut Mmu) -> Step {
        self.single_steps += 1;
        self.drain_events(mmu);
        let traps = self.mode.traps();
        let cpu = &mut self.cache.context_mut().cpu;
        if traps && cpu.interrupt_shadow != InterruptShadow::MovSs {
            cpu.pending_debug |= debug::dr6::BS;
        }
        Step::Boundary
    }

    /// As [`Engine::step_done`], for an instruction that was not carried out by `System`, which
    /// clears RF itself.
    fn host_step_done(&mut self, mmu: &mut Mmu) -> Step {
        self.cache.context_mut().cpu.eflags &= !eflags::RF;
        self.step_done(mmu)
    }

    pub(super) fn set_eip(&mut self, eip: u32) {
        self.cache.context_mut().cpu.eip = eip;
    }

    /// Unit and instruction that the call returning to `site` belongs to.
    pub(super) fn site(&mut self, site: u64) -> Option<(u32, SiteKind, Instruction)> {
        let (index, found, guest) = self.units.find_site(site)?;
        Some((index, found.kind, guest))
    }

    fn callout(&mut self, site: u64, mmu: &mut Mmu, platform: &mut dyn Platform) -> Step {
        let Some((index, SiteKind::Callout(kind), insn)) = self.site(site) else {
            return internal("a callout from nowhere");
        };
        self.stats.callouts.count(kind);
        if let Some(profiler) = &mut self.profiler {
            profiler.callout(kind, insn.ip32(), self.mode.cpl());
        }
        if kind == CalloutKind::FpuState {
            self.replace_fpu_pointers(&insn, mmu);
            return Step::Resume(site);
        }
        self.set_eip(insn.ip32());
        if kind == CalloutKind::IndirectJump {
            return self.watched_jump(index, &insn, mmu, platform);
        }
        let result = match kind {
            CalloutKind::Undefined => {
                if self.strict
                    && let Some(unit) = self.units.get(index)
                    && let Some(what) = &unit.untranslated
                {
                    let what = format!("{insn} at CS:{:#x}: {what}", insn.ip32());
                    return Step::Leave(Exit::Untranslated {
                        bytes: self.bytes_at(mmu, &insn),
                        what,
                    });
                }
                Err(Exception::invalid_opcode())
            }
            CalloutKind::CodeLimit => self.limited_transfer(&insn, mmu, platform),
            CalloutKind::String => {
                let result = self.string_instruction(&insn, mmu, platform);
                self.watch_callout(index, &insn, site, self.string_direct);
                result
            }
            _ => self.system(mmu, platform).execute(&insn),
        };
        let single = self.mode.is_single();
        match result {
            Ok(Flow::Next) => {
                self.drain_events(mmu);
                if kind_may_change_mode(kind) {
                    self.changed = true;
                }
                if single {
                    return self.step_done(mmu);
                }
                let same_mode = !kind_may_change_mode(kind) || self.kept_mode(kind, mmu);
                if same_mode && self.may_resume(index, platform) {
                    Step::Resume(site)
                } else {
                    Step::Boundary
                }
            }
            Ok(Flow::Halt) => {
                self.step_done(mmu);
                if self.state().pending_debug != 0 {
                    // The trap wakes the processor up at once.
                    return Step::Boundary;
                }
                Step::Leave(Exit::Halted)
            }
            Ok(Flow::Jumped) => {
                self.changed = true;
                if single {
                    self.step_done(mmu)
                } else {
                    Step::Boundary
                }
            }
            Ok(Flow::Interrupted | Flow::Switched) => {
                self.changed = true;
                self.single_steps += 1;
                Step::Boundary
            }
            Ok(Flow::Trap(trap)) => {
                self.single_steps += 1;
                self.raise(mmu, platform, trap)
            }
            Ok(Flow::StepBack) => {
                if single {
                    self.step_done(mmu)
                } else {
                    Step::Boundary
                }
            }
            Err(exception) => {
                if exception == Exception::general_protection() {
                    self.tell_unknown_msr(&insn);
                }
                self.single_steps += 1;
                self.raise(mmu, platform, exception)
            }
        }
    }

    /// Logs, a few times, that a kernel got #GP for a model-specific register: it may depend on it.
    fn tell_unknown_msr(&mut self, insn: &Instruction) {
        let cpu = self.state();
        let write = match insn.mnemonic() {
            Mnemonic::Rdmsr => false,
            Mnemonic::Wrmsr => true,
            _ => return,
        };
        if cpu.cpl != 0 || self.msr_warnings == 0 {
            return;
        }
        let msr = cpu.gpr[reg::ECX];
        if PROBED_MSRS.iter().any(|range| range.contains(&msr)) {
            return;
        }
        let value = u64::from(cpu.gpr[reg::EDX]) << 32 | u64::from(cpu.gpr[reg::EAX]);
        tracing::warn!(
            msr = format_args!("{msr:#x}"),
            value = write.then_some(format_args!("{value:#x}")),
            "#GP for a model-specific register that the processor model does not have"
        );
        self.msr_warnings -= 1;
    }

    /// The unit can go on behind a callout: it is still valid, and nobody waits for the boundary.
    fn may_resume(&self, index: u32, platform: &mut dyn Platform) -> bool {
        let wanted = self.kick.is_kicked()
            || platform.attention()
            || self.state().pending_debug != 0
            || (self.state().interrupt_flag() && platform.interrupt_pending());
        let valid = self.units.get(index).is_some_and(|unit| !unit.dead);
        valid && !wanted
    }

    /// Supervisor code has loaded a segment register or changed flags, as it does at every entry and exit of
    /// a kernel, and translations for the mode remain right: the context follows.
    fn kept_mode(&mut self, kind: CalloutKind, mmu: &mut Mmu) -> bool {
        let cpu = self.state();
        let kept = matches!(kind, CalloutKind::SegmentLoad | CalloutKind::Sensitive)
            && cpu.cpl == 0
            && cpu.interrupt_shadow == InterruptShadow::None
            && Mode::of(cpu) == self.mode;
        if kept {
            self.make_ready(mmu, self.mode);
        }
        kept
    }

    /// Bytes of an instruction, as far as they can be read.
    pub(super) fn bytes_at(&self, mmu: &Mmu, insn: &Instruction) -> Vec<u8> {
        let base = self.state().seg[seg::CS].base;
        (0..insn.len().max(1) as u32)
            .map_while(|i| {
                let linear = base.wrapping_add(insn.ip32()).wrapping_add(i);
                let resolved = mmu
                    .probe(linear, shadow_mmu::Access::execute(self.privilege()))
                    .ok()?;
                let mut byte = [0];
                mmu.read_phys(resolved.gpa, &mut byte).ok()?;
                Some(byte[0])
            })
            .collect()
    }

    /// A transfer or a fetch that the limit of CS forbids, or that must be compared with it.
    pub(super) fn limited_transfer(
        &mut self,
        insn: &Instruction,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Result<Flow, Exception> {
        let limit = self.state().seg[seg::CS].limit;
        let last = insn.ip32().wrapping_add(insn.len() as u32 - 1);
        if last > limit {
            return Err(Exception::general_protection());
        }
        let near_return = insn.mnemonic() == iced_x86::Mnemonic::Ret;
        let indirect = insn.is_jmp_near_indirect() || insn.is_call_near_indirect();
        if !near_return && !indirect {
            return Err(Exception::general_protection());
        }
        let mut system = self.system(mmu, platform);
        let privilege = system.privilege();
        let big_stack = system.cpu.seg[seg::SS].is_big();
        let esp = system.cpu.gpr[crate::state::reg::ESP];
        let wrap = |value: u32| if big_stack { value } else { value & 0xFFFF };
        let set_stack = |cpu: &mut CpuState, value: u32| {
            let old = cpu.gpr[crate::state::reg::ESP];
            cpu.gpr[crate::state::reg::ESP] = if big_stack {
                value
            } else {
                (old & 0xFFFF_0000) | (value & 0xFFFF)
            };
        };
        let size = match insn.op0_kind() {
            _ if near_return => {
                if matches!(
                    insn.code(),
                    iced_x86::Code::Retnw | iced_x86::Code::Retnw_imm16
                ) {
                    2
                } else {
                    4
                }
            }
            OpKind::Register => insn.op0_register().size(),
            _ => insn.memory_size().size(),
        };
        let mut bytes = [0u8; 4];
        if near_return {
            let linear = system.segment_access(seg::SS, wrap(esp), size as u32, false)?;
            system.check_alignment(linear, size, size as u32, false)?;
            system.read_linear(linear, &mut bytes[..size], privilege)?;
        } else if insn.op0_kind() == OpKind::Register {
            let value = system.cpu.gpr[insn.op0_register().number()];
            bytes = if size == 2 { value & 0xFFFF } else { value }.to_le_bytes();
        } else {
            let (segment, offset) = system.effective_address(insn, 0);
            let linear = system.segment_access(segment, offset, size as u32, false)?;
            system.check_alignment(linear, size, size as u32, false)?;
            system.read_linear(linear, &mut bytes[..size], privilege)?;
        }
        let target = u32::from_le_bytes(bytes);
        if target > limit {
            return Err(Exception::general_protection());
        }
        if near_return {
            let extra = if insn.op_count() > 0 {
                u32::from(insn.immediate16())
            } else {
                0
            };
            set_stack(
                system.cpu,
                esp.wrapping_add(size as u32).wrapping_add(extra),
            );
        } else if insn.is_call_near_indirect() {
            let new = wrap(esp.wrapping_sub(size as u32));
            let linear = system.segment_access(seg::SS, new, size as u32, true)?;
            system.check_alignment(linear, size, size as u32, true)?;
            let next = insn.next_ip32().to_le_bytes();
            system.write_linear(linear, &next[..size], privilege)?;
            set_stack(system.cpu, esp.wrapping_sub(size as u32));
        }
        system.cpu.eip = target;
        Ok(Flow::Jumped)
    }

    /// Links a jump inside a page to its target unit, if that is there; else goes to make it.
    fn link(&mut self, site: u64) -> Step {
        let Some((index, SiteKind::Link { target, patch }, _)) = self.site(site) else {
            return internal("a link from nowhere");
        };
        self.set_eip(target);
        let Some(unit) = self.units.get(index) else {
            return Step::Boundary;
        };
        // Same page, same mode: the key of the target follows from that of the source.
        let mut key = unit.key;
        key.gpa = key.gpa.wrapping_add(target.wrapping_sub(key.eip));
        key.eip = target;
        let at = unit.host + u64::from(patch);
        if !unit.dead
            && !self.logging
            && let Some(found) = self
                .units
                .find(&key)
                .and_then(|found| self.units.get(found))
        {
            let crosses = found.second_page.is_some();
            let mut host = found.host;
            if crosses {
                // Reached through the jump table, which is emptied when the next page changes.
                host = self.cache.next_address();
                let code = table_jump(&mut self.asm, host, target);
                if self.cache.free() < code.len() {
                    return Step::Boundary;
                }
                self.cache.append(&code);
            }
            self.set_link(at, host);
        }
        Step::Boundary
    }

    /// Makes the link whose displacement is at `at` reach `host`.
    pub(super) fn set_link(&mut self, at: u64, host: u64) {
        // A link that is a call to the stub becomes a jump; a jump stays one.
        if self.cache.read(at - 1, 1) == [0xE8] {
            self.cache.patch(at - 1, &[0xE9]);
        }
        self.cache.patch_rel32(at, host);
        self.stats.links += 1;
    }

    /// A unit that is no longer valid was entered, or the rest of one was reached.
    fn dead(&mut self, site: u64) -> Step {
        let call = site.wrapping_sub(CALL_BYTES);
        let Some(unit) = self
            .units
            .at_host(call)
            .and_then(|index| self.units.get(index))
        else {
            return internal("a dead unit nowhere");
        };
        if call == unit.host {
            let (eip, key) = (unit.key.eip, unit.key);
            if unit.second_page.is_none() {
                self.forward = Some((call, key));
            }
            self.set_eip(eip);
            return Step::Boundary;
        }
        match unit.instruction_at(call) {
            Some(map) => {
                let eip = map.guest.ip32();
                self.set_eip(eip);
                Step::Boundary
            }
            None => internal("a dead unit without instructions"),
        }
    }
}

/// After these the mode has to be looked at again.
fn kind_may_change_mode(kind: CalloutKind) -> bool {
    use CalloutKind as K;
    !matches!(
        kind,
        K::PortIo | K::String | K::SelectorCheck | K::Bound | K::Decimal | K::EnterNested
    )
}

pub(super) fn internal(what: &str) -> Step {
    Step::Leave(Exit::Internal(what.to_owned()))
}

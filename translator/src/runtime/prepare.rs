//! Memory accesses that Rust carries out for translated code.
//!
//! Translated code hands over an offset in a segment and receives a host address: that of the
//! memory itself, or of a bounce buffer for a device, a traced page, or an operand that crosses
//! pages. The instruction runs on it as it stands, so any instruction works on any memory. When it
//! wrote, `commit` brings the buffer to where it belongs. MOV and XCHG need no second call: what they
//! write is known, and is written before the instruction runs on the buffer.

use super::engine::{Engine, Step};
use super::exits::internal;
use crate::Platform;
use crate::codegen::{Access as SiteAccess, AccessHint, SiteKind};
use crate::state::CpuState;
use crate::system::{Exception, System, debug};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use shadow_mmu::{Access, AccessPlan, Mmu};

const PAGE: u32 = 4096;

/// What MOV or XCHG writes to memory, which is known before it runs: the value of a register or an
/// immediate operand, in the low bytes.
fn stored(insn: &Instruction, cpu: &CpuState) -> Option<u32> {
    match (insn.mnemonic(), insn.op1_kind()) {
        (Mnemonic::Mov | Mnemonic::Xchg, OpKind::Register) => {}
        (Mnemonic::Mov, OpKind::Memory) => return None,
        (Mnemonic::Mov, _) => return insn.try_immediate(1).ok().map(|value| value as u32),
        _ => return None,
    }
    let register = insn.op1_register();
    let number = register.number();
    match (register.is_gpr8(), number) {
        // AH to BH.
        (true, 4..) => cpu.gpr.get(number - 4).map(|full| full >> 8),
        _ if register.is_gpr() => cpu.gpr.get(number).copied(),
        _ => None,
    }
}

/// Largest memory operand: FXSAVE.
const MAX_OPERAND: usize = 512;

/// Bytes that FXSAVE writes outside 64-bit mode: what lies behind XMM7 stays as it is (Intel SDM
/// vol. 1, table 10-2), while the host's form would leave XMM8 to XMM15 there.
const FXSAVE_WRITTEN: usize = 288;

/// The alignment that `insn` demands of its memory operand in bytes, 1 if none (Intel SDM vol. 1,
/// section 10.4.1.1).
fn alignment(insn: &Instruction) -> u32 {
    match insn.mnemonic() {
        Mnemonic::Fxsave | Mnemonic::Fxrstor => 16,
        Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu => 1,
        Mnemonic::Maskmovdqu => 1,
        _ if insn.memory_size().size() == 16 => 16,
        _ => 1,
    }
}

/// The alignment that the alignment check asks of an operand of `size` bytes (Intel SDM vol. 3A, table
/// 6-7). For unaligned forms of 16 bytes it is up to the processor; here they pass.
fn checked_alignment(insn: &Instruction, size: u32) -> u32 {
    match (insn.mnemonic(), size) {
        (Mnemonic::Maskmovq, _) => 1,
        (_, 2 | 4 | 8) => size,
        (_, 10) => 8,
        // Environments and images of the x87, in the 16- and 32-bit formats.
        (_, 14 | 94) => 2,
        (_, 28 | 108) => 4,
        _ => 1,
    }
}

/// A locked access that crosses a cache line: the host may refuse it.
fn splits_lock(insn: &Instruction, linear: u32, size: u32) -> bool {
    const CACHE_LINE: u32 = 64;
    let locked = insn.has_lock_prefix() || insn.mnemonic() == Mnemonic::Xchg;
    locked && linear % CACHE_LINE + size > CACHE_LINE
}

/// True for stores of the x87 that leave memory alone when they raise an unmasked exception: what is
/// there has to be in the buffer.
fn may_not_write(insn: &Instruction) -> bool {
    matches!(
        insn.mnemonic(),
        Mnemonic::Fst
            | Mnemonic::Fstp
            | Mnemonic::Fist
            | Mnemonic::Fistp
            | Mnemonic::Fisttp
            | Mnemonic::Fbstp
    )
}

/// True when the effective address of `insn` has 16 bits.
fn has_short_address(insn: &Instruction) -> bool {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    base.size() == 2
        || index.size() == 2
        || (base == Register::None && index == Register::None && insn.memory_displ_size() == 2)
}

/// The bounce buffer and what it stands for.
#[derive(Debug)]
pub(super) struct Bounce {
    buffer: Box<Buffer>,
    pending: Option<Pending>,
    /// How many accesses in a row could have been made without Rust, by a hash of the site.
    streaks: Box<[u16; STREAKS]>,
}

/// Sites whose streaks are told apart.
const STREAKS: usize = 256;
/// Accesses in a row that found ordinary memory, after which an instruction that was translated as
/// a call to Rust gets its own form back. A call costs some 50 ns, to learn it again some 20 us.
const DIRECT_BEFORE_FORGETTING: u16 = 1000;
/// The same where it was made a call because its pages were absent: a host fault costs some 2.5 us.
const DIRECT_BEFORE_FAULTING: u16 = 40;

#[derive(Debug)]
#[repr(C, align(64))]
struct Buffer([u8; MAX_OPERAND]);

#[derive(Debug, Clone, Copy)]
struct Pending {
    linear: u32,
    size: usize,
}

impl Default for Bounce {
    fn default() -> Self {
        Bounce {
            buffer: Box::new(Buffer([0; MAX_OPERAND])),
            pending: None,
            streaks: Box::new([0; STREAKS]),
        }
    }
}

impl Engine {
    /// Answers a `Prepare`: R8 becomes the host address of the operand.
    pub(super) fn prepare(
        &mut self,
        site: u64,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Step {
        let Some((unit, SiteKind::Prepare(access), insn)) = self.site(site) else {
            return internal("an access from nowhere");
        };
        self.stats.prepared_accesses += 1;
        let address = self
            .host_address(unit, access, &insn, mmu, platform)
            .and_then(|found| match found {
                Some((operand, _)) => self.check_mxcsr(&insn, operand).map(|()| found),
                None => Ok(None),
            });
        match address {
            Ok(None) => {
                // What it takes to stop behind this instruction.
                self.set_eip(insn.ip32());
                self.slow_next = true;
                Step::Boundary
            }
            Ok(Some((address, direct))) => {
                let stubs = self.cache.stubs;
                let waits = self.bounce.pending.is_some();
                let context = self.cache.context_mut();
                context.scratch[0] = address;
                context.commit = if waits { stubs.commit } else { stubs.nothing };
                self.watch_callout(unit, &insn, site, direct);
                Step::Resume(site)
            }
            Err(exception) => {
                self.watch_callout(unit, &insn, site, false);
                self.set_eip(insn.ip32());
                self.single_steps += 1;
                self.raise(mmu, platform, exception)
            }
        }
    }

    /// Takes the hint that led to a call to Rust back from an instruction that does not meet trapped
    /// pages any more.
    pub(super) fn watch_callout(&mut self, unit: u32, insn: &Instruction, site: u64, direct: bool) {
        if self.mode.is_slow() {
            return;
        }
        let Some(streak) = self.bounce.streaks.get_mut((site >> 2) as usize % STREAKS) else {
            return;
        };
        *streak = if direct { streak.saturating_add(1) } else { 0 };
        let count = *streak;
        if !count.is_multiple_of(DIRECT_BEFORE_FAULTING) || count == 0 {
            return;
        }
        let Some(gpa) = self.units.get(unit).map(|unit| unit.gpa_of(insn)) else {
            return;
        };
        if count < DIRECT_BEFORE_FORGETTING && !self.units.expects_faults(gpa) {
            return;
        }
        if let Some(streak) = self.bounce.streaks.get_mut((site >> 2) as usize % STREAKS) {
            *streak = 0;
        }
        let hint = self.units.hint(gpa);
        let string = insn.is_string_instruction() && hint == AccessHint::CheckedStore;
        if hint == AccessHint::Callout || string {
            self.units.forget_hint(gpa);
            self.discard_copies(gpa);
        }
    }

    /// The instruction is a call to Rust because it used to fault.
    fn expects_faults(&self, unit: u32, insn: &Instruction) -> bool {
        let gpa = self.units.get(unit).map(|unit| unit.gpa_of(insn));
        gpa.is_some_and(|gpa| self.units.expects_faults(gpa))
    }

    /// The host address of the operand, and whether translated code can make such an access itself. `None`: it meets a
    /// data breakpoint, and the instruction has to run alone.
    fn host_address(
        &mut self,
        unit: u32,
        access: SiteAccess,
        insn: &Instruction,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Result<Option<(u64, bool)>, Exception> {
        let alone = self.mode.is_single();
        let scratch = &mut self.cache.context_mut().scratch;
        let mut offset = scratch[0] as u32;
        if access.bit_offset {
            // The part of the bit offset beyond the operand moves the address (SDM vol. 2A, BT).
            let bits = access.size * 8;
            let bit = scratch[3] as u32 as i32;
            offset =
                offset.wrapping_add(((bit >> bits.trailing_zeros()) * access.size as i32) as u32);
            scratch[3] = u64::from(bit as u32 & (bits - 1));
            if has_short_address(insn) {
                offset &= 0xFFFF;
            }
        }
        let size = access.size.clamp(1, MAX_OPERAND as u32);
        let mut system = self.system(mmu, platform);
        let linear = system.segment_access(access.segment, offset, size, access.write)?;
        // Before paging: the processor checks it on the linear address alone.
        if linear & (alignment(insn) - 1) != 0 {
            return Err(Exception::general_protection());
        }
        let checked = checked_alignment(insn, size);
        system.check_alignment(linear, size as usize, checked, access.write)?;
        let privilege = system.privilege();
        if debug::breakpoints_enabled(system.cpu) {
            let hits = debug::data_breakpoints(system.cpu, linear, size, access.write);
            system.cpu.pending_debug |= hits;
            if hits != 0 && !alone {
                system.cpu.pending_debug = 0;
                return Ok(None);
            }
        }
        let kind = if access.write {
            Access::write(privilege)
        } else {
            Access::read(privilege)
        };
        self.bounce.pending = None;
        let image = insn.mnemonic() == Mnemonic::Fxsave;
        let copy = image || splits_lock(insn, linear, size);
        if !copy && let AccessPlan::Direct(address) = mmu.plan(linear, size as usize, kind)? {
            let plain = if alone {
                false // nobody asks
            } else if self.expects_faults(unit, insn) {
                mmu.is_within_reach(linear, kind)
            } else {
                !access.write || mmu.is_plain_write(linear, privilege)
            };
            if access.write && !alone && !plain && mmu.leads_to_former_table(linear, privilege) {
                self.enter_lookaside(mmu, linear, address as u64);
            }
            return Ok(Some((address as u64, plain)));
        }
        let known = (access.write && linear % PAGE + size <= PAGE)
            .then(|| stored(insn, self.state()))
            .flatten();
        // Field by field: the buffer is borrowed beside the system.
        let bounce = &mut self.bounce;
        let mut system = System {
            cpu: &mut self.cache.context_mut().cpu,
            mmu,
            platform,
            model: &self.model,
        };
        // A store alone is checked when it is made.
        if access.write && (known.is_none() || access.read) {
            system.check_write(linear, size as usize, privilege)?;
        }
        // FXSAVE need not write the reserved bytes of the registers, and some processors leave the pointers.
        if access.read || image || may_not_write(insn) {
            let part = bounce.buffer.0.get_mut(..size as usize).unwrap_or_default();
            system.read_linear(linear, part, privilege)?;
        }
        if let Some(value) = known {
            let bytes = value.to_le_bytes();
            let bytes = bytes.get(..size as usize).unwrap_or(&bytes);
            system.write_linear(linear, bytes, privilege)?;
            // The instruction itself writes where nobody looks.
            self.stats.complete_stores += 1;
            return Ok(Some((bounce.buffer.0.as_ptr() as u64, false)));
        }
        bounce.pending = access.write.then_some(Pending {
            linear,
            size: if image { FXSAVE_WRITTEN } else { size as usize },
        });
        Ok(Some((bounce.buffer.0.as_ptr() as u64, false)))
    }

    /// The instruction has written to the operand prepared last.
    pub(super) fn commit(&mut self, site: u64, mmu: &mut Mmu, platform: &mut dyn Platform) -> Step {
        let Some(Pending { linear, size }) = self.bounce.pending.take() else {
            return Step::Resume(site);
        };
        let mut system = System {
            cpu: &mut self.cache.context_mut().cpu,
            mmu: &mut *mmu,
            platform: &mut *platform,
            model: &self.model,
        };
        let privilege = system.privilege();
        let data = self.bounce.buffer.0.get(..size).unwrap_or_default();
        let result = system.write_linear(linear, data, privilege);
        if let Err(exception) = result {
            // `prepare` has checked the write; only another write in between can change that.
            let Some((_, _, insn)) = self.site(site) else {
                return internal("a write from nowhere");
            };
            self.set_eip(insn.ip32());
            return self.raise(mmu, platform, exception);
        }
        Step::Resume(site)
    }
}

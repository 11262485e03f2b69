//! Near control transfers: jumps, conditional jumps, loops, calls, returns.

use super::asm::{Mem, host};
use super::builder::{After, Builder, CannotEmit};
use super::memory::Use;
use super::mode::SegmentClass;
use super::{AccessHint, CalloutKind};
use crate::state::seg;
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

/// The low four opcode bits of a condition.
fn condition_bits(condition: ConditionCode) -> u8 {
    match condition {
        ConditionCode::None | ConditionCode::o => 0x0,
        ConditionCode::no => 0x1,
        ConditionCode::b => 0x2,
        ConditionCode::ae => 0x3,
        ConditionCode::e => 0x4,
        ConditionCode::ne => 0x5,
        ConditionCode::be => 0x6,
        ConditionCode::a => 0x7,
        ConditionCode::s => 0x8,
        ConditionCode::ns => 0x9,
        ConditionCode::p => 0xA,
        ConditionCode::np => 0xB,
        ConditionCode::l => 0xC,
        ConditionCode::ge => 0xD,
        ConditionCode::le => 0xE,
        ConditionCode::g => 0xF,
    }
}

impl Builder<'_> {
    /// Emits `insn` if it is a near control transfer.
    pub(super) fn emit_control(&mut self, insn: &Instruction) -> Result<Option<After>, CannotEmit> {
        let mnemonic = insn.mnemonic();
        if insn.is_jcc_short_or_near() {
            return Ok(Some(self.jump_if(insn)));
        }
        if insn.is_jcx_short() || insn.is_loop() || insn.is_loopcc() {
            return Ok(Some(self.counted(insn)));
        }
        if insn.is_jmp_short_or_near() {
            let target = insn.near_branch_target() as u32;
            if target > self.t.code_limit {
                return Ok(Some(self.callout_end(CalloutKind::CodeLimit)));
            }
            let follow = !self.t.mode.is_single() && !self.after_sti && target > insn.ip32();
            if !follow || !self.in_this_page(target) {
                if self.in_this_page(target) {
                    self.poll_if_backward(target);
                }
                self.pass_to(target);
                return Ok(Some(After::End));
            }
            return Ok(Some(After::Follow(target)));
        }
        if insn.is_call_near() {
            let target = insn.near_branch_target() as u32;
            if target > self.t.code_limit {
                return Ok(Some(self.callout_end(CalloutKind::CodeLimit)));
            }
            if let Some(after) = self.call_thunk(insn, target) {
                return Ok(Some(after));
            }
            // The poll comes first: behind the push the call could not be started again.
            if self.in_this_page(target) {
                self.poll_if_backward(target);
            }
            self.push_imm(Self::transfer_size(insn), insn.next_ip32());
            self.pass_to(target);
            return Ok(Some(After::End));
        }
        if insn.is_jmp_near_indirect() || insn.is_call_near_indirect() {
            return Ok(Some(self.indirect(insn)));
        }
        if mnemonic == Mnemonic::Ret {
            return Ok(Some(self.ret(insn)));
        }
        Ok(None)
    }

    /// Operand size of a near call or return.
    fn transfer_size(insn: &Instruction) -> u32 {
        insn.stack_pointer_increment().unsigned_abs().min(4)
    }

    fn jump_if(&mut self, insn: &Instruction) -> After {
        let target = insn.near_branch_target() as u32;
        if target > self.t.code_limit {
            return self.code_limit_if(condition_bits(insn.condition_code()));
        }
        self.poll_if_loop(target);
        self.exit_if(condition_bits(insn.condition_code()), target);
        After::Continue
    }

    /// The taken branch leaves the code segment: #GP(0) then, and only then.
    fn code_limit_if(&mut self, condition: u8) -> After {
        // jcc over the callout with the condition inverted; a call is five bytes.
        self.asm.bytes(&[0x70 | (condition ^ 1), 5]);
        self.callout(CalloutKind::CodeLimit);
        After::Continue
    }

    /// JCXZ, JECXZ, LOOP, LOOPE, LOOPNE: without flags, through the host's JRCXZ.
    fn counted(&mut self, insn: &Instruction) -> After {
        let target = insn.near_branch_target() as u32;
        if target > self.t.code_limit {
            return self.callout_end(CalloutKind::CodeLimit);
        }
        self.poll_if_loop(target);
        // The counter is CX or ECX by the address size; the other half of ECX is kept in R8.
        let short = Self::counter_is_short(insn);
        let is_loop = !insn.is_jcx_short();
        if short {
            self.asm.mov32(host::R8, host::RCX);
            if is_loop {
                self.asm.lea32(host::RCX, Mem::base(host::RCX, -1));
                self.asm.mov16(host::R8, host::RCX);
            }
            self.asm.zero_extend16(host::RCX, host::RCX);
        } else if is_loop {
            self.asm.lea32(host::RCX, Mem::base(host::RCX, -1));
        }
        // jrcxz +2; jmp short not_zero; then one arm each.
        let restore = |builder: &mut Self| {
            if short {
                builder.asm.mov32(host::RCX, host::R8);
            }
        };
        self.asm.bytes(&[0xE3, 0]);
        let zero_at = self.asm.offset();
        let mut fixups = Vec::with_capacity(2);
        // Counter not zero.
        restore(self);
        let mut over = None;
        if is_loop {
            match insn.mnemonic() {
                Mnemonic::Loope => self.exit_if(0x4, target),
                Mnemonic::Loopne => self.exit_if(0x5, target),
                _ => self.exit_always(target),
            }
        }
        if short || !is_loop {
            self.asm.bytes(&[0xEB, 0]);
            over = Some(self.asm.offset());
        }
        fixups.push((zero_at, self.asm.offset()));
        restore(self);
        if !is_loop {
            self.exit_always(target);
        }
        if let Some(over) = over {
            fixups.push((over, self.asm.offset()));
        }
        self.asm.patch_rel8(&fixups);
        After::Continue
    }

    fn counter_is_short(insn: &Instruction) -> bool {
        use iced_x86::Code;
        matches!(
            insn.code(),
            Code::Jcxz_rel8_16
                | Code::Jcxz_rel8_32
                | Code::Loop_rel8_16_CX
                | Code::Loop_rel8_32_CX
                | Code::Loope_rel8_16_CX
                | Code::Loope_rel8_32_CX
                | Code::Loopne_rel8_16_CX
                | Code::Loopne_rel8_32_CX
        )
    }

    /// A target that is not known when translating may leave a code segment that has a limit.
    fn indirect_needs_check(&self, size: u32) -> bool {
        match self.t.mode.class(seg::CS) {
            SegmentClass::Limit64K => size != 2,
            _ => self.t.code_limit != u32::MAX && !(size == 2 && self.t.code_limit >= 0xFFFF),
        }
    }

    fn indirect(&mut self, insn: &Instruction) -> After {
        let call = insn.is_call_near_indirect();
        let size = match insn.op0_kind() {
            OpKind::Register => insn.op0_register().size() as u32,
            _ => insn.memory_size().size() as u32,
        };
        let checked = self.indirect_needs_check(size);
        if checked && self.t.mode.is_slow() {
            return self.callout_end(CalloutKind::CodeLimit);
        }
        if !call
            && !checked
            && let Some(after) = self.learned_jump(insn, size)
        {
            return after;
        }
        // The push of a call needs no scratch register there, and the target goes where the jump wants it.
        let plain = !call || (self.t.mode.stack_in_window() && self.hint == AccessHint::None);
        let target = if plain { host::R8 } else { host::R11 };
        self.load_jump_target(insn, size, target);
        if checked {
            self.check_code_limit(target);
        }
        if call {
            self.push_imm(size, insn.next_ip32());
        }
        if target != host::R8 {
            self.asm.mov32(host::R8, target);
        }
        self.jump_through_table();
        After::End
    }

    fn ret(&mut self, insn: &Instruction) -> After {
        let size = Self::ret_size(insn);
        let checked = self.indirect_needs_check(size);
        if checked && self.t.mode.is_slow() {
            return self.callout_end(CalloutKind::CodeLimit);
        }
        // A 16-bit stack pointer moves through R8.
        let target = if self.t.mode.stack32() {
            host::R8
        } else {
            host::R11
        };
        let slot = self.slot(0, size, Use::Read);
        self.asm.load(size, target, slot.mem);
        if checked {
            self.check_code_limit(target);
        }
        let extra = if insn.op_count() > 0 {
            i32::from(insn.immediate16())
        } else {
            0
        };
        self.move_stack(size as i32 + extra);
        if target != host::R8 {
            self.asm.mov32(host::R8, target);
        }
        self.jump_through_table();
        After::End
    }

    fn ret_size(insn: &Instruction) -> u32 {
        use iced_x86::Code;
        match insn.code() {
            Code::Retnw | Code::Retnw_imm16 => 2,
            _ => 4,
        }
    }

    /// True for the registers whose host namesake is elsewhere.
    pub(super) fn is_stack_pointer(register: Register) -> bool {
        matches!(register, Register::ESP | Register::SP)
    }
}

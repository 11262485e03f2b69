//! Stack instructions: PUSH, POP, PUSHA, POPA, PUSHF, ENTER, LEAVE.
//!
//! Each stores or loads first and moves ESP last, so that a fault leaves ESP as it was.

use super::asm::{Mem, Reg, host};
use super::builder::{After, Builder, CannotEmit};
use super::memory::{Operand, Use};
use super::{AccessHint, CalloutKind, layout};
use crate::state::reg;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

impl Builder<'_> {
    /// Emits `insn` if it is a stack instruction.
    pub(super) fn emit_stack(&mut self, insn: &Instruction) -> Result<Option<After>, CannotEmit> {
        let after = match insn.mnemonic() {
            Mnemonic::Push => self.push(insn)?,
            Mnemonic::Pop => return self.pop(insn),
            Mnemonic::Pushad => self.push_all(4),
            Mnemonic::Pusha => self.push_all(2),
            Mnemonic::Popad => self.pop_all(4),
            Mnemonic::Popa => self.pop_all(2),
            Mnemonic::Pushfd if !self.t.mode.v86() => self.push_flags(4),
            Mnemonic::Pushf if !self.t.mode.v86() => self.push_flags(2),
            Mnemonic::Leave => self.leave(insn),
            Mnemonic::Enter => self.enter(insn),
            _ => return Ok(None),
        };
        Ok(Some(after))
    }

    /// The slot at ESP + `offset`.
    pub(super) fn slot(&mut self, offset: i32, size: u32, usage: Use) -> Operand {
        let address = self.stack_address(offset);
        self.operand(&address, size, usage)
    }

    /// ESP (or SP) += `delta`.
    pub(super) fn move_stack(&mut self, delta: i32) {
        if self.t.mode.stack_in_window() {
            self.asm.lea64(host::STACK, Mem::base(host::STACK, delta));
        } else if self.t.mode.stack32() {
            self.asm.lea32(host::STACK, Mem::base(host::STACK, delta));
        } else {
            self.asm.lea32(host::R8, Mem::base(host::STACK, delta));
            self.asm.mov16(host::STACK, host::R8);
        }
    }

    /// Pushes the low `size` bytes of `value`, which is not one of R8 to R10.
    pub(super) fn push_register(&mut self, size: u32, value: Reg) {
        let slot = self.slot(-(size as i32), size, Use::Write);
        self.asm.store(size, slot.mem, value);
        self.done(&slot);
        self.move_stack(-(size as i32));
    }

    /// Pushes a constant.
    pub(super) fn push_imm(&mut self, size: u32, value: u32) {
        let slot = self.slot(-(size as i32), size, Use::Write);
        self.asm.store_imm(size, slot.mem, value);
        self.done(&slot);
        self.move_stack(-(size as i32));
    }

    /// Bytes that a PUSH or POP of this form moves.
    fn slot_size(insn: &Instruction) -> u32 {
        insn.stack_pointer_increment().unsigned_abs()
    }

    fn push(&mut self, insn: &Instruction) -> Result<After, CannotEmit> {
        let size = Self::slot_size(insn);
        match insn.op0_kind() {
            OpKind::Register => {
                let register = insn.op0_register();
                if register.is_segment_register() {
                    // A 32-bit push of a segment register writes only its low half on P6 and
                    // later; the slot's upper half keeps what it had (SDM vol. 2B, PUSH).
                    self.asm
                        .load(2, host::R11, layout::selector(register.number()));
                    let slot = self.slot(-(size as i32), 2, Use::Write);
                    self.asm.store(2, slot.mem, host::R11);
                    self.done(&slot);
                    self.move_stack(-(size as i32));
                } else {
                    self.push_register(size, Self::guest_of(register));
                }
            }
            OpKind::Memory => {
                let address = Self::address_of(insn);
                let source = self.operand(&address, size, Use::Read);
                self.asm.load(size, host::R11, source.mem);
                self.push_register(size, host::R11);
            }
            _ => {
                let value = insn.immediate(0) as u32;
                self.push_imm(size, value);
            }
        }
        Ok(After::Continue)
    }

    fn pop(&mut self, insn: &Instruction) -> Result<Option<After>, CannotEmit> {
        let size = Self::slot_size(insn);
        if insn.op0_kind() == OpKind::Register {
            let register = insn.op0_register();
            if register.is_segment_register() {
                if self.pop_by_shortcut(register, size) {
                    return Ok(Some(After::Continue));
                }
                if !self.loads_paragraph(register.number(), insn) {
                    return Ok(Some(self.callout(CalloutKind::SegmentLoad)));
                }
                let slot = self.slot(0, 2, Use::Read);
                self.asm.load(2, host::R11, slot.mem);
                self.load_paragraph(register.number());
                self.move_stack(size as i32);
                return Ok(Some(After::Continue));
            }
            let slot = self.slot(0, size, Use::Read);
            if register.full_register32() == Register::ESP {
                self.asm.load(size, host::R11, slot.mem);
                if size == 2 {
                    self.move_stack(2);
                    self.asm.mov16(host::STACK, host::R11);
                } else {
                    self.asm.mov32(host::STACK, host::R11);
                    self.rebase_stack();
                }
            } else {
                self.asm.load_part(size, Self::guest_of(register), slot.mem);
                self.move_stack(size as i32);
            }
            return Ok(Some(After::Continue));
        }
        // POP m: an ESP base counts after the increment (SDM vol. 2B, POP).
        let slot = self.slot(0, size, Use::Read);
        self.asm.load(size, host::R11, slot.mem);
        let mut address = Self::address_of(insn);
        if address.base == Some(host::STACK) {
            if self.t.mode.stack32() {
                address.disp = address.disp.wrapping_add(size);
            } else {
                // SP wraps around at 64 KiB, below the upper half of ESP.
                self.asm.mov32(host::R9, host::STACK);
                self.asm
                    .lea32(host::R10, Mem::base(host::STACK, size as i32));
                self.asm.mov16(host::R9, host::R10);
                address.base = Some(host::R9);
            }
        }
        let target = self.operand(&address, size, Use::Write);
        self.asm.store(size, target.mem, host::R11);
        self.done(&target);
        self.move_stack(size as i32);
        Ok(Some(After::Continue))
    }

    fn push_all(&mut self, size: u32) -> After {
        let step = size as i32;
        for number in 0..8usize {
            let slot = self.slot(-step * (number as i32 + 1), size, Use::Write);
            self.asm.store(size, slot.mem, Self::guest(number));
            self.done(&slot);
        }
        self.move_stack(-8 * step);
        After::Continue
    }

    fn pop_all(&mut self, size: u32) -> After {
        let step = size as i32;
        // What can fault comes first, before a register has changed: both ends, and with a 16-bit
        // stack any slot, because SP may wrap around in the middle of it.
        let middle = if self.t.mode.stack32() { 1 } else { 7 };
        for offset in (0..middle).chain([7]).map(|slot| slot * step) {
            if offset == step * (7 - reg::ESP as i32) {
                continue;
            }
            let slot = self.slot(offset, size, Use::Read);
            self.asm.load(size, host::R11, slot.mem);
        }
        for number in (0..8usize).rev() {
            if number == reg::ESP {
                continue;
            }
            let slot = self.slot(step * (7 - number as i32), size, Use::Read);
            self.asm.load_part(size, Self::guest(number), slot.mem);
        }
        self.move_stack(8 * step);
        After::Continue
    }

    /// PUSHF where it is not sensitive to IOPL: everywhere but in virtual-8086 mode.
    fn push_flags(&mut self, size: u32) -> After {
        let slot = self.slot(-(size as i32), size, Use::Write);
        self.flags_image();
        self.asm.store(size, slot.mem, host::R11);
        self.done(&slot);
        self.move_stack(-(size as i32));
        After::Continue
    }

    /// The flags as PUSHF stores them to R11. Uses R10.
    pub(super) fn flags_image(&mut self) {
        const LIVE: u32 = crate::state::eflags::LIVE;
        // The flags stay on the host stack while their image is made, and come back from there.
        self.asm.byte(0x9C); // pushfq
        self.asm.load32(host::R11, Mem::base(host::RSP, 0));
        self.asm.bytes(&[0x41, 0x81, 0xE3]); // and r11d, imm32
        self.asm.dword(LIVE);
        // RF and VM are pushed as zero.
        self.asm.load(1, host::R10, layout::interrupt_flag());
        self.asm.bytes(&[0x41, 0xC1, 0xE2, 9]); // shl r10d, 9
        self.asm.bytes(&[0x45, 0x09, 0xD3]); // or r11d, r10d
        self.asm.load32(host::R10, layout::eflags_rest());
        self.asm.bytes(&[0x41, 0x81, 0xE2]); // and r10d, imm32
        self.asm
            .dword(!(crate::state::eflags::RF | crate::state::eflags::VM));
        self.asm.bytes(&[0x45, 0x09, 0xD3]); // or r11d, r10d
        self.asm.byte(0x9D); // popfq
    }

    /// LEAVE: the new stack pointer is EBP (BP with a 16-bit stack).
    fn leave(&mut self, insn: &Instruction) -> After {
        let size = if matches!(insn.code(), Code::Leavew) {
            2
        } else {
            4
        };
        let mut address = self.stack_address(0);
        address.base = Some(host::RBP);
        let slot = self.operand(&address, size, Use::Read);
        self.asm.load(size, host::R11, slot.mem);
        if self.t.mode.stack_in_window() {
            self.asm
                .lea64(host::STACK, Mem::sum(host::WINDOW, host::RBP, size as i32));
        } else if self.t.mode.stack32() {
            self.asm
                .lea32(host::STACK, Mem::base(host::RBP, size as i32));
        } else {
            self.asm.lea32(host::R8, Mem::base(host::RBP, size as i32));
            self.asm.mov16(host::STACK, host::R8);
        }
        if size == 2 {
            self.asm.mov16(host::RBP, host::R11);
        } else {
            self.asm.mov32(host::RBP, host::R11);
        }
        After::Continue
    }

    fn enter(&mut self, insn: &Instruction) -> After {
        if insn.immediate8_2nd() & 31 != 0 || self.hint == AccessHint::Callout {
            return self.callout(CalloutKind::EnterNested);
        }
        let size = if matches!(insn.code(), Code::Enterw_imm16_imm8) {
            2
        } else {
            4
        };
        let allocate = i32::from(insn.immediate16());
        let slot = self.slot(-(size as i32), size, Use::Write);
        self.asm.store(size, slot.mem, host::RBP);
        self.done(&slot);
        if allocate != 0 {
            // The processor checks that the end of the frame can be written (SDM vol. 2A, ENTER): NOT,
            // and back, is a write that leaves memory and flags as they are.
            let end = self.slot(-(size as i32) - allocate, 1, Use::ReadWrite);
            self.asm.not8_mem(end.mem);
            self.asm.not8_mem(end.mem);
            self.done(&end);
        }
        self.move_stack(-(size as i32));
        if size == 2 {
            self.asm.mov16(host::RBP, host::STACK);
        } else if self.t.mode.stack32() {
            self.asm.mov32(host::RBP, host::STACK);
        } else {
            // A 16-bit stack pointer with a 32-bit operand: EBP takes the whole of ESP's register
            // with its low half replaced (SDM vol. 2A, ENTER).
            self.asm.mov32(host::RBP, host::STACK);
        }
        self.move_stack(-allocate);
        After::Continue
    }
}

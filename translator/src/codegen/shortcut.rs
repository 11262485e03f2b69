//! Privileged instructions of the common kind: emitted as a way into a shortcut (see
//! [`crate::runtime::shortcut`]), which carries the instruction out, or goes on as a callout would.

use super::asm::{Mem, host};
use super::builder::{After, Builder};
use super::memory::Use;
use super::mode::SegmentClass;
use super::{AccessHint, CalloutKind, SiteKind, layout};
use crate::state::seg;
use iced_x86::{Code, Instruction, OpKind, Register};

impl Builder<'_> {
    /// Shortcuts can be used for the instruction at hand.
    fn has_shortcuts(&self) -> bool {
        self.t.stubs.load_segment != 0
            && self.t.mode.is_flat()
            && !self.t.mode.is_slow()
            && self.hint != AccessHint::Callout
    }

    /// Segment register `index` can be loaded by a shortcut: its class stays what it is.
    fn loads_by_shortcut(&self, index: usize) -> bool {
        let same_class = match index {
            seg::DS | seg::ES => self.t.mode.class(index) == SegmentClass::Flat,
            seg::FS | seg::GS => true,
            _ => false,
        };
        same_class && self.t.mode.cpl() == 0 && self.has_shortcuts()
    }

    /// SYSEXIT or IRETD that may end the interrupt shadow of STI: the shortcut looks for interrupts.
    pub(super) fn returns_by_shortcut(&self, insn: &Instruction) -> bool {
        matches!(insn.code(), Code::Sysexitd | Code::Iretd)
            && self.t.mode.cpl() == 0
            && self.has_shortcuts()
    }

    /// Far transfers, INT and IRET of real mode with 16-bit operands. The frame is read or written in
    /// line; the stack pointer moves last.
    fn emit_real_shortcut(&mut self, insn: &Instruction) -> Option<After> {
        let usable = self.t.stubs.load_segment != 0
            && self.t.mode.is_real()
            && self.hint != AccessHint::Callout;
        if !usable {
            return None;
        }
        let stubs = self.t.stubs;
        let (kind, stub) = match insn.code() {
            Code::Call_ptr1616 => {
                let frame = self.real_frame(-4, 4, Use::Write);
                self.asm.store_imm(2, frame(0), insn.next_ip32());
                self.asm.load(2, host::R11, layout::selector(seg::CS));
                self.asm.store(2, frame(2), host::R11);
                self.far_target(insn.far_branch_selector(), insn.far_branch16(), -4);
                (CalloutKind::FarTransfer, stubs.far_real)
            }
            Code::Jmp_ptr1616 => {
                self.far_target(insn.far_branch_selector(), insn.far_branch16(), 0);
                (CalloutKind::FarTransfer, stubs.far_real)
            }
            Code::Call_m1616 => {
                self.call_through_memory(insn);
                return Some(self.go_by_shortcut(CalloutKind::FarTransfer, stubs.far_real));
            }
            Code::Jmp_m1616 => {
                let address = Self::address_of(insn);
                let target = self.operand(&address, 4, Use::Read).mem;
                self.asm.load(2, host::R11, Self::word(target, 2));
                self.asm.load(2, host::R8, target);
                self.asm.mov_imm32(host::R10, 0);
                (CalloutKind::FarTransfer, stubs.far_real)
            }
            Code::Retfw | Code::Retfw_imm16 => {
                let parameters = if insn.code() == Code::Retfw {
                    0
                } else {
                    u32::from(insn.immediate16())
                };
                let frame = self.real_frame(0, 4, Use::Read);
                self.asm.load(2, host::R11, frame(2));
                self.asm.load(2, host::R8, frame(0));
                self.asm.mov_imm32(host::R10, 4 + parameters);
                (CalloutKind::FarTransfer, stubs.far_real)
            }
            Code::Iretw => {
                let frame = self.real_frame(0, 6, Use::Read);
                self.asm.load(2, host::R11, frame(4));
                self.asm.store(4, layout::shortcut_scratch(), host::R11);
                self.asm.load(2, host::R11, frame(2));
                self.asm.load(2, host::R8, frame(0));
                (CalloutKind::FarTransfer, stubs.iret_real)
            }
            Code::Int_imm8 => {
                let frame = self.real_frame(-6, 6, Use::Write);
                self.flags_image();
                self.asm.store(2, frame(4), host::R11);
                self.asm.load(2, host::R11, layout::selector(seg::CS));
                self.asm.store(2, frame(2), host::R11);
                self.asm.store_imm(2, frame(0), insn.next_ip32());
                self.asm.mov_imm32(host::R8, u32::from(insn.immediate8()));
                (CalloutKind::SystemCall, stubs.int_real)
            }
            _ => return None,
        };
        Some(self.leave_by_shortcut(kind, stub))
    }

    /// The words of a frame of `size` bytes at SP + `offset`, by their offset in it. One check covers all:
    /// a frame that wraps around is Rust's. Of the scratch registers R10 and R11 remain.
    fn real_frame(&mut self, offset: i32, size: u32, usage: Use) -> impl Fn(i32) -> Mem + use<> {
        let mem = self.slot(offset, size, usage).mem;
        move |at| Self::word(mem, at)
    }

    /// The word at `at` in `mem`.
    fn word(mem: Mem, at: i32) -> Mem {
        Mem {
            disp: mem.disp.wrapping_add(at),
            ..mem
        }
    }

    /// CALL m16:16 of real mode up to the transfer, with its operands where that wants them. The pointer may lie
    /// where the frame will be: it is read once, and the frame is written in one go, and only when Rust is
    /// not going to carry the instruction out after all.
    fn call_through_memory(&mut self, insn: &Instruction) {
        let (target, frame) = (layout::shortcut_scratch(), layout::shortcut_frame());
        let address = Self::address_of(insn);
        let pointer = self.operand(&address, 4, Use::Read);
        self.asm.load(4, host::R11, pointer.mem);
        self.asm.store(4, target, host::R11);
        self.count_all();
        self.asm.load(2, host::R11, Self::word(target, 2));
        let known = self.t.stubs.known_real;
        self.asm.call(known);
        self.site(SiteKind::Callout(CalloutKind::FarTransfer));
        self.asm.store_imm(2, frame, insn.next_ip32());
        self.asm.load(2, host::R11, layout::selector(seg::CS));
        self.asm.store(2, Self::word(frame, 2), host::R11);
        self.asm.load(4, host::R11, frame);
        let slot = self.slot(-4, 4, Use::Write);
        self.asm.store(4, slot.mem, host::R11);
        self.asm.load(2, host::R8, target);
        self.asm.load(2, host::R11, Self::word(target, 2));
        self.asm.mov_imm32(host::R10, -4i32 as u32);
    }

    fn far_target(&mut self, selector: u16, ip: u16, stack: i32) {
        self.asm.mov_imm32(host::R11, selector.into());
        self.asm.mov_imm32(host::R8, ip.into());
        self.asm.mov_imm32(host::R10, stack as u32);
    }

    /// Emits `insn` if a shortcut may carry it out.
    pub(super) fn emit_shortcut(&mut self, insn: &Instruction) -> Option<After> {
        if let Some(after) = self.emit_real_shortcut(insn) {
            return Some(after);
        }
        let cpl = self.t.mode.cpl();
        match insn.code() {
            Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 => {
                let index = insn.op0_register().number();
                if !self.loads_by_shortcut(index) {
                    return None;
                }
                self.load_selector(insn, 1);
                self.load_by_shortcut(index, 0);
                Some(After::Continue)
            }
            Code::Verw_rm16 | Code::Verw_r32m16 if cpl == 0 && self.has_shortcuts() => {
                self.load_selector(insn, 0);
                let stub = self.t.stubs.verw;
                self.asm.call(stub);
                self.site(SiteKind::Callout(CalloutKind::SelectorCheck));
                Some(After::Continue)
            }
            Code::Popfd if cpl == 0 && self.has_shortcuts() => {
                let stub = self.t.stubs.popfd;
                self.asm.call(stub);
                self.site(SiteKind::Callout(CalloutKind::Sensitive));
                Some(After::Continue)
            }
            Code::Sysenter if self.has_shortcuts() => {
                let stub = self.t.stubs.sysenter;
                Some(self.leave_by_shortcut(CalloutKind::SystemCall, stub))
            }
            Code::Sysexitd if cpl == 0 && self.has_shortcuts() => {
                let stub = self.t.stubs.sysexit;
                Some(self.leave_by_shortcut(CalloutKind::SystemCall, stub))
            }
            Code::Iretd if cpl == 0 && self.has_shortcuts() => {
                let stub = self.t.stubs.iretd;
                Some(self.leave_by_shortcut(CalloutKind::FarTransfer, stub))
            }
            Code::Int_imm8 if cpl == 3 && self.has_shortcuts() => {
                self.asm.mov_imm32(host::R8, u32::from(insn.immediate8()));
                self.asm.mov_imm32(host::R10, insn.next_ip32());
                let stub = self.t.stubs.int;
                Some(self.leave_by_shortcut(CalloutKind::SystemCall, stub))
            }
            _ => None,
        }
    }

    /// The selector in operand `operand`, a register or memory, to R11.
    fn load_selector(&mut self, insn: &Instruction, operand: u32) {
        if insn.op_kind(operand) == OpKind::Register {
            let source = Self::guest_of(insn.op_register(operand));
            self.asm.zero_extend16(host::R11, source);
        } else {
            let address = Self::address_of(insn);
            let source = self.operand(&address, 2, Use::Read);
            self.asm.load(2, host::R11, source.mem);
        }
    }

    /// POP of a segment register, if a shortcut may carry it out.
    pub(super) fn pop_by_shortcut(&mut self, register: Register, size: u32) -> bool {
        let index = register.number();
        if !self.loads_by_shortcut(index) {
            return false;
        }
        let slot = self.slot(0, 2, Use::Read);
        self.asm.load(2, host::R11, slot.mem);
        self.load_by_shortcut(index, size);
        true
    }

    /// Loads segment register `index` with the selector in R11, and pops `bytes`.
    fn load_by_shortcut(&mut self, index: usize, bytes: u32) {
        self.asm.mov_imm32(host::R8, index as u32);
        self.asm.mov_imm32(host::R10, bytes);
        let stub = self.t.stubs.load_segment;
        self.asm.call(stub);
        self.site(SiteKind::Callout(CalloutKind::SegmentLoad));
    }

    /// Ends the unit with a shortcut; R9 says where Rust would go on.
    fn leave_by_shortcut(&mut self, kind: CalloutKind, stub: u64) -> After {
        self.count_all();
        self.go_by_shortcut(kind, stub)
    }

    /// The same, where the instructions have been counted.
    fn go_by_shortcut(&mut self, kind: CalloutKind, stub: u64) -> After {
        self.asm.bytes(&[0x4C, 0x8D, 0x0D, 5, 0, 0, 0]); // lea r9, [rip + 5]
        self.asm.jmp(stub);
        self.site(SiteKind::Callout(kind));
        After::End
    }
}

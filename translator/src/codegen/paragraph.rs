//! Loads of segment registers in real mode and virtual-8086 mode: the selector is a paragraph number,
//! and nothing can fault. A segment of 64 KiB stays one, and so does one of 4 GiB ("unreal" mode), so
//! neither the mode nor any other part of the key of a unit changes.
//!
//! MOV and POP to SS hold off interrupts for one instruction (LSS does not), so they are in line if the one behind
//! is in the same unit and leaves translated code only by a fault, behind which the runtime looks for the
//! shadow (`Unit::shadow_at`). A segment with another limit, or with rights that the load would change, is left to Rust.

use super::asm::{Mem, host};
use super::builder::Builder;
use super::layout;
use super::memory::Use;
use super::mode::SegmentClass;
use crate::state::seg;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

impl Builder<'_> {
    /// True when a load of segment register `index` changes its selector and its base and nothing else.
    fn holds_paragraph(&self, index: usize) -> bool {
        let class = self.t.mode.class(index);
        !self.t.mode.protected()
            && index != seg::CS
            && (class == SegmentClass::Limit64K || class == SegmentClass::Based && index != seg::SS)
    }

    /// True when `insn`, MOV or POP of segment register `index`, is emitted in line.
    pub(super) fn loads_paragraph(&self, index: usize, insn: &Instruction) -> bool {
        let shadow = index == seg::SS;
        self.holds_paragraph(index)
            && (!shadow || !self.t.mode.is_single() && self.shadow_is_in_line(insn))
    }

    /// Loads segment register `index` with the selector in R11 (upper bits clear). Uses R8, R9; cannot
    /// fault.
    pub(super) fn load_paragraph(&mut self, index: usize) {
        let times = |scale| Mem {
            base: None,
            index: Some((host::R9, scale)),
            disp: 0,
            gs32: false,
        };
        self.asm.store(2, layout::selector(index), host::R11);
        self.asm.lea64(host::R9, Mem::sum(host::R11, host::R11, 0));
        self.asm.lea64(host::R9, times(8));
        self.asm.store(4, layout::segment_base(index), host::R9);
        self.asm
            .lea64(host::R9, Mem::sum(host::R9, host::WINDOW, 0));
        self.asm
            .store(8, layout::segment_host_base(index), host::R9);
        self.asm
            .store(8, layout::checked_host_base(index), host::R9);
        // `segment_check` stays as it is: the class does.
    }

    /// Emits MOV Sreg, LDS, LES, LFS, LGS and LSS where the load is in line.
    pub(super) fn emit_paragraph_load(&mut self, insn: &Instruction) -> bool {
        match insn.code() {
            Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 => {
                let index = insn.op0_register().number();
                if !self.loads_paragraph(index, insn) {
                    return false;
                }
                if insn.op1_kind() == OpKind::Register {
                    let source = Self::guest_of(insn.op1_register());
                    self.asm.zero_extend16(host::R11, source);
                } else {
                    let address = Self::address_of(insn);
                    let source = self.operand(&address, 2, Use::Read);
                    self.asm.load(2, host::R11, source.mem);
                }
                self.load_paragraph(index);
                true
            }
            _ => self.far_pointer(insn),
        }
    }

    fn far_pointer(&mut self, insn: &Instruction) -> bool {
        let index = match insn.mnemonic() {
            Mnemonic::Les => seg::ES,
            Mnemonic::Lds => seg::DS,
            Mnemonic::Lfs => seg::FS,
            Mnemonic::Lgs => seg::GS,
            Mnemonic::Lss => seg::SS,
            _ => return false,
        };
        if !self.holds_paragraph(index) || insn.op1_kind() != OpKind::Memory {
            return false;
        }
        let register = insn.op0_register();
        let size = register.size() as u32;
        let target = Self::guest_of(register);
        if target == host::STACK && self.t.mode.stack_in_window() {
            return false;
        }
        let address = Self::address_of(insn);
        let source = self.operand(&address, size + 2, Use::Read).mem;
        let selector = Mem {
            disp: source.disp.wrapping_add(size as i32),
            ..source
        };
        // Both parts are read before anything changes; R10 is free behind the limit check.
        self.asm.load(2, host::R11, selector);
        self.asm.load(size, host::R10, source);
        self.load_paragraph(index);
        if size == 2 {
            self.asm.mov16(target, host::R10);
        } else {
            self.asm.mov32(target, host::R10);
        }
        true
    }
}

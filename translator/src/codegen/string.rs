//! String instructions through flat segments: the host's own, on 64-bit pointers into the window.
//!
//! The window is aligned to 4 GiB, so the low halves of RSI and RDI are the guest's ESI and EDI at
//! every moment, inside a repetition that faults as well; the instruction is restarted from the
//! beginning, which adds the window again.

use super::asm::{Mem, Reg, host};
use super::builder::{After, Builder, Emitted};
use super::mode::SegmentClass;
use super::{AccessHint, CalloutKind, layout};
use crate::state::seg;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Builder<'_> {
    pub(super) fn emit_string(&mut self, insn: &Instruction) -> Emitted {
        let (opcode, size, source, destination) = match insn.mnemonic() {
            Mnemonic::Movsb => (0xA4, 1, true, true),
            Mnemonic::Movsw => (0xA5, 2, true, true),
            Mnemonic::Movsd => (0xA5, 4, true, true),
            Mnemonic::Cmpsb => (0xA6, 1, true, true),
            Mnemonic::Cmpsw => (0xA7, 2, true, true),
            Mnemonic::Cmpsd => (0xA7, 4, true, true),
            Mnemonic::Stosb => (0xAA, 1, false, true),
            Mnemonic::Stosw => (0xAB, 2, false, true),
            Mnemonic::Stosd => (0xAB, 4, false, true),
            Mnemonic::Lodsb => (0xAC, 1, true, false),
            Mnemonic::Lodsw => (0xAD, 2, true, false),
            Mnemonic::Lodsd => (0xAD, 4, true, false),
            Mnemonic::Scasb => (0xAE, 1, false, true),
            Mnemonic::Scasw => (0xAF, 2, false, true),
            Mnemonic::Scasd => (0xAF, 4, false, true),
            _ => return Ok(self.callout(CalloutKind::PortIo)),
        };
        let flat = |index| self.t.mode.class(index) == SegmentClass::Flat;
        let segments =
            (!source || flat(insn.memory_segment().number())) && (!destination || flat(seg::ES));
        let hint = matches!(self.hint, AccessHint::None | AccessHint::UserWindow);
        // A single step stops after each iteration.
        let stepped = self.t.mode.traps();
        if !segments || !hint || stepped || Self::short_pointers(insn) {
            return Ok(self.callout(CalloutKind::String));
        }
        if source {
            self.point_into_window(host::RSI);
        }
        if destination {
            self.point_into_window(host::RDI);
        }
        if insn.has_repne_prefix() {
            self.asm.byte(0xF2);
        } else if insn.has_rep_prefix() {
            self.asm.byte(0xF3);
        }
        if size == 2 {
            self.asm.byte(0x66);
        }
        self.asm.byte(opcode);
        if source {
            self.asm.mov32(host::RSI, host::RSI);
        }
        if destination {
            self.asm.mov32(host::RDI, host::RDI);
        }
        Ok(After::Continue)
    }

    /// 16-bit address size.
    fn short_pointers(insn: &Instruction) -> bool {
        (0..insn.op_count()).any(|i| {
            matches!(
                insn.op_kind(i),
                OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI
            )
        })
    }

    fn point_into_window(&mut self, register: Reg) {
        if self.hint == AccessHint::UserWindow {
            self.asm.mov32(host::R9, register);
            self.asm.bswap(false, host::R9);
            self.asm.zero_extend8(host::R9, host::R9);
            self.asm.load64(host::R9, layout::region_window(host::R9));
            self.asm.lea64(register, Mem::sum(host::R9, register, 0));
        } else {
            self.asm
                .lea64(register, Mem::sum(host::WINDOW, register, 0));
        }
    }
}

//! String instructions. Through flat segments: the host's own, on 64-bit pointers into the window. One
//! iteration through any other segment, or with 16-bit pointers: a load, a store or a comparison, and
//! pointers that move by the direction in the context. Repetitions through such segments go to Rust.
//!
//! The window is aligned to 4 GiB, so the low halves of RSI and RDI are the guest's ESI and EDI at
//! every moment, inside a repetition that faults as well; the instruction is restarted from the
//! beginning, which adds the window again.

use super::asm::{Mem, Reg, host};
use super::builder::{After, Builder, Emitted};
use super::memory::{Address, Use};
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
        let short = Self::short_pointers(insn);
        let repeated = insn.has_rep_prefix() || insn.has_repne_prefix();
        if !repeated
            && matches!(self.hint, AccessHint::None | AccessHint::CheckedStore)
            && (short || !segments || !hint)
        {
            self.single_string(
                insn,
                size,
                source.then_some(short),
                destination.then_some(short),
            );
            return Ok(After::Continue);
        }
        if !segments || !hint || stepped || short {
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

    /// One iteration as ordinary accesses; `source` and `destination` tell whether the pointer, if it
    /// is used, has 16 bits. Pointers and AL move last.
    fn single_string(
        &mut self,
        insn: &Instruction,
        size: u32,
        source: Option<bool>,
        destination: Option<bool>,
    ) {
        let at = |segment, base, short| Address {
            segment,
            base: Some(base),
            index: None,
            disp: 0,
            short,
        };
        if let Some(short) = source {
            let from = at(insn.memory_segment().number(), host::RSI, short);
            let from = self.operand(&from, size, Use::Read);
            self.asm.load(size, host::R11, from.mem);
        }
        let value = if source.is_some() {
            host::R11
        } else {
            host::RAX
        };
        if let Some(short) = destination {
            let to = at(seg::ES, host::RDI, short);
            let compares = matches!(
                insn.mnemonic(),
                Mnemonic::Cmpsb
                    | Mnemonic::Cmpsw
                    | Mnemonic::Cmpsd
                    | Mnemonic::Scasb
                    | Mnemonic::Scasw
                    | Mnemonic::Scasd
            );
            let to = if compares {
                let to = self.operand(&to, size, Use::Read);
                self.asm.compare(size, value, to.mem);
                to
            } else {
                let to = self.operand(&to, size, Use::Write);
                self.asm.store(size, to.mem, value);
                to
            };
            self.done(&to);
        } else {
            match size {
                1 => self.asm.mov8(host::RAX, host::R11),
                2 => self.asm.mov16(host::RAX, host::R11),
                _ => self.asm.mov32(host::RAX, host::R11),
            }
        }
        self.asm.load32(host::R10, layout::direction());
        for (pointer, short) in [(host::RSI, source), (host::RDI, destination)] {
            let Some(short) = short else { continue };
            let next = Mem {
                base: Some(pointer),
                index: Some((host::R10, size as u8)),
                disp: 0,
                gs32: false,
            };
            self.asm.lea32(host::R8, next);
            if short {
                self.asm.mov16(pointer, host::R8);
            } else {
                self.asm.mov32(pointer, host::R8);
            }
        }
    }

    /// CLD and STD; the direction is kept in the context as well.
    pub(super) fn set_direction(&mut self, down: bool) -> After {
        self.asm.byte(if down { 0xFD } else { 0xFC });
        let step = if down { u32::MAX } else { 1 };
        self.asm.store_imm(4, layout::direction(), step);
        After::Continue
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

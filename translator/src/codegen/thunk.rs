//! Calls of thunks that load their return address: `mov reg, [esp]; ret`.
//!
//! Position-independent code for i386 begins nearly every function with one (`__x86.get_pc_thunk.bx`), to find its
//! data. The call, the load and the return become the push and a constant. That the thunk is still what it was is
//! asked each time, without flags: the entry of the jump table for its address has to be the unit that was seen
//! there. It no longer is when the page is mapped to something else, when a kick has replaced the table, and when the
//! thunk has been written to (`runtime/invalidate.rs`); then the call goes its ordinary way.

use super::AccessHint;
use super::asm::{Mem, Reg, host};
use super::builder::{After, Builder};
use super::leave::{jump_by_entry, load_entry};
use super::{InstructionMap, layout};
use crate::state::reg;
use iced_x86::{Code, Instruction, Register};

/// A unit that is such a thunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thunk {
    /// The general register that it loads, not ESP.
    register: usize,
    /// Its entry in the jump table.
    entry: u32,
}

impl Thunk {
    /// The thunk that consists of `instructions`, all of a unit of a flat mode with the jump table entry `entry`.
    pub(crate) fn of(instructions: &[InstructionMap], entry: u32) -> Option<Thunk> {
        let [load, ret] = instructions else {
            return None;
        };
        let (load, ret) = (&load.guest, &ret.guest);
        let register = load.op0_register();
        let from_top = load.memory_base() == Register::ESP
            && load.memory_index() == Register::None
            && load.memory_displacement32() == 0
            && load.memory_segment() == Register::SS;
        (load.code() == Code::Mov_r32_rm32
            && from_top
            && register != Register::ESP
            && ret.code() == Code::Retnd
            && ret.ip32() == load.next_ip32())
        .then(|| Thunk {
            register: register.number(),
            entry,
        })
    }
}

impl Builder<'_> {
    /// The thunk that the near call `insn` leads to, if the call can be emitted without leaving the unit.
    fn called_thunk(&self, insn: &Instruction, target: u32) -> Option<Thunk> {
        let possible = self.t.loops
            && self.t.mode.is_flat()
            && !self.after_sti
            && self.hint == AccessHint::None
            && insn.code() == Code::Call_rel32_32;
        possible.then(|| self.source.thunk(target)).flatten()
    }

    /// Emits the near call `insn` if it leads to a thunk.
    pub(super) fn call_thunk(&mut self, insn: &Instruction, target: u32) -> Option<After> {
        let thunk = self.called_thunk(insn, target)?;
        let value = insn.next_ip32();
        // The stack pointer moves only if the thunk is run: otherwise it is back where it was.
        let slot = self.slot(-4, 4, super::memory::Use::Write);
        self.asm.store_imm(4, slot.mem, value);
        self.asm.mov_imm32(host::R8, target);
        load_entry(self.asm, layout::jump_table());
        self.asm.mov32(host::R10, host::RCX);
        let difference = Mem::base(host::R9, thunk.entry.wrapping_neg().cast_signed());
        self.asm.lea32(host::RCX, difference);
        self.asm.bytes(&[0xE3, 0]); // jrcxz
        let agrees = self.asm.offset();
        self.asm.mov32(host::RCX, host::R10);
        self.move_stack(-4);
        jump_by_entry(self.asm);
        let here = self.asm.offset();
        self.asm.patch_rel8(&[(agrees, here)]);
        if thunk.register != reg::ECX {
            self.asm.mov32(host::RCX, host::R10);
        }
        self.asm.mov_imm32(Reg(thunk.register as u8), value);
        Some(After::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn thunk(code: &[u8]) -> Option<Thunk> {
        let decoder = Decoder::with_ip(32, code, 0x1000, DecoderOptions::NONE);
        let map = |guest| InstructionMap { host: 0, guest };
        Thunk::of(&decoder.into_iter().map(map).collect::<Vec<_>>(), 64)
    }

    #[test]
    fn thunks_are_told_from_what_is_like_them() {
        for register in [0u8, 1, 2, 3, 5, 6, 7] {
            let found = thunk(&[0x8B, 0x04 | register << 3, 0x24, 0xC3]);
            let register = usize::from(register);
            assert_eq!(
                found,
                Some(Thunk {
                    register,
                    entry: 64
                })
            );
        }
        for other in [
            &[0x8B, 0x24, 0x24, 0xC3][..],         // mov esp, [esp]
            &[0x8B, 0x5C, 0x24, 0x04, 0xC3],       // mov ebx, [esp + 4]
            &[0x66, 0x8B, 0x1C, 0x24, 0xC3],       // mov bx, [esp]
            &[0x8A, 0x1C, 0x24, 0xC3],             // mov bl, [esp]
            &[0x65, 0x8B, 0x1C, 0x24, 0xC3],       // mov ebx, gs:[esp]
            &[0x89, 0x1C, 0x24, 0xC3],             // mov [esp], ebx
            &[0x8B, 0x1C, 0x44, 0xC3],             // mov ebx, [esp + 2 * eax]
            &[0x8B, 0x1B, 0xC3],                   // mov ebx, [ebx]
            &[0x03, 0x1C, 0x24, 0xC3],             // add ebx, [esp]
            &[0x8B, 0x1C, 0x24, 0xC2, 0x04, 0x00], // ret 4
            &[0x8B, 0x1C, 0x24, 0x66, 0xC3],       // retw
            &[0x8B, 0x1C, 0x24, 0xCB],             // retf
            &[0x8B, 0x1C, 0x24, 0x90, 0xC3],       // nop in between
            &[0x8B, 0x1C, 0x24],
            &[0xC3],
        ] {
            assert_eq!(thunk(other), None, "{other:02x?}");
        }
    }
}

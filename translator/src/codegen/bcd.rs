//! Decimal and other instructions that 64-bit mode has dropped.

use super::CalloutKind;
use super::asm::{Mem, host};
use super::builder::{After, Builder, CannotEmit};
use iced_x86::{Instruction, Mnemonic};

impl Builder<'_> {
    /// Emits `insn` if it is a decimal adjustment or SALC.
    pub(super) fn emit_bcd(&mut self, insn: &Instruction) -> Result<Option<After>, CannotEmit> {
        match insn.mnemonic() {
            Mnemonic::Aam => self.aam(insn.immediate8()),
            Mnemonic::Aad => self.aad(insn.immediate8()),
            Mnemonic::Salc => self.salc(),
            Mnemonic::Daa | Mnemonic::Das | Mnemonic::Aaa | Mnemonic::Aas => {
                self.callout(CalloutKind::Decimal);
            }
            _ => return Ok(None),
        }
        Ok(Some(After::Continue))
    }

    /// AH, AL = AL / base, AL mod base.
    fn aam(&mut self, base: u8) {
        self.asm.mov_imm32(host::R8, u32::from(base));
        if base != 0 {
            self.asm.mov32(host::R11, host::RAX);
            self.asm.zero_extend8(host::RAX, host::RAX);
        }
        // With base 0 this is the #DE that the guest gets, all registers untouched.
        self.asm.bytes(&[0x41, 0xF6, 0xF0]); // div r8b
        self.asm.swap_low_high(host::RAX);
        self.asm.mov16(host::R11, host::RAX);
        self.asm.mov32(host::RAX, host::R11);
        self.asm.bytes(&[0x84, 0xC0]); // test al, al
    }

    /// AL = AL + AH * base, AH = 0.
    fn aad(&mut self, base: u8) {
        self.asm.swap_low_high(host::RAX);
        self.asm.zero_extend8(host::R8, host::RAX);
        self.asm.swap_low_high(host::RAX);
        self.asm.bytes(&[0x45, 0x69, 0xC0]); // imul r8d, r8d, imm32
        self.asm.dword(u32::from(base));
        self.asm.bytes(&[0x44, 0x02, 0xC0]); // add r8b, al
        self.asm.zero_extend8(host::R8, host::R8);
        self.asm.mov32(host::R11, host::RAX);
        self.asm.mov16(host::R11, host::R8);
        self.asm.mov32(host::RAX, host::R11);
    }

    /// AL = CF ? FFh : 0, flags unchanged.
    fn salc(&mut self) {
        self.asm.bytes(&[0x41, 0x0F, 0x92, 0xC0]); // setc r8b
        self.asm.zero_extend8(host::R8, host::R8);
        self.asm.lea32(host::R8, Mem::base(host::R8, -1));
        self.asm.not64(host::R8);
        self.asm.mov8(host::RAX, host::R8);
    }
}

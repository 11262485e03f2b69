//! Instructions that keep their operation: the same instruction on the host, with the memory
//! operand rebased and ESP renamed.

use super::asm::{Mem, Reg, host, iced32};
use super::builder::{After, Builder, CannotEmit, Emitted};
use super::memory::{Operand, Use};
use super::{AccessHint, layout};
use iced_x86::{
    Code, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind,
    Register,
};

/// The same operation in a form that 64-bit mode has.
fn long_mode_code(code: Code) -> Code {
    match code {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Add_rm8_imm8_82 => Code::Add_rm8_imm8,
        Code::Or_rm8_imm8_82 => Code::Or_rm8_imm8,
        Code::Adc_rm8_imm8_82 => Code::Adc_rm8_imm8,
        Code::Sbb_rm8_imm8_82 => Code::Sbb_rm8_imm8,
        Code::And_rm8_imm8_82 => Code::And_rm8_imm8,
        Code::Sub_rm8_imm8_82 => Code::Sub_rm8_imm8,
        Code::Xor_rm8_imm8_82 => Code::Xor_rm8_imm8,
        Code::Cmp_rm8_imm8_82 => Code::Cmp_rm8_imm8,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        other => other,
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}

/// RAX, RCX, RDX or RBX for AH, CH, DH or BH.
fn of_high_byte(register: Register) -> Reg {
    Reg((register as u32 - Register::AH as u32) as u8)
}

/// How `insn` uses its explicit memory operand.
pub(super) fn memory_use(insn: &Instruction) -> Use {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(insn, InstructionInfoOptions::NO_REGISTER_USAGE);
    let access = (0..insn.op_count())
        .find(|&i| insn.op_kind(i) == OpKind::Memory)
        .map_or(OpAccess::Read, |i| info.op_access(i));
    match access {
        OpAccess::Write => Use::Write,
        OpAccess::ReadWrite | OpAccess::ReadCondWrite | OpAccess::CondWrite => Use::ReadWrite,
        _ => Use::Read,
    }
}

/// True when an operand of `insn` is ESP and is written: the host instruction clears the upper half
/// of R12 then.
fn writes_stack_pointer(insn: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(
        insn,
        InstructionInfoOptions::NO_REGISTER_USAGE | InstructionInfoOptions::NO_MEMORY_USAGE,
    );
    (0..insn.op_count()).any(|i| {
        insn.op_kind(i) == OpKind::Register
            && insn.op_register(i) == Register::ESP
            && !matches!(
                info.op_access(i),
                OpAccess::Read | OpAccess::CondRead | OpAccess::None
            )
    })
}

impl Builder<'_> {
    /// Emits `insn` as itself.
    pub(super) fn emit_identity(&mut self, insn: &Instruction) -> Emitted {
        match insn.mnemonic() {
            Mnemonic::Lea => return self.lea(insn),
            Mnemonic::Xlatb => return Ok(self.xlat(insn)),
            // Multi-byte NOPs and prefetches, which are reserved NOPs to the decoder, have a memory
            // operand that is never accessed.
            Mnemonic::Nop | Mnemonic::Reservednop => return Ok(After::Continue),
            Mnemonic::Fnstenv
            | Mnemonic::Fstenv
            | Mnemonic::Fnsave
            | Mnemonic::Fsave
            | Mnemonic::Fxsave => {
                return self.save_fpu(insn);
            }
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu => return self.masked_move(insn),
            // QEMU's TCG before 8.0, as a host, computes the flags after it from a stale state, TF and
            // DF among them, unless it begins a block of its own.
            Mnemonic::Cmpxchg8b => self.asm.bytes(&[0xEB, 0]), // jmp to the next instruction
            _ => {}
        }
        let mut out = *insn;
        out.set_code(long_mode_code(insn.code()));
        out.set_segment_prefix(Register::None);
        let mut high = None;
        let mut stack_operand = false;
        for operand in 0..insn.op_count() {
            if insn.op_kind(operand) == OpKind::Register {
                let register = insn.op_register(operand);
                if Self::is_stack_pointer(register) {
                    stack_operand = true;
                    let renamed = if register == Register::ESP {
                        Register::R12D
                    } else {
                        Register::R12W
                    };
                    out.set_op_register(operand, renamed);
                } else if is_high_byte(register) {
                    high = Some((operand, register));
                }
            }
        }
        let memory = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
        if memory {
            self.identity_memory(insn, out, high)?;
        } else if let (Some((operand, register)), true) = (high, stack_operand) {
            // MOVZX ESP, AH and its like: R12 needs REX, AH forbids it.
            let low = of_high_byte(register);
            self.asm.swap_low_high(low);
            self.asm.mov8(host::R11, low);
            self.asm.swap_low_high(low);
            out.set_op_register(operand, Register::R11L);
            self.asm.insn(&out)?;
        } else {
            self.asm.insn(&out)?;
        }
        if stack_operand && writes_stack_pointer(insn) {
            self.rebase_stack();
        }
        Ok(After::Continue)
    }

    fn identity_memory(
        &mut self,
        insn: &Instruction,
        mut out: Instruction,
        high: Option<(u32, Register)>,
    ) -> Result<(), CannotEmit> {
        let usage = memory_use(insn);
        let operand = self.instruction_operand(insn, &mut out, usage)?;
        let Some((number, register)) = high.filter(|_| operand.mem.needs_rex()) else {
            operand.mem.apply(&mut out);
            self.asm.insn(&out)?;
            self.done(&operand);
            return Ok(());
        };
        let low = of_high_byte(register);
        if usage == Use::Read {
            // The other operand is AH: bring the memory byte, then work on AL in AH's place.
            self.asm.load(1, host::R11, operand.mem);
            self.asm.swap_low_high(low);
            let low_name = Register::AL + u32::from(low.0);
            for i in 0..out.op_count() {
                if out.op_kind(i) == OpKind::Memory {
                    out.set_op_kind(i, OpKind::Register);
                    out.set_op_register(i, Register::R11L);
                }
            }
            out.set_op_register(number, low_name);
            self.asm.insn(&out)?;
            self.asm.swap_low_high(low);
            return Ok(());
        }
        // AH is stored or combined into memory, or exchanged with it: R11 takes its place.
        self.asm.swap_low_high(low);
        self.asm.mov8(host::R11, low);
        self.asm.swap_low_high(low);
        out.set_op_register(number, Register::R11L);
        operand.mem.apply(&mut out);
        self.asm.insn(&out)?;
        self.done(&operand);
        if matches!(insn.mnemonic(), Mnemonic::Xchg | Mnemonic::Xadd) {
            self.asm.swap_low_high(low);
            self.asm.mov8(low, host::R11);
            self.asm.swap_low_high(low);
        }
        Ok(())
    }

    /// The host operand for the explicit memory operand of `insn`; changes `out` where the bit
    /// offset of BT and its like reaches beyond the operand.
    fn instruction_operand(
        &mut self,
        insn: &Instruction,
        out: &mut Instruction,
        usage: Use,
    ) -> Result<Operand, CannotEmit> {
        let address = Self::address_of(insn);
        let size = insn.memory_size().size() as u32;
        let bit_test = matches!(
            insn.mnemonic(),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
        ) && insn.op1_kind() == OpKind::Register;
        let flat = self.t.mode.class(address.segment) == super::mode::SegmentClass::Flat
            && self.hint != AccessHint::Callout
            && !self.writes_code(address.segment, usage);
        if bit_test && !(flat && self.hint == AccessHint::None && !address.short) {
            // Rust moves the address by the upper part of the bit offset and leaves the lower part
            // in R11. A 16-bit address wraps around on the way, which the host's would not.
            let register = Self::guest_of(insn.op1_register());
            if size == 2 {
                let rex = 0x4C | (register.0 >> 3);
                self.asm.bytes(&[rex, 0x0F, 0xBF, 0xD8 | register.0 & 7]); // movsx r11, r16
            } else {
                self.asm.mov32(host::R11, register);
            }
            self.emit_offset(host::R8, &address);
            let operand = self.prepare(address.segment, size, usage, true);
            out.set_op_register(
                1,
                if size == 2 {
                    Register::R11W
                } else {
                    iced32(host::R11)
                },
            );
            return Ok(operand);
        }
        let loads_mxcsr = matches!(insn.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Fxrstor);
        if insn.mnemonic() == Mnemonic::Fxsave || loads_mxcsr && self.source.checks_mxcsr() {
            // The host's FXSAVE writes XMM8 to XMM15 as well: never straight into guest memory.
            self.emit_offset(host::R8, &address);
            return Ok(self.prepare(address.segment, size, usage, false));
        }
        let high = (0..insn.op_count())
            .any(|i| insn.op_kind(i) == OpKind::Register && is_high_byte(insn.op_register(i)));
        let plain = flat && self.hint == AccessHint::None && !address.short;
        if high && plain && address.base != Some(host::STACK) && usage != Use::Write {
            // GS with 32-bit addressing needs no REX.
            let mem = Mem {
                base: address.base,
                index: address.index,
                disp: address.disp as i32,
                gs32: true,
            };
            return Ok(Operand::new(mem, false));
        }
        Ok(self.operand(&address, size, usage))
    }

    /// LEA: the offset, no access.
    fn lea(&mut self, insn: &Instruction) -> Emitted {
        let address = Self::address_of(insn);
        let register = insn.op0_register();
        let target = Self::guest_of(register);
        match (register.size(), address.short) {
            (4, false) => self.emit_offset(target, &address),
            (4, true) => {
                self.emit_offset(host::R8, &address);
                self.asm.mov32(target, host::R8);
            }
            _ => {
                self.emit_offset(host::R8, &address);
                self.asm.mov16(target, host::R8);
            }
        }
        if target == host::STACK && register.size() == 4 {
            self.rebase_stack();
        }
        Ok(After::Continue)
    }

    /// XLAT: AL from `[EBX + AL]`.
    fn xlat(&mut self, insn: &Instruction) -> After {
        let short = insn.memory_base() == Register::BX;
        let mut address = Self::address_of(insn);
        self.asm.zero_extend8(host::R11, host::RAX);
        address.base = Some(host::RBX);
        address.index = Some((host::R11, 1));
        address.disp = 0;
        address.short = short;
        let operand = self.operand(&address, 1, Use::Read);
        self.asm.load(1, host::R11, operand.mem);
        self.asm.mov8(host::RAX, host::R11);
        After::Continue
    }

    /// MASKMOVQ, MASKMOVDQU: the implicit destination is DS:EDI.
    fn masked_move(&mut self, insn: &Instruction) -> Emitted {
        let short = insn.memory_base() == Register::DI || insn.op0_kind() == OpKind::MemorySegDI;
        let address = super::memory::Address {
            segment: insn.memory_segment().number(),
            base: Some(host::RDI),
            index: None,
            disp: 0,
            short,
        };
        let size = if insn.mnemonic() == Mnemonic::Maskmovq {
            8
        } else {
            16
        };
        if insn.mnemonic() == Mnemonic::Maskmovq {
            // WAIT: a pending x87 exception is raised while RDI is still the guest's.
            self.asm.byte(0x9B);
        }
        self.emit_offset(host::R8, &address);
        let operand = self.prepare(address.segment, size, Use::ReadWrite, false);
        // The host's form takes RDI; the guest's is kept in R11.
        self.asm.mov64(host::R11, host::RDI);
        self.asm.mov64(host::RDI, host::R8);
        let mut out = *insn;
        out.set_segment_prefix(Register::None);
        out.set_op0_kind(OpKind::MemorySegRDI);
        self.asm.insn(&out)?;
        self.asm.mov64(host::RDI, host::R11);
        self.done(&operand);
        Ok(After::Continue)
    }

    /// A selector into a register or memory: MOV r/m, Sreg.
    pub(super) fn store_selector(&mut self, insn: &Instruction) -> After {
        let index = insn.op1_register().number();
        self.asm.load(2, host::R11, layout::selector(index));
        if insn.op0_kind() == OpKind::Register {
            let target = Self::guest_of(insn.op0_register());
            if insn.op0_register().size() == 2 {
                self.asm.mov16(target, host::R11);
            } else {
                self.asm.mov32(target, host::R11);
                if target == host::STACK {
                    self.rebase_stack();
                }
            }
        } else {
            let address = Self::address_of(insn);
            let operand = self.operand(&address, 2, Use::Write);
            self.asm.store(2, operand.mem, host::R11);
            self.done(&operand);
        }
        After::Continue
    }
}

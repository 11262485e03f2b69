//! What the operands of iced's tables can be, and how one is chosen.

use super::rng::Rng;
use iced_x86::{OpCodeOperandKind as Kind, OpKind, Register};

/// A class of registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bank {
    /// AL to BH.
    Byte,
    /// AX to DI.
    Word,
    /// EAX to EDI.
    Dword,
    /// MM0 to MM7.
    Mmx,
    /// XMM0 to XMM7.
    Xmm,
    /// ST(0) to ST(7).
    Stack,
    /// ES to GS.
    Segment,
    /// CR0, CR2, CR3, CR4.
    Control,
    /// DR0 to DR3, DR6, DR7.
    Debug,
}

impl Bank {
    /// One register of the class.
    pub(super) fn pick(self, rng: &mut Rng) -> Register {
        let first = match self {
            Bank::Byte => Register::AL,
            Bank::Word => Register::AX,
            Bank::Dword => Register::EAX,
            Bank::Mmx => Register::MM0,
            Bank::Xmm => Register::XMM0,
            Bank::Stack => Register::ST0,
            Bank::Segment => return rng.pick(&SEGMENTS),
            Bank::Control => {
                return rng.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4]);
            }
            Bank::Debug => {
                return rng.pick(&[
                    Register::DR0,
                    Register::DR1,
                    Register::DR2,
                    Register::DR3,
                    Register::DR6,
                    Register::DR7,
                ]);
            }
        };
        first + rng.below(8)
    }
}

/// The segment registers in encoding order.
pub(super) const SEGMENTS: [Register; 6] = [
    Register::ES,
    Register::CS,
    Register::SS,
    Register::DS,
    Register::FS,
    Register::GS,
];

/// What an operand can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operand {
    /// A register.
    Register(Bank),
    /// A register or memory.
    RegisterOrMemory(Bank),
    /// Memory.
    Memory,
    /// Memory at an address in the instruction (MOV AL, moffs8).
    MemoryOffset,
    /// One particular register.
    Fixed(Register),
    /// An immediate operand.
    Immediate(OpKind),
    /// The constant 1 of `D0`/`D1` shifts.
    One,
    /// A near branch with a 16-bit (else 32-bit) EIP.
    Near {
        /// The result is cut to 16 bits.
        word: bool,
        /// The distance is one byte.
        short: bool,
    },
    /// A far pointer in the instruction, with a 16-bit (else 32-bit) offset.
    Far {
        /// The offset has 16 bits.
        word: bool,
    },
    /// DS:[(E)SI], segment overridable.
    Source,
    /// ES:[(E)DI].
    Destination,
    /// DS:[(E)DI] of MASKMOVQ, segment overridable.
    MaskDestination,
    /// DS:[(E)BX+AL] of XLAT, segment overridable.
    Table,
    /// Not in 16- and 32-bit code of any processor that is claimed.
    Unknown,
}

impl Operand {
    /// What an operand of the tables can be.
    pub(super) fn of(kind: Kind) -> Operand {
        use Operand::{Fixed, Immediate, Register as Reg, RegisterOrMemory};
        match kind {
            Kind::mem => Operand::Memory,
            Kind::mem_offs => Operand::MemoryOffset,
            Kind::r8_or_mem => RegisterOrMemory(Bank::Byte),
            Kind::r16_or_mem => RegisterOrMemory(Bank::Word),
            Kind::r32_or_mem => RegisterOrMemory(Bank::Dword),
            Kind::mm_or_mem => RegisterOrMemory(Bank::Mmx),
            Kind::xmm_or_mem => RegisterOrMemory(Bank::Xmm),
            Kind::r8_reg | Kind::r8_opcode => Reg(Bank::Byte),
            Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode => Reg(Bank::Word),
            Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode => Reg(Bank::Dword),
            Kind::seg_reg => Reg(Bank::Segment),
            Kind::mm_reg | Kind::mm_rm => Reg(Bank::Mmx),
            Kind::xmm_reg | Kind::xmm_rm => Reg(Bank::Xmm),
            Kind::cr_reg => Reg(Bank::Control),
            Kind::dr_reg => Reg(Bank::Debug),
            Kind::sti_opcode => Reg(Bank::Stack),
            Kind::es => Fixed(Register::ES),
            Kind::cs => Fixed(Register::CS),
            Kind::ss => Fixed(Register::SS),
            Kind::ds => Fixed(Register::DS),
            Kind::fs => Fixed(Register::FS),
            Kind::gs => Fixed(Register::GS),
            Kind::al => Fixed(Register::AL),
            Kind::cl => Fixed(Register::CL),
            Kind::ax => Fixed(Register::AX),
            Kind::dx => Fixed(Register::DX),
            Kind::eax => Fixed(Register::EAX),
            Kind::st0 => Fixed(Register::ST0),
            Kind::imm8 => Immediate(OpKind::Immediate8),
            Kind::imm8sex16 => Immediate(OpKind::Immediate8to16),
            Kind::imm8sex32 => Immediate(OpKind::Immediate8to32),
            Kind::imm16 => Immediate(OpKind::Immediate16),
            Kind::imm32 => Immediate(OpKind::Immediate32),
            Kind::imm8_const_1 => Operand::One,
            Kind::seg_rBX_al => Operand::Table,
            Kind::seg_rSI => Operand::Source,
            Kind::es_rDI => Operand::Destination,
            Kind::seg_rDI => Operand::MaskDestination,
            Kind::br16_1 => Operand::Near {
                word: true,
                short: true,
            },
            Kind::br32_1 => Operand::Near {
                word: false,
                short: true,
            },
            Kind::br16_2 => Operand::Near {
                word: true,
                short: false,
            },
            Kind::br32_4 => Operand::Near {
                word: false,
                short: false,
            },
            Kind::farbr2_2 => Operand::Far { word: true },
            Kind::farbr4_2 => Operand::Far { word: false },
            _ => Operand::Unknown,
        }
    }

    /// True for memory that the instruction addresses by itself.
    pub(super) fn is_implied_memory(self) -> bool {
        matches!(
            self,
            Operand::Source | Operand::Destination | Operand::MaskDestination | Operand::Table
        )
    }

    /// True where a ModR/M byte can name memory.
    pub(super) fn may_be_memory(self) -> bool {
        matches!(self, Operand::Memory | Operand::RegisterOrMemory(_))
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::CORE_DUO;
    use super::*;
    use iced_x86::Code;

    #[test]
    fn every_operand_of_the_claimed_processor_is_known() {
        for code in Code::values().filter(|code| CORE_DUO.has(*code)) {
            for kind in code.op_code().op_kinds() {
                assert_ne!(Operand::of(*kind), Operand::Unknown, "{code:?} {kind:?}");
            }
        }
    }
}

//! Where a later processor rightly differs from an 80286 in real mode: rules, each with its reason.
//!
//! A rule looks at the instruction, the state before it and what the 80286 did; never at what the
//! translator makes of it. "286" is the iAPX 286 Programmer's Reference Manual, "SDM" the Intel
//! Software Developer's Manual.

use super::{Case, Register};
use iced_x86::{Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind};

/// A case and its instruction, taken apart.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The case.
    pub case: &'a Case,
    /// The instruction, decoded as 16-bit code.
    pub instruction: Instruction,
    /// A LOCK prefix.
    pub lock: bool,
    /// A REP or REPNE prefix.
    pub repeated: bool,
    /// The opcode.
    pub opcode: u8,
    /// The byte behind the opcode: ModR/M where there is one.
    pub modrm: u8,
    /// Bytes without the HLT.
    pub length: usize,
}

/// A shift or rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// The count, masked to 5 bits.
    pub count: u32,
    /// Size of the operand.
    pub bits: u32,
    /// ROL, ROR, RCL or RCR.
    pub rotates: bool,
}

const LOCK: u8 = 0xF0;
const LEAVE: u8 = 0xC9;
const GENERAL_PROTECTION: u8 = 13;
const STACK_FAULT: u32 = 12;
/// Size of an entry of the interrupt vector table.
const VECTOR_BYTES: u32 = 4;

impl<'a> Subject<'a> {
    /// Takes the instruction of `case` apart.
    #[must_use]
    pub fn new(case: &'a Case) -> Subject<'a> {
        let mut decoder = Decoder::new(16, &case.bytes, DecoderOptions::NONE);
        let mut subject = Subject {
            case,
            instruction: decoder.decode(),
            lock: false,
            repeated: false,
            opcode: 0x90,
            modrm: 0,
            length: case.bytes.len().saturating_sub(1),
        };
        let mut bytes = case.bytes.iter().copied();
        for byte in bytes.by_ref() {
            match byte {
                LOCK => subject.lock = true,
                0x26 | 0x2E | 0x36 | 0x3E => {}
                0xF2 | 0xF3 => subject.repeated = true,
                opcode => {
                    subject.opcode = opcode;
                    break;
                }
            }
        }
        subject.modrm = bytes.next().unwrap_or_default();
        subject
    }

    /// The reg field of the ModR/M byte.
    #[must_use]
    pub fn reg(&self) -> u8 {
        self.modrm >> 3 & 7
    }

    /// What shift or rotation it is.
    #[must_use]
    pub fn shift(&self) -> Option<Shift> {
        let count = match self.opcode {
            0xC0 | 0xC1 => self.instruction.immediate8(),
            0xD0 | 0xD1 => 1,
            0xD2 | 0xD3 => self.initial(Register::Cx) as u8,
            _ => return None,
        };
        Some(Shift {
            count: u32::from(count) & 31,
            bits: if self.opcode & 1 == 0 { 8 } else { 16 },
            rotates: self.reg() < 4,
        })
    }

    fn initial(&self, register: Register) -> u16 {
        self.case.initial.get(register).unwrap_or_default()
    }

    /// SDM vol. 2A, LOCK: the instructions that it is allowed with, their destination in memory.
    fn may_be_locked(&self) -> bool {
        use Mnemonic as M;
        self.instruction.op0_kind() == OpKind::Memory
            && matches!(
                self.instruction.mnemonic(),
                M::Add
                    | M::Adc
                    | M::And
                    | M::Dec
                    | M::Inc
                    | M::Neg
                    | M::Not
                    | M::Or
                    | M::Sbb
                    | M::Sub
                    | M::Xor
                    | M::Xchg
            )
    }

    /// The offset in its segment of the explicit memory operand.
    fn offset(&self) -> Option<u16> {
        let operand = (0..self.instruction.op_count())
            .find(|&i| self.instruction.op_kind(i) == OpKind::Memory)?;
        let value = |register, _, _| {
            use iced_x86::Register as R;
            Some(match register {
                R::BX => u64::from(self.initial(Register::Bx)),
                R::BP => u64::from(self.initial(Register::Bp)),
                R::SI => u64::from(self.initial(Register::Si)),
                R::DI => u64::from(self.initial(Register::Di)),
                _ => 0, // the bases of segments
            })
        };
        let offset = self.instruction.virtual_address(operand, 0, value)?;
        Some(offset as u16)
    }

    /// What lies across the end of its segment is in SS: the explicit operand, or else the stack slot.
    fn crosses_in_stack_segment(&self) -> bool {
        let in_stack = self.instruction.memory_segment() == iced_x86::Register::SS;
        let size = self.instruction.memory_size().size();
        match self.offset() {
            Some(offset) if usize::from(offset) + size > 0x1_0000 => in_stack,
            // The source of a string instruction comes before the destination, which is in ES.
            _ if self.is_string() => in_stack && self.initial(Register::Si) == 0xFFFF,
            _ => self.instruction.is_stack_instruction() || self.opcode == LEAVE,
        }
    }

    /// The instruction does the same in virtual-8086 mode with IOPL 3 (SDM vol. 3A, 20.2): it raises no
    /// exception, PUSHF does not show IOPL, and no I/O permission map is asked.
    #[must_use]
    pub fn fits_virtual_8086(&self) -> bool {
        const PUSHF: u8 = 0x9C;
        let port = matches!(self.opcode, 0x6C..=0x6F | 0xE4..=0xE7 | 0xEC..=0xEF);
        self.case.exception.is_none() && !port && self.opcode != PUSHF
    }

    fn is_string(&self) -> bool {
        self.instruction.is_string_instruction()
    }

    fn raised(&self, vector: u8) -> bool {
        self.case
            .exception
            .is_some_and(|exception| exception.vector == vector)
    }
}

/// A reason not to compare.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// A short name.
    pub name: &'static str,
    /// What the manuals say.
    pub reason: &'static str,
    /// True when it holds for a case.
    pub applies: fn(&Subject<'_>) -> bool,
}

/// The rules; the first that holds counts.
pub const RULES: &[Rule] = &[
    Rule {
        name: "LOCK",
        reason: "286, LOCK: any instruction may have it; SDM vol. 2A, LOCK: #UD unless it is one of a list \
                 of instructions that read and write memory",
        applies: |s| s.lock && !s.may_be_locked(),
    },
    Rule {
        name: "instruction length",
        reason: "286: more than 10 bytes raise exception 13; SDM vol. 3A, 6.15: the limit is 15 bytes",
        applies: |s| s.length > 10,
    },
    Rule {
        name: "FS and GS",
        reason: "286: MOV knows segment registers 0 to 3; SDM vol. 2B, MOV: 4 and 5 are FS and GS",
        applies: |s| matches!(s.opcode, 0x8C | 0x8E) && matches!(s.reg(), 4 | 5),
    },
    Rule {
        name: "repeated string fault",
        reason: "286: a string instruction that raises exception 13 has advanced its registers; SDM vol. 3A, 6.6: \
                 they are those of the last iteration that was completed, which the recording does not tell",
        applies: |s| s.raised(GENERAL_PROTECTION) && s.is_string() && s.repeated,
    },
    Rule {
        name: "far pointer limit",
        reason: "286: a far pointer is two words, and only a word at FFFFh raises exception 13, so that one at FFFEh \
                 wraps around; SDM vol. 2, real-address mode exceptions: #GP if any part of the operand is outside \
                 the limit",
        applies: |s| {
            s.instruction.memory_size() == MemorySize::SegPtr16 && s.offset() == Some(0xFFFE)
        },
    },
];

/// A difference that can be told exactly: what the 286 did is changed into what the later manuals say,
/// and the case is compared with that.
#[derive(Clone, Copy, Debug)]
pub struct Adaptation {
    /// A short name.
    pub name: &'static str,
    /// What the manuals say.
    pub reason: &'static str,
    /// True when it holds for a case.
    pub applies: fn(&Subject<'_>) -> bool,
    /// Changes the case.
    adapt: fn(&mut Case),
}

/// The adaptations; all that hold are made.
pub const ADAPTATIONS: &[Adaptation] = &[
    Adaptation {
        name: "stack limit",
        reason: "286, real mode: a word at offset FFFFh raises exception 13 whatever the segment; SDM vol. 2, \
                 real-address mode exceptions: #SS (12) where it is in SS. The vector of 13 is given to 12",
        applies: |s| s.raised(GENERAL_PROTECTION) && s.crosses_in_stack_segment(),
        adapt: |case| {
            for state in [&mut case.initial, &mut case.expected] {
                for byte in 0..4 {
                    let value = state.byte(VECTOR_BYTES * u32::from(GENERAL_PROTECTION) + byte);
                    state.set_byte(VECTOR_BYTES * STACK_FAULT + byte, value);
                    state.set_byte(VECTOR_BYTES * u32::from(GENERAL_PROTECTION) + byte, 0);
                }
            }
        },
    },
    Adaptation {
        name: "string fault",
        reason: "286: a string instruction that raises exception 13 has advanced SI and DI; SDM vol. 3A, 6.6: a \
                 fault leaves registers as they were before the instruction",
        applies: |s| s.raised(GENERAL_PROTECTION) && s.is_string() && !s.repeated,
        adapt: |case| {
            for register in [Register::Si, Register::Di] {
                if let Some(value) = case.initial.get(register) {
                    case.expected.set(register, value);
                }
            }
        },
    },
];

/// The adaptations that hold for a case, and what it becomes by them.
#[must_use]
pub fn adapted(subject: &Subject<'_>) -> (Vec<&'static str>, Case) {
    let mut case = subject.case.clone();
    let mut names = Vec::new();
    for adaptation in ADAPTATIONS {
        if (adaptation.applies)(subject) {
            (adaptation.adapt)(&mut case);
            names.push(adaptation.name);
        }
    }
    (names, case)
}

/// The rule that excludes a case.
#[must_use]
pub fn exclusion(subject: &Subject<'_>) -> Option<&'static Rule> {
    RULES.iter().find(|rule| (rule.applies)(subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        bytes: &[u8],
        registers: &[(Register, u16)],
        vector: Option<u8>,
    ) -> Option<&'static str> {
        with(bytes, registers, vector, |s| {
            exclusion(s).map(|rule| rule.name)
        })
    }

    fn with<T>(
        bytes: &[u8],
        registers: &[(Register, u16)],
        vector: Option<u8>,
        ask: impl FnOnce(&Subject<'_>) -> T,
    ) -> T {
        ask(&Subject::new(&Case::of(bytes, registers, vector)))
    }

    #[test]
    fn lock_is_excluded_where_it_is_undefined_now() {
        assert_eq!(rule(&[0xF0, 0xAD, 0xF4], &[], None), Some("LOCK"));
        assert_eq!(rule(&[0xF0, 0x01, 0xC0, 0xF4], &[], None), Some("LOCK"));
        assert_eq!(rule(&[0xF0, 0x03, 0x07, 0xF4], &[], None), Some("LOCK"));
        assert_eq!(rule(&[0xF0, 0x01, 0x07, 0xF4], &[], None), None);
    }

    #[test]
    fn limits_of_the_stack_segment() {
        let names =
            |bytes: &[u8], vector| with(bytes, &[(Register::Si, 0xFFFF)], vector, |s| adapted(s).0);
        assert_eq!(names(&[0x36, 0x8B, 0x04, 0xF4], Some(13)), ["stack limit"]);
        assert!(names(&[0x26, 0x8B, 0x04, 0xF4], Some(13)).is_empty());
        assert_eq!(names(&[0x61, 0xF4], Some(13)), ["stack limit"]);
        assert_eq!(names(&[0xFF, 0x37, 0xF4], Some(13)), ["stack limit"]);
        assert!(names(&[0xFF, 0x34, 0xF4], Some(13)).is_empty());
        assert!(names(&[0x61, 0xF4], None).is_empty());
        assert_eq!(names(&[0xA5, 0xF4], Some(13)), ["string fault"]);
        assert_eq!(
            names(&[0x36, 0xA5, 0xF4], Some(13)),
            ["stack limit", "string fault"]
        );
        assert_eq!(
            rule(&[0xF3, 0xA5, 0xF4], &[], Some(13)),
            Some("repeated string fault")
        );
    }

    #[test]
    fn far_pointers_that_wrap_around() {
        let at = |bx| rule(&[0xFF, 0x1F, 0xF4], &[(Register::Bx, bx)], None);
        assert_eq!(at(0xFFFE), Some("far pointer limit"));
        assert_eq!(at(0xFFFC), None);
    }
}

//! A case: an instruction, the state that it starts in, and what it finds in memory.

use std::collections::BTreeMap;

use super::driver::{CR0, Preparation, UD2};
use super::layout::{self as at, Raw, selector};
use super::op::Op;
use super::world::{Memory, descriptor_address};
use super::{Field, State};

/// The mode that a case starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode.
    Real,
    /// Virtual-8086 mode.
    Virtual8086 {
        /// EFLAGS.IOPL.
        iopl: u8,
    },
    /// Protected mode.
    Protected {
        /// The privilege level.
        cpl: u8,
        /// EFLAGS.IOPL.
        iopl: u8,
        /// CS.D and SS.B.
        wide: bool,
    },
}

impl Mode {
    /// Operand and address size without prefixes, in bytes.
    #[must_use]
    pub const fn size(self) -> u32 {
        match self {
            Mode::Protected { wide: true, .. } => 4,
            _ => 2,
        }
    }

    /// Protected mode and not virtual-8086 mode.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        matches!(self, Mode::Protected { .. })
    }

    /// The privilege level.
    #[must_use]
    pub const fn cpl(self) -> u8 {
        match self {
            Mode::Real => 0,
            Mode::Virtual8086 { .. } => 3,
            Mode::Protected { cpl, .. } => cpl,
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mode::Real => f.write_str("real"),
            Mode::Virtual8086 { iopl } => write!(f, "v86 iopl{iopl}"),
            Mode::Protected { cpl, iopl, wide } => {
                let bits = if *wide { 32 } else { 16 };
                write!(f, "pm{bits} cpl{cpl} iopl{iopl}")
            }
        }
    }
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The row of the table that it belongs to.
    pub instruction: &'static str,
    /// What is special about it.
    pub name: String,
    /// Where it starts.
    pub mode: Mode,
    /// The instruction's bytes; UD2 follows.
    pub code: Vec<u8>,
    /// What they do.
    pub op: Op,
    /// The state that it starts with.
    pub state: State,
    /// What the driver does before.
    pub preparation: Preparation,
    /// Words of the world that differ from the pristine one.
    pub words: BTreeMap<u32, u32>,
    /// Fields that the manual leaves undefined, or that depend on the machine.
    pub undefined: Vec<Field>,
    /// Undefined bits of EFLAGS.
    pub undefined_flags: u32,
    /// Undefined bits of words of memory, by address.
    pub undefined_memory: BTreeMap<u32, u32>,
    /// Why QEMU would not get to the next case. It is left out there.
    pub fatal_to_qemu: Option<&'static str>,
}

/// EFLAGS, bit 1.
const FIXED: u32 = 2;

impl Case {
    /// A case in `mode` with the usual segments and distinct register values.
    #[must_use]
    pub fn new(
        instruction: &'static str,
        name: impl Into<String>,
        mode: Mode,
        code: impl Into<Vec<u8>>,
        op: Op,
    ) -> Case {
        let mut state = State([0; Field::COUNT]);
        for (field, value) in [
            (Field::Eax, 0x1111_A0A0),
            (Field::Ecx, 0x2222_A1A1),
            (Field::Edx, 0x3333_A2A2),
            (Field::Ebx, 0x4444_A3A3),
            (Field::Ebp, 0x0000_5050),
            (Field::Esi, at::DATA + 0x40),
            (Field::Edi, at::DATA + 0x80),
            (Field::Eip, at::CODE),
            (Field::Eflags, FIXED),
            (Field::Esp, at::STACK),
            (Field::Cr0, CR0),
            (Field::Tr, selector::TSS.into()),
            (Field::Ldtr, selector::LDT.into()),
            (Field::GdtBase, at::GDT),
            (Field::GdtLimit, at::GDT_LIMIT.into()),
            (Field::IdtBase, at::IDT),
            (Field::IdtLimit, at::IDT_LIMIT.into()),
            (Field::Dr7, 0x400),
            (Field::Dr6, 0xFFFF_0FF0),
        ] {
            state[field] = value;
        }
        match mode {
            Mode::Real => {
                state[Field::Cr0] &= !1;
                state[Field::IdtBase] = 0;
                state[Field::IdtLimit] = 0x3FF;
            }
            Mode::Virtual8086 { iopl } => {
                state[Field::Eflags] |= 1 << 17 | u32::from(iopl) << 12;
            }
            Mode::Protected { cpl, iopl, wide } => {
                let of = |family: u16| u32::from(family) + u32::from(cpl) * 9;
                let (code, data) = if wide {
                    (selector::CODE_32, selector::DATA_32)
                } else {
                    (selector::CODE_16, selector::DATA_16)
                };
                state[Field::Cs] = of(code);
                for field in [Field::Ss, Field::Ds, Field::Es] {
                    state[field] = of(data);
                }
                state[Field::Eflags] |= u32::from(iopl) << 12;
            }
        }
        let mut case = Case {
            instruction,
            name: name.into(),
            mode,
            code: code.into(),
            op,
            state,
            preparation: Preparation::None,
            words: BTreeMap::new(),
            undefined: Vec::new(),
            undefined_flags: 0,
            undefined_memory: BTreeMap::new(),
            fatal_to_qemu: None,
        };
        let mut bytes = case.code.clone();
        bytes.extend_from_slice(&UD2);
        case.put(at::CODE, &bytes);
        case
    }

    /// Sets a field of the state.
    #[must_use]
    pub fn with(mut self, field: Field, value: u32) -> Case {
        self.state[field] = value;
        self
    }

    /// Sets bits of a field.
    #[must_use]
    pub fn with_bits(mut self, field: Field, bits: u32) -> Case {
        self.state[field] |= bits;
        self
    }

    /// Writes the low `size` bytes of `value` to the world.
    #[must_use]
    pub fn memory(mut self, address: u32, size: u32, value: u32) -> Case {
        self.put(address, &value.to_le_bytes()[..size as usize]);
        self
    }

    /// Writes a descriptor.
    #[must_use]
    pub fn descriptor(mut self, selector: u16, raw: Raw) -> Case {
        self.put(descriptor_address(selector), &raw.0.to_le_bytes());
        self
    }

    /// Writes a gate of the IDT.
    #[must_use]
    pub fn gate(mut self, vector: u8, raw: Raw) -> Case {
        self.put(at::IDT + u32::from(vector) * 8, &raw.0.to_le_bytes());
        self
    }

    /// Leaves a field out of the comparison.
    #[must_use]
    pub fn undefined(mut self, field: Field) -> Case {
        self.undefined.push(field);
        self
    }

    /// Leaves bits of a word of memory out of the comparison.
    #[must_use]
    pub fn undefined_bits(mut self, address: u32, bits: u32) -> Case {
        *self.undefined_memory.entry(address).or_default() |= bits;
        self
    }

    /// What the driver does before.
    #[must_use]
    pub fn prepared(mut self, preparation: Preparation) -> Case {
        self.preparation = preparation;
        self
    }

    /// Writes bytes to the world.
    #[must_use]
    pub fn bytes(mut self, address: u32, bytes: &[u8]) -> Case {
        self.put(address, bytes);
        self
    }

    /// Leaves it out for QEMU if `fatal`.
    #[must_use]
    pub fn fatal_to_qemu(mut self, fatal: bool, reason: &'static str) -> Case {
        self.fatal_to_qemu = fatal.then_some(reason);
        self
    }

    fn put(&mut self, address: u32, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let address = address + index as u32;
            let shift = address % 4 * 8;
            let word = self
                .words
                .entry(address & !3)
                .or_insert_with(|| super::world().read(address & !3, 4));
            *word = *word & !(0xFF << shift) | u32::from(*byte) << shift;
        }
    }

    /// The world that it starts in.
    #[must_use]
    pub fn world(&self) -> Memory {
        let mut world = super::world().clone();
        for (address, value) in &self.words {
            world.write(*address, 4, *value);
        }
        world
    }

    /// Appends its record.
    pub fn record(&self, to: &mut Vec<u8>) {
        let size = super::driver::record::STATE + Field::COUNT * 4 + self.words.len() * 8;
        let head = [
            size as u32,
            u32::from(self.mode == Mode::Real),
            self.preparation as u32,
            self.words.len() as u32,
        ];
        let words = self.words.iter().flat_map(|(a, v)| [*a, *v]);
        for value in head.into_iter().chain(self.state.0).chain(words) {
            to.extend_from_slice(&value.to_le_bytes());
        }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}] {}", self.instruction, self.mode, self.name)?;
        write!(f, " {:02x?}", self.code)
    }
}

//! What the architecture leaves open, so that a comparison must not look at it.

use crate::generate::Case;
use crate::native::{MachineState, Outcome, Trap, stage};
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register, RflagsBits};

/// Why the outcome of one case says nothing (unlike an [`Exclusion`](crate::generate::Exclusion), which
/// is about a whole form).
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Unpredictable {
    /// The fetch behind a jump found the host's no-execute bit on a data page; a guest without NX
    /// executes the page's random bytes.
    HostNoExecute,
    /// SHLD and SHRD by more than the operand's size: result and flags are undefined (SDM vol. 2B).
    DoubleShift,
    /// An access that goes beyond offset FFFFFFFFh of a segment: whether it faults is up to the model
    /// (SDM vol. 3A, section 5.3).
    LimitWrap,
    /// An operand of several parts (far pointer, 80-bit number, FPU image) that goes beyond offset
    /// FFFFh with 16-bit addresses: this host wraps the address of each part.
    PartsWrap,
    /// INS or OUTS repeated zero times without the right to the port: whether it faults is up to the
    /// model.
    NoPort,
    /// POP of a segment register with a 32-bit operand whose upper half is not accessible: whether it is
    /// read is up to the model.
    SelectorPop,
}

impl Unpredictable {
    /// The reason in words.
    pub fn reason(self) -> &'static str {
        match self {
            Unpredictable::HostNoExecute => "jump to a data page, which the host makes no-execute",
            Unpredictable::DoubleShift => "double shift by more than the operand's size",
            Unpredictable::LimitWrap => "access across offset FFFFFFFFh",
            Unpredictable::PartsWrap => "operand of several parts across offset FFFFh",
            Unpredictable::NoPort => "INS or OUTS repeated zero times",
            Unpredictable::SelectorPop => "upper half of a popped selector not accessible",
        }
    }
}

/// Why a case cannot be compared, if it cannot. `native` is what the processor did.
pub fn unpredictable(case: &Case, native: &Outcome) -> Option<Unpredictable> {
    const FETCHED_PRESENT: u32 = 0x11;
    let instruction = &case.instruction;
    if native.trap.vector == Trap::PAGE_FAULT
        && native.trap.error & FETCHED_PRESENT == FETCHED_PRESENT
    {
        return Some(Unpredictable::HostNoExecute);
    }
    if matches!(instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd)
        && shift_count(case) > u32::from(operand_bits(instruction))
    {
        return Some(Unpredictable::DoubleShift);
    }
    let size = instruction.memory_size().size() as u32;
    let wraps = |offset: u32| size > 1 && offset.checked_add(size - 1).is_none();
    if case.operands.iter().any(|operand| wraps(operand.offset)) {
        return Some(Unpredictable::LimitWrap);
    }
    let word = case
        .form
        .address
        .is_some_and(|address| address.bits() == 16);
    let leaves = |offset: u32| offset + size > 0x1_0000;
    if word && has_parts(instruction) && case.operands.iter().any(|o| leaves(o.offset)) {
        return Some(Unpredictable::PartsWrap);
    }
    let port = matches!(instruction.code().mnemonic(), m if PORT_STRINGS.contains(&m));
    let count = if word { 0xFFFF } else { 0xFFFF_FFFF } & case.start.gpr[1];
    if port && count == 0 && (instruction.has_rep_prefix() || instruction.has_repne_prefix()) {
        return Some(Unpredictable::NoPort);
    }
    let pops_selector = instruction.mnemonic() == Mnemonic::Pop
        && instruction.op0_register().is_segment_register()
        && instruction.stack_pointer_increment() == 4;
    if pops_selector && native.trap.vector != Trap::BREAKPOINT && case.start.gpr[4] & 0xFFF > 0xFFC
    {
        return Some(Unpredictable::SelectorPop);
    }
    None
}

const PORT_STRINGS: [Mnemonic; 6] = [
    Mnemonic::Insb,
    Mnemonic::Insw,
    Mnemonic::Insd,
    Mnemonic::Outsb,
    Mnemonic::Outsw,
    Mnemonic::Outsd,
];

/// True for a memory operand that the processor accesses in several parts.
fn has_parts(instruction: &Instruction) -> bool {
    let size = instruction.memory_size();
    matches!(
        size,
        MemorySize::SegPtr16
            | MemorySize::SegPtr32
            | MemorySize::Float80
            | MemorySize::Bcd
            | MemorySize::Bound16_WordWord
            | MemorySize::Bound32_DwordDword
            | MemorySize::FpuEnv14
    ) || size.size() > 16
}

/// The count of a shift or rotate as the processor masks it.
fn shift_count(case: &Case) -> u32 {
    let instruction = &case.instruction;
    let last = instruction.op_count().saturating_sub(1);
    let count = match instruction.op_kind(last) {
        OpKind::Immediate8 => u32::from(instruction.immediate8()),
        _ => case.start.gpr[1] & 0xFF,
    };
    count & 31
}

/// Size of the first operand in bits.
fn operand_bits(instruction: &Instruction) -> u16 {
    let bytes = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    };
    (bytes * 8) as u16
}

/// The status flags that are undefined after a case that raised no exception, as bits of EFLAGS.
pub(super) fn undefined_flags(case: &Case) -> u32 {
    const OF: u32 = 0x800;
    const CF: u32 = 1;
    let instruction = &case.instruction;
    let table = flag_bits(instruction.rflags_undefined());
    match instruction.mnemonic() {
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => match shift_count(case) {
            0 => 0,
            1 => table & !OF,
            _ => table | OF,
        },
        Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Shld
        | Mnemonic::Shrd => match shift_count(case) {
            0 => 0,
            1 => table & !OF,
            count if count >= u32::from(operand_bits(instruction)) => table | OF | CF,
            _ => table | OF,
        },
        _ => table,
    }
}

/// iced's names of flags as bits of EFLAGS.
fn flag_bits(rflags: u32) -> u32 {
    const MAP: [(u32, u32); 7] = [
        (RflagsBits::CF, 0x001),
        (RflagsBits::PF, 0x004),
        (RflagsBits::AF, 0x010),
        (RflagsBits::ZF, 0x040),
        (RflagsBits::SF, 0x080),
        (RflagsBits::DF, 0x400),
        (RflagsBits::OF, 0x800),
    ];
    let set = MAP.iter().filter(|(iced, _)| rflags & iced != 0);
    set.map(|(_, bit)| bit).sum()
}

/// A general register whose result is undefined, and which bits of it: the whole destination of BSF
/// and BSR of 0, bits 16 to 19 of that of LAR.
pub(super) fn undefined_register(case: &Case, native: &Outcome) -> Option<(usize, u32)> {
    const ZF: u32 = 0x40;
    let register = case.instruction.op0_register();
    let bits = match case.instruction.mnemonic() {
        Mnemonic::Bsf | Mnemonic::Bsr if native.state.eflags & ZF != 0 => u32::MAX,
        Mnemonic::Lar => 0xF_0000,
        _ => 0,
    };
    (register != Register::None).then(|| (register.full_register32().number(), bits))
}

/// Offsets (first, and one past the last) within the memory operand of what a Pentium III and the host may fill differently: the
/// x87 instruction and data pointers (which an AMD processor keeps only for unmasked exceptions, and
/// others only in part), MXCSR_MASK, and what FXSAVE reserves.
pub(super) fn undefined_memory(instruction: &Instruction) -> &'static [(u32, u32)] {
    use iced_x86::Code;
    match instruction.code() {
        Code::Fxsave_m512byte => &[(6, 24), (28, 32)],
        Code::Fnstenv_m14byte | Code::Fnsave_m94byte => &[(6, 14)],
        // The upper halves of the control, status and tag words are reserved as well.
        Code::Fnstenv_m28byte | Code::Fnsave_m108byte => &[(2, 4), (6, 8), (10, 28)],
        _ => &[],
    }
}

/// The upper half of a selector pushed with a 32-bit operand: written as 0, or not at all (SDM
/// vol. 2B, PUSH). The linear addresses of its two bytes follow from the stack pointer behind it.
pub(super) fn undefined_stack(case: &Case, native: &Outcome) -> Option<u32> {
    let pushes = case.instruction.mnemonic() == Mnemonic::Push
        && case.instruction.op0_register().is_segment_register()
        && case.instruction.stack_pointer_increment() == -4;
    let top = stack_top(&native.state).filter(|_| pushes)?;
    Some(top.wrapping_add(2))
}

/// Linear address of the top of the stack.
fn stack_top(state: &MachineState) -> Option<u32> {
    let descriptor = stage::descriptor(state.selectors[2])?;
    let esp = state.gpr[4];
    let offset = if descriptor.big { esp } else { esp & 0xFFFF };
    Some(descriptor.base.wrapping_add(offset))
}

/// True for POPA, which may have loaded some registers when it faults.
pub(super) fn pops_in_steps(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Popa | Mnemonic::Popad)
}

/// True for an instruction that makes several accesses to memory, some of which may have been carried out
/// when another one faults: the architecture promises restartability, not which bytes were written.
pub(super) fn stores_in_steps(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Pusha
            | Mnemonic::Pushad
            | Mnemonic::Enter
            | Mnemonic::Call
            | Mnemonic::Fxsave
            | Mnemonic::Fnsave
            | Mnemonic::Fnstenv
    )
}

/// True for an instruction that may have changed the FPU's state when it faults: loads of several parts,
/// and MASKMOVQ, which this host switches to MMX first.
pub(super) fn loads_in_steps(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Frstor | Mnemonic::Fldenv | Mnemonic::Fxrstor | Mnemonic::Maskmovq
    )
}

/// True where two faults are possible and the architecture does not say which comes first: the two
/// operands of CMPS, the words of a frame, the parts of a large operand, misalignment and the limit of the segment, and a
/// pending x87 exception and memory (SDM vol. 3A, table 6-2: the order within a class is the model's).
pub(super) fn may_fault_either_way(case: &Case) -> bool {
    const SUMMARY: u8 = 0x80;
    let instruction = &case.instruction;
    matches!(
        instruction.mnemonic(),
        Mnemonic::Cmpsb
            | Mnemonic::Cmpsw
            | Mnemonic::Cmpsd
            | Mnemonic::Enter
            | Mnemonic::Popa
            | Mnemonic::Popad
            | Mnemonic::Retf
            | Mnemonic::Iret
            | Mnemonic::Iretd
    ) || instruction.memory_size().size() > 8
        || has_parts(instruction)
        || case.start.fx[2] & SUMMARY != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Form, PENTIUM_III, forms, generate};
    use iced_x86::Code;

    #[test]
    fn a_shift_by_nothing_leaves_every_flag_defined() {
        let forms = forms(&PENTIUM_III);
        let form: &Form = forms
            .iter()
            .find(|form| form.code == Code::Shl_rm32_CL)
            .expect("SHL is there");
        let mut case = generate(1, form, 0).expect("a case");
        case.start.gpr[1] = 0x20;
        assert_eq!(undefined_flags(&case), 0);
        case.start.gpr[1] = 1;
        assert_eq!(undefined_flags(&case), 0x10);
        case.start.gpr[1] = 2;
        assert_eq!(undefined_flags(&case), 0x810);
    }
}

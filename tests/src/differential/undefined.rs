//! What the architecture leaves open, so that a comparison must not look at it.

use crate::generate::Case;
use crate::native::{Outcome, Trap};
use iced_x86::{Instruction, Mnemonic, OpKind, Register, RflagsBits};

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
}

impl Unpredictable {
    /// The reason in words.
    pub fn reason(self) -> &'static str {
        match self {
            Unpredictable::HostNoExecute => "jump to a data page, which the host makes no-execute",
            Unpredictable::DoubleShift => "double shift by more than the operand's size",
            Unpredictable::LimitWrap => "access across offset FFFFFFFFh",
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
    None
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

/// The general register that holds an undefined result, as an index: BSF and BSR of 0.
pub(super) fn undefined_register(case: &Case, native: &Outcome) -> Option<usize> {
    const ZF: u32 = 0x40;
    let scans = matches!(case.instruction.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr);
    let register = case.instruction.op0_register();
    (scans && native.state.eflags & ZF != 0 && register != Register::None)
        .then(|| register.full_register32().number())
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

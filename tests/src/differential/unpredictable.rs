//! Cases whose outcome says nothing.

use super::undefined::{has_parts, operand_bits, shift_count, stack_top};
use crate::generate::Case;
use crate::native::{Outcome, Trap};
use iced_x86::Mnemonic;

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
    /// A program that overwrote its own loop counter and did not end.
    Endless,
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
            Unpredictable::Endless => "program that does not end",
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
    let page_end = |linear: u32| linear & 0xFFF > 0xFFC;
    let faults = native.trap.vector != Trap::BREAKPOINT;
    if pops_selector && faults && stack_top(&case.start).is_some_and(page_end) {
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

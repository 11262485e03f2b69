//! What the architecture leaves open, so that a comparison must not look at it.

use crate::generate::{Case, Placed};
use crate::native::{MachineState, Outcome, Trap, stage};
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register, RflagsBits};

/// What a comparison must not look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Bits of general registers, in encoding order.
    pub registers: [u32; 8],
    /// Bits of EFLAGS.
    pub flags: u32,
    /// x87, MMX and SSE state.
    pub fpu: bool,
    /// All of memory.
    pub memory: bool,
    /// Parts of memory: first linear address and length.
    pub ranges: Vec<(u32, u32)>,
    /// Which of several possible faults is raised.
    pub fault: bool,
}

impl Open {
    /// What is open after `case`, of which the processor made `native`.
    pub fn of(case: &Case, native: &Outcome) -> Open {
        let instruction = &case.instruction;
        let mut open = Open {
            fault: may_fault_either_way(case),
            ..Open::default()
        };
        if native.trap.vector != Trap::BREAKPOINT {
            open.fpu = loads_in_steps(instruction);
            open.memory = stores_in_steps(instruction);
            if pops_in_steps(instruction) {
                const ESP: usize = 4;
                open.registers = [u32::MAX; 8];
                open.registers[ESP] = 0;
            }
            return open;
        }
        open.flags = undefined_flags(case);
        if let Some((register, bits)) = undefined_register(case, native) {
            open.registers[register] = bits;
        }
        for (start, end) in undefined_memory(instruction) {
            let linear = |operand: &Placed| operand.linear.wrapping_add(*start);
            let ranges = case.operands.iter().map(linear);
            open.ranges
                .extend(ranges.map(|linear| (linear, end - start)));
        }
        open.ranges
            .extend(undefined_stack(case, native).map(|linear| (linear, 2)));
        open
    }
}

/// True for a memory operand that the processor accesses in several parts.
pub(super) fn has_parts(instruction: &Instruction) -> bool {
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
pub(super) fn shift_count(case: &Case) -> u32 {
    let instruction = &case.instruction;
    let last = instruction.op_count().saturating_sub(1);
    let count = match instruction.op_kind(last) {
        OpKind::Immediate8 => u32::from(instruction.immediate8()),
        _ => case.start.gpr[1] & 0xFF,
    };
    count & 31
}

/// Size of the first operand in bits.
pub(super) fn operand_bits(instruction: &Instruction) -> u16 {
    let bytes = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    };
    (bytes * 8) as u16
}

/// The status flags that are undefined after a case that raised no exception, as bits of EFLAGS.
fn undefined_flags(case: &Case) -> u32 {
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
fn undefined_register(case: &Case, native: &Outcome) -> Option<(usize, u32)> {
    const ZF: u32 = 0x40;
    let register = case.instruction.op0_register();
    let bits = match case.instruction.mnemonic() {
        Mnemonic::Bsf | Mnemonic::Bsr if native.state.eflags & ZF != 0 => u32::MAX,
        Mnemonic::Lar => 0xF_0000,
        _ => 0,
    };
    (register != Register::None).then(|| (register.full_register32().number(), bits))
}

/// Offsets (first, and one past the last) within the memory operand of what a Core Duo and the host
/// may fill differently: the x87 instruction and data pointers (which an AMD processor keeps only for
/// unmasked exceptions, and others only in part), MXCSR_MASK, and what FXSAVE reserves.
fn undefined_memory(instruction: &Instruction) -> &'static [(u32, u32)] {
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
fn undefined_stack(case: &Case, native: &Outcome) -> Option<u32> {
    let pushes = case.instruction.mnemonic() == Mnemonic::Push
        && case.instruction.op0_register().is_segment_register()
        && case.instruction.stack_pointer_increment() == -4;
    let top = stack_top(&native.state).filter(|_| pushes)?;
    Some(top.wrapping_add(2))
}

/// Linear address of the top of the stack.
pub(super) fn stack_top(state: &MachineState) -> Option<u32> {
    let descriptor = stage::descriptor(state.selectors[2])?;
    let esp = state.gpr[4];
    let offset = if descriptor.big { esp } else { esp & 0xFFFF };
    Some(descriptor.base.wrapping_add(offset))
}

/// True for POPA, which may have loaded some registers when it faults.
fn pops_in_steps(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Popa | Mnemonic::Popad)
}

/// True for an instruction that makes several accesses to memory, some of which may have been carried out
/// when another one faults: the architecture promises restartability, not which bytes were written.
fn stores_in_steps(instruction: &Instruction) -> bool {
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
fn loads_in_steps(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Frstor | Mnemonic::Fldenv | Mnemonic::Fxrstor | Mnemonic::Maskmovq
    )
}

/// True where two faults are possible and the architecture does not say which comes first: the two
/// operands of CMPS, the target and the stack of CALL, the words of a frame, the parts of a large operand, misalignment and the limit of the segment, and a
/// pending x87 exception and memory (SDM vol. 3A, table 6-2: the order within a class is the model's).
fn may_fault_either_way(case: &Case) -> bool {
    const SUMMARY: u8 = 0x80;
    let instruction = &case.instruction;
    matches!(
        instruction.mnemonic(),
        Mnemonic::Cmpsb
            | Mnemonic::Cmpsw
            | Mnemonic::Cmpsd
            | Mnemonic::Call
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
    use crate::generate::{CORE_DUO, Form, forms, generate};
    use iced_x86::Code;

    #[test]
    fn a_shift_by_nothing_leaves_every_flag_defined() {
        let forms = forms(&CORE_DUO);
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

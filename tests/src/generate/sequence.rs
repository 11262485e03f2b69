//! Sequences: several instructions in one unit, so that what a translator keeps between them (registers,
//! flags, the FPU's presence, the stack pointer) is compared as well.

use super::case::{Case, Patch, generate};
use super::exclusions::exclusion;
use super::form::{Address, Form, Prefix};
use super::program::{Program, is_reserved};
use super::rng::Rng;
use crate::native::MachineState;
use crate::native::stage::{self, CODE_BYTES, Environment};
use iced_x86::{FlowControl, MemorySize, Mnemonic, Register};

/// Several cases, one behind another.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Its number under the seed.
    pub number: u32,
    /// The instructions; their registers and memory are not used but for those below.
    pub parts: Vec<Case>,
    /// All their bytes.
    pub bytes: Vec<u8>,
    /// Registers before.
    pub start: MachineState,
    /// Linear address of the first instruction.
    pub linear: u32,
    /// Contents of memory that matter.
    pub patches: Vec<Patch>,
}

impl Sequence {
    /// The line that reproduces the sequence.
    pub fn reproduce(&self, seed: u64) -> String {
        format!(
            "RINGSHIFT_SEED={seed:#x} RINGSHIFT_SEQUENCE={}",
            self.number
        )
    }

    /// The names of the instructions.
    pub fn name(&self) -> String {
        let names = self
            .parts
            .iter()
            .map(|part| format!("{:?}", part.form.code));
        names.collect::<Vec<_>>().join("+")
    }
}

/// Forms that can stand in a sequence: they go on with the next instruction, leave nothing undefined that
/// the two sides may choose differently, and their memory operand does not depend on registers that
/// others change (but for the stack).
pub fn sequence_forms(forms: &[Form], environment: Environment) -> Vec<Form> {
    let fits = |form: &&Form| {
        let info = form.code.op_code();
        let stays = matches!(
            form.address,
            None | Some(
                Address::Absolute
                    | Address::Absolute16
                    | Address::Stack
                    | Address::Frame
                    | Address::Frame16
            )
        );
        let goes_on = form.code.flow_control() == FlowControl::Next;
        let privileged = info.is_privileged() || info.may_require_cpl0() || info.is_input_output();
        form.environment == environment
            && exclusion(form).is_none()
            && stays
            && goes_on
            && !privileged
            && form.prefix == Prefix::None
            && !is_loose(form)
    };
    forms.iter().filter(fits).copied().collect()
}

/// True for instructions with undefined results, with many accesses, or that load segments or flags.
fn is_loose(form: &Form) -> bool {
    let info = form.code.op_code();
    let size = info.memory_size();
    let large = matches!(
        size,
        MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::FpuEnv14
    ) || size.size() > 16;
    // Across the end of a 64 KiB segment the parts of an 80-bit number go their own ways.
    let large = large
        || form.environment == Environment::Segmented16
            && matches!(size, MemorySize::Float80 | MemorySize::Bcd);
    large
        || form.depends_on_mode()
        || matches!(
            form.code.mnemonic(),
            Mnemonic::Aaa
                | Mnemonic::Aad
                | Mnemonic::Aam
                | Mnemonic::Aas
                | Mnemonic::Daa
                | Mnemonic::Das
                | Mnemonic::Enter
                | Mnemonic::Leave
                | Mnemonic::Popa
                | Mnemonic::Popad
                | Mnemonic::Pusha
                | Mnemonic::Pushad
                | Mnemonic::Bound
        )
}

/// Makes sequence `number` from `forms`, which are those of [`sequence_forms`] and not empty. Half of the
/// sequences are a straight line, half are blocks with branches between them, in a loop.
pub fn generate_sequence(seed: u64, forms: &[Form], number: u32) -> Option<Sequence> {
    let mut rng = Rng::new(seed ^ (u64::from(number) << 32) ^ 0x5345_5155);
    let length = 2 + rng.below(9) as usize;
    let mut parts: Vec<Case> = Vec::new();
    while parts.len() < length {
        let form = rng.pick(forms);
        let part = generate(rng.next_u64(), &form, number);
        let fits = |part: &Case| !is_in_the_way(part) && (is_harmless(part) || rng.one_in(20));
        parts.extend(part.filter(fits));
    }
    let first = parts.first()?;
    let slot = 128 + rng.below(CODE_BYTES - 512);
    let environment = first.form.environment;
    let mut start = first.start;
    start.eip = environment.code_offset() + slot;
    let mut patches: Vec<Patch> = parts.iter().flat_map(|part| part.patches.clone()).collect();
    let bytes = if (number / 8).is_multiple_of(2) {
        parts.iter().flat_map(|part| part.bytes.clone()).collect()
    } else {
        let program = Program::new(environment, start.eip, &parts, &mut rng);
        patches.extend(program.patches);
        program.bytes
    };
    Some(Sequence {
        number,
        bytes,
        start,
        linear: environment.code_base() + start.eip,
        patches,
        parts,
    })
}

/// True when the memory operand could keep a program from ending.
fn is_in_the_way(part: &Case) -> bool {
    let size = part.instruction.memory_size().size().max(1) as u32;
    let environment = part.form.environment;
    let mut operands = part.operands.iter();
    operands.any(|operand| is_reserved(environment, operand.linear, size))
}

/// True when the memory operand, if there is one, will most likely not fault: a sequence that ends at its
/// first instruction shows little.
fn is_harmless(part: &Case) -> bool {
    let instruction = &part.instruction;
    let size = instruction.memory_size().size().max(1) as u32;
    let near_stack = (instruction.memory_displacement32() as i32).unsigned_abs() < 0x200;
    part.operands.iter().all(|operand| match part.form.address {
        Some(Address::Stack | Address::Frame | Address::Frame16) => {
            near_stack && operand.segment == Register::SS && size < 16
        }
        _ => {
            let writable =
                |linear: u32| stage::locate(linear).is_some_and(|at| at < stage::data_len());
            let last = operand.linear.wrapping_add(size - 1);
            let aligned = size < 16 || operand.linear % 16 == 0;
            let plain = matches!(operand.segment, Register::DS | Register::ES | Register::SS);
            plain && aligned && writable(operand.linear) && writable(last)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::form::{CORE_DUO, forms};
    use super::*;
    use iced_x86::Code;

    #[test]
    fn sequences_hold_most_kinds_of_instructions() {
        let forms = forms(&CORE_DUO);
        let fitting = sequence_forms(&forms, Environment::Flat32);
        let has = |code: Code| fitting.iter().any(|form| form.code == code);
        for code in [
            Code::Adc_rm32_r32,
            Code::Push_r32,
            Code::Fadd_m64fp,
            Code::Addps_xmm_xmmm128,
        ] {
            assert!(has(code), "{code:?}");
        }
        for code in [
            Code::Jmp_rel8_32,
            Code::Popd_DS,
            Code::Mov_Sreg_rm16,
            Code::Hlt,
            Code::Popfd,
        ] {
            assert!(!has(code), "{code:?}");
        }
        let sequence = generate_sequence(1, &fitting, 7).expect("a sequence");
        assert!(sequence.parts.len() >= 2);
    }
}

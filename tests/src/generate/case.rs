//! A case: one instruction with everything around it.

use super::address::{self, Implied, Placed};
use super::contents;
use super::form::{Form, Prefix};
use super::fpu;
use super::operand::Operand;
use super::rng::Rng;
use crate::native::MachineState;
use crate::native::stage::{self, CODE_BYTES, Environment};
use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction, Mnemonic, OpKind};

/// Bytes to put at a linear address before the case starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where.
    pub linear: u32,
    /// What; may reach beyond mapped pages, where it is dropped.
    pub data: Vec<u8>,
}

impl Patch {
    /// Writes the bytes into an image of the stage. Only data regions are written.
    pub fn apply(&self, image: &mut [u8]) {
        let data_len = stage::data_len();
        for (offset, byte) in (0u32..).zip(&self.data) {
            let place = stage::locate(self.linear.wrapping_add(offset));
            if let Some(place) = place.filter(|place| *place < data_len) {
                image[place] = *byte;
            }
        }
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What it is a case of.
    pub form: Form,
    /// Its number among the cases of the form.
    pub number: u32,
    /// The instruction as it decodes.
    pub instruction: Instruction,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Registers before; CS:EIP is at the instruction.
    pub start: MachineState,
    /// Linear address of the instruction.
    pub linear: u32,
    /// The memory operands.
    pub operands: Vec<Placed>,
    /// Contents of memory that matter; the rest is the template of the seed.
    pub patches: Vec<Patch>,
}

/// Attempts at a case whose bytes decode to the code of the form.
const ATTEMPTS: u32 = 500;

/// Makes case `number` of `form`. `None` where no bytes were found that decode to the form's code: iced
/// calls them by another name.
pub fn generate(seed: u64, form: &Form, number: u32) -> Option<Case> {
    let mut rng = Rng::new(mix(seed, form, number));
    (0..ATTEMPTS).find_map(|_| attempt(&mut rng, form, number))
}

/// A seed for a case that does not depend on which other forms exist.
fn mix(seed: u64, form: &Form, number: u32) -> u64 {
    let mut hash = seed ^ 0xCBF2_9CE4_8422_2325;
    for byte in form.to_string().bytes().chain(number.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    hash
}

fn attempt(rng: &mut Rng, form: &Form, number: u32) -> Option<Case> {
    let environment = form.environment;
    let slot = 128 + rng.below(CODE_BYTES - 256);
    let mut state = initial_state(rng, environment, number);
    state.eip = environment.code_offset() + slot;

    let mut made = Instruction::new();
    made.set_code(form.code);
    match form.prefix {
        Prefix::None => {}
        Prefix::Lock => made.set_has_lock_prefix(true),
        Prefix::Rep => made.set_has_rep_prefix(true),
        Prefix::Repne => made.set_has_repne_prefix(true),
    }
    let mut placed = Vec::new();
    choose_operands(rng, form, slot, &mut made, &mut state, &mut placed);

    let mut encoder = Encoder::new(environment.bitness());
    encoder.encode(&made, u64::from(state.eip)).ok()?;
    let bytes = encoder.take_buffer();
    let bitness = environment.bitness();
    let mut decoder = Decoder::with_ip(bitness, &bytes, u64::from(state.eip), DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.code() != form.code || instruction.len() != bytes.len() {
        return None;
    }
    let mut patches = Vec::new();
    patches.extend(contents::stack(rng, &instruction, &state, slot));
    for place in &placed {
        patches.extend(contents::operand(rng, &instruction, &state, *place, slot));
    }
    Some(Case {
        form: *form,
        number,
        instruction,
        bytes,
        linear: environment.code_base() + state.eip,
        start: state,
        operands: placed,
        patches,
    })
}

/// Random registers; all status flags clear in every fourth case and set in another one.
fn initial_state(rng: &mut Rng, environment: Environment, number: u32) -> MachineState {
    let mut state = MachineState::new();
    state.selectors = environment.selectors();
    state.gpr = std::array::from_fn(|_| rng.value());
    let stack = match environment {
        Environment::Flat32 => "stack",
        Environment::Segmented16 => "seg-stack",
    };
    if let Some(region) = stage::named(stack) {
        address::choose_stack(rng, &mut state, region);
    }
    const STATUS: u32 = 0x8D5;
    const DF: u32 = 0x400;
    // IF is set at CPL 3 on the host.
    state.eflags = 0x202
        | match number % 4 {
            0 => 0,
            1 => STATUS | DF,
            _ => rng.next_u32() & (STATUS | if rng.one_in(4) { DF } else { 0 }),
        };
    state.fx = fpu::random_state(rng);
    state
}

/// Chooses every operand. Memory comes after registers, so that an instruction may well address memory
/// with the register it changes, and after the values that the instruction wants in registers.
fn choose_operands(
    rng: &mut Rng,
    form: &Form,
    slot: u32,
    made: &mut Instruction,
    state: &mut MachineState,
    placed: &mut Vec<Placed>,
) {
    let info = form.code.op_code();
    let word = form.address.is_some_and(|address| address.bits() == 16);
    let operands: Vec<(u32, Operand)> = (0..info.op_count())
        .map(|index| (index, Operand::of(info.op_kind(index))))
        .collect();
    for &(index, operand) in &operands {
        match operand {
            Operand::Register(bank) => made.set_op_register(index, bank.pick(rng)),
            Operand::RegisterOrMemory(bank) if form.address.is_none() => {
                made.set_op_register(index, bank.pick(rng));
            }
            Operand::Memory | Operand::RegisterOrMemory(_) | Operand::MemoryOffset => {
                made.set_op_kind(index, OpKind::Memory);
            }
            Operand::Fixed(register) => made.set_op_register(index, register),
            Operand::Immediate(kind) => set_immediate(rng, form.code, made, index, kind),
            Operand::One => {
                made.set_op_kind(index, OpKind::Immediate8);
                made.set_immediate8(1);
            }
            Operand::Near { word, short } => {
                let target = contents::near_target(rng, form.environment, slot, short);
                if word {
                    made.set_op_kind(index, OpKind::NearBranch16);
                    made.set_near_branch16(target as u16);
                } else {
                    made.set_op_kind(index, OpKind::NearBranch32);
                    made.set_near_branch32(target);
                }
            }
            Operand::Far { word } => {
                let selector = contents::code_selector(rng);
                let target = contents::code_offset(rng, selector, slot);
                if word {
                    made.set_op_kind(index, OpKind::FarBranch16);
                    made.set_far_branch16(target as u16);
                } else {
                    made.set_op_kind(index, OpKind::FarBranch32);
                    made.set_far_branch32(target);
                }
                made.set_far_branch_selector(selector);
            }
            Operand::Source
            | Operand::Destination
            | Operand::MaskDestination
            | Operand::Table
            | Operand::Unknown => {}
        }
    }
    contents::registers(rng, made, state, slot);
    for &(index, operand) in &operands {
        let size = made.memory_size().size() as u32;
        let which = match operand {
            Operand::Source => Implied::Source,
            Operand::Destination => Implied::Destination,
            Operand::MaskDestination => Implied::MaskDestination,
            Operand::Table => Implied::Table,
            _ => {
                if made.op_kind(index) == OpKind::Memory
                    && let Some(address) = form.address
                {
                    placed.push(address::explicit(rng, made, state, address, size));
                }
                continue;
            }
        };
        placed.push(address::implied(rng, made, state, which, index, word, size));
    }
}

fn set_immediate(rng: &mut Rng, code: Code, made: &mut Instruction, index: u32, kind: OpKind) {
    let value = contents::immediate(rng, code, kind);
    if code.mnemonic() == Mnemonic::Enter && index == 1 {
        made.set_op_kind(index, OpKind::Immediate8_2nd);
        made.set_immediate8_2nd(value as u8);
        return;
    }
    made.set_op_kind(index, kind);
    match kind {
        OpKind::Immediate8 => made.set_immediate8(value as u8),
        OpKind::Immediate16 => made.set_immediate16(value as u16),
        OpKind::Immediate8to16 => made.set_immediate8to16(i16::from(value as i8)),
        OpKind::Immediate8to32 => made.set_immediate8to32(i32::from(value as i8)),
        _ => made.set_immediate32(value),
    }
}

impl Case {
    /// The line that reproduces the case.
    pub fn reproduce(&self, seed: u64) -> String {
        format!(
            "RINGSHIFT_SEED={seed:#x} RINGSHIFT_FORM='{}' RINGSHIFT_CASE={}",
            self.form, self.number
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CORE_DUO, exclusion, forms};
    use super::*;

    #[test]
    fn every_form_has_bytes() {
        let forms = forms(&CORE_DUO);
        let missing: Vec<String> = forms
            .iter()
            .filter(|form| exclusion(form).is_none() && generate(1, form, 0).is_none())
            .map(ToString::to_string)
            .collect();
        assert!(missing.is_empty(), "{missing:#?}");
    }

    #[test]
    fn a_case_is_a_function_of_its_seed() {
        let forms = forms(&CORE_DUO);
        let form = &forms[forms.len() / 2];
        assert_eq!(generate(7, form, 3), generate(7, form, 3));
        assert_ne!(generate(7, form, 3), generate(8, form, 3));
    }
}

//! What registers and memory must hold for an instruction to do something worth comparing: branch
//! targets, selectors, flags, floating-point numbers, small shift counts.

use super::address::{Placed, segment, set};
use super::case::Patch;
use super::fpu;
use super::rng::Rng;
use crate::native::MachineState;
use crate::native::stage::{self, CODE_BYTES, CODE_OFFSET, Environment};
use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpKind, Register};

/// A selector: mostly one that can be loaded, else null, not present, of the wrong type or privilege,
/// or beyond its table. Never 64-bit code, nor a system descriptor, whose contents are the host's.
pub(super) fn selector(rng: &mut Rng) -> u16 {
    const SELECTORS: [u16; 20] = [
        0x00, 0x03, 0x08, 0x10, 0x18, 0x1B, 0x20, 0x23, 0x28, 0x29, 0x2A, 0x2B, 0x07, 0x0F, 0x17,
        0x1F, 0x27, 0x2F, 0x37, 0x3F,
    ];
    match rng.below(8) {
        0 => stage::GDT_ENTRIES * 8 + rng.below(0xFF00) as u16,
        1 => rng.pick(&[0x04, 0x0C, 0x15, 0x47, 0x4F, 0xFFFF, 0xFFFC]),
        _ => rng.pick(&SELECTORS),
    }
}

/// The offset of INT3 in a code region, away from `slot`, the offset of the instruction there.
pub(super) fn code_target(rng: &mut Rng, slot: u32) -> u32 {
    (slot + 64 + rng.below(CODE_BYTES - 128)) % CODE_BYTES
}

/// An EIP that leads to INT3 through code segment `selector`; sometimes one that leads nowhere.
pub(super) fn code_offset(rng: &mut Rng, selector: u16, slot: u32) -> u32 {
    if rng.one_in(12) {
        return rng.value();
    }
    let target = code_target(rng, slot);
    match selector {
        0x3F => stage::CODE32 - stage::LDT[7].base + target,
        0x07 => CODE_OFFSET + target,
        _ => stage::CODE32 + target,
    }
}

/// Chooses the contents of the memory operand at `placed`.
pub(super) fn operand(
    rng: &mut Rng,
    instruction: &Instruction,
    state: &MachineState,
    placed: Placed,
    slot: u32,
) -> Option<Patch> {
    let code_selector = state.selectors[1];
    let data = match (instruction.mnemonic(), instruction.memory_size()) {
        (Mnemonic::Jmp | Mnemonic::Call, MemorySize::WordOffset | MemorySize::DwordOffset) => {
            code_offset(rng, code_selector, slot).to_le_bytes().to_vec()
        }
        (_, MemorySize::SegPtr16) => {
            let (offset, selector) = far_pointer(rng, instruction, slot);
            [(offset as u16).to_le_bytes(), selector.to_le_bytes()].concat()
        }
        (_, MemorySize::SegPtr32) => {
            let (offset, selector) = far_pointer(rng, instruction, slot);
            let mut bytes = offset.to_le_bytes().to_vec();
            bytes.extend(selector.to_le_bytes());
            bytes
        }
        (Mnemonic::Mov, _) if instruction.op0_register().is_segment_register() => {
            selector(rng).to_le_bytes().to_vec()
        }
        (Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw | Mnemonic::Arpl, _) => {
            selector(rng).to_le_bytes().to_vec()
        }
        (Mnemonic::Ldmxcsr, _) => {
            let value = fpu::mxcsr(rng) | if rng.one_in(4) { 0x1_0000 } else { 0 };
            value.to_le_bytes().to_vec()
        }
        (Mnemonic::Fxrstor, _) => {
            let mut image = fpu::random_state(rng);
            if rng.one_in(8) {
                image[26] = 1; // a reserved bit of MXCSR: #GP
            }
            image.to_vec()
        }
        (Mnemonic::Frstor | Mnemonic::Fldenv, _) => environment_image(rng, instruction),
        (_, MemorySize::Float32) => fpu::single(rng).to_vec(),
        (_, MemorySize::Float64) => fpu::double(rng).to_vec(),
        (_, MemorySize::Float80) => fpu::extended(rng).to_vec(),
        (_, MemorySize::Bcd) => fpu::decimal(rng).to_vec(),
        (_, MemorySize::Packed128_Float32 | MemorySize::Packed64_Float32) => {
            (0..4).flat_map(|_| fpu::single(rng)).collect()
        }
        (_, MemorySize::Packed128_Float64) => (0..2).flat_map(|_| fpu::double(rng)).collect(),
        (Mnemonic::Cmpxchg, _) if rng.one_in(2) => state.gpr[0].to_le_bytes().to_vec(),
        (Mnemonic::Cmpxchg8b, _) if rng.one_in(2) => {
            [state.gpr[0].to_le_bytes(), state.gpr[2].to_le_bytes()].concat()
        }
        (Mnemonic::Bound, MemorySize::Bound16_WordWord) => {
            [0x8100u16.to_le_bytes(), 0x7F00u16.to_le_bytes()].concat()
        }
        (Mnemonic::Bound, _) => {
            [0x8000_0100u32.to_le_bytes(), 0x7FFF_FF00u32.to_le_bytes()].concat()
        }
        _ => (0..4).flat_map(|_| rng.value().to_le_bytes()).collect(),
    };
    let size = instruction.memory_size().size().max(1);
    let data = data.into_iter().take(size).collect();
    Some(Patch {
        linear: placed.linear,
        data,
    })
}

/// A far pointer for a jump or call (to code) or for LDS and its like.
fn far_pointer(rng: &mut Rng, instruction: &Instruction, slot: u32) -> (u32, u16) {
    let transfer = matches!(instruction.mnemonic(), Mnemonic::Jmp | Mnemonic::Call);
    let selector = if transfer {
        code_selector(rng)
    } else {
        selector(rng)
    };
    (code_offset(rng, selector, slot), selector)
}

/// A selector for a far transfer: mostly of code at CPL 3.
pub(super) fn code_selector(rng: &mut Rng) -> u16 {
    match rng.below(4) {
        0 => selector(rng),
        _ => rng.pick(&[0x23, 0x23, 0x07, 0x3F]),
    }
}

/// An image for FLDENV or FRSTOR whose exceptions are masked, mostly.
fn environment_image(rng: &mut Rng, instruction: &Instruction) -> Vec<u8> {
    let mut image = vec![0; 108];
    rng.fill(&mut image);
    let state = fpu::random_state(rng);
    let wide = matches!(
        instruction.code(),
        Code::Frstor_m108byte | Code::Fldenv_m28byte
    );
    let step = if wide { 4 } else { 2 };
    image[0..2].copy_from_slice(&state[0..2]);
    image[step..step + 2].copy_from_slice(&state[2..4]);
    for (register, bytes) in image[7 * step..].chunks_mut(10).take(8).enumerate() {
        let value = &state[32 + register * 16..42 + register * 16];
        let len = bytes.len();
        bytes.copy_from_slice(&value[..len]);
    }
    image
}

/// Chooses what lies on the stack for an instruction that pops something particular.
pub(super) fn stack(
    rng: &mut Rng,
    instruction: &Instruction,
    state: &MachineState,
    slot: u32,
) -> Option<Patch> {
    let code = instruction.code();
    let word = matches!(
        code,
        Code::Retnw
            | Code::Retnw_imm16
            | Code::Retfw
            | Code::Retfw_imm16
            | Code::Iretw
            | Code::Popfw
    );
    let values: Vec<u32> = match instruction.mnemonic() {
        Mnemonic::Ret => vec![code_offset(rng, state.selectors[1], slot)],
        Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd => {
            let selector = code_selector(rng);
            let offset = code_offset(rng, selector, slot);
            let junk = rng.next_u32() << 16;
            vec![offset, u32::from(selector) | junk, flags_image(rng)]
        }
        Mnemonic::Popf | Mnemonic::Popfd => vec![flags_image(rng)],
        Mnemonic::Pop if instruction.op0_register().is_segment_register() => {
            vec![u32::from(selector(rng)) | rng.next_u32() << 16]
        }
        _ => return None,
    };
    let mut data = Vec::new();
    for value in values {
        let bytes = value.to_le_bytes();
        data.extend_from_slice(if word { &bytes[..2] } else { &bytes });
    }
    let descriptor = segment(state, Register::SS)?;
    let esp = state.gpr[4];
    let offset = if descriptor.big { esp } else { esp & 0xFFFF };
    Some(Patch {
        linear: descriptor.base.wrapping_add(offset),
        data,
    })
}

/// An image of EFLAGS to pop; TF rarely.
fn flags_image(rng: &mut Rng) -> u32 {
    let flags = rng.next_u32();
    if rng.one_in(8) { flags } else { flags & !0x100 }
}

/// Gives register operands, and registers that the instruction reads by itself, values that matter.
pub(super) fn registers(
    rng: &mut Rng,
    instruction: &Instruction,
    state: &mut MachineState,
    slot: u32,
) {
    let selectors = state.selectors;
    let in_register = |operand: u32| {
        (instruction.op_count() > operand && instruction.op_kind(operand) == OpKind::Register)
            .then(|| instruction.op_register(operand))
    };
    let set_operand = |state: &mut MachineState, operand: u32, value: u32| {
        if let Some(register) = in_register(operand)
            && register.full_register32().is_gpr32()
        {
            state.gpr[register.full_register32().number()] = value;
        }
    };
    match instruction.mnemonic() {
        Mnemonic::Jmp | Mnemonic::Call => {
            set_operand(state, 0, code_offset(rng, selectors[1], slot));
        }
        Mnemonic::Mov if in_register(0).is_some_and(Register::is_segment_register) => {
            let value = u32::from(selector(rng)) | rng.next_u32() << 16;
            set_operand(state, 1, value);
        }
        Mnemonic::Verr | Mnemonic::Verw => {
            set_operand(state, 0, u32::from(selector(rng)));
        }
        Mnemonic::Lar | Mnemonic::Lsl => {
            set_operand(state, 1, u32::from(selector(rng)));
        }
        Mnemonic::Div | Mnemonic::Idiv if rng.one_in(2) => {
            let high = rng.below(3);
            set(state, 2, high.wrapping_sub(1), false);
            set(state, 0, rng.below(0x200), true);
        }
        Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Shld
        | Mnemonic::Shrd => {
            let count = rng.pick(&[0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 0xFF]);
            state.gpr[1] = (state.gpr[1] & !0xFF) | count;
        }
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc if !rng.one_in(16) => {
            let bit = (rng.below(1024) as i32 - 512) as u32;
            set_operand(state, 1, bit);
        }
        Mnemonic::Cmpxchg if rng.one_in(2) => {
            let value = state.gpr[0];
            set_operand(state, 0, value);
        }
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Jcxz | Mnemonic::Jecxz => {
            state.gpr[1] = rng.pick(&[0, 1, 2, 0x1_0000, 0x1_0001, 0xFFFF_0000, 0xFFFF_FFFF]);
        }
        _ => {}
    }
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        // Sometimes enough to run into a page that is not there.
        state.gpr[1] = match rng.below(8) {
            0 => 0,
            1 => 0x1_0000 + rng.below(3),
            2 => rng.below(9000),
            _ => rng.below(40),
        };
    }
}

/// Chooses an immediate operand.
pub(super) fn immediate(rng: &mut Rng, code: Code, kind: OpKind) -> u32 {
    match code.mnemonic() {
        // 80h would enter the host's kernel.
        Mnemonic::Int => match rng.pick(&[0, 1, 3, 4, 5, 0x20, 0x81, 0xFF, 0x7F]) {
            0 => rng.below(0x80),
            other => other,
        },
        Mnemonic::Enter if kind == OpKind::Immediate16 => {
            rng.pick(&[0, 1, 4, 16, 100, 0x1000, 0xFFFF])
        }
        Mnemonic::Enter => rng.pick(&[0, 0, 1, 2, 3, 8, 31, 32, 33, 0xFF]),
        Mnemonic::Ret | Mnemonic::Retf => rng.pick(&[0, 1, 2, 4, 16, 0x100, 0xFFFF]),
        _ => rng.value(),
    }
}

/// The environment's code segment: where a near branch can go.
pub(super) fn near_target(rng: &mut Rng, environment: Environment, slot: u32, short: bool) -> u32 {
    let start = environment.code_offset();
    if short {
        // Twenty bytes and more behind or ahead, over the edge of the region where it is near.
        let distance = 20 + rng.below(90);
        let target = start + slot;
        if rng.one_in(2) {
            target.wrapping_add(distance)
        } else {
            target.wrapping_sub(distance)
        }
    } else if rng.one_in(12) {
        rng.value()
    } else {
        start + code_target(rng, slot)
    }
}

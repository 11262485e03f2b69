//! Where a memory operand lies, and registers and a displacement that lead there.

use super::form::Address;
use super::operand::SEGMENTS;
use super::rng::Rng;
use crate::native::MachineState;
use crate::native::stage::{self, Access, Descriptor, PAGE, Region};
use iced_x86::{Instruction, OpKind, Register};

const ESP: usize = 4;
const EBP: usize = 5;

/// The segment that a register of the case addresses.
pub(super) fn segment(state: &MachineState, register: Register) -> Option<Descriptor> {
    let index = SEGMENTS.iter().position(|s| *s == register)?;
    stage::descriptor(state.selectors[index])
}

/// Regions that can be reached through a segment.
fn reachable(descriptor: &Descriptor, word: bool) -> Vec<&'static Region> {
    let near = word || !descriptor.pages;
    let code = descriptor.type_bits() & 8 != 0 && descriptor.base != 0;
    let regions = stage::REGIONS.iter().filter(|region| {
        let offset = region.last().wrapping_sub(descriptor.base);
        (region.access == Access::Code) == code && (!near || offset < 0x1_1000)
    });
    regions.collect()
}

/// Chooses a linear address for an operand of `size` bytes: mostly inside a region, aligned or not, and
/// else across or beyond the end of a page, a region or the segment.
fn place(rng: &mut Rng, descriptor: &Descriptor, word: bool, size: u32) -> u32 {
    let regions = reachable(descriptor, word);
    if regions.is_empty() {
        return rng.next_u32();
    }
    let region = rng.pick(&regions);
    let size = size.clamp(1, 512);
    let inside = region.len() - size;
    let random = rng.next_u32();
    let edge = descriptor.base.wrapping_add(descriptor.byte_limit());
    match rng.below(20) {
        0..9 => region.base + (random % (inside + 1)) / 16 * 16,
        9..12 => region.base + random % (inside + 1),
        // Across a page boundary inside the region.
        12..14 if region.pages > 1 => region.base + PAGE - 1 - random % size,
        // Across its end, its start, and beyond.
        14 => region.last() - random % size,
        15 => region.base.wrapping_sub(1 + random % size),
        16 => region.last().wrapping_add(1 + random % 64),
        // The last bytes of the segment.
        17 if descriptor.byte_limit() < 0xFFFF_FFF0 => edge
            .wrapping_sub(size)
            .wrapping_add(random % 5)
            .wrapping_sub(1),
        18 if rng.one_in(4) => random,
        _ => region.base + (random % (inside + 1)) / 4 * 4,
    }
}

/// Chooses the linear address and the offset of an operand in the segment of `register`. With 16-bit
/// addresses a place in front of the segment becomes one near its end.
fn choose_place(
    rng: &mut Rng,
    state: &MachineState,
    register: Register,
    word: bool,
    size: u32,
) -> (u32, u32) {
    let Some(descriptor) = segment(state, register) else {
        return (0, rng.next_u32());
    };
    let offset = place(rng, &descriptor, word, size).wrapping_sub(descriptor.base);
    let offset = if word { offset & 0xFFFF } else { offset };
    (descriptor.base.wrapping_add(offset), offset)
}

/// Puts `value` into the low 16 or all 32 bits of a general register.
pub(super) fn set(state: &mut MachineState, register: usize, value: u32, word: bool) {
    let old = state.gpr[register];
    state.gpr[register] = if word {
        (old & 0xFFFF_0000) | (value & 0xFFFF)
    } else {
        value
    };
}

/// Maybe chooses a segment override. Returns the segment register that counts.
fn choose_segment(rng: &mut Rng, instruction: &mut Instruction, default: Register) -> Register {
    if !rng.one_in(4) {
        return default;
    }
    let register = rng.pick(&SEGMENTS);
    instruction.set_segment_prefix(register);
    register
}

/// An operand that was placed: its segment register and its offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The segment register.
    pub segment: Register,
    /// Offset of the first byte.
    pub offset: u32,
    /// Its linear address.
    pub linear: u32,
}

/// Makes the memory operand of a ModR/M byte (or a memory offset): sets the fields of the instruction
/// and the registers that it reads. `kind` is the operand's, `size` its length in bytes.
pub(super) fn explicit(
    rng: &mut Rng,
    instruction: &mut Instruction,
    state: &mut MachineState,
    address: Address,
    size: u32,
) -> Placed {
    let shape = Shape::choose(rng, address);
    let default = match shape.base {
        Register::ESP | Register::EBP | Register::BP => Register::SS,
        _ => Register::DS,
    };
    let word = address.bits() == 16;
    let register = choose_segment(rng, instruction, default);
    let (linear, offset) = choose_place(rng, state, register, word, size);

    let index = gpr(shape.index).map_or(0, |i| state.gpr[i].wrapping_mul(shape.scale));
    let rest = offset.wrapping_sub(index);
    let base = gpr(shape.base);
    let displacement = match shape.displacement {
        // The base (or in `[index*scale+disp]` the displacement) is what makes the sum right.
        1 => i32::from(rng.next_u32() as i8) as u32,
        _ if base.is_none() => rest,
        0 => 0,
        _ => rng.value(),
    };
    if let Some(base) = base {
        set(state, base, rest.wrapping_sub(displacement), word);
    }
    instruction.set_memory_base(shape.base);
    instruction.set_memory_index(shape.index);
    instruction.set_memory_index_scale(shape.scale);
    let width = match shape.displacement {
        4 if word => 2,
        other => other,
    };
    instruction.set_memory_displ_size(width);
    let value = match (width, word) {
        (1, true) => u64::from(displacement as u16),
        (2, _) => u64::from(displacement as u16),
        _ => u64::from(displacement),
    };
    instruction.set_memory_displacement64(value);
    Placed {
        segment: register,
        offset,
        linear,
    }
}

/// Number of a general register, if `register` is one.
fn gpr(register: Register) -> Option<usize> {
    (register != Register::None).then(|| register.number())
}

/// The registers of a memory operand; `displacement` is its size in bytes (4 stands for full).
struct Shape {
    base: Register,
    index: Register,
    scale: u32,
    displacement: u32,
}

impl Shape {
    fn choose(rng: &mut Rng, address: Address) -> Shape {
        use Register::{BP, BX, DI, EAX, EBP, EBX, ECX, EDI, EDX, ESI, ESP, None, SI};
        const BASES: [Register; 6] = [EAX, ECX, EDX, EBX, ESI, EDI];
        const INDEXES: [Register; 7] = [EAX, ECX, EDX, EBX, EBP, ESI, EDI];
        let base = rng.pick(&BASES);
        let index = loop {
            let index = rng.pick(&INDEXES);
            if index != base {
                break index;
            }
        };
        let scale = 1 << rng.below(4);
        let shape = |base, index, scale, displacement| Shape {
            base,
            index,
            scale,
            displacement,
        };
        match address {
            Address::Base => shape(base, None, 1, 0),
            Address::BaseDisp8 => shape(base, None, 1, 1),
            Address::BaseDisp32 => shape(base, None, 1, 4),
            Address::Index => shape(None, index, scale, 4),
            Address::BaseIndex => shape(base, index, scale, 0),
            Address::BaseIndexDisp8 => shape(base, index, scale, 1),
            Address::BaseIndexDisp32 => shape(base, index, scale, 4),
            Address::Stack => shape(ESP, None, 1, rng.pick(&[0, 1, 4])),
            Address::Frame => shape(EBP, None, 1, rng.pick(&[1, 4])),
            Address::Base16 => shape(rng.pick(&[BX, SI, DI]), None, 1, 0),
            Address::Base16Disp => shape(rng.pick(&[BX, SI, DI]), None, 1, rng.pick(&[1, 4])),
            Address::Pair16 => shape(rng.pick(&[BX, BP]), rng.pick(&[SI, DI]), 1, 0),
            Address::Pair16Disp => {
                let displacement = rng.pick(&[1, 4]);
                shape(rng.pick(&[BX, BP]), rng.pick(&[SI, DI]), 1, displacement)
            }
            Address::Frame16 => shape(BP, None, 1, rng.pick(&[1, 4])),
            Address::Absolute | Address::Absolute16 | Address::Implied | Address::Implied16 => {
                shape(None, None, 1, 4)
            }
        }
    }
}

/// Which register an implied operand is addressed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Implied {
    /// DS:(E)SI.
    Source,
    /// ES:(E)DI, never overridden.
    Destination,
    /// DS:(E)DI.
    MaskDestination,
    /// DS:(E)BX+AL.
    Table,
}

/// Makes operand `operand` one that the instruction addresses by itself.
pub(super) fn implied(
    rng: &mut Rng,
    instruction: &mut Instruction,
    state: &mut MachineState,
    which: Implied,
    operand: u32,
    word: bool,
    size: u32,
) -> Placed {
    let (register, kind) = match (which, word) {
        (Implied::Source, true) => (6, OpKind::MemorySegSI),
        (Implied::Source, false) => (6, OpKind::MemorySegESI),
        (Implied::Destination, true) => (7, OpKind::MemoryESDI),
        (Implied::Destination, false) => (7, OpKind::MemoryESEDI),
        (Implied::MaskDestination, true) => (7, OpKind::MemorySegDI),
        (Implied::MaskDestination, false) => (7, OpKind::MemorySegEDI),
        (Implied::Table, _) => (3, OpKind::Memory),
    };
    instruction.set_op_kind(operand, kind);
    let counted = if which == Implied::Destination {
        Register::ES
    } else {
        choose_segment(rng, instruction, Register::DS)
    };
    let (linear, offset) = choose_place(rng, state, counted, word, size);
    let mut value = offset;
    if which == Implied::Table {
        instruction.set_memory_base(if word { Register::BX } else { Register::EBX });
        instruction.set_memory_index(Register::AL);
        value = offset.wrapping_sub(state.gpr[0] & 0xFF);
    }
    set(state, register, value, word);
    Placed {
        segment: counted,
        offset,
        linear,
    }
}

/// Chooses the stack pointer: mostly in the middle of the stack, sometimes at its edges, and on a
/// 16-bit stack with random bits above.
pub(super) fn choose_stack(rng: &mut Rng, state: &mut MachineState, region: &Region) {
    let Some(descriptor) = segment(state, Register::SS) else {
        return;
    };
    let linear = match rng.below(16) {
        0 => region.base + rng.below(40),
        1 => region.last() - rng.below(40),
        2 if region.pages > 1 => region.base + PAGE - 20 + rng.below(40),
        _ => region.base + region.len() / 4 + rng.below(region.len() / 2) / 4 * 4,
    };
    let offset = linear.wrapping_sub(descriptor.base);
    for register in [ESP, EBP] {
        let junk = rng.value();
        set(state, register, junk, false);
        set(state, register, offset.wrapping_add(64), !descriptor.big);
    }
    set(state, ESP, offset, !descriptor.big);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::stage::Environment;
    use iced_x86::{Code, Decoder, DecoderOptions, Encoder};

    #[test]
    fn registers_and_displacement_lead_to_the_chosen_place() {
        let mut rng = Rng::new(1);
        for environment in Environment::ALL {
            for address in Address::EXPLICIT {
                for _ in 0..50 {
                    let mut state = MachineState::new();
                    state.selectors = environment.selectors();
                    state.gpr = std::array::from_fn(|_| rng.next_u32());
                    let mut made = Instruction::new();
                    made.set_code(Code::Inc_rm8);
                    made.set_op0_kind(OpKind::Memory);
                    let placed = explicit(&mut rng, &mut made, &mut state, address, 1);
                    let bits = environment.bitness();
                    let mut encoder = Encoder::new(bits);
                    encoder.encode(&made, 0).expect("encodes");
                    let bytes = encoder.take_buffer();
                    let read = Decoder::new(bits, &bytes, DecoderOptions::NONE).decode();
                    assert_eq!(
                        read.memory_segment(),
                        placed.segment,
                        "{address:?} {bytes:x?}"
                    );
                    let word = address.bits() == 16;
                    let value = |register: Register| gpr(register).map_or(0, |i| state.gpr[i]);
                    let sum = value(read.memory_base())
                        .wrapping_add(
                            value(read.memory_index()).wrapping_mul(read.memory_index_scale()),
                        )
                        .wrapping_add(read.memory_displacement32());
                    let sum = if word { sum & 0xFFFF } else { sum };
                    assert_eq!(sum, placed.offset, "{address:?} {bytes:x?}");
                }
            }
        }
    }
}

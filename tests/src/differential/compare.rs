//! Two outcomes of one case, and what differs between them that may not.

use super::undefined::{
    loads_in_steps, may_fault_either_way, pops_in_steps, stores_in_steps, undefined_flags,
    undefined_memory, undefined_register, undefined_stack,
};
use crate::generate::Case;
use crate::native::{Outcome, Trap, stage};
use std::fmt;

/// One thing that differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// The exception.
    Trap {
        /// What the processor raised.
        native: Trap,
        /// What the guest saw.
        translated: Trap,
    },
    /// A general register, by its number in encoding order.
    Register(usize),
    /// EIP.
    InstructionPointer,
    /// Bits of EFLAGS.
    Flags(u32),
    /// A selector, by its number in encoding order.
    Selector(usize),
    /// A byte of the FXSAVE image.
    Fpu(usize),
    /// A byte of memory.
    Memory {
        /// Its linear address.
        linear: u32,
        /// The processor's value.
        native: u8,
        /// The guest's.
        translated: u8,
    },
}

impl Difference {
    /// What differs, without the values: failures with the same kinds have most likely one cause.
    pub fn kind(&self) -> String {
        match self {
            Difference::Trap { native, translated } => {
                format!("exception {}->{}", native.vector, translated.vector)
            }
            Difference::Register(_) => "register".to_owned(),
            Difference::Fpu(_) => "FPU".to_owned(),
            Difference::Memory { .. } => "memory".to_owned(),
            other => other.to_string(),
        }
    }
}

const GPR_NAMES: [&str; 8] = ["EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"];
const SEGMENT_NAMES: [&str; 6] = ["ES", "CS", "SS", "DS", "FS", "GS"];

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Difference::Trap { native, translated } => {
                write!(
                    f,
                    "exception: native {native:x?}, translated {translated:x?}"
                )
            }
            Difference::Register(index) => f.write_str(GPR_NAMES[index]),
            Difference::InstructionPointer => f.write_str("EIP"),
            Difference::Flags(bits) => write!(f, "EFLAGS bits {bits:#x}"),
            Difference::Selector(index) => f.write_str(SEGMENT_NAMES[index]),
            Difference::Fpu(byte) => write!(f, "FXSAVE byte {byte}"),
            Difference::Memory {
                linear,
                native,
                translated,
            } => write!(
                f,
                "[{linear:08x}]: native {native:02x}, translated {translated:02x}"
            ),
        }
    }
}

/// Bytes of the FXSAVE image that are compared: not FOP, FIP, FDP and MXCSR_MASK, see
/// [`undefined_memory`].
fn fpu_byte_counts(byte: usize) -> bool {
    matches!(byte, 0..5 | 24..28)
        || (32..160).contains(&byte) && (byte - 32) % 16 < 10
        || (160..288).contains(&byte)
}

/// Everything that differs and may not. The images are those of the data regions.
pub fn compare(
    case: &Case,
    native: (&Outcome, &[u8]),
    translated: (&Outcome, &[u8]),
) -> Vec<Difference> {
    let (native, native_image) = native;
    let (translated, translated_image) = translated;
    let completed = native.trap.vector == Trap::BREAKPOINT;
    let mut differences = Vec::new();

    // A guest without NX is not told that an access was a fetch.
    const FETCH: u32 = 0x10;
    let told = Trap {
        error: if native.trap.vector == Trap::PAGE_FAULT {
            native.trap.error & !FETCH
        } else {
            native.trap.error
        },
        ..native.trap
    };
    let faults = |trap: Trap| matches!(trap.vector, 12..=14 | 16);
    let either = may_fault_either_way(case) && faults(told) && faults(translated.trap);
    if told != translated.trap && !either {
        differences.push(Difference::Trap {
            native: told,
            translated: translated.trap,
        });
    }
    let (a, b) = (&native.state, &translated.state);
    let open = completed
        .then(|| undefined_register(case, native))
        .flatten();
    const ESP: usize = 4;
    let partial = !completed && pops_in_steps(&case.instruction);
    let mask = |index: usize| match open {
        Some((register, bits)) if register == index => bits,
        _ if partial && index != ESP => u32::MAX,
        _ => 0,
    };
    let registers = (0..8).filter(|i| (a.gpr[*i] ^ b.gpr[*i]) & !mask(*i) != 0);
    differences.extend(registers.map(Difference::Register));
    if a.eip != b.eip {
        differences.push(Difference::InstructionPointer);
    }
    let ignored = if completed { undefined_flags(case) } else { 0 };
    let flags = (a.eflags ^ b.eflags) & !ignored;
    if flags != 0 {
        differences.push(Difference::Flags(flags));
    }
    // The RPL of a null selector is lost on the host's way back from its kernel.
    let selector = |selector: u16| if selector < 4 { 0 } else { selector };
    let selectors = (0..6).filter(|i| selector(a.selectors[*i]) != selector(b.selectors[*i]));
    differences.extend(selectors.map(Difference::Selector));
    if completed || !loads_in_steps(&case.instruction) {
        let fpu = (0..a.fx.len()).filter(|i| a.fx[*i] != b.fx[*i] && fpu_byte_counts(*i));
        differences.extend(fpu.map(Difference::Fpu));
    }
    if completed || !stores_in_steps(&case.instruction) {
        let pushed = undefined_stack(case, native);
        let memory = compare_memory(case, native_image, translated_image);
        differences.extend(memory.filter(|difference| match (difference, pushed) {
            (Difference::Memory { linear, .. }, Some(open)) => linear.wrapping_sub(open) > 1,
            _ => true,
        }));
    }
    differences
}

fn compare_memory<'a>(
    case: &'a Case,
    native: &'a [u8],
    translated: &'a [u8],
) -> impl Iterator<Item = Difference> + 'a {
    let open = undefined_memory(&case.instruction);
    let is_open = move |linear: u32| {
        case.operands.iter().any(|operand| {
            let offset = linear.wrapping_sub(operand.linear);
            open.iter()
                .any(|(start, end)| (start..end).contains(&&offset))
        })
    };
    let regions = stage::REGIONS.iter().enumerate();
    let data = regions.filter(|(_, region)| region.access != stage::Access::Code);
    data.flat_map(move |(index, region)| {
        let start = stage::image_offset(index);
        let range = start..start + region.len() as usize;
        let (a, b) = (&native[range.clone()], &translated[range]);
        let same = a == b;
        let bytes = (region.base..).zip(a.iter().zip(b));
        bytes
            .filter(move |(_, (x, y))| !same && x != y)
            .map(|(linear, (x, y))| Difference::Memory {
                linear,
                native: *x,
                translated: *y,
            })
    })
    .filter(move |difference| match difference {
        Difference::Memory { linear, .. } => !is_open(*linear),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{PENTIUM_III, Prefix, forms, generate};
    use iced_x86::Code;

    #[test]
    fn what_counts_is_seen_and_what_is_undefined_is_not() {
        let forms = forms(&PENTIUM_III);
        let form = forms
            .iter()
            .find(|form| form.code == Code::And_rm32_r32 && form.prefix == Prefix::None)
            .expect("AND is there");
        let case = generate(1, form, 0).expect("a case");
        let image = vec![0; stage::data_len()];
        let mut native = Outcome::default();
        native.trap.vector = Trap::BREAKPOINT;
        let differing = |edit: &dyn Fn(&mut Outcome, &mut Vec<u8>)| {
            let (mut other, mut memory) = (native, image.clone());
            edit(&mut other, &mut memory);
            compare(&case, (&native, &image), (&other, &memory)).len()
        };
        assert_eq!(differing(&|_, _| ()), 0);
        assert_eq!(differing(&|o, _| o.state.gpr[3] = 1), 1);
        assert_eq!(differing(&|o, _| o.state.eflags ^= 1), 1);
        assert_eq!(differing(&|o, _| o.state.eflags ^= 0x10), 0); // AF
        assert_eq!(differing(&|o, _| o.state.fx[32] = 1), 1);
        assert_eq!(differing(&|o, _| o.state.fx[8] = 1), 0); // FIP
        assert_eq!(differing(&|o, _| o.trap.vector = 14), 1);
        assert_eq!(differing(&|_, m| m[17] = 1), 1);
    }
}

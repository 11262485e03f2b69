//! Two outcomes of one case, and what differs between them that may not.

use super::undefined::Open;
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

/// Bytes of the FXSAVE image that are compared: not FOP, FIP, FDP, which AMD's processors keep only for
/// unmasked exceptions, and not MXCSR_MASK.
fn fpu_byte_counts(byte: usize) -> bool {
    matches!(byte, 0..5 | 24..28)
        || (32..160).contains(&byte) && (byte - 32) % 16 < 10
        || (160..288).contains(&byte)
}

/// Everything that differs and is not `open`. The images are those of the data regions.
pub fn compare(
    open: &Open,
    native: (&Outcome, &[u8]),
    translated: (&Outcome, &[u8]),
) -> Vec<Difference> {
    let (native, native_image) = native;
    let (translated, translated_image) = translated;
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
    let either = open.fault && faults(told) && faults(translated.trap);
    if told != translated.trap && !either {
        differences.push(Difference::Trap {
            native: told,
            translated: translated.trap,
        });
    }
    let (a, b) = (&native.state, &translated.state);
    let registers = (0..8).filter(|i| (a.gpr[*i] ^ b.gpr[*i]) & !open.registers[*i] != 0);
    differences.extend(registers.map(Difference::Register));
    if a.eip != b.eip {
        differences.push(Difference::InstructionPointer);
    }
    let flags = (a.eflags ^ b.eflags) & !open.flags;
    if flags != 0 {
        differences.push(Difference::Flags(flags));
    }
    // The RPL of a null selector is lost on the host's way back from its kernel.
    let selector = |selector: u16| if selector < 4 { 0 } else { selector };
    let selectors = (0..6).filter(|i| selector(a.selectors[*i]) != selector(b.selectors[*i]));
    differences.extend(selectors.map(Difference::Selector));
    if !open.fpu {
        let fpu = (0..a.fx.len()).filter(|i| a.fx[*i] != b.fx[*i] && fpu_byte_counts(*i));
        differences.extend(fpu.map(Difference::Fpu));
    }
    if !open.memory {
        differences.extend(compare_memory(open, native_image, translated_image));
    }
    differences
}

fn compare_memory<'a>(
    open: &'a Open,
    native: &'a [u8],
    translated: &'a [u8],
) -> impl Iterator<Item = Difference> + 'a {
    let is_open = |linear: u32| {
        let ranges = open.ranges.iter();
        ranges
            .clone()
            .any(|(start, len)| linear.wrapping_sub(*start) < *len)
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
            .filter(move |(linear, (x, y))| !same && x != y && !is_open(*linear))
            .map(|(linear, (x, y))| Difference::Memory {
                linear,
                native: *x,
                translated: *y,
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{CORE_DUO, Prefix, forms, generate};
    use iced_x86::Code;

    #[test]
    fn what_counts_is_seen_and_what_is_undefined_is_not() {
        let forms = forms(&CORE_DUO);
        let form = forms
            .iter()
            .find(|form| form.code == Code::And_rm32_r32 && form.prefix == Prefix::None)
            .expect("AND is there");
        let case = generate(1, form, 0).expect("a case");
        let image = vec![0; stage::data_len()];
        let mut native = Outcome::default();
        native.trap.vector = Trap::BREAKPOINT;
        let open = Open::of(&case, &native);
        let differing = |edit: &dyn Fn(&mut Outcome, &mut Vec<u8>)| {
            let (mut other, mut memory) = (native, image.clone());
            edit(&mut other, &mut memory);
            compare(&open, (&native, &image), (&other, &memory)).len()
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

//! Blocks of instructions with branches between them, in a counted loop: units, links between them,
//! indirect jumps and returns.
//!
//! Every branch leads forward but the last one, so the program ends whatever its instructions do.

use super::case::{Case, Patch};
use super::rng::Rng;
use crate::native::stage::{self, Environment};

/// The bytes of a program, and what it needs in memory.
pub(super) struct Program {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// The loop counter, and the targets of indirect jumps.
    pub(super) patches: Vec<Patch>,
}

/// How a block ends.
#[derive(Clone, Copy)]
enum Ending {
    /// It falls into the next one.
    Fall,
    /// A conditional jump over the next one.
    Skip,
    /// A jump.
    Jump,
    /// A call; the return address stays on the stack.
    Call,
    /// The address is pushed, and RET goes there.
    Return,
    /// A jump through memory.
    Indirect,
}

const ENDINGS: [Ending; 7] = [
    Ending::Fall,
    Ending::Skip,
    Ending::Skip,
    Ending::Jump,
    Ending::Call,
    Ending::Return,
    Ending::Indirect,
];

/// Offset in DS of the loop counter; the targets of indirect jumps follow it.
const fn cells(environment: Environment) -> u32 {
    match environment {
        Environment::Flat32 => 0x0123_5F00,
        Environment::Segmented16 => 0x2F00,
    }
}

/// True when an operand of `size` bytes at linear address `linear` touches the counter or a target: with
/// those overwritten a program might not end.
pub(super) fn is_reserved(environment: Environment, linear: u32, size: u32) -> bool {
    const CELLS: u32 = 64;
    let first = base(environment) + cells(environment);
    linear.wrapping_add(size).wrapping_sub(first) < CELLS + size
}

/// Linear base of DS.
const fn base(environment: Environment) -> u32 {
    match environment {
        Environment::Flat32 => 0,
        Environment::Segmented16 => stage::DATA16_BASE,
    }
}

impl Program {
    /// Puts `parts` into blocks, the first one at offset `eip` of the code segment.
    pub(super) fn new(
        environment: Environment,
        eip: u32,
        parts: &[Case],
        rng: &mut Rng,
    ) -> Program {
        let wide = environment == Environment::Flat32;
        let base = base(environment);
        let cell = |number: u32| cells(environment) + 4 * number;
        let mut program = Program {
            bytes: Vec::new(),
            patches: vec![Patch {
                linear: base + cell(0),
                data: (1 + rng.below(4)).to_le_bytes().to_vec(),
            }],
        };
        let mut skips: Option<usize> = None;
        for (number, part) in (1u32..).zip(parts) {
            program.bytes.extend(&part.bytes);
            // The jump over this block lands behind its end.
            let landing = skips.take();
            let ending = rng.pick(&ENDINGS);
            let here = eip + program.bytes.len() as u32;
            let size = if wide { 4 } else { 2 };
            match ending {
                Ending::Fall => {}
                Ending::Skip => {
                    program.bytes.extend([0x70 | rng.below(16) as u8, 0]);
                    skips = Some(program.bytes.len());
                }
                Ending::Jump => program.near(0xE9, size),
                Ending::Call => program.near(0xE8, size),
                Ending::Return => {
                    let target = here + 1 + size + 1;
                    program.bytes.push(0x68);
                    program.immediate(target, size);
                    program.bytes.push(0xC3);
                }
                Ending::Indirect => {
                    program.bytes.extend([0xFF, if wide { 0x25 } else { 0x26 }]);
                    program.immediate(cell(number), size);
                    program.patches.push(Patch {
                        linear: base + cell(number),
                        data: (here + 2 + size).to_le_bytes().to_vec(),
                    });
                }
            }
            program.land(landing);
        }
        program.land(skips);
        program.close(wide, cell(0));
        program
    }

    /// A jump or call to what follows it.
    fn near(&mut self, opcode: u8, size: u32) {
        self.bytes.push(opcode);
        self.immediate(0, size);
    }

    fn immediate(&mut self, value: u32, size: u32) {
        self.bytes
            .extend(value.to_le_bytes().iter().take(size as usize));
    }

    /// Makes the short jump that ends at `from` lead here.
    fn land(&mut self, from: Option<usize>) {
        if let Some(from) = from {
            self.bytes[from - 1] = (self.bytes.len() - from) as u8;
        }
    }

    /// `dec dword [counter]; jnz start`, without 8-bit distances.
    fn close(&mut self, wide: bool, counter: u32) {
        if wide {
            self.bytes.extend([0xFF, 0x0D]);
            self.immediate(counter, 4);
            self.bytes.extend([0x0F, 0x85]);
            let distance = -(self.bytes.len() as i32 + 4);
            self.immediate(distance as u32, 4);
        } else {
            self.bytes.extend([0x66, 0xFF, 0x0E]);
            self.immediate(counter, 2);
            self.bytes.extend([0x0F, 0x85]);
            let distance = -(self.bytes.len() as i32 + 2);
            self.immediate(distance as u32, 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::{CORE_DUO, forms};
    use super::super::sequence::{generate_sequence, sequence_forms};
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

    #[test]
    fn branches_lead_to_instructions_of_the_program() {
        let forms = forms(&CORE_DUO);
        for environment in Environment::ALL {
            let fitting = sequence_forms(&forms, environment);
            for number in 8..16 {
                let sequence = generate_sequence(3, &fitting, number).expect("a program");
                let start = u64::from(sequence.start.eip);
                let bits = environment.bitness();
                let code: Vec<_> =
                    Decoder::with_ip(bits, &sequence.bytes, start, DecoderOptions::NONE)
                        .into_iter()
                        .collect();
                assert!(code.iter().all(|i| !i.is_invalid()));
                assert_eq!(code.last().map(|i| i.mnemonic()), Some(Mnemonic::Jne));
                let starts = |ip: u64| code.iter().any(|i| i.ip() == ip);
                let jumps = code.iter().filter(|i| {
                    matches!(
                        i.flow_control(),
                        FlowControl::ConditionalBranch
                            | FlowControl::UnconditionalBranch
                            | FlowControl::Call
                    )
                });
                for jump in jumps {
                    assert!(starts(jump.near_branch_target()), "{jump}");
                }
            }
        }
    }
}

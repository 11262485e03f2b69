//! Guest code that nobody wrote, in every mode, run three times: instruction by instruction, in units that
//! are chained, and once more with what the translator learned. All must end alike.

mod guest;
mod machine;
mod tables;

use super::bytes::Bytes;
use crate::generate::Rng;
use guest::Guest;
use machine::{End, Machine};

/// Instructions after which a program counts as one that does not end.
const STEPS: u32 = 600;
/// Longest code of an input.
const CODE: usize = 512;

/// The first `guest::HEADER` bytes choose the state and edit memory, the rest is code.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let guest = Guest::choose(&mut bytes);
    let code = bytes.rest();
    let code = &code[..code.len().min(CODE)];
    let memory = guest.memory(code);

    let mut stepped = Machine::new(&guest, &memory);
    let end = stepped.step(STEPS);
    let mut chained = Machine::new(&guest, &memory);
    if end == End::Budget {
        // Nothing to compare with: it is enough that the monitor survives.
        chained.run_for_a_while();
        return;
    }
    for turn in ["chained", "again"] {
        chained.restore(&guest, &memory);
        let other = chained.run();
        let differences = stepped.differences(&chained);
        assert!(
            end == other && differences.is_empty(),
            "{turn}: {other:?}, instruction by instruction: {end:?}\n{differences}{guest:#x?}\n{}",
            guest.listing(code)
        );
    }
    chained.audit();
}

/// A state, and code of the kind that gets somewhere: mostly one-byte and two-byte opcodes with small
/// operands, which random bytes seldom are.
pub fn make(random: &mut Rng) -> Vec<u8> {
    let mut input = vec![0; guest::HEADER];
    random.fill(&mut input);
    let count = 1 + random.below(24);
    for _ in 0..count {
        if random.one_in(6) {
            let prefixes = [
                0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65,
            ];
            input.push(random.pick(&prefixes));
        }
        if random.one_in(5) {
            input.push(0x0F);
        }
        let mut rest = [0; 8];
        random.fill(&mut rest);
        input.extend(&rest[..1 + random.below(7) as usize]);
    }
    input
}

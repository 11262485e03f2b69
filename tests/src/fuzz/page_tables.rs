//! Histories of table writes, register loads and accesses, against the model of paging that is beside the
//! shadow MMU's own tests.

use super::bytes::Bytes;
use crate::generate::Rng as Random;
use common::Choices;
use common::history::History;

#[allow(unreachable_pub)]
#[path = "../../../shadow-mmu/tests/common/mod.rs"]
mod common;

impl Choices for Bytes<'_> {
    fn next(&mut self) -> u64 {
        self.u64() >> 16
    }

    /// As few bytes as the number needs, so that a change of one byte changes one choice.
    fn below(&mut self, n: u32) -> u32 {
        match n {
            0..=0x100 => u32::from(self.u8()) % n,
            0x101..=0x1_0000 => u32::from(self.u16()) % n,
            _ => self.u32() % n,
        }
    }

    fn is_done(&self) -> bool {
        self.is_empty()
    }
}

/// Steps of one history at most.
const STEPS: u32 = 2000;

/// The first two bytes choose the tables to start from and the paging mode, the rest what happens.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let start = u64::from(bytes.u16());
    History::new(bytes, start & 1 != 0).run(&mut common::Rng(start * 0x9e37_79b9 + 1), STEPS);
}

/// Random bytes.
pub fn make(random: &mut Random) -> Vec<u8> {
    let mut input = vec![0; 64 + random.below(6000) as usize];
    random.fill(&mut input);
    input
}

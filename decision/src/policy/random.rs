//! Chance decides: for tests of the engines against each other, which should agree wherever the
//! switches fall.

use serde::{Deserialize, Serialize};

use super::{Choice, Policy, Stretch, View};
use crate::legality::Legal;

/// Parameters of the policy `random`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RandomParams {
    /// Seed; the same seed gives the same choices for the same sequence of legal states.
    pub seed: u64,
    /// Probability of direct execution in a legal state.
    pub direct: f64,
    /// Probability, where the choice is the translator, that it runs one instruction only. So
    /// switches fall on any instruction, not only on those that system calls and faults return to.
    pub step: f64,
}

impl Default for RandomParams {
    fn default() -> Self {
        Self {
            seed: 1,
            direct: 0.5,
            step: 0.5,
        }
    }
}

/// The policy.
#[derive(Debug)]
pub(super) struct Random {
    params: RandomParams,
    state: u64,
}

impl Random {
    pub(super) fn new(params: RandomParams) -> Self {
        Self {
            params,
            state: params.seed,
        }
    }

    /// True with this probability. The generator is SplitMix64 (Steele, Lea and Flood, "Fast
    /// Splittable Pseudorandom Number Generators", 2014).
    fn chance(&mut self, probability: f64) -> bool {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let unit = (z >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }
}

impl Policy for Random {
    fn name(&self) -> &str {
        "random"
    }

    fn choose<'a>(&mut self, legal: Legal<'a>, _: &View<'_>) -> Choice<'a> {
        if self.chance(self.params.direct) {
            Choice::Direct(legal)
        } else if self.chance(self.params.step) {
            Choice::Translate(Stretch::Instruction)
        } else {
            Choice::Translate(Stretch::Arrival)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_has_its_probability_and_follows_the_seed() {
        let draw = |seed, probability| {
            let mut random = Random::new(RandomParams {
                seed,
                ..RandomParams::default()
            });
            (0..10_000)
                .map(|_| random.chance(probability))
                .collect::<Vec<_>>()
        };
        for (probability, least, most) in [(0.0, 0, 0), (0.3, 2_800, 3_200), (1.0, 10_000, 10_000)]
        {
            let count = draw(7, probability).into_iter().filter(|&hit| hit).count();
            assert!((least..=most).contains(&count), "{probability}: {count}");
        }
        assert_eq!(draw(1, 0.5), draw(1, 0.5));
        assert_ne!(draw(1, 0.5), draw(2, 0.5));
    }
}

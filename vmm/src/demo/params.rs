//! What a run of the demo guest depends on.

/// Rounds of the three tasks at scale 1, chosen so that each computes for about 0.1 s on a
/// processor of the 2020s.
const BASE_ROUNDS: [f64; 3] = [3000.0, 500_000.0, 4096.0];
/// No scale makes a task run for more rounds than this.
const MAX_ROUNDS: f64 = 1e9;

/// What the results of a run depend on, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DemoParams {
    /// Determines the inputs of the tasks.
    pub seed: u64,
    /// Amount of work; 1.0 is about 0.3 s at native speed. Every task does at least one round,
    /// whatever the scale.
    pub scale: f64,
}

impl Default for DemoParams {
    fn default() -> Self {
        Self {
            seed: 1,
            scale: 1.0,
        }
    }
}

impl DemoParams {
    /// Rounds of the tasks 1, 2 and 3. A scale that is not a number counts as 0.
    pub(super) fn rounds(&self) -> [u32; 3] {
        // The clamped value fits a u32; a NaN passes `clamp` and becomes 0 in the cast.
        BASE_ROUNDS.map(|base| ((base * self.scale).clamp(1.0, MAX_ROUNDS) as u32).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_never_zero() {
        for scale in [0.0, -1.0, f64::NAN, 1e-9] {
            assert_eq!(
                DemoParams { seed: 0, scale }.rounds(),
                [1, 1, 1],
                "scale {scale}"
            );
        }
        let rounds = DemoParams {
            seed: 0,
            scale: f64::INFINITY,
        }
        .rounds();
        assert_eq!(rounds, [1_000_000_000; 3]);
    }
}

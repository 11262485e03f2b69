//! Task 2 (`guest/task_float.s`). With the precision control at 53 bits and no result near the
//! limits of the exponent, each x87 operation rounds exactly as the one on `f64` does.

use super::{Generator, Hash};
use crate::demo::results::TaskOutcome;

const SALT: u32 = 0xCC9E_2D51;

pub(super) fn expected(seed: u64, rounds: u32) -> TaskOutcome {
    let mut generator = Generator::new(seed, SALT);
    let mut hash = Hash::default();
    let mut acc = 1.0f64;
    let mut frac = 1.0f64;
    for _ in 0..rounds {
        let t = f64::from(generator.next() & 0xFF_FFFF) / 16_777_216.0 + 0.5;

        let mut term = 1.0;
        let mut sum = 1.0;
        for k in 1..=16 {
            term = term * t / f64::from(k);
            sum += term;
        }
        let y = f64::sqrt(sum);
        hash.mix((y as f32).to_bits());

        acc = y + acc * 0.625;
        if acc > 4.0 {
            acc -= 1.75;
        }
        hash.mix((acc * 1000.0).round_ties_even() as i32 as u32);
        hash.mix(acc.to_bits() as u32);
        hash.mix((acc.to_bits() >> 32) as u32);

        let mut z = 1.0;
        for j in (1..=8).rev() {
            z = t / (z + f64::from(j)) + 1.0;
        }
        frac = (z - frac * 0.5).abs();
        hash.mix(frac.to_bits() as u32);
    }
    TaskOutcome {
        values: [
            hash.0,
            frac.to_bits() as u32,
            (frac.to_bits() >> 32) as u32,
            rounds,
        ],
        faults: 3, // text, thread-local storage, variables
        syscalls: 2,
        ..TaskOutcome::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_value_stays_where_doubles_and_the_x87_agree() {
        for seed in 0..20 {
            let values = expected(seed, 1000).values;
            let frac = f64::from_bits(u64::from(values[2]) << 32 | u64::from(values[1]));
            assert!((0.1..2.0).contains(&frac), "{frac}");
        }
    }
}

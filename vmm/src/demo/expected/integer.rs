//! Task 1 (`guest/task_integer.s`).

use super::{Generator, Hash};
use crate::demo::results::TaskOutcome;

const SALT: u32 = 0x1B87_3593;
const N: usize = 1024;

pub(super) fn expected(seed: u64, rounds: u32) -> TaskOutcome {
    let mut generator = Generator::new(seed, SALT);
    let mut hash = Hash::default();
    let mut primes = 0u32;
    let mut divide_errors = 0;
    let table = crc_table();
    for _ in 0..rounds {
        let unsorted: [u32; N] = std::array::from_fn(|_| generator.next());
        let mut sorted = unsorted;
        sorted.sort_unstable();
        hash.mix(crc(&table, &sorted));
        primes = primes.wrapping_add(primes_below(4096 + (generator.0 as usize & 4095)));
        for (&value, &divisor) in unsorted[..64].iter().zip(&unsorted[64..]) {
            let (quotient, remainder) = match divisor & 63 {
                0 => {
                    divide_errors += 1;
                    (value, 0)
                }
                divisor => (value / divisor, value % divisor),
            };
            hash.mix(quotient.wrapping_add(remainder * 2).wrapping_add(1));
        }
        for pair in unsorted[..257].windows(2) {
            hash.0 = small_function(pair[0] & 3, hash.0, pair[1]);
        }
        hash.mix(fibonacci(10 + (generator.0 & 3)));
    }
    let traps = rounds.div_ceil(16);
    TaskOutcome {
        values: [hash.0, generator.0, primes, rounds],
        // Text, thread-local storage, stack, variables, two arrays, the sieve's two pages.
        faults: 8,
        syscalls: 2,
        divide_errors,
        protection_faults: traps,
        breakpoints: traps,
        ..TaskOutcome::default()
    }
}

fn crc_table() -> [u32; 256] {
    std::array::from_fn(|index| {
        (0..8).fold(index as u32, |crc, _| {
            if crc & 1 != 0 {
                crc >> 1 ^ 0xEDB8_8320
            } else {
                crc >> 1
            }
        })
    })
}

fn crc(table: &[u32; 256], words: &[u32]) -> u32 {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    !bytes.fold(u32::MAX, |crc, byte| {
        table[usize::from(crc as u8 ^ byte)] ^ crc >> 8
    })
}

fn primes_below(limit: usize) -> u32 {
    let mut composite = vec![false; limit];
    for p in (2..).take_while(|p| p * p < limit) {
        if !composite[p] {
            (p * p..limit)
                .step_by(p)
                .for_each(|multiple| composite[multiple] = true);
        }
    }
    composite[2..]
        .iter()
        .map(|&composite| u32::from(!composite))
        .sum()
}

fn small_function(which: u32, h: u32, v: u32) -> u32 {
    match which {
        0 => {
            let (sum, carry) = h.overflowing_add(v);
            sum.wrapping_add(carry.into())
        }
        1 => h.rotate_left(v & 31) ^ v,
        2 => {
            let product = u64::from(h) * u64::from(v);
            product as u32 ^ (product >> 32) as u32
        }
        _ => {
            let [low, high, rest @ ..] = (h << 7 | v >> 25).to_le_bytes();
            u32::from_be_bytes([high, low.wrapping_add(v as u8), rest[0], rest[1]])
        }
    }
}

fn fibonacci(n: u32) -> u32 {
    (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The check value of CRC-32 is that of "123456789"; eight bytes of it here.
        assert_eq!(
            crc(
                &crc_table(),
                &[u32::from_le_bytes(*b"1234"), u32::from_le_bytes(*b"5678")]
            ),
            0x9AE0_DAAF
        );
        assert_eq!(primes_below(4096), 564);
        assert_eq!(fibonacci(13), 233);
    }

    #[test]
    fn the_seed_matters() {
        assert_ne!(expected(1, 2).values, expected(2, 2).values);
        assert_ne!(expected(1, 2).values, expected(1 << 32, 2).values);
    }
}

//! What the guest must compute, computed on the host: the same arithmetic written a second time, in
//! Rust, and a model of the guest kernel's paging that predicts every page fault.

mod float;
mod integer;
mod pager;

use super::image::{image, image_sum};
use super::params::DemoParams;
use super::results::Outcome;

/// Page frames of the guest kernel's pool; all of them must be free again at the end.
const POOL_FRAMES: u32 = (0x40_0000 - 0x10_0000) / 0x1000;

/// The outcome that a run with `params` must have. Takes about as long as the guest's own
/// computation.
pub fn expected(params: &DemoParams) -> Outcome {
    let sum = image_sum(&image(params).bytes);
    let [integer, float, pager] = params.rounds();
    Outcome {
        image_sums: [sum; 2],
        free_frames: [POOL_FRAMES; 2],
        lost_accessed: 0,
        lost_dirty: 0,
        tasks: [
            integer::expected(params.seed, integer),
            float::expected(params.seed, float),
            pager::expected(params.seed, pager),
        ],
    }
}

/// Marsaglia's xorshift32.
#[derive(Debug, Clone, Copy)]
struct Generator(u32);

impl Generator {
    /// The generator of the task with this salt.
    fn new(seed: u64, salt: u32) -> Self {
        let mixed = seed as u32 ^ ((seed >> 32) as u32).rotate_left(7) ^ salt;
        Self(if mixed == 0 { salt } else { mixed })
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

/// The hash into which a task folds all it computes.
#[derive(Debug, Clone, Copy, Default)]
struct Hash(u32);

impl Hash {
    fn mix(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B1);
    }
}

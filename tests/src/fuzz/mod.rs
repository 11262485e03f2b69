//! Bodies of the fuzz targets: each takes bytes from outside, and panics where something is not as it has
//! to be. `tests/fuzz` runs them under libFuzzer, the test program `fuzz` over stored and random inputs.
//! What each checks is in `docs/fuzzing.md`.

mod bytes;
pub mod bzimage;
pub mod corpus;
pub mod floppy;
pub mod instruction_bytes;
pub mod page_tables;
pub mod ports;

use crate::generate::Rng;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its program and of its corpus.
    pub name: &'static str,
    /// Runs one input. Panics where an invariant does not hold.
    pub run: fn(&[u8]),
    /// Makes an input that is likely to get somewhere.
    pub make: fn(&mut Rng) -> Vec<u8>,
    /// Random inputs that a test run tries.
    pub inputs: u32,
}

/// All of them.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "instruction_bytes",
        run: instruction_bytes::run,
        make: instruction_bytes::make,
        inputs: 400,
    },
    Target {
        name: "page_tables",
        run: page_tables::run,
        make: page_tables::make,
        inputs: 60,
    },
    Target {
        name: "bzimage",
        run: bzimage::run,
        make: bzimage::make,
        inputs: 3000,
    },
    Target {
        name: "ports",
        run: ports::run,
        make: ports::make,
        inputs: 300,
    },
    Target {
        name: "floppy",
        run: floppy::run,
        make: floppy::make,
        inputs: 300,
    },
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

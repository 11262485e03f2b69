//! Generated ring-3 programs under a small kernel that sums up all they do to it: whichever engine
//! runs them, the sums are the same.

mod descriptors;
mod hostile;
mod layout;
mod ordinary;
mod process;
mod program;
mod sweep;

use std::fmt;

pub use layout::{Detail, MOST_PROGRAMS, selector, user};
pub use process::ProcessRunner;
pub use program::{Character, Page, program};
pub use sweep::SWEEPS;

use crate::generate::Rng;

/// A bzImage with the programs `numbers` of a seed, at most [`MOST_PROGRAMS`]. `detail` is what its
/// kernel prints.
#[must_use]
pub fn image(
    seed: u64,
    numbers: impl IntoIterator<Item = u32>,
    character: Character,
    detail: Detail,
) -> Vec<u8> {
    let programs: Vec<Page> = numbers
        .into_iter()
        .map(|number| program(seed, number, character))
        .collect();
    layout::image(&programs, &data(seed), character, detail)
}

/// What memory holds when each program of a seed starts.
#[must_use]
pub fn data(seed: u64) -> Vec<u8> {
    let mut data = vec![0; layout::DATA_BYTES as usize];
    Rng::new(seed).fill(&mut data);
    data
}

/// What the kernel printed of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the image.
    pub number: u32,
    /// Exceptions and system calls.
    pub events: u32,
    /// The sum of what each left in the registers; the sums of the FPU and of memory at the end.
    pub sums: [u32; 3],
    /// It was given up, as it never came to the kernel: not to be compared.
    pub hung: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [events, fpu, memory] = self.sums;
        write!(
            f,
            "program {}: {} events, sums {events:08x} {fpu:08x} {memory:08x}{}",
            self.number,
            self.events,
            if self.hung { ", given up" } else { "" }
        )
    }
}

/// The lines of a whole run, or what is wrong with it.
///
/// # Errors
///
/// When the kernel did not come to its end, or took an exception itself.
pub fn parse(console: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for text in console.lines().map(str::trim_end) {
        if text == "END" {
            return Ok(lines);
        }
        if text.starts_with(['!', '@']) {
            continue;
        }
        if text.starts_with('K') {
            return Err(format!("the kernel took an exception: {text}"));
        }
        let (hung, numbers) = match text.strip_prefix('H') {
            Some(numbers) => (true, numbers),
            None => (false, text),
        };
        let numbers: Vec<u32> = numbers
            .split_whitespace()
            .map_while(|word| u32::from_str_radix(word, 16).ok())
            .collect();
        let &[number, events, a, b, c] = numbers.as_slice() else {
            return Err(format!("not a line of a program: {text:?}"));
        };
        lines.push(Line {
            number,
            events,
            sums: [a, b, c],
            hung,
        });
    }
    Err("the end is missing".to_owned())
}

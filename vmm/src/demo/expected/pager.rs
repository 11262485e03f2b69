//! Task 3 (`guest/task_pager.s`) and a model of the guest kernel's paging (`guest/memory.s`).

use std::collections::VecDeque;

use super::{Generator, Hash};
use crate::demo::layout::{SPARSE_PAGES, SPARSE_QUOTA};
use crate::demo::results::TaskOutcome;

const SALT: u32 = 0x85EB_CA6B;
const ENOSYS: u32 = -38i32 as u32;
const WORDS: usize = 1024;

pub(super) fn expected(seed: u64, rounds: u32) -> TaskOutcome {
    let mut generator = Generator::new(seed, SALT);
    let mut kernel = Generator(seed as u32 | 1);
    let mut hash = Hash::default();
    let mut memory = Sparse::new();
    let mut page = 0;
    let mut protection_faults = 0;
    let mut syscalls = 4; // wait for others, sleep, write, exit
    for round in 0..rounds {
        let x = generator.next();
        page = if round & 3 == 0 {
            x >> 24
        } else {
            page + (x >> 29)
        } & (SPARSE_PAGES - 1);
        let word = (x >> 4) as usize & (WORDS - 1);
        match if page & 15 == 15 { 0 } else { x & 3 } {
            0 => hash.mix(memory.read(page, word)),
            1 | 2 => {
                let value = memory
                    .read(page, word)
                    .wrapping_mul(0x0100_0193)
                    .wrapping_add(x);
                memory.write(page, word, value);
                hash.mix(value);
            }
            _ => memory.write(page, word, x ^ hash.0),
        }

        let done = round + 1;
        if done & 15 == 0 {
            hash.mix((memory.read(page, word) & 0x7FFF_FFFF) / 7);
        }
        if done & 63 == 0 {
            syscalls += 1;
            let page = (page + 37) & (SPARSE_PAGES - 1);
            memory.in_kernel = true;
            (0..8).for_each(|index| memory.write(page, 0x40 + index, kernel.next()));
            memory.in_kernel = false;
            hash.mix(memory.read(page, 0x40));
            hash.mix(memory.read(page, 0x47));
        }
        if done & 127 == 0 {
            protection_faults += 1;
            syscalls += 2; // yield, and one that does not exist
            hash.mix(0);
            hash.mix(ENOSYS);
        }
        if done & 1023 == 0 {
            syscalls += 2; // write, sleep
        }
    }
    let sum = (0..SPARSE_PAGES).fold(0u32, |sum, page| {
        sum.wrapping_add(memory.read(page, page as usize))
    });
    TaskOutcome {
        values: [hash.0, generator.0, sum, rounds],
        faults: memory.counts.faults + 4, // text, thread-local storage, stack, variables
        syscalls,
        protection_faults,
        ..memory.counts
    }
}

/// A page of the region as the guest kernel's page-table entry tells it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Untouched,
    Zero,
    Resident { dirty: bool },
    Swapped,
}

/// The sparse region and the frames that the kernel grants it, first in, first out.
struct Sparse {
    content: Vec<[u32; WORDS]>,
    state: Vec<State>,
    resident: VecDeque<u32>,
    in_kernel: bool,
    counts: TaskOutcome,
}

impl Sparse {
    fn new() -> Self {
        Self {
            content: vec![[0; WORDS]; SPARSE_PAGES as usize],
            state: vec![State::Untouched; SPARSE_PAGES as usize],
            resident: VecDeque::new(),
            in_kernel: false,
            counts: TaskOutcome::default(),
        }
    }

    fn read(&mut self, page: u32, word: usize) -> u32 {
        match self.state[page as usize] {
            State::Untouched => {
                self.fault();
                self.counts.zero_maps += 1;
                self.state[page as usize] = State::Zero;
            }
            State::Swapped => self.swap_in(page),
            State::Zero | State::Resident { .. } => {}
        }
        self.content[page as usize][word]
    }

    fn write(&mut self, page: u32, word: usize, value: u32) {
        match self.state[page as usize] {
            State::Untouched => {
                self.fault();
                self.make_resident(page);
            }
            State::Zero => {
                self.fault();
                self.counts.copies += 1;
                self.make_resident(page);
            }
            State::Swapped => self.swap_in(page),
            State::Resident { .. } => {}
        }
        self.state[page as usize] = State::Resident { dirty: true };
        self.content[page as usize][word] = value;
    }

    fn fault(&mut self) {
        self.counts.faults += 1;
        self.counts.kernel_faults += u32::from(self.in_kernel);
    }

    fn swap_in(&mut self, page: u32) {
        self.fault();
        self.counts.swap_ins += 1;
        self.make_resident(page);
    }

    /// Give the page a frame, at the cost of the page that has had one for longest.
    fn make_resident(&mut self, page: u32) {
        if self.resident.len() == SPARSE_QUOTA as usize
            && let Some(oldest) = self.resident.pop_front()
        {
            self.counts.evictions += 1;
            if self.state[oldest as usize] == (State::Resident { dirty: true }) {
                self.counts.writebacks += 1;
            }
            self.state[oldest as usize] = State::Swapped;
        }
        self.resident.push_back(page);
        self.state[page as usize] = State::Resident { dirty: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_page_is_evicted_without_being_saved() {
        let mut memory = Sparse::new();
        (0..SPARSE_QUOTA).for_each(|page| memory.write(page, 0, page));
        memory.write(SPARSE_QUOTA, 0, 1); // evicts page 0, which is dirty
        assert_eq!((memory.counts.evictions, memory.counts.writebacks), (1, 1));
        assert_eq!(memory.read(0, 0), 0); // brings it back clean, evicts page 1
        (1..SPARSE_QUOTA).for_each(|page| assert_eq!(memory.read(page, 0), page));
        assert_eq!(memory.counts.swap_ins, SPARSE_QUOTA);
        memory.read(SPARSE_QUOTA, 0);
        memory.read(1, 0);
        let before = memory.counts;
        memory.read(2, 0);
        assert_eq!(memory.counts, before, "the read pages are resident");
    }

    #[test]
    fn every_kind_of_fault_occurs_in_a_run_of_full_size() {
        let outcome = expected(1, 4096);
        assert!(
            outcome.kernel_faults > 10 && outcome.copies > 10 && outcome.zero_maps > outcome.copies
        );
        assert!(
            outcome.swap_ins > 100
                && outcome.evictions > outcome.writebacks
                && outcome.writebacks > 100
        );
    }
}

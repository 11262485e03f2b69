//! The demo guest: a small operating system, embedded in the VMM, that takes a vCPU through
//! everything the hybrid does.
//!
//! It starts in real mode, opens the A20 gate, enters protected mode with paging (4 KiB pages, and
//! one of 4 MiB if CPUID reports PSE) and runs three ring-3 tasks in address spaces of their own,
//! preempted by the 8254:
//!
//! 1. integer work (sorting, CRC, sieve, division by zero, indirect calls, recursion),
//! 2. x87 series with the precision control set to double,
//! 3. a sparse region that the kernel pages on demand within a quota of frames, system calls, text
//!    for the serial port.
//!
//! Then it leaves paging and protected mode again, prints a report from real mode and powers the
//! machine off. It needs nothing but a processor, 8259s, an 8254, a 16550, port 92h and the PM1a
//! control register; no firmware.
//!
//! Its [results](DemoResults) lie in guest memory at [`RESULT_ADDRESS`]. [`expected`] computes the
//! part that depends on nothing but the [parameters](DemoParams) on the host, with code that shares
//! nothing with the guest's, and [`check`] compares. Faults, system calls and evictions are counted
//! on both sides, so a lost dirty bit, a fault too many or a register that did not survive an
//! interrupt shows.
//!
//! The guest's source is `guest/*.s`: `layout` (maps and constants), `boot16`, `setup`, `trap`,
//! `sched`, `memory`, `syscall`, the three tasks, `report`.

mod check;
mod expected;
mod image;
mod layout;
mod params;
mod results;

pub use check::{Check, check};
pub use expected::expected;
pub use image::{DemoImage, image};
pub use layout::{LOAD_ADDRESS, MEMORY_BYTES, RESULT_ADDRESS};
pub use params::DemoParams;
pub use results::{Counts, DemoError, DemoResults, Outcome, TaskOutcome, read_results};

#[cfg(test)]
mod qemu;

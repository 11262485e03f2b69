//! The programs of `guests/programs`, which run as processes of a 32-bit Linux and print what the
//! processor did: in Ringshift, in QEMU TCG, and natively on the host.
//!
//! Every line is `NAME: RESULT`, and what it has to be follows from the two references, see
//! [`compare()`].

pub mod build;
pub mod compare;
pub mod differences;
pub mod output;

pub use build::{BuildError, build, run_natively};
pub use compare::{Comparison, compare};
pub use differences::of_an_emulated_host;
pub use output::Output;

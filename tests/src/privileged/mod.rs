//! Privileged and sensitive instructions: every one, at every privilege level, in every mode.
//!
//! [`cases`] makes the cases and [`model`] says what each must do, by the Intel SDM. [`image`] puts
//! them behind a [`driver`], a small kernel that runs them one by one and sends what it finds on
//! the serial port. [`machines`] runs the same image in Ringshift, QEMU and Bochs, [`outcome`]
//! compares, and [`explain`] says why QEMU or Bochs may differ.

pub mod case;
pub mod cases;
pub mod driver;
pub mod explain;
mod field;
pub mod image;
pub mod layout;
pub mod left_out;
pub mod machines;
pub mod model;
pub mod op;
pub mod outcome;
mod real;
pub mod report;
pub mod units;
pub mod world;

use std::sync::LazyLock;

pub use field::{Field, State};
use world::Memory;

/// The world before a case changes it.
pub(crate) fn world() -> &'static Memory {
    static WORLD: LazyLock<Memory> =
        LazyLock::new(|| world::pristine().expect("the driver's instructions encode"));
    &WORLD
}

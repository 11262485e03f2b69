//! A virtual machine monitor that switches between direct execution and binary translation.
//!
//! The crate assembles a [`machine`] from the shadow MMU, the vCPU with its translator, the devices
//! and the decision policy, and runs it in the run loop. Direct execution ([`direct`]) is reached
//! through the port in [`engine`].

pub mod board;
pub mod boot_order;
pub mod cli;
mod clock;
pub mod console;
pub mod control;
pub mod demo;
pub mod direct;
pub mod disk;
pub mod engine;
pub mod exits;
pub mod firmware;
pub mod guest;
pub mod helper;
pub mod image_kind;
pub mod inputs;
pub mod loader;
pub mod machine;
pub mod memory_size;
pub mod memory_use;
pub mod nmi;
pub mod profile;
pub mod report;
mod run_loop;
pub mod serial;
pub mod trace;
mod video;

/// Compiles the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

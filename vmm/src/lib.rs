//! A virtual machine monitor that switches between direct execution and binary translation.

pub mod engine;

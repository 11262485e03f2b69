//! Control of a running machine from outside: the monitor console, scripts, the terminal display.
//!
//! All of them are threads of their own that hold a [`Remote`], send it a [`Command`] and wait for
//! the answer. The vCPU thread carries commands out between two runs of an engine.

pub mod command;
pub mod display;
pub mod keys;
pub mod monitor;
mod remote;
pub mod script;
mod serve;
mod typing;

pub use command::{Command, CommandError};
pub use remote::{Gone, Look, Remote, Reply, Request};
pub(crate) use serve::save_png;
pub(crate) use typing::Typing;

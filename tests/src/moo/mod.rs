//! Recorded behaviour of real processors, one instruction at a time, and how the translator is
//! compared with it.
//!
//! The recordings are in the MOO format of the SingleStepTests project: chunks of a 4-byte tag, a
//! 32-bit length and a body, little-endian. Read here are the chunks that describe the state before
//! and after; bus cycles and hashes are not.

pub mod flags;
pub mod machine;
pub mod metadata;
mod parse;
pub mod report;
pub mod rules;

pub use parse::{Case, Exception, MooError, Register, State, parse, read_gz};

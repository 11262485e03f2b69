//! Cases for the comparison with the real processor, generated from iced's tables.
//!
//! [`forms`] lists what there is to test: every instruction of a [`Processor`] in every shape of its
//! operands. [`generate`] makes the `n`th case of a form: bytes, registers and memory, all of them a
//! function of the seed.

mod address;
mod case;
mod contents;
mod exclusions;
mod form;
mod fpu;
mod operand;
mod program;
mod rng;
mod sequence;

pub use address::Placed;
pub use case::{Case, Patch, generate};
pub use exclusions::{Exclusion, exclusion};
pub use form::{Address, CORE_DUO, Form, Prefix, Processor, forms};
pub use rng::Rng;
pub use sequence::{Sequence, generate_sequence, sequence_forms};

//! The comparison of translated code with the host processor, one instruction at a time.
//!
//! The same case runs natively ([`crate::native`]) and in a guest of the translator
//! ([`TranslatedRunner`]) whose page tables, descriptors and memory are those of the same stage.
//! [`compare`](fn@compare) says what differs and may not.

mod compare;
mod guest;
mod report;
mod settings;
mod translated;
mod undefined;
mod unpredictable;

pub use compare::{Difference, compare};
pub use guest::World;
pub use report::{Failure, describe, describe_sequence};
pub use settings::Settings;
pub use translated::{Manner, TranslatedError, TranslatedRunner};
pub use undefined::Open;
pub use unpredictable::{Unpredictable, unpredictable};

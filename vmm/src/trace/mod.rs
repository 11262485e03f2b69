//! The trace: every switch between the engines, in a file.
//!
//! ```text
//! vCPU thread:  Recorder --> ring (no lock) --> drain thread --> file
//!                                                                 |
//!               summary, export  <---------- TraceReader <--------+
//! ```
//!
//! The run is never held up: what the drain thread cannot take in time, or the file not hold, is
//! lost, and the loss is counted.

mod drain;
mod export;
mod format;
mod reader;
mod ring;
mod summary;
mod symbols;

pub use drain::{Losses, Recorder, Tracer};
pub use export::{ExportError, Format, export};
pub use format::{End, EndOfVcpu, Header, VERSION};
pub use reader::{Item, TraceError, TraceReader};
pub use summary::{Histogram, Summary};
pub use symbols::{SymbolError, Symbols};

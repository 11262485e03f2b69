//! The host processor as an oracle: unprivileged 16- and 32-bit instructions run natively in a child
//! process, in compatibility mode.
//!
//! The child's pages below 4 GiB and its local descriptor table are those of a [`Scene`], usually those
//! of [`stage`]. It spends its whole life inside one signal handler: returning from it loads a
//! complete register file and enters the code under test, and whatever stops that code (the INT3
//! behind it, or a fault) brings it back with everything recorded. So a case costs one round trip
//! through the kernel, and no case can disturb the test process.

mod child;
mod runner;
mod scene;
pub mod stage;
mod state;

pub use runner::{NativeError, NativeRunner};
pub use scene::{Mapping, Scene};
pub use state::{MachineState, Outcome, Trap};

//! The devices of a PC of the 1990s: buses, interrupt controllers, timers, DMA, keyboard
//! controller, floppy, serial port, PCI configuration, power management.
//!
//! [`Chipset`] is the whole board. Inside, a device
//!
//! - owns [wires](mod@line), not interrupt numbers;
//! - is told the [time] with every access and never asks for it;
//! - has no thread, no knowledge of the processor and nothing global;
//! - keeps configuration, wiring and volatile state apart: a reset rebuilds the last, a snapshot
//!   saves it;
//! - has its register definitions, with the data sheet's names, in a module `spec` of its own.
//!
//! What each device emulates and what it does not is in the crate's `README.md`.

pub mod a20;
pub mod acpi;
pub mod bus;
pub mod chipset;
pub mod debug_port;
pub mod device;
pub mod dma;
pub mod event;
pub mod fdc;
pub mod fpu_error;
pub mod fw_cfg;
pub mod i8042;
mod limit;
pub mod line;
pub mod memory;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod port92;
pub mod rtc;
pub mod serial;
#[cfg(test)]
mod testing;
pub mod time;
pub mod vga;

pub use chipset::{Chipset, ChipsetConfig, ChipsetCounters, ChipsetState, Claims};
pub use device::{AccessSize, Device, MmioDevice, PortDevice};
pub use event::{ChipsetEvent, ResetKind};
pub use pit::NmiSource;
pub use time::{Nanos, WallClock};
pub use vga::{Picture, TextScreen, VgaConfig, VideoWindow};

/// Keeps the example in the README compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

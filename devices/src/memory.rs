//! Guest memory as a bus master sees it.

use thiserror::Error;

/// There is no memory at {address:#x}.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no memory at {address:#x}")]
pub struct NoMemory {
    /// Guest-physical address of the access.
    pub address: u64,
}

/// Guest-physical memory, lent to a device that transfers data by itself. Addresses are those on
/// the bus: the A20 gate does not apply.
pub trait GuestMemory {
    /// Fills `data` from memory at `address`.
    ///
    /// # Errors
    ///
    /// Part of the range is no memory; what `data` holds then is undefined.
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory>;

    /// Writes `data` to memory at `address`; ROM ignores it.
    ///
    /// # Errors
    ///
    /// Part of the range is no memory.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory>;
}

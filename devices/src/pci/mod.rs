//! PCI: configuration mechanism #1 and the bus behind it.
//!
//! Functions are added at a place on bus 0. A function that is not there answers with all ones,
//! as the master abort of a host bridge does, so an operating system finds the host bridge and
//! nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};

pub mod config;
pub mod host_bridge;
pub mod spec;
#[cfg(test)]
mod tests;

use config::ConfigSpace;
use host_bridge::HostBridge;
use spec::{ADDRESS_MASK, Bdf, CONFIG_ADDRESS, CONFIG_DATA, ENABLE};

/// One PCI function, as its configuration space is accessed.
pub trait PciDevice: Send {
    /// Reads the double word at `offset`, a multiple of 4.
    fn config_read(&mut self, offset: u8) -> u32;

    /// Writes the double word at `offset`, a multiple of 4. Only the bytes that are ones in
    /// `mask` are written.
    fn config_write(&mut self, offset: u8, value: u32, mask: u32);

    /// The RST# wire.
    fn reset(&mut self);

    /// The plain configuration space to save, for a function that has one.
    fn config_space(&self) -> Option<&ConfigSpace> {
        None
    }

    /// Takes a saved configuration space over.
    fn restore_config_space(&mut self, _space: ConfigSpace) {}
}

/// A function could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PciError {
    /// There is a function at {bus:02x}:{device:02x}.{function} already.
    #[error("there is a function at {bus:02x}:{device:02x}.{function} already")]
    Occupied {
        /// Bus number.
        bus: u8,
        /// Device number.
        device: u8,
        /// Function number.
        function: u8,
    },
}

/// State of the configuration mechanism and of the host bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciState {
    address: u32,
    host_bridge: ConfigSpace,
}

/// The host side of the PCI bus.
pub struct PciHost {
    host_bridge: HostBridge,
    functions: BTreeMap<Bdf, Box<dyn PciDevice>>,
    // Volatile.
    address: u32,
}

/// Where the host bridge itself is.
const HOST_BRIDGE: Bdf = Bdf::root(0, 0);

impl PciHost {
    /// A bus with nothing on it but the host bridge.
    pub fn new() -> Self {
        Self {
            host_bridge: HostBridge::new(),
            functions: BTreeMap::new(),
            address: 0,
        }
    }

    /// Adds a function.
    ///
    /// # Errors
    ///
    /// [`PciError::Occupied`] if there is one at that place.
    pub fn add(&mut self, at: Bdf, function: Box<dyn PciDevice>) -> Result<(), PciError> {
        if at == HOST_BRIDGE || self.functions.contains_key(&at) {
            return Err(PciError::Occupied {
                bus: at.bus,
                device: at.device,
                function: at.function,
            });
        }
        self.functions.insert(at, function);
        Ok(())
    }

    /// The host bridge, for its memory attribute registers.
    pub fn host_bridge(&self) -> &HostBridge {
        &self.host_bridge
    }

    /// The RST# wire of the bus.
    pub fn reset(&mut self) {
        self.address = 0;
        self.host_bridge.reset();
        for function in self.functions.values_mut() {
            function.reset();
        }
    }

    /// The state, for a snapshot. Functions that were added save their own.
    pub fn state(&self) -> PciState {
        PciState {
            address: self.address,
            host_bridge: self.host_bridge.config_space().cloned().unwrap_or_default(),
        }
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: PciState) {
        self.address = state.address & ADDRESS_MASK;
        self.host_bridge.restore_config_space(state.host_bridge);
    }

    /// The function that CONFIG_ADDRESS selects, and the offset in its space.
    fn selected(&mut self) -> Option<(&mut dyn PciDevice, u8)> {
        if self.address & ENABLE == 0 {
            return None;
        }
        let offset = self.address as u8 & 0xfc;
        let at = Bdf::from_address(self.address);
        if at == HOST_BRIDGE {
            return Some((&mut self.host_bridge, offset));
        }
        let function = self.functions.get_mut(&at)?;
        Some((function.as_mut(), offset))
    }
}

impl Default for PciHost {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for PciHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PciHost")
            .field("address", &format_args!("{:#010x}", self.address))
            .field("functions", &self.functions.keys())
            .finish_non_exhaustive()
    }
}

impl PortDevice for PciHost {
    fn port_read(&mut self, port: u16, size: AccessSize, _now: Nanos) -> u32 {
        match (port, size) {
            (CONFIG_ADDRESS, AccessSize::Dword) => self.address,
            // Smaller accesses are passed on to the bus, where nobody takes them.
            (..CONFIG_DATA, _) => size.ones(),
            _ => {
                let shift = 8 * u32::from(port & 3);
                self.selected().map_or(size.ones(), |(function, offset)| {
                    function.config_read(offset) >> shift
                })
            }
        }
    }

    fn port_write(&mut self, port: u16, size: AccessSize, value: u32, _now: Nanos) {
        match (port, size) {
            (CONFIG_ADDRESS, AccessSize::Dword) => self.address = value & ADDRESS_MASK,
            (..CONFIG_DATA, _) => {}
            _ => {
                let shift = 8 * u32::from(port & 3);
                if let Some((function, offset)) = self.selected() {
                    function.config_write(offset, value << shift, size.ones() << shift);
                }
            }
        }
    }
}

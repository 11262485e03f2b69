//! PCI: configuration mechanism #1 and the bus behind it.
//!
//! On bus 0 there are the host bridge, the ISA bridge and the power management function; others
//! are added at a place of their own. A function that is not there answers with all ones, as the
//! master abort of a host bridge does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};

pub mod config;
pub mod host_bridge;
pub mod isa_bridge;
pub mod power_management;
pub mod spec;
#[cfg(test)]
mod tests;

use config::ConfigSpace;
use host_bridge::HostBridge;
use isa_bridge::IsaBridge;
use power_management::PowerManagement;
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

/// State of the configuration mechanism and of the board's functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciState {
    address: u32,
    host_bridge: ConfigSpace,
    isa_bridge: ConfigSpace,
    power_management: ConfigSpace,
    /// Functions that were added, as far as they have a plain space.
    functions: Vec<(Bdf, ConfigSpace)>,
}

/// The host side of the PCI bus.
pub struct PciHost {
    host_bridge: HostBridge,
    isa_bridge: IsaBridge,
    power_management: PowerManagement,
    functions: BTreeMap<Bdf, Box<dyn PciDevice>>,
    // Volatile.
    address: u32,
    /// A function of the board was written to: the board's wiring may have changed.
    written: bool,
}

/// Where the host bridge is.
const HOST_BRIDGE: Bdf = Bdf::root(0, 0);
/// Where the ISA bridge is.
const ISA_BRIDGE: Bdf = Bdf::root(1, 0);
/// Where the power management function is.
const POWER_MANAGEMENT: Bdf = Bdf::root(1, 3);

impl PciHost {
    /// A bus with nothing on it but the board's own functions.
    pub fn new(isa_bridge: IsaBridge, power_management: PowerManagement) -> Self {
        Self {
            host_bridge: HostBridge::new(),
            isa_bridge,
            power_management,
            written: false,
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
        let board = [HOST_BRIDGE, ISA_BRIDGE, POWER_MANAGEMENT];
        if board.contains(&at) || self.functions.contains_key(&at) {
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

    /// The ISA bridge, for interrupt lines.
    pub fn isa_bridge(&self) -> &IsaBridge {
        &self.isa_bridge
    }

    /// Whether a PCI interrupt line has changed. Cheap.
    #[inline]
    pub(crate) fn interrupts_changed(&self) -> bool {
        self.isa_bridge.has_changes()
    }

    /// Passes the PCI interrupt lines on to the interrupt controllers.
    pub(crate) fn drive_interrupts(&mut self) {
        self.isa_bridge.drive();
    }

    /// The power management function, for the place of its registers.
    pub fn power_management(&self) -> &PowerManagement {
        &self.power_management
    }

    /// Whether a function of the board was written to since the last call.
    pub(crate) fn take_written(&mut self) -> bool {
        std::mem::take(&mut self.written)
    }

    /// The RST# wire of the bus.
    pub fn reset(&mut self) {
        self.address = 0;
        self.written = true;
        self.host_bridge.reset();
        self.isa_bridge.reset();
        self.power_management.reset();
        for function in self.functions.values_mut() {
            function.reset();
        }
    }

    /// The state, for a snapshot. Functions that were added save what is beyond a plain
    /// configuration space.
    pub fn state(&self) -> PciState {
        let functions = self.functions.iter();
        let plain = functions.filter_map(|(at, function)| Some((*at, function.config_space()?)));
        PciState {
            address: self.address,
            host_bridge: saved(&self.host_bridge),
            isa_bridge: saved(&self.isa_bridge),
            power_management: saved(&self.power_management),
            functions: plain.map(|(at, space)| (at, space.clone())).collect(),
        }
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: PciState) {
        self.address = state.address & ADDRESS_MASK;
        self.written = true;
        self.host_bridge.restore_config_space(state.host_bridge);
        self.isa_bridge.restore_config_space(state.isa_bridge);
        self.power_management
            .restore_config_space(state.power_management);
        for (at, space) in state.functions {
            if let Some(function) = self.functions.get_mut(&at) {
                function.restore_config_space(space);
            }
        }
    }

    /// The function that CONFIG_ADDRESS selects, and the offset in its space.
    fn selected(&mut self) -> Option<(&mut dyn PciDevice, u8)> {
        if self.address & ENABLE == 0 {
            return None;
        }
        let offset = self.address as u8 & 0xfc;
        let at = Bdf::from_address(self.address);
        let function: &mut dyn PciDevice = match at {
            HOST_BRIDGE => &mut self.host_bridge,
            ISA_BRIDGE => &mut self.isa_bridge,
            POWER_MANAGEMENT => &mut self.power_management,
            _ => self.functions.get_mut(&at)?.as_mut(),
        };
        Some((function, offset))
    }
}

/// The configuration space of a function that has a plain one.
fn saved(function: &impl PciDevice) -> ConfigSpace {
    function.config_space().cloned().unwrap_or_default()
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
                    self.written = true;
                }
            }
        }
    }
}

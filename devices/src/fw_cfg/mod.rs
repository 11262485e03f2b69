//! The firmware configuration device: what the monitor wants the firmware to know, as numbered
//! items of bytes, some of them files with names (QEMU, docs/specs/fw_cfg.rst).
//!
//! Items are read byte by byte from a port, or into memory by a transfer that the device makes
//! itself. No item can be written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::event::{EventSink, Signal};
use crate::limit::LogLimit;
use crate::memory::GuestMemory;

pub mod spec;
#[cfg(test)]
mod tests;

use spec::{
    Control, DATA, DESCRIPTOR_LEN, DMA_HIGH, DMA_LOW, DMA_SIGNATURE, ENTRY_LEN, FEATURE_DMA,
    FEATURE_TRADITIONAL, NAME_LEN, SELECTOR, key,
};

/// The longest transfer in bytes; the largest items are option ROMs.
const MAX_TRANSFER: u32 = 16 << 20;
/// Bytes that are copied at a time.
const CHUNK: usize = 4096;

/// A file could not be added.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FwCfgError {
    /// The name {0:?} is longer than 55 bytes or holds a zero byte.
    #[error("the name {0:?} is longer than 55 bytes or holds a zero byte")]
    Name(String),
    /// There is a file {0:?} already.
    #[error("there is a file {0:?} already")]
    Exists(String),
    /// The file {0:?} has 4 GiB or more.
    #[error("the file {0:?} has 4 GiB or more")]
    Size(String),
    /// There are too many files.
    #[error("there are too many files")]
    TooMany,
}

/// The items that the firmware finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwCfgItems {
    items: BTreeMap<u16, Vec<u8>>,
    /// Names of the files, in the order of their keys.
    names: Vec<String>,
}

impl FwCfgItems {
    /// What every firmware asks for: signature, features, one processor, an empty directory.
    pub fn new() -> Self {
        let features = FEATURE_TRADITIONAL | FEATURE_DMA;
        let one = 1u16.to_le_bytes().to_vec();
        let items = [
            (key::SIGNATURE, b"QEMU".to_vec()),
            (key::ID, features.to_le_bytes().to_vec()),
            (key::PROCESSORS, one.clone()),
            (key::MAX_PROCESSORS, one),
            (key::FILE_DIRECTORY, 0u32.to_be_bytes().to_vec()),
        ];
        Self {
            items: items.into(),
            names: Vec::new(),
        }
    }

    /// Sets a 16-bit item that is no file.
    pub fn set_word(&mut self, key: u16, value: u16) {
        self.items.insert(key, value.to_le_bytes().to_vec());
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// [`FwCfgError`]: a bad or known name, or a file that is too large.
    pub fn add_file(&mut self, name: &str, contents: Vec<u8>) -> Result<(), FwCfgError> {
        if name.len() >= NAME_LEN || name.contains('\0') {
            return Err(FwCfgError::Name(name.to_owned()));
        }
        if self.names.iter().any(|known| known == name) {
            return Err(FwCfgError::Exists(name.to_owned()));
        }
        let size = u32::try_from(contents.len()).map_err(|_| FwCfgError::Size(name.to_owned()))?;
        let key = u16::try_from(self.names.len())
            .ok()
            .and_then(|index| index.checked_add(key::FIRST_FILE))
            .filter(|key| key & key::MASK == *key)
            .ok_or(FwCfgError::TooMany)?;
        self.names.push(name.to_owned());
        self.items.insert(key, contents);
        let directory = self.items.entry(key::FILE_DIRECTORY).or_default();
        directory.extend(size.to_be_bytes());
        directory.extend(key.to_be_bytes());
        directory.extend([0; 2]);
        let end = directory.len() + NAME_LEN;
        directory.extend(name.as_bytes());
        directory.resize(end, 0);
        let count = ((directory.len() - 4) / ENTRY_LEN) as u32;
        if let Some(field) = directory.get_mut(..4) {
            field.copy_from_slice(&count.to_be_bytes());
        }
        Ok(())
    }

    /// The contents of a file.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        let index = self.names.iter().position(|known| known == name)?;
        let key = key::FIRST_FILE.checked_add(u16::try_from(index).ok()?)?;
        self.items.get(&key).map(Vec::as_slice)
    }
}

impl Default for FwCfgItems {
    fn default() -> Self {
        Self::new()
    }
}

/// State of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfgState {
    selected: u16,
    offset: u32,
    dma_high: u32,
    /// Address of a descriptor that waits to be carried out.
    pending: Option<u64>,
}

/// The firmware configuration device.
#[derive(Debug)]
pub struct FwCfg {
    items: FwCfgItems,
    // Wiring.
    events: EventSink,
    // Volatile.
    state: FwCfgState,
    log: LogLimit,
}

impl FwCfg {
    /// A device with `items`, which tells `events` when it needs memory.
    pub fn new(items: FwCfgItems, events: EventSink) -> Self {
        Self {
            items,
            events,
            state: FwCfgState::default(),
            log: LogLimit::default(),
        }
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.state = FwCfgState::default();
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &FwCfgState {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: FwCfgState) {
        self.state = state;
        if self.state.pending.is_some() {
            self.events.signal(Signal::Dma);
        }
    }

    /// Carries out the transfer that waits, if one does.
    pub fn transfer(&mut self, memory: &mut dyn GuestMemory) {
        let Some(at) = self.state.pending.take() else {
            return;
        };
        let mut descriptor = [0; DESCRIPTOR_LEN];
        if memory.read(at, &mut descriptor).is_err() {
            if self.log.allow() {
                warn!(address = format_args!("{at:#x}"), "no DMA descriptor there");
            }
            return;
        }
        let field = |index: usize| {
            let (words, _) = descriptor.as_chunks::<4>();
            words.get(index).copied().map_or(0, u32::from_be_bytes)
        };
        let address = u64::from(field(2)) << 32 | u64::from(field(3));
        let done = self.carry_out(field(0), field(1), address, memory);
        let status = if done { 0 } else { Control::ERROR.bits() };
        // The descriptor was read there, so that this fails only where memory went meanwhile.
        let _ = memory.write(at, &status.to_be_bytes());
    }

    fn carry_out(
        &mut self,
        control: u32,
        length: u32,
        address: u64,
        memory: &mut dyn GuestMemory,
    ) -> bool {
        let flags = Control::from_bits_truncate(control);
        if flags.contains(Control::SELECT) {
            self.select((control >> 16) as u16);
        }
        if flags.contains(Control::READ) {
            return length <= MAX_TRANSFER && self.copy_out(length, address, memory);
        }
        if flags.contains(Control::WRITE) {
            return false;
        }
        if flags.contains(Control::SKIP) {
            self.state.offset = self.state.offset.saturating_add(length);
        }
        true
    }

    /// Copies from the item to memory; beyond its end there are zeros.
    fn copy_out(&mut self, length: u32, mut address: u64, memory: &mut dyn GuestMemory) -> bool {
        let mut left = length as usize;
        while left > 0 {
            let count = left.min(CHUNK);
            let mut chunk = [0; CHUNK];
            let Some(chunk) = chunk.get_mut(..count) else {
                return false;
            };
            let rest = self.rest();
            let there = rest.len().min(count);
            if let (Some(to), Some(from)) = (chunk.get_mut(..there), rest.get(..there)) {
                to.copy_from_slice(from);
            }
            if memory.write(address, chunk).is_err() {
                return false;
            }
            self.state.offset = self.state.offset.saturating_add(count as u32);
            address = address.wrapping_add(count as u64);
            left -= count;
        }
        true
    }

    fn select(&mut self, selected: u16) {
        self.state.selected = selected & key::MASK;
        self.state.offset = 0;
    }

    /// What is left of the selected item.
    fn rest(&self) -> &[u8] {
        let item = self.items.items.get(&self.state.selected);
        item.and_then(|bytes| bytes.get(self.state.offset as usize..))
            .unwrap_or(&[])
    }

    fn read_data(&mut self) -> u8 {
        let byte = self.rest().first().copied().unwrap_or(0);
        self.state.offset = self.state.offset.saturating_add(1);
        byte
    }
}

impl PortDevice for FwCfg {
    fn port_read(&mut self, port: u16, size: AccessSize, _now: Nanos) -> u32 {
        match (port, size) {
            (DATA, AccessSize::Byte) => u32::from(self.read_data()),
            (DMA_HIGH, AccessSize::Dword) => ((DMA_SIGNATURE >> 32) as u32).swap_bytes(),
            (DMA_LOW, AccessSize::Dword) => (DMA_SIGNATURE as u32).swap_bytes(),
            // The selector cannot be read, and the DMA register only whole.
            _ => 0,
        }
    }

    fn port_write(&mut self, port: u16, size: AccessSize, value: u32, _now: Nanos) {
        match (port, size) {
            (SELECTOR, AccessSize::Word) => self.select(value as u16),
            (DMA_HIGH, AccessSize::Dword) => self.state.dma_high = value.swap_bytes(),
            (DMA_LOW, AccessSize::Dword) => {
                let high = std::mem::take(&mut self.state.dma_high);
                let low = value.swap_bytes();
                self.state.pending = Some(u64::from(high) << 32 | u64::from(low));
                self.events.signal(Signal::Dma);
            }
            _ => {}
        }
    }
}

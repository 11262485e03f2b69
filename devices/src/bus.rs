//! The port bus and the memory-mapped bus: who answers at an address.
//!
//! A bus knows ranges and the widths their devices take, not the devices. The devices are handed
//! in with each access as a [`PortDevices`] or [`MmioDevices`], which keeps them plain fields of
//! their owner.
//!
//! An access goes to the device at its first address whole if that device takes the width and
//! the access is aligned; otherwise it is split into halves, low half first, as the ISA bus
//! controller does for 8-bit cards. What nobody claims reads as all ones and swallows writes.

use std::ops::RangeInclusive;

use thiserror::Error;
use tracing::{debug, trace};

use crate::Nanos;
use crate::device::{AccessSize, MmioDevice, PortDevice};
use crate::limit::LogLimit;

/// Names a device to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId(pub u8);

/// A range could not be registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BusError {
    /// The range {start:#x}..={end:#x} is claimed at {at:#x} by device {owner}.
    #[error("the range {start:#x}..={end:#x} is claimed at {at:#x} by device {owner}")]
    Conflict {
        /// First address asked for.
        start: u64,
        /// Last address asked for.
        end: u64,
        /// First address that is taken.
        at: u64,
        /// Number of the device that has it.
        owner: u8,
    },
    /// The range {start:#x}..={end:#x} is empty.
    #[error("the range {start:#x}..={end:#x} is empty")]
    Empty {
        /// First address asked for.
        start: u64,
        /// Last address asked for.
        end: u64,
    },
    /// There are too many devices.
    #[error("there are too many devices")]
    TooManyDevices,
}

/// The owner of the devices on a port bus.
pub trait PortDevices {
    /// The device with that name, if it has ports.
    fn port_device(&mut self, id: DeviceId) -> Option<&mut dyn PortDevice>;
}

/// The owner of the devices on a memory-mapped bus.
pub trait MmioDevices {
    /// The device with that name, if it has memory.
    fn mmio_device(&mut self, id: DeviceId) -> Option<&mut dyn MmioDevice>;
}

/// Accesses that a bus carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusCounters {
    /// Reads by the guest.
    pub reads: u64,
    /// Writes by the guest.
    pub writes: u64,
    /// Accesses, or parts of accesses, that nobody answered.
    pub unclaimed: u64,
}

/// One entry for each port: the device and the widest access it takes there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PortEntry {
    id: DeviceId,
    width: Option<AccessSize>,
}

const NO_PORT: PortEntry = PortEntry {
    id: DeviceId(0),
    width: None,
};

/// The 64 Ki I/O ports.
pub struct PortBus {
    /// Indexed by port: a calibration loop may spend its life here.
    entries: Box<[PortEntry]>,
    counters: BusCounters,
    /// Unclaimed ports that were logged, so that each is named once.
    logged: Vec<u16>,
}

/// Unclaimed ports that are named in the log.
const LOGGED_PORTS: usize = 256;

impl PortBus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self {
            entries: vec![NO_PORT; 1 << 16].into_boxed_slice(),
            counters: BusCounters::default(),
            logged: Vec::new(),
        }
    }

    /// Gives `ports` to device `id`, which takes aligned accesses up to `width` wide.
    ///
    /// # Errors
    ///
    /// [`BusError`] if the range is empty or one of the ports is taken; nothing is changed then.
    pub fn register(
        &mut self,
        ports: RangeInclusive<u16>,
        width: AccessSize,
        id: DeviceId,
    ) -> Result<(), BusError> {
        let (start, end) = (u64::from(*ports.start()), u64::from(*ports.end()));
        let range = usize::from(*ports.start())..=usize::from(*ports.end());
        let Some(entries) = self.entries.get_mut(range).filter(|e| !e.is_empty()) else {
            return Err(BusError::Empty { start, end });
        };
        if let Some(index) = entries.iter().position(|e| e.width.is_some()) {
            return Err(BusError::Conflict {
                start,
                end,
                at: start + index as u64,
                owner: entries.get(index).map_or(0, |e| e.id.0),
            });
        }
        entries.fill(PortEntry {
            id,
            width: Some(width),
        });
        Ok(())
    }

    /// Takes those of `ports` that device `id` has away from it (a PCI base address moved).
    pub fn unregister(&mut self, ports: RangeInclusive<u16>, id: DeviceId) {
        let range = usize::from(*ports.start())..=usize::from(*ports.end());
        if let Some(entries) = self.entries.get_mut(range) {
            for entry in entries.iter_mut().filter(|e| e.id == id) {
                *entry = NO_PORT;
            }
        }
    }

    /// The device that has `port`.
    pub fn owner(&self, port: u16) -> Option<DeviceId> {
        let entry = self.entry(port);
        entry.width.map(|_| entry.id)
    }

    /// What the bus has carried.
    pub fn counters(&self) -> BusCounters {
        self.counters
    }

    /// Reads `size` at `port`.
    #[inline]
    pub fn read<D: PortDevices>(
        &mut self,
        devices: &mut D,
        port: u16,
        size: AccessSize,
        now: Nanos,
    ) -> u32 {
        self.counters.reads += 1;
        self.read_part(devices, u32::from(port), size, now)
    }

    /// Writes the low `size` of `value` at `port`.
    #[inline]
    pub fn write<D: PortDevices>(
        &mut self,
        devices: &mut D,
        port: u16,
        size: AccessSize,
        value: u32,
        now: Nanos,
    ) {
        self.counters.writes += 1;
        self.write_part(devices, u32::from(port), size, value & size.ones(), now);
    }

    #[inline]
    fn entry(&self, port: u16) -> PortEntry {
        self.entries
            .get(usize::from(port))
            .copied()
            .unwrap_or(NO_PORT)
    }

    /// Who takes the access whole. `port` may lie beyond the last port: a word at FFFFh.
    #[inline]
    fn whole(&self, port: u32, size: AccessSize) -> Option<(u16, DeviceId)> {
        let port = u16::try_from(port).ok()?;
        let entry = self.entry(port);
        let aligned = port & u16::from(size.bytes() - 1) == 0;
        (entry.width.is_some_and(|width| width >= size) && aligned).then_some((port, entry.id))
    }

    fn read_part<D: PortDevices>(
        &mut self,
        devices: &mut D,
        port: u32,
        size: AccessSize,
        now: Nanos,
    ) -> u32 {
        if let Some((port, id)) = self.whole(port, size)
            && let Some(device) = devices.port_device(id)
        {
            return device.port_read(port, size, now) & size.ones();
        }
        let Some(half) = size.half() else {
            self.unclaimed(port, None);
            return size.ones();
        };
        let step = u32::from(half.bytes());
        let low = self.read_part(devices, port, half, now);
        let high = self.read_part(devices, port + step, half, now);
        low | high << (8 * step)
    }

    fn write_part<D: PortDevices>(
        &mut self,
        devices: &mut D,
        port: u32,
        size: AccessSize,
        value: u32,
        now: Nanos,
    ) {
        if let Some((port, id)) = self.whole(port, size)
            && let Some(device) = devices.port_device(id)
        {
            device.port_write(port, size, value, now);
            return;
        }
        let Some(half) = size.half() else {
            self.unclaimed(port, Some(value));
            return;
        };
        let step = u32::from(half.bytes());
        self.write_part(devices, port, half, value & half.ones(), now);
        self.write_part(devices, port + step, half, value >> (8 * step), now);
    }

    /// Probing for hardware that is not there is normal, so this is not a warning.
    #[cold]
    fn unclaimed(&mut self, port: u32, written: Option<u32>) {
        self.counters.unclaimed += 1;
        let low = port as u16;
        if self.logged.len() < LOGGED_PORTS && !self.logged.contains(&low) {
            self.logged.push(low);
            debug!(
                port = format_args!("{port:#x}"),
                ?written,
                "nobody has this port"
            );
        } else {
            trace!(
                port = format_args!("{port:#x}"),
                ?written,
                "nobody has this port"
            );
        }
    }
}

impl Default for PortBus {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for PortBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let claimed = self.entries.iter().filter(|e| e.width.is_some()).count();
        f.debug_struct("PortBus")
            .field("claimed", &claimed)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct MmioRange {
    start: u64,
    end: u64,
    width: AccessSize,
    id: DeviceId,
}

/// Device memory in the guest-physical address space.
#[derive(Debug, Default)]
pub struct MmioBus {
    /// Sorted by address, without overlaps.
    ranges: Vec<MmioRange>,
    counters: BusCounters,
    log: LogLimit,
}

impl MmioBus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the addresses `range` to device `id`, which takes aligned accesses up to `width`
    /// wide.
    ///
    /// # Errors
    ///
    /// [`BusError`] if the range is empty or overlaps one that is taken; nothing is changed then.
    pub fn register(
        &mut self,
        range: RangeInclusive<u64>,
        width: AccessSize,
        id: DeviceId,
    ) -> Result<(), BusError> {
        let (start, end) = (*range.start(), *range.end());
        if end < start {
            return Err(BusError::Empty { start, end });
        }
        let index = self.ranges.partition_point(|r| r.end < start);
        if let Some(taken) = self.ranges.get(index).filter(|r| r.start <= end) {
            return Err(BusError::Conflict {
                start,
                end,
                at: taken.start.max(start),
                owner: taken.id.0,
            });
        }
        let new = MmioRange {
            start,
            end,
            width,
            id,
        };
        self.ranges.insert(index, new);
        Ok(())
    }

    /// Takes the range that starts at `start` away from device `id`.
    pub fn unregister(&mut self, start: u64, id: DeviceId) {
        self.ranges.retain(|r| r.start != start || r.id != id);
    }

    /// What the bus has carried.
    pub fn counters(&self) -> BusCounters {
        self.counters
    }

    /// The registered ranges, in order: what the memory map has to treat as device memory.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.ranges.iter().map(|r| r.start..=r.end)
    }

    /// Reads `size` at guest-physical address `address`.
    pub fn read<D: MmioDevices>(
        &mut self,
        devices: &mut D,
        address: u64,
        size: AccessSize,
        now: Nanos,
    ) -> u32 {
        self.counters.reads += 1;
        self.read_part(devices, address, size, now)
    }

    /// Writes the low `size` of `value` at guest-physical address `address`.
    pub fn write<D: MmioDevices>(
        &mut self,
        devices: &mut D,
        address: u64,
        size: AccessSize,
        value: u32,
        now: Nanos,
    ) {
        self.counters.writes += 1;
        self.write_part(devices, address, size, value & size.ones(), now);
    }

    /// Writes `data` from `address` on, as accesses of `size` in ascending order.
    pub fn write_span<D: MmioDevices>(
        &mut self,
        devices: &mut D,
        address: u64,
        size: AccessSize,
        data: &[u8],
        now: Nanos,
    ) {
        let step = usize::from(size.bytes());
        self.counters.writes += (data.len() / step) as u64;
        if let Some((offset, id)) = self.whole_span(address, size, data.len())
            && let Some(device) = devices.mmio_device(id)
        {
            device.mmio_write_span(offset, size, data, now);
            return;
        }
        for (at, element) in (0u64..).step_by(step).zip(data.chunks_exact(step)) {
            let at = address.wrapping_add(at);
            self.write_part(devices, at, size, size.value(element), now);
        }
    }

    /// Reads `data` from `address` on, as accesses of `size` in ascending order.
    pub fn read_span<D: MmioDevices>(
        &mut self,
        devices: &mut D,
        address: u64,
        size: AccessSize,
        data: &mut [u8],
        now: Nanos,
    ) {
        let step = usize::from(size.bytes());
        self.counters.reads += (data.len() / step) as u64;
        if let Some((offset, id)) = self.whole_span(address, size, data.len())
            && let Some(device) = devices.mmio_device(id)
        {
            device.mmio_read_span(offset, size, data, now);
            return;
        }
        for (at, element) in (0u64..).step_by(step).zip(data.chunks_exact_mut(step)) {
            let value = self.read_part(devices, address.wrapping_add(at), size, now);
            size.store(value, element);
        }
    }

    /// Who takes all accesses of a span whole, and at which offset.
    fn whole_span(&self, address: u64, size: AccessSize, bytes: usize) -> Option<(u64, DeviceId)> {
        let (offset, id) = self.whole(address, size)?;
        let last = address.checked_add((bytes as u64).saturating_sub(1))?;
        let index = self.ranges.partition_point(|r| r.end < last);
        let range = self.ranges.get(index).filter(|r| r.start <= address)?;
        (range.id == id).then_some((offset, id))
    }

    /// Who takes the access whole, and at which offset.
    fn whole(&self, address: u64, size: AccessSize) -> Option<(u64, DeviceId)> {
        let index = self.ranges.partition_point(|r| r.end < address);
        let range = self.ranges.get(index).filter(|r| r.start <= address)?;
        let last = address.checked_add(u64::from(size.bytes()) - 1)?;
        let aligned = address & (u64::from(size.bytes()) - 1) == 0;
        (size <= range.width && aligned && last <= range.end)
            .then_some((address - range.start, range.id))
    }

    fn read_part<D: MmioDevices>(
        &mut self,
        devices: &mut D,
        address: u64,
        size: AccessSize,
        now: Nanos,
    ) -> u32 {
        if let Some((offset, id)) = self.whole(address, size)
            && let Some(device) = devices.mmio_device(id)
        {
            return device.mmio_read(offset, size, now) & size.ones();
        }
        let Some(half) = size.half() else {
            self.unclaimed(address, None);
            return size.ones();
        };
        let step = u64::from(half.bytes());
        let low = self.read_part(devices, address, half, now);
        let high = self.read_part(devices, address.wrapping_add(step), half, now);
        low | high << (8 * step)
    }

    fn write_part<D: MmioDevices>(
        &mut self,
        devices: &mut D,
        address: u64,
        size: AccessSize,
        value: u32,
        now: Nanos,
    ) {
        if let Some((offset, id)) = self.whole(address, size)
            && let Some(device) = devices.mmio_device(id)
        {
            device.mmio_write(offset, size, value, now);
            return;
        }
        let Some(half) = size.half() else {
            self.unclaimed(address, Some(value));
            return;
        };
        let step = u64::from(half.bytes());
        self.write_part(devices, address, half, value & half.ones(), now);
        self.write_part(
            devices,
            address.wrapping_add(step),
            half,
            value >> (8 * step),
            now,
        );
    }

    #[cold]
    fn unclaimed(&mut self, address: u64, written: Option<u32>) {
        self.counters.unclaimed += 1;
        if self.log.allow() {
            debug!(
                address = format_args!("{address:#x}"),
                ?written,
                "nothing is at this address"
            );
        }
    }
}

#[cfg(test)]
mod tests;

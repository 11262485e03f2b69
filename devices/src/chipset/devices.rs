//! The devices of the chipset, and how the buses find them.

use crate::bus::{BusError, DeviceId, MmioBus, MmioDevices, PortBus, PortDevices};
use crate::debug_port::{DEBUG_PORT, DebugPort};
use crate::device::{AccessSize, Device, MmioDevice, PortDevice};
use crate::dma::{Dma, DmaDevice, spec as dma};
use crate::fdc::{Fdc, spec as fdc};
use crate::fpu_error::{CLEAR_BUSY, FpuError};
use crate::fw_cfg::{FwCfg, spec as fw_cfg};
use crate::i8042::{I8042, spec as i8042};
use crate::memory::GuestMemory;
use crate::pci::{PciHost, spec as pci};
use crate::pic::{Pic, spec as pic};
use crate::pit::{Pit, spec as pit};
use crate::pm::{Pm, spec as pm};
use crate::port92::{PORT92, Port92};
use crate::rtc::{Rtc, spec as rtc};
use crate::serial::{Serial, spec as serial};
use crate::time::Nanos;
use crate::vga::{Vga, spec as vga};

use super::post::{POST, PostCode};

/// The devices that every chipset has. The discriminant is the [`DeviceId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BoardDevice {
    Pic,
    Pit,
    Rtc,
    I8042,
    Com1,
    Port92,
    FpuError,
    Post,
    Pci,
    Pm,
    FwCfg,
    Debug,
    Dma,
    Fdc,
    /// Ports and the legacy window.
    Vga,
    VgaFrameBuffer,
    VgaRom,
}

/// First [`DeviceId`] of a device that was added from outside.
pub(super) const FIRST_ADDED: u8 = 32;

impl BoardDevice {
    const ALL: [Self; 17] = [
        Self::Pic,
        Self::Pit,
        Self::Rtc,
        Self::I8042,
        Self::Com1,
        Self::Port92,
        Self::FpuError,
        Self::Post,
        Self::Pci,
        Self::Pm,
        Self::FwCfg,
        Self::Debug,
        Self::Dma,
        Self::Fdc,
        Self::Vga,
        Self::VgaFrameBuffer,
        Self::VgaRom,
    ];

    pub(super) const fn id(self) -> DeviceId {
        DeviceId(self as u8)
    }

    fn from_id(id: DeviceId) -> Option<Self> {
        Self::ALL.get(usize::from(id.0)).copied()
    }

    /// Whether a read of `port` may move the next timed event. What is due has been done before
    /// the access, so only reads with side effects count.
    fn read_is_timed(self, port: u16) -> bool {
        match self {
            Self::Rtc => port == rtc::DATA,
            Self::I8042 => port == i8042::DATA,
            Self::Fdc => port == fdc::FIFO,
            _ => false,
        }
    }

    /// Whether a write may move the next timed event, or make a DMA transfer possible.
    fn write_is_timed(self) -> bool {
        use BoardDevice as D;
        matches!(
            self,
            D::Pit | D::Rtc | D::I8042 | D::Pm | D::Pci | D::Dma | D::Fdc | D::Vga
        )
    }

    /// Whether the device takes accesses wider than a byte whole.
    fn is_wide(self) -> bool {
        matches!(self, Self::Pci | Self::Pm | Self::FwCfg | Self::Vga)
    }
}

/// Whether an access to `port`, which `owner` has, may move the next timed event.
#[inline]
pub(super) fn is_timed(owner: Option<DeviceId>, port: u16, size: AccessSize, write: bool) -> bool {
    let board = owner.map(BoardDevice::from_id);
    match board {
        // A wide access is split among devices, and any of them may be one with a timer.
        _ if size != AccessSize::Byte && !matches!(board, Some(Some(d)) if d.is_wide()) => true,
        None => false,
        Some(None) => true,
        Some(Some(device)) if write => device.write_is_timed(),
        Some(Some(device)) => device.read_is_timed(port),
    }
}

/// All devices, as fields of their owner.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) pic: Pic,
    pub(super) pit: Pit,
    pub(super) rtc: Rtc,
    pub(super) i8042: I8042,
    pub(super) com1: Serial,
    pub(super) port92: Port92,
    pub(super) fpu_error: FpuError,
    pub(super) post: PostCode,
    pub(super) pci: PciHost,
    pub(super) pm: Pm,
    /// There for a firmware only.
    pub(super) fw_cfg: Option<FwCfg>,
    pub(super) debug: DebugPort,
    pub(super) dma: Dma,
    pub(super) fdc: Fdc,
    /// Not every machine has a display.
    pub(super) vga: Option<Vga>,
    /// Devices added from outside; the first has the id [`FIRST_ADDED`].
    pub(super) added: Vec<AddedDevice>,
}

/// A device added from outside.
pub(super) struct AddedDevice(pub(super) Box<dyn Device>);

impl std::fmt::Debug for AddedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AddedDevice")
    }
}

impl Devices {
    /// Claims the ports of the board's devices.
    pub(super) fn register(ports: &mut PortBus) -> Result<(), BusError> {
        use AccessSize::{Byte, Dword};
        use BoardDevice as D;
        let com1_end = serial::COM1 + serial::PORTS - 1;
        for (range, width, device) in [
            (pic::MASTER_COMMAND..=pic::MASTER_DATA, Byte, D::Pic),
            (pic::SLAVE_COMMAND..=pic::SLAVE_DATA, Byte, D::Pic),
            (pic::ELCR1..=pic::ELCR2, Byte, D::Pic),
            (pit::COUNTER0..=pit::CONTROL, Byte, D::Pit),
            (pit::PORT_B..=pit::PORT_B, Byte, D::Pit),
            (rtc::INDEX..=rtc::EXTENDED_DATA, Byte, D::Rtc),
            (i8042::DATA..=i8042::DATA, Byte, D::I8042),
            (i8042::COMMAND..=i8042::COMMAND, Byte, D::I8042),
            (serial::COM1..=com1_end, Byte, D::Com1),
            (PORT92..=PORT92, Byte, D::Port92),
            (CLEAR_BUSY..=CLEAR_BUSY + 1, Byte, D::FpuError),
            (POST..=POST, Byte, D::Post),
            // CF9h, the reset control register, lies among the bytes of CONFIG_ADDRESS, which
            // takes double words only.
            (pci::CONFIG_ADDRESS..=pci::CONFIG_ADDRESS, Dword, D::Pci),
            (pm::RESET_CONTROL..=pm::RESET_CONTROL, Byte, D::Pm),
            (pci::CONFIG_DATA..=pci::CONFIG_DATA + 3, Dword, D::Pci),
            (pm::SMI_CMD..=pm::APM_STATUS, Byte, D::Pm),
            (dma::DMA1..=dma::DMA1_END, Byte, D::Dma),
            (dma::PAGES..=dma::PAGES_END, Byte, D::Dma),
            (dma::DMA2..=dma::DMA2_END, Byte, D::Dma),
            // Port 3F6h, between them, belongs to the disks.
            (fdc::SRA..=fdc::FIFO, Byte, D::Fdc),
            (fdc::DIR..=fdc::DIR, Byte, D::Fdc),
        ] {
            ports.register(range, width, device.id())?;
        }
        Ok(())
    }

    /// Claims the ports that only a firmware has a use for.
    pub(super) fn register_for_firmware(ports: &mut PortBus) -> Result<(), BusError> {
        use AccessSize::{Byte, Dword, Word};
        let fw_cfg = BoardDevice::FwCfg.id();
        ports.register(fw_cfg::SELECTOR..=fw_cfg::DATA, Word, fw_cfg)?;
        ports.register(fw_cfg::DMA_HIGH..=fw_cfg::DMA_LOW + 3, Dword, fw_cfg)?;
        ports.register(DEBUG_PORT..=DEBUG_PORT, Byte, BoardDevice::Debug.id())
    }

    /// Moves the power management registers from port `from` to port `to`.
    pub(super) fn move_pm(
        &mut self,
        ports: &mut PortBus,
        from: Option<u16>,
        to: Option<u16>,
    ) -> Result<(), BusError> {
        let id = BoardDevice::Pm.id();
        let block = |base: u16| base..=base.saturating_add(pm::PM_LEN - 1);
        if let Some(from) = from {
            ports.unregister(block(from), id);
        }
        if let Some(to) = to {
            ports.register(block(to), AccessSize::Dword, id)?;
            self.pm.set_base(to);
        }
        Ok(())
    }

    /// Claims ports and memory of the display adapter.
    pub(super) fn register_vga(ports: &mut PortBus, mmio: &mut MmioBus) -> Result<(), BusError> {
        use AccessSize::{Byte, Dword, Word};
        let id = BoardDevice::Vga.id();
        ports.register(vga::FIRST_PORT..=vga::LAST_PORT, Byte, id)?;
        ports.register(vga::VBE_INDEX..=vga::VBE_INDEX, Word, id)?;
        // At an odd address: the bus splits what is meant for this one into bytes.
        ports.register(vga::VBE_DATA..=vga::VBE_DATA, Byte, id)?;
        ports.register(vga::VBE_DATA_EVEN..=vga::VBE_DATA_EVEN, Word, id)?;
        let window = vga::WINDOW..=vga::WINDOW + vga::WINDOW_LEN - 1;
        mmio.register(window, Dword, id)
    }

    /// Does what is due up to `now`.
    pub(super) fn advance(&mut self, now: Nanos) {
        self.pit.advance(now);
        self.rtc.advance(now);
        self.i8042.advance(now);
        self.pm.advance(now);
        self.fdc.advance(now);
        for device in &mut self.added {
            device.0.advance(now);
        }
    }

    /// When something is due next.
    pub(super) fn next_event(&self) -> Option<Nanos> {
        let board = [
            self.pit.next_event(),
            self.rtc.next_event(),
            self.i8042.next_event(),
            self.pm.next_event(),
            self.fdc.next_event(),
        ];
        let added = self.added.iter().map(|device| device.0.next_event());
        board.into_iter().chain(added).flatten().min()
    }

    /// RESET# of the whole board.
    pub(super) fn reset(&mut self, now: Nanos) {
        self.pit.reset(now);
        self.rtc.reset(now);
        self.i8042.reset();
        self.com1.reset();
        self.port92.reset();
        self.fpu_error.reset();
        self.post.reset();
        self.pci.reset();
        self.pm.reset(now);
        if let Some(fw_cfg) = &mut self.fw_cfg {
            fw_cfg.reset();
        }
        self.debug.reset();
        self.dma.reset();
        self.fdc.reset();
        if let Some(vga) = &mut self.vga {
            vga.reset();
        }
        for device in &mut self.added {
            device.0.reset(now);
        }
        // Last, so that it sees the levels that the others have left on its inputs.
        self.pic.reset();
    }

    /// Serves one DMA request. False if there is none that can be served.
    pub(super) fn serve_dma(&mut self, memory: &mut dyn GuestMemory, now: Nanos) -> bool {
        let Some(channel) = self.dma.next_channel() else {
            return false;
        };
        let device: Option<&mut dyn DmaDevice> = match channel {
            fdc::DMA_CHANNEL => Some(&mut self.fdc),
            _ => None,
        };
        self.dma.transfer(channel, device, memory, now)
    }

    fn added(&mut self, id: DeviceId) -> Option<&mut dyn Device> {
        let index = id.0.checked_sub(FIRST_ADDED)?;
        let device = self.added.get_mut(usize::from(index))?;
        Some(device.0.as_mut())
    }
}

impl PortDevices for Devices {
    #[inline]
    fn port_device(&mut self, id: DeviceId) -> Option<&mut dyn PortDevice> {
        let Some(device) = BoardDevice::from_id(id) else {
            return self.added(id)?.as_port();
        };
        Some(match device {
            BoardDevice::Pic => &mut self.pic,
            BoardDevice::Pit => &mut self.pit,
            BoardDevice::Rtc => &mut self.rtc,
            BoardDevice::I8042 => &mut self.i8042,
            BoardDevice::Com1 => &mut self.com1,
            BoardDevice::Port92 => &mut self.port92,
            BoardDevice::FpuError => &mut self.fpu_error,
            BoardDevice::Post => &mut self.post,
            BoardDevice::Pci => &mut self.pci,
            BoardDevice::Pm => &mut self.pm,
            BoardDevice::FwCfg => self.fw_cfg.as_mut()?,
            BoardDevice::Debug => &mut self.debug,
            BoardDevice::Dma => &mut self.dma,
            BoardDevice::Fdc => &mut self.fdc,
            BoardDevice::Vga => self.vga.as_mut()?,
            BoardDevice::VgaFrameBuffer | BoardDevice::VgaRom => return None,
        })
    }
}

impl MmioDevices for Devices {
    fn mmio_device(&mut self, id: DeviceId) -> Option<&mut dyn MmioDevice> {
        match BoardDevice::from_id(id) {
            None => self.added(id)?.as_mmio(),
            Some(BoardDevice::Vga) => Some(self.vga.as_mut()?),
            Some(BoardDevice::VgaFrameBuffer) => Some(self.vga.as_mut()?.frame_buffer()),
            Some(BoardDevice::VgaRom) => Some(self.vga.as_mut()?.rom()),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_places_in_the_list() {
        for (index, device) in BoardDevice::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(device.id().0), index);
            assert_eq!(BoardDevice::from_id(device.id()), Some(device));
        }
        assert!(BoardDevice::ALL.len() <= usize::from(FIRST_ADDED));
    }
}

//! The display adapter as the machine sees it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tracing::debug;

use crate::bus::{BusError, MmioBus};
use crate::device::AccessSize;
use crate::event::Signal;
use crate::time::Nanos;
use crate::vga::pci::{PLACE, VgaFunction};
use crate::vga::{Picture, TextScreen, Vga, VgaConfig, VideoWindow};

use super::Chipset;
use super::devices::{BoardDevice, Devices};

/// Devices behind the two base addresses.
const BEHIND: [BoardDevice; 2] = [BoardDevice::VgaFrameBuffer, BoardDevice::VgaRom];

impl Chipset {
    /// Puts the display adapter in; nothing else is on the bus yet.
    pub(super) fn add_vga(&mut self, config: VgaConfig) -> Result<(), BusError> {
        let vga = Vga::new(config);
        Devices::register_vga(&mut self.ports, &mut self.mmio)?;
        let rom = vga.rom_ref().bytes().len() as u32;
        let bars = Arc::clone(&self.vga_bars);
        let function = VgaFunction::new(vga.frame_buffer_bytes(), rom, bars);
        if let Err(error) = self.devices.pci.add(PLACE, Box::new(function)) {
            debug!(%error, "the display adapter is not on the PCI bus");
        }
        self.devices.vga = Some(vga);
        Ok(())
    }

    /// What is on the screen in a text mode; `None` in graphics modes and without a display.
    /// The machine brings display memory up to date before, see [`Self::video_window`].
    pub fn text_screen(&self) -> Option<TextScreen> {
        self.devices.vga.as_ref()?.text_screen()
    }

    /// The picture on the screen; `None` without a display. The same holds as for
    /// [`Self::text_screen`].
    pub fn render(&self, now: Nanos) -> Option<Picture> {
        Some(self.devices.vga.as_ref()?.render(now))
    }

    /// Whether there is a display.
    pub fn has_display(&self) -> bool {
        self.devices.vga.is_some()
    }

    /// Where display memory is like RAM now, so that the machine may let the guest have RAM there
    /// instead, filled by [`Self::load_video`]. When this changes, which
    /// [`ChipsetEvent::Video`](crate::ChipsetEvent::Video) tells, the machine hands the RAM's
    /// contents back by [`Self::store_video`]. It also does so, without an end, before it looks at
    /// the picture or saves the state.
    pub fn video_window(&self) -> Option<VideoWindow> {
        self.devices.vga.as_ref()?.window()
    }

    /// What display memory holds in `window`.
    pub fn load_video(&mut self, window: &VideoWindow) -> Vec<u8> {
        let vga = self.devices.vga.as_mut();
        vga.map(|vga| vga.load_window(window)).unwrap_or_default()
    }

    /// Where in the RAM in place of `window` an access of `bytes` bytes to display memory at
    /// `address`, outside of the window, belongs.
    pub fn video_stand_in(&self, window: &VideoWindow, address: u64, bytes: u64) -> Option<u64> {
        let vga = self.devices.vga.as_ref()?;
        vga.stand_in(window, address, bytes)
    }

    /// Takes over what RAM in place of `window` holds.
    pub fn store_video(&mut self, window: &VideoWindow, bytes: &[u8]) {
        if let Some(vga) = &mut self.devices.vga {
            vga.store_window(window, bytes);
        }
    }

    /// Guest-physical addresses of the linear frame buffer and of the ROM, as far as the guest
    /// has given them some that are free on the bus.
    pub fn video_ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let sizes = self.devices.vga.as_ref().map_or([0; 2], sizes);
        let places = self.vga_mapped.into_iter().zip(sizes);
        places.filter_map(|(start, size)| start.map(|start| start..=start + size - 1))
    }

    /// After an access: what the display adapter's registers lead to.
    pub(super) fn follow_video(&mut self) {
        let Some(vga) = &mut self.devices.vga else {
            return;
        };
        vga.follow_frame_buffer();
        if vga.take_window_change() {
            self.events.signal(Signal::Video);
        }
        if self.vga_bars.take_change() {
            self.move_video();
        }
    }

    /// The base addresses have changed.
    #[cold]
    fn move_video(&mut self) {
        let Some(vga) = &mut self.devices.vga else {
            return;
        };
        let sizes = sizes(vga);
        for (device, old) in BEHIND.into_iter().zip(&mut self.vga_mapped) {
            if let Some(start) = old.take() {
                self.mmio.unregister(start, device.id());
            }
        }
        let places = self.vga_bars.addresses().into_iter().zip(sizes);
        for ((device, place), mapped) in BEHIND.into_iter().zip(places).zip(&mut self.vga_mapped) {
            let (Some(start), size) = place else { continue };
            if claim(&mut self.mmio, device, start, size) {
                *mapped = Some(start);
            }
        }
        let [frame_buffer, _] = self.vga_mapped;
        vga.place_frame_buffer(frame_buffer);
        vga.take_window_change();
        self.events.signal(Signal::Video);
    }
}

/// Bytes behind the two base addresses.
fn sizes(vga: &Vga) -> [u64; 2] {
    [
        u64::from(vga.frame_buffer_bytes()),
        vga.rom_ref().bytes().len() as u64,
    ]
}

/// A guest that sizes a base address puts it somewhere impossible for a moment.
fn claim(mmio: &mut MmioBus, device: BoardDevice, start: u64, size: u64) -> bool {
    if size == 0 {
        return false;
    }
    let range = start..=start + (size - 1);
    match mmio.register(range, AccessSize::Dword, device.id()) {
        Ok(()) => true,
        Err(error) => {
            debug!(%error, "video memory cannot be there");
            false
        }
    }
}

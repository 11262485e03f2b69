//! Shadow RAM: memory that a chipset switches between RAM and the ROM behind it.
//!
//! A frame with a ROM layer has two pages of the memory file, and each switch drops what was derived from the page that went:
//! its leaves, the code translated from it, and the guest's paging structures if it held one. Nothing else is touched, so
//! that a firmware may switch as often as it likes.

use crate::mmu::Mmu;
use crate::phys::FrameRange;
use crate::traces::Trace;
use crate::{MmuError, PAGE_SHIFT, PAGE_SIZE, Shadowing};

impl Mmu {
    /// Puts a ROM with the contents `rom` below the RAM of a page-aligned range; [`Mmu::set_shadowing`] switches between the
    /// two. The range stays RAM until then.
    ///
    /// # Errors
    ///
    /// The range is not page-aligned or no RAM, or there is no memory left for the ROM.
    pub fn add_rom_layer(&mut self, gpa: u64, rom: &[u8]) -> Result<(), MmuError> {
        let range = FrameRange::new(gpa, rom.len() as u64)?;
        self.map.add_layer(range)?;
        for (frame, part) in (range.first..).zip(rom.chunks(PAGE_SIZE as usize)) {
            if let Some(page) = self.map.rom_layer(frame) {
                self.write_page(page, 0, part);
            }
        }
        Ok(())
    }

    /// Switches a page-aligned range between its RAM and its ROM layer. Frames without a ROM layer stay as they are.
    ///
    /// # Errors
    ///
    /// The range is not page-aligned or reaches beyond 4 GiB.
    pub fn set_shadowing(&mut self, gpa: u64, bytes: u64, how: Shadowing) -> Result<(), MmuError> {
        let range = FrameRange::new(gpa, bytes)?;
        let mut tables = false;
        let mut changed = false;
        for frame in range.first..range.end {
            if !self.map.shadowing_differs(frame, how) {
                continue;
            }
            changed = true;
            let address = u64::from(frame) << PAGE_SHIFT;
            let old = self.map.lookup_on_bus(address).page();
            if let Some(page) = old {
                self.unmap_memory(page);
            }
            self.map.shadow(frame, how);
            let new = self.map.lookup_on_bus(address).page();
            if let Some(page) = old.filter(|_| new != old) {
                let traced = self.traces.get(page);
                tables |= traced.contains(Trace::TABLE);
                if traced.contains(Trace::CODE) {
                    self.code_written(page, 0, PAGE_SIZE as u16);
                    self.clear_trace(page, Trace::CODE);
                }
            }
        }
        if changed {
            self.tlb.flush();
        }
        if tables {
            self.forget_tables();
        }
        Ok(())
    }
}

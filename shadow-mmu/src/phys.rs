//! The guest-physical memory map: what each page frame leads to.

use std::collections::BTreeMap;

use crate::ram::HostPage;
use crate::{MmuError, PAGE_SHIFT, PAGE_SIZE, PhysTarget, RangeKind, Shadowing};

/// Page frames below 4 GiB; nothing but holes is above.
const FRAMES: usize = 1 << 20;
/// Address bit that the A20 gate masks.
const A20: u64 = 1 << 20;

/// What a page frame leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Ram(HostPage),
    Rom(HostPage),
    Device,
    Hole,
}

impl Frame {
    pub(crate) fn target(self) -> PhysTarget {
        match self {
            Frame::Ram(_) => PhysTarget::Ram,
            Frame::Rom(_) => PhysTarget::Rom,
            Frame::Device => PhysTarget::Device,
            Frame::Hole => PhysTarget::Hole,
        }
    }

    /// The page of the memory file behind RAM or ROM.
    pub(crate) fn page(self) -> Option<HostPage> {
        match self {
            Frame::Ram(page) | Frame::Rom(page) => Some(page),
            Frame::Device | Frame::Hole => None,
        }
    }
}

/// The map, and the state of the A20 gate.
///
/// A frame that is given a page of the memory file keeps it when it turns into a device or a hole and back, so that switching
/// a ROM shadow on and off loses nothing. Frame N below the top of RAM has page N.
#[derive(Debug)]
pub(crate) struct PhysMap {
    /// For each frame: bits 1:0 the kind (0 hole, 1 RAM, 2 ROM, 3 device), bits 31:2 the page of the memory file + 1, or 0.
    frames: Vec<u32>,
    /// Frame that owns a page above the top of RAM.
    extra_owner: Vec<u32>,
    /// Frames with a ROM layer below their RAM.
    layers: BTreeMap<u32, Layers>,
    ram_pages: u32,
    extra_limit: u32,
    a20_mask: u64,
}

/// The two pages of a frame that a chipset can shadow.
#[derive(Clone, Copy, Debug)]
struct Layers {
    ram: HostPage,
    rom: HostPage,
    /// Reads come from the ROM and writes go to the RAM.
    write_ram: bool,
}

impl PhysMap {
    /// RAM below `ram_pages` except the VGA hole (a device); room for `extra_limit` more pages above it.
    pub(crate) fn new(ram_pages: u32, extra_limit: u32) -> PhysMap {
        let mut frames = vec![0u32; FRAMES];
        for (frame, entry) in (0u32..).zip(&mut frames).take(ram_pages as usize) {
            let kind = if (0xa0..0xc0).contains(&frame) { 3 } else { 1 };
            *entry = (frame + 1) << 2 | kind;
        }
        PhysMap {
            frames,
            extra_owner: Vec::new(),
            layers: BTreeMap::new(),
            ram_pages,
            extra_limit,
            a20_mask: !0,
        }
    }

    pub(crate) fn a20(&self) -> bool {
        self.a20_mask & A20 != 0
    }

    pub(crate) fn set_a20(&mut self, enabled: bool) {
        self.a20_mask = if enabled { !0 } else { !A20 };
    }

    /// What an address leads to with the gate in a given state.
    pub(crate) fn lookup_with(&self, gpa: u64, a20: bool) -> Frame {
        self.lookup_on_bus(if a20 { gpa } else { gpa & !A20 })
    }

    /// Applies the A20 gate to an address.
    pub(crate) fn gate(&self, gpa: u64) -> u64 {
        gpa & self.a20_mask
    }

    /// What the frame of an address (as it leaves the processor, before the A20 gate) leads to.
    pub(crate) fn lookup(&self, gpa: u64) -> Frame {
        self.frame((self.gate(gpa) >> PAGE_SHIFT) as usize)
    }

    /// What the frame of an address on the memory bus leads to.
    pub(crate) fn lookup_on_bus(&self, gpa: u64) -> Frame {
        self.frame(usize::try_from(gpa >> PAGE_SHIFT).unwrap_or(usize::MAX))
    }

    fn frame(&self, frame: usize) -> Frame {
        let entry = self.frames.get(frame).copied().unwrap_or(0);
        let page = (entry >> 2).wrapping_sub(1);
        match entry & 3 {
            1 => Frame::Ram(page),
            2 => Frame::Rom(page),
            3 => Frame::Device,
            _ => Frame::Hole,
        }
    }

    /// The frame that a page of the memory file was given to.
    pub(crate) fn owner(&self, page: HostPage) -> u32 {
        match page.checked_sub(self.ram_pages) {
            None => page,
            Some(extra) => self.extra_owner.get(extra as usize).copied().unwrap_or(0),
        }
    }

    /// Changes a range. Returns nothing; the caller drops whatever was derived from it first.
    pub(crate) fn set(&mut self, range: FrameRange, kind: RangeKind) -> Result<(), MmuError> {
        let backed = matches!(kind, PhysTarget::Ram | PhysTarget::Rom);
        let entries = self
            .frames
            .get(range.first as usize..range.end as usize)
            .unwrap_or_default();
        let needed = if backed {
            entries.iter().filter(|&&e| e >> 2 == 0).count()
        } else {
            0
        };
        if self.extra_owner.len() + needed > self.extra_limit as usize {
            return Err(MmuError::ExtraMemory(needed as u64 * PAGE_SIZE));
        }
        let kind = match kind {
            PhysTarget::Hole => 0,
            PhysTarget::Ram => 1,
            PhysTarget::Rom => 2,
            PhysTarget::Device => 3,
        };
        for frame in range.first..range.end {
            let Some(entry) = self.frames.get_mut(frame as usize) else {
                break;
            };
            if backed && *entry >> 2 == 0 {
                let page = self.ram_pages + self.extra_owner.len() as u32;
                self.extra_owner.push(frame);
                *entry = (page + 1) << 2;
            }
            *entry = *entry & !3 | kind;
        }
        Ok(())
    }

    /// Gives each frame of a range a page for a ROM layer. What the frames lead to stays.
    pub(crate) fn add_layer(&mut self, range: FrameRange) -> Result<(), MmuError> {
        let frames = range.first..range.end;
        let needed = frames.clone().filter(|f| !self.layers.contains_key(f));
        let needed = needed.count();
        if self.extra_owner.len() + needed > self.extra_limit as usize {
            return Err(MmuError::ExtraMemory(needed as u64 * PAGE_SIZE));
        }
        for frame in frames {
            let Some(ram) = self.backing(frame) else {
                return Err(MmuError::NotRam(u64::from(frame) << PAGE_SHIFT));
            };
            self.layers.entry(frame).or_insert_with(|| {
                let rom = self.ram_pages + self.extra_owner.len() as u32;
                self.extra_owner.push(frame);
                Layers {
                    ram,
                    rom,
                    write_ram: false,
                }
            });
        }
        Ok(())
    }

    /// The page of a frame's ROM layer.
    pub(crate) fn rom_layer(&self, frame: u32) -> Option<HostPage> {
        self.layers.get(&frame).map(|layers| layers.rom)
    }

    /// What a frame with a ROM layer leads to under a setting, as its entry of the map.
    fn shadowed_entry(&self, frame: u32, how: Shadowing) -> Option<u32> {
        let layers = self.layers.get(&frame)?;
        Some(match (how.read_ram, how.write_ram) {
            (true, true) => (layers.ram + 1) << 2 | 1,
            (true, false) => (layers.ram + 1) << 2 | 2,
            (false, _) => (layers.rom + 1) << 2 | 2,
        })
    }

    /// Whether a setting changes what reads or writes of a frame lead to.
    pub(crate) fn shadowing_differs(&self, frame: u32, how: Shadowing) -> bool {
        let entry = self.shadowed_entry(frame, how);
        let write = self.layers.get(&frame).map(|layers| layers.write_ram);
        entry != self.frames.get(frame as usize).copied() || write != Some(how.write_below())
    }

    /// Applies a setting to a frame with a ROM layer.
    pub(crate) fn shadow(&mut self, frame: u32, how: Shadowing) {
        let Some(new) = self.shadowed_entry(frame, how) else {
            return;
        };
        if let Some(entry) = self.frames.get_mut(frame as usize) {
            *entry = new;
        }
        if let Some(layers) = self.layers.get_mut(&frame) {
            layers.write_ram = how.write_below();
        }
    }

    /// The page of RAM that takes writes to an address (on the bus) whose reads come from ROM.
    pub(crate) fn written_below(&self, gpa: u64) -> Option<HostPage> {
        let frame = u32::try_from(gpa >> PAGE_SHIFT).ok()?;
        let layers = self.layers.get(&frame)?;
        layers.write_ram.then_some(layers.ram)
    }

    /// The page that a frame has been given, whatever it leads to now.
    pub(crate) fn backing(&self, frame: u32) -> Option<HostPage> {
        self.frames
            .get(frame as usize)
            .and_then(|e| (e >> 2).checked_sub(1))
    }
}

/// A checked range of page frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameRange {
    pub(crate) first: u32,
    pub(crate) end: u32,
}

impl FrameRange {
    pub(crate) fn new(gpa: u64, bytes: u64) -> Result<FrameRange, MmuError> {
        let bad = MmuError::Range { gpa, bytes };
        let Some(end) = gpa.checked_add(bytes) else {
            return Err(bad);
        };
        if (gpa | bytes) & (PAGE_SIZE - 1) != 0 || end > (FRAMES as u64) << PAGE_SHIFT {
            return Err(bad);
        }
        Ok(FrameRange {
            first: (gpa >> PAGE_SHIFT) as u32,
            end: (end >> PAGE_SHIFT) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_layout() {
        let map = PhysMap::new(512, 16);
        assert_eq!(map.lookup(0), Frame::Ram(0));
        assert_eq!(map.lookup(0x9_ffff), Frame::Ram(0x9f));
        assert_eq!(map.lookup(0xa_0000), Frame::Device);
        assert_eq!(map.lookup(0xb_ffff), Frame::Device);
        assert_eq!(map.lookup(0xc_0000), Frame::Ram(0xc0));
        assert_eq!(map.lookup(0x1f_ffff), Frame::Ram(0x1ff));
        assert_eq!(map.lookup(0x20_0000), Frame::Hole);
        assert_eq!(map.lookup(1 << 32), Frame::Hole);
    }

    #[test]
    fn a20_masks_one_bit() {
        let mut map = PhysMap::new(1024, 0);
        map.set_a20(false);
        assert_eq!(map.lookup(0x10_0000), Frame::Ram(0));
        assert_eq!(map.lookup(0x30_1000), Frame::Ram(0x201));
        map.set_a20(true);
        assert_eq!(map.lookup(0x10_0000), Frame::Ram(0x100));
    }

    #[test]
    fn ranges_keep_their_pages() {
        let mut map = PhysMap::new(256, 2);
        let top = FrameRange::new(0xffff_e000, 0x2000).unwrap();
        map.set(top, PhysTarget::Rom).unwrap();
        assert_eq!(map.lookup(0xffff_f000), Frame::Rom(257));
        assert_eq!(map.owner(257), 0xfffff);
        map.set(top, PhysTarget::Hole).unwrap();
        assert_eq!(map.lookup(0xffff_f000), Frame::Hole);
        map.set(top, PhysTarget::Ram).unwrap();
        assert_eq!(map.lookup(0xffff_f000), Frame::Ram(257));
        let more = FrameRange::new(0xf000_0000, 0x1000).unwrap();
        assert!(map.set(more, PhysTarget::Rom).is_err());
        assert!(FrameRange::new(0xffff_f000, 0x2000).is_err());
        assert!(FrameRange::new(u64::MAX - 0xfff, 0x1000).is_err());
        assert!(FrameRange::new(0x800, 0x1000).is_err());
    }
}

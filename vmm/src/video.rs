//! Video memory in the memory map: where the guest has RAM in place of the display adapter's memory,
//! and where a PCI base address has put the frame buffer.

use std::ops::RangeInclusive;

use devices::{Chipset, VideoWindow};
use shadow_mmu::{Mmu, PAGE_SIZE, PhysTarget, RangeKind};

use crate::board::Board;

/// What of video memory is in the memory map.
#[derive(Debug, Default)]
pub(crate) struct VideoMap {
    /// The guest has RAM here.
    window: Option<VideoWindow>,
    /// Device memory at base addresses.
    ranges: Vec<RangeInclusive<u64>>,
}

impl VideoMap {
    /// Makes the memory map what the display adapter says.
    pub(crate) fn follow(&mut self, mmu: &mut Mmu, board: &mut Board) {
        self.end_window(mmu, board);
        self.follow_ranges(mmu, board.chipset());
        self.begin_window(mmu, board);
    }

    /// Brings the adapter's memory up to date with the RAM that stands in for it.
    pub(crate) fn refresh(&self, mmu: &Mmu, chipset: &mut Chipset) {
        let Some(window) = self.window else { return };
        let mut bytes = vec![0; window.bytes as usize];
        match mmu.read_phys(window.address, &mut bytes) {
            Ok(()) => chipset.store_video(&window, &bytes),
            Err(error) => tracing::error!(%error, "video memory"),
        }
    }

    /// Takes back the RAM that the adapter does not offer any more.
    fn end_window(&mut self, mmu: &mut Mmu, board: &mut Board) {
        if self.window == board.chipset().video_window() {
            return;
        }
        if let Some(old) = self.window {
            self.refresh(mmu, board.chipset_mut());
            self.window = None;
            board.set_video_ram(None);
            set(mmu, old.address, old.bytes, RangeKind::Device);
        }
    }

    /// Gives the guest RAM where the adapter offers to.
    fn begin_window(&mut self, mmu: &mut Mmu, board: &mut Board) {
        let Some(window) = board.chipset().video_window() else {
            return;
        };
        if self.window.is_some() {
            return;
        }
        // A frame buffer that something else is in the place of stays where it is; the RAM behind
        // the legacy window exists in every machine, because memory begins at 0 and is larger.
        let end = window.address + window.bytes - 1;
        let inside =
            |range: &RangeInclusive<u64>| range.contains(&window.address) && range.contains(&end);
        if window.is_linear() && !self.ranges.iter().any(inside) {
            return;
        }
        if !set(mmu, window.address, window.bytes, RangeKind::Ram) {
            return;
        }
        let bytes = board.chipset_mut().load_video(&window);
        match mmu.write_phys(window.address, &bytes) {
            Ok(()) => {
                self.window = Some(window);
                board.set_video_ram(self.window);
            }
            Err(error) => {
                tracing::error!(%error, "video memory");
                set(mmu, window.address, window.bytes, RangeKind::Device);
            }
        }
    }

    fn follow_ranges(&mut self, mmu: &mut Mmu, chipset: &Chipset) {
        let wanted: Vec<RangeInclusive<u64>> = chipset.video_ranges().collect();
        let gone = self.ranges.iter().filter(|range| !wanted.contains(range));
        for range in gone {
            let (start, bytes) = whole_pages(range);
            set(mmu, start, bytes, RangeKind::Hole);
        }
        self.ranges.retain(|range| wanted.contains(range));
        for range in wanted {
            if self.ranges.contains(&range) {
                continue;
            }
            let (start, bytes) = whole_pages(&range);
            // What is there already keeps its place: the guest is only sizing, or mistaken.
            let mut pages = (start..start + bytes).step_by(PAGE_SIZE as usize);
            let free = pages.all(|page| mmu.bus_kind(page) == PhysTarget::Hole);
            if free && set(mmu, start, bytes, RangeKind::Device) {
                self.ranges.push(range);
            }
        }
    }
}

fn whole_pages(range: &RangeInclusive<u64>) -> (u64, u64) {
    let start = range.start() / PAGE_SIZE * PAGE_SIZE;
    (start, (range.end() + 1 - start).next_multiple_of(PAGE_SIZE))
}

fn set(mmu: &mut Mmu, start: u64, bytes: u64, kind: RangeKind) -> bool {
    match mmu.set_range(start, bytes, kind) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "video memory cannot be there");
            false
        }
    }
}

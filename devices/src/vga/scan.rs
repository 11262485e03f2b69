//! The order in which display memory is shown: counters from scan line to scan line.

use super::Vga;
use super::graphics::Planes;

/// Where a scan line is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Memory address counter at the left end.
    pub(super) counter: u16,
    /// Scan line within the row.
    pub(super) row_scan: u32,
    /// The line is below the split.
    pub(super) split: bool,
}

impl Vga {
    /// The displayed scan lines, from the top.
    pub(super) fn scans(&self) -> impl Iterator<Item = Scan> + use<'_> {
        let crtc = &self.crtc;
        let height = crtc.row_height();
        let lines = crtc.lines();
        let compare = crtc.line_compare();
        let mut next = Scan {
            counter: crtc.start().wrapping_add(crtc.byte_panning()),
            row_scan: crtc.preset_row_scan(),
            split: false,
        };
        (0..lines).map(move |line| {
            let this = next;
            if line == compare {
                next = Scan {
                    counter: 0,
                    row_scan: 0,
                    split: true,
                };
            } else if !crtc.double_scan() || line % 2 == 1 {
                if next.row_scan == height - 1 {
                    next.row_scan = 0;
                    next.counter = next.counter.wrapping_add(crtc.row_step());
                } else {
                    // A preset beyond the height runs through the five bits of the counter.
                    next.row_scan = (next.row_scan + 1) & 31;
                }
            }
            this
        })
    }

    /// The memory address counter of a character clock in a scan line.
    pub(super) fn counter(&self, scan: &Scan, column: u32) -> u16 {
        scan.counter
            .wrapping_add((column / self.crtc.clocks_per_count()) as u16)
    }

    /// What the four planes hold for a state of the memory address counter.
    pub(super) fn fetch(&self, scan: &Scan, counter: u16) -> Planes {
        let address = self.crtc.address(counter, scan.row_scan);
        self.memory.planes(u32::from(address))
    }
}

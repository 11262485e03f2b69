//! Graphics modes as pixels, and pictures.

use crate::Nanos;

use super::Vga;
use super::dac::Rgb;
use super::graphics::Shift;
use super::scan::Scan;
use super::vbe::VbeMode;

/// A picture of the screen: three bytes (red, green, blue) for each pixel, row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// A black picture.
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            rgb: vec![0; 3 * width as usize * height as usize],
        }
    }

    /// The colour of a pixel; black outside.
    pub fn pixel(&self, x: u32, y: u32) -> Rgb {
        if x >= self.width {
            return [0; 3];
        }
        let at = 3 * (y as usize * self.width as usize + x as usize);
        match self.rgb.get(at..at + 3) {
            Some(&[red, green, blue]) => [red, green, blue],
            _ => [0; 3],
        }
    }

    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.rgb.chunks_exact_mut((3 * self.width as usize).max(1))
    }
}

impl Vga {
    /// The picture on the screen at `now`; the time decides what blinks.
    pub fn render(&self, now: Nanos) -> Picture {
        if let Some(mode) = self.vbe.mode() {
            self.draw_vbe(&mode)
        } else if self.is_blank() {
            self.draw_blank()
        } else if self.is_graphics() {
            self.draw_graphics()
        } else {
            self.draw_text(now)
        }
    }

    fn draw_blank(&self) -> Picture {
        let wide = if self.sequencer.half_clock() { 2 } else { 1 };
        Picture::new(
            self.crtc.columns() * self.sequencer.dots() * wide,
            self.crtc.lines(),
        )
    }

    /// A VGA graphics mode, with each row of pixels once however often the monitor shows it.
    fn draw_graphics(&self) -> Picture {
        let doubled = if self.crtc.double_scan() { 2 } else { 1 };
        let repeated = if self.crtc.banked_rows() {
            1
        } else {
            self.crtc.row_height()
        };
        let step = (doubled * repeated) as usize;
        let lines: Vec<Scan> = self.scans().step_by(step).collect();
        let per_clock = self.pixels_per_clock();
        let mut picture = Picture::new(self.crtc.columns() * per_clock, lines.len() as u32);
        for (scan, row) in lines.iter().zip(picture.rows_mut()) {
            self.draw_line(scan, row);
        }
        picture
    }

    fn pixels_per_clock(&self) -> u32 {
        match self.graphics.shift() {
            Shift::Packed => 4,
            Shift::Planar | Shift::Interleaved => 8,
        }
    }

    fn draw_line(&self, scan: &Scan, row: &mut [u8]) {
        let panning = if scan.split && self.attribute.panning_stops_at_split() {
            0
        } else {
            let dots = self.attribute.panning(8);
            if self.attribute.eight_bit() {
                dots / 2
            } else {
                dots
            }
        };
        let mut line = Vec::with_capacity(row.len() + 3 * 8);
        for column in 0..=self.crtc.columns() {
            let planes = self.fetch(scan, self.counter(scan, column));
            let [p0, p1, p2, p3] = planes;
            match self.graphics.shift() {
                Shift::Packed => {
                    for pixel in planes {
                        line.extend(self.dac.colour(pixel));
                    }
                }
                Shift::Planar => {
                    for bit in (0..8).rev() {
                        let of = |plane: u8| plane >> bit & 1;
                        let pixel = of(p0) | of(p1) << 1 | of(p2) << 2 | of(p3) << 3;
                        line.extend(self.dac.colour(self.attribute.colour(pixel)));
                    }
                }
                Shift::Interleaved => {
                    for (low, high) in [(p0, p2), (p1, p3)] {
                        for shift in [6, 4, 2, 0] {
                            let pixel = low >> shift & 3 | (high >> shift & 3) << 2;
                            line.extend(self.dac.colour(self.attribute.colour(pixel)));
                        }
                    }
                }
            }
        }
        let skip = 3 * panning as usize;
        if let Some(visible) = line.get(skip..skip + row.len()) {
            row.copy_from_slice(visible);
        }
    }

    fn draw_vbe(&self, mode: &VbeMode) -> Picture {
        let mut picture = Picture::new(mode.width, mode.height);
        for (y, row) in (0u32..).zip(picture.rows_mut()) {
            let start = mode.start.wrapping_add(y.wrapping_mul(mode.pitch));
            for (x, pixel) in (0u32..).zip(row.chunks_exact_mut(3)) {
                pixel.copy_from_slice(&self.vbe_pixel(mode.bpp, start, x));
            }
        }
        picture
    }

    fn vbe_pixel(&self, bpp: u16, start: u32, x: u32) -> Rgb {
        let bytes = |count: u32| {
            let at = start.wrapping_add(x * count);
            (0..count).rev().fold(0, |v, i| {
                v << 8 | u32::from(self.memory.byte(at.wrapping_add(i)))
            })
        };
        let five = |v: u32| {
            let v = v as u8 & 31;
            v << 3 | v >> 2
        };
        let six = |v: u32| {
            let v = v as u8 & 63;
            v << 2 | v >> 4
        };
        match bpp {
            4 => {
                let planes = self.memory.planes(start.wrapping_add(x / 8));
                let mut pixel = 0;
                for (plane, byte) in planes.into_iter().enumerate() {
                    pixel |= (byte >> (7 - x % 8) & 1) << plane;
                }
                self.dac.colour(self.attribute.colour(pixel))
            }
            8 => self.dac.colour(bytes(1) as u8),
            15 => {
                let v = bytes(2);
                [five(v >> 10), five(v >> 5), five(v)]
            }
            16 => {
                let v = bytes(2);
                [five(v >> 11), six(v >> 5), five(v)]
            }
            24 | 32 => {
                let [blue, green, red, _] = bytes(u32::from(bpp) / 8).to_le_bytes();
                [red, green, blue]
            }
            _ => [0; 3],
        }
    }
}

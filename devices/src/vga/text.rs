//! Text modes: what is on the screen, as characters and as pixels.

use crate::Nanos;

use super::dac::Rgb;
use super::picture::Picture;
use super::scan::Scan;
use super::{Vga, codepage};

/// One character on the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextCell {
    /// Its code: a number of a glyph, by habit of code page 437.
    pub character: u8,
    /// Its attribute: bits 3:0 foreground, bits 7:4 background or bit 7 blinking.
    pub attribute: u8,
}

/// The cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextCursor {
    /// Column, from 0.
    pub column: usize,
    /// Row, from 0.
    pub row: usize,
}

/// What a text mode shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextScreen {
    /// Characters in a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
    /// All characters, row by row.
    pub cells: Vec<TextCell>,
    /// The cursor, if it is switched on and on the screen; blinking is not looked at.
    pub cursor: Option<TextCursor>,
    /// Attribute bit 7 is blinking, not background intensity.
    pub blink: bool,
    /// The colours that the 16 attribute values have.
    pub palette: [Rgb; 16],
}

impl TextScreen {
    /// The cells of a row.
    pub fn row(&self, row: usize) -> &[TextCell] {
        let start = row.saturating_mul(self.columns);
        self.cells
            .get(start..start.saturating_add(self.columns))
            .unwrap_or_default()
    }

    /// A row as text of code page 437, without the blanks at its end.
    pub fn line(&self, row: usize) -> String {
        let cells = self.row(row).iter();
        let line: String = cells
            .map(|cell| codepage::CP437.character(cell.character))
            .collect();
        line.trim_end().to_owned()
    }

    /// All rows, each ended by a line feed; empty ones at the end are left out.
    pub fn text(&self) -> String {
        let lines: Vec<String> = (0..self.rows).map(|row| self.line(row)).collect();
        let used = lines.iter().rposition(|line| !line.is_empty());
        let mut text = String::new();
        for line in lines.iter().take(used.map_or(0, |last| last + 1)) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

impl Vga {
    /// What a text mode shows; `None` in graphics modes.
    pub fn text_screen(&self) -> Option<TextScreen> {
        if self.is_graphics() {
            return None;
        }
        let columns = self.crtc.columns() as usize;
        let cursor = self.crtc.cursor();
        let mut screen = TextScreen {
            columns,
            blink: self.attribute.blink(),
            ..TextScreen::default()
        };
        for (number, colour) in (0u8..).zip(&mut screen.palette) {
            *colour = self.dac.colour(self.attribute.colour(number));
        }
        let mut before = None;
        for scan in self.scans() {
            // A row begins where its counter does; a preset row scan cuts its top off.
            let begins = before.is_none_or(|(counter, row_scan)| {
                scan.counter != counter || scan.row_scan < row_scan
            });
            before = Some((scan.counter, scan.row_scan));
            if !begins {
                continue;
            }
            for column in 0..columns {
                let counter = self.counter(&scan, column as u32);
                let [character, attribute, ..] = self.fetch(&scan, counter);
                screen.cells.push(TextCell {
                    character,
                    attribute,
                });
                if counter == cursor.location && !cursor.off && cursor.start <= cursor.end {
                    screen.cursor.get_or_insert(TextCursor {
                        column,
                        row: screen.rows,
                    });
                }
            }
            screen.rows += 1;
        }
        Some(screen)
    }

    /// Draws a text mode as it is at `now`.
    pub(super) fn draw_text(&self, now: Nanos) -> Picture {
        let timing = self.timing();
        let dots = self.sequencer.dots();
        let columns = self.crtc.columns();
        let lines: Vec<Scan> = self.scans().collect();
        // 40 columns are as wide on the screen as 80: each dot takes two clocks.
        let wide = if self.sequencer.half_clock() { 2 } else { 1 };
        let mut picture = Picture::new(columns * dots * wide, lines.len() as u32);
        let text = TextDrawing {
            cursor_on: timing.cursor_on(now),
            blink_on: timing.blink_on(now),
            dots,
            wide: wide as usize,
            panning: self.attribute.panning(dots),
        };
        for (scan, row) in lines.iter().zip(picture.rows_mut()) {
            self.draw_text_line(&text, scan, row);
        }
        picture
    }

    fn draw_text_line(&self, text: &TextDrawing, scan: &Scan, row: &mut [u8]) {
        let panning = if scan.split && self.attribute.panning_stops_at_split() {
            0
        } else {
            text.panning
        };
        let skip = 3 * panning as usize * text.wide;
        let mut line = Vec::with_capacity(row.len() + 3 * 36);
        for column in 0..=self.crtc.columns() {
            let counter = self.counter(scan, column);
            let [character, attribute, ..] = self.fetch(scan, counter);
            let (foreground, background) = self.colours(text, attribute);
            let mut glyph = self.glyph(text, character, attribute, scan.row_scan);
            if self.attribute.mono() && attribute & 7 == 1 && scan.row_scan == self.crtc.underline()
            {
                glyph = 0x1ff;
            }
            if text.cursor_on && self.is_cursor(counter, scan.row_scan) {
                glyph = 0x1ff;
            }
            for dot in 0..text.dots {
                let on = glyph >> (8 - dot) & 1 != 0;
                for _ in 0..text.wide {
                    line.extend(if on { foreground } else { background });
                }
            }
        }
        if let Some(visible) = line.get(skip..skip + row.len()) {
            row.copy_from_slice(visible);
        }
    }

    fn is_cursor(&self, counter: u16, row_scan: u32) -> bool {
        let cursor = self.crtc.cursor();
        let lines = u32::from(cursor.start)..=u32::from(cursor.end);
        !cursor.off && counter == cursor.location && lines.contains(&row_scan)
    }

    fn colours(&self, text: &TextDrawing, attribute: u8) -> (Rgb, Rgb) {
        let colour = |number| self.dac.colour(self.attribute.colour(number));
        let blinks = self.attribute.blink();
        let background = attribute >> 4 & if blinks { 7 } else { 15 };
        let hidden = blinks && attribute & 0x80 != 0 && !text.blink_on;
        let foreground = if hidden { background } else { attribute & 15 };
        (colour(foreground), colour(background))
    }

    /// A line of a glyph: nine dots, the leftmost in bit 8.
    fn glyph(&self, text: &TextDrawing, character: u8, attribute: u8, row_scan: u32) -> u16 {
        let (font_b, font_a) = self.sequencer.fonts();
        let font = if attribute & 8 != 0 { font_a } else { font_b };
        let [_, _, bits, _] = self
            .memory
            .planes(font + u32::from(character) * 32 + (row_scan & 31));
        let ninth =
            text.dots == 9 && self.attribute.line_graphics() && (0xc0..=0xdf).contains(&character);
        u16::from(bits) << 1 | if ninth { u16::from(bits & 1) } else { 0 }
    }
}

/// What holds for a whole picture of a text mode.
struct TextDrawing {
    cursor_on: bool,
    blink_on: bool,
    dots: u32,
    /// Pixels of a dot.
    wide: usize,
    panning: u32,
}

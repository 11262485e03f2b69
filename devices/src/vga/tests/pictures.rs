use super::*;

const GREY: Rgb = [0xaa; 3];
const BLUE: Rgb = [0, 0, 0xaa];
const YELLOW: Rgb = [0xff, 0xff, 0x55];
const BLACK: Rgb = [0; 3];

fn write_text(vga: &mut Vga, at: u64, text: &str, attribute: u8) {
    for (index, byte) in (0..).zip(text.bytes()) {
        poke(vga, 0xb_8000 + 2 * (at + index), byte);
        poke(vga, 0xb_8000 + 2 * (at + index) + 1, attribute);
    }
}

/// Loads glyphs as a program does: planar access to plane 2.
fn load_glyph(vga: &mut Vga, font: u64, character: u8, lines: [u8; 16]) {
    set(vga, SEQUENCER_INDEX, 2, 4);
    set(vga, SEQUENCER_INDEX, 4, 7);
    set(vga, GRAPHICS_INDEX, 5, 0);
    set(vga, GRAPHICS_INDEX, 6, 4);
    for (line, bits) in (0..).zip(lines) {
        poke(
            vga,
            0xa_0000 + font + u64::from(character) * 32 + line,
            bits,
        );
    }
    set(vga, SEQUENCER_INDEX, 2, 3);
    set(vga, SEQUENCER_INDEX, 4, 2);
    set(vga, GRAPHICS_INDEX, 5, 0x10);
    set(vga, GRAPHICS_INDEX, 6, 0x0e);
}

fn set_start(vga: &mut Vga, start: u16) {
    set(vga, CRTC_INDEX, 0x0c, (start >> 8) as u8);
    set(vga, CRTC_INDEX, 0x0d, start as u8);
}

#[test]
fn a_text_screen_has_characters_attributes_and_a_cursor() {
    let mut vga = in_mode(&modes::TEXT);
    write_text(&mut vga, 0, "C:\\>dir", 0x07);
    write_text(&mut vga, 80 * 24 + 78, "\u{1}!", 0x1e);
    set(&mut vga, CRTC_INDEX, 0x0f, 7);
    let screen = vga.text_screen().unwrap();
    assert_eq!((screen.columns, screen.rows), (80, 25));
    assert_eq!(screen.line(0), "C:\\>dir");
    assert_eq!(screen.line(24).trim_start(), "☺!");
    assert_eq!(screen.text().lines().count(), 25);
    assert_eq!(screen.row(24)[79].attribute, 0x1e);
    assert_eq!(screen.cursor, Some(TextCursor { column: 7, row: 0 }));
    assert_eq!((screen.palette[1], screen.palette[14]), (BLUE, YELLOW));
    assert!(screen.blink);
    set(&mut vga, CRTC_INDEX, 0x0a, 0x2d);
    assert_eq!(vga.text_screen().unwrap().cursor, None, "switched off");
    // Scrolled by a row.
    set_start(&mut vga, 80);
    let screen = vga.text_screen().unwrap();
    assert_eq!(screen.line(23).trim_start(), "☺!");
}

#[test]
fn fifty_rows_by_eight_line_characters() {
    let mut vga = in_mode(&modes::TEXT);
    set(&mut vga, CRTC_INDEX, 9, 0x47);
    write_text(&mut vga, 80 * 49, "last", 7);
    let screen = vga.text_screen().unwrap();
    assert_eq!((screen.columns, screen.rows), (80, 50));
    assert_eq!(screen.line(49), "last");
}

#[test]
fn a_split_screen_goes_on_at_address_0() {
    let mut vga = in_mode(&modes::TEXT);
    write_text(&mut vga, 0, "status", 7);
    write_text(&mut vga, 2000, "top", 7);
    set_start(&mut vga, 2000);
    // Line 384 is the first of row 24; the comparison is with the line before.
    set(&mut vga, CRTC_INDEX, 0x11, 0);
    set(&mut vga, CRTC_INDEX, 0x18, (383 & 0xff) as u8);
    set(&mut vga, CRTC_INDEX, 9, 0x0f);
    let screen = vga.text_screen().unwrap();
    assert_eq!(
        (screen.line(0), screen.line(24)),
        ("top".into(), "status".into())
    );
}

#[test]
fn glyphs_come_from_the_fonts_of_the_guest() {
    let mut vga = in_mode(&modes::TEXT);
    set(&mut vga, CRTC_INDEX, 0x0a, 0x20);
    let mut glyph = [0; 16];
    glyph[3] = 0b1000_0001;
    load_glyph(&mut vga, 0, b'A', glyph);
    load_glyph(&mut vga, 0, 0xc4, glyph);
    glyph[3] = 0b0100_0000;
    load_glyph(&mut vga, 0x2000, b'A', glyph);
    for (at, character, attribute) in [(0, b'A', 0x17), (1, 0xc4, 0x07), (2, b'A', 0x0e)] {
        poke(&mut vga, 0xb_8000 + 2 * at, character);
        poke(&mut vga, 0xb_8001 + 2 * at, attribute);
    }
    let picture = vga.render(NOW);
    assert_eq!((picture.width, picture.height), (720, 400));
    assert_eq!(picture.pixel(0, 3), GREY);
    assert_eq!(picture.pixel(1, 3), BLUE);
    assert_eq!(picture.pixel(8, 3), BLUE, "the ninth dot is background");
    assert_eq!(
        picture.pixel(9 + 8, 3),
        GREY,
        "line graphics reach their neighbour"
    );
    assert_eq!(picture.pixel(18, 3), YELLOW);
    // Attribute bit 3 chooses the font at 2000h.
    set(&mut vga, SEQUENCER_INDEX, 3, 0x20);
    let picture = vga.render(NOW);
    assert_eq!(
        (picture.pixel(18, 3), picture.pixel(19, 3)),
        (BLACK, YELLOW)
    );
}

#[test]
fn cursor_and_blinking_follow_the_time() {
    let mut vga = in_mode(&modes::TEXT);
    load_glyph(&mut vga, 0, b'#', [0xff; 16]);
    write_text(&mut vga, 1, "#", 0x87);
    let frame = 900u64 * 449 * 1_000_000_000 / 28_322_000;
    let seen = |vga: &Vga, frames: u64| {
        let picture = vga.render(Nanos(frames * frame + 1));
        (picture.pixel(0, 13) != BLACK, picture.pixel(9, 0) != BLACK)
    };
    write_text(&mut vga, 0, " ", 0x07);
    assert_eq!(seen(&vga, 0), (true, true));
    assert_eq!(seen(&vga, 8), (false, true));
    assert_eq!(seen(&vga, 16), (true, false));
    set_attribute(&mut vga, 0x10, 0x04);
    assert_eq!(seen(&vga, 16), (true, true), "bit 7 is intensity now");
    assert_eq!(
        vga.render(Nanos(16 * frame)).pixel(8, 0),
        BLACK,
        "a ninth dot"
    );
}

#[test]
fn mode_13h_shows_bytes() {
    let mut vga = in_mode(&modes::PACKED);
    assert_eq!(vga.text_screen(), None);
    for (x, y, value) in [(0, 0, 1), (319, 0, 2), (5, 199, 14)] {
        poke(&mut vga, 0xa_0000 + y * 320 + x, value);
    }
    let picture = vga.render(NOW);
    assert_eq!((picture.width, picture.height), (320, 200));
    assert_eq!(picture.pixel(0, 0), BLUE);
    assert_eq!(picture.pixel(319, 0), [0, 0xaa, 0]);
    assert_eq!(
        picture.pixel(5, 199),
        [0xaa, 0xaa, 0x55],
        "number 14 of the DAC"
    );
    assert_eq!(picture.pixel(6, 199), BLACK);
    out(&mut vga, DAC_MASK, 0xfe);
    assert_eq!(
        vga.render(NOW).pixel(0, 0),
        BLACK,
        "the mask is 0 for number 1"
    );
}

#[test]
fn unchained_256_colours_have_all_of_memory() {
    // The well-known mode X: chain-4 off, byte addresses.
    let mut vga = in_mode(&modes::PACKED);
    set(&mut vga, SEQUENCER_INDEX, 4, 6);
    set(&mut vga, CRTC_INDEX, 0x14, 0);
    set(&mut vga, CRTC_INDEX, 0x17, 0xe3);
    set(&mut vga, SEQUENCER_INDEX, 2, 1 << 1);
    poke(&mut vga, 0xa_0000 + 80 + 2, 1);
    let picture = vga.render(NOW);
    assert_eq!(picture.pixel(9, 1), BLUE);
    set_start(&mut vga, 80);
    assert_eq!(vga.render(NOW).pixel(9, 0), BLUE);
    set_attribute(&mut vga, 0x13, 2);
    assert_eq!(vga.render(NOW).pixel(8, 0), BLUE, "a pixel is two dots");
}

#[test]
fn planar_pixels_go_through_the_palette() {
    let mut vga = in_mode(&modes::PLANAR);
    set(&mut vga, SEQUENCER_INDEX, 2, 0b0001);
    poke(&mut vga, 0xa_0000 + 80, 0x80);
    set(&mut vga, SEQUENCER_INDEX, 2, 0b1110);
    poke(&mut vga, 0xa_0000, 0x01);
    let picture = vga.render(NOW);
    assert_eq!((picture.width, picture.height), (640, 480));
    assert_eq!(picture.pixel(0, 1), BLUE);
    assert_eq!(picture.pixel(7, 0), YELLOW);
    set_attribute(&mut vga, 0x12, 0b0111);
    assert_eq!(vga.render(NOW).pixel(7, 0), [0xaa, 0x55, 0], "plane 3 off");
    set_attribute(&mut vga, 0x13, 7);
    assert_eq!(
        vga.render(NOW).pixel(0, 0),
        [0xaa, 0x55, 0],
        "panned by seven dots"
    );
}

#[test]
fn cga_rows_are_in_two_banks() {
    let mut vga = in_mode(&modes::CGA);
    // Pixels 1 2 3 0 in the first row of each bank.
    poke(&mut vga, 0xb_8000, 0b01_10_11_00);
    poke(&mut vga, 0xb_a001, 0b11_00_00_00);
    let picture = vga.render(NOW);
    assert_eq!((picture.width, picture.height), (320, 200));
    let row = |y| (0..5).map(|x| picture.pixel(x, y)).collect::<Vec<_>>();
    assert_eq!(row(0), [BLUE, [0, 0xaa, 0], [0, 0xaa, 0xaa], BLACK, BLACK]);
    assert_eq!(row(1)[4], [0, 0xaa, 0xaa]);
    assert_eq!(row(2), [BLACK; 5]);
}

#[test]
fn bochs_modes_of_every_depth() {
    let mut vga = vga();
    for (bpp, bytes, expected) in [
        (15, &[0x1fu8, 0x7c][..], [0xff, 0, 0xff]),
        (16, &[0xe0, 0x07][..], [0, 0xff, 0]),
        (24, &[1, 2, 3][..], [3, 2, 1]),
        (32, &[1, 2, 3, 0][..], [3, 2, 1]),
    ] {
        for (index, value) in [(4, 0), (1, 64), (2, 48), (3, bpp), (4, 0x41)] {
            set_vbe(&mut vga, index, value);
        }
        let at = (64 + 1) * bytes.len() as u64;
        for (at, byte) in (at..).zip(bytes) {
            vga.frame_buffer()
                .mmio_write(at, AccessSize::Byte, u32::from(*byte), NOW);
        }
        let picture = vga.render(NOW);
        assert_eq!((picture.width, picture.height), (64, 48));
        assert_eq!(picture.pixel(1, 1), expected, "{bpp} bits");
        set_vbe(&mut vga, 8, 1);
        set_vbe(&mut vga, 9, 1);
        assert_eq!(vga.render(NOW).pixel(0, 0), expected, "{bpp} bits, moved");
        // Behind the end of memory it starts again.
        set_vbe(&mut vga, 9, 0xffff);
        vga.render(NOW);
    }
}

#[test]
fn a_screen_that_is_off_is_black() {
    let mut vga = in_mode(&modes::PACKED);
    poke(&mut vga, 0xa_0000, 1);
    set(&mut vga, SEQUENCER_INDEX, 1, 0x21);
    assert!(vga.render(NOW).rgb.iter().all(|byte| *byte == 0));
    vga.reset();
    assert!(vga.render(NOW).rgb.iter().all(|byte| *byte == 0));
}

/// 40 columns take the whole width of the screen.
#[test]
fn forty_columns_are_as_wide_as_eighty() {
    let mut vga = in_mode(&modes::TEXT);
    set(&mut vga, SEQUENCER_INDEX, 1, 9);
    set(&mut vga, CRTC_INDEX, 0x11, 0x0e);
    set(&mut vga, CRTC_INDEX, 0x01, 39);
    set(&mut vga, CRTC_INDEX, 0x13, 20);
    for address in (0xb_8000..0xb_8000 + 4000).step_by(2) {
        poke(&mut vga, address, b' ');
        poke(&mut vga, address + 1, 0x07);
    }
    // Blue behind the second character.
    poke(&mut vga, 0xb_8003, 0x17);
    let picture = vga.render(NOW);
    assert_eq!((picture.width, picture.height), (640, 400));
    let blue = picture.pixel(16, 0);
    assert_ne!(picture.pixel(15, 0), blue);
    assert_eq!(picture.pixel(31, 0), blue);
    assert_ne!(picture.pixel(32, 0), blue);
    let text = vga.text_screen().unwrap();
    assert_eq!((text.columns, text.rows), (40, 25));
    set(&mut vga, SEQUENCER_INDEX, 1, 0x29);
    assert_eq!(vga.render(NOW).width, 640, "the screen is off");
}

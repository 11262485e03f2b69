use super::*;

const A: u64 = 0xa_0000;

/// All four planes at an offset, in a planar mode.
fn planes(vga: &mut Vga, offset: u64) -> [u8; 4] {
    set(vga, GRAPHICS_INDEX, 5, 0);
    [0, 1, 2, 3].map(|plane| {
        set(vga, GRAPHICS_INDEX, 4, plane);
        peek(vga, A + offset)
    })
}

#[test]
fn the_map_mask_selects_planes() {
    let mut vga = in_mode(&modes::PLANAR);
    set(&mut vga, SEQUENCER_INDEX, 2, 0b0101);
    poke(&mut vga, A + 7, 0xa5);
    assert_eq!(planes(&mut vga, 7), [0xa5, 0, 0xa5, 0]);
}

#[test]
fn write_mode_0_rotates_then_combines_then_masks() {
    let mut vga = in_mode(&modes::PLANAR);
    poke(&mut vga, A, 0b1100_1100);
    peek(&mut vga, A);
    for (function, combined) in [
        (0x00, 0b1010_1010u8),
        (0x08, 0b1000_1000),
        (0x10, 0b1110_1110),
        (0x18, 0b0110_0110),
    ] {
        set(&mut vga, GRAPHICS_INDEX, 3, function | 1);
        set(&mut vga, GRAPHICS_INDEX, 8, 0b0000_1111);
        poke(&mut vga, A + 1, 0b0101_0101);
        let expected = combined & 0x0f | 0b1100_0000;
        assert_eq!(planes(&mut vga, 1), [expected; 4], "function {function:#x}");
        // The reads above have loaded the latches with something else.
        peek(&mut vga, A);
    }
}

#[test]
fn set_reset_replaces_the_data_of_enabled_planes_unrotated() {
    let mut vga = in_mode(&modes::PLANAR);
    set(&mut vga, GRAPHICS_INDEX, 0, 0b0010);
    set(&mut vga, GRAPHICS_INDEX, 1, 0b0011);
    set(&mut vga, GRAPHICS_INDEX, 3, 4);
    poke(&mut vga, A, 0x0f);
    assert_eq!(planes(&mut vga, 0), [0x00, 0xff, 0xf0, 0xf0]);
}

#[test]
fn write_mode_1_copies_latches() {
    let mut vga = in_mode(&modes::PLANAR);
    for (plane, value) in [(1, 0x11), (2, 0x22), (4, 0x33), (8, 0x44)] {
        set(&mut vga, SEQUENCER_INDEX, 2, plane);
        poke(&mut vga, A, value);
    }
    set(&mut vga, SEQUENCER_INDEX, 2, 0b1011);
    set(&mut vga, GRAPHICS_INDEX, 5, 1);
    set(&mut vga, GRAPHICS_INDEX, 8, 0x0f);
    peek(&mut vga, A);
    poke(&mut vga, A + 9, 0xff);
    assert_eq!(
        planes(&mut vga, 9),
        [0x11, 0x22, 0, 0x44],
        "the bit mask is not used"
    );
}

#[test]
fn write_mode_2_spreads_a_colour() {
    let mut vga = in_mode(&modes::PLANAR);
    set(&mut vga, GRAPHICS_INDEX, 5, 2);
    set(&mut vga, GRAPHICS_INDEX, 8, 0b1000_0001);
    peek(&mut vga, A);
    poke(&mut vga, A, 0b1010);
    assert_eq!(planes(&mut vga, 0), [0, 0x81, 0, 0x81]);
}

#[test]
fn write_mode_3_takes_the_data_as_mask() {
    let mut vga = in_mode(&modes::PLANAR);
    poke(&mut vga, A, 0xff);
    set(&mut vga, GRAPHICS_INDEX, 0, 0b0110);
    set(&mut vga, GRAPHICS_INDEX, 5, 3);
    set(&mut vga, GRAPHICS_INDEX, 8, 0x3c);
    peek(&mut vga, A);
    poke(&mut vga, A, 0xf0);
    assert_eq!(planes(&mut vga, 0), [0xcf, 0xff, 0xff, 0xcf]);
}

#[test]
fn read_mode_1_compares_colours() {
    let mut vga = in_mode(&modes::PLANAR);
    // Pixels from the left: 15, 5, 1, 0 and zeros.
    for (plane, bits) in [
        (1, 0b1110_0000),
        (2, 0b1000_0000),
        (4, 0b1100_0000),
        (8, 0x80),
    ] {
        set(&mut vga, SEQUENCER_INDEX, 2, plane);
        poke(&mut vga, A, bits);
    }
    set(&mut vga, GRAPHICS_INDEX, 5, 8);
    set(&mut vga, GRAPHICS_INDEX, 2, 5);
    set(&mut vga, GRAPHICS_INDEX, 7, 15);
    assert_eq!(peek(&mut vga, A), 0b0100_0000);
    set(&mut vga, GRAPHICS_INDEX, 7, 0b0101);
    assert_eq!(peek(&mut vga, A), 0b1100_0000, "planes that do not count");
    set(&mut vga, GRAPHICS_INDEX, 7, 0);
    assert_eq!(peek(&mut vga, A), 0xff);
}

#[test]
fn odd_and_even_addresses_are_characters_and_attributes() {
    let mut vga = in_mode(&modes::TEXT);
    poke(&mut vga, 0xb_8000, b'A');
    poke(&mut vga, 0xb_8001, 0x1e);
    poke(&mut vga, 0xb_8002, b'B');
    assert_eq!(peek(&mut vga, 0xb_8001), 0x1e);
    assert_eq!(peek(&mut vga, 0xa_0000), 0xff, "not in the window");
    // The planes, as a program that saves them finds them.
    set(&mut vga, SEQUENCER_INDEX, 4, 6);
    set(&mut vga, GRAPHICS_INDEX, 5, 0);
    set(&mut vga, GRAPHICS_INDEX, 6, 4);
    assert_eq!(planes(&mut vga, 0), [b'A', 0x1e, 0, 0]);
    assert_eq!(planes(&mut vga, 2), [b'B', 0, 0, 0], "a place is left out");
}

#[test]
fn chained_planes_are_neighbours() {
    let mut vga = in_mode(&modes::PACKED);
    for (offset, value) in (0..8).zip(0x10..) {
        poke(&mut vga, A + offset, value);
    }
    assert_eq!(peek(&mut vga, A + 6), 0x16);
    set(&mut vga, SEQUENCER_INDEX, 4, 6);
    assert_eq!(planes(&mut vga, 0), [0x10, 0x11, 0x12, 0x13]);
    assert_eq!(planes(&mut vga, 4), [0x14, 0x15, 0x16, 0x17]);
    assert_eq!(
        planes(&mut vga, 1),
        [0; 4],
        "mode 13h leaves three of four out"
    );
}

#[test]
fn memory_can_be_switched_off_and_moved() {
    let mut vga = in_mode(&modes::PACKED);
    poke(&mut vga, A, 0x55);
    out(&mut vga, MISC_WRITE, 0x61);
    poke(&mut vga, A, 0xaa);
    assert_eq!(peek(&mut vga, A), 0xff);
    out(&mut vga, MISC_WRITE, 0x63);
    assert_eq!(peek(&mut vga, A), 0x55);
    for (map, address) in [
        (0x01, 0xa_0000),
        (0x05, 0xa_0000),
        (0x09, 0xb_0000),
        (0x0d, 0xb_8000),
    ] {
        set(&mut vga, GRAPHICS_INDEX, 6, map);
        assert_eq!(peek(&mut vga, address), 0x55, "memory map {map:#x}");
    }
    assert_eq!(peek(&mut vga, 0xb_0000), 0xff);
}

#[test]
fn wide_accesses_are_bytes_in_order() {
    let mut vga = in_mode(&modes::TEXT);
    vga.mmio_write(0x1_8000, AccessSize::Dword, 0x0742_1e41, NOW);
    assert_eq!(vga.mmio_read(0x1_8000, AccessSize::Dword, NOW), 0x0742_1e41);
    assert_eq!(vga.mmio_read(0x1_8002, AccessSize::Word, NOW), 0x0742);
}

#[test]
fn banks_of_the_bochs_extension_are_linear() {
    let mut vga = in_mode(&modes::PACKED);
    for (index, value) in [(1, 320), (2, 200), (3, 8), (4, 1)] {
        set_vbe(&mut vga, index, value);
    }
    set_vbe(&mut vga, 5, 1);
    poke(&mut vga, A + 5, 0x77);
    set_vbe(&mut vga, 5, 4);
    assert_eq!(peek(&mut vga, A + 5), 0x77, "bank 4 of 4 is not taken");
    set_vbe(&mut vga, 5, 0);
    assert_eq!(peek(&mut vga, A + 5), 0);
    let closed = vga
        .frame_buffer()
        .mmio_read(0x1_0005, AccessSize::Byte, NOW);
    assert_eq!(closed, 0xff);
    set_vbe(&mut vga, 4, 0x41);
    let open = vga
        .frame_buffer()
        .mmio_read(0x1_0005, AccessSize::Byte, NOW);
    assert_eq!(open, 0x77);
}

/// What a span does is what its accesses do one by one, latches included.
#[test]
fn spans_are_accesses_one_by_one() {
    for mode in [modes::PLANAR, modes::PACKED, modes::TEXT, modes::CGA] {
        for (index, value) in [(5, 0), (5, 1), (3, 0x1b), (8, 0x5a)] {
            let mut one = in_mode(&mode);
            let mut other = in_mode(&mode);
            let start = one.graphics.window().0;
            for vga in [&mut one, &mut other] {
                set(vga, GRAPHICS_INDEX, index, value);
                peek(vga, WINDOW + start + 9);
            }
            let data: Vec<u8> = (0..64u8).map(|n| n.wrapping_mul(37)).collect();
            for (at, word) in (start..).step_by(2).zip(data.chunks(2)) {
                let word = u32::from(word[0]) | u32::from(word[1]) << 8;
                one.mmio_write(at, AccessSize::Word, word, NOW);
            }
            other.mmio_write_span(start, AccessSize::Word, &data, NOW);
            assert_eq!(one.state(), other.state());
            let mut read = [0; 80];
            other.mmio_read_span(start, AccessSize::Dword, &mut read, NOW);
            for (at, bytes) in (start..).step_by(4).zip(read.chunks(4)) {
                let dword = one.mmio_read(at, AccessSize::Dword, NOW);
                assert_eq!(dword.to_le_bytes(), bytes);
            }
            assert_eq!(one.state(), other.state());
        }
    }
}

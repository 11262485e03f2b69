use super::*;

/// Uses display memory until a window is offered, or ought to be.
fn use_memory(vga: &mut Vga, address: u64) {
    for _ in 0..1000 {
        let value = peek(vga, address);
        poke(vga, address, value);
    }
}

#[test]
fn text_and_mode_13h_are_offered_after_some_use() {
    for (mode, address, bytes) in [
        (modes::TEXT, 0xb_8000, 0x8000),
        (modes::PACKED, 0xa_0000, 0x1_0000),
    ] {
        let mut vga = in_mode(&mode);
        assert_eq!(vga.window(), None);
        use_memory(&mut vga, address);
        assert!(vga.take_window_change());
        assert!(!vga.take_window_change());
        let window = vga.window().unwrap();
        assert_eq!((window.address, window.bytes), (address, bytes));
    }
}

#[test]
fn planes_are_not_like_ram() {
    let mut vga = in_mode(&modes::PLANAR);
    use_memory(&mut vga, 0xa_0000);
    assert_eq!(vga.window(), None);
    // Mode 13h with an operation in the way.
    for (index, value) in [(1, 1), (3, 1), (3, 0x18), (5, 0x41), (5, 0x48), (8, 0x7f)] {
        let mut vga = in_mode(&modes::PACKED);
        set(&mut vga, GRAPHICS_INDEX, index, value);
        use_memory(&mut vga, 0xa_0000);
        assert_eq!(vga.window(), None, "GR{index} = {value:#x}");
    }
    let mut vga = in_mode(&modes::PACKED);
    set(&mut vga, SEQUENCER_INDEX, 2, 7);
    use_memory(&mut vga, 0xa_0000);
    assert_eq!(vga.window(), None, "a plane is not written");
}

/// What the guest would see through the window is what it sees through the device.
#[test]
fn a_window_is_what_trapped_accesses_are() {
    for (mode, address) in [(modes::TEXT, 0xb_8000), (modes::PACKED, 0xa_0000)] {
        let mut vga = in_mode(&mode);
        use_memory(&mut vga, address);
        let window = vga.window().unwrap();
        for offset in 0..window.bytes {
            poke(&mut vga, address + offset, (offset ^ offset >> 8) as u8);
        }
        let ram = vga.load_window(&window);
        for (offset, byte) in (0..).zip(&ram) {
            assert_eq!(peek(&mut vga, address + offset), *byte);
        }
        let picture = vga.render(NOW);
        let mut other = in_mode(&mode);
        other.store_window(&window, &ram);
        assert_eq!(other.render(NOW), picture);
        let inverse: Vec<u8> = ram.iter().map(|byte| !byte).collect();
        vga.store_window(&window, &inverse);
        assert_eq!(peek(&mut vga, address + 77), inverse[77]);
    }
}

#[test]
fn a_register_that_matters_ends_the_window_and_others_do_not() {
    let mut vga = in_mode(&modes::TEXT);
    use_memory(&mut vga, 0xb_8000);
    let window = vga.window().unwrap();
    vga.take_window_change();
    set(&mut vga, CRTC_INDEX, 0x0f, 1);
    set(&mut vga, GRAPHICS_INDEX, 8, 0xff);
    set_attribute(&mut vga, 1, 2);
    assert!(!vga.take_window_change());
    set(&mut vga, SEQUENCER_INDEX, 4, 6);
    assert!(vga.take_window_change());
    assert_eq!(vga.window(), None);
    vga.store_window(&window, &[b'x'; 2]);
    set(&mut vga, SEQUENCER_INDEX, 4, 2);
    assert_eq!(
        peek(&mut vga, 0xb_8000),
        b'x',
        "what the RAM held is not lost"
    );
}

#[test]
fn memory_that_was_cleared_is_not_filled_from_the_window() {
    let mut vga = in_mode(&modes::PACKED);
    for (index, value) in [(1, 320), (2, 200), (3, 8), (4, 1)] {
        set_vbe(&mut vga, index, value);
    }
    use_memory(&mut vga, 0xa_0000);
    let window = vga.window().unwrap();
    vga.load_window(&window);
    set_vbe(&mut vga, 4, 0);
    set_vbe(&mut vga, 4, 1);
    assert_eq!(vga.window(), None);
    vga.store_window(&window, &[1; 16]);
    assert_eq!(peek(&mut vga, 0xa_0000), 0);
    set_vbe(&mut vga, 4, 0x41);
    use_memory(&mut vga, 0xa_0000);
    assert_eq!(vga.window(), None, "the frame buffer is the way");
}

/// Where the frame buffer is, in these tests.
const FRAME_BUFFER: u64 = 0xe000_0000;

/// An adapter that shows 320x200 pixels of 8 bits through the linear frame buffer.
fn linear() -> Vga {
    let mut vga = Vga::new(VgaConfig {
        memory: 1 << 20,
        rom: Vec::new(),
    });
    modes::PACKED.set(&mut vga);
    vga.place_frame_buffer(Some(FRAME_BUFFER));
    for (index, value) in [(1, 320), (2, 200), (3, 8), (4, 0x41)] {
        set_vbe(&mut vga, index, value);
    }
    vga
}

#[test]
fn the_linear_frame_buffer_is_offered_at_once_as_far_as_it_is_shown() {
    let mut vga = linear();
    assert!(vga.take_window_change());
    let window = vga.window().unwrap();
    assert_eq!((window.address, window.bytes), (FRAME_BUFFER, 0x1_0000));
    assert!(window.is_linear());
    let mut ram = vga.load_window(&window);
    assert!(ram.iter().all(|byte| *byte == 0));
    ram[320 + 7] = 0x2a;
    vga.store_window(&window, &ram);
    let colour = vga.dac.colour(0x2a);
    assert_eq!(vga.render(NOW).pixel(7, 1), colour);
    // The colours, and a register that it does not depend on.
    out(&mut vga, DAC_WRITE, 1);
    set(&mut vga, GRAPHICS_INDEX, 5, 0);
    assert!(!vga.take_window_change());
}

#[test]
fn the_frame_buffer_grows_with_what_is_shown_and_never_shrinks_in_a_mode() {
    let mut vga = linear();
    let first = vga.window().unwrap();
    set_vbe(&mut vga, 9, 200);
    let second = vga.window().unwrap();
    assert_eq!(second.bytes, 0x2_0000, "two pages");
    assert_ne!(first, second);
    vga.take_window_change();
    set_vbe(&mut vga, 9, 0);
    set_vbe(&mut vga, 9, 200);
    assert!(!vga.take_window_change(), "pages are turned back and forth");
    set_vbe(&mut vga, 9, 4000);
    assert_eq!(vga.window().unwrap().bytes, 1 << 20, "around the end");
    set_vbe(&mut vga, 4, 0);
    assert_eq!(vga.window(), None);
    set_vbe(&mut vga, 4, 0xc1);
    assert_eq!(vga.window().unwrap().bytes, 0x1_0000, "a mode of its own");
}

#[test]
fn memory_behind_the_picture_is_offered_once_it_is_used() {
    let mut vga = linear();
    vga.take_window_change();
    for offset in 0..window::PATIENCE {
        assert!(!vga.take_window_change());
        let at = 0x8_0000 + u64::from(offset);
        vga.frame_buffer()
            .mmio_write(at, AccessSize::Byte, 0x55, NOW);
        vga.follow_frame_buffer();
    }
    assert!(vga.take_window_change());
    let window = vga.window().unwrap();
    assert_eq!(window.bytes, 1 << 20);
    assert_eq!(vga.load_window(&window)[0x8_0000], 0x55);
}

#[test]
fn a_frame_buffer_that_moves_or_closes_is_taken_back() {
    let mut vga = linear();
    let window = vga.window().unwrap();
    vga.take_window_change();
    vga.place_frame_buffer(Some(0xd000_0000));
    assert!(vga.take_window_change());
    assert_eq!(vga.window().unwrap().address, 0xd000_0000);
    vga.place_frame_buffer(None);
    assert_eq!(vga.window(), None);
    vga.place_frame_buffer(Some(FRAME_BUFFER));
    assert_ne!(vga.window(), Some(window), "another one at the same place");
    // Planes are no memory, whichever way they are reached.
    set_vbe(&mut vga, 4, 0);
    set_vbe(&mut vga, 3, 4);
    set_vbe(&mut vga, 4, 0x41);
    assert_eq!(vga.window(), None);
}

/// A guest that clears the screen by setting the mode again must not get the old picture back.
#[test]
fn a_mode_that_is_set_again_is_another_window() {
    let mut vga = linear();
    let before = vga.window().unwrap();
    vga.load_window(&before);
    vga.take_window_change();
    set_vbe(&mut vga, 4, 0);
    set_vbe(&mut vga, 4, 0x41);
    let after = vga.window().unwrap();
    assert_ne!(before, after);
    vga.store_window(&before, &[1; 16]);
    assert_eq!(vga.load_window(&after)[0], 0);
}

#[test]
fn the_bank_stands_in_for_the_frame_buffer() {
    let mut vga = linear();
    set_vbe(&mut vga, 5, 3);
    let window = vga.window().unwrap();
    assert_eq!(
        vga.stand_in(&window, 0xa_0010, 4),
        None,
        "not offered so far"
    );
    set_vbe(&mut vga, 9, 600);
    let window = vga.window().unwrap();
    let place = |address, bytes| vga.stand_in(&window, address, bytes);
    assert_eq!(place(0xa_0010, 4), Some(FRAME_BUFFER + 0x3_0010));
    assert_eq!(place(0xa_ffff, 2), None, "beyond the bank");
    assert_eq!(place(0x9_ffff, 1), None);
    assert_eq!(place(0xb_8000, 1), None);
    assert_eq!(place(FRAME_BUFFER, 1), None);
    let legacy = {
        let mut vga = in_mode(&modes::TEXT);
        use_memory(&mut vga, 0xb_8000);
        vga.window().unwrap()
    };
    assert_eq!(vga.stand_in(&legacy, 0xa_0000, 1), None);
}

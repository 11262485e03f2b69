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
    assert_eq!(vga.window(), None, "the frame buffer is a second way");
}

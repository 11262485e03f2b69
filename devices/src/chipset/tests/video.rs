//! The display adapter on the board.

use super::*;

/// A board with a display, the frame buffer at E0000000h and open.
fn board_with_display() -> Chipset {
    let mut c = Chipset::new(ChipsetConfig {
        vga: Some(crate::VgaConfig {
            memory: 1 << 20,
            rom: Vec::new(),
        }),
        ..ChipsetConfig::new()
    })
    .unwrap();
    for (register, value) in [(0x10, 0xe000_0000), (0x04, 0x0000_0003)] {
        c.port_write(
            0xcf8,
            AccessSize::Dword,
            0x8000_1000 | register,
            Nanos::ZERO,
        );
        c.port_write(0xcfc, AccessSize::Dword, value, Nanos::ZERO);
    }
    for (index, value) in [(1, 320), (2, 200), (3, 8), (4, 0x41)] {
        c.port_write(0x1ce, AccessSize::Word, index, Nanos::ZERO);
        c.port_write(0x1d0, AccessSize::Word, value, Nanos::ZERO);
    }
    c
}

#[test]
fn a_frame_buffer_is_offered_where_the_guest_has_put_it() {
    let mut c = board_with_display();
    assert_eq!(c.take_events(), [ChipsetEvent::Video]);
    let window = c.video_window().unwrap();
    assert_eq!(window.address, 0xe000_0000);
    // Memory access off, in the PCI function.
    c.port_write(0xcfc, AccessSize::Dword, 0x0000_0001, Nanos::ZERO);
    assert_eq!(c.take_events(), [ChipsetEvent::Video]);
    assert_eq!(c.video_window(), None);
}

#[test]
fn a_snapshot_has_the_base_addresses_of_the_display() {
    let mut c = board_with_display();
    let state = c.state();
    let window = c.video_window().unwrap();
    for register in [0x10, 0x30] {
        c.port_write(
            0xcf8,
            AccessSize::Dword,
            0x8000_1000 | register,
            Nanos::ZERO,
        );
        c.port_write(0xcfc, AccessSize::Dword, 0xd000_0000, Nanos::ZERO);
    }
    assert_eq!(c.video_window().unwrap().address, 0xd000_0000);
    c.restore(state.clone());
    assert_eq!(c.state(), state);
    assert_eq!(c.video_window().unwrap().address, window.address);
    let ranges: Vec<_> = c.video_ranges().collect();
    assert_eq!(ranges, [0xe000_0000..=0xe00f_ffff]);
    // Another board: nothing but the snapshot tells.
    let mut other = Chipset::new(ChipsetConfig {
        vga: Some(crate::VgaConfig {
            memory: 1 << 20,
            rom: Vec::new(),
        }),
        ..ChipsetConfig::new()
    })
    .unwrap();
    other.restore(state);
    assert_eq!(other.video_window().unwrap().address, 0xe000_0000);
}

#[test]
fn spans_reach_devices_in_elements_and_cross_them() {
    let mut c = board();
    let mut data = [0; 12];
    c.mmio_read_span(0xf000_0000, AccessSize::Dword, &mut data, Nanos::ZERO);
    assert_eq!(data, [0xff; 12], "nobody is there");
    assert_eq!(c.counters().mmio.reads, 3);
    let mut c = board_with_display();
    let start = 0xe000_0000;
    c.mmio_write_span(start, AccessSize::Word, &[1, 2, 3, 4, 5, 6], Nanos::ZERO);
    c.mmio_write_span(start + 9, AccessSize::Word, &[7, 8], Nanos::ZERO);
    c.mmio_copy_span(start + 2, start + 4, AccessSize::Word, 3, Nanos::ZERO);
    let mut data = [0; 12];
    c.mmio_read_span(start, AccessSize::Byte, &mut data, Nanos::ZERO);
    assert_eq!(data, [1, 2, 3, 4, 3, 4, 3, 4, 3, 4, 8, 0]);
    let end = start + (1 << 20);
    c.mmio_write_span(end - 4, AccessSize::Dword, &[9; 8], Nanos::ZERO);
    assert_eq!(
        c.mmio_read(end - 4, AccessSize::Dword, Nanos::ZERO),
        0x0909_0909
    );
}

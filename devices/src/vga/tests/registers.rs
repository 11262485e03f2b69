use super::*;
use crate::testing::{Random, fuzz_ports};

#[test]
fn registers_keep_the_bits_that_exist() {
    let mut vga = vga();
    out(&mut vga, MISC_WRITE, 0xff);
    assert_eq!(input(&mut vga, MISC_READ), 0xef);
    for (index, bits) in [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0]
        .into_iter()
        .enumerate()
    {
        set(&mut vga, SEQUENCER_INDEX, index as u8, 0xff);
        assert_eq!(
            get(&mut vga, SEQUENCER_INDEX, index as u8),
            bits,
            "SR{index}"
        );
    }
    let graphics = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff, 0];
    for (index, bits) in graphics.into_iter().enumerate() {
        set(&mut vga, GRAPHICS_INDEX, index as u8, 0xff);
        assert_eq!(
            get(&mut vga, GRAPHICS_INDEX, index as u8),
            bits,
            "GR{index}"
        );
    }
    set(&mut vga, CRTC_INDEX, 0x18, 0xa5);
    assert_eq!(get(&mut vga, CRTC_INDEX, 0x18), 0xa5);
    set(&mut vga, CRTC_INDEX, 0x19, 0xa5);
    assert_eq!(get(&mut vga, CRTC_INDEX, 0x19), 0, "not there");
}

#[test]
fn the_crtc_is_at_the_addresses_that_misc_selects() {
    let mut vga = vga();
    set(&mut vga, 0x3b4, 0x0e, 0x12);
    assert_eq!(get(&mut vga, 0x3b4, 0x0e), 0x12);
    assert_eq!(
        input(&mut vga, 0x3d5),
        0xff,
        "nobody is at the colour address"
    );
    out(&mut vga, MISC_WRITE, 1);
    assert_eq!(get(&mut vga, 0x3d4, 0x0e), 0x12);
    assert_eq!(input(&mut vga, 0x3b5), 0xff);
    out(&mut vga, 0x3da, 0xff);
    assert_eq!(input(&mut vga, FEATURE_READ), 0x0b);
}

#[test]
fn a_set_protect_bit_keeps_the_timing_but_not_the_line_compare_bit() {
    let mut vga = in_mode(&modes::TEXT);
    assert_eq!(get(&mut vga, CRTC_INDEX, 0x11) & 0x80, 0x80);
    for index in 0..8 {
        let before = get(&mut vga, CRTC_INDEX, index);
        set(&mut vga, CRTC_INDEX, index, !before);
        let kept = if index == 7 { before ^ 0x10 } else { before };
        assert_eq!(get(&mut vga, CRTC_INDEX, index), kept, "CR{index:02x}");
    }
    set(&mut vga, CRTC_INDEX, 0x11, 0x0e);
    set(&mut vga, CRTC_INDEX, 0, 0x12);
    assert_eq!(get(&mut vga, CRTC_INDEX, 0), 0x12);
}

#[test]
fn the_attribute_controller_takes_index_and_data_by_turns() {
    let mut vga = in_mode(&modes::TEXT);
    input(&mut vga, STATUS1);
    out(&mut vga, ATTRIBUTE_INDEX, 0x03);
    out(&mut vga, ATTRIBUTE_INDEX, 0xff);
    out(&mut vga, ATTRIBUTE_INDEX, 0x03);
    assert_eq!(
        input(&mut vga, ATTRIBUTE_DATA),
        0x3f,
        "the data went to 03h"
    );
    // Now data is expected; a read of the status makes it an index again.
    input(&mut vga, STATUS1);
    out(&mut vga, ATTRIBUTE_INDEX, 0x34);
    assert_eq!(input(&mut vga, ATTRIBUTE_INDEX), 0x34);
    assert!(
        !vga.is_blank(),
        "bit 5 gives the palette back to the display"
    );
    input(&mut vga, STATUS1);
    out(&mut vga, ATTRIBUTE_INDEX, 0x14);
    assert!(vga.is_blank());
}

#[test]
fn the_dac_counts_components_and_colours() {
    let mut vga = vga();
    out(&mut vga, DAC_WRITE, 254);
    for value in [1, 2, 3, 0xff, 5, 6, 7, 8] {
        out(&mut vga, DAC_DATA, value);
    }
    assert_eq!(input(&mut vga, DAC_READ), 0, "state: write");
    assert_eq!(input(&mut vga, DAC_WRITE), 0, "behind 255 comes 0");
    out(&mut vga, DAC_READ, 254);
    assert_eq!(input(&mut vga, DAC_READ), 3, "state: read");
    let read: Vec<u8> = (0..9).map(|_| input(&mut vga, DAC_DATA)).collect();
    assert_eq!(read[..6], [1, 2, 3, 0x3f, 5, 6], "six bits");
    assert_eq!(
        read[6..],
        [0, 0, 0],
        "two of three components are no colour"
    );
}

#[test]
fn retrace_comes_and_goes_with_the_time() {
    let mut vga = in_mode(&modes::TEXT);
    // 28.322 MHz, 900 dots by 449 lines: 14.268 ms.
    let frame = 900u64 * 449 * 1_000_000_000 / 28_322_000;
    let line = frame / 449;
    let at = |vga: &mut Vga, now: u64| {
        let value = vga.port_read(STATUS1, AccessSize::Byte, Nanos(now));
        Status1::from_bits_retain(value as u8)
    };
    for frames in [0, 1, 1000] {
        let start = frames * frame;
        assert_eq!(at(&mut vga, start + 200 * line + 1000), Status1::empty());
        let blank = Status1::DISPLAY_DISABLED;
        assert_eq!(at(&mut vga, start + 201 * line - 1000), blank, "horizontal");
        assert_eq!(at(&mut vga, start + 405 * line), blank);
        assert_eq!(at(&mut vga, start + 413 * line), blank | Status1::VRETRACE);
        assert_eq!(at(&mut vga, start + 420 * line), blank);
    }
    // Nonsense in the registers does not stop the beam.
    set(&mut vga, CRTC_INDEX, 0x11, 0);
    set(&mut vga, CRTC_INDEX, 6, 0);
    set(&mut vga, CRTC_INDEX, 7, 0);
    let seen = (0..2000)
        .map(|n| at(&mut vga, n * 10_000))
        .collect::<Vec<_>>();
    assert!(seen.iter().any(|s| s.contains(Status1::VRETRACE)));
    assert!(seen.contains(&Status1::empty()));
    at(&mut vga, u64::MAX);
}

#[test]
fn bochs_registers() {
    let mut vga = vga();
    assert_eq!(get_vbe(&mut vga, 0), 0xb0c5);
    set_vbe(&mut vga, 0, 0xb0c0);
    assert_eq!(get_vbe(&mut vga, 0), 0xb0c0);
    set_vbe(&mut vga, 0, 0x1234);
    assert_eq!(get_vbe(&mut vga, 0), 0xb0c0, "no version");
    assert_eq!(get_vbe(&mut vga, 10), 4, "64 KiB each");
    set_vbe(&mut vga, 1, 321);
    set_vbe(&mut vga, 2, 200);
    set_vbe(&mut vga, 3, 16);
    set_vbe(&mut vga, 4, 0x41);
    set_vbe(&mut vga, 1, 640);
    assert_eq!(get_vbe(&mut vga, 1), 320, "not while the mode is on");
    assert_eq!(get_vbe(&mut vga, 7), 409, "virtual height");
    set_vbe(&mut vga, 4, 0x02);
    assert_eq!(get_vbe(&mut vga, 1), 2560, "capabilities");
    // The data register at its odd address, in bytes as the bus splits them.
    vga.port_write(VBE_INDEX, AccessSize::Word, 2, NOW);
    out(&mut vga, VBE_DATA, 0x58);
    out(&mut vga, VBE_DATA_EVEN, 0x02);
    set_vbe(&mut vga, 4, 0);
    assert_eq!(get_vbe(&mut vga, 2), 600);
    assert_eq!(input(&mut vga, VBE_DATA), 0x58);
    assert_eq!(input(&mut vga, VBE_DATA_EVEN), 0x02);
}

#[test]
fn random_accesses_do_not_panic() {
    let ports: Vec<u16> = (FIRST_PORT..=LAST_PORT)
        .chain([0x1ce, 0x1cf, 0x1d0])
        .collect();
    for seed in 0..4 {
        let mut vga = vga();
        let mut random = Random::new(seed);
        let mut rounds = 0;
        fuzz_ports(seed, &mut vga, &ports, AccessSize::Word, |vga, now| {
            let offset = random.next() % WINDOW_LEN;
            vga.mmio_write(offset & !3, AccessSize::Dword, random.next() as u32, now);
            vga.mmio_read(offset & !3, AccessSize::Dword, now);
            vga.frame_buffer().mmio_write(
                u64::from(random.next() as u32),
                AccessSize::Byte,
                1,
                now,
            );
            rounds += 1;
            if rounds % 2000 == 0 {
                vga.text_screen();
                let picture = vga.render(now);
                assert_eq!(
                    picture.rgb.len(),
                    3 * picture.width as usize * picture.height as usize
                );
                let state = vga.state();
                vga.restore(state.clone());
                assert!(vga.state() == state);
            }
        });
    }
}

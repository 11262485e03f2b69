//! The whole board under random accesses, with a clock that goes wherever the input says.

use super::bytes::Bytes;
use crate::generate::Rng;
use devices::{AccessSize, Chipset, ChipsetConfig, ChipsetState, Nanos, VgaConfig, WallClock};

/// Ports that something answers, or nearly.
const PORTS: [u16; 60] = [
    0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71,
    0x72, 0x73, 0x80, 0x92, 0xF0, 0xF1, 0x3F8, 0x3F9, 0x3FA, 0x3FB, 0x3FC, 0x3FD, 0x3FE, 0x3FF,
    0xCF8, 0xCF9, 0xCFA, 0xCFC, 0xCFD, 0xCFE, 0xCFF, 0xB2, 0xB3, 0x600, 0x602, 0x604, 0x608, 0x60A,
    0x3D4, 0x1F0, 0x402, 0x510, 0xFFFF, 0x3C0, 0x3C2, 0x3C4, 0x3C5, 0x3C9, 0x3CE, 0x3CF, 0x3D5,
    0x3DA, 0x1CE, 0x1CF, 0x1D0,
];
const SIZES: [AccessSize; 3] = [AccessSize::Byte, AccessSize::Word, AccessSize::Dword];
/// Operations of one input at most.
const OPERATIONS: usize = 20_000;
/// A deadline may be kept this often before time has to move on.
const FIRINGS: usize = 4;

/// Each operation takes one byte that says what it is, one for the clock, and what it needs.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut chipset = Chipset::new(ChipsetConfig {
        wall_clock: WallClock {
            seconds: i64::from(bytes.u32() as i32) * 37,
            nanos: bytes.u32() % 1_000_000_000,
        },
        memory_size: u64::from(bytes.u8()) << 24,
        vga: Some(VgaConfig {
            memory: 256 << 10,
            rom: vec![0x55, 0xAA],
        }),
        ..ChipsetConfig::new()
    })
    .expect("no two devices of the board claim one port");
    let mut now = Nanos::ZERO;
    let mut latest = Nanos::ZERO;
    for _ in 0..OPERATIONS {
        if bytes.is_empty() {
            break;
        }
        let operation = bytes.u8();
        now = clock(&mut bytes, now, &chipset);
        latest = latest.max(now);
        operate(&mut chipset, operation, &mut bytes, now);
        check(&mut chipset, latest);
    }
    restored(&mut chipset);
}

/// Where the clock is now: mostly a little later, often at a deadline, sometimes far away or back.
pub(super) fn clock(bytes: &mut Bytes<'_>, now: Nanos, chipset: &Chipset) -> Nanos {
    let what = bytes.u8();
    let some = u64::from(what >> 3) + 1;
    let to = match what & 7 {
        0 => now,
        1 => now.after(some * 50),
        2 => now.after(some * 20_000),
        3 => now.after(some * 30_000_000),
        4 => Nanos(now.0.saturating_sub(some * 1_000_000)),
        5 => chipset.next_event().unwrap_or(now),
        6 => now.after(some * 86_400_000_000_000),
        _ if what == 0xFF => Nanos(bytes.u64()),
        _ if what == 0xF7 => Nanos::ZERO,
        _ => now.after(some * 1_000_000),
    };
    // The end of time comes with the explicit value only: behind it everything stands still.
    if what == 0xFF {
        to
    } else {
        to.min(Nanos::from_secs(1 << 30))
    }
}

fn operate(chipset: &mut Chipset, operation: u8, bytes: &mut Bytes<'_>, now: Nanos) {
    let size = SIZES[usize::from(operation >> 4) % SIZES.len()];
    match operation & 15 {
        0..4 => {
            let port = port(bytes);
            let value = chipset.port_read(port, size, now);
            assert_eq!(
                value & !size.ones(),
                0,
                "port {port:#x} gives more than was asked for"
            );
        }
        4..10 => {
            let port = port(bytes);
            let value = match size {
                AccessSize::Byte => u32::from(bytes.u8()),
                AccessSize::Word => u32::from(bytes.u16()),
                AccessSize::Dword => bytes.u32(),
            };
            chipset.port_write(port, size, value, now);
        }
        10 => {
            let address = address(bytes);
            let value = chipset.mmio_read(address, size, now);
            assert_eq!(
                value & !size.ones(),
                0,
                "{address:#x} gives more than was asked for"
            );
        }
        11 => chipset.mmio_write(address(bytes), size, bytes.u32(), now),
        12 if operation == 0xFC => look(chipset, now),
        12 => chipset.advance(now),
        13 => inputs(chipset, operation, bytes, now),
        14 if operation == 0xFE => chipset.reset(now),
        14 => chipset.set_ferr(operation & 0x10 != 0),
        _ if operation == 0xFF => restored(chipset),
        _ if operation >> 4 & 1 == 0 => configure(chipset, bytes, now),
        _ => spans(chipset, size, bytes, now),
    }
}

/// A register of a PCI function, or one of the display adapter's: what chance alone would seldom meet.
fn configure(chipset: &mut Chipset, bytes: &mut Bytes<'_>, now: Nanos) {
    let choice = bytes.u8();
    let index = bytes.u8();
    if choice & 1 == 0 {
        // Host bridge, ISA bridge, power management, display adapter, nobody.
        let place = bytes.pick(&[0u32, 0x800, 0xB00, 0x1000, 0x1000, 0x1000, 0x1800]);
        let address = 1 << 31 | place | u32::from(index & 0xFC);
        chipset.port_write(0xCF8, AccessSize::Dword, address, now);
        let value = bytes.u32();
        // Base addresses that devices could be at, and everything on.
        let value = if choice & 2 == 0 {
            value & 0xF7F0_0003
        } else {
            value
        };
        chipset.port_write(0xCFC, AccessSize::Dword, value, now);
        return;
    }
    if choice & 2 == 0 {
        let value = bytes.u16();
        let value = bytes.pick(&[value, value & 0x3FF, 0, 1, 0x41, 0xC1, 4, 8, 15, 24, 32]);
        chipset.port_write(0x1CE, AccessSize::Word, u32::from(index % 12), now);
        chipset.port_write(0x1D0, AccessSize::Word, value.into(), now);
        return;
    }
    let port = bytes.pick(&[0x3C4, 0x3CE, 0x3D4, 0x3C2]);
    if port == 0x3C2 {
        chipset.port_write(port, AccessSize::Byte, u32::from(index | 2), now);
        return;
    }
    let value = u32::from(bytes.u8()) << 8 | u32::from(index & 31);
    chipset.port_write(port, AccessSize::Word, value, now);
}

/// Display memory by spans, in its legacy window and at base addresses.
fn spans(chipset: &mut Chipset, size: AccessSize, bytes: &mut Bytes<'_>, now: Nanos) {
    let operation = bytes.u8();
    let mut place = || {
        let ranges: Vec<_> = chipset.video_ranges().collect();
        match ranges.get(usize::from(operation >> 5) % 3) {
            Some(range) => range.start().saturating_add(u64::from(bytes.u32() >> 13)),
            None => 0xA_0000 + u64::from(bytes.u32() >> 15),
        }
    };
    let (from, to) = (place(), place());
    let count = usize::from(bytes.u8());
    let mut data = vec![operation; count * usize::from(size.bytes())];
    match operation & 3 {
        0 => chipset.mmio_read_span(from, size, &mut data, now),
        1 => chipset.mmio_copy_span(from, to, size, count, now),
        _ => chipset.mmio_write_span(to, size, &data, now),
    }
    if let Some(window) = chipset.video_window()
        && let Some(at) = chipset.video_stand_in(&window, from, 4)
    {
        assert!(at >= window.address && at + 4 <= window.address + window.bytes);
    }
}

/// The screen, and the memory that the guest could have in place of the adapter's.
fn look(chipset: &mut Chipset, now: Nanos) {
    chipset.text_screen();
    let picture = chipset.render(now).expect("there is a display");
    let pixels = picture.width as usize * picture.height as usize;
    assert_eq!(picture.rgb.len(), 3 * pixels);
    if let Some(window) = chipset.video_window() {
        let held = chipset.load_video(&window);
        assert_eq!(held.len() as u64, window.bytes);
        chipset.store_video(&window, &held);
        assert!(chipset.load_video(&window) == held);
    }
    for range in chipset.video_ranges() {
        assert!(range.start() <= range.end());
    }
}

fn port(bytes: &mut Bytes<'_>) -> u16 {
    let choice = bytes.u8();
    match PORTS.get(usize::from(choice) % 64) {
        Some(port) => *port,
        None => bytes.u16(),
    }
}

fn address(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.u8() {
        0 => u64::MAX - u64::from(bytes.u8()),
        1 => u64::from(bytes.u32()),
        page => 0xA_0000 + (u64::from(page) << 12) + u64::from(bytes.u8()),
    }
}

/// What arrives from outside.
fn inputs(chipset: &mut Chipset, operation: u8, bytes: &mut Bytes<'_>, now: Nanos) {
    match operation >> 4 & 3 {
        0 => {
            let room = chipset.can_accept_serial_input();
            let taken = chipset.serial_input(&bytes.u32().to_le_bytes());
            assert_eq!(taken, room.min(4), "room was promised");
        }
        1 => {
            chipset.keyboard_input(
                &bytes.u32().to_le_bytes()[..1 + usize::from(operation >> 6)],
                now,
            );
        }
        2 => {
            let [x, y, z] = [bytes.u32(), bytes.u32(), bytes.u32()].map(|value| value as i32);
            chipset.mouse_input(x, y, z, bytes.u8(), now);
        }
        _ => chipset.press_power_button(),
    }
}

/// What holds after every operation.
pub(super) fn check(chipset: &mut Chipset, latest: Nanos) {
    // What is due is done; what is left lies ahead, and cannot keep the machine busy where it is.
    for round in 0.. {
        match chipset.next_event() {
            Some(at) if at <= latest && at != Nanos::MAX => {
                assert!(round < FIRINGS, "a deadline at {at:?} stays, at {latest:?}");
                chipset.advance(latest);
            }
            _ => break,
        }
    }
    if chipset.intr() {
        let spurious = chipset.counters().spurious;
        chipset.acknowledge_interrupt(latest);
        assert_eq!(
            chipset.counters().spurious,
            spurious,
            "INTR without an interrupt"
        );
    }
    if chipset.has_events() {
        chipset.take_events();
        assert!(!chipset.has_events(), "events stay after they were taken");
    }
}

/// A snapshot, restored, is the state that it was taken of.
pub(super) fn restored(chipset: &mut Chipset) {
    let saved = chipset.state();
    let seen = (chipset.next_event(), chipset.intr(), chipset.a20());
    chipset.restore(saved.clone());
    let now = chipset.state();
    assert!(now == saved, "{}", differences(&saved, &now));
    assert_eq!((chipset.next_event(), chipset.intr(), chipset.a20()), seen);
}

/// What a snapshot lost, line by line.
fn differences(saved: &ChipsetState, now: &ChipsetState) -> String {
    let lines = |state: &ChipsetState| {
        let text = format!("{state:#?}");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (saved, now) = (lines(saved), lines(now));
    let pairs = saved.iter().zip(&now).enumerate();
    let differing = pairs.filter(|(_, (a, b))| a != b);
    let told =
        differing.map(|(line, (a, b))| format!("{line}: {} became {}\n", a.trim(), b.trim()));
    "the snapshot is not what was saved:\n".to_owned() + &told.collect::<String>()
}

/// Programs the interrupt controllers, mostly, and goes on at random.
pub fn make(random: &mut Rng) -> Vec<u8> {
    let mut input = vec![0; 9];
    random.fill(&mut input);
    if !random.one_in(4) {
        for (port, value) in [
            (0, 0x11),
            (1, 0x30),
            (1, 4),
            (1, 1),
            (2, 0x11),
            (3, 0x38),
            (3, 2),
            (3, 1),
        ] {
            input.extend([4, 0, port, value]);
        }
    }
    let mut rest = vec![0; random.below(4000) as usize];
    random.fill(&mut rest);
    input.extend(rest);
    input
}

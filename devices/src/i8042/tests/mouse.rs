//! Resolution, scaling, sampling rate, modes.

use super::*;

/// A mouse that reports at once.
fn streaming() -> Bench {
    let mut b = Bench::new();
    assert_eq!(b.aux(device::SET_RATE), [0xfa]);
    assert_eq!(b.aux(200), [0xfa]);
    assert_eq!(b.aux(device::ENABLE), [0xfa]);
    b
}

fn moved(b: &mut Bench, dx: i32, dy: i32) -> Vec<u8> {
    b.kbc.mouse(dx, dy, 0, 0, b.now);
    b.drain()
}

#[test]
fn resolution_is_counts_per_millimetre() {
    for (resolution, counts) in [(0, 2u8), (1, 4), (2, 8), (3, 16)] {
        let mut b = streaming();
        assert_eq!(b.aux(0xe8), [0xfa]);
        assert_eq!(b.aux(resolution), [0xfa]);
        assert_eq!(moved(&mut b, 8, -8), [0x28, counts, counts.wrapping_neg()]);
        assert_eq!(b.aux(0xe9)[2], resolution);
    }
    // What is less than a count is not lost.
    let mut b = streaming();
    b.aux(0xe8);
    b.aux(0);
    for _ in 0..3 {
        assert!(moved(&mut b, 1, 0).is_empty());
    }
    assert_eq!(moved(&mut b, 1, 0), [0x08, 1, 0]);
}

#[test]
fn scaling_is_for_stream_mode_only() {
    let mut b = streaming();
    assert_eq!(b.aux(0xe7), [0xfa]);
    for (counts, scaled) in [
        (1, 1),
        (2, 1),
        (3, 3),
        (4, 6),
        (5, 9),
        (6, 12),
        (100, 200),
        (200, 255),
    ] {
        assert_eq!(moved(&mut b, counts, 0), [0x08, scaled, 0]);
        b.now = b.now.after(10_000_000);
    }
    assert_eq!(moved(&mut b, -4, 0), [0x18, 0xfa, 0]);
    assert_eq!(b.aux(0xf0), [0xfa]);
    assert!(moved(&mut b, 4, 0).is_empty());
    assert_eq!(b.aux(0xeb), [0xfa, 0x08, 4, 0], "on request as it is");
    assert_eq!(b.aux(0xe6), [0xfa]);
    assert_eq!(b.aux(0xea), [0xfa]);
    assert_eq!(moved(&mut b, 4, 0), [0x08, 4, 0]);
}

#[test]
fn reports_come_at_the_sampling_rate() {
    let mut b = Bench::new();
    b.aux(device::SET_RATE);
    b.aux(10);
    b.aux(device::ENABLE);
    let mut packets = 0;
    let mut sum = 0;
    let end = b.now.after(1_000_000_000);
    while b.now < end {
        b.kbc.mouse(1, 0, 0, 0, b.now);
        b.now = b.now.after(5_000_000);
        b.kbc.advance(b.now);
        while b.status().contains(Status::OBF) {
            if b.read() == 0x08 {
                packets += 1;
            }
            // The rest of the packet.
            b.now = b.now.after(BYTE_NANOS);
            b.kbc.advance(b.now);
            sum += u32::from(b.read());
            b.now = b.now.after(BYTE_NANOS);
            b.kbc.advance(b.now);
            b.read();
        }
    }
    assert!((9..=11).contains(&packets), "{packets}");
    assert!(sum > 100, "and none of the movement is lost: {sum}");
}

#[test]
fn buttons_are_reported_without_movement() {
    let mut b = streaming();
    b.kbc.mouse(0, 0, 0, 5, b.now);
    assert_eq!(b.drain(), [0x0d, 0, 0]);
    b.kbc.mouse(0, 0, 0, 5, b.now);
    assert!(b.drain().is_empty(), "nothing has changed");
    b.kbc.mouse(0, 0, 1, 0, b.now);
    assert_eq!(b.drain(), [0x08, 0, 0], "a wheel that is off");
    assert_eq!(b.kbc.next_event(), None);
}

#[test]
fn movement_waits_while_the_host_holds_the_clock() {
    let mut b = streaming();
    b.command(command::DISABLE_AUX);
    for _ in 0..20 {
        b.kbc.mouse(100, 0, 0, 0, b.now);
        b.now = b.now.after(10_000_000);
    }
    assert!(b.drain().is_empty());
    assert_eq!(b.kbc.next_event(), None, "no room, and nobody reads");
    b.command(command::ENABLE_AUX);
    let bytes = b.drain();
    let sum: u32 = bytes.chunks(3).map(|packet| u32::from(packet[1])).sum();
    assert_eq!(sum, 2000);
}

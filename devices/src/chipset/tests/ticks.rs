//! Timer interrupts and the time that they leave to the guest.

use super::*;

#[test]
fn ticks_leave_time_to_a_guest_that_is_too_slow_for_them() {
    let mut chipset = board();
    init_pics(&mut chipset);
    let mut now = Nanos::ZERO;
    for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 3)] {
        outb(&mut chipset, port, value, now);
    }
    let mut left = 0;
    for _ in 0..2000 {
        let at = chipset.next_event().unwrap();
        if at > now {
            left += at.0 - now.0;
            now = at;
        }
        chipset.advance(now);
        if chipset.intr() {
            // As Linux does it: masked and ended at once, unmasked when it is handled. One tick takes
            // longer than the next one is away.
            assert_eq!(chipset.acknowledge_interrupt(now), 0x30);
            outb(&mut chipset, 0x21, 0x01, now);
            outb(&mut chipset, 0x20, 0x60, now);
            now = Nanos(now.0 + 1_000_000);
            outb(&mut chipset, 0x21, 0x00, now);
        }
    }
    assert!(left > now.0 * 4 / 10, "{left} ns of {} ns", now.0);
}

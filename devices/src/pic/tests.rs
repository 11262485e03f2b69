use super::spec::{MASTER_COMMAND, MASTER_DATA, SLAVE_COMMAND, SLAVE_DATA};
use super::*;
use crate::testing::{Random, fuzz_ports};

const NOW: Nanos = Nanos::ZERO;

fn out(pic: &mut Pic, port: u16, value: u8) {
    pic.port_write(port, AccessSize::Byte, u32::from(value), NOW);
}

fn inb(pic: &mut Pic, port: u16) -> u8 {
    pic.port_read(port, AccessSize::Byte, NOW) as u8
}

fn init(pic: &mut Pic, master_icw4: u8) {
    for (command, data, base, icw3, icw4) in [
        (MASTER_COMMAND, MASTER_DATA, 0x30, 0x04, master_icw4),
        (SLAVE_COMMAND, SLAVE_DATA, 0x38, 0x02, 0x01),
    ] {
        out(pic, command, 0x11);
        out(pic, data, base);
        out(pic, data, icw3);
        out(pic, data, icw4);
    }
}

fn ready() -> Pic {
    let mut pic = Pic::new();
    init(&mut pic, 0x01);
    pic
}

fn isr(pic: &mut Pic, command: u16) -> u8 {
    out(pic, command, 0x0b);
    let value = inb(pic, command);
    out(pic, command, 0x0a);
    value
}

#[test]
fn nothing_happens_before_initialization() {
    let mut pic = Pic::new();
    let mut line = pic.line(1);
    line.set(true);
    assert!(!pic.output());
    out(&mut pic, MASTER_COMMAND, 0x11);
    out(&mut pic, MASTER_DATA, 0x30);
    assert!(!pic.output(), "in the middle of the sequence");
}

#[test]
fn edge_is_latched_once_and_blocked_until_eoi() {
    let mut pic = ready();
    let mut line = pic.line(3);
    line.set(true);
    assert!(pic.output());
    assert_eq!(inb(&mut pic, MASTER_COMMAND), 1 << 3, "IRR");
    assert_eq!(pic.acknowledge(), 0x33);
    assert_eq!(inb(&mut pic, MASTER_COMMAND), 0);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 1 << 3);
    assert!(!pic.output());
    line.edge();
    assert!(!pic.output(), "same level in service");
    out(&mut pic, MASTER_COMMAND, 0x20);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x33);
    out(&mut pic, MASTER_COMMAND, 0x20);
    assert!(!pic.output(), "the line is high but there was no new edge");
}

#[test]
fn request_that_goes_away_gives_spurious_irq7() {
    let mut pic = ready();
    let mut line = pic.line(4);
    line.set(true);
    assert!(pic.output());
    line.set(false);
    assert_eq!(pic.acknowledge(), 0x37);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 0, "nothing in service");
    assert_eq!(pic.spurious(), 1);
}

#[test]
fn slave_request_that_goes_away_gives_irq15_if_the_master_saw_it() {
    let mut pic = ready();
    let mut line = pic.line(10);
    line.set(true);
    assert!(pic.output());
    // Masking in the slave between INTR and INTA lowers the cascade as well.
    out(&mut pic, SLAVE_DATA, 0xff);
    assert_eq!(pic.acknowledge(), 0x37);
}

#[test]
fn priorities_nest() {
    let mut pic = ready();
    let mut lines: Vec<_> = [0, 5, 12].map(|irq| pic.line(irq)).into();
    lines[1].set(true);
    assert_eq!(pic.acknowledge(), 0x35);
    lines[2].set(true);
    assert!(pic.output(), "IRQ 12 comes in through IRQ 2, above IRQ 5");
    assert_eq!(pic.acknowledge(), 0x3c);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 1 << 5 | 1 << 2);
    assert_eq!(isr(&mut pic, SLAVE_COMMAND), 1 << 4);
    lines[0].set(true);
    assert_eq!(pic.acknowledge(), 0x30);
    // Non-specific EOI ends the innermost first.
    out(&mut pic, MASTER_COMMAND, 0x20);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 1 << 5 | 1 << 2);
    out(&mut pic, SLAVE_COMMAND, 0x20);
    out(&mut pic, MASTER_COMMAND, 0x62);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 1 << 5);
    assert_eq!(pic.acknowledged()[12], 1);
}

#[test]
fn two_requests_at_the_slave_are_both_served() {
    let mut pic = ready();
    let (mut low, mut high) = (pic.line(14), pic.line(8));
    low.set(true);
    assert!(pic.output());
    high.set(true);
    assert_eq!(pic.acknowledge(), 0x38, "the better one wins at INTA");
    out(&mut pic, SLAVE_COMMAND, 0x20);
    assert!(!pic.output(), "IRQ 2 is still in service at the master");
    out(&mut pic, MASTER_COMMAND, 0x20);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x3e);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_interrupt_itself() {
    let mut pic = Pic::new();
    init(&mut pic, 0x11);
    let (mut low, mut high) = (pic.line(14), pic.line(8));
    low.set(true);
    assert_eq!(pic.acknowledge(), 0x3e);
    high.set(true);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x38);
}

#[test]
fn mask_holds_a_request_without_losing_it() {
    let mut pic = ready();
    out(&mut pic, MASTER_DATA, 1 << 6);
    assert_eq!(inb(&mut pic, MASTER_DATA), 1 << 6);
    assert!(pic.is_masked(6));
    let mut line = pic.line(6);
    line.set(true);
    assert!(!pic.output());
    assert_eq!(inb(&mut pic, MASTER_COMMAND), 1 << 6, "IRR shows it");
    out(&mut pic, MASTER_DATA, 0);
    assert!(pic.output());
}

#[test]
fn special_mask_mode_frees_lower_levels() {
    let mut pic = ready();
    let (mut a, mut b) = (pic.line(3), pic.line(6));
    a.set(true);
    assert_eq!(pic.acknowledge(), 0x33);
    b.set(true);
    assert!(!pic.output());
    out(&mut pic, MASTER_DATA, 1 << 3);
    assert!(!pic.output(), "a mask alone does not help");
    out(&mut pic, MASTER_COMMAND, 0x68);
    assert_eq!(pic.acknowledge(), 0x36);
    // A non-specific EOI does not end a masked level in this mode.
    out(&mut pic, MASTER_COMMAND, 0x20);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 1 << 3);
    out(&mut pic, MASTER_COMMAND, 0x48);
    out(&mut pic, MASTER_COMMAND, 0x20);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 0);
}

#[test]
fn rotation_moves_the_lowest_priority() {
    let mut pic = ready();
    let mut lines: Vec<_> = (0..8).map(|irq| pic.line(irq)).collect();
    lines[4].set(true);
    assert_eq!(pic.acknowledge(), 0x34);
    out(&mut pic, MASTER_COMMAND, 0xa0); // rotate on non-specific EOI
    lines[4].edge();
    lines[5].set(true);
    assert_eq!(pic.acknowledge(), 0x35, "IRQ 5 is the highest now");
    out(&mut pic, MASTER_COMMAND, 0xe5); // rotate on specific EOI of 5
    out(&mut pic, MASTER_COMMAND, 0xc3); // set priority: 3 is the lowest
    lines[0].set(true);
    assert_eq!(pic.acknowledge(), 0x34, "order is 4 5 6 7 0 1 2 3");
    out(&mut pic, MASTER_COMMAND, 0x64);
    assert_eq!(pic.acknowledge(), 0x30);
}

#[test]
fn automatic_eoi_leaves_nothing_in_service() {
    let mut pic = Pic::new();
    init(&mut pic, 0x03);
    let (mut a, mut b) = (pic.line(1), pic.line(4));
    a.set(true);
    b.set(true);
    assert_eq!(pic.acknowledge(), 0x31);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 0);
    assert_eq!(pic.acknowledge(), 0x34);
    out(&mut pic, MASTER_COMMAND, 0x80); // rotate in automatic EOI mode
    a.edge();
    b.edge();
    assert_eq!(pic.acknowledge(), 0x31);
    a.edge();
    assert_eq!(pic.acknowledge(), 0x34, "IRQ 1 has become the lowest");
}

#[test]
fn level_triggered_input_asks_again_until_it_falls() {
    let mut pic = ready();
    out(&mut pic, ELCR2, 0xff);
    assert_eq!(inb(&mut pic, ELCR2), ELCR2_MASK, "IRQ 8 and 13 stay edges");
    out(&mut pic, ELCR1, 0xff);
    assert_eq!(inb(&mut pic, ELCR1), ELCR1_MASK);
    let mut line = pic.line(9);
    line.set(true);
    for _ in 0..2 {
        assert_eq!(pic.acknowledge(), 0x39);
        out(&mut pic, SLAVE_COMMAND, 0x20);
        out(&mut pic, MASTER_COMMAND, 0x20);
    }
    line.set(false);
    assert!(!pic.output());
}

#[test]
fn poll_takes_the_place_of_inta() {
    let mut pic = ready();
    out(&mut pic, MASTER_COMMAND, 0x0c);
    assert_eq!(inb(&mut pic, MASTER_COMMAND), 0, "nothing to poll");
    let mut line = pic.line(5);
    line.set(true);
    out(&mut pic, MASTER_COMMAND, 0x0c);
    assert_eq!(inb(&mut pic, MASTER_COMMAND), 0x85);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 1 << 5);
    assert!(!pic.output());
}

#[test]
fn icw1_forgets_edges_masks_and_service() {
    let mut pic = ready();
    let (mut a, mut b) = (pic.line(3), pic.line(4));
    a.set(true);
    pic.acknowledge();
    b.set(true);
    out(&mut pic, MASTER_DATA, 0xff);
    init(&mut pic, 0x01);
    assert_eq!(inb(&mut pic, MASTER_DATA), 0);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 0);
    assert!(!pic.output(), "a high line needs a new edge");
    b.edge();
    assert_eq!(pic.acknowledge(), 0x34);
}

#[test]
fn single_mode_without_icw4_takes_two_words() {
    let mut pic = Pic::new();
    out(&mut pic, MASTER_COMMAND, 0x12);
    out(&mut pic, MASTER_DATA, 0x57);
    out(&mut pic, MASTER_DATA, 0xfe); // already OCW1
    assert_eq!(inb(&mut pic, MASTER_DATA), 0xfe);
    let mut line = pic.line(0);
    out(&mut pic, MASTER_DATA, 0);
    line.set(true);
    assert_eq!(
        pic.acknowledge(),
        0x50,
        "low three bits of ICW2 are ignored"
    );
}

#[test]
fn state_survives_a_round_trip() {
    let mut pic = ready();
    let mut line = pic.line(3);
    line.set(true);
    pic.acknowledge();
    let saved = pic.state().clone();
    pic.reset();
    assert_ne!(&saved, pic.state());
    pic.restore(saved.clone());
    assert_eq!(&saved, pic.state());
    out(&mut pic, MASTER_COMMAND, 0x20);
    assert_eq!(isr(&mut pic, MASTER_COMMAND), 0);
}

#[test]
fn random_accesses_do_not_panic_and_vectors_follow_the_base() {
    for seed in 0..4 {
        let mut pic = Pic::new();
        let mut lines: Vec<_> = (0..16).map(|irq| pic.line(irq)).collect();
        let mut random = Random::new(seed + 100);
        let ports = [0x20, 0x21, 0xa0, 0xa1, ELCR1, ELCR2];
        fuzz_ports(seed, &mut pic, &ports, AccessSize::Byte, |pic, _| {
            let line = random.below(16) as usize;
            lines[line].set(random.below(2) == 0);
            if pic.output() && random.below(3) == 0 {
                let before = pic.spurious();
                pic.acknowledge();
                assert_eq!(
                    pic.spurious(),
                    before,
                    "INTR was high, so a request is there"
                );
            }
        });
    }
}

use super::spec::{PM_TMR, PM1_CNT, PM1_EVT, RESET_VALUE};
use super::*;
use crate::event::ChipsetEvent;
use crate::line::LineBank;
use crate::testing::fuzz_ports;

struct Bench {
    pm: Pm,
    bank: LineBank,
    events: EventSink,
    now: Nanos,
}

impl Bench {
    fn new() -> Self {
        let (bank, events) = (LineBank::new(), EventSink::new());
        Self {
            pm: Pm::new(bank.line(9), events.clone()),
            bank,
            events,
            now: Nanos::ZERO,
        }
    }

    fn outw(&mut self, port: u16, value: u16) {
        self.pm
            .port_write(port, AccessSize::Word, u32::from(value), self.now);
    }

    fn outb(&mut self, port: u16, value: u8) {
        self.pm
            .port_write(port, AccessSize::Byte, u32::from(value), self.now);
    }

    fn inw(&mut self, port: u16) -> u16 {
        self.pm.port_read(port, AccessSize::Word, self.now) as u16
    }

    fn events(&self) -> Vec<ChipsetEvent> {
        self.events.take().collect()
    }
}

#[test]
fn acpi_is_enabled_through_smi_cmd_only() {
    let mut b = Bench::new();
    b.outw(PM1_CNT, Pm1Cnt::SCI_EN.bits());
    assert_eq!(b.inw(PM1_CNT), 0);
    b.outb(SMI_CMD, ACPI_ENABLE);
    assert_eq!(b.inw(PM1_CNT), 1);
    b.outw(PM1_CNT, 0);
    assert_eq!(b.inw(PM1_CNT), 1);
    b.outb(SMI_CMD, ACPI_DISABLE);
    assert!(!b.pm.acpi_enabled());
}

#[test]
fn soft_off_needs_sleep_enable_and_the_type_of_s5() {
    let mut b = Bench::new();
    b.outw(PM1_CNT, 5 << 10);
    assert_eq!(b.events(), []);
    b.outw(PM1_CNT, Pm1Cnt::SLP_EN.bits() | 5 << 10);
    assert_eq!(b.events(), [], "not S5");
    b.outw(PM1_CNT, Pm1Cnt::SLP_EN.bits() | u16::from(SLP_TYP_S5) << 10);
    assert_eq!(b.events(), [ChipsetEvent::PowerOff]);
    assert_eq!(b.inw(PM1_CNT) & Pm1Cnt::SLP_EN.bits(), 0, "write-only");
    b.outb(PM1_CNT + 1, 0x20);
    assert_eq!(b.events(), [ChipsetEvent::PowerOff], "a byte will do");
}

#[test]
fn power_button_raises_sci_until_it_is_cleared() {
    let mut b = Bench::new();
    b.pm.press_power_button();
    assert!(!b.bank.is_high(9));
    b.outb(SMI_CMD, ACPI_ENABLE);
    b.outw(PM1_EVT + 2, 0xffff);
    assert_eq!(b.inw(PM1_EVT + 2), Pm1::ENABLES.bits());
    assert!(b.bank.is_high(9));
    b.outw(PM1_EVT, Pm1::TMR.bits());
    assert!(b.bank.is_high(9), "another bit");
    b.outw(PM1_EVT, Pm1::PWRBTN.bits());
    assert!(!b.bank.is_high(9));
    assert_eq!(b.inw(PM1_EVT), 0);
}

#[test]
fn timer_counts_24_bits_at_3_579545_mhz() {
    let mut b = Bench::new();
    b.now = Nanos::from_secs(1);
    assert_eq!(b.pm.port_read(PM_TMR, AccessSize::Dword, b.now), 3_579_545);
    b.now = PM_CLOCK.time_of((1 << 24) + 5);
    assert_eq!(b.pm.port_read(PM_TMR, AccessSize::Dword, b.now), 5);
    b.pm.port_write(PM_TMR, AccessSize::Dword, 0, b.now);
    assert_eq!(b.pm.port_read(PM_TMR, AccessSize::Dword, b.now), 5);
}

#[test]
fn timer_carry_raises_sci_at_the_deadline() {
    let mut b = Bench::new();
    b.outb(SMI_CMD, ACPI_ENABLE);
    assert_eq!(b.pm.next_event(), None);
    b.outw(PM1_EVT + 2, Pm1::TMR.bits());
    let at = b.pm.next_event().unwrap();
    assert_eq!(at, PM_CLOCK.time_of(1 << 23));
    b.pm.advance(Nanos(at.0 - 1));
    assert!(!b.bank.is_high(9));
    b.pm.advance(at);
    assert!(b.bank.is_high(9));
    assert_eq!(b.pm.next_event(), None, "until it is cleared");
    b.now = at;
    b.outw(PM1_EVT, Pm1::TMR.bits());
    assert_eq!(b.pm.next_event(), Some(PM_CLOCK.time_of(1 << 24)));
}

#[test]
fn reset_control_takes_an_edge() {
    let mut b = Bench::new();
    b.outb(RESET_CONTROL, 0x02);
    assert_eq!(b.events(), []);
    b.outb(RESET_CONTROL, RESET_VALUE);
    assert_eq!(b.events(), [ChipsetEvent::Reset(ResetKind::System)]);
    b.outb(RESET_CONTROL, RESET_VALUE);
    assert_eq!(b.events(), []);
    b.outb(RESET_CONTROL, 0x00);
    b.outb(RESET_CONTROL, 0x04);
    assert_eq!(b.events(), [ChipsetEvent::Reset(ResetKind::Processor)]);
}

#[test]
fn state_survives_a_round_trip() {
    let mut b = Bench::new();
    b.outb(SMI_CMD, ACPI_ENABLE);
    b.outw(PM1_EVT + 2, Pm1::PWRBTN.bits());
    b.pm.press_power_button();
    let saved = b.pm.state().clone();
    b.now = Nanos::from_secs(10);
    b.pm.reset(b.now);
    assert!(!b.bank.is_high(9));
    assert_eq!(b.inw(PM1_EVT), 0, "time that passed is no event");
    b.pm.restore(saved.clone());
    assert!(b.bank.is_high(9));
    assert_eq!(b.pm.state(), &saved);
}

#[test]
fn random_accesses_do_not_panic() {
    let ports = [
        0x600,
        0x602,
        0x604,
        0x605,
        0x606,
        0x608,
        0x60b,
        SMI_CMD,
        APM_STATUS,
        RESET_CONTROL,
    ];
    for seed in 0..4 {
        let mut b = Bench::new();
        fuzz_ports(seed, &mut b.pm, &ports, AccessSize::Dword, |pm, now| {
            pm.advance(now);
            pm.next_event();
        });
        assert!(b.events().len() <= 3);
    }
}

use super::*;
use crate::line::LineBank;
use crate::testing::{Random, fuzz_ports};

/// 1999-12-31 23:59:58, a Friday.
const PARTY: i64 = 946_684_798;

struct Bench {
    rtc: Rtc,
    bank: LineBank,
    now: Nanos,
}

impl Bench {
    fn new(seconds: i64) -> Self {
        let bank = LineBank::new();
        let wall = WallClock { seconds, nanos: 0 };
        Self {
            rtc: Rtc::new(bank.line(8), wall),
            bank,
            now: Nanos::ZERO,
        }
    }

    fn get(&mut self, index: u8) -> u8 {
        let now = self.now;
        self.rtc
            .port_write(INDEX, AccessSize::Byte, u32::from(index), now);
        self.rtc.port_read(DATA, AccessSize::Byte, now) as u8
    }

    fn set(&mut self, index: u8, value: u8) {
        let now = self.now;
        self.rtc
            .port_write(INDEX, AccessSize::Byte, u32::from(index), now);
        self.rtc
            .port_write(DATA, AccessSize::Byte, u32::from(value), now);
    }

    fn time(&mut self) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| self.get(index))
    }

    fn run_to_next_event(&mut self) {
        let at = self.rtc.next_event().unwrap();
        assert!(at > self.now, "progress");
        self.rtc.advance(Nanos(at.0 - 1));
        assert!(!self.bank.is_high(8), "too early");
        self.now = at;
        self.rtc.advance(at);
        assert!(self.bank.is_high(8), "not in time");
    }
}

#[test]
fn calendar_agrees_with_itself_and_with_known_dates() {
    let known = [
        (0, (1970, 1, 1, 5)),
        (PARTY, (1999, 12, 31, 6)),
        (951_782_400, (2000, 2, 29, 3)),
        (4_107_542_400, (2100, 3, 1, 2)),
        (-1, (1969, 12, 31, 4)),
    ];
    for (seconds, expected) in known {
        let d = DateTime::from_unix(seconds);
        assert_eq!((d.year, d.month, d.day, d.weekday), expected, "{seconds}");
    }
    for day in -200_000..200_000 {
        let seconds = day * DAY_SECONDS + 4321;
        assert_eq!(DateTime::from_unix(seconds).to_unix(), seconds);
    }
}

#[test]
fn shows_bcd_and_rolls_over_into_the_next_century() {
    let mut b = Bench::new(PARTY);
    assert_eq!(b.time(), [0x19, 0x99, 0x12, 0x31, 0x06, 0x23, 0x59, 0x58]);
    b.now = Nanos::from_secs(2);
    assert_eq!(b.time(), [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00]);
}

#[test]
fn binary_and_12_hour_modes() {
    let mut b = Bench::new(PARTY);
    b.set(REGISTER_B, (RegB::DM | RegB::H24).bits());
    assert_eq!(b.time(), [19, 99, 12, 31, 6, 23, 59, 58]);
    b.set(REGISTER_B, 0);
    assert_eq!(b.get(HOURS), 0x91, "11 PM");
    b.now = Nanos::from_secs(2);
    assert_eq!(b.get(HOURS), 0x12, "12 AM is midnight");
    b.now = Nanos::from_secs(2 + 12 * 3600);
    assert_eq!(b.get(HOURS), 0x92, "12 PM is noon");
}

#[test]
fn setting_the_clock_under_set() {
    let mut b = Bench::new(PARTY);
    b.set(REGISTER_B, (RegB::SET | RegB::H24 | RegB::UIE).bits());
    assert_eq!(
        b.get(REGISTER_B),
        (RegB::SET | RegB::H24).bits(),
        "SET clears UIE"
    );
    b.now = Nanos::from_secs(10);
    assert_eq!(b.get(SECONDS), 0x58, "halted");
    for (index, value) in [
        (CENTURY, 0x20),
        (YEAR, 0x24),
        (MONTH, 0x02),
        (DAY, 0x29),
        (HOURS, 0x12),
        (MINUTES, 0x34),
        (SECONDS, 0x56),
    ] {
        b.set(index, value);
    }
    assert_eq!(b.get(REGISTER_A) & 0x80, 0, "no UIP while SET");
    b.set(REGISTER_B, RegB::H24.bits());
    b.now = Nanos::from_secs(14);
    assert_eq!(b.time(), [0x20, 0x24, 0x02, 0x29, 0x05, 0x12, 0x35, 0x00]);
}

#[test]
fn linux_sets_the_time_with_the_divider_in_reset() {
    // mc146818_set_time(): SET, DV = 111, registers, SET off, DV back: first update after 0.5 s.
    let mut b = Bench::new(PARTY);
    b.now = Nanos::from_millis(12_345);
    b.set(REGISTER_B, (RegB::SET | RegB::H24).bits());
    let a = b.get(REGISTER_A);
    b.set(REGISTER_A, a | 0x70);
    b.set(SECONDS, 0x10);
    b.set(REGISTER_B, RegB::H24.bits());
    b.now = b.now.after(3 * NANOS_PER_SEC);
    assert_eq!(b.get(SECONDS), 0x10, "held");
    b.set(REGISTER_A, a);
    let released = b.now;
    b.now = released.after(499_000_000);
    assert_eq!(b.get(SECONDS), 0x10);
    assert_eq!(b.get(REGISTER_A) & 0x80, 0x80, "an update is coming");
    b.now = released.after(500_000_000);
    assert_eq!(b.get(SECONDS), 0x11);
}

#[test]
fn writing_a_counter_without_set_changes_only_that() {
    let mut b = Bench::new(PARTY);
    b.set(MINUTES, 0x05);
    assert_eq!(b.time(), [0x19, 0x99, 0x12, 0x31, 0x06, 0x23, 0x05, 0x58]);
}

#[test]
fn uip_precedes_the_update() {
    let mut b = Bench::new(PARTY);
    b.now = Nanos(NANOS_PER_SEC - UIP_NANOS - 1);
    assert_eq!(b.get(REGISTER_A) & 0x80, 0);
    b.now = Nanos(NANOS_PER_SEC - UIP_NANOS);
    assert_eq!(b.get(REGISTER_A) & 0x80, 0x80);
    b.now = Nanos::from_secs(1);
    assert_eq!(b.get(REGISTER_A) & 0x80, 0);
    b.set(REGISTER_A, 0xff);
    assert_eq!(b.get(REGISTER_A), 0x7f, "UIP is read-only");
}

#[test]
fn update_ended_interrupt() {
    let mut b = Bench::new(PARTY);
    b.now = Nanos::from_millis(300);
    b.set(REGISTER_B, (RegB::H24 | RegB::UIE).bits());
    b.run_to_next_event();
    assert_eq!(b.now, Nanos::from_secs(1));
    assert_eq!(b.rtc.next_event(), None, "until register C is read");
    assert_eq!(b.get(REGISTER_C) & 0x90, 0x90);
    assert!(!b.bank.is_high(8));
    assert_eq!(b.get(REGISTER_C) & 0x90, 0);
    b.run_to_next_event();
    assert_eq!(b.now, Nanos::from_secs(2));
}

#[test]
fn periodic_interrupt_rates() {
    for (rate, hz) in [(3, 8192), (6, 1024), (15, 2), (1, 256), (2, 128)] {
        let mut b = Bench::new(PARTY);
        b.set(REGISTER_A, 0x20 | rate);
        b.set(REGISTER_B, (RegB::H24 | RegB::PIE).bits());
        let mut count = 0;
        while b.now < Nanos::from_secs(1) {
            b.run_to_next_event();
            assert_eq!(b.get(REGISTER_C) & 0xc0, 0xc0);
            count += 1;
        }
        assert_eq!(count, hz, "rate {rate}");
    }
    let mut b = Bench::new(PARTY);
    b.set(REGISTER_A, 0x20);
    b.set(REGISTER_B, (RegB::H24 | RegB::PIE).bits());
    assert_eq!(b.rtc.next_event(), None, "rate 0 is off");
}

#[test]
fn flags_are_set_without_enable_and_assert_when_enabled_later() {
    let mut b = Bench::new(PARTY);
    b.now = Nanos::from_secs(1);
    b.rtc.advance(b.now);
    assert!(!b.bank.is_high(8));
    b.set(REGISTER_B, (RegB::H24 | RegB::PIE).bits());
    assert!(b.bank.is_high(8));
    assert_eq!(b.get(REGISTER_C), 0xd0, "IRQF PF UF");
}

#[test]
fn alarm_matches_once_a_day_or_with_wildcards() {
    let mut b = Bench::new(PARTY);
    b.set(HOURS_ALARM, 0x00);
    b.set(MINUTES_ALARM, 0x00);
    b.set(SECONDS_ALARM, 0x05);
    b.set(REGISTER_B, (RegB::H24 | RegB::AIE).bits());
    b.run_to_next_event();
    assert_eq!(b.now, Nanos::from_secs(7));
    assert_eq!(b.get(REGISTER_C) & 0xa0, 0xa0);
    b.run_to_next_event();
    assert_eq!(b.now, Nanos::from_secs(7 + 86_400));
    b.get(REGISTER_C);
    b.set(HOURS_ALARM, 0xff);
    b.set(MINUTES_ALARM, 0xc0);
    b.run_to_next_event();
    assert_eq!(b.now, Nanos::from_secs(7 + 86_400 + 60), "each minute");
    b.get(REGISTER_C);
    b.set(MINUTES_ALARM, 0x77);
    assert_eq!(b.rtc.next_event(), None, "never matches");
}

#[test]
fn the_next_alarm_is_the_first_second_that_matches() {
    let mut random = Random::new(5);
    let byte = |random: &mut Random, end: u64| match random.below(3) {
        0 => 0xc0 | random.next() as u8,
        _ => {
            let value = random.below(end) as u8;
            (value / 10) << 4 | (value % 10)
        }
    };
    for _ in 0..200 {
        let mut b = Bench::new(PARTY + random.below(100_000) as i64);
        let alarm = [
            byte(&mut random, 24),
            byte(&mut random, 60),
            byte(&mut random, 60),
        ];
        b.set(HOURS_ALARM, alarm[0]);
        b.set(MINUTES_ALARM, alarm[1]);
        b.set(SECONDS_ALARM, alarm[2]);
        let start = b.rtc.time(b.now);
        let matches = |seconds: i64| {
            [HOURS, MINUTES, SECONDS]
                .iter()
                .zip(alarm)
                .all(|(&index, alarm)| {
                    alarm >= ALARM_ANY || b.rtc.encode_time(index, seconds) == alarm
                })
        };
        let first = (1..=86_400).find(|&delta| matches(start + delta));
        assert_eq!(
            b.rtc.seconds_to_alarm(start),
            first.map(|delta| delta as u64)
        );
        assert!(first.is_some(), "{alarm:x?}");
    }
}

#[test]
fn a_late_host_still_sees_the_alarm() {
    let mut b = Bench::new(PARTY);
    b.set(HOURS_ALARM, 0x12);
    b.set(REGISTER_B, (RegB::H24 | RegB::AIE).bits());
    b.now = Nanos::from_secs(100_000);
    b.rtc.advance(b.now);
    assert!(b.bank.is_high(8));
}

#[test]
fn ram_index_nmi_mask_and_reset() {
    let mut b = Bench::new(PARTY);
    b.set(0x80 | 0x40, 0xa5);
    assert!(b.rtc.nmi_disabled());
    assert_eq!(b.get(0x40), 0xa5, "bit 7 is no part of the index");
    assert!(!b.rtc.nmi_disabled());
    b.set(REGISTER_D, 0x12);
    assert_eq!(b.get(REGISTER_D), VRT);
    assert_eq!(b.rtc.port_read(INDEX, AccessSize::Byte, b.now), 0xff);
    b.set(REGISTER_B, (RegB::H24 | RegB::PIE).bits());
    b.now = Nanos::from_secs(5);
    b.rtc.reset(b.now);
    assert!(!b.bank.is_high(8));
    assert_eq!(b.get(REGISTER_B), RegB::H24.bits());
    assert_eq!((b.get(0x40), b.get(SECONDS)), (0xa5, 0x03));
}

#[test]
fn memory_size_where_firmware_looks() {
    let mut b = Bench::new(PARTY);
    b.rtc.set_memory_size(128 << 20);
    let mut word = |index| u16::from_le_bytes([b.get(index), b.get(index + 1)]);
    assert_eq!(word(cmos::BASE_MEMORY), 640);
    assert_eq!(word(cmos::EXTENDED_MEMORY), 63 * 1024);
    assert_eq!(word(cmos::MEMORY_ABOVE_16M), 112 * 16);
    b.rtc.set_memory_size(u64::MAX);
    b.rtc.set_memory_size(0);
    assert_eq!(b.get(cmos::BASE_MEMORY), 0);
}

#[test]
fn nonsense_in_the_time_registers_is_brought_into_range() {
    let mut b = Bench::new(PARTY);
    b.set(REGISTER_B, (RegB::SET | RegB::H24).bits());
    for index in [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY] {
        b.set(index, 0xff);
    }
    b.set(REGISTER_B, RegB::H24.bits());
    assert_eq!(
        b.time()[..4],
        [0x99, 0x99, 0x12, 0x31],
        "the last day there is"
    );
}

#[test]
fn state_survives_a_round_trip() {
    let mut b = Bench::new(PARTY);
    b.set(REGISTER_B, (RegB::H24 | RegB::PIE).bits());
    b.now = Nanos::from_secs(1);
    b.rtc.advance(b.now);
    let saved = b.rtc.state().clone();
    b.rtc.reset(b.now);
    assert!(!b.bank.is_high(8));
    b.rtc.restore(saved.clone());
    assert!(b.bank.is_high(8), "the line follows the state");
    assert_eq!(b.rtc.state(), &saved);
}

#[test]
fn random_accesses_do_not_panic() {
    for seed in 0..6 {
        let mut b = Bench::new(PARTY - seed as i64 * 1_000_000_000);
        let ports = [INDEX, DATA, DATA, DATA];
        fuzz_ports(seed, &mut b.rtc, &ports, AccessSize::Byte, |rtc, now| {
            rtc.advance(now);
            if let Some(at) = rtc.next_event() {
                assert!(at > rtc.state().evaluated || at.0 == u64::MAX);
            }
            // Registers are few and indexes many: come back to them often.
            if now.0 & 1 == 0 {
                rtc.state.index &= 0x0f;
            }
        });
    }
}

#[test]
fn the_upper_bank_is_plain_ram_with_an_index_of_its_own() {
    let mut b = Bench::new(PARTY);
    b.set(0x0f, 0x55);
    let now = b.now;
    let mut out = |port, value: u8| {
        b.rtc
            .port_write(port, AccessSize::Byte, u32::from(value), now);
    };
    out(EXTENDED_INDEX, 0x8b);
    out(EXTENDED_DATA, 0xff);
    assert!(!b.rtc.nmi_disabled(), "bit 7 is not NMI's here");
    assert_eq!(b.rtc.port_read(EXTENDED_INDEX, AccessSize::Byte, now), 0xff);
    assert_eq!(b.rtc.port_read(EXTENDED_DATA, AccessSize::Byte, now), 0xff);
    // Neither the clock's register B nor its index was touched.
    assert_eq!(b.rtc.port_read(DATA, AccessSize::Byte, now), 0x55);
    assert_eq!(b.get(REGISTER_B), RegB::H24.bits());
    b.rtc.reset(now);
    b.rtc
        .port_write(EXTENDED_INDEX, AccessSize::Byte, 0x0b, now);
    assert_eq!(b.rtc.port_read(EXTENDED_DATA, AccessSize::Byte, now), 0xff);
}

#[test]
fn floppy_drives_are_told_to_the_firmware() {
    let mut b = Bench::new(PARTY);
    b.rtc
        .set_floppy_drives([Some(DriveKind::F1440), Some(DriveKind::F360)]);
    assert_eq!(
        (b.get(cmos::FLOPPY), b.get(cmos::EQUIPMENT) & 0xc1),
        (0x41, 0x41)
    );
    b.rtc.set_floppy_drives([Some(DriveKind::F720), None]);
    assert_eq!(
        (b.get(cmos::FLOPPY), b.get(cmos::EQUIPMENT) & 0xc1),
        (0x30, 0x01)
    );
    b.rtc.set_floppy_drives([None; fdc::DRIVES]);
    assert_eq!((b.get(cmos::FLOPPY), b.get(cmos::EQUIPMENT) & 0xc1), (0, 0));
}

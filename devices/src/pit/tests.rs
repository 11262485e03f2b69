use super::*;
use crate::line::LineBank;
use crate::testing::{Random, fuzz_ports};

struct Bench {
    pit: Pit,
    bank: LineBank,
    tick: u64,
}

impl Bench {
    fn new() -> Self {
        let bank = LineBank::new();
        Self {
            pit: Pit::new(bank.line(0)),
            bank,
            tick: 10,
        }
    }

    fn now(&self) -> Nanos {
        PIT_CLOCK.time_of(self.tick)
    }

    fn out(&mut self, port: u16, value: u8) {
        let now = self.now();
        self.pit
            .port_write(port, AccessSize::Byte, u32::from(value), now);
    }

    fn inb(&mut self, port: u16) -> u8 {
        let now = self.now();
        self.pit.port_read(port, AccessSize::Byte, now) as u8
    }

    /// Programs a counter, LSB then MSB.
    fn program(&mut self, counter: u8, mode: u8, count: u16) {
        self.out(CONTROL, counter << 6 | 0x30 | mode << 1);
        self.out(COUNTER0 + u16::from(counter), count as u8);
        self.out(COUNTER0 + u16::from(counter), (count >> 8) as u8);
    }

    fn count(&mut self, counter: u8) -> u16 {
        self.out(CONTROL, counter << 6);
        let port = COUNTER0 + u16::from(counter);
        u16::from_le_bytes([self.inb(port), self.inb(port)])
    }

    fn out2(&mut self) -> bool {
        self.inb(PORT_B) & PortB::OUT2.bits() != 0
    }

    fn status(&mut self, counter: u8) -> u8 {
        self.out(CONTROL, 0xe0 | 2 << counter);
        self.inb(COUNTER0 + u16::from(counter))
    }

    /// OUT of counter 2 for `clocks` clocks, one character each.
    fn trace(&mut self, clocks: usize) -> String {
        (0..clocks)
            .map(|_| {
                self.tick += 1;
                if self.out2() { 'H' } else { 'L' }
            })
            .collect()
    }

    fn edges(&mut self) -> bool {
        let now = self.now();
        self.pit.advance(now);
        self.bank.take_changes().is_some_and(|c| c.rose & 1 != 0)
    }

    /// The guest handles a tick, which takes `took` clocks. True if another one has come by then.
    fn handle(&mut self, took: u64) -> bool {
        let now = self.now();
        self.pit.irq0_acknowledged(now);
        self.tick += took;
        let now = self.now();
        self.pit.irq0_handled(now);
        self.edges()
    }
}

#[test]
fn mode_0_rises_n_plus_1_clocks_after_the_write() {
    let mut b = Bench::new();
    b.out(PORT_B, 1);
    b.program(2, 0, 4);
    assert!(!b.out2());
    assert_eq!(b.trace(8), "LLLLHHHH");
    assert_eq!(b.count(2), 0xfffd, "goes on counting");
}

#[test]
fn mode_0_gate_stops_counting_and_first_byte_stops_output() {
    let mut b = Bench::new();
    b.out(PORT_B, 1);
    b.program(2, 0, 4);
    b.tick += 2;
    b.out(PORT_B, 0);
    assert_eq!(b.trace(5), "LLLLL");
    assert_eq!(b.count(2), 3);
    b.out(PORT_B, 1);
    assert_eq!(b.trace(4), "LLHH");
    b.out(COUNTER0 + 2, 2);
    assert!(!b.out2(), "low with the first byte");
    assert_eq!(b.trace(3), "LLL");
    b.out(COUNTER0 + 2, 0);
    assert_eq!(b.trace(4), "LLHH");
}

#[test]
fn mode_1_is_triggered_by_the_gate_and_retriggerable() {
    let mut b = Bench::new();
    b.program(2, 1, 3);
    assert_eq!(b.trace(3), "HHH", "no trigger yet");
    b.out(PORT_B, 1);
    assert_eq!(b.trace(5), "LLLHH");
    b.out(PORT_B, 0);
    b.out(PORT_B, 1);
    assert_eq!(b.trace(2), "LL");
    b.out(PORT_B, 0);
    b.out(PORT_B, 1);
    assert_eq!(b.trace(5), "LLLHH", "the pulse was made longer");
}

#[test]
fn mode_2_is_low_for_one_clock_of_n() {
    let mut b = Bench::new();
    b.out(PORT_B, 1);
    b.program(2, 2, 3);
    assert_eq!(b.trace(9), "HHLHHLHHL");
    // A new count waits for the end of the cycle.
    b.out(COUNTER0 + 2, 5);
    b.out(COUNTER0 + 2, 0);
    assert_eq!(
        b.status(2) & spec::STATUS_NULL_COUNT,
        spec::STATUS_NULL_COUNT
    );
    assert_eq!(b.trace(6), "HHHHLH");
    assert_eq!(b.status(2) & spec::STATUS_NULL_COUNT, 0);
}

#[test]
fn mode_2_gate_low_forces_high_and_rising_restarts() {
    let mut b = Bench::new();
    b.out(PORT_B, 1);
    b.program(2, 2, 3);
    assert_eq!(b.trace(3), "HHL");
    b.out(PORT_B, 0);
    assert_eq!(b.trace(4), "HHHH");
    b.out(PORT_B, 1);
    assert_eq!(b.trace(4), "HHLH");
}

#[test]
fn mode_3_even_and_odd_counts() {
    let mut b = Bench::new();
    b.out(PORT_B, 1);
    b.program(2, 3, 4);
    assert_eq!(b.trace(8), "HHLLHHLL");
    b.program(2, 3, 5);
    assert_eq!(b.trace(10), "HHHLLHHHLL");
    let mut counts = Vec::new();
    for _ in 0..5 {
        b.tick += 1;
        counts.push(b.count(2));
    }
    assert_eq!(counts, [4, 2, 0, 4, 2], "even numbers only");
}

#[test]
fn mode_4_strobes_once() {
    let mut b = Bench::new();
    b.out(PORT_B, 1);
    b.program(2, 4, 3);
    assert_eq!(b.trace(8), "HHHLHHHH");
    b.out(COUNTER0 + 2, 1);
    b.out(COUNTER0 + 2, 0);
    assert_eq!(b.trace(4), "HLHH");
}

#[test]
fn mode_5_strobes_after_a_trigger() {
    let mut b = Bench::new();
    b.program(2, 5, 2);
    assert_eq!(b.trace(4), "HHHH");
    b.out(PORT_B, 1);
    assert_eq!(b.trace(5), "HHLHH");
}

#[test]
fn bcd_counts_down_in_decimal_and_wraps_at_9999() {
    let mut b = Bench::new();
    b.out(CONTROL, 0x31); // counter 0, mode 0, BCD
    b.out(COUNTER0, 0x00);
    b.out(COUNTER0, 0x10); // 1000
    b.tick += 2;
    assert_eq!(b.count(0), 0x0999);
    b.tick += 1000;
    assert_eq!(b.count(0), 0x9999);
}

#[test]
fn latches_hold_until_read_and_are_not_overwritten() {
    let mut b = Bench::new();
    b.program(0, 2, 1000);
    b.tick += 11;
    b.out(CONTROL, 0x00);
    b.tick += 50;
    b.out(CONTROL, 0x00);
    assert_eq!(u16::from_le_bytes([b.inb(0x40), b.inb(0x40)]), 990);
    assert_eq!(b.inb(0x40), (1000 - 60) as u16 as u8, "live again");
    b.inb(0x40);
    // Status is read before the count.
    b.out(CONTROL, 0xc2);
    let status = b.inb(0x40);
    assert_eq!(status, spec::STATUS_OUT | 0x30 | 2 << 1);
    b.tick += 5;
    assert_eq!(u16::from_le_bytes([b.inb(0x40), b.inb(0x40)]), 940);
}

#[test]
fn single_byte_access_modes() {
    let mut b = Bench::new();
    b.out(CONTROL, 0x14); // counter 0, LSB only, mode 2
    b.out(COUNTER0, 100);
    b.tick += 1;
    assert_eq!(b.inb(COUNTER0), 100);
    assert_eq!(b.inb(COUNTER0), 100);
    b.out(CONTROL, 0x24); // MSB only
    b.out(COUNTER0, 2);
    b.tick += 1;
    assert_eq!(b.inb(COUNTER0), 2);
    b.tick += 1;
    assert_eq!(b.inb(COUNTER0), 1, "511");
    assert_eq!(b.inb(CONTROL), 0xff);
}

#[test]
fn irq0_fires_at_the_deadline_and_not_before() {
    for (mode, count) in [(0, 100), (2, 1193), (2, 0), (3, 1193), (3, 0), (4, 700)] {
        let mut b = Bench::new();
        b.program(0, mode, count);
        b.edges();
        let at = b.pit.next_event().unwrap();
        let tick = PIT_CLOCK.ticks_at(at);
        b.tick = tick - 1;
        assert!(!b.edges(), "mode {mode} count {count}: too early");
        b.tick = tick;
        assert!(b.edges(), "mode {mode} count {count}: not in time");
        let n = if count == 0 { 65_536 } else { u64::from(count) };
        let expected = match mode {
            0 => Some(10 + n + 1),
            4 => Some(10 + n + 2),
            _ => Some(10 + n + 1),
        };
        assert_eq!(Some(tick), expected, "mode {mode} count {count}");
        match mode {
            2 | 3 => assert_eq!(b.pit.next_event(), Some(PIT_CLOCK.time_of(tick + n))),
            _ => assert_eq!(b.pit.next_event(), None, "one shot"),
        }
    }
}

#[test]
fn a_count_of_one_in_a_periodic_mode_makes_no_storm() {
    for mode in [2, 3] {
        let mut b = Bench::new();
        b.program(0, mode, 1);
        for _ in 0..100 {
            b.tick += 3;
            b.edges();
            let now = b.now();
            assert!(b.pit.next_event().is_none_or(|at| at > now));
        }
    }
}

#[test]
fn a_late_host_delivers_a_limited_number_of_missed_ticks() {
    let mut b = Bench::new();
    b.program(0, 2, 1193);
    b.tick += 1 + 3 * 1193;
    assert!(b.edges());
    for _ in 0..2 {
        assert!(b.handle(0));
    }
    assert!(!b.handle(0), "all made up for");
    b.tick += 1_000_000 * 1193;
    assert!(b.edges());
    let mut delivered = 0;
    while b.handle(0) {
        delivered += 1;
    }
    assert_eq!(delivered, 1000, "one second; the rest is lost");
}

#[test]
fn a_handler_in_time_delays_no_tick() {
    let mut b = Bench::new();
    b.program(0, 2, 1000);
    let start = b.pit.next_event().unwrap();
    for n in 0..1000 {
        let due = PIT_CLOCK.ticks_at(start) + n * 1000;
        assert_eq!(b.pit.next_event(), Some(PIT_CLOCK.time_of(due)), "tick {n}");
        b.tick = due;
        assert!(b.edges(), "tick {n}");
        // It takes three quarters of the time.
        assert!(!b.handle(750));
    }
}

/// What is left of the time for a guest whose handler takes `took` clocks, with a tick every 1000.
fn share_left(took: u64, mode: u8) -> f64 {
    let mut b = Bench::new();
    b.program(0, mode, 1000);
    let (mut handling, start) = (0, b.tick);
    for _ in 0..4000 {
        let at = b.pit.next_event().unwrap();
        b.tick = b.tick.max(PIT_CLOCK.ticks_at(at));
        // The end of a wait is not on a clock of the timer.
        b.tick += u64::from(b.now() < at);
        if b.edges() {
            loop {
                handling += took;
                if mode == 4 {
                    // Set anew for each tick, in its handler.
                    b.program(0, mode, 1000);
                }
                if !b.handle(took) {
                    break;
                }
            }
        }
    }
    1.0 - handling as f64 / (b.tick - start) as f64
}

#[test]
fn a_guest_too_slow_for_its_ticks_still_gets_nearly_half_of_the_time() {
    for took in [1100, 1500, 5000, 40_000] {
        for mode in [2, 3, 4] {
            let left = share_left(took, mode);
            // Nearly: less until it is far behind.
            assert!(left > 0.4, "handler of {took} clocks, mode {mode}: {left}");
        }
    }
    // Not far behind: a quarter.
    assert!(share_left(790, 2) > 0.2);
}

#[test]
fn a_stopped_handler_holds_ticks_back_for_a_moment_only() {
    let mut b = Bench::new();
    b.program(0, 2, 1000);
    b.tick += 1001;
    assert!(b.edges());
    let hour = PIT_CLOCK.ticks_at(Nanos::from_secs(3600));
    assert!(!b.handle(hour));
    let wait = b.pit.next_event().unwrap().0 - b.now().0;
    assert!(wait <= 50_000_000, "{wait} ns");
}

#[test]
fn an_edge_while_the_request_is_there_is_part_of_it() {
    let mut b = Bench::new();
    b.program(0, 2, 1000);
    for _ in 0..50 {
        b.tick += 1000;
        b.edges();
    }
    assert!(!b.handle(0), "one, as in the interrupt controller");
}

#[test]
fn a_new_mode_starts_without_a_debt() {
    let mut b = Bench::new();
    b.program(0, 2, 1000);
    b.tick += 100_000;
    assert!(b.edges());
    let now = b.now();
    b.pit.irq0_acknowledged(now);
    b.program(0, 4, 60_000);
    b.pit.irq0_handled(now);
    assert!(
        b.edges(),
        "what the interrupt controller would have latched"
    );
    assert!(!b.handle(0), "and no more");
}

#[test]
fn lazy_counting_equals_counting_clock_by_clock() {
    let mut random = Random::new(7);
    for round in 0..600 {
        let mode = random.below(6) as u8;
        let count = 1 + random.below(40) as u16;
        let mut slow = Counter::new(true);
        slow.control(mode << 1, Access::Lsb);
        let mut fast = slow.clone();
        let (mut slow_edges, mut fast_edges) = (0, 0);
        for counter in [&mut slow, &mut fast] {
            counter.write(count as u8);
            counter.set_gate(false);
            counter.set_gate(true);
        }
        let mut tick = 0;
        for _ in 0..6 {
            let next = tick + random.below(100);
            for t in tick..=next {
                slow_edges += slow.advance(t);
            }
            fast_edges += fast.advance(next);
            tick = next;
            assert_eq!(slow, fast, "round {round}: mode {mode}, count {count}");
            assert_eq!(slow_edges, fast_edges, "round {round}: mode {mode}");
            if random.below(3) == 0 {
                let count = 1 + random.below(40) as u8;
                slow.write(count);
                fast.write(count);
            }
        }
    }
}

#[test]
fn next_rising_is_the_first_edge() {
    let mut random = Random::new(11);
    for round in 0..2000 {
        let mode = random.below(6) as u8;
        let mut counter = Counter::new(true);
        counter.control(mode << 1, Access::Lsb);
        counter.write(1 + random.below(30) as u8);
        counter.set_gate(false);
        counter.set_gate(true);
        counter.advance(random.below(60));
        if random.below(2) == 0 {
            counter.write(1 + random.below(30) as u8);
        }
        let mut walked = counter.clone();
        let predicted = counter.next_rising();
        let first = (1..400).find(|&t| walked.advance(t) > 0);
        match (predicted, first) {
            (Some(p), Some(f)) => assert_eq!(p, f, "round {round}: {counter:?}"),
            (None, None) => {}
            // A period of 1 has no edges to predict.
            other => assert!(
                counter.period() == Some(1) || other.1.is_some(),
                "round {round}: {other:?} {counter:?}"
            ),
        }
    }
}

#[test]
fn linux_calibration_through_port_61h() {
    // pit_calibrate_tsc(): gate on, mode 0, wait for OUT2.
    let mut b = Bench::new();
    let latch = (1_193_182u32 / 20) as u16;
    let port = b.inb(PORT_B) & !0x02 | 0x01;
    b.out(PORT_B, port);
    b.out(CONTROL, 0xb0);
    b.out(0x42, latch as u8);
    b.out(0x42, (latch >> 8) as u8);
    let start = b.tick;
    let mut loops = 0;
    while b.inb(PORT_B) & 0x20 == 0 {
        b.tick += 3;
        loops += 1;
        assert!(loops < 100_000);
    }
    let waited = b.tick - start;
    assert!(waited.abs_diff(u64::from(latch)) <= 4, "{waited} clocks");
}

#[test]
fn refresh_bit_toggles_and_writable_bits_read_back() {
    let mut b = Bench::new();
    b.out(PORT_B, 0xff);
    let first = b.inb(PORT_B);
    assert_eq!(first & 0x0f, 0x0f);
    b.tick += 18; // 15.085 us
    assert_eq!((first ^ b.inb(PORT_B)) & 0x10, 0x10);
}

#[test]
fn state_survives_a_round_trip() {
    let mut b = Bench::new();
    b.program(0, 3, 4321);
    b.tick += 1000;
    b.edges();
    let saved = b.pit.state().clone();
    let deadline = b.pit.next_event();
    let now = b.now();
    b.pit.reset(now);
    assert_eq!(b.pit.next_event(), None);
    b.pit.restore(saved.clone());
    assert_eq!((b.pit.state(), b.pit.next_event()), (&saved, deadline));
}

#[test]
fn a_count_of_the_mode_before_survives_a_round_trip() {
    let mut b = Bench::new();
    b.program(0, 2, 50_000);
    b.tick += 10;
    b.edges();
    // Control words for BCD and for mode 3, and no count yet: 50,000 is more than four digits, and more
    // than half a period.
    for control in [0x35, 0x36] {
        b.out(CONTROL, control);
        let saved = b.pit.state().clone();
        b.pit.restore(saved.clone());
        assert_eq!(b.pit.state(), &saved);
    }
}

#[test]
fn random_accesses_do_not_panic() {
    for seed in 0..4 {
        let mut b = Bench::new();
        let ports = [0x40, 0x41, 0x42, 0x43, PORT_B];
        fuzz_ports(seed, &mut b.pit, &ports, AccessSize::Byte, |pit, now| {
            pit.advance(now);
            if let Some(at) = pit.next_event() {
                assert!(at > now || pit.state().counters[0].clone().advance(0) == 0);
            }
            pit.irq0_acknowledged(now);
            pit.irq0_handled(now);
        });
    }
}

use super::spec::{DATA, device};
use super::*;
use crate::event::ChipsetEvent;
use crate::line::LineBank;
use crate::testing::{Random, fuzz_ports};

mod keyboard;
mod mouse;

struct Bench {
    kbc: I8042,
    bank: LineBank,
    a20: A20Gate,
    events: EventSink,
    now: Nanos,
}

impl Bench {
    fn new() -> Self {
        let bank = LineBank::new();
        let events = EventSink::new();
        let a20 = A20Gate::new();
        let kbc = I8042::new(bank.line(1), bank.line(12), a20.clone(), events.clone());
        Self {
            kbc,
            bank,
            a20,
            events,
            now: Nanos::ZERO,
        }
    }

    fn status(&mut self) -> Status {
        let value = self.kbc.port_read(COMMAND, AccessSize::Byte, self.now);
        Status::from_bits_retain(value as u8)
    }

    fn command(&mut self, value: u8) {
        self.kbc
            .port_write(COMMAND, AccessSize::Byte, u32::from(value), self.now);
    }

    fn data(&mut self, value: u8) {
        self.kbc
            .port_write(DATA, AccessSize::Byte, u32::from(value), self.now);
    }

    fn read(&mut self) -> u8 {
        self.kbc.port_read(DATA, AccessSize::Byte, self.now) as u8
    }

    /// Reads everything that arrives, going from event to event, and stops before a key repeats.
    fn drain(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let end = self.now.after(100_000_000);
        loop {
            if self.status().contains(Status::OBF) {
                bytes.push(self.read());
            } else if let Some(at) = self.kbc.next_event().filter(|&at| at <= end) {
                assert!(at > self.now);
                self.now = at;
                self.kbc.advance(at);
            } else {
                return bytes;
            }
        }
    }

    fn aux(&mut self, value: u8) -> Vec<u8> {
        self.command(command::WRITE_AUX);
        self.data(value);
        self.drain()
    }

    fn keyboard(&mut self, value: u8) -> Vec<u8> {
        self.data(value);
        self.drain()
    }
}

#[test]
fn linux_controller_probe() {
    let mut b = Bench::new();
    b.command(command::SELF_TEST);
    assert_eq!(b.read(), 0x55);
    b.command(command::READ_RAM);
    let config = b.read();
    assert_eq!(
        Config::from_bits_retain(config),
        Config::KBD_INT | Config::SYS | Config::AUX_DISABLE | Config::TRANSLATE
    );
    // i8042_check_aux(): loop back, then A7h and A8h must show in the command byte.
    b.command(command::WRITE_AUX_BUFFER);
    b.data(0x5a);
    assert!(b.status().contains(Status::OBF | Status::AUX_OBF));
    assert_eq!(b.read(), 0x5a);
    b.command(command::DISABLE_AUX);
    b.command(command::READ_RAM);
    assert_eq!(b.read() & 0x20, 0x20);
    b.command(command::ENABLE_AUX);
    b.command(command::READ_RAM);
    assert_eq!(b.read() & 0x20, 0);
    // IRQ 12 must be delivered for a looped back byte.
    b.command(command::WRITE_RAM);
    b.data((config | Config::AUX_INT.bits()) & !Config::AUX_DISABLE.bits());
    b.command(command::WRITE_AUX_BUFFER);
    b.data(0xa5);
    assert!(b.bank.is_high(12) && !b.bank.is_high(1));
    assert_eq!(b.read(), 0xa5);
    assert!(!b.bank.is_high(12));
    // No active multiplexer: the third value comes back unchanged.
    for value in [0xf0, 0x56, 0xa4] {
        b.command(command::WRITE_AUX_BUFFER);
        b.data(value);
        assert_eq!(b.read(), value);
    }
    for test in [command::TEST_AUX, command::TEST_KBD] {
        b.command(test);
        assert_eq!(b.read(), INTERFACE_OK);
    }
}

#[test]
fn keyboard_answers_with_interrupts_and_takes_its_time() {
    let mut b = Bench::new();
    b.data(device::RESET);
    assert!(!b.status().contains(Status::OBF));
    b.now = Nanos(BYTE_NANOS);
    b.kbc.advance(b.now);
    assert!(b.bank.is_high(1));
    assert_eq!(b.read(), device::ACK);
    assert!(!b.bank.is_high(1));
    assert_eq!(b.read(), device::ACK, "the old byte until the next arrives");
    assert_eq!(b.drain(), [device::BAT_OK]);
}

#[test]
fn keyboard_commands() {
    let mut b = Bench::new();
    assert_eq!(
        b.keyboard(device::IDENTIFY),
        [0xfa, 0xab, 0x41],
        "translated"
    );
    b.command(command::WRITE_RAM);
    b.data(Config::KBD_INT.bits());
    assert_eq!(b.keyboard(device::IDENTIFY), [0xfa, 0xab, 0x83]);
    assert_eq!(b.keyboard(0xed), [0xfa]);
    assert_eq!(b.keyboard(0x05), [0xfa]);
    assert_eq!(b.kbc.leds(), 5);
    assert_eq!(b.keyboard(0xee), [0xee]);
    assert_eq!(b.keyboard(0xf0), [0xfa]);
    assert_eq!(b.keyboard(0x00), [0xfa, 2], "asks for the set");
    assert_eq!(b.keyboard(0xf0), [0xfa]);
    assert_eq!(b.keyboard(0x03), [0xfa]);
    assert_eq!(b.keyboard(0xfb), [0xfa]);
    assert_eq!(b.keyboard(0x1c), [0xfa], "a key of the list");
    assert_eq!(b.keyboard(device::SET_RATE), [0xfa], "ends the list");
    assert_eq!(b.keyboard(0x20), [0xfa]);
    assert_eq!(b.keyboard(0x11), [0xfe], "no command");
    assert_eq!(b.keyboard(device::RESEND), [0xfe]);
    assert_eq!(b.keyboard(0xed), [0xfa]);
    assert_eq!(b.keyboard(device::ENABLE), [0xfa], "instead of a parameter");
}

#[test]
fn scan_codes_are_translated_and_break_codes_folded() {
    let mut b = Bench::new();
    assert!(b.kbc.keys(&[0x1c, 0xf0, 0x1c], b.now), "A down, A up");
    assert_eq!(b.drain(), [0x1e, 0x9e]);
    assert!(b.kbc.keys(&[0xe0, 0xf0, 0x75], b.now), "cursor up, up");
    assert_eq!(b.drain(), [0xe0, 0xc8]);
    for (set2, set1) in [
        (0x76, 0x01),
        (0x5a, 0x1c),
        (0x29, 0x39),
        (0x66, 0x0e),
        (0x83, 0x41),
    ] {
        b.kbc.keys(&[set2], b.now);
        assert_eq!(b.drain(), [set1]);
    }
    b.keyboard(device::DISABLE);
    assert!(!b.kbc.keys(&[0x1c], b.now));
    assert!(b.drain().is_empty());
}

#[test]
fn disabled_keyboard_keeps_its_bytes_and_overflow_is_dropped() {
    let mut b = Bench::new();
    b.command(command::DISABLE_KBD);
    for _ in 0..16 {
        assert!(b.kbc.keys(&[0x1c], b.now));
    }
    assert!(!b.kbc.keys(&[0x1c], b.now));
    assert!(b.drain().is_empty());
    b.command(command::ENABLE_KBD);
    assert_eq!(b.drain(), [0x1e; 16]);
}

#[test]
fn mouse_identifies_and_reports() {
    let mut b = Bench::new();
    assert_eq!(b.aux(device::RESET), [0xfa, 0xaa, 0x00]);
    assert_eq!(b.aux(device::IDENTIFY), [0xfa, 0x00]);
    b.kbc.mouse(5, 5, 0, 0, b.now);
    assert!(b.drain().is_empty(), "not enabled");
    assert_eq!(b.aux(device::SET_DEFAULTS), [0xfa]);
    assert_eq!(b.aux(device::ENABLE), [0xfa]);
    b.kbc.mouse(-3, 7, 0, 1, b.now);
    assert_eq!(b.drain(), [0x19, 0xfd, 0x07]);
    assert_eq!(b.aux(0xe9), [0xfa, 0x24, 2, 100]);
    for rate in [200, 100, 80] {
        assert_eq!(b.aux(device::SET_RATE), [0xfa]);
        assert_eq!(b.aux(rate), [0xfa]);
    }
    assert_eq!(b.aux(device::IDENTIFY), [0xfa, 0x03], "the wheel is on");
    b.kbc.mouse(0, 0, -1, 1, b.now);
    assert_eq!(b.drain(), [0x09, 0, 0, 0xff]);
    assert_eq!(b.aux(0x77), [0xfe]);
}

#[test]
fn mouse_wrap_and_remote_mode() {
    let mut b = Bench::new();
    assert_eq!(b.aux(0xee), [0xfa]);
    assert_eq!(b.aux(0x12), [0x12]);
    assert_eq!(b.aux(0xec), [0xfa]);
    assert_eq!(b.aux(0xf0), [0xfa]);
    assert_eq!(b.aux(device::ENABLE), [0xfa]);
    b.kbc.mouse(300, 0, 0, 0, b.now);
    assert!(b.drain().is_empty(), "only on request");
    assert_eq!(b.aux(0xeb), [0xfa, 0x08, 255, 0]);
    assert_eq!(b.aux(0xeb), [0xfa, 0x08, 45, 0]);
}

#[test]
fn a20_through_the_output_port_and_the_shortcuts() {
    let mut b = Bench::new();
    assert!(b.a20.is_open(), "on after power-on");
    b.command(command::WRITE_OUTPUT);
    b.data(0xdd);
    assert!(!b.a20.is_open());
    b.command(command::READ_OUTPUT);
    assert_eq!(b.read() & 3, 1);
    b.command(command::ENABLE_A20);
    assert!(b.a20.is_open());
    b.command(command::DISABLE_A20);
    assert!(!b.a20.is_open());
    assert!(!b.events.is_raised(), "none of this is a reset");
}

#[test]
fn processor_reset() {
    let mut b = Bench::new();
    let reset = ChipsetEvent::Reset(ResetKind::Processor);
    b.command(0xfe);
    assert_eq!(b.events.take().collect::<Vec<_>>(), [reset]);
    b.command(0xff);
    assert!(!b.events.is_raised(), "pulses nothing");
    b.command(command::WRITE_OUTPUT);
    b.data(0x02);
    assert_eq!(b.events.take().collect::<Vec<_>>(), [reset]);
}

#[test]
fn controller_answers_wait_for_the_output_buffer() {
    let mut b = Bench::new();
    b.kbc.keys(&[0x1c], b.now);
    b.now = Nanos(BYTE_NANOS);
    b.kbc.advance(b.now);
    b.command(command::SELF_TEST);
    assert_eq!(b.read(), 0x1e);
    assert_eq!(b.read(), 0x55);
    assert!(!b.status().contains(Status::OBF));
}

#[test]
fn status_tells_command_from_data() {
    let mut b = Bench::new();
    b.command(0x00);
    assert!(b.status().contains(Status::A2));
    b.data(0xee);
    assert!(!b.status().contains(Status::A2));
    assert!(b.status().contains(Status::INH));
}

#[test]
fn state_survives_a_round_trip() {
    let mut b = Bench::new();
    b.kbc.keys(&[0x1c, 0x32], b.now);
    b.now = Nanos(BYTE_NANOS);
    b.kbc.advance(b.now);
    let saved = b.kbc.state().clone();
    b.kbc.reset();
    assert!(!b.bank.is_high(1));
    b.kbc.restore(saved);
    assert!(b.bank.is_high(1));
    assert_eq!(b.drain(), [0x1e, 0x30]);
}

#[test]
fn random_accesses_do_not_panic() {
    for seed in 0..4 {
        let mut b = Bench::new();
        let mut random = Random::new(seed + 50);
        let ports = [DATA, COMMAND];
        fuzz_ports(
            seed,
            &mut b.kbc,
            &ports,
            AccessSize::Byte,
            |kbc, now| match random.below(8) {
                0 => {
                    kbc.keys(&random.next().to_le_bytes(), now);
                }
                1 => kbc.mouse(
                    random.next() as i32,
                    random.next() as i32,
                    i32::MIN,
                    0xff,
                    now,
                ),
                _ => kbc.advance(now),
            },
        );
        assert!(b.events.take().count() <= 3);
    }
}

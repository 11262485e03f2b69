use std::sync::{Arc, Mutex};

use super::spec::{COM1, SCR};
use super::*;
use crate::line::LineBank;
use crate::testing::{Random, fuzz_ports};

#[derive(Clone, Default)]
struct Cable(Arc<Mutex<Vec<u8>>>);

impl Write for Cable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    serial: Serial,
    bank: LineBank,
    cable: Cable,
}

impl Bench {
    fn new() -> Self {
        let bank = LineBank::new();
        let cable = Cable::default();
        let serial = Serial::new(COM1, bank.line(4), Box::new(cable.clone()));
        Self {
            serial,
            bank,
            cable,
        }
    }

    fn out(&mut self, register: u8, value: u8) {
        let port = COM1 + u16::from(register);
        self.serial
            .port_write(port, AccessSize::Byte, u32::from(value), Nanos::ZERO);
    }

    fn inb(&mut self, register: u8) -> u8 {
        let port = COM1 + u16::from(register);
        self.serial.port_read(port, AccessSize::Byte, Nanos::ZERO) as u8
    }

    fn irq(&self) -> bool {
        self.bank.is_high(4)
    }

    /// FIFO on with the given trigger, interrupts `ier`, interrupt routed.
    fn start(&mut self, fcr: u8, ier: Ier) {
        self.out(IIR_FCR, fcr);
        self.out(MCR, (Mcr::OUT2 | Mcr::DTR | Mcr::RTS).bits());
        self.out(IER, ier.bits());
    }
}

#[test]
fn linux_autoconfig_finds_a_16550a() {
    let mut b = Bench::new();
    // Does IER exist?
    b.out(IER, 0x00);
    assert_eq!(b.inb(IER) & 0x0f, 0);
    b.out(IER, 0x0f);
    assert_eq!(b.inb(IER), 0x0f, "and nothing above bit 3");
    b.out(IER, 0);
    // Loop back test.
    b.out(MCR, (Mcr::LOOP | Mcr::OUT2 | Mcr::RTS).bits());
    assert_eq!(b.inb(MSR) & 0xf0, 0x90);
    b.out(MCR, 0);
    // FIFO identification.
    b.out(LCR, 0);
    b.out(IIR_FCR, 0);
    assert_eq!(b.inb(IIR_FCR) >> 6, 0);
    b.out(IIR_FCR, Fcr::ENABLE.bits());
    assert_eq!(b.inb(IIR_FCR) >> 6, 3);
    // No enhanced features, no 64-byte FIFO of a TI 16750.
    b.out(LCR, 0xbf);
    assert_ne!(b.inb(IIR_FCR), 0);
    b.out(LCR, 0);
    b.out(IIR_FCR, Fcr::ENABLE.bits() | 0x20);
    assert_eq!(b.inb(IIR_FCR) & 0x20, 0);
    for pattern in [0x55, 0xaa] {
        b.out(SCR, pattern);
        assert_eq!(b.inb(SCR), pattern);
    }
}

#[test]
fn divisor_latch_hides_data_and_ier() {
    let mut b = Bench::new();
    b.out(LCR, 0x83);
    b.out(RBR_THR, 0x01);
    b.out(IER, 0x02);
    assert_eq!((b.inb(RBR_THR), b.inb(IER)), (1, 2));
    b.out(LCR, 0x03);
    assert_eq!(b.inb(IER), 0);
    assert!(b.cable.0.lock().unwrap().is_empty(), "nothing was sent");
}

#[test]
fn transmitter_interrupt_as_linux_expects_it() {
    let mut b = Bench::new();
    b.start(0x01, Ier::empty());
    assert_eq!(b.inb(IIR_FCR) & 0x3f, iir::NONE);
    // The THRE test of serial8250_do_startup(), twice.
    for _ in 0..2 {
        b.out(IER, Ier::ETBEI.bits());
        assert!(b.irq());
        assert_eq!(b.inb(IIR_FCR) & 0x3f, iir::THR_EMPTY);
        assert!(!b.irq(), "reading IIR clears it");
        b.out(IER, 0);
    }
    b.out(IER, Ier::ETBEI.bits());
    b.inb(IIR_FCR);
    b.bank.take_changes();
    b.out(RBR_THR, b'x');
    let changes = b.bank.take_changes().unwrap();
    assert_eq!(changes.rose & changes.high, 1 << 4);
    b.out(RBR_THR, b'y');
    let changes = b.bank.take_changes().unwrap();
    assert_eq!(changes.rose & changes.high, 1 << 4, "an edge for each");
    assert_eq!(*b.cable.0.lock().unwrap(), b"xy");
    assert_eq!(b.inb(LSR) & 0x60, 0x60);
    // Writing IER again without a change is no new event.
    b.inb(IIR_FCR);
    b.out(IER, Ier::ETBEI.bits());
    assert!(!b.irq());
}

#[test]
fn receiver_interrupt_lasts_until_the_data_is_read() {
    let mut b = Bench::new();
    b.start(0x01, Ier::ERBFI);
    assert_eq!(b.serial.enqueue_input(b"ab"), 2);
    assert!(b.irq());
    for _ in 0..2 {
        assert_eq!(
            b.inb(IIR_FCR),
            iir::RX_DATA | iir::FIFO,
            "not cleared by IIR"
        );
    }
    assert_eq!(b.inb(RBR_THR), b'a');
    assert!(b.irq());
    assert_eq!(b.inb(LSR) & 1, 1);
    assert_eq!(b.inb(RBR_THR), b'b');
    assert!(!b.irq());
    assert_eq!(b.inb(LSR) & 1, 0);
    assert_eq!(b.inb(RBR_THR), 0, "empty");
}

#[test]
fn masking_and_unmasking_keeps_the_data_interrupt() {
    let mut b = Bench::new();
    b.start(0x01, Ier::ERBFI);
    b.out(IER, 0);
    b.serial.enqueue_input(b"a");
    assert!(!b.irq());
    b.out(IER, Ier::ERBFI.bits());
    assert!(b.irq());
}

#[test]
fn trigger_level_and_time_out() {
    let mut b = Bench::new();
    b.start(0x81, Ier::ERBFI);
    b.serial.enqueue_input(b"1234567");
    assert_eq!(b.inb(IIR_FCR) & 0x3f, iir::RX_TIMEOUT);
    b.serial.enqueue_input(b"8");
    assert_eq!(b.inb(IIR_FCR) & 0x3f, iir::RX_DATA);
}

#[test]
fn one_source_at_a_time_by_priority() {
    let mut b = Bench::new();
    b.start(0x01, Ier::ERBFI | Ier::ETBEI);
    b.serial.enqueue_input(b"a");
    assert_eq!(b.inb(IIR_FCR) & 0x3f, iir::RX_DATA);
    b.inb(RBR_THR);
    assert_eq!(b.inb(IIR_FCR) & 0x3f, iir::THR_EMPTY, "was not lost");
    assert_eq!(b.inb(IIR_FCR) & 0x3f, iir::NONE);
}

#[test]
fn input_is_bounded_by_the_fifo() {
    let mut b = Bench::new();
    assert_eq!(b.serial.can_accept_input(), 1, "FIFO off");
    assert_eq!(b.serial.enqueue_input(b"abc"), 1);
    assert_eq!(b.serial.enqueue_input(b"bc"), 0);
    b.out(IIR_FCR, 0x01);
    assert_eq!(
        b.serial.can_accept_input(),
        16,
        "switching it on empties it"
    );
    assert_eq!(b.serial.enqueue_input(&[0x55; 40]), 16);
    assert_eq!(b.serial.can_accept_input(), 0);
    b.inb(RBR_THR);
    assert_eq!(b.serial.can_accept_input(), 1);
    b.out(LCR, 0x80);
    b.out(IIR_FCR, 0x03);
    assert_eq!(
        b.serial.can_accept_input(),
        16,
        "receiver reset, even with DLAB"
    );
    assert_eq!(b.inb(LCR), 0x80);
}

#[test]
fn out2_routes_the_interrupt() {
    let mut b = Bench::new();
    b.start(0x01, Ier::ERBFI);
    b.serial.enqueue_input(b"a");
    assert!(b.irq());
    b.out(MCR, Mcr::RTS.bits());
    assert!(!b.irq());
    b.out(MCR, Mcr::OUT2.bits());
    assert!(b.irq());
}

#[test]
fn loop_back_returns_data_and_modem_lines() {
    let mut b = Bench::new();
    b.start(0x01, Ier::EDSSI);
    assert_eq!(b.inb(MSR), (Msr::DCD | Msr::DSR | Msr::CTS).bits());
    b.out(MCR, Mcr::LOOP.bits());
    let changed = Msr::DDCD | Msr::DDSR | Msr::DCTS;
    assert_eq!(b.inb(IIR_FCR) & 0x3f, iir::MODEM_STATUS);
    assert_eq!(b.inb(MSR), changed.bits());
    assert_eq!(b.inb(MSR), 0, "deltas are cleared by a read");
    b.out(MCR, (Mcr::LOOP | Mcr::OUT1).bits());
    assert_eq!(b.inb(MSR), Msr::RI.bits());
    b.out(MCR, Mcr::LOOP.bits());
    assert_eq!(b.inb(MSR), Msr::TERI.bits());
    for byte in 0..17 {
        b.out(RBR_THR, byte);
    }
    assert_eq!(b.inb(LSR) & 0x03, 0x03, "data ready, overrun");
    assert_eq!(b.inb(LSR) & 0x02, 0, "cleared by the read");
    assert_eq!(b.inb(RBR_THR), 0);
    assert_eq!(b.serial.can_accept_input(), 0, "the cable is disconnected");
    assert!(b.cable.0.lock().unwrap().is_empty());
}

#[test]
fn a_broken_sink_is_counted_and_does_not_stop_the_guest() {
    let bank = LineBank::new();
    let mut serial = Serial::new(COM1, bank.line(4), Box::new(Broken));
    for _ in 0..100 {
        serial.port_write(COM1, AccessSize::Byte, 0x41, Nanos::ZERO);
    }
    assert_eq!(serial.lost(), 100);
    assert_eq!(
        serial.port_read(COM1 + 5, AccessSize::Byte, Nanos::ZERO) & 0x60,
        0x60
    );
}

#[test]
fn reset_and_state_round_trip_keep_the_sink() {
    let mut b = Bench::new();
    b.start(0xc1, Ier::ERBFI);
    b.serial.enqueue_input(b"hello");
    let saved = b.serial.state();
    b.serial.reset();
    assert!(!b.irq());
    assert_eq!((b.inb(IER), b.inb(MCR), b.inb(LCR)), (0, 0, 0));
    b.serial.restore(&saved);
    assert!(b.irq());
    assert_eq!(b.serial.state(), saved);
    assert_eq!(b.inb(RBR_THR), b'h');
    b.out(RBR_THR, b'!');
    assert_eq!(*b.cable.0.lock().unwrap(), b"!");
}

#[test]
fn random_accesses_do_not_panic() {
    for seed in 0..4 {
        let mut b = Bench::new();
        let mut random = Random::new(seed + 9);
        let ports: Vec<_> = (COM1..COM1 + 8).collect();
        fuzz_ports(
            seed,
            &mut b.serial,
            &ports,
            AccessSize::Byte,
            |serial, _| {
                if random.below(4) == 0 {
                    let room = serial.can_accept_input();
                    assert_eq!(serial.enqueue_input(&[1; 64]), room);
                }
                assert!(serial.can_accept_input() <= FIFO_SIZE);
            },
        );
    }
}

#[test]
fn modem_lines_change_from_outside() {
    let mut b = Bench::new();
    b.out(MCR, Mcr::OUT2.bits());
    b.out(IER, Ier::EDSSI.bits());
    assert_eq!(b.inb(MSR), (Msr::CTS | Msr::DSR | Msr::DCD).bits());
    assert!(!b.irq());
    // The carrier goes, and somebody calls: only the end of the ringing counts.
    b.serial.set_modem_lines(Msr::CTS | Msr::DSR | Msr::RI);
    assert!(b.irq());
    assert_eq!(b.inb(IIR_FCR) & 0x0f, iir::MODEM_STATUS);
    let lines = Msr::CTS | Msr::DSR | Msr::RI;
    assert_eq!(b.inb(MSR), (lines | Msr::DDCD).bits());
    assert!(!b.irq(), "a read takes it back");
    b.serial.set_modem_lines(Msr::CTS | Msr::DSR);
    assert_eq!(b.inb(MSR), (Msr::CTS | Msr::DSR | Msr::TERI).bits());
    // There and back again between two looks: the change is seen all the same.
    b.serial.set_modem_lines(Msr::DSR);
    b.serial.set_modem_lines(Msr::CTS | Msr::DSR);
    assert_eq!(b.inb(MSR), (Msr::CTS | Msr::DSR | Msr::DCTS).bits());
    // What the guest may not set from here.
    b.serial.set_modem_lines(Msr::all());
    assert_eq!(b.inb(MSR) & 0xf0, 0xf0);
    // Loop back cuts the cable off, and its end shows what came meanwhile.
    b.out(MCR, Mcr::LOOP.bits());
    b.inb(MSR);
    b.serial.set_modem_lines(Msr::empty());
    assert_eq!(b.inb(MSR), 0);
    b.out(MCR, 0);
    assert_eq!(b.inb(MSR) & 0xf0, 0);
    b.serial.reset();
    assert_eq!(b.inb(MSR), 0, "a reset does not put the cable in");
}

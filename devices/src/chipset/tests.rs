mod ticks;
mod video;

use std::sync::{Arc, Mutex};

use super::*;
use crate::device::{MmioDevice, PortDevice};
use crate::event::ResetKind;
use crate::testing::Random;

fn board() -> Chipset {
    Chipset::new(ChipsetConfig {
        memory_size: 64 << 20,
        ..ChipsetConfig::new()
    })
    .unwrap()
}

fn outb(chipset: &mut Chipset, port: u16, value: u8, now: Nanos) {
    chipset.port_write(port, AccessSize::Byte, u32::from(value), now);
}

fn inb(chipset: &mut Chipset, port: u16, now: Nanos) -> u8 {
    chipset.port_read(port, AccessSize::Byte, now) as u8
}

/// Both interrupt controllers at vectors 30h and 38h, nothing masked.
fn init_pics(chipset: &mut Chipset) {
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, 0x38),
        (0xa1, 0x02),
        (0xa1, 0x01),
    ] {
        outb(chipset, port, value, Nanos::ZERO);
    }
}

fn eoi(chipset: &mut Chipset, now: Nanos) {
    outb(chipset, 0xa0, 0x20, now);
    outb(chipset, 0x20, 0x20, now);
}

#[test]
fn timer_interrupts_arrive_at_their_deadlines() {
    let mut chipset = board();
    init_pics(&mut chipset);
    // 100 Hz.
    let count = 11_932u16;
    for (port, value) in [
        (0x43, 0x34),
        (0x40, count as u8),
        (0x40, (count >> 8) as u8),
    ] {
        outb(&mut chipset, port, value, Nanos::ZERO);
    }
    let mut ticks = 0;
    while let Some(at) = chipset.next_event().filter(|&at| at <= Nanos::from_secs(1)) {
        assert!(!chipset.intr());
        chipset.advance(at);
        assert!(chipset.intr());
        assert_eq!(chipset.acknowledge_interrupt(at), 0x30);
        eoi(&mut chipset, at);
        ticks += 1;
    }
    assert_eq!(ticks, 99, "1193182 / 11932 = 99.998");
    assert_eq!(chipset.counters().interrupts[0], 99);
}

#[test]
fn an_access_after_the_deadline_sees_the_interrupt() {
    let mut chipset = board();
    init_pics(&mut chipset);
    for (port, value) in [(0x43, 0x30), (0x40, 100), (0x40, 0)] {
        outb(&mut chipset, port, value, Nanos::ZERO);
    }
    assert_eq!(inb(&mut chipset, 0x20, Nanos::ZERO) & 1, 0);
    let later = Nanos::from_millis(1);
    assert_eq!(inb(&mut chipset, 0x20, later) & 1, 1, "IRR");
    assert!(chipset.intr());
}

#[test]
fn missed_ticks_are_delivered_after_each_acknowledge() {
    let mut chipset = board();
    init_pics(&mut chipset);
    for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 3)] {
        outb(&mut chipset, port, value, Nanos::ZERO);
    }
    // Four periods of 1000 clocks.
    let now = Nanos::from_micros(3400);
    chipset.advance(now);
    let mut taken = 0;
    while chipset.intr() {
        assert_eq!(chipset.acknowledge_interrupt(now), 0x30);
        assert!(!chipset.intr(), "in service");
        eoi(&mut chipset, now);
        taken += 1;
    }
    assert_eq!(taken, 4);
}

#[test]
fn time_that_goes_backwards_stands_still() {
    let mut chipset = board();
    for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 0)] {
        outb(&mut chipset, port, value, Nanos::from_secs(1));
    }
    let count = |chipset: &mut Chipset, now| {
        outb(chipset, 0x43, 0, now);
        u16::from_le_bytes([inb(chipset, 0x40, now), inb(chipset, 0x40, now)])
    };
    let forward = count(&mut chipset, Nanos::from_millis(1010));
    assert_eq!(count(&mut chipset, Nanos::from_millis(500)), forward);
}

#[test]
fn whoever_was_last_decides_over_a20() {
    let mut chipset = board();
    let now = Nanos::ZERO;
    assert!(chipset.a20() && !chipset.has_events());
    // SeaBIOS opens it through port 92h; HIMEM closes it through the keyboard controller.
    outb(&mut chipset, 0x92, 2, now);
    assert!(!chipset.has_events());
    outb(&mut chipset, 0x64, 0xdd, now);
    assert_eq!(chipset.take_events(), [ChipsetEvent::A20(false)]);
    assert_eq!(inb(&mut chipset, 0x92, now), 0);
    outb(&mut chipset, 0x92, 2, now);
    assert_eq!(chipset.take_events(), [ChipsetEvent::A20(true)]);
    outb(&mut chipset, 0x64, 0xdf, now);
    outb(&mut chipset, 0x92, 0, now);
    assert_eq!(chipset.take_events(), [ChipsetEvent::A20(false)]);
    outb(&mut chipset, 0x64, 0xdf, now);
    outb(&mut chipset, 0x64, 0xdd, now);
    assert_eq!(chipset.take_events(), [], "nothing has changed in the end");
    let closed = chipset.state();
    chipset.reset(now);
    assert_eq!(chipset.take_events(), [ChipsetEvent::A20(true)]);
    chipset.restore(closed);
    assert!(!chipset.a20());
}

#[test]
fn every_way_to_reset_and_off() {
    let now = Nanos::ZERO;
    let processor = ChipsetEvent::Reset(ResetKind::Processor);
    let system = ChipsetEvent::Reset(ResetKind::System);
    for (port, value, event) in [
        (0x64, 0xfe, processor),
        (0x92, 0x01, processor),
        (0xcf9, 0x06, system),
        (0x605, 0x20, ChipsetEvent::PowerOff),
    ] {
        let mut chipset = board();
        outb(&mut chipset, port, value, now);
        assert!(chipset.has_events());
        let events = chipset.take_events();
        assert!(events.contains(&event), "{port:#x}: {events:?}");
        assert!(!chipset.has_events());
    }
    let mut chipset = board();
    outb(&mut chipset, 0xcf9, 0x06, now);
    chipset.reset(now);
    assert_eq!(chipset.take_events(), [], "a reset drops what was asked");
}

#[test]
fn pci_and_reset_control_share_cf8h() {
    let mut chipset = board();
    let now = Nanos::ZERO;
    chipset.port_write(0xcf8, AccessSize::Dword, 0x8000_0000, now);
    assert_eq!(
        chipset.port_read(0xcfc, AccessSize::Dword, now),
        0x1237_8086
    );
    outb(&mut chipset, 0xcf9, 0x02, now);
    assert_eq!(
        chipset.port_read(0xcf8, AccessSize::Dword, now),
        0x8000_0000
    );
    assert_eq!(inb(&mut chipset, 0xcf9, now), 0x02);
    assert_eq!(inb(&mut chipset, 0xcf8, now), 0xff);
}

#[test]
fn ports_that_nobody_has_float() {
    let mut chipset = board();
    let now = Nanos::ZERO;
    assert_eq!(chipset.port_read(0x1234, AccessSize::Byte, now), 0xff);
    assert_eq!(
        chipset.port_read(0x1f0, AccessSize::Dword, now),
        0xffff_ffff
    );
    chipset.port_write(0x1f0, AccessSize::Word, 0, now);
    let counters = chipset.counters();
    assert_eq!((counters.ports.reads, counters.ports.writes), (2, 1));
    assert_eq!(counters.ports.unclaimed, 1 + 4 + 2);
    assert_eq!(
        chipset.mmio_read(0xfee0_0000, AccessSize::Dword, now),
        0xffff_ffff
    );
}

#[test]
fn serial_line_and_input() {
    #[derive(Clone, Default)]
    struct Tap(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Tap {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let tap = Tap::default();
    let mut chipset = Chipset::new(ChipsetConfig {
        com1: Box::new(tap.clone()),
        ..ChipsetConfig::new()
    })
    .unwrap();
    init_pics(&mut chipset);
    let now = Nanos::ZERO;
    outb(&mut chipset, 0x3fa, 0x01, now);
    outb(&mut chipset, 0x3fc, 0x0b, now);
    outb(&mut chipset, 0x3f9, 0x01, now);
    assert_eq!(chipset.can_accept_serial_input(), 16);
    assert_eq!(chipset.serial_input(b"q"), 1);
    assert_eq!(chipset.acknowledge_interrupt(now), 0x34);
    assert_eq!(inb(&mut chipset, 0x3f8, now), b'q');
    outb(&mut chipset, 0x3f8, b'A', now);
    assert_eq!(*tap.0.lock().unwrap(), b"A");
}

#[test]
fn keyboard_interrupt_comes_through() {
    let mut chipset = board();
    init_pics(&mut chipset);
    assert!(chipset.keyboard_input(&[0x1c], Nanos::ZERO));
    let at = chipset.next_event().unwrap();
    chipset.advance(at);
    assert_eq!(chipset.acknowledge_interrupt(at), 0x31);
    assert_eq!(inb(&mut chipset, 0x60, at), 0x1e);
}

#[test]
fn a_key_released_late_does_not_repeat() {
    let mut chipset = board();
    init_pics(&mut chipset);
    assert!(chipset.keyboard_input(&[0x1c], Nanos::ZERO));
    let at = chipset.next_event().unwrap();
    assert_eq!(inb(&mut chipset, 0x60, at), 0x1e);
    // Its delay is over, and nobody has looked since.
    let late = Nanos::from_secs(1);
    assert!(chipset.keyboard_input(&[0xf0, 0x1c], late));
    let mut now = late;
    let mut read = Vec::new();
    for _ in 0..100 {
        now = now.after(1_000_000);
        if inb(&mut chipset, 0x64, now) & 1 != 0 {
            read.push(inb(&mut chipset, 0x60, now));
        }
    }
    assert_eq!(read, [0x9e]);
}

#[test]
fn power_button_is_a_level_triggered_sci() {
    let mut chipset = board();
    init_pics(&mut chipset);
    let now = Nanos::ZERO;
    outb(&mut chipset, 0x4d1, 0x02, now);
    outb(&mut chipset, 0xb2, 0xf1, now);
    chipset.port_write(0x602, AccessSize::Word, 0x0100, now);
    chipset.press_power_button();
    assert_eq!(chipset.acknowledge_interrupt(now), 0x39);
    eoi(&mut chipset, now);
    assert!(chipset.intr(), "the cause is still there");
    chipset.port_write(0x600, AccessSize::Word, 0x0100, now);
    assert!(!chipset.intr());
}

struct Extra {
    irq: Line,
    byte: u8,
    due: Option<Nanos>,
}

impl PortDevice for Extra {
    fn port_read(&mut self, _port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        u32::from(self.byte)
    }
    fn port_write(&mut self, _port: u16, _size: AccessSize, value: u32, now: Nanos) {
        self.byte = value as u8;
        self.due = Some(now.after(1000));
    }
}

impl MmioDevice for Extra {
    fn mmio_read(&mut self, offset: u64, _size: AccessSize, _now: Nanos) -> u32 {
        offset as u32
    }
    fn mmio_write(&mut self, _offset: u64, _size: AccessSize, value: u32, _now: Nanos) {
        self.byte = value as u8;
    }
}

impl Device for Extra {
    fn as_port(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }
    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }
    fn advance(&mut self, now: Nanos) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.irq.edge();
        }
    }
    fn next_event(&self) -> Option<Nanos> {
        self.due
    }
    fn reset(&mut self, _now: Nanos) {
        self.byte = 0;
    }
}

#[test]
fn a_device_from_outside_has_ports_memory_time_and_a_wire() {
    let mut chipset = board();
    init_pics(&mut chipset);
    let extra = |chipset: &Chipset| {
        Box::new(Extra {
            irq: chipset.irq_line(11),
            byte: 0,
            due: None,
        })
    };
    let claims = Claims {
        ports: vec![(0x300..=0x303, AccessSize::Byte)],
        memory: vec![(0xd_0000..=0xd_0fff, AccessSize::Dword)],
    };
    let device = extra(&chipset);
    chipset.add_device(device, &claims).unwrap();
    outb(&mut chipset, 0x300, 0x42, Nanos::ZERO);
    assert_eq!(inb(&mut chipset, 0x303, Nanos::ZERO), 0x42);
    assert_eq!(
        chipset.mmio_read(0xd_0010, AccessSize::Dword, Nanos::ZERO),
        0x10
    );
    assert_eq!(chipset.next_event(), Some(Nanos(1000)));
    chipset.advance(Nanos(1000));
    assert_eq!(chipset.acknowledge_interrupt(Nanos(1000)), 0x3b);
    // A conflict takes everything back.
    let clash = Claims {
        ports: vec![
            (0x310..=0x310, AccessSize::Byte),
            (0x3f8..=0x3f8, AccessSize::Byte),
        ],
        memory: vec![],
    };
    let device = extra(&chipset);
    assert!(chipset.add_device(device, &clash).is_err());
    let again = Claims {
        ports: vec![(0x310..=0x310, AccessSize::Byte)],
        memory: vec![],
    };
    let device = extra(&chipset);
    chipset.add_device(device, &again).unwrap();
    chipset.reset(Nanos(2000));
    assert_eq!(inb(&mut chipset, 0x300, Nanos(2000)), 0);
}

#[test]
fn a_snapshot_brings_everything_back() {
    let mut chipset = board();
    init_pics(&mut chipset);
    let mut random = Random::new(3);
    let mut now = Nanos::ZERO;
    for _ in 0..20_000 {
        now = now.after(random.below(30_000));
        let port = PORTS[random.below(PORTS.len() as u64) as usize];
        outb(&mut chipset, port, random.next() as u8, now);
    }
    chipset.take_events();
    let saved = chipset.state();
    let (deadline, intr) = (chipset.next_event(), chipset.intr());
    chipset.reset(now);
    assert_ne!(chipset.state(), saved);
    chipset.restore(saved.clone());
    assert_eq!(chipset.state(), saved);
    assert_eq!((chipset.next_event(), chipset.intr()), (deadline, intr));
}

const PORTS: [u16; 24] = [
    0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xf0,
    0x3f8, 0x3f9, 0x3fa, 0x3fc, 0x4d0, 0x4d1, 0x602, 0xb2, 0xcf9,
];

#[test]
fn random_accesses_with_time_in_any_order_do_not_panic() {
    for seed in 0..3 {
        let mut chipset = board();
        let mut random = Random::new(seed);
        let mut now = Nanos::ZERO;
        for _ in 0..100_000 {
            let at = random.time_near(now);
            now = at.min(Nanos::from_secs(100_000));
            let size =
                [AccessSize::Byte, AccessSize::Word, AccessSize::Dword][random.below(3) as usize];
            let port = if random.below(4) == 0 {
                random.next() as u16
            } else {
                PORTS[random.below(PORTS.len() as u64) as usize]
            };
            match random.below(12) {
                0..5 => {
                    let value = chipset.port_read(port, size, at);
                    assert_eq!(value & !size.ones(), 0);
                }
                5..10 => chipset.port_write(port, size, random.next() as u32, at),
                10 => chipset.advance(at),
                _ => {
                    chipset.serial_input(b"x");
                    chipset.keyboard_input(&[0x1c], at);
                }
            }
            if chipset.intr() {
                let spurious = chipset.counters().spurious;
                chipset.acknowledge_interrupt(at);
                assert_eq!(chipset.counters().spurious, spurious);
            }
            chipset.take_events();
        }
    }
}

#[test]
fn ports_61h_and_70h_stand_between_a_source_and_the_nmi_wire() {
    let mut chipset = board();
    let now = Nanos::ZERO;
    let nmis = |chipset: &mut Chipset| {
        let events = chipset.take_events();
        events.iter().filter(|e| **e == ChipsetEvent::Nmi).count()
    };
    // Disabled at port 61h: nothing is noted.
    outb(&mut chipset, 0x61, 0x0c, now);
    chipset.nmi_source(NmiSource::IoChannelCheck);
    chipset.nmi_source(NmiSource::SystemError);
    assert_eq!(inb(&mut chipset, 0x61, now) & 0xc0, 0);
    // Masked at port 70h: noted, and told when the mask goes.
    outb(&mut chipset, 0x61, 0, now);
    outb(&mut chipset, 0x70, 0x8f, now);
    chipset.nmi_source(NmiSource::IoChannelCheck);
    assert_eq!(inb(&mut chipset, 0x61, now) & 0xc0, 0x40);
    assert_eq!(nmis(&mut chipset), 0);
    outb(&mut chipset, 0x70, 0x0f, now);
    assert_eq!(nmis(&mut chipset), 1);
    // The wire is high: a second source makes no edge.
    chipset.nmi_source(NmiSource::SystemError);
    assert_eq!(nmis(&mut chipset), 0);
    assert_eq!(inb(&mut chipset, 0x61, now) & 0xc0, 0xc0);
    // Disabling clears; port 70h can make a new edge of what is left.
    outb(&mut chipset, 0x61, 0x08, now);
    assert_eq!(inb(&mut chipset, 0x61, now) & 0xc0, 0x80);
    outb(&mut chipset, 0x70, 0x80, now);
    outb(&mut chipset, 0x70, 0x00, now);
    assert_eq!(nmis(&mut chipset), 1);
    outb(&mut chipset, 0x61, 0x0c, now);
    outb(&mut chipset, 0x61, 0x00, now);
    assert_eq!(inb(&mut chipset, 0x61, now) & 0xc0, 0);
    chipset.nmi_source(NmiSource::SystemError);
    assert_eq!(nmis(&mut chipset), 1);
}

/// Writes a register of a PCI function as software does.
fn write_config(chipset: &mut Chipset, address: u32, size: AccessSize, value: u32) {
    let now = Nanos::ZERO;
    chipset.port_write(0xcf8, AccessSize::Dword, 1 << 31 | address & !3, now);
    chipset.port_write(0xcfc + (address & 3) as u16, size, value, now);
}

const POWER_MANAGEMENT: u32 = 1 << 11 | 3 << 8;

fn board_with_firmware() -> Chipset {
    Chipset::new(ChipsetConfig {
        firmware: Some(FwCfgItems::new()),
        ..ChipsetConfig::new()
    })
    .unwrap()
}

#[test]
fn power_management_registers_are_where_the_firmware_puts_them() {
    let now = Nanos::from_secs(1);
    let timer = |chipset: &mut Chipset, base: u16| {
        chipset.port_read(base + 8, AccessSize::Dword, now) != 0xffff_ffff
    };
    let mut plain = Chipset::new(ChipsetConfig::new()).unwrap();
    assert!(timer(&mut plain, 0x600), "as firmware would leave it");
    let mut chipset = board_with_firmware();
    assert!(!timer(&mut chipset, 0x600));
    write_config(
        &mut chipset,
        POWER_MANAGEMENT | 0x40,
        AccessSize::Dword,
        0xb001,
    );
    write_config(&mut chipset, POWER_MANAGEMENT | 0x80, AccessSize::Byte, 1);
    assert!(timer(&mut chipset, 0xb000));
    // Over the serial port, which keeps its ports, and to a free place again.
    write_config(
        &mut chipset,
        POWER_MANAGEMENT | 0x40,
        AccessSize::Dword,
        0x3c1,
    );
    assert_eq!(chipset.port_read(0x3fd, AccessSize::Byte, now), 0x60);
    write_config(
        &mut chipset,
        POWER_MANAGEMENT | 0x40,
        AccessSize::Dword,
        0x601,
    );
    assert!(timer(&mut chipset, 0x600) && !timer(&mut chipset, 0xb000));
    chipset.port_write(0x604, AccessSize::Word, 0x2000, now);
    assert_eq!(chipset.take_events(), [ChipsetEvent::PowerOff]);
    chipset.reset(now);
    assert!(!timer(&mut chipset, 0x600));
}

#[test]
fn pam_is_reported_when_it_changes() {
    let mut chipset = board_with_firmware();
    write_config(&mut chipset, 0x59, AccessSize::Byte, 0x30);
    assert_eq!(chipset.take_events(), [ChipsetEvent::Pam]);
    assert_eq!(chipset.pam()[0], 0x30);
    write_config(&mut chipset, 0x59, AccessSize::Byte, 0x30);
    assert!(!chipset.has_events(), "no change");
    chipset.reset(Nanos::ZERO);
    assert_eq!(chipset.take_events(), [ChipsetEvent::Pam]);
    assert_eq!(chipset.pam(), [0; 7]);
}

#[test]
fn a_reset_of_the_processor_opens_a20_and_leaves_the_rest() {
    let mut chipset = board_with_firmware();
    let now = Nanos::ZERO;
    write_config(&mut chipset, 0x59, AccessSize::Byte, 0x30);
    chipset.port_write(0x64, AccessSize::Byte, 0xd1, now);
    chipset.port_write(0x60, AccessSize::Byte, 0xdd, now);
    assert!(!chipset.a20());
    chipset.take_events();
    chipset.processor_reset();
    assert_eq!(chipset.take_events(), [ChipsetEvent::A20(true)]);
    assert_eq!(chipset.pam()[0], 0x30);
}

#[test]
fn a_board_without_firmware_has_no_configuration_device() {
    let mut chipset = Chipset::new(ChipsetConfig::new()).unwrap();
    for port in [0x402, 0x511] {
        assert_eq!(chipset.port_read(port, AccessSize::Byte, Nanos::ZERO), 0xff);
    }
    let mut chipset = board_with_firmware();
    chipset.port_write(0x510, AccessSize::Word, 0, Nanos::ZERO);
    let first = chipset.port_read(0x511, AccessSize::Byte, Nanos::ZERO);
    assert_eq!(first, u32::from(b'Q'));
    chipset.port_write(0x518, AccessSize::Dword, 0, Nanos::ZERO);
    assert_eq!(chipset.take_events(), [ChipsetEvent::Dma]);
}

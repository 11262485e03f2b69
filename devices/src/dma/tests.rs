use super::*;
use crate::memory::NoMemory;
use crate::testing::{Random, fuzz_ports};

/// 64 KiB of memory somewhere; the rest is not there.
struct Memory {
    start: u64,
    bytes: Vec<u8>,
}

impl Memory {
    fn new(start: u64) -> Self {
        Self {
            start,
            bytes: vec![0; 0x1_0000],
        }
    }

    fn part(&mut self, address: u64, length: usize) -> Result<&mut [u8], NoMemory> {
        let start = address.checked_sub(self.start).map(|start| start as usize);
        start
            .and_then(|start| self.bytes.get_mut(start..start + length))
            .ok_or(NoMemory { address })
    }
}

impl GuestMemory for Memory {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory> {
        data.copy_from_slice(self.part(address, data.len())?);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory> {
        self.part(address, data.len())?.copy_from_slice(data);
        Ok(())
    }
}

/// A device that gives 1, 2, 3... and remembers what it was given.
struct Counter {
    wants: usize,
    next: u8,
    taken: Vec<u8>,
    terminal: bool,
}

impl Counter {
    fn new(wants: usize) -> Self {
        Self {
            wants,
            next: 1,
            taken: Vec::new(),
            terminal: false,
        }
    }
}

impl DmaDevice for Counter {
    fn pending(&self) -> usize {
        self.wants
    }

    fn read(&mut self, data: &mut [u8]) {
        self.wants -= data.len();
        for byte in data {
            *byte = self.next;
            self.next = self.next.wrapping_add(1);
        }
    }

    fn write(&mut self, data: &[u8]) {
        self.wants -= data.len();
        self.taken.extend(data);
    }

    fn served(&mut self, terminal_count: bool, _now: Nanos) {
        self.terminal = terminal_count;
    }
}

fn outb(dma: &mut Dma, port: u16, value: u8) {
    dma.port_write(port, AccessSize::Byte, u32::from(value), Nanos::ZERO);
}

fn inb(dma: &mut Dma, port: u16) -> u8 {
    dma.port_read(port, AccessSize::Byte, Nanos::ZERO) as u8
}

/// Channel 2 as a floppy driver sets it up. `mode` without the channel.
fn program(dma: &mut Dma, mode: Mode, page: u8, address: u16, count: u16) {
    outb(dma, 0x0a, 0x06);
    outb(dma, 0x0c, 0);
    outb(dma, 0x0b, mode.bits() | 2);
    for (port, value) in [(0x04, address), (0x05, count)] {
        outb(dma, port, value as u8);
        outb(dma, port, (value >> 8) as u8);
    }
    outb(dma, 0x81, page);
    outb(dma, 0x0a, 0x02);
}

fn serve(dma: &mut Dma, device: &mut Counter, memory: &mut Memory) -> bool {
    match dma.next_channel() {
        Some(channel) => dma.transfer(channel, Some(device), memory, Nanos::ZERO),
        None => false,
    }
}

#[test]
fn a_device_writes_to_memory_until_terminal_count() {
    let (mut dma, mut memory) = (Dma::new(), Memory::new(0x12_0000));
    program(&mut dma, Mode::WRITE | Mode::SINGLE, 0x12, 0x3000, 5);
    let mut line = dma.dreq_line(2);
    assert_eq!(dma.next_channel(), None, "no request");
    line.set(true);
    let mut device = Counter::new(4);
    assert!(serve(&mut dma, &mut device, &mut memory));
    assert!(!device.terminal);
    device.wants = 100;
    assert!(serve(&mut dma, &mut device, &mut memory));
    assert!(device.terminal);
    assert_eq!(device.wants, 98, "count + 1 bytes in all");
    assert_eq!(memory.bytes[0x2fff..0x3007], [0, 1, 2, 3, 4, 5, 6, 0]);
    assert_eq!(dma.next_channel(), None, "masked by terminal count");
    assert_eq!(inb(&mut dma, 0x08), 0x44, "request and terminal count");
    assert_eq!(inb(&mut dma, 0x08), 0x40, "a read clears the latter");
    outb(&mut dma, 0x0c, 0);
    assert_eq!([inb(&mut dma, 4), inb(&mut dma, 4)], [0x06, 0x30]);
    assert_eq!([inb(&mut dma, 5), inb(&mut dma, 5)], [0xff, 0xff]);
}

#[test]
fn memory_is_read_for_a_device() {
    let (mut dma, mut memory) = (Dma::new(), Memory::new(0));
    memory.bytes[0x100..0x104].copy_from_slice(&[7, 8, 9, 10]);
    program(&mut dma, Mode::READ | Mode::SINGLE, 0, 0x100, 3);
    let mut line = dma.dreq_line(2);
    line.set(true);
    let mut device = Counter::new(512);
    assert!(serve(&mut dma, &mut device, &mut memory));
    assert_eq!(
        (device.taken.as_slice(), device.terminal),
        (&[7, 8, 9, 10][..], true)
    );
}

#[test]
fn a_verify_transfer_and_an_illegal_one_touch_no_memory() {
    for mode in [Mode::SINGLE, Mode::SINGLE | Mode::READ | Mode::WRITE] {
        let (mut dma, mut memory) = (Dma::new(), Memory::new(0));
        program(&mut dma, mode, 0, 0, 7);
        let mut line = dma.dreq_line(2);
        line.set(true);
        let mut device = Counter::new(8);
        assert!(serve(&mut dma, &mut device, &mut memory));
        assert_eq!((device.wants, device.terminal), (0, true));
        assert!(memory.bytes.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn auto_initialization_starts_again() {
    let (mut dma, mut memory) = (Dma::new(), Memory::new(0));
    let mode = Mode::WRITE | Mode::SINGLE | Mode::AUTO_INIT;
    program(&mut dma, mode, 0, 0x10, 1);
    let mut line = dma.dreq_line(2);
    line.set(true);
    let mut device = Counter::new(4);
    for _ in 0..2 {
        assert!(serve(&mut dma, &mut device, &mut memory));
        assert!(device.terminal);
    }
    assert_eq!(memory.bytes[0x10..0x13], [3, 4, 0]);
    assert_eq!(dma.next_channel(), Some(2), "not masked");
}

#[test]
fn the_address_goes_down_if_told_so() {
    let (mut dma, mut memory) = (Dma::new(), Memory::new(0));
    let mode = Mode::WRITE | Mode::DECREMENT;
    program(&mut dma, mode, 0, 0x12, 2);
    let mut line = dma.dreq_line(2);
    line.set(true);
    assert!(serve(&mut dma, &mut Counter::new(3), &mut memory));
    assert_eq!(memory.bytes[0x0f..0x14], [0, 3, 2, 1, 0]);
}

#[test]
fn addresses_wrap_within_their_64_kib() {
    let (mut dma, mut memory) = (Dma::new(), Memory::new(0x5_0000));
    program(&mut dma, Mode::WRITE | Mode::SINGLE, 5, 0xfffe, 3);
    let mut line = dma.dreq_line(2);
    line.set(true);
    assert!(serve(&mut dma, &mut Counter::new(4), &mut memory));
    assert_eq!(memory.bytes[0xfffe..], [1, 2]);
    assert_eq!(memory.bytes[..3], [3, 4, 0], "and not the page after it");

    program(
        &mut dma,
        Mode::WRITE | Mode::SINGLE | Mode::DECREMENT,
        5,
        1,
        3,
    );
    assert!(serve(&mut dma, &mut Counter::new(4), &mut memory));
    assert_eq!(
        (memory.bytes[..2].to_vec(), memory.bytes[0xfffe..].to_vec()),
        (vec![2, 1], vec![4, 3])
    );
}

#[test]
fn what_is_no_memory_is_survived() {
    let (mut dma, mut memory) = (Dma::new(), Memory::new(0));
    program(&mut dma, Mode::WRITE | Mode::SINGLE, 0xff, 0xfff0, 0xffff);
    let mut line = dma.dreq_line(2);
    line.set(true);
    let mut device = Counter::new(0x1_0000);
    assert!(serve(&mut dma, &mut device, &mut memory));
    assert!(device.terminal, "65,536 transfers");
    program(&mut dma, Mode::READ | Mode::SINGLE, 0xff, 0, 3);
    let mut device = Counter::new(4);
    assert!(serve(&mut dma, &mut device, &mut memory));
    assert_eq!(device.taken, [0xff; 4]);
}

#[test]
fn words_go_through_the_second_controller() {
    let (mut dma, mut memory) = (Dma::new(), Memory::new(0x6_0000));
    outb(&mut dma, 0xd8, 0);
    outb(&mut dma, 0xd6, (Mode::WRITE | Mode::SINGLE).bits() | 1);
    // Word address 8010h of page 7: bit 0 of the page is not used, so 060000h + 10020h.
    for (port, value) in [
        (0xc4, 0x10),
        (0xc4, 0x80),
        (0xc6, 1),
        (0xc6, 0),
        (0x8b, 7),
        (0xd4, 1),
    ] {
        outb(&mut dma, port, value);
    }
    let mut line = dma.dreq_line(5);
    line.set(true);
    let mut memory_high = Memory::new(0x7_0000);
    let mut device = Counter::new(5);
    assert!(serve(&mut dma, &mut device, &mut memory_high));
    assert_eq!((device.wants, device.terminal), (1, true), "two words");
    assert_eq!(memory_high.bytes[0x20..0x25], [1, 2, 3, 4, 0]);
    assert_eq!(inb(&mut dma, 0xd0) & 0x22, 0x22);

    // Downwards words keep their byte order.
    outb(
        &mut dma,
        0xd6,
        (Mode::WRITE | Mode::SINGLE | Mode::DECREMENT).bits() | 1,
    );
    for (port, value) in [(0xc4, 0x08), (0xc4, 0), (0xc6, 1), (0xc6, 0), (0xd4, 1)] {
        outb(&mut dma, port, value);
    }
    assert!(serve(&mut dma, &mut Counter::new(4), &mut memory));
    assert_eq!(memory.bytes[0x0e..0x12], [3, 4, 1, 2]);
}

#[test]
fn masks_disable_and_cascade_hold_requests_back() {
    let mut dma = Dma::new();
    program(&mut dma, Mode::WRITE | Mode::SINGLE, 0, 0, 0);
    let mut line = dma.dreq_line(2);
    line.set(true);
    assert_eq!(dma.next_channel(), Some(2));
    for (port, hold, free) in [
        (0x0a, 0x06, 0x02),
        (0x0f, 0x0f, 0x0b),
        (0x08, 0x04, 0x00),
        // The second controller lets the first through on channel 4.
        (0xd4, 0x04, 0x00),
        (0xd0, 0x04, 0x00),
        // A channel in cascade mode belongs to a bus master.
        (0x0b, 0xc2, 0x46),
    ] {
        outb(&mut dma, port, hold);
        assert_eq!(dma.next_channel(), None, "{port:#x}");
        outb(&mut dma, port, free);
        assert_eq!(dma.next_channel(), Some(2), "{port:#x}");
    }
    assert_eq!(inb(&mut dma, 0x0f), 0xfb, "masks can be read back");
    outb(&mut dma, 0x0d, 0);
    assert_eq!(dma.next_channel(), None, "a master clear masks all");
    outb(&mut dma, 0x0e, 0);
    assert_eq!(dma.next_channel(), Some(2));
}

#[test]
fn the_flip_flop_is_shared_and_cleared() {
    let mut dma = Dma::new();
    outb(&mut dma, 0x00, 0x34);
    outb(&mut dma, 0x03, 0x12);
    outb(&mut dma, 0x0c, 0xff);
    assert_eq!([inb(&mut dma, 0), inb(&mut dma, 0)], [0x34, 0]);
    assert_eq!([inb(&mut dma, 3), inb(&mut dma, 3)], [0, 0x12]);
    outb(&mut dma, 0x00, 0x78);
    outb(&mut dma, 0x0d, 0);
    assert_eq!(inb(&mut dma, 0), 0x78, "a master clear clears it too");
}

#[test]
fn software_requests_need_block_mode_and_no_unmasking() {
    let (mut dma, mut memory) = (Dma::new(), Memory::new(0));
    program(&mut dma, Mode::WRITE | Mode::SINGLE, 0, 0x20, 2);
    outb(&mut dma, 0x09, 0x06);
    assert_eq!(dma.next_channel(), None);
    assert_eq!(inb(&mut dma, 0x08), 0x40);
    outb(&mut dma, 0x0b, (Mode::WRITE | Mode::BLOCK).bits() | 2);
    outb(&mut dma, 0x0a, 0x06);
    assert_eq!(dma.next_channel(), Some(2));
    let mut device = Counter::new(1);
    assert!(serve(&mut dma, &mut device, &mut memory));
    assert_eq!(device.wants, 1, "the device has not asked");
    assert_eq!(memory.bytes[0x1f..0x24], [0, 0xff, 0xff, 0xff, 0]);
    assert_eq!(dma.next_channel(), None, "terminal count ends the request");
}

#[test]
fn page_registers_keep_what_is_written() {
    let mut dma = Dma::new();
    for port in 0x81..=0x8f {
        outb(&mut dma, port, port as u8);
    }
    for port in 0x81..=0x8f {
        assert_eq!(inb(&mut dma, port), port as u8);
    }
}

#[test]
fn random_accesses_do_not_panic() {
    let ports: Vec<u16> = (0..=0x0f).chain(0x81..=0x8f).chain(0xc0..=0xdf).collect();
    for seed in 0..4 {
        let mut random = Random::new(seed + 7);
        let mut dma = Dma::new();
        let mut lines: Vec<Line> = (0..8).map(|channel| dma.dreq_line(channel)).collect();
        let mut memory = Memory::new(0x4_0000);
        fuzz_ports(seed, &mut dma, &ports, AccessSize::Byte, |dma, now| {
            let line = &mut lines[random.below(8) as usize];
            line.set(random.below(2) == 0);
            if let Some(channel) = dma.next_channel() {
                let mut device = Counter::new(random.below(1025) as usize);
                let device: Option<&mut dyn DmaDevice> = match random.below(4) {
                    0 => None,
                    _ => Some(&mut device),
                };
                dma.transfer(channel, device, &mut memory, now);
            }
        });
        let saved = dma.state().clone();
        dma.restore(saved.clone());
        assert_eq!(*dma.state(), saved);
    }
}

use super::*;
use crate::memory::NoMemory;
use crate::testing::fuzz_ports;

/// 64 KiB of memory.
struct Memory(Vec<u8>);

impl GuestMemory for Memory {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory> {
        let at = address as usize;
        let from = self.0.get(at..at.saturating_add(data.len()));
        data.copy_from_slice(from.ok_or(NoMemory { address })?);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory> {
        let at = address as usize;
        let to = self.0.get_mut(at..at.saturating_add(data.len()));
        to.ok_or(NoMemory { address })?.copy_from_slice(data);
        Ok(())
    }
}

fn device() -> (FwCfg, EventSink) {
    let events = EventSink::new();
    let mut items = FwCfgItems::new();
    items.add_file("etc/a", b"first".to_vec()).unwrap();
    items.add_file("etc/b", vec![7; 300]).unwrap();
    (FwCfg::new(items, events.clone()), events)
}

fn select(device: &mut FwCfg, key: u16) {
    device.port_write(SELECTOR, AccessSize::Word, key.into(), Nanos::ZERO);
}

fn bytes(device: &mut FwCfg, count: usize) -> Vec<u8> {
    (0..count)
        .map(|_| device.port_read(DATA, AccessSize::Byte, Nanos::ZERO) as u8)
        .collect()
}

/// Puts a descriptor at 100h, starts it and returns its control field afterwards.
fn run(device: &mut FwCfg, memory: &mut Memory, control: u32, length: u32, address: u64) -> u32 {
    let descriptor = [
        &control.to_be_bytes()[..],
        &length.to_be_bytes(),
        &address.to_be_bytes(),
    ];
    memory.0[0x100..0x110].copy_from_slice(&descriptor.concat());
    device.port_write(DMA_HIGH, AccessSize::Dword, 0, Nanos::ZERO);
    let low = 0x100u32.swap_bytes();
    device.port_write(DMA_LOW, AccessSize::Dword, low, Nanos::ZERO);
    device.transfer(memory);
    u32::from_be_bytes(memory.0[0x100..0x104].try_into().unwrap())
}

#[test]
fn a_firmware_finds_signature_features_and_files() {
    let (mut device, _) = device();
    select(&mut device, key::SIGNATURE);
    assert_eq!(bytes(&mut device, 6), b"QEMU\0\0", "zeros after the end");
    select(&mut device, key::ID);
    assert_eq!(bytes(&mut device, 4), [3, 0, 0, 0]);
    select(&mut device, key::FILE_DIRECTORY);
    assert_eq!(bytes(&mut device, 4), [0, 0, 0, 2], "big-endian");
    let entry = bytes(&mut device, ENTRY_LEN);
    assert_eq!(&entry[..8], &[0, 0, 0, 5, 0, 0x20, 0, 0]);
    assert_eq!(&entry[8..14], b"etc/a\0");
    let entry = bytes(&mut device, ENTRY_LEN);
    assert_eq!(&entry[..8], &[0, 0, 1, 44, 0, 0x21, 0, 0]);
    select(&mut device, 0x20);
    assert_eq!(bytes(&mut device, 2), b"fi");
    select(&mut device, 0x20);
    assert_eq!(bytes(&mut device, 5), b"first", "from the start again");
    select(&mut device, 0x7777);
    assert_eq!(bytes(&mut device, 2), [0, 0], "no such item");
}

#[test]
fn dma_selects_skips_and_reads() {
    let (mut device, events) = device();
    let mut memory = Memory(vec![0xee; 1 << 16]);
    let control = 0x20 << 16 | (Control::SELECT | Control::READ).bits();
    assert_eq!(run(&mut device, &mut memory, control, 7, 0x200), 0);
    assert!(events.is_raised());
    assert_eq!(&memory.0[0x200..0x208], b"first\0\0\xee");
    let control = 0x20 << 16 | (Control::SELECT | Control::SKIP).bits();
    assert_eq!(run(&mut device, &mut memory, control, 2, 0), 0);
    let read = Control::READ.bits();
    assert_eq!(run(&mut device, &mut memory, read, 3, 0x300), 0);
    assert_eq!(&memory.0[0x300..0x303], b"rst");
    let signature = [DMA_HIGH, DMA_LOW].map(|port| {
        let value = device.port_read(port, AccessSize::Dword, Nanos::ZERO);
        value.to_le_bytes()
    });
    assert_eq!(signature.concat(), b"QEMU CFG");
}

#[test]
fn a_transfer_that_cannot_be_made_is_an_error() {
    let (mut device, _) = device();
    let mut memory = Memory(vec![0; 1 << 16]);
    let error = Control::ERROR.bits();
    let read = 0x21 << 16 | (Control::SELECT | Control::READ).bits();
    let write = 0x21 << 16 | (Control::SELECT | Control::WRITE).bits();
    assert_eq!(run(&mut device, &mut memory, read, 300, 0xffff), error);
    assert_eq!(run(&mut device, &mut memory, read, 4, u64::MAX - 2), error);
    assert_eq!(run(&mut device, &mut memory, read, u32::MAX, 0), error);
    assert_eq!(run(&mut device, &mut memory, write, 4, 0x200), error);
    // A descriptor outside of memory: nobody can be told.
    device.port_write(DMA_LOW, AccessSize::Dword, 0xffff_ffff, Nanos::ZERO);
    device.transfer(&mut memory);
    assert_eq!(device.state().pending, None);
}

#[test]
fn names_are_checked() {
    let mut items = FwCfgItems::new();
    items.add_file("x", vec![1]).unwrap();
    assert_eq!(items.file("x"), Some([1].as_slice()));
    assert_eq!(items.file("y"), None);
    let exists = FwCfgError::Exists("x".into());
    assert_eq!(items.add_file("x", vec![]), Err(exists));
    assert!(items.add_file(&"n".repeat(55), vec![]).is_ok());
    assert!(items.add_file(&"n".repeat(56), vec![]).is_err());
    assert!(items.add_file("a\0b", vec![]).is_err());
}

#[test]
fn random_accesses_do_not_panic() {
    let (mut device, _) = device();
    let ports = [SELECTOR, DATA, DMA_HIGH, DMA_LOW];
    let mut memory = Memory(vec![0x5a; 1 << 16]);
    fuzz_ports(1, &mut device, &ports, AccessSize::Dword, |device, _| {
        device.transfer(&mut memory);
    });
}

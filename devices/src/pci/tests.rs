use super::*;
use crate::pic::Pic;
use crate::testing::fuzz_ports;

const NOW: Nanos = Nanos::ZERO;

fn bus() -> PciHost {
    PciHost::new(IsaBridge::new(&Pic::new()), PowerManagement::new(None))
}

fn select(pci: &mut PciHost, device: u8, function: u8, offset: u8) {
    let address = ENABLE | u32::from(device) << 11 | u32::from(function) << 8 | u32::from(offset);
    pci.port_write(CONFIG_ADDRESS, AccessSize::Dword, address, NOW);
}

struct Plain(ConfigSpace);

impl PciDevice for Plain {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.0.read(offset)
    }
    fn config_write(&mut self, offset: u8, value: u32, mask: u32) {
        self.0.write(offset, value, mask);
    }
    fn reset(&mut self) {}
}

#[test]
fn linux_detects_mechanism_1() {
    // pci_check_type1(): a byte to CFBh, then CONFIG_ADDRESS must hold 80000000h.
    let mut pci = bus();
    pci.port_write(0xcfb, AccessSize::Byte, 1, NOW);
    let before = pci.port_read(CONFIG_ADDRESS, AccessSize::Dword, NOW);
    assert_eq!(before, 0);
    pci.port_write(CONFIG_ADDRESS, AccessSize::Dword, 0x8000_0000, NOW);
    assert_eq!(
        pci.port_read(CONFIG_ADDRESS, AccessSize::Dword, NOW),
        0x8000_0000
    );
    // pci_sanity_check(): a host bridge at bus 0.
    select(&mut pci, 0, 0, 0x08);
    assert_eq!(pci.port_read(0xcfe, AccessSize::Word, NOW), 0x0600);
    select(&mut pci, 0, 0, 0x00);
    assert_eq!(pci.port_read(0xcfc, AccessSize::Dword, NOW), 0x1237_8086);
    assert_eq!(pci.port_read(0xcfd, AccessSize::Byte, NOW) & 0xff, 0x80);
}

#[test]
fn the_rest_of_the_bus_is_empty() {
    let mut pci = bus();
    for device in 0..32 {
        for function in 0..8 {
            if [(0, 0), (1, 0), (1, 3)].contains(&(device, function)) {
                continue;
            }
            select(&mut pci, device, function, 0);
            let id = pci.port_read(CONFIG_DATA, AccessSize::Dword, NOW);
            assert_eq!(id, 0xffff_ffff, "{device}.{function}");
            pci.port_write(CONFIG_DATA, AccessSize::Dword, 0, NOW);
        }
    }
    pci.port_write(CONFIG_ADDRESS, AccessSize::Dword, 0x8001_0000, NOW);
    assert_eq!(
        pci.port_read(CONFIG_DATA, AccessSize::Dword, NOW),
        0xffff_ffff,
        "bus 1"
    );
}

#[test]
fn data_is_closed_without_the_enable_bit() {
    let mut pci = bus();
    pci.port_write(CONFIG_ADDRESS, AccessSize::Dword, 0, NOW);
    assert_eq!(
        pci.port_read(CONFIG_DATA, AccessSize::Dword, NOW),
        0xffff_ffff
    );
    pci.port_write(CONFIG_ADDRESS, AccessSize::Dword, 0xffff_ffff, NOW);
    assert_eq!(
        pci.port_read(CONFIG_ADDRESS, AccessSize::Dword, NOW),
        ADDRESS_MASK
    );
}

#[test]
fn bytes_and_words_reach_their_part_of_the_register() {
    let mut pci = bus();
    select(&mut pci, 0, 0, 0x58);
    pci.port_write(CONFIG_DATA + 1, AccessSize::Byte, 0xff, NOW);
    pci.port_write(CONFIG_DATA + 2, AccessSize::Word, 0x1121, NOW);
    assert_eq!(pci.host_bridge().pam(), [0x30, 0x21, 0x11, 0, 0, 0, 0]);
    select(&mut pci, 0, 0, 0x04);
    pci.port_write(CONFIG_DATA, AccessSize::Dword, 0, NOW);
    assert_eq!(
        pci.port_read(CONFIG_DATA, AccessSize::Word, NOW) & 0xffff,
        0x0006,
        "memory and bus master cannot be switched off"
    );
    let saved = pci.state();
    pci.reset();
    assert_eq!(pci.host_bridge().pam(), [0; 7]);
    pci.restore(saved.clone());
    assert_eq!(pci.state(), saved);
}

#[test]
fn functions_can_be_added_once() {
    let mut pci = bus();
    let plain = || Box::new(Plain(ConfigSpace::new().with(0, 0x1000_1af4, 0, 0)));
    pci.add(Bdf::root(3, 0), plain()).unwrap();
    assert!(pci.add(Bdf::root(3, 0), plain()).is_err());
    for taken in [Bdf::root(0, 0), Bdf::root(1, 0), Bdf::root(1, 3)] {
        assert!(pci.add(taken, plain()).is_err());
    }
    select(&mut pci, 3, 0, 0);
    assert_eq!(
        pci.port_read(CONFIG_DATA, AccessSize::Dword, NOW),
        0x1000_1af4
    );
}

#[test]
fn random_accesses_do_not_panic() {
    let mut pci = bus();
    let ports = [0xcf8, 0xcf9, 0xcfa, 0xcfb, 0xcfc, 0xcfd, 0xcfe, 0xcff];
    for seed in 0..4 {
        fuzz_ports(seed, &mut pci, &ports, AccessSize::Dword, |_, _| {});
    }
    select(&mut pci, 0, 0, 0);
    assert_eq!(
        pci.port_read(CONFIG_DATA, AccessSize::Dword, NOW),
        0x1237_8086
    );
}

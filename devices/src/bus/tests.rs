use super::*;

/// Records what reaches it; reads give the low byte of the address and the width.
#[derive(Default)]
struct Probe {
    log: Vec<(u64, u8, Option<u32>)>,
}

impl PortDevice for Probe {
    fn port_read(&mut self, port: u16, size: AccessSize, _now: Nanos) -> u32 {
        self.log.push((u64::from(port), size.bytes(), None));
        u32::from(port) & 0xff | u32::from(size.bytes()) << 24 | 0xff00_0000
    }
    fn port_write(&mut self, port: u16, size: AccessSize, value: u32, _now: Nanos) {
        self.log.push((u64::from(port), size.bytes(), Some(value)));
    }
}

impl MmioDevice for Probe {
    fn mmio_read(&mut self, offset: u64, size: AccessSize, _now: Nanos) -> u32 {
        self.log.push((offset, size.bytes(), None));
        offset as u32
    }
    fn mmio_write(&mut self, offset: u64, size: AccessSize, value: u32, _now: Nanos) {
        self.log.push((offset, size.bytes(), Some(value)));
    }
}

#[derive(Default)]
struct Probes([Probe; 2]);

impl PortDevices for Probes {
    fn port_device(&mut self, id: DeviceId) -> Option<&mut dyn PortDevice> {
        Some(self.0.get_mut(usize::from(id.0))?)
    }
}

impl MmioDevices for Probes {
    fn mmio_device(&mut self, id: DeviceId) -> Option<&mut dyn MmioDevice> {
        Some(self.0.get_mut(usize::from(id.0))?)
    }
}

const NOW: Nanos = Nanos::ZERO;
const A: DeviceId = DeviceId(0);
const B: DeviceId = DeviceId(1);

#[test]
fn overlapping_ports_are_refused_and_nothing_changes() {
    let mut bus = PortBus::new();
    bus.register(0x40..=0x43, AccessSize::Byte, A).unwrap();
    let error = bus.register(0x3e..=0x41, AccessSize::Byte, B).unwrap_err();
    assert_eq!(
        error,
        BusError::Conflict {
            start: 0x3e,
            end: 0x41,
            at: 0x40,
            owner: 0
        }
    );
    assert_eq!(bus.owner(0x3e), None);
    assert_eq!(bus.owner(0x43), Some(A));
    #[allow(clippy::reversed_empty_ranges)]
    let empty = bus.register(5..=4, AccessSize::Byte, B);
    assert!(matches!(empty, Err(BusError::Empty { .. })));
}

#[test]
fn unregistering_leaves_the_neighbour_alone() {
    let mut bus = PortBus::new();
    bus.register(0x10..=0x13, AccessSize::Byte, A).unwrap();
    bus.register(0x14..=0x17, AccessSize::Byte, B).unwrap();
    bus.unregister(0x10..=0x17, A);
    assert_eq!(bus.owner(0x10), None);
    assert_eq!(bus.owner(0x14), Some(B));
}

#[test]
fn wide_access_to_byte_devices_is_split_in_order() {
    let mut bus = PortBus::new();
    let mut devices = Probes::default();
    bus.register(0x60..=0x60, AccessSize::Byte, A).unwrap();
    bus.register(0x61..=0x61, AccessSize::Byte, B).unwrap();
    let value = bus.read(&mut devices, 0x60, AccessSize::Dword, NOW);
    assert_eq!(value, 0xffff_6160, "62h and 63h float");
    assert_eq!(bus.counters().unclaimed, 2);
    bus.write(&mut devices, 0x60, AccessSize::Word, 0xabcd_1234, NOW);
    assert_eq!(devices.0[0].log.last(), Some(&(0x60, 1, Some(0x34))));
    assert_eq!(devices.0[1].log.last(), Some(&(0x61, 1, Some(0x12))));
}

#[test]
fn wide_device_gets_aligned_accesses_whole() {
    let mut bus = PortBus::new();
    let mut devices = Probes::default();
    bus.register(0xcfc..=0xcff, AccessSize::Dword, A).unwrap();
    bus.write(&mut devices, 0xcfc, AccessSize::Dword, 0x1122_3344, NOW);
    bus.write(&mut devices, 0xcfe, AccessSize::Word, 0x5566, NOW);
    bus.write(&mut devices, 0xcfd, AccessSize::Word, 0x7788, NOW);
    let expected = [
        (0xcfc, 4, Some(0x1122_3344)),
        (0xcfe, 2, Some(0x5566)),
        (0xcfd, 1, Some(0x88)),
        (0xcfe, 1, Some(0x77)),
    ];
    assert_eq!(devices.0[0].log, expected);
}

#[test]
fn a_dword_port_and_a_byte_port_can_share_an_address_block() {
    // CF8h takes double words; the reset control register is the byte at CF9h.
    let mut bus = PortBus::new();
    let mut devices = Probes::default();
    bus.register(0xcf8..=0xcf8, AccessSize::Dword, A).unwrap();
    bus.register(0xcf9..=0xcf9, AccessSize::Byte, B).unwrap();
    bus.write(&mut devices, 0xcf8, AccessSize::Dword, 0x8000_0000, NOW);
    bus.write(&mut devices, 0xcf9, AccessSize::Byte, 6, NOW);
    assert_eq!(devices.0[0].log, [(0xcf8, 4, Some(0x8000_0000))]);
    assert_eq!(devices.0[1].log, [(0xcf9, 1, Some(6))]);
}

#[test]
fn the_last_port_does_not_wrap() {
    let mut bus = PortBus::new();
    let mut devices = Probes::default();
    bus.register(0..=3, AccessSize::Dword, A).unwrap();
    bus.register(0xffff..=0xffff, AccessSize::Byte, B).unwrap();
    let value = bus.read(&mut devices, 0xffff, AccessSize::Dword, NOW);
    assert_eq!(value, 0xffff_ffff);
    bus.write(&mut devices, 0xffff, AccessSize::Dword, 0, NOW);
    assert!(devices.0[0].log.is_empty());
    assert_eq!(devices.0[1].log.len(), 2);
}

#[test]
fn bits_above_the_width_are_cut_off() {
    let mut bus = PortBus::new();
    let mut devices = Probes::default();
    bus.register(0x70..=0x71, AccessSize::Byte, A).unwrap();
    assert_eq!(bus.read(&mut devices, 0x71, AccessSize::Byte, NOW), 0x71);
}

#[test]
fn mmio_ranges_are_sorted_disjoint_and_relative() {
    let mut bus = MmioBus::new();
    let mut devices = Probes::default();
    bus.register(0xfec0_0000..=0xfec0_0fff, AccessSize::Dword, B)
        .unwrap();
    bus.register(0xa_0000..=0xb_ffff, AccessSize::Byte, A)
        .unwrap();
    assert!(
        bus.register(0xb_ffff..=0xc_0000, AccessSize::Byte, B)
            .is_err()
    );
    assert_eq!(
        bus.ranges().map(|r| *r.start()).collect::<Vec<_>>(),
        [0xa_0000, 0xfec0_0000]
    );
    bus.write(
        &mut devices,
        0xfec0_0010,
        AccessSize::Dword,
        0xdead_beef,
        NOW,
    );
    assert_eq!(devices.0[1].log, [(0x10, 4, Some(0xdead_beef))]);
    assert_eq!(
        bus.read(&mut devices, 0xa_0002, AccessSize::Word, NOW),
        0x0302
    );
    // The second byte lies beyond the range.
    assert_eq!(
        bus.read(&mut devices, 0xb_ffff, AccessSize::Word, NOW),
        0xffff
    );
    assert_eq!(
        bus.read(&mut devices, u64::MAX, AccessSize::Dword, NOW),
        0xffff_ffff
    );
    bus.unregister(0xa_0000, A);
    assert_eq!(
        bus.read(&mut devices, 0xa_0000, AccessSize::Byte, NOW),
        0xff
    );
}

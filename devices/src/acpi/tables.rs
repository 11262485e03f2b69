//! The system description tables (ACPI Specification 2.0, chapter 5).

use super::aml::{
    AddressSpace, device, dword_range, eisa_id, integer, io, irq, name, package, resource_template,
    scope, word_range,
};
use super::{AcpiConfig, checksum};
use crate::device::AccessSize;
use crate::pci::spec::CONFIG_ADDRESS;
use crate::pm::spec as pm;
use crate::rtc::spec::CENTURY;

/// Length of a table header.
pub(super) const HEADER_LEN: usize = 36;
/// Length of the RSDP of ACPI 1.0.
pub(super) const RSDP_LEN: usize = 20;
/// Length of the FADT of ACPI 2.0 (revision 3).
pub(super) const FADT_LEN: usize = 244;
/// Length of the FACS.
pub(super) const FACS_LEN: usize = 64;

const OEM_ID: &[u8; 6] = b"RNGSFT";
const OEM_TABLE_ID: &[u8; 8] = b"RINGSHFT";
const CREATOR_ID: &[u8; 4] = b"RSFT";

/// FADT flags (section 5.2.8, table 5-6).
mod flags {
    pub(super) const WBINVD: u32 = 1 << 0;
    pub(super) const PROC_C1: u32 = 1 << 2;
    /// There is no sleep button in the fixed registers.
    pub(super) const SLP_BUTTON: u32 = 1 << 5;
    /// RTC wake status is not in the fixed registers.
    pub(super) const FIX_RTC: u32 = 1 << 6;
    pub(super) const RESET_REG_SUP: u32 = 1 << 10;
}

/// FADT boot architecture flags (table 5-10).
mod boot_arch {
    pub(super) const LEGACY_DEVICES: u16 = 1 << 0;
    pub(super) const I8042: u16 = 1 << 1;
    pub(super) const VGA_NOT_PRESENT: u16 = 1 << 2;
}

/// A table: header with length and checksum, and a body.
pub(super) fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let length = (HEADER_LEN + body.len()) as u32;
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend(signature);
    bytes.extend(length.to_le_bytes());
    bytes.extend([revision, 0]);
    bytes.extend(OEM_ID);
    bytes.extend(OEM_TABLE_ID);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(CREATOR_ID);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(body);
    let sum = checksum(&bytes);
    if let Some(byte) = bytes.get_mut(9) {
        *byte = sum;
    }
    bytes
}

/// The root pointer that operating systems search for.
pub(super) fn rsdp(rsdt: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RSDP_LEN);
    bytes.extend(b"RSD PTR ");
    bytes.push(0);
    bytes.extend(OEM_ID);
    // Revision 0: ACPI 1.0, with an RSDT only.
    bytes.push(0);
    bytes.extend(rsdt.to_le_bytes());
    let sum = checksum(&bytes);
    if let Some(byte) = bytes.get_mut(8) {
        *byte = sum;
    }
    bytes
}

/// The root table, which lists the others.
pub(super) fn rsdt(tables: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|at| at.to_le_bytes()).collect();
    table(b"RSDT", 1, &body)
}

/// The firmware control structure: global lock and waking vector, both unused.
pub(super) fn facs() -> Vec<u8> {
    let mut bytes = b"FACS".to_vec();
    bytes.extend((FACS_LEN as u32).to_le_bytes());
    bytes.resize(FACS_LEN, 0);
    // Version, at offset 32.
    if let Some(version) = bytes.get_mut(32) {
        *version = 1;
    }
    bytes
}

/// A generic address structure for I/O ports: register width, and width of an access.
fn gas(port: u16, bits: u8, access: AccessSize) -> [u8; 12] {
    let mut bytes = [0; 12];
    let [low, high] = port.to_le_bytes();
    let access = match access {
        AccessSize::Byte => 1,
        AccessSize::Word => 2,
        AccessSize::Dword => 3,
    };
    let fields = [1, bits, 0, access, low, high];
    for (byte, field) in bytes.iter_mut().zip(fields) {
        *byte = field;
    }
    bytes
}

/// Fixed ACPI description table.
pub(super) fn fadt(config: &AcpiConfig, facs: u32, dsdt: u32) -> Vec<u8> {
    let mut b = Vec::with_capacity(FADT_LEN - HEADER_LEN);
    let port = |port: u16| u32::from(port).to_le_bytes();
    b.extend(facs.to_le_bytes());
    b.extend(dsdt.to_le_bytes());
    // INT_MODEL of ACPI 1.0: dual 8259. Preferred profile: desktop.
    b.extend([0, 1]);
    b.extend(u16::from(pm::SCI_IRQ).to_le_bytes());
    b.extend(port(pm::SMI_CMD));
    // No S4BIOS, no processor performance control.
    b.extend([pm::ACPI_ENABLE, pm::ACPI_DISABLE, 0, 0]);
    b.extend(port(pm::PM1_EVT));
    b.extend(port(0));
    b.extend(port(pm::PM1_CNT));
    b.extend(port(0));
    // No PM2 control block.
    b.extend(port(0));
    b.extend(port(pm::PM_TMR));
    // No general purpose events.
    b.extend(port(0));
    b.extend(port(0));
    b.extend([pm::PM1_EVT_LEN, pm::PM1_CNT_LEN, 0, pm::PM_TMR_LEN]);
    // GPE0_BLK_LEN, GPE1_BLK_LEN, GPE1_BASE, CST_CNT.
    b.extend([0, 0, 0, 0]);
    // Latencies beyond 100 and 1000 us: no C2, no C3.
    b.extend(0x0fff_u16.to_le_bytes());
    b.extend(0x0fff_u16.to_le_bytes());
    // FLUSH_SIZE, FLUSH_STRIDE: WBINVD works. DUTY_OFFSET, DUTY_WIDTH: no throttling.
    b.extend([0, 0, 0, 0, 0, 0]);
    // Alarm of day and month: not there. Century.
    b.extend([0, 0, CENTURY]);
    let vga = if config.vga {
        0
    } else {
        boot_arch::VGA_NOT_PRESENT
    };
    b.extend((boot_arch::LEGACY_DEVICES | boot_arch::I8042 | vga).to_le_bytes());
    b.push(0);
    let flags =
        flags::WBINVD | flags::PROC_C1 | flags::SLP_BUTTON | flags::FIX_RTC | flags::RESET_REG_SUP;
    b.extend(flags.to_le_bytes());
    b.extend(gas(pm::RESET_CONTROL, 8, AccessSize::Byte));
    b.push(pm::RESET_VALUE);
    b.extend([0; 3]);
    // X_FIRMWARE_CTRL and X_DSDT: the 32-bit fields hold.
    b.extend([0; 8]);
    b.extend(u64::from(dsdt).to_le_bytes());
    b.extend(gas(pm::PM1_EVT, 8 * pm::PM1_EVT_LEN, AccessSize::Word));
    b.extend([0; 12]);
    b.extend(gas(pm::PM1_CNT, 8 * pm::PM1_CNT_LEN, AccessSize::Word));
    b.extend([0; 12]);
    b.extend([0; 12]);
    b.extend(gas(pm::PM_TMR, 8 * pm::PM_TMR_LEN, AccessSize::Dword));
    b.extend([0; 12]);
    b.extend([0; 12]);
    table(b"FACP", 3, &b)
}

/// A device of the system board: a plug-and-play identity and what it occupies.
fn board_device(label: &str, id: &[u8; 7], uid: u32, resources: &[Vec<u8>]) -> Vec<u8> {
    device(
        label,
        &[
            name("_HID", &eisa_id(id)),
            name("_UID", &integer(uid)),
            name("_CRS", &resource_template(resources)),
        ],
    )
}

/// The PCI root: what lies behind the host bridge.
fn pci_root(config: &AcpiConfig) -> Vec<u8> {
    let config_end = CONFIG_ADDRESS + 8;
    let resources = [
        word_range(AddressSpace::Bus, 0, 0xff),
        io(CONFIG_ADDRESS, 8),
        word_range(AddressSpace::Io, 0, CONFIG_ADDRESS - 1),
        word_range(AddressSpace::Io, config_end, 0xffff),
        dword_range(AddressSpace::Memory, 0xa_0000, 0xb_ffff),
        dword_range(
            AddressSpace::Memory,
            *config.pci_memory.start(),
            *config.pci_memory.end(),
        ),
    ];
    device(
        "PCI0",
        &[
            name("_HID", &eisa_id(b"PNP0A03")),
            name("_UID", &integer(0)),
            name("_CRS", &resource_template(&resources)),
        ],
    )
}

/// Differentiated system description table: soft off, the PCI root, the devices that cannot be
/// found by probing.
pub(super) fn dsdt(config: &AcpiConfig) -> Vec<u8> {
    let s5 = u32::from(pm::SLP_TYP_S5);
    let mut devices = vec![
        pci_root(config),
        board_device("RTC", b"PNP0B00", 0, &[io(0x70, 2), irq(8)]),
        board_device("KBD", b"PNP0303", 0, &[io(0x60, 1), io(0x64, 1), irq(1)]),
        board_device("MOU", b"PNP0F13", 0, &[irq(12)]),
        board_device("PIC", b"PNP0000", 0, &[io(0x20, 2), io(0xa0, 2), irq(2)]),
        board_device("TMR", b"PNP0100", 0, &[io(0x40, 4), irq(0)]),
        board_device("SPKR", b"PNP0800", 0, &[io(0x61, 1)]),
        board_device("FPU", b"PNP0C04", 0, &[io(0xf0, 2), irq(13)]),
        board_device(
            "PWR",
            b"PNP0C02",
            0,
            &[
                io(0x92, 1),
                io(pm::SMI_CMD, 2),
                io(0x4d0, 2),
                io(pm::PM_BASE, 12),
            ],
        ),
    ];
    for (index, &(base, line)) in config.serial.iter().enumerate().take(4) {
        let label = format!("COM{}", index + 1);
        let uid = index as u32 + 1;
        devices.push(board_device(
            &label,
            b"PNP0501",
            uid,
            &[io(base, 8), irq(line)],
        ));
    }
    let body = [
        name("\\_S5", &package(&[s5, s5, 0, 0].map(integer))),
        scope("\\_SB", &devices),
    ];
    // Revision 1: integers have 32 bits.
    table(b"DSDT", 1, &body.concat())
}

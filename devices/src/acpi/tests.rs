use super::*;
use crate::pm::spec as pm;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn dword(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// The table at a guest-physical address, by its own length.
fn table_at(tables: &AcpiTables, address: u32) -> &[u8] {
    let at = (address - tables.base) as usize;
    let length = dword(&tables.bytes, at + 4) as usize;
    &tables.bytes[at..at + length]
}

#[test]
fn an_operating_system_can_follow_the_pointers() {
    for base in [0xe_0000, 0xf_5a50, 0x7fff_0000] {
        let config = AcpiConfig {
            base,
            ..AcpiConfig::default()
        };
        let tables = build(&config).unwrap();
        let rsdp = &tables.bytes[(tables.rsdp - base) as usize..][..20];
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(rsdp), tables.rsdp % 16), (0, 0));
        let rsdt = table_at(&tables, dword(rsdp, 16));
        assert_eq!((&rsdt[..4], sum(rsdt)), (b"RSDT".as_slice(), 0));
        let fadt = table_at(&tables, dword(rsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (b"FACP".as_slice(), 0));
        let facs = table_at(&tables, dword(fadt, 36));
        assert_eq!((&facs[..4], facs.len()), (b"FACS".as_slice(), 64));
        assert_eq!(dword(fadt, 36) % 64, 0);
        let dsdt = table_at(&tables, dword(fadt, 40));
        assert_eq!((&dsdt[..4], sum(dsdt)), (b"DSDT".as_slice(), 0));
    }
}

#[test]
fn fadt_fields_are_where_the_specification_has_them() {
    let tables = build(&AcpiConfig::default()).unwrap();
    let rsdt = table_at(&tables, dword(&tables.bytes, 16));
    let fadt = table_at(&tables, dword(rsdt, 36));
    assert_eq!((fadt.len(), fadt[8]), (244, 3));
    assert_eq!(word(fadt, 46), u16::from(pm::SCI_IRQ));
    assert_eq!(dword(fadt, 48), u32::from(pm::SMI_CMD));
    assert_eq!((fadt[52], fadt[53]), (pm::ACPI_ENABLE, pm::ACPI_DISABLE));
    assert_eq!(dword(fadt, 56), 0x600);
    assert_eq!(dword(fadt, 64), 0x604);
    assert_eq!(dword(fadt, 76), 0x608);
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
    assert_eq!(fadt[108], 0x32, "century");
    assert_eq!(word(fadt, 109), 0x0007, "legacy devices, 8042, no VGA");
    assert_eq!(dword(fadt, 112) & 1 << 10, 1 << 10, "RESET_REG_SUP");
    assert_eq!(
        &fadt[116..129],
        &[1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6]
    );
    assert_eq!(dword(fadt, 140), dword(fadt, 40), "X_DSDT");
    assert_eq!(&fadt[148..154], &[1, 32, 0, 2, 0x00, 0x06], "X_PM1a_EVT");
    assert_eq!(&fadt[172..178], &[1, 16, 0, 2, 0x04, 0x06], "X_PM1a_CNT");
    assert_eq!(&fadt[208..214], &[1, 32, 0, 3, 0x08, 0x06], "X_PM_TMR");
}

#[test]
fn dsdt_names_soft_off_and_the_serial_ports() {
    let config = AcpiConfig {
        serial: vec![(0x3f8, 4), (0x2f8, 3)],
        ..AcpiConfig::default()
    };
    let bytes = build(&config).unwrap().bytes;
    let find = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(find(b"\\_S5_\x12\x06\x04\x00\x00\x00\x00"));
    assert!(find(b"COM1") && find(b"COM2") && find(b"PCI0"));
    assert!(find(&[0x47, 1, 0xf8, 2, 0xf8, 2, 1, 8, 0x22, 0x08, 0x00]));
}

#[test]
fn a_bad_place_is_an_error() {
    let misplaced = AcpiConfig {
        base: 0xf_0008,
        ..AcpiConfig::default()
    };
    assert_eq!(
        build(&misplaced),
        Err(AcpiError::Alignment { base: 0xf_0008 })
    );
    let narrow = AcpiConfig {
        size: 256,
        ..AcpiConfig::default()
    };
    assert!(matches!(build(&narrow), Err(AcpiError::Space { .. })));
    let beyond = AcpiConfig {
        base: 0xffff_fff0,
        ..AcpiConfig::default()
    };
    assert!(matches!(build(&beyond), Err(AcpiError::Space { .. })));
}

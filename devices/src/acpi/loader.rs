//! The tables for a firmware that places them itself: the files that it copies to memory, and the
//! script that tells it which addresses and checksums to fill in (QEMU, `hw/acpi/bios-linker-loader.c`
//! and SeaBIOS, `src/fw/romfile_loader.h`, define the script).

use super::AcpiConfig;
use super::tables::{self, FACS_LEN, HEADER_LEN, RSDP_LEN};

/// File that holds all tables but the root pointer.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// File that holds the root pointer.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// File that holds the script.
pub const SCRIPT_FILE: &str = "etc/table-loader";

/// Bytes of a file name in the script.
const NAME_LEN: usize = 56;
/// Bytes of a command of the script.
const COMMAND_LEN: usize = 128;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// Allocate anywhere in high memory.
const ZONE_HIGH: u8 = 1;
/// Allocate where operating systems search for the root pointer.
const ZONE_FSEG: u8 = 2;
/// The FACS has to be aligned to 64 bytes.
const TABLE_ALIGNMENT: u32 = 64;
const RSDP_ALIGNMENT: u32 = 16;

/// Offsets of pointers and checksums in tables.
mod field {
    pub(super) const CHECKSUM: usize = 9;
    pub(super) const FADT_FIRMWARE_CTRL: usize = 36;
    pub(super) const FADT_DSDT: usize = 40;
    pub(super) const FADT_X_DSDT: usize = 140;
    pub(super) const RSDP_CHECKSUM: usize = 8;
    pub(super) const RSDP_RSDT: usize = 16;
}

/// Contents of the three files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderFiles {
    /// [`TABLES_FILE`]: pointers hold offsets into it.
    pub tables: Vec<u8>,
    /// [`RSDP_FILE`].
    pub rsdp: Vec<u8>,
    /// [`SCRIPT_FILE`].
    pub script: Vec<u8>,
}

/// Builds the files. Address and size in `config` are not used: the firmware finds the place.
pub fn build_for_firmware(config: &AcpiConfig) -> LoaderFiles {
    let dsdt = tables::dsdt(config);
    let dsdt_at = FACS_LEN;
    let fadt_at = (dsdt_at + dsdt.len()).next_multiple_of(16);
    let fadt = tables::fadt(config, 0, dsdt_at as u32);
    let rsdt_at = (fadt_at + fadt.len()).next_multiple_of(16);
    let rsdt = tables::rsdt(&[fadt_at as u32]);
    let rsdt_len = rsdt.len();
    let fadt_len = fadt.len();

    let mut bytes = tables::facs();
    for (at, table) in [(dsdt_at, dsdt), (fadt_at, fadt), (rsdt_at, rsdt)] {
        bytes.resize(at, 0);
        bytes.extend(table);
    }
    let mut script = Script(Vec::new());
    script.allocate(TABLES_FILE, TABLE_ALIGNMENT, ZONE_HIGH);
    script.allocate(RSDP_FILE, RSDP_ALIGNMENT, ZONE_FSEG);
    for (at, size) in [
        (fadt_at + field::FADT_FIRMWARE_CTRL, 4),
        (fadt_at + field::FADT_DSDT, 4),
        (fadt_at + field::FADT_X_DSDT, 8),
        (rsdt_at + HEADER_LEN, 4),
    ] {
        script.add_pointer(TABLES_FILE, at, size);
    }
    script.add_checksum(TABLES_FILE, fadt_at + field::CHECKSUM, fadt_at, fadt_len);
    script.add_checksum(TABLES_FILE, rsdt_at + field::CHECKSUM, rsdt_at, rsdt_len);
    script.add_pointer(RSDP_FILE, field::RSDP_RSDT, 4);
    script.add_checksum(RSDP_FILE, field::RSDP_CHECKSUM, 0, RSDP_LEN);
    LoaderFiles {
        tables: bytes,
        rsdp: tables::rsdp(rsdt_at as u32),
        script: script.0,
    }
}

/// Commands of 128 bytes, fields little-endian.
struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, number: u32, files: &[&str], fields: &[u32], last: Option<u8>) {
        let end = self.0.len() + COMMAND_LEN;
        self.0.extend(number.to_le_bytes());
        for file in files {
            let end = self.0.len() + NAME_LEN;
            self.0.extend(file.as_bytes());
            self.0.resize(end, 0);
        }
        for field in fields {
            self.0.extend(field.to_le_bytes());
        }
        self.0.extend(last);
        self.0.resize(end, 0);
    }

    fn allocate(&mut self, file: &str, alignment: u32, zone: u8) {
        self.command(ALLOCATE, &[file], &[alignment], Some(zone));
    }

    /// Adds the address of the tables to the `size` bytes at `at` of `file`.
    fn add_pointer(&mut self, file: &str, at: usize, size: u8) {
        self.command(ADD_POINTER, &[file, TABLES_FILE], &[at as u32], Some(size));
    }

    /// Makes the sum of `length` bytes from `start` zero by the byte at `at`.
    fn add_checksum(&mut self, file: &str, at: usize, start: usize, length: usize) {
        let fields = [at, start, length].map(|field| field as u32);
        self.command(ADD_CHECKSUM, &[file], &fields, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries the script out as a firmware does, with the tables at `base`.
    fn run(files: &LoaderFiles, base: u32) -> (Vec<u8>, Vec<u8>) {
        let (mut tables, mut rsdp) = (files.tables.clone(), files.rsdp.clone());
        let (commands, rest) = files.script.as_chunks::<COMMAND_LEN>();
        assert!(rest.is_empty());
        for command in commands {
            let dword = |at: usize| u32::from_le_bytes(command[at..at + 4].try_into().unwrap());
            let name = |at: usize| {
                let text = String::from_utf8_lossy(&command[at..at + NAME_LEN]);
                text.trim_end_matches('\0').to_owned()
            };
            let file = if name(4) == RSDP_FILE {
                &mut rsdp
            } else {
                assert_eq!(name(4), TABLES_FILE);
                &mut tables
            };
            match dword(0) {
                ALLOCATE => assert!(dword(60).is_power_of_two()),
                ADD_POINTER => {
                    assert_eq!(name(60), TABLES_FILE);
                    let at = dword(116) as usize;
                    let field = &mut file[at..at + 4];
                    let offset = u32::from_le_bytes(field.try_into().unwrap());
                    field.copy_from_slice(&(base + offset).to_le_bytes());
                }
                ADD_CHECKSUM => {
                    let (at, start) = (dword(60) as usize, dword(64) as usize);
                    let range = &file[start..start + dword(68) as usize];
                    let sum = range.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                    file[at] = file[at].wrapping_sub(sum);
                }
                other => panic!("command {other}"),
            }
        }
        (tables, rsdp)
    }

    #[test]
    fn a_firmware_ends_up_with_tables_that_can_be_followed() {
        let base = 0x7fe_0000;
        let (tables, rsdp) = run(&build_for_firmware(&AcpiConfig::default()), base);
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let dword =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let table = |address: u32| {
            let at = (address - base) as usize;
            let length = dword(&tables, at + 4) as usize;
            &tables[at..at + length]
        };
        assert_eq!((&rsdp[..8], sum(&rsdp)), (b"RSD PTR ".as_slice(), 0));
        let rsdt = table(dword(&rsdp, 16));
        assert_eq!((&rsdt[..4], sum(rsdt)), (b"RSDT".as_slice(), 0));
        let fadt = table(dword(rsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (b"FACP".as_slice(), 0));
        assert_eq!(&table(dword(fadt, 36))[..4], b"FACS");
        let dsdt = table(dword(fadt, 40));
        assert_eq!((&dsdt[..4], sum(dsdt)), (b"DSDT".as_slice(), 0));
        assert_eq!(dword(fadt, 140), dword(fadt, 40), "X_DSDT");
    }
}

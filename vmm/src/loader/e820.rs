//! The memory map that firmware reports (ACPI specification, section 15, "INT 15H, E820H").

/// What a range of addresses is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// Memory that the operating system may use.
    Usable = 1,
    /// Not for the operating system.
    Reserved = 2,
}

/// One range of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct E820Entry {
    /// First guest-physical address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What it is.
    pub kind: E820Kind,
}

impl E820Entry {
    /// Size of an entry in memory.
    pub const SIZE: usize = 20;

    /// The entry as INT 15h returns it.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes
    }
}

/// End of the conventional memory that is not the extended BIOS data area.
const CONVENTIONAL_END: u64 = 0x9_FC00;
const VGA: u64 = 0xA_0000;
/// Firmware and its tables, ACPI's among them.
const FIRMWARE: u64 = 0xE_0000;
const HIGH_MEMORY: u64 = 0x10_0000;

/// The map of a machine with `memory` bytes, all of it below the PCI hole. The addresses of the VGA
/// and of option ROMs are in no range, as on a real PC.
pub fn memory_map(memory: u64) -> Vec<E820Entry> {
    let range = |start: u64, end: u64, kind| E820Entry {
        start,
        size: end - start,
        kind,
    };
    let mut map = vec![
        range(0, CONVENTIONAL_END.min(memory), E820Kind::Usable),
        range(CONVENTIONAL_END, VGA, E820Kind::Reserved),
        range(FIRMWARE, HIGH_MEMORY, E820Kind::Reserved),
    ];
    if memory > HIGH_MEMORY {
        map.push(range(HIGH_MEMORY, memory, E820Kind::Usable));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_ordered_and_apart_and_hold_all_memory_above_1m() {
        for memory in [2 << 20, 128 << 20, 3 << 30] {
            let map = memory_map(memory);
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].size <= pair[1].start, "{pair:?}");
            }
            let last = map.last().expect("a map is not empty");
            assert_eq!(last.kind, E820Kind::Usable);
            assert_eq!(last.start + last.size, memory);
        }
    }

    #[test]
    fn entries_have_the_firmware_layout() {
        let entry = E820Entry {
            start: 0x10_0000,
            size: 0x700_0000,
            kind: E820Kind::Reserved,
        };
        assert_eq!(
            entry.to_bytes(),
            [
                0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 2, 0, 0, 0
            ]
        );
    }
}

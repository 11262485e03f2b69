//! What CPUID answers: the leaves of each model, as QEMU's model of the name has them.

use super::{CpuModel, feature_ecx};

/// First extended leaf.
const EXTENDED: u32 = 0x8000_0000;
/// "GenuineIntel" in the order EBX, EDX, ECX.
const VENDOR: [u32; 3] = [
    u32::from_le_bytes(*b"Genu"),
    u32::from_le_bytes(*b"ineI"),
    u32::from_le_bytes(*b"ntel"),
];
/// The processor brand string of the Core Duo, with its zero byte.
const BRAND: &[u8; 48] = b"Genuine Intel(R) CPU           T2600  @ 2.16GHz\0";
/// EBX of leaf 1: CLFLUSH works on 8 quadwords; no brand index, APIC 0.
const CLFLUSH_LINE: u32 = 8 << 8;
/// Leaf 2: 2 MiB of L2 in lines of 64 bytes (7Dh), 32 KiB of L1 for code (30h) and for data (2Ch), 16 MiB of L3 (4Dh).
const CACHE_DESCRIPTORS: [u32; 4] = [1, 0, 0x4D, 0x002C_307D];
/// Leaf 4: the same in full (Intel SDM vol. 2A, CPUID, "INPUT EAX = 04H").
const CACHES: [[u32; 4]; 4] = [
    [0x0121, 0x01C0_003F, 0x003F, 1],
    [0x0122, 0x01C0_003F, 0x003F, 1],
    [0x0143, 0x03C0_003F, 0x0FFF, 1],
    [0x0163, 0x03C0_003F, 0x3FFF, 6],
];
/// Leaf 80000005h, AMD's: first-level TLBs and caches.
const L1_CACHES: [u32; 4] = [0x01FF_01FF, 0x01FF_01FF, 0x4002_0140, 0x4002_0140];
/// Leaf 80000006h, AMD's: second-level TLBs, second- and third-level cache.
const L2_CACHES: [u32; 4] = [0, 0x4200_4200, 0x0200_8140, 0x0080_8140];

impl CpuModel {
    /// The highest basic leaf.
    pub const fn last_leaf(self) -> u32 {
        match self {
            CpuModel::I486 | CpuModel::Pentium => 1,
            CpuModel::Pentium3 => 3,
            CpuModel::CoreDuo => 10,
        }
    }

    /// The highest extended leaf, if there are any.
    pub const fn last_extended_leaf(self) -> Option<u32> {
        match self {
            CpuModel::CoreDuo => Some(EXTENDED + 8),
            _ => None,
        }
    }

    /// CPUID: EAX, EBX, ECX, EDX for a leaf (EAX) and subleaf (ECX). A leaf beyond the last one
    /// answers as the last basic one, which is how processors without extended leaves tell.
    /// `limited`: IA32_MISC_ENABLE says that there are none beyond 3.
    pub fn cpuid(self, leaf: u32, subleaf: u32, limited: bool) -> [u32; 4] {
        let last = self.last_leaf().min(if limited { 3 } else { u32::MAX });
        let known = match self.last_extended_leaf() {
            Some(last) if leaf >= EXTENDED => leaf <= last,
            _ => leaf <= last,
        };
        let leaf = if known { leaf } else { last };
        let [b, d, c] = VENDOR;
        match leaf {
            0 => [last, b, c, d],
            1 => [
                self.signature(),
                CLFLUSH_LINE,
                self.features_ecx(),
                self.features(),
            ],
            2 => CACHE_DESCRIPTORS,
            4 => CACHES.get(subleaf as usize).copied().unwrap_or_default(),
            // Monitor lines: extensions and break by interrupt can be enumerated.
            5 if self.features_ecx() & feature_ecx::MONITOR != 0 => [0, 0, 3, 0],
            EXTENDED => [self.last_extended_leaf().unwrap_or(0), b, c, d],
            0x8000_0001 => [self.signature(), 0, 0, self.features_extended()],
            0x8000_0002..=0x8000_0004 => brand((leaf - 0x8000_0002) as usize),
            0x8000_0005 => L1_CACHES,
            0x8000_0006 => L2_CACHES,
            0x8000_0008 => [u32::from(self.physical_bits()), 0, 0, 0],
            // The serial number (3) is switched off; no thermal sensors (6), no performance
            // counters of the architectural kind (10).
            _ => [0; 4],
        }
    }
}

/// A third of the brand string.
fn brand(part: usize) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(BRAND[part * 16..].chunks_exact(4)) {
        *word = bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u32::from(byte));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::{NOT_EMULATED, NOT_EMULATED_ECX, feature_extended};
    use super::*;
    use std::fmt::Write as _;
    use std::path::Path;

    /// The leaves that the golden table has: every one, and some beyond the last.
    const LEAVES: [(u32, u32); 25] = [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
        (4, 1),
        (4, 2),
        (4, 3),
        (4, 4),
        (5, 0),
        (6, 0),
        (7, 0),
        (9, 0),
        (10, 0),
        (11, 0),
        (0x8000_0000, 0),
        (0x8000_0001, 0),
        (0x8000_0002, 0),
        (0x8000_0003, 0),
        (0x8000_0004, 0),
        (0x8000_0005, 0),
        (0x8000_0006, 0),
        (0x8000_0007, 0),
        (0x8000_0008, 0),
        (0x8000_0009, 0),
    ];

    fn table() -> String {
        let mut text = String::from("leaf     subleaf  EAX      EBX      ECX      EDX\n");
        for model in CpuModel::ALL {
            let _ = writeln!(text, "\n{model}");
            for (leaf, subleaf) in LEAVES {
                let [a, b, c, d] = model.cpuid(leaf, subleaf, false);
                let _ = writeln!(
                    text,
                    "{leaf:08X} {subleaf:08X} {a:08X} {b:08X} {c:08X} {d:08X}"
                );
            }
        }
        text
    }

    /// `RINGSHIFT_BLESS=1` writes the table anew.
    #[test]
    fn leaves_are_those_of_the_golden_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cpuid.txt");
        let table = table();
        if std::env::var_os("RINGSHIFT_BLESS").is_some() {
            std::fs::write(&path, &table).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), table);
    }

    #[test]
    fn nothing_is_announced_that_is_not_emulated() {
        for model in CpuModel::ALL {
            let [_, _, c, d] = model.cpuid(1, 0, false);
            assert_eq!((c & NOT_EMULATED_ECX, d & NOT_EMULATED), (0, 0), "{model}");
        }
    }

    #[test]
    fn the_core_duo_tells_its_name() {
        let name: Vec<u8> = (0x8000_0002..=0x8000_0004)
            .flat_map(|leaf| CpuModel::CoreDuo.cpuid(leaf, 0, false))
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(name, b"Genuine Intel(R) CPU           T2600  @ 2.16GHz\0");
        assert_eq!(
            CpuModel::CoreDuo.cpuid(0x8000_0001, 0, false)[3],
            feature_extended::NX
        );
    }

    #[test]
    fn leaves_beyond_the_last_answer_as_the_last() {
        for model in [CpuModel::I486, CpuModel::Pentium, CpuModel::Pentium3] {
            let last = model.cpuid(model.last_leaf(), 0, false);
            assert_eq!(model.cpuid(0x8000_0000, 0, false), last);
            assert_ne!(last[0] >> 16, 0x8000, "{model} has no extended leaves");
        }
    }

    #[test]
    fn limited_leaves_end_at_3() {
        for model in CpuModel::ALL {
            assert!(model.cpuid(0, 0, true)[0] <= 3);
            assert_eq!(model.cpuid(1, 0, true), model.cpuid(1, 0, false));
            assert_ne!(model.cpuid(4, 0, true), CACHES[0]);
        }
    }
}

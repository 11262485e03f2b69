//! Processor models: what CPUID says, and which registers and bits exist.

use std::fmt;
use std::str::FromStr;

use crate::state::{cr4, eflags};

/// Feature bits of CPUID leaf 1, EDX (Intel SDM vol. 2A, table 3-11).
#[allow(missing_docs)] // the names are the SDM's
pub mod feature {
    pub const FPU: u32 = 1 << 0;
    pub const DE: u32 = 1 << 2;
    pub const PSE: u32 = 1 << 3;
    pub const TSC: u32 = 1 << 4;
    pub const MSR: u32 = 1 << 5;
    pub const PAE: u32 = 1 << 6;
    pub const CX8: u32 = 1 << 8;
    pub const SEP: u32 = 1 << 11;
    pub const PGE: u32 = 1 << 13;
    pub const CMOV: u32 = 1 << 15;
    pub const MMX: u32 = 1 << 23;
    pub const FXSR: u32 = 1 << 24;
    pub const SSE: u32 = 1 << 25;
}

/// A processor that the guest is shown.
///
/// Left out of all of them, and so absent from CPUID: the virtual-8086 mode extensions, the local
/// APIC, machine checks, MTRRs and PAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuModel {
    /// Intel486 DX4: no CR4 and no time-stamp counter.
    I486,
    /// Pentium with MMX.
    Pentium,
    /// Pentium II.
    Pentium2,
    /// Pentium III, the least that has everything the supported guests ask for.
    #[default]
    Pentium3,
}

/// The name is not that of a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown processor model {0:?}: 486, pentium, pentium2 or pentium3")]
pub struct UnknownModel(pub String);

impl FromStr for CpuModel {
    type Err = UnknownModel;

    fn from_str(name: &str) -> Result<CpuModel, UnknownModel> {
        CpuModel::ALL
            .into_iter()
            .find(|model| model.name() == name)
            .ok_or_else(|| UnknownModel(name.to_owned()))
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl CpuModel {
    /// All models, oldest first.
    pub const ALL: [CpuModel; 4] = [
        CpuModel::I486,
        CpuModel::Pentium,
        CpuModel::Pentium2,
        CpuModel::Pentium3,
    ];

    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            CpuModel::I486 => "486",
            CpuModel::Pentium => "pentium",
            CpuModel::Pentium2 => "pentium2",
            CpuModel::Pentium3 => "pentium3",
        }
    }

    /// Type, family, model and stepping: EAX of leaf 1, and EDX after reset.
    pub const fn signature(self) -> u32 {
        match self {
            CpuModel::I486 => 0x0480,
            CpuModel::Pentium => 0x0543,
            CpuModel::Pentium2 => 0x0653,
            CpuModel::Pentium3 => 0x0686,
        }
    }

    /// EDX of leaf 1, see [`feature`].
    pub const fn features(self) -> u32 {
        use feature::*;
        const P5: u32 = FPU | DE | PSE | TSC | MSR | CX8 | MMX;
        const P2: u32 = P5 | PAE | SEP | PGE | CMOV | FXSR;
        match self {
            CpuModel::I486 => FPU,
            CpuModel::Pentium => P5,
            CpuModel::Pentium2 => P2,
            CpuModel::Pentium3 => P2 | SSE,
        }
    }

    /// All of these features are there.
    pub const fn has(self, features: u32) -> bool {
        self.features() & features == features
    }

    /// CR4 exists: every model after the 486 has some bit of it.
    pub const fn has_cr4(self) -> bool {
        self.cr4_bits() != 0
    }

    /// RDPMC exists: from the Pentium with MMX on.
    pub const fn has_performance_counters(self) -> bool {
        self.has(feature::MMX)
    }

    /// The bits of CR4 that may be set.
    pub const fn cr4_bits(self) -> u32 {
        let mut bits = 0;
        if self.has(feature::TSC) {
            bits |= cr4::TSD;
        }
        if self.has(feature::DE) {
            bits |= cr4::DE;
        }
        if self.has(feature::PSE) {
            bits |= cr4::PSE;
        }
        if self.has(feature::PAE) {
            bits |= cr4::PAE;
        }
        if self.has(feature::PGE) {
            bits |= cr4::PGE;
        }
        if self.has_performance_counters() {
            bits |= cr4::PCE;
        }
        if self.has(feature::FXSR) {
            bits |= cr4::OSFXSR;
        }
        if self.has(feature::SSE) {
            bits |= cr4::OSXMMEXCPT;
        }
        bits
    }

    /// The flags above bit 15 that POPFD and IRETD can change at any privilege level.
    pub(super) const fn wide_flags(self) -> u32 {
        eflags::AC | eflags::ID
    }

    /// Cache and TLB descriptors of leaf 2 (Intel SDM vol. 2A, table 3-12).
    const fn cache_descriptors(self) -> [u32; 4] {
        match self {
            // Code: 32 entries of 4 KiB, 2 of 4 MiB; data: 64 and 8; 512 KiB or 256 KiB of L2;
            // 16 KiB of L1 each.
            CpuModel::Pentium2 => [0x0302_0101, 0, 0, 0x0C04_0843],
            CpuModel::Pentium3 => [0x0302_0101, 0, 0, 0x0C04_0882],
            CpuModel::I486 | CpuModel::Pentium => [0; 4],
        }
    }

    const fn last_leaf(self) -> u32 {
        match self {
            CpuModel::I486 | CpuModel::Pentium => 1,
            CpuModel::Pentium2 | CpuModel::Pentium3 => 2,
        }
    }

    /// CPUID: EAX, EBX, ECX, EDX for a leaf. A leaf beyond the last one answers as the last one,
    /// which is how processors without extended leaves (and so without a brand string) tell.
    pub const fn cpuid(self, leaf: u32) -> [u32; 4] {
        let last = self.last_leaf();
        let leaf = if leaf > last { last } else { leaf };
        match leaf {
            0 => [
                last,
                u32::from_le_bytes(*b"Genu"),
                u32::from_le_bytes(*b"ntel"),
                u32::from_le_bytes(*b"ineI"),
            ],
            1 => [self.signature(), self.brand_index(), 0, self.features()],
            _ => self.cache_descriptors(),
        }
    }

    /// EBX bits 7:0 of leaf 1 (Intel SDM vol. 2A, table 3-14).
    const fn brand_index(self) -> u32 {
        match self {
            CpuModel::Pentium3 => 2, // "Intel(R) Pentium(R) III processor"
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_string() {
        let [_, b, c, d] = CpuModel::Pentium3.cpuid(0);
        let text: Vec<u8> = [b, d, c].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(text, b"GenuineIntel");
    }

    #[test]
    fn family_6_has_what_a_686_kernel_requires() {
        use feature::*;
        for model in [CpuModel::Pentium2, CpuModel::Pentium3] {
            assert!(model.has(FPU | PSE | TSC | MSR | CX8 | CMOV | SEP | MMX | FXSR));
            assert_eq!(model.cpuid(1)[0] >> 8 & 0xF, 6);
        }
        assert!(!CpuModel::Pentium2.has(SSE));
    }

    #[test]
    fn leaves_beyond_the_last_answer_as_the_last() {
        let model = CpuModel::Pentium3;
        assert_eq!(model.cpuid(0x8000_0000), model.cpuid(2));
        assert_ne!(
            model.cpuid(0x8000_0000)[0] >> 16,
            0x8000,
            "no extended leaves"
        );
    }

    #[test]
    fn names_parse() {
        for model in CpuModel::ALL {
            assert_eq!(model.name().parse(), Ok(model));
        }
        assert!("z80".parse::<CpuModel>().is_err());
    }
}

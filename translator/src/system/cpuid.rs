//! Processor models: which instructions, registers and bits exist.
//!
//! The models have the names, signatures and features of QEMU's, so that a guest can be compared in both. What CPUID
//! tells is in `leaves`.

mod leaves;

use std::fmt;
use std::str::FromStr;

use crate::state::{cr4, eflags};

/// Feature bits of CPUID leaf 1, EDX (Intel SDM vol. 2A, table 3-11).
#[allow(missing_docs)] // the names are the SDM's
pub mod feature {
    pub const FPU: u32 = 1 << 0;
    pub const VME: u32 = 1 << 1;
    pub const DE: u32 = 1 << 2;
    pub const PSE: u32 = 1 << 3;
    pub const TSC: u32 = 1 << 4;
    pub const MSR: u32 = 1 << 5;
    pub const PAE: u32 = 1 << 6;
    pub const MCE: u32 = 1 << 7;
    pub const CX8: u32 = 1 << 8;
    pub const APIC: u32 = 1 << 9;
    pub const SEP: u32 = 1 << 11;
    pub const MTRR: u32 = 1 << 12;
    pub const PGE: u32 = 1 << 13;
    pub const MCA: u32 = 1 << 14;
    pub const CMOV: u32 = 1 << 15;
    pub const PAT: u32 = 1 << 16;
    pub const PSE36: u32 = 1 << 17;
    pub const CLFSH: u32 = 1 << 19;
    pub const ACPI: u32 = 1 << 22;
    pub const MMX: u32 = 1 << 23;
    pub const FXSR: u32 = 1 << 24;
    pub const SSE: u32 = 1 << 25;
    pub const SSE2: u32 = 1 << 26;
    pub const SS: u32 = 1 << 27;
}

/// Feature bits of CPUID leaf 1, ECX (Intel SDM vol. 2A, table 3-10).
#[allow(missing_docs)] // the names are the SDM's
pub mod feature_ecx {
    pub const SSE3: u32 = 1 << 0;
    pub const MONITOR: u32 = 1 << 3;
}

/// Feature bits of CPUID leaf 80000001h, EDX.
#[allow(missing_docs)] // the names are the SDM's
pub mod feature_extended {
    pub const NX: u32 = 1 << 20;
}

/// What the processors have and Ringshift does not emulate, and so does not announce either: the
/// virtual-8086 mode extensions, machine checks, the local APIC, MTRRs and PAT, the thermal
/// monitor's registers (leaf 1, EDX).
pub const NOT_EMULATED: u32 = feature::VME
    | feature::MCE
    | feature::APIC
    | feature::MTRR
    | feature::MCA
    | feature::PAT
    | feature::ACPI;

/// As [`NOT_EMULATED`], for leaf 1, ECX: MONITOR and MWAIT.
pub const NOT_EMULATED_ECX: u32 = feature_ecx::MONITOR;

/// A processor that the guest is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuModel {
    /// Intel486 DX4: CPUID and large pages, no time-stamp counter, no MSRs.
    I486,
    /// Pentium with MMX.
    Pentium,
    /// Pentium III.
    Pentium3,
    /// Core Duo, the last 32-bit processor of the line: all that a 32-bit operating system asks for.
    #[default]
    CoreDuo,
}

/// The name is not that of a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown processor model '{0}'; there are {names}", names = CpuModel::ALL.map(CpuModel::name).join(", "))]
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
        f.pad(self.name())
    }
}

impl CpuModel {
    /// All models, oldest first.
    pub const ALL: [CpuModel; 4] = [
        CpuModel::I486,
        CpuModel::Pentium,
        CpuModel::Pentium3,
        CpuModel::CoreDuo,
    ];

    /// The name used on the command line; QEMU's.
    pub const fn name(self) -> &'static str {
        match self {
            CpuModel::I486 => "486",
            CpuModel::Pentium => "pentium",
            CpuModel::Pentium3 => "pentium3",
            CpuModel::CoreDuo => "coreduo",
        }
    }

    /// What it is and has, in a line.
    pub const fn description(self) -> &'static str {
        match self {
            CpuModel::I486 => "Intel486 DX4: FPU, CPUID, 4 MiB pages",
            CpuModel::Pentium => "Pentium with MMX: TSC, MSRs, CMPXCHG8B, I/O breakpoints",
            CpuModel::Pentium3 => "Pentium III: PAE, PGE, CMOV, SYSENTER, FXSAVE, SSE, PSE-36",
            CpuModel::CoreDuo => "Core Duo T2600: PAE with NX, PGE, SSE2, SSE3, CLFLUSH",
        }
    }

    /// Type, family, model and stepping: EAX of leaf 1, and EDX after reset.
    pub const fn signature(self) -> u32 {
        match self {
            CpuModel::I486 => 0x0480,
            CpuModel::Pentium => 0x0543,
            CpuModel::Pentium3 => 0x0673,
            CpuModel::CoreDuo => 0x06E8,
        }
    }

    /// EDX of leaf 1 as the processor itself has it, see [`feature`].
    const fn silicon(self) -> u32 {
        use feature::*;
        const I486: u32 = FPU | VME | PSE;
        const PENTIUM: u32 = I486 | DE | TSC | MSR | MCE | CX8 | APIC | MMX;
        const P6: u32 = PENTIUM | PAE | SEP | MTRR | PGE | MCA | CMOV | PAT | FXSR | SSE;
        match self {
            CpuModel::I486 => I486,
            CpuModel::Pentium => PENTIUM,
            CpuModel::Pentium3 => P6 | PSE36,
            CpuModel::CoreDuo => P6 | CLFSH | ACPI | SSE2 | SS,
        }
    }

    /// EDX of leaf 1, see [`feature`].
    pub const fn features(self) -> u32 {
        self.silicon() & !NOT_EMULATED
    }

    /// ECX of leaf 1, see [`feature_ecx`].
    pub const fn features_ecx(self) -> u32 {
        use feature_ecx::*;
        let silicon = match self {
            CpuModel::CoreDuo => SSE3 | MONITOR,
            _ => 0,
        };
        silicon & !NOT_EMULATED_ECX
    }

    /// EDX of leaf 80000001h, see [`feature_extended`].
    pub const fn features_extended(self) -> u32 {
        match self {
            CpuModel::CoreDuo => feature_extended::NX,
            _ => 0,
        }
    }

    /// All of these features are there.
    pub const fn has(self, features: u32) -> bool {
        self.features() & features == features
    }

    /// The Streaming SIMD Extensions 3, FISTTP included.
    pub const fn has_sse3(self) -> bool {
        self.features_ecx() & feature_ecx::SSE3 != 0
    }

    /// EFER.NXE, and with it the execute-disable bit of PAE entries.
    pub const fn has_execute_disable(self) -> bool {
        self.features_extended() & feature_extended::NX != 0
    }

    /// CPUID exists, and with it EFLAGS.ID: on every model there is.
    pub const fn has_cpuid(self) -> bool {
        true
    }

    /// The hint instructions (0F 18 to 0F 1F, the NOP with a memory operand among them): from the
    /// Pentium Pro on, undefined before.
    pub const fn has_hint_nops(self) -> bool {
        self.has(feature::CMOV)
    }

    /// RDPMC exists: from the Pentium with MMX on.
    pub const fn has_performance_counters(self) -> bool {
        self.has(feature::MMX)
    }

    /// IA32_MISC_ENABLE exists, and the time-stamp counter can be written in full: from the Pentium
    /// 4 on.
    pub const fn has_misc_enable(self) -> bool {
        self.has(feature::SSE2)
    }

    /// The bits of MXCSR that are not reserved: denormals-are-zeros came with later processors than the
    /// Pentium III (Intel SDM vol. 1, section 11.6.6).
    pub const fn mxcsr_mask(self) -> u32 {
        if self.has(feature::SSE2) {
            0xFFFF
        } else {
            0xFFBF
        }
    }

    /// Width of a physical address in bits.
    pub const fn physical_bits(self) -> u8 {
        if self.has(feature::PSE36) { 36 } else { 32 }
    }

    /// CR4 exists.
    pub const fn has_cr4(self) -> bool {
        self.cr4_bits() != 0
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
        if self.has_cpuid() {
            eflags::AC | eflags::ID
        } else {
            eflags::AC
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_an_unknown_one_is_told_all() {
        for model in CpuModel::ALL {
            assert_eq!(model.name().parse(), Ok(model));
        }
        let error = "z80".parse::<CpuModel>().unwrap_err().to_string();
        for model in CpuModel::ALL {
            assert!(error.contains(model.name()), "{error}");
        }
    }

    #[test]
    fn family_6_has_what_a_686_kernel_requires() {
        use feature::*;
        for model in [CpuModel::Pentium3, CpuModel::CoreDuo] {
            assert!(
                model.has(FPU | PSE | TSC | MSR | PAE | CX8 | CMOV | SEP | MMX | FXSR | PGE | SSE)
            );
            assert_eq!(model.signature() >> 8 & 0xF, 6);
        }
    }

    #[test]
    fn each_model_has_what_the_one_before_has() {
        // PSE-36 came with the Pentium II, and this Core Duo is given 32 address bits.
        for pair in CpuModel::ALL.windows(2) {
            assert_eq!(
                pair[0].features() & !feature::PSE36 & !pair[1].features(),
                0,
                "{pair:?}"
            );
        }
    }

    #[test]
    fn execute_disable_needs_pae() {
        for model in CpuModel::ALL {
            assert!(!model.has_execute_disable() || model.has(feature::PAE));
        }
    }
}

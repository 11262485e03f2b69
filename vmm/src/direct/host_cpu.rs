//! The host's processor, as far as it matters to the engines.
#![allow(unsafe_code)] // CPUID and the auxiliary vector

use std::arch::x86_64::{__cpuid, CpuidResult};

use serde::Serialize;

/// The host's processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostCpu {
    /// Vendor string.
    pub vendor: String,
    /// Brand string.
    pub name: String,
    /// Processors available to this process.
    pub threads: usize,
    /// The kernel lets programs use `rdgsbase` and its like.
    pub fsgsbase: bool,
    /// VT-x or AMD-V is visible.
    pub hardware_virtualization: bool,
    /// This host is itself a virtual machine.
    pub hypervisor: bool,
}

impl HostCpu {
    /// Asks the processor.
    pub fn look() -> HostCpu {
        host_cpu()
    }
}

fn host_cpu() -> HostCpu {
    let basic = cpuid(0);
    let features = cpuid(1);
    let highest_extended = cpuid(0x8000_0000).eax;
    let extended = |leaf| {
        if leaf <= highest_extended {
            cpuid(leaf)
        } else {
            cpuid(0)
        }
    };
    let brand = if highest_extended >= 0x8000_0004 {
        let leaves = (0x8000_0002..=0x8000_0004).map(cpuid);
        text(leaves.flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]))
    } else {
        String::new()
    };
    let amd_v = highest_extended >= 0x8000_0001 && extended(0x8000_0001).ecx & (1 << 2) != 0;
    /// `HWCAP2_FSGSBASE` (Linux, `arch/x86/include/uapi/asm/hwcap2.h`).
    const FSGSBASE: libc::c_ulong = 1 << 1;
    // SAFETY: reads the process's auxiliary vector.
    let capabilities = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    HostCpu {
        vendor: text([basic.ebx, basic.edx, basic.ecx]),
        name: brand,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        fsgsbase: capabilities & FSGSBASE != 0,
        hardware_virtualization: features.ecx & (1 << 5) != 0 || amd_v,
        hypervisor: features.ecx & (1 << 31) != 0,
    }
}

#[allow(unused_unsafe)] // the intrinsic is safe in newer toolchains
fn cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 processor has CPUID.
    unsafe { __cpuid(leaf) }
}

fn text(words: impl IntoIterator<Item = u32>) -> String {
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let text = String::from_utf8_lossy(&bytes);
    text.trim_matches(|c: char| c == '\0' || c.is_whitespace())
        .to_owned()
}

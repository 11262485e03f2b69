//! The KVM virtual machine and vCPU that the monitor runs on.
#![allow(unsafe_code)] // memory slots, and one ioctl that kvm-ioctls does not have

use std::os::fd::{AsRawFd, BorrowedFd};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr,
    kvm_dtable, kvm_interrupt, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use nix::errno::Errno;

use super::layout::{
    CODE, CODE_SELECTOR, DESCRIPTOR_TABLE_BYTES, ENTRY_STACK_TOP, GDT, IDT, MONITOR_GPA, ROOTS,
    STACK_SELECTOR, TSS, TSS_LIMIT, TSS_SELECTOR,
};
use super::memory::SharedMemory;
use super::tables::{gpa, linear};

/// Direct execution could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `/dev/kvm` cannot be opened, or a call on it failed.
    #[error("{what}: {errno}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// The host's reason.
        errno: Errno,
    },
    /// The host's KVM speaks another version of the interface.
    #[error("KVM API version {0}, not 12")]
    ApiVersion(i32),
    /// A capability is missing that direct execution cannot do without.
    #[error("KVM lacks {0}")]
    Missing(&'static str),
    /// Memory could not be mapped.
    #[error("mapping memory for direct execution: {0}")]
    Memory(#[from] Errno),
}

/// KVM's device; the `what` of an error that says it cannot be opened.
pub(super) const DEVICE: &str = "/dev/kvm";

/// Makes a KVM error say what was tried.
pub(super) fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> SetupError {
    move |error| SetupError::Kvm {
        what,
        errno: Errno::from_raw(error.errno()),
    }
}

/// CR0 of the monitor: PE, MP, ET, NE, WP, PG.
pub(super) const CR0: u64 = 0x8001_0033;
/// CR0.TS.
pub(super) const CR0_TS: u64 = 1 << 3;
/// CR4 of the monitor: PAE.
pub(super) const CR4: u64 = 1 << 5;
/// CR4.UMIP.
pub(super) const CR4_UMIP: u64 = 1 << 11;
/// EFER: LME, LMA, NXE. Without SCE, `syscall` is #UD.
const EFER: u64 = 0xD00;

/// MSR_PLATFORM_INFO; bit 31: CPUID faulting is there.
const MSR_PLATFORM_INFO: u32 = 0xCE;
/// MSR_MISC_FEATURES_ENABLES; bit 0: CPUID faults outside ring 0.
const MSR_MISC_FEATURES_ENABLES: u32 = 0x140;

/// What the host's KVM turned out to offer the monitor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// `sgdt` and the like fault at ring 3.
    pub(super) umip: bool,
}

/// Opens `/dev/kvm` and checks what cannot be done without.
pub(super) fn open() -> Result<Kvm, SetupError> {
    let kvm = Kvm::new().map_err(failed(DEVICE))?;
    let version = kvm.get_api_version();
    if version != 12 {
        return Err(SetupError::ApiVersion(version));
    }
    for (cap, name) in [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(SetupError::Missing(name));
        }
    }
    Ok(kvm)
}

/// Memory slot of the guest's memory.
pub(super) const RAM_SLOT: u32 = 0;
/// Memory slot of the monitor's memory.
const MONITOR_SLOT: u32 = 1;

/// Makes a VM with the monitor's memory above 4 GiB.
pub(super) fn create_vm(kvm: &Kvm, monitor: &SharedMemory) -> Result<VmFd, SetupError> {
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    // Some processors need a place for a TSS in real mode; it must not be in a slot.
    if kvm.check_extension(Cap::SetTssAddr) {
        vm.set_tss_address(0xFFFB_D000)
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
    }
    add_memory(&vm, MONITOR_SLOT, MONITOR_GPA, monitor)?;
    Ok(vm)
}

/// Shows memory to the VM at a guest-physical address.
pub(super) fn add_memory(
    vm: &VmFd,
    slot: u32,
    address: u64,
    memory: &SharedMemory,
) -> Result<(), SetupError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: address,
        memory_size: memory.bytes(),
        userspace_addr: memory.host_address(),
    };
    // SAFETY: the mapping outlives the VM (`World` drops the VM first).
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))
}

/// Makes the vCPU and puts it at the monitor's `resume` in long mode.
pub(super) fn create_vcpu(
    kvm: &Kvm,
    vm: &VmFd,
    resume: u64,
) -> Result<(VcpuFd, Features), SetupError> {
    let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
    let leaf7 = cpuid
        .as_slice()
        .iter()
        .find(|e| e.function == 7 && e.index == 0);
    let features = Features {
        umip: leaf7.is_some_and(|leaf| leaf.ecx & (1 << 2) != 0),
    };
    vcpu.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;
    let sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    vcpu.set_sregs(&long_mode(sregs, features))
        .map_err(failed("KVM_SET_SREGS"))?;
    vcpu.set_regs(&kvm_regs {
        rip: linear(CODE + resume),
        rsp: linear(ENTRY_STACK_TOP),
        rflags: 2,
        ..kvm_regs::default()
    })
    .map_err(failed("KVM_SET_REGS"))?;
    if !enable_cpuid_faulting(&vcpu) {
        tracing::debug!(target: "ringshift::direct", "no CPUID faulting: the guest sees the host's");
    }
    Ok((vcpu, features))
}

/// Queues an external interrupt; the vCPU must be able to take it.
pub(super) fn inject(vcpu: &VcpuFd, vector: u8) -> Result<(), Errno> {
    /// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`
    const KVM_INTERRUPT: libc::c_ulong = 0x4004_AE86;
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: KVM_INTERRUPT reads the structure; the descriptor is a vCPU's.
    let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT, &raw const interrupt) };
    Errno::result(result).map(|_| ())
}

/// The vCPU's descriptor.
pub(super) fn descriptor(vcpu: &VcpuFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the borrow of `vcpu` lasts.
    unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }
}

fn long_mode(sregs: kvm_sregs, features: Features) -> kvm_sregs {
    let flat = kvm_segment {
        limit: 0xFFFF_FFFF,
        present: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment {
        selector: STACK_SELECTOR,
        type_: 3,
        db: 1,
        ..flat
    };
    kvm_sregs {
        cs: kvm_segment {
            selector: CODE_SELECTOR,
            type_: 0xB,
            l: 1,
            ..flat
        },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment {
            selector: TSS_SELECTOR,
            base: linear(TSS),
            limit: TSS_LIMIT as u32,
            type_: 0xB,
            present: 1,
            ..kvm_segment::default()
        },
        ldt: kvm_segment {
            unusable: 1,
            ..kvm_segment::default()
        },
        gdt: kvm_dtable {
            base: linear(GDT),
            limit: (DESCRIPTOR_TABLE_BYTES - 1) as u16,
            padding: [0; 3],
        },
        idt: kvm_dtable {
            base: linear(IDT),
            limit: 256 * 16 - 1,
            padding: [0; 3],
        },
        cr0: CR0,
        cr2: 0,
        cr3: gpa(ROOTS),
        cr4: CR4 | if features.umip { CR4_UMIP } else { 0 },
        cr8: 0,
        efer: EFER,
        ..sregs
    }
}

/// Makes `cpuid` fault outside ring 0; true if KVM can.
pub(super) fn enable_cpuid_faulting(vcpu: &VcpuFd) -> bool {
    let set = |index, data| {
        let entry = kvm_msr_entry {
            index,
            data,
            ..kvm_msr_entry::default()
        };
        let one = Msrs::from_entries(&[entry]);
        one.is_ok_and(|msrs| vcpu.set_msrs(&msrs).is_ok_and(|done| done == 1))
    };
    set(MSR_PLATFORM_INFO, 1 << 31) && set(MSR_MISC_FEATURES_ENABLES, 1)
}

/// Sets what KVM adds to the host's time-stamp counter for the guest; true if it can.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> bool {
    /// `_IOW(KVMIO, 0xE1, struct kvm_device_attr)`
    const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_AEE1;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: &raw const offset as u64,
        flags: 0,
    };
    // SAFETY: KVM_SET_DEVICE_ATTR reads the attribute and the eight bytes it points to.
    let result =
        unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) };
    result == 0
}

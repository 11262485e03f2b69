//! Does this host's KVM run ring-3 code in legacy protected mode, and in virtual-8086 mode?
//!
//! Only for the report: direct execution does not use them. The guest is a vCPU without a monitor.
//! Its program ends in a counting loop, and is left by a kick: an exception would change rings
//! through a 32-bit TSS, which some emulated processors cannot do.

use std::time::{Duration, Instant};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::errno::Errno;
use serde::Serialize;

use super::watchdog::Watchdog;
use crate::direct::kick::Kicker;
use crate::direct::kvm::{self, SetupError, failed};
use crate::direct::memory::SharedMemory;

/// What was found of one of these modes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Legacy {
    /// What went wrong; `None`: nothing did.
    pub wrong: Option<String>,
    /// One instruction of a counting loop of two, picoseconds.
    pub instruction_ps: Option<u64>,
}

/// How long the loop runs.
const SLICE: Duration = Duration::from_millis(3);

const MEMORY_BYTES: u64 = 64 << 10;
const DIRECTORY: u64 = 0x1000;
const TABLE: u64 = 0x2000;
const CODE: u64 = 0x3000;
const DATA: u64 = 0x4000;
const TSS: u64 = 0x5000;

/// The number that the programs work on, and what they make of it.
const NUMBER: u32 = 0x1234_5678;
const SUM: u32 = NUMBER.wrapping_add(0x0101);

/// CR0: PE, ET, NE; and with PG.
const PROTECTED: u64 = 0x31;
const PAGED: u64 = 0x8000_0031;
/// EFLAGS: VM, IF and the fixed bit.
const VM86: u64 = 0x2_0202;
const RING_3: u64 = 0x202;

/// Looks at 32-bit ring 3 with 32-bit paging.
pub(super) fn legacy32() -> Legacy {
    #[rustfmt::skip]
    let code = [
        0xA1, 0x00, 0x40, 0, 0, // mov eax, [DATA]
        0x05, 0x01, 0x01, 0, 0, // add eax, 101h
        0x50, 0x59,             // push eax; pop ecx
        0x89, 0x0D, 0x04, 0x40, 0, 0, // mov [DATA + 4], ecx
        0x43, 0xEB, 0xFD,       // 1: inc ebx; jmp 1b
    ];
    let user = |selector, type_| kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let prepare = |sregs: &mut kvm_sregs| {
        sregs.cs = user(0x1B, 0xB);
        let data = user(0x23, 0x3);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        (sregs.cr0, sregs.cr3) = (PAGED, DIRECTORY);
    };
    look(&code, prepare, (CODE, RING_3))
}

/// Looks at virtual-8086 mode.
pub(super) fn v86() -> Legacy {
    #[rustfmt::skip]
    let code = [
        0x66, 0xA1, 0x00, 0x00,             // mov eax, [0]
        0x66, 0x05, 0x01, 0x01, 0, 0,       // add eax, 101h
        0x66, 0x50, 0x66, 0x59,             // push eax; pop ecx
        0x66, 0x89, 0x0E, 0x04, 0x00,       // mov [4], ecx
        0x66, 0x43, 0xEB, 0xFC,             // 1: inc ebx; jmp 1b
    ];
    let real = |base: u64| kvm_segment {
        base,
        limit: 0xFFFF,
        selector: (base >> 4) as u16,
        type_: 0x3,
        present: 1,
        dpl: 3,
        s: 1,
        ..kvm_segment::default()
    };
    let prepare = |sregs: &mut kvm_sregs| {
        sregs.cs = real(CODE);
        let data = real(DATA);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.cr0 = PROTECTED;
    };
    look(&code, prepare, (0, VM86))
}

/// Runs a program from `start`, its EIP and EFLAGS.
fn look(code: &[u8], prepare: impl FnOnce(&mut kvm_sregs), start: (u64, u64)) -> Legacy {
    match measure(code, prepare, start) {
        Ok(Ok(ps)) => Legacy {
            wrong: None,
            instruction_ps: Some(ps),
        },
        Ok(Err(wrong)) => Legacy {
            wrong: Some(wrong),
            instruction_ps: None,
        },
        Err(error) => Legacy {
            wrong: Some(error.to_string()),
            instruction_ps: None,
        },
    }
}

fn measure(
    code: &[u8],
    prepare: impl FnOnce(&mut kvm_sregs),
    (rip, rflags): (u64, u64),
) -> Result<Result<u64, String>, SetupError> {
    let kvm = kvm::open()?;
    // Dropped after the VM.
    let memory = SharedMemory::anonymous(MEMORY_BYTES)?;
    for page in 0..MEMORY_BYTES / 0x1000 {
        memory.write(TABLE + page * 4, (page << 12) as u32 | 7);
    }
    memory.write(DIRECTORY, TABLE as u32 | 7);
    memory.write_bytes(CODE, code);
    memory.write(DATA, NUMBER);
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    kvm::add_memory(&vm, kvm::RAM_SLOT, 0, &memory)?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    prepare(&mut sregs);
    sregs.tr = kvm_segment {
        base: TSS,
        limit: 0x67,
        selector: 0x28,
        type_: 0xB,
        present: 1,
        ..kvm_segment::default()
    };
    vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    vcpu.set_regs(&kvm_regs {
        rip,
        rflags,
        rsp: 0x800,
        ..kvm_regs::default()
    })
    .map_err(failed("KVM_SET_REGS"))?;
    if rflags == RING_3 {
        let mut regs = vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?;
        regs.rsp += DATA;
        vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
    }
    let kicker = Kicker::new(kvm::descriptor(&vcpu))?;
    let begin = Instant::now();
    let watchdog = Watchdog::start(kicker.clone(), SLICE);
    let left = run(&mut vcpu, &kicker);
    let elapsed = begin.elapsed();
    drop(watchdog);
    if let Err(wrong) = left {
        return Ok(Err(wrong));
    }
    let regs = vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?;
    for (what, found) in [
        ("EAX", regs.rax as u32),
        ("ECX", regs.rcx as u32),
        ("memory", memory.read(DATA + 4)),
    ] {
        if found != SUM {
            return Ok(Err(format!("{what} is {found:#x}, not {SUM:#x}")));
        }
    }
    if regs.rflags & (VM86 | RING_3) != rflags {
        return Ok(Err(format!("EFLAGS is {:#x}", regs.rflags)));
    }
    if regs.rbx == 0 {
        return Ok(Err("the loop does not run".to_owned()));
    }
    let picoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX) * 1000;
    Ok(Ok(picoseconds / (2 * regs.rbx)))
}

/// Runs until a kick.
fn run(vcpu: &mut VcpuFd, kicker: &Kicker) -> Result<(), String> {
    /// Interruptions by other signals that are waited out.
    const PATIENCE: u32 = 1000;
    for _ in 0..PATIENCE {
        kicker.enter();
        let exit = vcpu.run();
        let result = match exit {
            Ok(VcpuExit::Intr) => Ok(()),
            Ok(other) => Err(format!("KVM came back with {other:?}")),
            Err(error) => match Errno::from_raw(error.errno()) {
                Errno::EINTR | Errno::EAGAIN => Ok(()),
                errno => Err(format!("KVM_RUN: {errno}")),
            },
        };
        kicker.leave();
        result?;
        if kicker.take() {
            return Ok(());
        }
    }
    Err("KVM comes back all the time".to_owned())
}

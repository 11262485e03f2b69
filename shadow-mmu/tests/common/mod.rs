//! A guest with 32-bit page tables for tests, and a careful look into windows.
#![allow(unsafe_code)] // process_vm_readv and process_vm_writev
#![allow(dead_code)] // each test uses its own part

pub(crate) mod history;
pub(crate) mod model;

use shadow_mmu::{
    Access, FaultCode, FaultOutcome, Mmu, MmuConfig, MmuEvent, PagingRegs, PhysTarget, Privilege,
};

pub(crate) const P: u32 = 1;
pub(crate) const W: u32 = 2;
pub(crate) const U: u32 = 4;
pub(crate) const A: u32 = 0x20;
pub(crate) const D: u32 = 0x40;
pub(crate) const PS: u32 = 0x80;

pub(crate) const CR0_PG: u32 = 1 << 31;
pub(crate) const CR0_WP: u32 = 1 << 16;
pub(crate) const CR4_PSE: u32 = 1 << 4;
pub(crate) const CR4_PAE: u32 = 1 << 5;

pub(crate) const READ: Access = Access::read(Privilege::Supervisor);
pub(crate) const WRITE: Access = Access::write(Privilege::Supervisor);
pub(crate) const USER_READ: Access = Access::read(Privilege::User);
pub(crate) const USER_WRITE: Access = Access::write(Privilege::User);

pub(crate) const ROOT: u32 = 0x10_0000;
pub(crate) const TABLE: u32 = 0x10_1000;
pub(crate) const KERNEL_TABLE: u32 = 0x10_2000;
pub(crate) const DATA: u32 = 0x20_0000;
pub(crate) const USER: u32 = 0x0804_8000;
pub(crate) const KERNEL: u32 = 0xc000_0000;

pub(crate) fn mmu(mib: u64) -> Mmu {
    Mmu::new(MmuConfig {
        ram_bytes: mib << 20,
        ..MmuConfig::default()
    })
    .unwrap()
}

pub(crate) fn paging(cr3: u32) -> PagingRegs {
    PagingRegs {
        cr0: 1 | CR0_PG | CR0_WP,
        cr3,
        cr4: CR4_PSE,
        efer: 0,
    }
}

pub(crate) fn put32(mmu: &mut Mmu, gpa: u32, value: u32) {
    mmu.write_phys(u64::from(gpa), &value.to_le_bytes())
        .unwrap();
}

pub(crate) fn get32(mmu: &Mmu, gpa: u32) -> u32 {
    let mut raw = [0; 4];
    mmu.read_phys(u64::from(gpa), &mut raw).unwrap();
    u32::from_le_bytes(raw)
}

/// Enters a 4 KiB page in the tables below `root`; makes a page table at `table` if there is none.
pub(crate) fn map4k(mmu: &mut Mmu, root: u32, table: u32, linear: u32, entry: u32) {
    let slot = root + (linear >> 22) * 4;
    if get32(mmu, slot) & P == 0 {
        put32(mmu, slot, table | P | W | U | A);
    }
    let table = get32(mmu, slot) & !0xfff;
    put32(mmu, table + (linear >> 12 & 1023) * 4, entry);
}

/// One user page, one kernel page, paging on.
pub(crate) fn guest() -> Mmu {
    let mut m = mmu(16);
    map4k(&mut m, ROOT, TABLE, USER, DATA | P | W | U);
    put32(&mut m, ROOT + (KERNEL >> 22) * 4, KERNEL_TABLE | P | W);
    map4k(&mut m, ROOT, KERNEL_TABLE, KERNEL, 0x30_0000 | P | W);
    m.set_paging(paging(ROOT));
    m
}

/// Reads host memory; `None` where it is not readable.
pub(crate) fn peek(base: u64, linear: u32) -> Option<u32> {
    let mut value = 0u32;
    let local = libc::iovec {
        iov_base: (&raw mut value).cast(),
        iov_len: 4,
    };
    let remote = libc::iovec {
        iov_base: (base + u64::from(linear)) as *mut libc::c_void,
        iov_len: 4,
    };
    // SAFETY: the local buffer is 4 bytes long; the kernel checks the remote one.
    let n = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    (n == 4).then_some(value)
}

/// Writes host memory as translated code would; false where it is not writable.
pub(crate) fn poke(base: u64, linear: u32, value: u32) -> bool {
    let mut value = value;
    let local = libc::iovec {
        iov_base: (&raw mut value).cast(),
        iov_len: 4,
    };
    let remote = libc::iovec {
        iov_base: (base + u64::from(linear)) as *mut libc::c_void,
        iov_len: 4,
    };
    // SAFETY: as in `peek`. Nothing but guest memory is written: the remote address is within a window.
    let n = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    n == 4
}

/// How an access ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Value(u32),
    Fault(FaultCode),
    /// It has to go to a device, or nowhere.
    NotMemory(u64),
}

/// What an engine does for a load or store of translated code: tries the window, handles the fault, retries, and carries out
/// what cannot be mapped.
pub(crate) fn engine(mmu: &mut Mmu, linear: u32, access: Access, value: u32) -> Done {
    let write = access.kind == shadow_mmu::AccessKind::Write;
    let mut p = access.privilege;
    for _ in 0..4 {
        let base = mmu.view(p).base;
        let done = if write {
            poke(base, linear, value).then_some(value)
        } else {
            peek(base, linear)
        };
        if let Some(value) = done {
            return Done::Value(value);
        }
        match mmu.handle_fault(linear, access) {
            FaultOutcome::Filled => p = access.privilege,
            FaultOutcome::UserPage => p = Privilege::User,
            FaultOutcome::PageFault(fault) => return Done::Fault(fault.code),
            FaultOutcome::Trapped(r)
                if matches!(r.target, PhysTarget::Device | PhysTarget::Hole) =>
            {
                return Done::NotMemory(r.gpa);
            }
            FaultOutcome::Trapped(_) if write => {
                mmu.write_linear(linear, &value.to_le_bytes(), access)
                    .unwrap();
                return Done::Value(value);
            }
            FaultOutcome::Trapped(_) => {
                let mut raw = [0; 4];
                mmu.read_linear(linear, &mut raw, access).unwrap();
                return Done::Value(u32::from_le_bytes(raw));
            }
        }
    }
    panic!("no progress at {linear:#x} {access:?}");
}

/// As [`engine`], for accesses to memory; `None` is a true fault.
pub(crate) fn access(mmu: &mut Mmu, linear: u32, access: Access, value: u32) -> Option<u32> {
    match engine(mmu, linear, access, value) {
        Done::Value(value) => Some(value),
        Done::Fault(_) => None,
        Done::NotMemory(gpa) => panic!("no memory at {gpa:#x}"),
    }
}

pub(crate) fn events(mmu: &mut Mmu) -> Vec<MmuEvent> {
    let mut out = Vec::new();
    mmu.take_events(&mut out);
    out
}

/// What a history is chosen by.
pub(crate) trait Choices {
    /// 48 bits of any value.
    fn next(&mut self) -> u64;

    /// A number below `n`, which is not 0.
    fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }

    /// True once in `n` times.
    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// There is nothing left to choose from.
    fn is_done(&self) -> bool {
        false
    }
}

/// xorshift64*: enough for tests, and the same everywhere.
pub(crate) struct Rng(pub(crate) u64);

impl Choices for Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

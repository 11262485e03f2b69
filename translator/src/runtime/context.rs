//! The context: what translated code reaches through R15.

use super::lookaside::Lookaside;
use super::shortcut::Shortcuts;
use super::store_table::StoreBases;
use crate::state::CpuState;
use std::sync::atomic::AtomicU64;

/// Why translated code was left. Written by the stubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reason {
    /// An instruction that is carried out in Rust; `site` is behind the call.
    Callout = 0,
    /// An intra-page jump that is not linked yet; `site` is behind the call.
    Link = 1,
    /// The jump table has no entry; R8 holds the target EIP.
    Miss = 2,
    /// A unit that is no longer valid was entered; `site` is behind the call at its entry.
    Dead = 3,
    /// The host processor reported a fault at `site`.
    Fault = 4,
    /// A memory access carried out by Rust: R8 holds the offset and receives the host address.
    Prepare = 5,
    /// The access prepared before has been written to.
    Commit = 6,
    /// The unit has run its one instruction (single step).
    Stepped = 7,
    /// A jump out of a unit that runs a single instruction; R8 holds the target EIP.
    SteppedTo = 8,
}

impl Reason {
    pub(crate) fn from_raw(raw: u32) -> Option<Reason> {
        const ALL: [Reason; 9] = [
            Reason::Callout,
            Reason::Link,
            Reason::Miss,
            Reason::Dead,
            Reason::Fault,
            Reason::Prepare,
            Reason::Commit,
            Reason::Stepped,
            Reason::SteppedTo,
        ];
        ALL.get(raw as usize).copied()
    }
}

/// The state block that translated code works on. R15 points at it.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Context {
    /// The architectural state. While translated code runs the general registers, the live flags
    /// and IF are elsewhere: see [`Context::flags`] and [`Context::interrupt_flag`].
    pub(crate) cpu: CpuState,
    /// Host RFLAGS with the guest's live flags, at entry and exit.
    pub(crate) flags: u64,
    /// R8 to R11 at exit; loaded at entry.
    pub(crate) scratch: [u64; 4],
    /// R12 at entry and exit.
    pub(crate) stack: u64,
    /// R14 and GS base: host address of guest-linear 0.
    pub(crate) window: u64,
    /// GS base as it was last set, to save the write.
    pub(crate) gs_base: u64,
    /// RSP of the Rust side.
    pub(crate) host_rsp: u64,
    /// Where to enter.
    pub(crate) target: u64,
    /// Host address where translated code was left.
    pub(crate) site: u64,
    /// A [`Reason`].
    pub(crate) reason: u32,
    /// The flags that are not live: EFLAGS without STATUS, DF and IF.
    pub(crate) eflags_rest: u32,
    /// IF, 0 or 1.
    pub(crate) interrupt_flag: u8,
    /// Guest FPU state is (or, in Rust, was at exit) in the host's registers.
    pub(crate) fpu_loaded: u8,
    /// Dereferenced at loop edges: faults when the vCPU is to leave.
    pub(crate) poll: AtomicU64,
    /// Dereferenced after STI: faults when an interrupt is pending.
    pub(crate) sti_poll: u64,
    /// The current jump table, or the empty one when an interrupt is pending.
    pub(crate) sti_jump_table: u64,
    /// Entry 0 of the current jump table (`u32` for each EIP).
    pub(crate) jump_table: AtomicU64,
    /// Window base + segment base; a non-canonical address where the segment cannot be used with
    /// every 32-bit offset.
    pub(crate) segment_base: [u64; 6],
    /// The same for accesses that check the limit themselves: any limit, but read, write and
    /// expand-up.
    pub(crate) checked_base: [u64; 6],
    /// An address to read, which faults under the condition of `segment_base`.
    pub(crate) segment_check: [u64; 6],
    /// The x87 environment with its host addresses, in front of FSTENV, FSAVE and FXSAVE.
    pub(crate) fpu_environment: [u32; 7],
    /// Dereferenced before the first FPU instruction of a unit: faults when guest FPU state is not in the
    /// host's registers.
    pub(crate) fpu_guard: u64,
    /// Called behind a write that Rust prepared: a stub, or nothing where the write is done.
    pub(crate) commit: u64,
    /// For each 16 MiB of guest-linear space the window that a supervisor access uses.
    pub(crate) regions: [u64; 256],
    /// Address of the last byte before pages that fault: base of limit checks.
    pub(crate) limit_check: u64,
    /// Guest instructions executed, where they are counted.
    pub(crate) instructions: u64,
    /// Fault address (CR2) of the host fault.
    pub(crate) fault_address: u64,
    /// Error code of the host fault.
    pub(crate) fault_error: u64,
    /// Vector of the host fault.
    pub(crate) fault_vector: u64,
    /// The store table of the space in use: a byte for each linear address.
    pub(crate) store_table: u64,
    /// What a byte of a store table stands for, by size of the operand.
    pub(crate) store_bases: StoreBases,
    /// What string instructions move their pointers by, in elements: 1, or with DF set -1.
    pub(crate) direction: u32,
    /// What privileged instructions without Rust need.
    pub(crate) shortcuts: Shortcuts,
    /// Executions of indirect jumps, counted down: see [`jump_slot`].
    pub(crate) jump_counts: [u32; JUMP_SLOTS],
    /// Pages that are written without their window.
    pub(crate) lookaside: Lookaside,
}

/// Counters of indirect jumps; jumps that share one are counted together, which does no harm.
pub(crate) const JUMP_SLOTS: usize = 256;

/// The counter of the indirect jump at `eip`.
pub(crate) fn jump_slot(eip: u32) -> usize {
    (eip ^ eip >> 8) as usize % JUMP_SLOTS
}

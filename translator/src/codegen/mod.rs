//! Code generation: a run of guest instructions becomes a *unit* of host code.

pub(crate) mod asm;
mod bcd;
mod builder;
mod cases;
mod control;
pub(crate) mod features;
mod fpu;
mod identity;
pub(crate) mod inventory;
pub(crate) mod layout;
mod leave;
mod length;
mod loops;
mod memory;
pub(crate) mod mode;
mod paragraph;
mod shortcut;
mod stack;
mod string;
pub(crate) mod system;
mod thunk;

pub(crate) use builder::{CodeSource, Stubs, Translation, build};
pub(crate) use cases::JumpForm;
pub(crate) use leave::table_jump;
pub(crate) use thunk::Thunk;

use iced_x86::Instruction;

/// What a fault taught about the memory accesses of one guest instruction. The instruction is
/// translated again in the form that the hint names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AccessHint {
    /// Nothing is known: the fastest form.
    #[default]
    None,
    /// The effective address wraps around at 4 GiB: 32-bit form.
    Wrapped,
    /// Through FS or GS with a limit in protected mode: checked in line.
    Checked,
    /// Kernel code that touches user pages: choose the window by the address.
    UserWindow,
    /// Writes to pages that hold code as well: a table says where it may.
    CheckedStore,
    /// Keeps faulting (device register, traced page): through Rust.
    Callout,
}

/// What Rust must know about a place where translated code calls it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SiteKind {
    /// Carry out the whole instruction.
    Callout(CalloutKind),
    /// A direct jump to `target` that can be linked: the displacement at `patch` (offset in the
    /// cache) is set to reach the target unit.
    Link {
        /// EIP to go on at.
        target: u32,
        /// Offset from the start of the unit of the displacement to patch.
        patch: u32,
    },
    /// A memory access through Rust.
    Prepare(Access),
    /// Entry of the unit.
    Entry,
}

/// Why an instruction is carried out in Rust. The table in `docs/callouts.md` is made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CalloutKind {
    /// Privileged: reads or writes what belongs to the monitor.
    Privileged,
    /// Sensitive: would read or write the monitor's state without a trap.
    Sensitive,
    /// Loads a segment register.
    SegmentLoad,
    /// Changes CS: far jump, call and return, interrupt return.
    FarTransfer,
    /// INT n, INT3, INTO, INT1, SYSENTER, SYSEXIT.
    SystemCall,
    /// Port input and output.
    PortIo,
    /// A string instruction through segments that are not flat, or on memory that is not mapped.
    String,
    /// Raises an exception whatever happens: undefined, or not of this processor.
    Undefined,
    /// The transfer leaves the code segment's limit, or the instruction is too long.
    CodeLimit,
    /// FSAVE, FSTENV, FXSAVE: holds addresses of the last x87 instruction.
    FpuState,
    /// BOUND: may raise an exception by comparing.
    Bound,
    /// ENTER with a nesting level.
    EnterNested,
    /// DAA, DAS, AAA, AAS: 64-bit mode does not have them.
    Decimal,
    /// Works on the processor's privilege fields: ARPL, VERR, VERW, LAR, LSL.
    SelectorCheck,
    /// An indirect jump while it is watched where it goes.
    IndirectJump,
}

impl CalloutKind {
    /// All kinds, in the order of statistics.
    pub const ALL: [CalloutKind; 15] = [
        CalloutKind::Privileged,
        CalloutKind::Sensitive,
        CalloutKind::SegmentLoad,
        CalloutKind::FarTransfer,
        CalloutKind::SystemCall,
        CalloutKind::PortIo,
        CalloutKind::String,
        CalloutKind::Undefined,
        CalloutKind::CodeLimit,
        CalloutKind::FpuState,
        CalloutKind::Bound,
        CalloutKind::EnterNested,
        CalloutKind::Decimal,
        CalloutKind::SelectorCheck,
        CalloutKind::IndirectJump,
    ];

    /// A stable short name for statistics.
    pub const fn name(self) -> &'static str {
        match self {
            CalloutKind::Privileged => "privileged",
            CalloutKind::Sensitive => "sensitive",
            CalloutKind::SegmentLoad => "segment-load",
            CalloutKind::FarTransfer => "far-transfer",
            CalloutKind::SystemCall => "system-call",
            CalloutKind::PortIo => "port-io",
            CalloutKind::String => "string",
            CalloutKind::Undefined => "undefined",
            CalloutKind::CodeLimit => "code-limit",
            CalloutKind::FpuState => "fpu-state",
            CalloutKind::Bound => "bound",
            CalloutKind::EnterNested => "enter-nested",
            CalloutKind::Decimal => "decimal",
            CalloutKind::SelectorCheck => "selector-check",
            CalloutKind::IndirectJump => "indirect-jump",
        }
    }
}

/// One memory access that Rust carries out for translated code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    /// Segment register.
    pub(crate) segment: usize,
    /// Bytes.
    pub(crate) size: u32,
    /// Reads.
    pub(crate) read: bool,
    /// Writes: a [`Reason::Commit`](crate::runtime::context::Reason::Commit) follows.
    pub(crate) write: bool,
    /// BT, BTS, BTR, BTC with a register: R11 holds the bit offset, which reaches beyond the
    /// operand; Rust folds its upper part into the address.
    pub(crate) bit_offset: bool,
}

/// A place in the host code of a unit where it calls Rust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    /// Offset in the unit of the return address.
    pub(crate) host: u32,
    /// Index in [`Built::instructions`].
    pub(crate) instruction: u32,
    pub(crate) kind: SiteKind,
}

/// Where the host code of a guest instruction begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstructionMap {
    /// Offset in the unit.
    pub(crate) host: u32,
    /// The decoded instruction.
    pub(crate) guest: Instruction,
}

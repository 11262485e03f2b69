//! What a decision is made from.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// The two ways to run guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Engine {
    /// The binary translator, which can run any guest state.
    Translator = 0,
    /// Direct execution on KVM, which can run the states that [`crate::legality`] allows.
    Direct = 1,
}

impl Engine {
    /// The name used in logs and statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Translator => "translator",
            Self::Direct => "direct",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Translator => Self::Direct,
            Self::Direct => Self::Translator,
        }
    }
}

/// Default operand and address size of the code segment, its D bit (Intel SDM vol. 3A, 3.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CodeSize {
    /// D = 0.
    Bits16,
    /// D = 1.
    Bits32,
}

bitflags! {
    /// A set of segment registers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub struct Segments: u8 {
        /// ES.
        const ES = 1 << 0;
        /// CS.
        const CS = 1 << 1;
        /// SS.
        const SS = 1 << 2;
        /// DS.
        const DS = 1 << 3;
        /// FS.
        const FS = 1 << 4;
        /// GS.
        const GS = 1 << 5;
    }
}

/// The part of a vCPU's state that decides which engine may and should run it.
///
/// The upper fields decide; `cs`, `eip`, `eflags` and `cr3` only say where the vCPU was, for the
/// record and for policies that learn by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Inputs {
    /// CR0.PE.
    pub protected_mode: bool,
    /// EFLAGS.VM.
    pub virtual_8086: bool,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// EFLAGS.IOPL, 0 to 3.
    pub iopl: u8,
    /// EFLAGS.IF.
    pub interrupt_flag: bool,
    /// EFLAGS.TF: a single-step trap follows the next instruction.
    pub trap_flag: bool,
    /// The instruction before was `sti`, `mov ss` or `pop ss`, and interrupts (and after `mov ss`
    /// debug exceptions) wait for the next one (Intel SDM vol. 3A, 6.8.3).
    pub interrupt_shadow: bool,
    /// DR7 enables a breakpoint, or general detection.
    pub debug_registers_enabled: bool,
    /// Segment registers whose hidden part is what loading their selector would give now. A null
    /// selector in an unusable data segment is reversible.
    pub reversible: Segments,
    /// A segment register has a limit that an offset of 32 bits can be beyond.
    pub limited: bool,
    /// D bit of CS.
    pub code_size: CodeSize,
    /// The B bit of SS is clear: pushes and pops use SP.
    pub stack_16: bool,
    /// CR0.PG.
    pub paging: bool,
    /// The guest's descriptor tables hold a descriptor that ring 3 may ask `lar` or `lsl` about and
    /// that long mode answers differently for (gates and 16-bit system types with DPL 3).
    pub long_mode_visible: bool,
    /// The direct engine left at an instruction, without carrying it out, that the translator has
    /// to run to find out what the exit means.
    pub replay_pending: bool,

    /// CS selector.
    pub cs: u16,
    /// Instruction pointer.
    pub eip: u32,
    /// EFLAGS, whole.
    pub eflags: u32,
    /// CR3.
    pub cr3: u32,
}

/// What the host's KVM was found to run correctly, and what the direct engine makes of it. A mode
/// that was not probed, or failed, is `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostSupport {
    /// 32-bit code at ring 3 in compatibility mode.
    pub compat32: bool,
    /// 16-bit code at ring 3 in compatibility mode.
    pub compat16: bool,
    /// Virtual-8086 mode.
    pub v86: bool,
    /// A 16-bit stack at ring 3 that does not leak the monitor's stack pointer through `iretq`
    /// (the problem that Linux solves with espfix).
    pub stack16: bool,
    /// Guest paging off: the shadow tables map guest-physical memory flat.
    pub unpaged: bool,
    /// Segment limits are checked. A processor that QEMU's TCG emulates does not check them.
    pub limits: bool,
    /// An IOPL of 1 or 2 is kept.
    pub iopl: bool,
}

impl HostSupport {
    /// A host on which the direct engine runs nothing, such as one without KVM.
    pub const NONE: Self = Self {
        compat32: false,
        compat16: false,
        v86: false,
        stack16: false,
        unpaged: false,
        limits: false,
        iopl: false,
    };

    /// This host without the modes of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self {
            compat32: self.compat32 && !other.compat32,
            compat16: self.compat16 && !other.compat16,
            v86: self.v86 && !other.v86,
            stack16: self.stack16 && !other.stack16,
            unpaged: self.unpaged && !other.unpaged,
            limits: self.limits && !other.limits,
            iopl: self.iopl && !other.iopl,
        }
    }
}

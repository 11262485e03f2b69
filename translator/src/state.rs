//! The architectural state of a vCPU. One object holds all of it.

use bitflags::bitflags;

/// Index of a general register in [`CpuState::gpr`]: the number that the processor encodes it with.
#[allow(missing_docs)] // the names are the registers
pub mod reg {
    pub const EAX: usize = 0;
    pub const ECX: usize = 1;
    pub const EDX: usize = 2;
    pub const EBX: usize = 3;
    pub const ESP: usize = 4;
    pub const EBP: usize = 5;
    pub const ESI: usize = 6;
    pub const EDI: usize = 7;
}

/// Index of a segment register in [`CpuState::seg`]: the number that the processor encodes it with.
#[allow(missing_docs)] // the names are the registers
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// Bits of EFLAGS (Intel SDM vol. 1, section 3.4.3).
#[allow(missing_docs)] // the names are the SDM's
pub mod eflags {
    pub const CF: u32 = 1 << 0;
    pub const FIXED: u32 = 1 << 1;
    pub const PF: u32 = 1 << 2;
    pub const AF: u32 = 1 << 4;
    pub const ZF: u32 = 1 << 6;
    pub const SF: u32 = 1 << 7;
    pub const TF: u32 = 1 << 8;
    pub const IF: u32 = 1 << 9;
    pub const DF: u32 = 1 << 10;
    pub const OF: u32 = 1 << 11;
    pub const IOPL: u32 = 3 << 12;
    pub const IOPL_SHIFT: u32 = 12;
    pub const NT: u32 = 1 << 14;
    pub const RF: u32 = 1 << 16;
    pub const VM: u32 = 1 << 17;
    pub const AC: u32 = 1 << 18;
    pub const VIF: u32 = 1 << 19;
    pub const VIP: u32 = 1 << 20;
    pub const ID: u32 = 1 << 21;
    /// The flags that arithmetic sets.
    pub const STATUS: u32 = CF | PF | AF | ZF | SF | OF;
    /// The flags that live in the host's RFLAGS while translated code runs.
    pub const LIVE: u32 = STATUS | DF;
}

/// Bits of CR0 (Intel SDM vol. 3A, section 2.5).
#[allow(missing_docs)] // the names are the SDM's
pub mod cr0 {
    pub const PE: u32 = 1 << 0;
    pub const MP: u32 = 1 << 1;
    pub const EM: u32 = 1 << 2;
    pub const TS: u32 = 1 << 3;
    pub const ET: u32 = 1 << 4;
    pub const NE: u32 = 1 << 5;
    pub const WP: u32 = 1 << 16;
    pub const AM: u32 = 1 << 18;
    pub const NW: u32 = 1 << 29;
    pub const CD: u32 = 1 << 30;
    pub const PG: u32 = 1 << 31;
}

/// Bits of CR4 (Intel SDM vol. 3A, section 2.5).
#[allow(missing_docs)] // the names are the SDM's
pub mod cr4 {
    pub const VME: u32 = 1 << 0;
    pub const PVI: u32 = 1 << 1;
    pub const TSD: u32 = 1 << 2;
    pub const DE: u32 = 1 << 3;
    pub const PSE: u32 = 1 << 4;
    pub const PAE: u32 = 1 << 5;
    pub const MCE: u32 = 1 << 6;
    pub const PGE: u32 = 1 << 7;
    pub const PCE: u32 = 1 << 8;
    pub const OSFXSR: u32 = 1 << 9;
    pub const OSXMMEXCPT: u32 = 1 << 10;
}

/// Bits of IA32_EFER (Intel SDM vol. 3A, section 2.2.1).
pub mod efer {
    /// Execute-disable enable: bit 63 of PAE entries means something.
    pub const NXE: u64 = 1 << 11;
}

bitflags! {
    /// Access rights of a segment: bits 8..=15 and 20..=23 of the descriptor's second word, moved
    /// down by 8 (the layout of the VMX access-rights field, Intel SDM vol. 3C, section 24.4.1).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    #[repr(transparent)]
    pub struct Rights: u32 {
        /// Type bit 0: accessed.
        const ACCESSED = 1 << 0;
        /// Type bit 1: writable (data) or readable (code).
        const WRITE_READ = 1 << 1;
        /// Type bit 2: expand-down (data) or conforming (code).
        const DOWN_CONFORMING = 1 << 2;
        /// Type bit 3: code.
        const CODE = 1 << 3;
        /// S: code or data, not system.
        const S = 1 << 4;
        /// DPL, bit 0.
        const DPL0 = 1 << 5;
        /// DPL, bit 1.
        const DPL1 = 1 << 6;
        /// P: present.
        const PRESENT = 1 << 7;
        /// AVL: for software.
        const AVL = 1 << 12;
        /// L: 64-bit code. Never set in what a guest of this VMM loads.
        const LONG = 1 << 13;
        /// D/B: 32-bit default size, 32-bit stack, or 4 GiB upper bound of an expand-down segment.
        const BIG = 1 << 14;
        /// G: the limit was in 4 KiB units. `Segment::limit` is already scaled.
        const GRANULARITY = 1 << 15;
        /// The register holds a null selector and cannot be used.
        const UNUSABLE = 1 << 16;
    }
}

impl Rights {
    /// The descriptor privilege level, 0 to 3.
    pub const fn dpl(self) -> u8 {
        ((self.bits() >> 5) & 3) as u8
    }

    /// The four type bits (Intel SDM vol. 3A, sections 3.4.5.1 and 3.5).
    pub const fn segment_type(self) -> u8 {
        (self.bits() & 15) as u8
    }

    /// The same rights with another privilege level.
    pub const fn with_dpl(self, dpl: u8) -> Self {
        Self::from_bits_retain((self.bits() & !0x60) | ((dpl as u32 & 3) << 5))
    }
}

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Base, guest-linear.
    pub base: u32,
    /// Last valid offset in bytes, already scaled by G (for expand-down: last *invalid* offset).
    pub limit: u32,
    /// Access rights.
    pub rights: Rights,
}

impl Segment {
    /// What a load in real mode or virtual-8086 mode leaves behind for a data segment after reset:
    /// 64 KiB at `selector * 16`, read and write, present.
    pub const fn real(selector: u16) -> Self {
        Segment {
            selector,
            base: (selector as u32) << 4,
            limit: 0xFFFF,
            rights: Rights::from_bits_retain(0x93),
        }
    }

    /// A flat 4 GiB segment with the given selector and type; `dpl` 0 to 3.
    pub const fn flat(selector: u16, code: bool, dpl: u8) -> Self {
        let segment_type = if code { 0xB } else { 3 };
        Segment {
            selector,
            base: 0,
            limit: 0xFFFF_FFFF,
            rights: Rights::from_bits_retain(0xC090 | segment_type | ((dpl as u32) << 5)),
        }
    }

    /// True when offset equals linear address and every 32-bit offset is inside: expand-up, base
    /// 0, limit 4 GiB, usable.
    pub fn is_flat(&self) -> bool {
        self.base == 0 && self.has_full_limit()
    }

    /// True when every 32-bit offset is inside the segment (whatever the base).
    pub fn has_full_limit(&self) -> bool {
        let expand_down =
            !self.rights.contains(Rights::CODE) && self.rights.contains(Rights::DOWN_CONFORMING);
        self.limit == 0xFFFF_FFFF && !expand_down && !self.rights.contains(Rights::UNUSABLE)
    }

    /// D/B of the segment.
    pub fn is_big(&self) -> bool {
        self.rights.contains(Rights::BIG)
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TableRegister {
    /// Base, guest-linear.
    pub base: u32,
    /// Last valid byte offset.
    pub limit: u16,
}

/// The exception flags of FSW, and the masks of FCW.
pub const X87_EXCEPTIONS: u16 = 0x3F;
/// FSW.ES.
const FSW_SUMMARY: u16 = 1 << 7;
/// FSW.B, which says the same.
const FSW_BUSY: u16 = 1 << 15;

/// x87, MMX and SSE state in the 64-bit FXSAVE layout (Intel SDM vol. 1, section 10.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct FxState(pub [u8; 512]);

impl FxState {
    /// The state after FNINIT with MXCSR at its reset value.
    pub fn initial() -> Self {
        let mut area = [0; 512];
        area[0..2].copy_from_slice(&0x037Fu16.to_le_bytes());
        area[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
        FxState(area)
    }

    /// FCW, the x87 control word.
    pub fn control_word(&self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    /// Sets FCW. The summary bits of FSW do not follow: see [`FxState::summarize`].
    pub fn set_control_word(&mut self, value: u16) {
        [self.0[0], self.0[1]] = value.to_le_bytes();
    }

    /// FSW, the x87 status word.
    pub fn status_word(&self) -> u16 {
        u16::from_le_bytes([self.0[2], self.0[3]])
    }

    /// FSW.ES: an unmasked x87 exception is pending.
    pub fn error_pending(&self) -> bool {
        self.status_word() & FSW_SUMMARY != 0
    }

    /// Brings ES and B of FSW in line with the exception flags and the masks in FCW (Intel SDM vol.
    /// 1, section 8.1.3).
    pub fn summarize(&mut self) {
        let status = self.status_word();
        let unmasked = status & !self.control_word() & X87_EXCEPTIONS != 0;
        let status = if unmasked {
            status | FSW_SUMMARY | FSW_BUSY
        } else {
            status & !(FSW_SUMMARY | FSW_BUSY)
        };
        [self.0[2], self.0[3]] = status.to_le_bytes();
    }
}

/// Model-specific registers that the vCPU keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Msrs {
    /// IA32_SYSENTER_CS (174h).
    pub sysenter_cs: u32,
    /// IA32_SYSENTER_ESP (175h).
    pub sysenter_esp: u32,
    /// IA32_SYSENTER_EIP (176h).
    pub sysenter_eip: u32,
    /// IA32_EFER (C000_0080h); only NXE can be set.
    pub efer: u64,
    /// IA32_PAT (277h).
    pub pat: u64,
    /// IA32_MISC_ENABLE (1A0h): the bits that can be written.
    pub misc_enable: u64,
    /// Added to [`Platform::tsc`](crate::Platform::tsc) by RDTSC.
    pub tsc_offset: u64,
}

/// Which event holds off interrupts for one instruction (Intel SDM vol. 3A, section 6.8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InterruptShadow {
    /// None.
    #[default]
    None,
    /// After an STI that set IF.
    Sti,
    /// After a load of SS; holds off debug exceptions as well.
    MovSs,
}

/// The architectural state of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C)]
pub struct CpuState {
    /// General registers in encoding order, see [`reg`].
    pub gpr: [u32; 8],
    /// Offset of the next instruction in CS.
    pub eip: u32,
    /// All of EFLAGS, bit 1 set.
    pub eflags: u32,
    /// Segment registers in encoding order, see [`seg`].
    pub seg: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
    /// CR0.
    pub cr0: u32,
    /// CR2: the address of the last page fault.
    pub cr2: u32,
    /// CR3.
    pub cr3: u32,
    /// CR4.
    pub cr4: u32,
    /// Debug registers; 4 and 5 are not used.
    pub dr: [u32; 8],
    /// Current privilege level, 0 to 3; 0 in real mode, 3 in virtual-8086 mode.
    pub cpl: u8,
    /// Interrupts are held off for one instruction.
    pub interrupt_shadow: InterruptShadow,
    /// An NMI has been signalled and not been taken yet.
    pub nmi_pending: bool,
    /// An NMI is being handled: others wait until IRET.
    pub nmi_blocked: bool,
    /// FERR# is asserted: an unmasked x87 exception with CR0.NE clear.
    pub ferr: bool,
    /// Bits of DR6 for the debug trap that is due before the next instruction, once no load of SS
    /// holds it off; 0 if none is.
    pub pending_debug: u32,
    /// Model-specific registers.
    pub msrs: Msrs,
    /// x87, MMX and SSE state.
    pub fpu: FxState,
}

impl CpuState {
    /// The state after a reset (Intel SDM vol. 3A, table 9-1): real mode at F000:FFF0 with CS base
    /// FFFF0000h. `signature` is the processor signature that EDX holds.
    pub fn reset(signature: u32) -> Self {
        let mut state = CpuState {
            gpr: [0; 8],
            eip: 0xFFF0,
            eflags: eflags::FIXED,
            seg: [Segment::real(0); 6],
            ldtr: Segment {
                rights: Rights::from_bits_retain(0x82),
                limit: 0xFFFF,
                ..Segment::default()
            },
            tr: Segment {
                rights: Rights::from_bits_retain(0x8B),
                limit: 0xFFFF,
                ..Segment::default()
            },
            gdtr: TableRegister {
                base: 0,
                limit: 0xFFFF,
            },
            idtr: TableRegister {
                base: 0,
                limit: 0xFFFF,
            },
            cr0: cr0::ET | cr0::NW | cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
            cpl: 0,
            interrupt_shadow: InterruptShadow::None,
            nmi_pending: false,
            nmi_blocked: false,
            ferr: false,
            pending_debug: 0,
            msrs: Msrs {
                pat: 0x0007_0406_0007_0406,
                misc_enable: 1,
                ..Msrs::default()
            },
            fpu: FxState::initial(),
        };
        state.gpr[reg::EDX] = signature;
        state.seg[seg::CS] = Segment {
            selector: 0xF000,
            base: 0xFFFF_0000,
            limit: 0xFFFF,
            rights: Rights::from_bits_retain(0x93),
        };
        state
    }

    /// CR0.PE.
    pub fn protected_mode(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// EFLAGS.VM in protected mode.
    pub fn virtual_8086(&self) -> bool {
        self.protected_mode() && self.eflags & eflags::VM != 0
    }

    /// Real mode or virtual-8086 mode: selectors are paragraph numbers.
    pub fn real_or_v86(&self) -> bool {
        !self.protected_mode() || self.eflags & eflags::VM != 0
    }

    /// EFLAGS.IOPL, 0 to 3.
    pub fn iopl(&self) -> u8 {
        ((self.eflags & eflags::IOPL) >> eflags::IOPL_SHIFT) as u8
    }

    /// EFLAGS.IF.
    pub fn interrupt_flag(&self) -> bool {
        self.eflags & eflags::IF != 0
    }

    /// Guest-linear address of the next instruction.
    pub fn linear_eip(&self) -> u32 {
        self.seg[seg::CS].base.wrapping_add(self.eip)
    }

    /// True when misaligned accesses are #AC: at CPL 3 with CR0.AM and EFLAGS.AC (Intel SDM vol. 3A,
    /// section 6.15, "Interrupt 17").
    pub fn checks_alignment(&self) -> bool {
        self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.eflags & eflags::AC != 0
    }

    /// True when a debug trap is to be taken before the next instruction (Intel SDM vol. 3A, table
    /// 6-2: it goes before interrupts).
    pub fn debug_trap_due(&self) -> bool {
        self.pending_debug != 0 && self.interrupt_shadow != InterruptShadow::MovSs
    }

    /// True when the NMI that is pending can be taken before the next instruction.
    pub fn accepts_nmi(&self) -> bool {
        self.nmi_pending && !self.nmi_blocked && self.interrupt_shadow != InterruptShadow::MovSs
    }

    /// True when an external interrupt can be taken before the next instruction.
    pub fn accepts_interrupts(&self) -> bool {
        self.interrupt_flag() && self.interrupt_shadow == InterruptShadow::None
    }
}

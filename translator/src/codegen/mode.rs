//! The mode bits that a translation depends on.

use crate::state::{CpuState, Rights, Segment, cr0, cr4, eflags, seg};

/// How accesses through a segment register are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SegmentClass {
    /// Base 0, all 4 GiB, readable and writable: the offset is the linear address.
    Flat = 0,
    /// Any base, all 4 GiB; the base comes from the context, which holds a faulting one when the
    /// register cannot be used so. Needs no place in the key: FS and GS of protected mode, and data
    /// segments of real mode that kept 4 GiB from protected mode.
    Based = 1,
    /// Limit FFFFh, readable and writable, expand-up: real mode.
    Limit64K = 2,
    /// Any limit, readable and writable, expand-up: checked in line.
    Limited = 3,
    /// Everything else (expand-down, read-only, null): checked in Rust.
    General = 4,
}

impl SegmentClass {
    fn of(segment: &Segment) -> SegmentClass {
        let rights = segment.rights;
        let data =
            rights.bits() & (Rights::CODE | Rights::DOWN_CONFORMING | Rights::WRITE_READ).bits();
        let plain = data == Rights::WRITE_READ.bits()
            && rights.contains(Rights::S | Rights::PRESENT)
            && !rights.contains(Rights::UNUSABLE);
        if !plain {
            SegmentClass::General
        } else if segment.is_flat() {
            SegmentClass::Flat
        } else if segment.limit == 0xFFFF_FFFF {
            SegmentClass::Based
        } else if segment.limit == 0xFFFF {
            SegmentClass::Limit64K
        } else {
            SegmentClass::Limited
        }
    }

    /// True when every 32-bit offset can be read and written: what `Based` code relies on.
    pub(crate) fn has_full_range(segment: &Segment) -> bool {
        matches!(
            SegmentClass::of(segment),
            SegmentClass::Flat | SegmentClass::Based
        )
    }

    /// True when every offset within the limit can be read and written.
    pub(crate) fn is_plain(segment: &Segment) -> bool {
        SegmentClass::of(segment) != SegmentClass::General
    }

    /// For reads through CS, which is never writable in protected mode.
    fn of_code(segment: &Segment, real: bool) -> SegmentClass {
        if real {
            return SegmentClass::of(&Segment {
                rights: Rights::from_bits_retain(0x93),
                ..*segment
            });
        }
        let readable = segment
            .rights
            .contains(Rights::WRITE_READ | Rights::PRESENT | Rights::S);
        if readable && segment.base == 0 && segment.limit == 0xFFFF_FFFF {
            SegmentClass::Flat
        } else {
            SegmentClass::General
        }
    }

    fn from_bits(bits: u32) -> SegmentClass {
        match bits & 7 {
            0 => SegmentClass::Flat,
            1 => SegmentClass::Based,
            2 => SegmentClass::Limit64K,
            3 => SegmentClass::Limited,
            _ => SegmentClass::General,
        }
    }
}

/// Everything about the vCPU's mode that emitted code depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mode(u32);

const CODE32: u32 = 1 << 18;
const STACK32: u32 = 1 << 19;
const CPL_SHIFT: u32 = 20;
const PROTECTED: u32 = 1 << 22;
const V86: u32 = 1 << 23;
const SINGLE: u32 = 1 << 24;
const SLOW: u32 = 1 << 25;
const PAGING: u32 = 1 << 26;
const TSC_CALLOUT: u32 = 1 << 27;
const TRAP: u32 = 1 << 28;
const XMM: u32 = 1 << 29;
const ALIGNED: u32 = 1 << 30;

impl Mode {
    pub(crate) fn of(cpu: &CpuState) -> Mode {
        let real = cpu.real_or_v86();
        let mut bits = 0;
        for (index, segment) in cpu.seg.iter().enumerate() {
            let class = if index == seg::CS {
                SegmentClass::of_code(segment, real)
            } else if !real && (index == seg::FS || index == seg::GS) {
                SegmentClass::Based
            } else {
                match SegmentClass::of(segment) {
                    // Left over from protected mode: a load would change more than selector and base.
                    SegmentClass::Limit64K if real && !cpu.is_paragraph(segment) => {
                        SegmentClass::Limited
                    }
                    // "Unreal" mode. The class is the same at base 0, so that a load keeps it.
                    SegmentClass::Flat | SegmentClass::Based if real && index != seg::SS => {
                        if cpu.is_paragraph(segment) {
                            SegmentClass::Based
                        } else {
                            SegmentClass::Limited
                        }
                    }
                    class => class,
                }
            };
            bits |= (class as u32) << (3 * index);
        }
        let set = |condition: bool, bit: u32| if condition { bit } else { 0 };
        bits |= set(cpu.seg[seg::CS].is_big(), CODE32);
        bits |= set(cpu.seg[seg::SS].is_big(), STACK32);
        bits |= u32::from(cpu.cpl) << CPL_SHIFT;
        bits |= set(cpu.protected_mode(), PROTECTED);
        bits |= set(cpu.virtual_8086(), V86);
        bits |= set(cpu.eflags & eflags::TF != 0, SINGLE | TRAP);
        bits |= set(cpu.cr0 & cr0::PG != 0, PAGING);
        bits |= set(cpu.cr4 & cr4::OSFXSR != 0, XMM);
        bits |= set(cpu.checks_alignment(), ALIGNED);
        let denied = cpu.cr4 & cr4::TSD != 0 && cpu.cpl != 0;
        // The inline form shifts with RORX.
        let inline = cpu.msrs.tsc_offset == 0 || std::arch::is_x86_feature_detected!("bmi2");
        bits |= set(denied || !inline, TSC_CALLOUT);
        Mode(bits)
    }

    /// The same mode for units of one instruction.
    pub(crate) fn single(self) -> Mode {
        Mode(self.0 | SINGLE)
    }

    /// The same mode for units of one instruction whose accesses are all carried out by Rust.
    pub(crate) fn slow(self) -> Mode {
        Mode(self.0 | SINGLE | SLOW)
    }

    pub(crate) fn is_single(self) -> bool {
        self.0 & SINGLE != 0
    }

    /// EFLAGS.TF is set: a trap is due after each instruction.
    pub(crate) fn traps(self) -> bool {
        self.0 & TRAP != 0
    }

    /// Misaligned accesses are #AC, and all go through Rust, which looks. The flag is hardly ever set
    /// where CR0.AM is: no form in line is worth its code.
    pub(crate) fn checks_alignment(self) -> bool {
        self.0 & ALIGNED != 0
    }

    pub(crate) fn is_slow(self) -> bool {
        self.0 & SLOW != 0
    }

    pub(crate) fn class(self, segment: usize) -> SegmentClass {
        SegmentClass::from_bits(self.0 >> (3 * segment))
    }

    pub(crate) fn code32(self) -> bool {
        self.0 & CODE32 != 0
    }

    pub(crate) fn bitness(self) -> u32 {
        if self.code32() { 32 } else { 16 }
    }

    pub(crate) fn stack32(self) -> bool {
        self.0 & STACK32 != 0
    }

    /// R12 holds window base + ESP.
    pub(crate) fn stack_in_window(self) -> bool {
        self.stack32() && self.class(seg::SS) == SegmentClass::Flat
    }

    pub(crate) fn cpl(self) -> u8 {
        ((self.0 >> CPL_SHIFT) & 3) as u8
    }

    pub(crate) fn v86(self) -> bool {
        self.0 & V86 != 0
    }

    /// Protected mode without EFLAGS.VM.
    pub(crate) fn protected(self) -> bool {
        self.0 & (PROTECTED | V86) == PROTECTED
    }

    /// The mode of a kernel, or a program, of which all segments that matter are flat: what shortcuts
    /// work in.
    pub(crate) fn is_flat(self) -> bool {
        let flat = |segment| self.class(segment) == SegmentClass::Flat;
        let data = |segment| flat(segment) || self.class(segment) == SegmentClass::General;
        self.protected()
            && self.code32()
            && flat(seg::CS)
            && self.stack_in_window()
            && data(seg::DS)
            && data(seg::ES)
            && !self.is_single()
            && !self.checks_alignment()
    }

    /// Real mode as it is meant to be: 16 bits, code and stack segments of 64 KiB.
    pub(crate) fn is_real(self) -> bool {
        self.0 & (PROTECTED | V86 | CODE32 | STACK32 | SINGLE) == 0
            && self.class(seg::CS) == SegmentClass::Limit64K
            && self.class(seg::SS) == SegmentClass::Limit64K
    }

    /// What a [flat](Mode::is_flat) mode becomes by a change of privilege, as far as that follows from it:
    /// whether RDTSC is a callout does not.
    pub(crate) fn flat_at(self, cpl: u8) -> Mode {
        let bits = self.0 & !(3 << CPL_SHIFT | TSC_CALLOUT);
        Mode(bits | u32::from(cpl) << CPL_SHIFT)
    }

    /// CLI and STI are allowed whatever IOPL is.
    pub(crate) fn interrupt_flag_free(self) -> bool {
        self.cpl() == 0 && !self.v86()
    }

    /// CR4.OSFXSR: there are XMM registers.
    pub(crate) fn xmm_enabled(self) -> bool {
        self.0 & XMM != 0
    }

    pub(crate) fn tsc_callout(self) -> bool {
        self.0 & TSC_CALLOUT != 0
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }
}

//! Memory operands: from the guest's segment and effective address to a host operand.
//!
//! The forms, fastest first (DESIGN section 5):
//! - flat segment, base register and displacement: `[r14+reg+disp]`, or `[r12+disp]` for ESP; what
//!   wraps around at 4 GiB meets the guard regions and is translated again in the 32-bit form;
//! - flat, absolute address: from R14 in the lower half, from R13 (window + 4 GiB) in the upper;
//! - flat, two registers or a scale: through GS for loads, `lea` for stores;
//! - a base: `[segment host base + offset]`;
//! - a limit: the same after a check without flags, which faults;
//! - a store that meets pages with code: the linear address added to a base from the store table;
//! - everything else, and what keeps faulting: Rust returns the host address (`Prepare`).

use super::asm::{Mem, Reg, host};
use super::builder::Builder;
use super::mode::SegmentClass;
use super::{Access, AccessHint, SiteKind, layout};
use crate::runtime::{lookaside, store_table};
use crate::state::{reg, seg};
use iced_x86::{Instruction, Register};

/// How an instruction uses a memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    ReadWrite,
}

impl Use {
    pub(super) fn reads(self) -> bool {
        self != Use::Write
    }

    pub(super) fn writes(self) -> bool {
        self != Use::Read
    }
}

/// An effective address before segmentation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) segment: usize,
    pub(super) base: Option<Reg>,
    pub(super) index: Option<(Reg, u8)>,
    pub(super) disp: u32,
    /// 16-bit address size.
    pub(super) short: bool,
}

/// A host operand, and whether Rust waits to hear of the write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub(super) mem: Mem,
    commit: bool,
}

impl Operand {
    pub(super) fn new(mem: Mem, commit: bool) -> Operand {
        Operand { mem, commit }
    }
}

/// Largest distance below an object that a negative displacement is taken to mean; beyond it the
/// displacement is the address of a table in the upper half.
const NEAR: i32 = -(1 << 24);

impl Builder<'_> {
    /// The effective address of the memory operand of `insn`.
    pub(super) fn address_of(insn: &Instruction) -> Address {
        let register = |r: Register| (r != Register::None).then(|| Self::guest_of(r));
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let short = base.size() == 2
            || index.size() == 2
            || (base == Register::None && index == Register::None && insn.memory_displ_size() == 2);
        let mut address = Address {
            segment: insn.memory_segment().number(),
            base: register(base),
            index: register(index).map(|r| (r, insn.memory_index_scale() as u8)),
            disp: insn.memory_displacement32(),
            short,
        };
        if address.base.is_none()
            && let Some((reg, 1)) = address.index
        {
            address.base = Some(reg);
            address.index = None;
        }
        address
    }

    /// The offset in the segment into `dst` (low 32 bits; the upper half cleared).
    pub(super) fn emit_offset(&mut self, dst: Reg, address: &Address) {
        match (address.base, address.index) {
            (None, None) => {
                let value = if address.short {
                    address.disp & 0xFFFF
                } else {
                    address.disp
                };
                self.asm.mov_imm32(dst, value);
                return;
            }
            (base, index) => {
                let mem = Mem {
                    base,
                    index,
                    disp: address.disp as i32,
                    gs32: false,
                };
                self.asm.lea32(dst, mem);
            }
        }
        if address.short {
            self.asm.zero_extend16(dst, dst);
        }
    }

    /// The host operand for `size` bytes at `address`. May use R8 to R10. Call [`Builder::done`]
    /// behind the access.
    pub(super) fn operand(&mut self, address: &Address, size: u32, usage: Use) -> Operand {
        if self.hint == AccessHint::Callout || self.writes_code(address.segment, usage) {
            self.emit_offset(host::R8, address);
            if self.looks_up(address.segment, size, usage) {
                let last = Mem::base(host::R8, size as i32 - 1);
                self.asm.lea32(host::R10, last);
                let owner = lookaside::owner(self.t.mode.cpl());
                self.asm.mov_imm32(host::R9, owner);
                let stub = self.t.stubs.look_up;
                return self.prepare_by(stub, address.segment, size, usage, false);
            }
            return self.prepare(address.segment, size, usage, false);
        }
        if self.hint == AccessHint::CheckedStore
            && usage.writes()
            && let Some(row) = store_table::row(size)
            && self.t.mode.class(address.segment) != SegmentClass::General
        {
            return Operand::new(self.checked_store(address, size, row), false);
        }
        let mem = match self.t.mode.class(address.segment) {
            SegmentClass::Flat => self.flat_operand(address, usage),
            SegmentClass::Based if self.hint == AccessHint::Checked => {
                self.emit_offset(host::R8, address);
                self.check_limit(address.segment, size);
                self.asm
                    .load64(host::R9, layout::checked_host_base(address.segment));
                Mem::sum(host::R9, host::R8, 0)
            }
            SegmentClass::Based => self.based_operand(address),
            SegmentClass::Limit64K => {
                self.emit_offset(host::R8, address);
                if !(address.short && size == 1) {
                    self.check_limit_64k(size);
                }
                self.segment_sum(address.segment)
            }
            SegmentClass::Limited => {
                self.emit_offset(host::R8, address);
                self.check_limit(address.segment, size);
                self.segment_sum(address.segment)
            }
            SegmentClass::General => {
                self.emit_offset(host::R8, address);
                return self.prepare(address.segment, size, usage, false);
            }
        };
        Operand { mem, commit: false }
    }

    /// Tells Rust, where it waits for it, that the write has been done.
    pub(super) fn done(&mut self, operand: &Operand) {
        if operand.commit {
            self.asm.call_mem(layout::commit());
            self.site(SiteKind::Entry);
        }
    }

    /// A write through CS, which is never writable in protected mode.
    pub(super) fn writes_code(&self, segment: usize, usage: Use) -> bool {
        segment == seg::CS && usage.writes() && self.t.mode.protected()
    }

    /// The page may be one that the lookaside knows.
    fn looks_up(&self, segment: usize, size: u32, usage: Use) -> bool {
        self.t.stubs.load_segment != 0
            && usage.writes()
            && size <= lookaside::LARGEST
            && self.t.mode.class(segment) == SegmentClass::Flat
            && !self.t.mode.is_slow()
            && !self.t.mode.is_single()
            && !self.writes_code(segment, usage)
    }

    /// Asks Rust for the host address of the offset in R8.
    pub(super) fn prepare(
        &mut self,
        segment: usize,
        size: u32,
        usage: Use,
        bit_offset: bool,
    ) -> Operand {
        let stub = self.t.stubs.prepare;
        self.prepare_by(stub, segment, size, usage, bit_offset)
    }

    fn prepare_by(
        &mut self,
        stub: u64,
        segment: usize,
        size: u32,
        usage: Use,
        bit_offset: bool,
    ) -> Operand {
        self.asm.call(stub);
        let access = Access {
            segment,
            size,
            read: usage.reads(),
            write: usage.writes(),
            bit_offset,
        };
        self.site(SiteKind::Prepare(access));
        Operand {
            mem: Mem::base(host::R8, 0),
            commit: usage.writes(),
        }
    }

    /// A store that may meet a page with code: the store table picks the base.
    fn checked_store(&mut self, address: &Address, size: u32, row: usize) -> Mem {
        let class = self.t.mode.class(address.segment);
        self.emit_offset(host::R8, address);
        match class {
            SegmentClass::Limit64K if !(address.short && size == 1) => self.check_limit_64k(size),
            SegmentClass::Limited => self.check_limit(address.segment, size),
            SegmentClass::Based => {
                self.asm
                    .load64(host::R9, layout::segment_check(address.segment));
                self.asm.load(1, host::R9, Mem::base(host::R9, 0));
            }
            _ => {}
        }
        if class != SegmentClass::Flat {
            self.asm
                .load32(host::R9, layout::segment_base(address.segment));
            self.asm.lea32(host::R8, Mem::sum(host::R8, host::R9, 0));
        }
        self.asm.load64(host::R9, layout::store_table());
        self.asm.load(1, host::R9, Mem::sum(host::R9, host::R8, 0));
        self.asm.load64(host::R9, layout::store_base(row, host::R9));
        Mem::sum(host::R9, host::R8, 0)
    }

    fn flat_operand(&mut self, address: &Address, usage: Use) -> Mem {
        let user_window = self.hint == AccessHint::UserWindow;
        if address.short
            || user_window
            || matches!(self.hint, AccessHint::Wrapped | AccessHint::CheckedStore)
        {
            self.emit_offset(host::R8, address);
            return if user_window {
                self.region_sum()
            } else {
                Mem::sum(host::WINDOW, host::R8, 0)
            };
        }
        let disp = address.disp as i32;
        match (address.base, address.index) {
            (None, None) if disp >= 0 => Mem::base(host::WINDOW, disp),
            (None, None) => Mem::base(host::WINDOW_END, disp),
            (Some(host::STACK), None) if self.t.mode.stack_in_window() && disp >= NEAR => {
                Mem::base(host::STACK, disp)
            }
            (Some(host::STACK), None) => {
                self.emit_offset(host::R8, address);
                Mem::sum(host::WINDOW, host::R8, 0)
            }
            (Some(base), None) if disp >= NEAR => Mem::sum(host::WINDOW, base, disp),
            (Some(base), None) => Mem::sum(host::WINDOW_END, base, disp),
            (base, index) if usage == Use::Read && base != Some(host::STACK) => Mem {
                base,
                index,
                disp,
                gs32: true,
            },
            _ => {
                self.emit_offset(host::R8, address);
                Mem::sum(host::WINDOW, host::R8, 0)
            }
        }
    }

    /// `[window of the 16 MiB region of R8 + R8]`, without touching flags.
    fn region_sum(&mut self) -> Mem {
        self.asm.mov32(host::R9, host::R8);
        self.asm.bswap(false, host::R9);
        self.asm.zero_extend8(host::R9, host::R9);
        self.asm.load64(host::R9, layout::region_window(host::R9));
        Mem::sum(host::R9, host::R8, 0)
    }

    fn based_operand(&mut self, address: &Address) -> Mem {
        if matches!(self.hint, AccessHint::Wrapped | AccessHint::CheckedStore) {
            // The sum is modulo 2^32; that the segment can be used at all is a load of its own.
            self.emit_offset(host::R8, address);
            self.asm
                .load32(host::R9, layout::segment_base(address.segment));
            self.asm.lea32(host::R8, Mem::sum(host::R8, host::R9, 0));
            self.asm
                .load64(host::R9, layout::segment_check(address.segment));
            self.asm.load(1, host::R9, Mem::base(host::R9, 0));
            return Mem::sum(host::WINDOW, host::R8, 0);
        }
        if let (None, None, false) = (address.base, address.index, address.short) {
            let disp = address.disp as i32;
            self.asm
                .load64(host::R9, layout::segment_host_base(address.segment));
            if (NEAR..0).contains(&disp) || disp >= 0 {
                return Mem::base(host::R9, disp);
            }
        }
        self.emit_offset(host::R8, address);
        self.segment_sum(address.segment)
    }

    fn segment_sum(&mut self, segment: usize) -> Mem {
        self.asm
            .load64(host::R9, layout::segment_host_base(segment));
        Mem::sum(host::R9, host::R8, 0)
    }

    /// Faults when R8 + size - 1 > FFFFh: bits 16..=31 of the sum index a byte whose neighbours
    /// cannot be read.
    fn check_limit_64k(&mut self, size: u32) {
        self.asm
            .lea32(host::R10, Mem::base(host::R8, size as i32 - 1));
        self.asm.bswap(false, host::R10);
        self.asm.zero_extend16(host::R10, host::R10);
        self.check_load();
    }

    /// Faults when R8 + size - 1 > limit: the sign of the difference indexes the same byte.
    fn check_limit(&mut self, segment: usize, size: u32) {
        self.asm.mov64(host::R9, host::R8);
        self.asm.not64(host::R9);
        self.asm.load32(host::R10, layout::segment_limit(segment));
        self.asm
            .lea64(host::R10, Mem::sum(host::R10, host::R9, 2 - size as i32));
        self.asm.bswap(true, host::R10);
        self.asm.zero_extend8(host::R10, host::R10);
        self.check_load();
    }

    /// Faults when the EIP in `target` is beyond the limit of CS. Uses R9 and R10.
    pub(super) fn check_code_limit(&mut self, target: Reg) {
        if self.t.mode.class(seg::CS) == SegmentClass::Limit64K {
            self.asm.mov32(host::R10, target);
            self.asm.bswap(false, host::R10);
            self.asm.zero_extend16(host::R10, host::R10);
        } else {
            self.asm.mov64(host::R9, target);
            self.asm.not64(host::R9);
            self.asm.load32(host::R10, layout::segment_limit(seg::CS));
            self.asm.lea64(host::R10, Mem::sum(host::R10, host::R9, 1));
            self.asm.bswap(true, host::R10);
            self.asm.zero_extend8(host::R10, host::R10);
        }
        self.check_load();
    }

    fn check_load(&mut self) {
        self.asm.load64(host::R9, layout::limit_check());
        self.asm
            .load(1, host::R10, Mem::sum(host::R9, host::R10, 0));
    }

    /// The address of a stack slot at ESP + `offset`.
    pub(super) fn stack_address(&self, offset: i32) -> Address {
        Address {
            segment: seg::SS,
            base: Some(Self::guest(reg::ESP)),
            index: None,
            disp: offset as u32,
            short: !self.t.mode.stack32(),
        }
    }
}

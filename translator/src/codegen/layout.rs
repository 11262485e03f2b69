//! Offsets of context fields, as operands of translated code.

use super::asm::{Mem, Reg, host};
use crate::runtime::context::{Context, jump_slot};
use crate::runtime::shortcut::Shortcuts;
use crate::runtime::store_table::VALUES;
use crate::state::{CpuState, Msrs, Segment};
use std::mem::offset_of;

/// Distance from the context to the first byte of the code cache: the executable view begins
/// right behind the pages of the context.
pub(crate) const CODE_OFFSET: usize = size_of::<Context>();

const CPU: usize = offset_of!(Context, cpu);

pub(crate) fn interrupt_flag() -> Mem {
    Mem::context(offset_of!(Context, interrupt_flag))
}

pub(crate) fn eflags_rest() -> Mem {
    Mem::context(offset_of!(Context, eflags_rest))
}

/// The counter of instructions.
pub(crate) fn instructions() -> Mem {
    Mem::context(offset_of!(Context, instructions))
}

pub(crate) fn poll() -> Mem {
    Mem::context(offset_of!(Context, poll))
}

pub(crate) fn sti_poll() -> Mem {
    Mem::context(offset_of!(Context, sti_poll))
}

pub(crate) fn jump_table() -> Mem {
    Mem::context(offset_of!(Context, jump_table))
}

/// The jump table for a transfer in the interrupt shadow of STI.
pub(crate) fn sti_jump_table() -> Mem {
    Mem::context(offset_of!(Context, sti_jump_table))
}

/// Room for an x87 environment in the 32-bit protected-mode format.
pub(crate) fn fpu_environment() -> Mem {
    Mem::context(offset_of!(Context, fpu_environment))
}

pub(crate) fn fpu_guard() -> Mem {
    Mem::context(offset_of!(Context, fpu_guard))
}

/// Behind an access that Rust prepared: a call to Rust if it waits for one.
pub(crate) fn commit() -> Mem {
    Mem::context(offset_of!(Context, commit))
}

/// Room for a value on its way to a shortcut.
pub(crate) fn shortcut_scratch() -> Mem {
    Mem::context(offset_of!(Context, shortcuts) + offset_of!(Shortcuts, scratch))
}

/// Room for the address that a far CALL pushes.
pub(crate) fn shortcut_frame() -> Mem {
    Mem::context(offset_of!(Context, shortcuts) + offset_of!(Shortcuts, frame))
}

/// What is left of the executions of the indirect jump at `eip` before it is watched.
pub(crate) fn jump_count(eip: u32) -> Mem {
    Mem::context(offset_of!(Context, jump_counts) + 4 * jump_slot(eip))
}

pub(crate) fn limit_check() -> Mem {
    Mem::context(offset_of!(Context, limit_check))
}

/// Window base + base of segment `index`.
pub(crate) fn segment_host_base(index: usize) -> Mem {
    Mem::context(offset_of!(Context, segment_base) + 8 * index)
}

/// Window base + base of segment `index`, for accesses that have checked the limit.
pub(crate) fn checked_host_base(index: usize) -> Mem {
    Mem::context(offset_of!(Context, checked_base) + 8 * index)
}

/// An address that can be read when segment `index` can be used with every offset.
pub(crate) fn segment_check(index: usize) -> Mem {
    Mem::context(offset_of!(Context, segment_check) + 8 * index)
}

/// 1, or with EFLAGS.DF -1.
pub(crate) fn direction() -> Mem {
    Mem::context(offset_of!(Context, direction))
}

/// The store table of the space in use.
pub(crate) fn store_table() -> Mem {
    Mem::context(offset_of!(Context, store_table))
}

/// The host base that the byte of a store table in `value` stands for; `row` is that of the size.
pub(crate) fn store_base(row: usize, value: Reg) -> Mem {
    Mem {
        base: Some(host::CONTEXT),
        index: Some((value, 8)),
        disp: (offset_of!(Context, store_bases) + row * VALUES * 8) as i32,
        gs32: false,
    }
}

/// Window for the 16 MiB region whose number is in `region`.
pub(crate) fn region_window(region: Reg) -> Mem {
    Mem {
        base: Some(host::CONTEXT),
        index: Some((region, 8)),
        disp: offset_of!(Context, regions) as i32,
        gs32: false,
    }
}

fn segment(index: usize) -> usize {
    CPU + offset_of!(CpuState, seg) + index * size_of::<Segment>()
}

pub(crate) fn selector(index: usize) -> Mem {
    Mem::context(segment(index) + offset_of!(Segment, selector))
}

pub(crate) fn segment_base(index: usize) -> Mem {
    Mem::context(segment(index) + offset_of!(Segment, base))
}

pub(crate) fn segment_limit(index: usize) -> Mem {
    Mem::context(segment(index) + offset_of!(Segment, limit))
}

pub(crate) fn cr0() -> Mem {
    Mem::context(CPU + offset_of!(CpuState, cr0))
}

pub(crate) fn cr2() -> Mem {
    Mem::context(CPU + offset_of!(CpuState, cr2))
}

pub(crate) fn cr3() -> Mem {
    Mem::context(CPU + offset_of!(CpuState, cr3))
}

pub(crate) fn tsc_offset() -> Mem {
    Mem::context(CPU + offset_of!(CpuState, msrs) + offset_of!(Msrs, tsc_offset))
}

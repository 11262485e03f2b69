//! Repeated string instructions on spans of plain memory: as many iterations as stay within a page, a
//! segment and the wrap-around of the pointers, on host memory.
#![allow(unsafe_code)] // copies and compares guest memory

use super::engine::Engine;
use super::store_table::next_code;
use super::string::{Operation, StringOp};
use crate::codegen::mode::SegmentClass;
use crate::state::{eflags, reg, seg};
use crate::system::System;
use shadow_mmu::{Access, AccessPlan, Mmu, PhysTarget};

const PAGE: u32 = 4096;

/// What became of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// So many iterations are done; `stop`: a comparison ended the repetition.
    Done { iterations: u32, stop: bool },
    /// The next iteration has to be done alone.
    None,
}

/// Iterations of `size` bytes from `at` that do not leave `0..=last`, upwards or downwards.
fn within(at: u32, last: u32, size: u32, down: bool) -> u32 {
    let above = (u64::from(last) + 1).saturating_sub(u64::from(at));
    if above < u64::from(size) {
        return 0;
    }
    if down {
        at / size + 1
    } else {
        (above / u64::from(size)).min(u64::from(u32::MAX)) as u32
    }
}

impl Engine {
    /// Strings are worked on downwards.
    pub(super) fn goes_down(&self) -> bool {
        self.state().eflags & eflags::DF != 0
    }

    /// How many iterations, `most` at most, stay within a page, the limit and the wrap-around of the pointers on both sides, at
    /// least one; and the linear addresses of the lowest bytes, 0 for a side that is not used. `None`: the next iteration
    /// leaves one of them, or faults.
    pub(super) fn span_sides(&self, op: &StringOp, most: u32) -> Option<(u32, [u32; 2])> {
        let cpu = self.state();
        let size = op.size as u32;
        let down = self.goes_down();
        let mut count = (cpu.gpr[reg::ECX] & op.mask()).min(most);
        let sides = [
            (op.reads_source(), op.source_segment, reg::ESI),
            (op.uses_destination(), seg::ES, reg::EDI),
        ];
        for &(used, segment, pointer) in &sides {
            if used {
                let offset = cpu.gpr[pointer] & op.mask();
                let segment = &cpu.seg[segment];
                let linear = segment.base.wrapping_add(offset);
                let last = if SegmentClass::is_plain(segment) {
                    segment.limit.min(op.mask())
                } else {
                    op.mask()
                };
                count = count.min(within(offset, last, size, down));
                count = count.min(within(linear % PAGE, PAGE - 1, size, down));
            }
        }
        if count == 0 {
            return None;
        }
        let bytes = count * size;
        let lowest = |(used, segment, pointer): (bool, usize, usize), write: bool| {
            if !used {
                return Some(0);
            }
            let first = cpu.gpr[pointer] & op.mask();
            let lowest = if down { first - (bytes - size) } else { first };
            System::check_access(cpu, segment, lowest, bytes, write).ok()
        };
        let [source, destination] = sides;
        let lowest = [lowest(source, false)?, lowest(destination, op.writes())?];
        Some((count, lowest))
    }

    /// Carries out iterations of a repeated string instruction whose counter is not 0, `most` at most.
    pub(super) fn string_span(&mut self, op: &StringOp, most: u32, mmu: &mut Mmu) -> Span {
        let Some((count, [source, destination])) = self.span_sides(op, most) else {
            return Span::None;
        };
        let size = op.size as u32;
        let down = self.goes_down();
        let privilege = self.privilege();
        let bytes = count * size;
        let writes = op.writes();
        // Elements are counted from the one that comes first.
        let start = if down { (bytes - size) as usize } else { 0 };
        // The destination last: a plan holds until the next one.
        let mut from = std::ptr::null();
        if op.reads_source() {
            match mmu.plan(source, bytes as usize, Access::read(privilege)) {
                Ok(AccessPlan::Direct(address)) => from = address.cast_const(),
                _ => return Span::None,
            }
        }
        let mut to = std::ptr::null_mut();
        if op.uses_destination() {
            let access = if writes {
                Access::write(privilege)
            } else {
                Access::read(privilege)
            };
            to = match mmu.plan(destination, bytes as usize, access) {
                Ok(AccessPlan::Direct(address)) => address,
                Ok(AccessPlan::Slow) if writes => {
                    match self.data_beside_code(destination, bytes, mmu) {
                        Some(address) => address,
                        None => return Span::None,
                    }
                }
                _ => return Span::None,
            };
        }
        self.string_direct &= !writes || mmu.is_plain_write(destination, privilege);
        let step = if down { size.wrapping_neg() } else { size };
        let host = HostSpan {
            from: from.wrapping_add(start),
            to: to.wrapping_add(start),
            lowest_from: from,
            lowest_to: to,
            step: step as i32 as isize,
            size: op.size,
            count: count as usize,
        };
        let cpu = &mut self.cache.context_mut().cpu;
        let (mut iterations, mut stop) = (count, false);
        match op.operation {
            Operation::Move => host.copy(),
            Operation::Store => host.fill(cpu.gpr[reg::EAX]),
            Operation::Load => op.load(cpu, host.element(host.from, host.count - 1)),
            Operation::Compare | Operation::Scan => {
                let (mut left, mut right) = (cpu.gpr[reg::EAX], 0);
                for n in 0..host.count {
                    if op.reads_source() {
                        left = host.element(host.from, n);
                    }
                    right = host.element(host.to, n);
                    let equal = (left ^ right) & u32::MAX >> (32 - 8 * size) == 0;
                    if equal == op.while_unequal {
                        iterations = n as u32 + 1;
                        break;
                    }
                }
                stop = op.compared(cpu, left, right);
            }
        }
        op.advance(cpu, step.wrapping_mul(iterations), iterations);
        Span::Done { iterations, stop }
    }

    /// The host address of bytes on a page with code that are no code, for writing.
    fn data_beside_code(&mut self, linear: u32, bytes: u32, mmu: &mut Mmu) -> Option<*mut u8> {
        let privilege = self.privilege();
        let resolved = mmu.resolve(linear, Access::write(privilege)).ok()?;
        if resolved.target != PhysTarget::Ram {
            return None;
        }
        let (gfn, offset) = ((resolved.gpa >> 12) as u32, resolved.gpa as u32 % PAGE);
        let code = self.units.code_map(gfn)?;
        if next_code(code, offset) < offset + bytes {
            return None;
        }
        let page = mmu.code_page_alias(linear, privilege)?;
        self.string_direct = false;
        Some(page.wrapping_add(offset as usize))
    }
}

/// A span in host memory. All elements lie in memory that the shadow MMU has vouched for, in one page
/// on each side.
#[derive(Debug, Clone, Copy)]
struct HostSpan {
    /// The first elements.
    from: *const u8,
    to: *mut u8,
    /// The lowest bytes.
    lowest_from: *const u8,
    lowest_to: *mut u8,
    /// Bytes from one element to the next.
    step: isize,
    size: usize,
    count: usize,
}

impl HostSpan {
    fn element(&self, base: *const u8, n: usize) -> u32 {
        let at = base.wrapping_offset(self.step * n as isize);
        // SAFETY: element n of a side of the span, n < count; see the type. Guest memory is never a
        // Rust object.
        unsafe {
            match self.size {
                1 => u32::from(at.read()),
                2 => u32::from(at.cast::<u16>().read_unaligned()),
                _ => at.cast::<u32>().read_unaligned(),
            }
        }
    }

    fn set(&self, n: usize, value: u32) {
        let at = self.to.wrapping_offset(self.step * n as isize);
        // SAFETY: as in `element`; the destination was vouched for as writable.
        unsafe {
            match self.size {
                1 => at.write(value as u8),
                2 => at.cast::<u16>().write_unaligned(value as u16),
                _ => at.cast::<u32>().write_unaligned(value),
            }
        }
    }

    fn copy(&self) {
        let bytes = self.size * self.count;
        let distance = (self.lowest_to as usize).abs_diff(self.lowest_from as usize);
        if distance >= bytes {
            // SAFETY: both ranges are within memory that was vouched for, and do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(self.lowest_from, self.lowest_to, bytes) };
            return;
        }
        // Overlapping: an element may be read after it was written, as the processor does.
        for n in 0..self.count {
            self.set(n, self.element(self.from, n));
        }
    }

    fn fill(&self, value: u32) {
        let bytes = value.to_le_bytes();
        if self.size == 1 || bytes.iter().take(self.size).all(|&byte| byte == bytes[0]) {
            // SAFETY: as in `copy`.
            unsafe { self.lowest_to.write_bytes(bytes[0], self.size * self.count) };
            return;
        }
        for n in 0..self.count {
            self.set(n, value);
        }
    }
}

//! Descriptors, loads of segment registers, and accesses through them.

use super::super::Field;
use super::super::layout as at;
use super::super::op::Seg;
use super::super::world::kind;
use super::{Cpu, Fault, Step, vector};

/// A descriptor as it is in its table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor(pub(crate) u64);

/// The hidden part of a segment register. Not present: it holds a null selector.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hidden {
    pub(crate) present: bool,
    pub(crate) base: u32,
    pub(crate) limit: u32,
    /// S and type.
    pub(crate) kind: u8,
    pub(crate) dpl: u8,
    pub(crate) big: bool,
}

impl Hidden {
    /// Of real and virtual-8086 mode.
    pub(crate) fn paragraph(selector: u16) -> Hidden {
        Hidden {
            present: true,
            base: u32::from(selector) << 4,
            limit: 0xFFFF,
            kind: kind::DATA,
            dpl: 0,
            big: false,
        }
    }
}

impl Descriptor {
    pub(crate) fn kind(self) -> u8 {
        (self.0 >> 40) as u8 & 0x1F
    }

    pub(crate) fn dpl(self) -> u8 {
        (self.0 >> 45) as u8 & 3
    }

    pub(crate) fn present(self) -> bool {
        self.0 >> 47 & 1 != 0
    }

    pub(crate) fn is_code(self) -> bool {
        self.kind() & 0x18 == 0x18
    }

    pub(crate) fn is_conforming(self) -> bool {
        self.kind() & 0x1C == 0x1C
    }

    pub(crate) fn is_writable_data(self) -> bool {
        self.kind() & 0x1A == 0x12
    }

    pub(crate) fn is_readable(self) -> bool {
        let kind = self.kind();
        kind & 0x18 == 0x10 || kind & 0x1A == 0x1A
    }

    pub(crate) fn limit(self) -> u32 {
        let limit = (self.0 & 0xFFFF) as u32 | (self.0 >> 32) as u32 & 0xF_0000;
        if self.0 >> 55 & 1 != 0 {
            limit << 12 | 0xFFF
        } else {
            limit
        }
    }

    pub(crate) fn hidden(self) -> Hidden {
        Hidden {
            present: true,
            base: (self.0 >> 16) as u32 & 0xFF_FFFF | (self.0 >> 32) as u32 & 0xFF00_0000,
            limit: self.limit(),
            kind: self.kind(),
            dpl: self.dpl(),
            big: self.0 >> 54 & 1 != 0,
        }
    }

    /// Selector and offset of a gate; 16-bit gates have a 16-bit offset.
    pub(crate) fn gate_target(self) -> (u16, u32) {
        let offset = (self.0 & 0xFFFF) as u32;
        let wide = self.kind() & 8 != 0;
        let high = if wide {
            (self.0 >> 32) as u32 & 0xFFFF_0000
        } else {
            0
        };
        ((self.0 >> 16) as u16, high | offset)
    }
}

/// Null: index 0 of the GDT.
pub(crate) const fn is_null(selector: u16) -> bool {
    selector & 0xFFFC == 0
}

/// The requested privilege level.
pub(crate) const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

impl Cpu {
    /// Address of the descriptor that a selector names, if it is inside its table.
    pub(crate) fn descriptor_address(&self, selector: u16) -> Option<u32> {
        let (base, limit) = if selector & 4 == 0 {
            (self.state[Field::GdtBase], self.state[Field::GdtLimit])
        } else if self.ldt.present {
            (self.ldt.base, self.ldt.limit)
        } else {
            return None;
        };
        let offset = u32::from(selector & 0xFFF8);
        (offset + 7 <= limit).then_some(base + offset)
    }

    pub(crate) fn descriptor(&self, selector: u16) -> Option<Descriptor> {
        self.descriptor_address(selector)
            .map(|address| Descriptor(self.memory.descriptor(address).0))
    }

    /// The descriptor, or `vector` with the selector.
    pub(crate) fn require(&self, selector: u16, vector: u8) -> Step<Descriptor> {
        self.descriptor(selector).ok_or(Fault::of(vector, selector))
    }

    /// Sets the accessed bit.
    pub(crate) fn mark_accessed(&mut self, selector: u16) {
        if let Some(address) = self.descriptor_address(selector) {
            let byte = self.memory.read(address + 5, 1) | 1;
            self.memory.write(address + 5, 1, byte);
        }
    }

    /// MOV to a segment register (vol. 2B, "MOV").
    pub(crate) fn load(&mut self, seg: Seg, selector: u16) -> Step {
        if self.real() || self.v86() {
            self.set(seg, selector, Hidden::paragraph(selector));
            return Ok(());
        }
        if seg == Seg::Ss {
            let descriptor = self.check_stack(selector, self.cpl, vector::GP)?;
            self.mark_accessed(selector);
            self.set(seg, selector, descriptor.hidden());
            return Ok(());
        }
        if is_null(selector) {
            self.set(seg, selector, Hidden::default());
            return Ok(());
        }
        let descriptor = self.require(selector, vector::GP)?;
        let fault = Fault::of(vector::GP, selector);
        if !descriptor.is_readable() {
            return Err(fault);
        }
        let dpl = descriptor.dpl();
        if !descriptor.is_conforming() && (rpl(selector) > dpl || self.cpl > dpl) {
            return Err(fault);
        }
        if !descriptor.present() {
            return Err(Fault::of(vector::NP, selector));
        }
        self.mark_accessed(selector);
        self.set(seg, selector, descriptor.hidden());
        Ok(())
    }

    /// A stack segment for privilege `cpl`; #SS if it is not present, else `fault`.
    pub(crate) fn check_stack(&self, selector: u16, cpl: u8, fault: u8) -> Step<Descriptor> {
        if is_null(selector) {
            return Err(Fault::of(fault, 0));
        }
        let descriptor = self.require(selector, fault)?;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(Fault::of(fault, selector));
        }
        if !descriptor.present() {
            return Err(Fault::of(vector::SS, selector));
        }
        Ok(descriptor)
    }

    pub(crate) fn set(&mut self, seg: Seg, selector: u16, hidden: Hidden) {
        self.state[seg.field()] = selector.into();
        self.seg[seg as usize] = hidden;
    }

    /// Whether `size` bytes at `offset` are inside a segment (vol. 3A, section 5.3).
    pub(crate) fn inside(hidden: Hidden, offset: u32, size: u32) -> bool {
        let Some(last) = offset.checked_add(size - 1) else {
            return false;
        };
        let down = hidden.kind & 0x1C == 0x14;
        if down {
            let top = if hidden.big { u32::MAX } else { 0xFFFF };
            offset > hidden.limit && last <= top
        } else {
            last <= hidden.limit
        }
    }

    pub(crate) fn check_access(&self, seg: Seg, offset: u32, size: u32, write: bool) -> Step<u32> {
        let hidden = self.seg[seg as usize];
        let fault = Fault::new(if seg == Seg::Ss {
            vector::SS
        } else {
            vector::GP
        });
        if !hidden.present {
            return Err(Fault::new(vector::GP));
        }
        let descriptor = Descriptor(u64::from(hidden.kind) << 40);
        if write && !descriptor.is_writable_data() || !write && !descriptor.is_readable() {
            return Err(Fault::new(vector::GP));
        }
        if !Cpu::inside(hidden, offset, size) {
            return Err(fault);
        }
        let address = hidden.base.wrapping_add(offset);
        self.check_page(address, size, write)?;
        Ok(address)
    }

    /// Paging, with the page directories of the driver: all that a case reaches is mapped, but for
    /// what [`at::PAGE_DIRECTORY_HOLE`] leaves out.
    fn check_page(&self, address: u32, size: u32, write: bool) -> Step {
        let paging = self.state[Field::Cr0] >> 31 != 0;
        let last = address.wrapping_add(size - 1);
        let hole = at::HOLE..at::HOLE + (4 << 20);
        let reached = hole.contains(&address) || hole.contains(&last);
        if !paging || self.state[Field::Cr3] != at::PAGE_DIRECTORY_HOLE || !reached {
            return Ok(());
        }
        let user = self.cpl == 3;
        Err(Fault {
            code: Some(u32::from(write) << 1 | u32::from(user) << 2),
            address: Some(address.max(at::HOLE)),
            ..Fault::new(vector::PF)
        })
    }

    pub(crate) fn read_segment(&self, seg: Seg, offset: u32, size: u32) -> Step<u32> {
        let address = self.check_access(seg, offset, size, false)?;
        Ok(self.memory.read(address, size))
    }

    pub(crate) fn write_segment(&mut self, seg: Seg, offset: u32, size: u32, value: u32) -> Step {
        let address = self.check_access(seg, offset, size, true)?;
        self.memory.write(address, size, value);
        Ok(())
    }
}

//! Segment and system descriptors, and the selectors that name them (Intel SDM vol. 3A, chapters 3
//! and 5).

use super::event::{Exception, vector};
use super::{System, memory};
use crate::state::{Rights, Segment};
use shadow_mmu::{Access, PhysTarget, Privilege};

/// The requested privilege level of a selector.
pub(super) const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// True for selectors 0 to 3.
pub(super) const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// TI: the selector names a descriptor of the LDT.
pub(super) const fn is_local(selector: u16) -> bool {
    selector & 4 != 0
}

/// System descriptor types (Intel SDM vol. 3A, table 3-2).
pub(super) mod system_type {
    pub(crate) const TSS16: u8 = 1;
    pub(crate) const LDT: u8 = 2;
    pub(crate) const TSS16_BUSY: u8 = 3;
    pub(crate) const CALL_GATE16: u8 = 4;
    pub(crate) const TASK_GATE: u8 = 5;
    pub(crate) const INTERRUPT_GATE16: u8 = 6;
    pub(crate) const TRAP_GATE16: u8 = 7;
    pub(crate) const TSS32: u8 = 9;
    pub(crate) const TSS32_BUSY: u8 = 11;
    pub(crate) const CALL_GATE32: u8 = 12;
    pub(crate) const INTERRUPT_GATE32: u8 = 14;
    pub(crate) const TRAP_GATE32: u8 = 15;
    /// The bit that makes a TSS descriptor busy.
    pub(crate) const BUSY: u8 = 2;
    /// The bit that tells the 32-bit types from the 16-bit ones.
    pub(crate) const IS_32_BIT: u8 = 8;
}

/// An entry of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor(pub(super) u64);

impl Descriptor {
    const fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Access rights. L is reserved outside long mode and left out.
    pub(super) const fn rights(self) -> Rights {
        Rights::from_bits_retain((self.high() >> 8) & 0xD0FF)
    }

    pub(super) const fn base(self) -> u32 {
        ((self.0 >> 16) as u32 & 0x00FF_FFFF) | (self.high() & 0xFF00_0000)
    }

    /// Last valid offset, scaled by G.
    pub(super) const fn limit(self) -> u32 {
        let raw = (self.0 as u32 & 0xFFFF) | (self.high() & 0x000F_0000);
        if self.rights().contains(Rights::GRANULARITY) {
            (raw << 12) | 0xFFF
        } else {
            raw
        }
    }

    pub(super) const fn is_present(self) -> bool {
        self.rights().contains(Rights::PRESENT)
    }

    pub(super) const fn dpl(self) -> u8 {
        self.rights().dpl()
    }

    /// A system segment or a gate.
    pub(super) const fn is_system(self) -> bool {
        !self.rights().contains(Rights::S)
    }

    /// The type of a system descriptor; `None` for code and data.
    pub(super) const fn system_type(self) -> Option<u8> {
        if self.is_system() {
            Some(self.rights().segment_type())
        } else {
            None
        }
    }

    pub(super) const fn is_code(self) -> bool {
        self.rights().contains(Rights::S.union(Rights::CODE))
    }

    pub(super) const fn is_conforming(self) -> bool {
        self.is_code() && self.rights().contains(Rights::DOWN_CONFORMING)
    }

    pub(super) const fn is_writable_data(self) -> bool {
        !self.is_system() && !self.is_code() && self.rights().contains(Rights::WRITE_READ)
    }

    /// Data, or readable code.
    pub(super) const fn is_readable(self) -> bool {
        !self.is_system() && (!self.is_code() || self.rights().contains(Rights::WRITE_READ))
    }

    /// Gates: the selector of the target.
    pub(super) const fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Gates: the offset of the target; 16 bits of it with a 16-bit gate.
    pub(super) const fn gate_offset(self) -> u32 {
        let low = self.0 as u32 & 0xFFFF;
        if self.rights().segment_type() & system_type::IS_32_BIT != 0 {
            low | (self.high() & 0xFFFF_0000)
        } else {
            low
        }
    }

    /// Call gates: number of parameters to copy.
    pub(super) const fn gate_parameters(self) -> u32 {
        self.high() & 0x1F
    }

    /// Gates: size in bytes of what is pushed.
    pub(super) const fn gate_width(self) -> usize {
        if self.rights().segment_type() & system_type::IS_32_BIT != 0 {
            4
        } else {
            2
        }
    }

    /// The segment register that a load of this descriptor leaves behind.
    pub(super) const fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            rights: self.rights(),
        }
    }

    /// A data segment register may be loaded with it at `cpl` through a selector with `rpl`.
    pub(super) const fn data_load_allowed(self, cpl: u8, rpl: u8) -> bool {
        self.is_readable() && (self.is_conforming() || (rpl <= self.dpl() && cpl <= self.dpl()))
    }
}

/// A descriptor and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) selector: u16,
    /// Guest-linear address.
    pub(super) address: u32,
    pub(super) descriptor: Descriptor,
}

impl Entry {
    /// The segment register that a load leaves behind.
    pub(super) fn segment(&self) -> Segment {
        let mut segment = self.descriptor.segment(self.selector);
        if segment.rights.contains(Rights::S) {
            segment.rights |= Rights::ACCESSED;
        }
        segment
    }

    /// The CS that a transfer to this code segment at privilege `cpl` leaves behind.
    pub(super) fn code_segment(&self, cpl: u8) -> Segment {
        Segment {
            selector: (self.selector & !3) | u16::from(cpl),
            ..self.segment()
        }
    }

    /// A fault that names this selector.
    pub(super) fn fault(&self, vector: u8) -> Exception {
        Exception::selector(vector, self.selector)
    }

    /// #NP(selector) unless present.
    pub(super) fn require_present(&self) -> Result<(), Exception> {
        if self.descriptor.is_present() {
            Ok(())
        } else {
            Err(self.fault(vector::NP))
        }
    }
}

impl System<'_> {
    /// Address of the descriptor that a selector names, if it is inside its table.
    fn descriptor_address(&self, selector: u16) -> Option<u32> {
        let offset = u32::from(selector & !7);
        let (base, limit) = if is_local(selector) {
            let ldtr = &self.cpu.ldtr;
            if ldtr.rights.contains(Rights::UNUSABLE) || !ldtr.rights.contains(Rights::PRESENT) {
                return None;
            }
            (ldtr.base, ldtr.limit)
        } else {
            (self.cpu.gdtr.base, u32::from(self.cpu.gdtr.limit))
        };
        (offset + 7 <= limit).then(|| base.wrapping_add(offset))
    }

    /// Reads the descriptor of a selector; `None` when it is outside its table. Null selectors are
    /// the caller's business.
    pub(super) fn descriptor(&mut self, selector: u16) -> Result<Option<Entry>, Exception> {
        let Some(address) = self.descriptor_address(selector) else {
            return Ok(None);
        };
        let descriptor = Descriptor(u64::from_le_bytes(self.read_system(address)?));
        Ok(Some(Entry {
            selector,
            address,
            descriptor,
        }))
    }

    /// Reads the descriptor of a selector that must not be null; `vector` is raised for one outside
    /// its table.
    pub(super) fn require_descriptor(
        &mut self,
        selector: u16,
        vector: u8,
    ) -> Result<Entry, Exception> {
        self.descriptor(selector)?
            .ok_or(Exception::selector(vector, selector))
    }

    /// As [`System::descriptor`], without side effects: accessed bits of page tables included, and
    /// `None` for whatever cannot be read.
    pub(super) fn peek_descriptor(&self, selector: u16) -> Option<Descriptor> {
        let address = self.descriptor_address(selector)?;
        let mut bytes = [0; 8];
        let first = bytes.len().min(0x1000 - (address as usize & 0xFFF));
        let (head, tail) = bytes.split_at_mut(first);
        for (at, part) in [(address, head), (address.wrapping_add(first as u32), tail)] {
            if part.is_empty() {
                continue;
            }
            let access = Access::read(Privilege::Supervisor);
            let resolved = self.mmu.probe(at, access).ok()?;
            if !matches!(resolved.target, PhysTarget::Ram | PhysTarget::Rom) {
                return None;
            }
            self.mmu.read_phys(resolved.gpa, part).ok()?;
        }
        Some(Descriptor(u64::from_le_bytes(bytes)))
    }

    /// Sets the accessed bit of a code or data descriptor in memory, where it is clear.
    pub(super) fn mark_accessed(&mut self, entry: &Entry) -> Result<(), Exception> {
        let rights = entry.descriptor.rights();
        if rights.contains(Rights::ACCESSED) || !rights.contains(Rights::S) {
            return Ok(());
        }
        self.write_access_byte(entry.address, rights.bits() as u8 | 1)
    }

    /// Sets or clears the busy bit of a TSS descriptor in memory.
    pub(super) fn mark_busy(&mut self, address: u32, busy: bool) -> Result<(), Exception> {
        let [byte] = self.read_system(address.wrapping_add(5))?;
        let byte = if busy {
            byte | system_type::BUSY
        } else {
            byte & !system_type::BUSY
        };
        self.write_access_byte(address, byte)
    }

    fn write_access_byte(&mut self, address: u32, byte: u8) -> Result<(), Exception> {
        self.write_linear(address.wrapping_add(5), &[byte], Privilege::Supervisor)
    }

    /// Address of the descriptor of the current task, for its busy bit.
    pub(super) fn task_descriptor_address(&self) -> u32 {
        let offset = u32::from(self.cpu.tr.selector & !7);
        self.cpu.gdtr.base.wrapping_add(offset)
    }

    /// #GP(0) unless `eip` is inside the code segment.
    pub(super) fn check_eip(segment: &Segment, eip: u32) -> Result<(), Exception> {
        if memory::in_limit(segment, eip, 1) {
            Ok(())
        } else {
            Err(Exception::general_protection())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_flat_code_descriptor() {
        let d = Descriptor(0x00CF_9A00_0000_FFFF);
        assert_eq!((d.base(), d.limit(), d.dpl()), (0, 0xFFFF_FFFF, 0));
        assert!(d.is_code() && !d.is_conforming() && d.is_present() && d.is_readable());
        assert_eq!(d.segment(8).rights.bits(), 0xC09A);
    }

    #[test]
    fn fields_are_gathered_from_all_over() {
        let d = Descriptor(0x12A5_9234_5678_9ABC);
        assert_eq!(d.base(), 0x1234_5678);
        assert_eq!(d.limit(), (0x0005_9ABC << 12) | 0xFFF);
        assert!(d.is_writable_data());
        assert!(!d.rights().contains(Rights::LONG));
    }

    #[test]
    fn gates() {
        let d = Descriptor(0x1234_EC05_0008_5678);
        assert_eq!(d.system_type(), Some(system_type::CALL_GATE32));
        assert_eq!((d.gate_selector(), d.gate_offset()), (8, 0x1234_5678));
        assert_eq!((d.gate_parameters(), d.gate_width(), d.dpl()), (5, 4, 3));
        let d = Descriptor(0x1234_8605_0008_5678);
        assert_eq!((d.gate_offset(), d.gate_width()), (0x5678, 2));
    }
}

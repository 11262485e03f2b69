//! The shadows of the guest's descriptor tables.
//!
//! Guest code runs with a GDT and an LDT of the monitor's, in which are those of the guest's
//! descriptors that ring 3 may load: what it may not load is not there, and the attempt leaves.

use decision::HostSupport;
use shadow_mmu::{Access, Mmu, Privilege};
use translator::state::{Rights, Segment};

use super::layout::{DESCRIPTOR_TABLE_BYTES, FIRST_MONITOR_SELECTOR, GDT, LDT};
use super::memory::SharedMemory;

/// A descriptor as it lies in memory (Intel SDM vol. 3A, section 3.4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor(pub(super) u64);

impl Descriptor {
    /// Bits of the whole descriptor.
    const ACCESSED: u64 = 1 << 40;
    const PRESENT: u64 = 1 << 47;
    const LONG: u64 = 1 << 53;

    fn rights(self) -> Rights {
        Rights::from_bits_retain((self.0 >> 40) as u32 & 0xF0FF)
    }

    /// What loading it with `selector` puts into a segment register.
    pub(super) fn segment(self, selector: u16) -> Segment {
        let limit = (self.0 & 0xFFFF) as u32 | (self.0 >> 32) as u32 & 0xF_0000;
        let rights = self.rights();
        Segment {
            selector,
            base: (self.0 >> 16) as u32 & 0xFF_FFFF | (self.0 >> 32) as u32 & 0xFF00_0000,
            limit: if rights.contains(Rights::GRANULARITY) {
                limit << 12 | 0xFFF
            } else {
                limit
            },
            rights,
        }
    }

    /// What guest code may see of it: code and data that ring 3 can load, without the bit that
    /// would take it into 64-bit mode. What the host's KVM cannot run is not present, so that a
    /// load leaves. Of what ring 3 can only ask `lar` and `lsl` about, the answers.
    fn shadow(self, support: HostSupport) -> Descriptor {
        let rights = self.rights();
        if !rights.contains(Rights::S) && rights.dpl() == 3 {
            return self.system_shadow();
        }
        let conforming = rights.contains(Rights::CODE | Rights::DOWN_CONFORMING);
        if !rights.contains(Rights::S) || (rights.dpl() != 3 && !conforming) {
            return Descriptor(0);
        }
        let cannot_run = rights.contains(Rights::CODE)
            && if rights.contains(Rights::BIG) {
                !support.compat32
            } else {
                !support.compat16
            };
        let cannot_limit = !support.limits && !self.segment(0).has_full_limit();
        let hidden = cannot_run || cannot_limit;
        let absent = if hidden { Self::PRESENT } else { 0 };
        // What it is in data segments `lar` shows.
        let long = if rights.contains(Rights::CODE) {
            Self::LONG
        } else {
            0
        };
        Descriptor(self.0 & !(long | absent))
    }

    /// A system descriptor that `lar` knows in long mode as well (Intel SDM vol. 2A, LAR, table 3-53).
    /// Using it is #GP: nothing leads to an LDT or, in long mode, to a TSS, and the gate leads nowhere.
    fn system_shadow(self) -> Descriptor {
        const LDT: u8 = 2;
        const TSS: u8 = 9;
        const TSS_BUSY: u8 = 11;
        const CALL_GATE: u8 = 12;
        const BASE: u64 = 0xFF00_00FF_FFFF_0000;
        const GATE_RIGHTS: u64 = 0xFFFF_FFFF_0000_0000;
        match self.rights().segment_type() {
            LDT | TSS | TSS_BUSY => Descriptor(self.0 & !BASE),
            CALL_GATE => Descriptor(self.0 & GATE_RIGHTS),
            _ => Descriptor(0),
        }
    }

    /// A load would set the accessed bit.
    fn is_untouched(self) -> bool {
        self.rights().contains(Rights::S | Rights::PRESENT) && self.0 & Self::ACCESSED == 0
    }
}

/// Which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The global one.
    Gdt,
    /// A local one.
    Ldt,
}

/// The shadow of one table.
#[derive(Debug)]
pub(super) struct ShadowTable {
    kind: Kind,
    /// The guest's table at the last look.
    base: u32,
    bytes: Vec<u8>,
    /// Descriptors that guest code may load and that have the accessed bit clear.
    untouched: Vec<u16>,
}

impl ShadowTable {
    /// A shadow of an empty table.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            base: 0,
            bytes: Vec::new(),
            untouched: Vec::new(),
        }
    }

    /// Brings the shadow up to date with the guest's table, whose contents are `table`, at linear
    /// address `base`.
    pub(super) fn update(
        &mut self,
        memory: &SharedMemory,
        base: u32,
        table: &[u8],
        support: HostSupport,
    ) {
        self.base = base;
        if table == self.bytes {
            return;
        }
        let count = (table.len().max(self.bytes.len()) / 8).min(self.capacity());
        self.untouched.clear();
        for index in self.first()..count {
            let new = entry(table, index).shadow(support);
            if new.is_untouched() {
                self.untouched.push(index as u16);
            }
            if new != entry(&self.bytes, index).shadow(support) {
                memory.write(self.place(index), new.0);
            }
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(table);
    }

    /// Sets the accessed bits in the guest's table that loads by guest code have set in the shadow.
    pub(super) fn store_accessed(&mut self, memory: &SharedMemory, mmu: &mut Mmu) {
        let (base, bytes) = (self.base, &mut self.bytes);
        let start = match self.kind {
            Kind::Gdt => GDT,
            Kind::Ldt => LDT,
        };
        self.untouched.retain(|&index| {
            let offset = usize::from(index) * 8;
            let shadow = Descriptor(memory.read(start + offset as u64));
            if shadow.is_untouched() {
                return true;
            }
            if let Some(byte) = bytes.get_mut(offset + 5) {
                *byte |= (Descriptor::ACCESSED >> 40) as u8;
                let linear = base.wrapping_add(offset as u32 + 5);
                let access = Access::write(Privilege::Supervisor);
                if let Err(error) = mmu.write_linear(linear, &[*byte], access) {
                    tracing::debug!(target: "ringshift::direct", %error, linear, "accessed bit");
                }
            }
            false
        });
    }

    /// What a register holds whose selector guest code loaded from this table.
    pub(super) fn segment(&self, memory: &SharedMemory, selector: u16) -> Segment {
        Descriptor(memory.read(self.place(usize::from(selector >> 3)))).segment(selector)
    }

    /// The first descriptor that can be loaded: the null descriptor is the GDT's alone.
    fn first(&self) -> usize {
        match self.kind {
            Kind::Gdt => 1,
            Kind::Ldt => 0,
        }
    }

    /// Descriptors below the monitor's own.
    fn capacity(&self) -> usize {
        match self.kind {
            Kind::Gdt => usize::from(FIRST_MONITOR_SELECTOR) / 8,
            Kind::Ldt => DESCRIPTOR_TABLE_BYTES as usize / 8,
        }
    }

    fn place(&self, index: usize) -> u64 {
        let start = match self.kind {
            Kind::Gdt => GDT,
            Kind::Ldt => LDT,
        };
        start + index as u64 * 8
    }
}

/// A descriptor of a table in memory; one that is not whole cannot be loaded.
fn entry(table: &[u8], index: usize) -> Descriptor {
    let bytes = table.as_chunks::<8>().0.get(index);
    Descriptor(bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}

/// Reads guest memory without side effects; zeros where it cannot be read.
pub(super) fn read_linear(mmu: &Mmu, base: u32, bytes: &mut [u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let linear = base.wrapping_add(done as u32);
        let count = (0x1000 - (linear as usize & 0xFFF)).min(bytes.len() - done);
        let (_, rest) = bytes.split_at_mut(done);
        let (part, _) = rest.split_at_mut(count);
        let found = mmu.probe(linear, Access::read(Privilege::Supervisor));
        if !found.is_ok_and(|found| mmu.read_phys(found.gpa, part).is_ok()) {
            part.fill(0);
        }
        done += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPAT32: HostSupport = HostSupport {
        compat32: true,
        iopl: true,
        limits: true,
        ..HostSupport::NONE
    };

    fn shadow(raw: u64) -> u64 {
        Descriptor(raw).shadow(COMPAT32).0
    }

    #[test]
    fn only_what_ring_3_can_load_is_shadowed() {
        for user in [
            0x00CF_FB00_0000_FFFF, // code
            0x00CF_F300_0000_FFFF, // data
            0x1240_F234_5678_0FFF, // data, based, byte-granular, not accessed
            0x00CF_F100_0000_FFFF, // read-only data
            0x00CF_9F00_0000_FFFF, // conforming code of ring 0
            0x0000_7200_0000_FFFF, // not present, for the limit that `lsl` reports
        ] {
            assert_eq!(shadow(user), user, "{user:#x}");
        }
        for other in [
            0x00CF_9B00_0000_FFFF, // kernel code
            0x00CF_9300_0000_FFFF, // kernel data
            0x00CF_D300_0000_FFFF, // data of ring 2
            0x0000_8C00_0008_1234, // call gate for ring 0
            0x0000_E500_0028_0000, // task gate for ring 3
        ] {
            assert_eq!(shadow(other), 0, "{other:#x}");
        }
    }

    #[test]
    fn of_system_descriptors_only_the_answers_of_lar_and_lsl_are_shadowed() {
        // A call gate, an LDT and a TSS for ring 3.
        assert_eq!(shadow(0x5678_EC00_0008_1234), 0x5678_EC00_0000_0000);
        assert_eq!(shadow(0x1240_E234_5678_0FFF), 0x0040_E200_0000_0FFF);
        assert_eq!(shadow(0x1240_E934_5678_0067), 0x0040_E900_0000_0067);
    }

    #[test]
    fn the_way_to_64_bit_mode_is_closed() {
        assert_eq!(shadow(0x00EF_FB00_0000_FFFF), 0x00CF_FB00_0000_FFFF);
        // L without D: what is left is 16-bit code.
        assert_eq!(shadow(0x00AF_FB00_0000_FFFF), 0x008F_7B00_0000_FFFF);
    }

    #[test]
    fn code_that_the_host_cannot_run_is_not_present() {
        const CODE16: u64 = 0x000F_FB00_0000_FFFF;
        assert_eq!(shadow(CODE16), CODE16 & !(1 << 47));
        let mut both = COMPAT32;
        both.compat16 = true;
        assert_eq!(Descriptor(CODE16).shadow(both).0, CODE16);
    }

    #[test]
    fn limits_that_the_host_does_not_check_are_not_present() {
        const SMALL: u64 = 0x0040_F300_0000_FFFF;
        const FLAT: u64 = 0x00CF_F312_3456_FFFF;
        let unchecked = HostSupport {
            limits: false,
            ..COMPAT32
        };
        assert_eq!(Descriptor(SMALL).shadow(unchecked).0, SMALL & !(1 << 47));
        assert_eq!(Descriptor(FLAT).shadow(unchecked).0, FLAT);
    }

    #[test]
    fn segments_decode_by_the_manual() {
        let segment = Descriptor(0x12CF_F334_5678_9ABC).segment(0x2F);
        assert_eq!((segment.selector, segment.base), (0x2F, 0x1234_5678));
        assert_eq!(
            (segment.limit, segment.rights.bits()),
            (0xF9AB_CFFF, 0xC0F3)
        );
        assert_eq!(Descriptor(0x0043_F300_0000_0FFF).segment(0).limit, 0x3_0FFF);
    }
}

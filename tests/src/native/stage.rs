//! The stage on which every case plays: the pages that exist, the descriptors, the two environments.
//!
//! Nothing else is mapped below 4 GiB on either side, so a stray address faults alike on both.

/// Size of a page in bytes.
pub const PAGE: u32 = 4096;

/// What ring 3 may do with a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Data, read and write.
    ReadWrite,
    /// Data, read only: a write raises #PF with P = 1.
    ReadOnly,
    /// Code, filled with INT3.
    Code,
}

/// A run of mapped pages.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Name in reports.
    pub name: &'static str,
    /// First linear address, page-aligned.
    pub base: u32,
    /// Length in pages.
    pub pages: u32,
    /// What ring 3 may do with it.
    pub access: Access,
}

impl Region {
    /// Length in bytes.
    pub const fn len(&self) -> u32 {
        self.pages * PAGE
    }

    /// Always false: every region has pages.
    pub const fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Last linear address.
    pub const fn last(&self) -> u32 {
        self.base + (self.len() - 1)
    }
}

/// Offset in a code segment of the first byte of its code region, in both environments and in the
/// copy that a jump with a 16-bit operand reaches from 32-bit code.
pub const CODE_OFFSET: u32 = 0xA000;
/// Length of a code region in bytes.
pub const CODE_BYTES: u32 = 4 * PAGE;
/// Base of the 16-bit code segment.
pub const CODE16_BASE: u32 = 0x0400_0000;
/// Linear base of 32-bit code.
pub const CODE32: u32 = 0x0806_0000 + CODE_OFFSET;
/// Base of the 16-bit data and stack segment: paragraph- but not page-aligned, as in real programs.
pub const DATA16_BASE: u32 = 0x0300_0010;
/// Base of the two segments with a limit inside the main data region.
pub const WINDOW_BASE: u32 = 0x0123_0000;
/// Last valid offset of the expand-up one.
pub const WINDOW_LIMIT: u32 = 0x57FF;
/// Last *invalid* offset of the expand-down one.
pub const WINDOW_DOWN_LIMIT: u32 = 0x47FF;

const fn region(name: &'static str, base: u32, pages: u32, access: Access) -> Region {
    Region {
        name,
        base,
        pages,
        access,
    }
}

/// Every page below 4 GiB that is mapped for ring 3. Data regions come first.
pub const REGIONS: [Region; 13] = {
    use Access::{Code, ReadOnly, ReadWrite};
    const CODE_PAGES: u32 = CODE_BYTES / PAGE;
    [
        region("low", 0x0000_2000, 2, ReadWrite),
        region("data", 0x0123_4000, 2, ReadWrite),
        region("data-ro", 0x0123_6000, 1, ReadOnly),
        region("high", 0xF765_4000, 2, ReadWrite),
        region("stack", 0x0BAD_2000, 2, ReadWrite),
        region("seg-bottom", 0x0300_0000, 1, ReadWrite),
        region("seg-data", 0x0300_2000, 2, ReadWrite),
        region("seg-ro", 0x0300_4000, 1, ReadOnly),
        region("seg-stack", 0x0300_8000, 1, ReadWrite),
        region("seg-top", 0x0300_F000, 2, ReadWrite),
        region("code-low", CODE_OFFSET, CODE_PAGES, Code),
        region("code32", CODE32, CODE_PAGES, Code),
        region("code16", CODE16_BASE + CODE_OFFSET, CODE_PAGES, Code),
    ]
};

/// Position of a region in the image of all regions, in bytes.
pub fn image_offset(index: usize) -> usize {
    REGIONS[..index].iter().map(|r| r.len() as usize).sum()
}

/// Size of the image of all regions in bytes.
pub fn image_len() -> usize {
    image_offset(REGIONS.len())
}

/// Size of the data regions, which come first, in bytes.
pub fn data_len() -> usize {
    let data = REGIONS.iter().filter(|r| r.access != Access::Code);
    data.map(|r| r.len() as usize).sum()
}

/// The byte of the image that lies at a linear address.
pub fn locate(linear: u32) -> Option<usize> {
    REGIONS.iter().enumerate().find_map(|(index, region)| {
        (region.base..=region.last())
            .contains(&linear)
            .then(|| image_offset(index) + (linear - region.base) as usize)
    })
}

/// The region with a given name.
pub fn named(name: &str) -> Option<&'static Region> {
    REGIONS.iter().find(|region| region.name == name)
}

/// What a segment descriptor of the stage describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Read and write data, expand-up.
    Data,
    /// Read and write data, expand-down.
    DataDown,
    /// Read-only data, expand-up.
    DataReadOnly,
    /// Readable code.
    Code,
    /// Execute-only code.
    CodeExecuteOnly,
}

/// A segment descriptor with DPL 3 (or, in the GDT, 0).
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Linear base.
    pub base: u32,
    /// Limit in units of G.
    pub limit: u32,
    /// G: the limit is in pages.
    pub pages: bool,
    /// D/B.
    pub big: bool,
    /// Type.
    pub kind: Kind,
    /// P.
    pub present: bool,
    /// Privilege level.
    pub dpl: u8,
}

impl Descriptor {
    const fn flat(kind: Kind, dpl: u8) -> Self {
        Descriptor {
            base: 0,
            limit: 0xF_FFFF,
            pages: true,
            big: true,
            kind,
            present: true,
            dpl,
        }
    }

    /// The type field with the accessed bit set, as Linux sets it in every LDT entry.
    pub const fn type_bits(&self) -> u32 {
        1 | match self.kind {
            Kind::DataReadOnly => 0,
            Kind::Data => 2,
            Kind::DataDown => 6,
            Kind::CodeExecuteOnly => 8,
            Kind::Code => 10,
        }
    }

    /// The eight bytes of the descriptor (Intel SDM vol. 3A, figure 3-8).
    pub const fn raw(&self) -> u64 {
        let low = (self.limit & 0xFFFF) | (self.base << 16);
        let rights = self.type_bits()
            | 0x10
            | ((self.dpl as u32) << 5)
            | ((self.present as u32) << 7)
            | ((self.big as u32) << 14)
            | ((self.pages as u32) << 15);
        let high = ((self.base >> 16) & 0xFF)
            | (rights << 8)
            | (self.limit & 0xF_0000)
            | (self.base & 0xFF00_0000);
        low as u64 | ((high as u64) << 32)
    }

    /// Last valid offset (expand-down: last invalid one) in bytes.
    pub const fn byte_limit(&self) -> u32 {
        if self.pages {
            (self.limit << 12) | 0xFFF
        } else {
            self.limit
        }
    }
}

/// The local descriptor table: entry `i` has selector `i * 8 + 7`.
pub const LDT: [Descriptor; 8] = [
    // 07h: 16-bit code.
    Descriptor {
        base: CODE16_BASE,
        limit: 0xFFFF,
        pages: false,
        big: false,
        ..Descriptor::flat(Kind::Code, 3)
    },
    // 0Fh: 16-bit data and stack.
    Descriptor {
        base: DATA16_BASE,
        limit: 0xFFFF,
        pages: false,
        big: false,
        ..Descriptor::flat(Kind::Data, 3)
    },
    // 17h: a base, and a byte-granular limit inside the main data region.
    Descriptor {
        base: WINDOW_BASE,
        limit: WINDOW_LIMIT,
        pages: false,
        ..Descriptor::flat(Kind::Data, 3)
    },
    // 1Fh: expand-down.
    Descriptor {
        base: WINDOW_BASE,
        limit: WINDOW_DOWN_LIMIT,
        pages: false,
        ..Descriptor::flat(Kind::DataDown, 3)
    },
    // 27h: read-only.
    Descriptor::flat(Kind::DataReadOnly, 3),
    // 2Fh: not present.
    Descriptor {
        base: WINDOW_BASE,
        present: false,
        ..Descriptor::flat(Kind::Data, 3)
    },
    // 37h: execute-only code.
    Descriptor::flat(Kind::CodeExecuteOnly, 3),
    // 3Fh: 32-bit code with a base.
    Descriptor {
        base: 0x0800_0000,
        ..Descriptor::flat(Kind::Code, 3)
    },
];

/// The entries of Linux's GDT for x86-64 that the cases name, at the same places, so that a selector
/// means the same on both sides. Entry 6 (64-bit code) and those from 8 on are never named.
pub const GDT: [Option<Descriptor>; 6] = [
    None,
    Some(Descriptor::flat(Kind::Code, 0)),
    Some(Descriptor::flat(Kind::Code, 0)),
    Some(Descriptor::flat(Kind::Data, 0)),
    Some(Descriptor::flat(Kind::Code, 3)),
    Some(Descriptor::flat(Kind::Data, 3)),
];

/// Entries in Linux's GDT: a selector beyond them raises #GP on both sides.
pub const GDT_ENTRIES: u16 = 16;

/// The descriptor that a selector names, among those of the stage.
pub fn descriptor(selector: u16) -> Option<Descriptor> {
    let index = usize::from(selector >> 3);
    if selector & 4 != 0 {
        LDT.get(index).copied()
    } else {
        GDT.get(index).copied().flatten()
    }
}

/// The segment registers that a case starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Environment {
    /// 32-bit code, flat CS, DS, ES and SS; FS and GS with a base and a limit.
    Flat32,
    /// 16-bit code, data and stack of 64 KiB each; FS flat, GS expand-down.
    Segmented16,
}

impl Environment {
    /// Both.
    pub const ALL: [Environment; 2] = [Environment::Flat32, Environment::Segmented16];

    /// Default operand and address size in bits.
    pub const fn bitness(self) -> u32 {
        match self {
            Environment::Flat32 => 32,
            Environment::Segmented16 => 16,
        }
    }

    /// Selectors in the order ES, CS, SS, DS, FS, GS.
    pub const fn selectors(self) -> [u16; 6] {
        match self {
            Environment::Flat32 => [0x2B, 0x23, 0x2B, 0x2B, 0x17, 0x1F],
            Environment::Segmented16 => [0x0F, 0x07, 0x0F, 0x0F, 0x2B, 0x1F],
        }
    }

    /// Offset in CS of the code region.
    pub const fn code_offset(self) -> u32 {
        match self {
            Environment::Flat32 => CODE32,
            Environment::Segmented16 => CODE_OFFSET,
        }
    }

    /// Linear base of CS.
    pub const fn code_base(self) -> u32 {
        match self {
            Environment::Flat32 => 0,
            Environment::Segmented16 => CODE16_BASE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_touch_by_accident_and_data_comes_first() {
        let mut seen_code = false;
        for (i, a) in REGIONS.iter().enumerate() {
            assert_eq!(a.base % PAGE, 0);
            seen_code |= a.access == Access::Code;
            assert_eq!(a.access == Access::Code, seen_code, "{}", a.name);
            for b in &REGIONS[..i] {
                assert!(
                    a.last() < b.base || b.last() < a.base,
                    "{} {}",
                    a.name,
                    b.name
                );
            }
        }
        assert_eq!(locate(0x0123_4001), Some(image_offset(1) + 1));
        assert_eq!(locate(0x0123_7000), None);
    }

    #[test]
    fn descriptors_have_the_bytes_of_the_manual() {
        // Flat user code and data as in Linux's own table.
        assert_eq!(GDT[4].map(|d| d.raw()), Some(0x00CF_FB00_0000_FFFF));
        assert_eq!(GDT[5].map(|d| d.raw()), Some(0x00CF_F300_0000_FFFF));
        assert_eq!(LDT[1].raw(), 0x0300_F300_0010_FFFF);
    }
}

//! What a child process is made of: the pages below 4 GiB and the local descriptor table.

use super::stage::{self, Access, Descriptor};

/// A part of the shared image, where the code under test sees it. Parts may overlap in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First linear address, page-aligned.
    pub base: u32,
    /// Length in bytes, whole pages.
    pub len: u32,
    /// Where it begins in the image, in bytes; page-aligned.
    pub offset: u32,
    /// It can be written.
    pub writable: bool,
    /// Code in it can run.
    pub executable: bool,
}

/// Everything that a child needs to know of its address space.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What is mapped below 4 GiB.
    pub mappings: Vec<Mapping>,
    /// Bytes of the image.
    pub image_len: usize,
    /// The local descriptor table: entry `i` has selector `i * 8 + 7`.
    pub ldt: &'static [Descriptor],
    /// 32-bit system calls are not carried out but come back like exceptions, as vector 80h.
    pub trap_system_calls: bool,
}

impl Scene {
    /// The regions and descriptors of [`stage`].
    pub fn stage() -> Self {
        let mappings = stage::REGIONS
            .iter()
            .enumerate()
            .map(|(index, region)| Mapping {
                base: region.base,
                len: region.len(),
                offset: stage::image_offset(index) as u32,
                writable: region.access == Access::ReadWrite,
                executable: region.access == Access::Code,
            });
        Scene {
            mappings: mappings.collect(),
            image_len: stage::image_len(),
            ldt: &stage::LDT,
            trap_system_calls: false,
        }
    }
}

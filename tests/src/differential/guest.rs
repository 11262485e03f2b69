//! The guest that cases run in, in four worlds: its memory, and its registers around those of a case.

use crate::native::MachineState;
use crate::native::stage::{self, Access, GDT, GDT_ENTRIES, LDT, PAGE, REGIONS, Region};
use translator::CpuState;
use translator::state::{Rights, Segment, TableRegister, cr0, cr4, seg};

/// What a case finds around it. In all but the first a case must not raise an exception.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum World {
    /// CPL 3 with paging, as on the host.
    Ring3,
    /// CPL 0, and the stage's pages are those of ring 3.
    Ring0UserPages,
    /// CPL 0, and the stage's pages are the supervisor's own.
    Ring0,
    /// CPL 0 without paging: protected mode for 32-bit code, real mode for 16-bit code, with the same
    /// segment bases.
    Unpaged,
}

impl World {
    /// All but [`World::Ring3`].
    pub const PRIVILEGED: [World; 3] = [World::Ring0UserPages, World::Ring0, World::Unpaged];

    /// Guest RAM in bytes.
    pub(super) fn ram_bytes(self) -> u64 {
        match self {
            World::Unpaged => 192 << 20,
            _ => 1 << 20,
        }
    }

    /// Guest-physical address of a byte of a region; beyond RAM for one that this world does not have.
    pub(super) fn physical(self, region: &Region, linear: u32) -> u64 {
        let index = REGIONS.iter().position(|r| r.base == region.base);
        match self {
            World::Unpaged => u64::from(linear),
            _ => {
                let start = stage::image_offset(index.unwrap_or(0)) as u32;
                u64::from(layout::STAGE + start + (linear - region.base))
            }
        }
    }

    /// True where the guest has the page at a linear address, and a case can meet nothing else there.
    pub(super) fn has(self, linear: u32) -> bool {
        self != World::Unpaged || u64::from(linear) + 0x1_0000 < self.ram_bytes()
    }
}

/// Guest-physical layout of the monitor; the same pages lie at [`MONITOR`] + their number, supervisor
/// only.
pub(super) mod layout {
    pub(in super::super) const GDT: u32 = 0x1000;
    pub(in super::super) const LDT: u32 = 0x1800;
    pub(in super::super) const IDT: u32 = 0x2000;
    pub(in super::super) const TSS: u32 = 0x3000;
    /// One HLT for each vector.
    pub(in super::super) const HANDLERS: u32 = 0x4000;
    pub(in super::super) const STACK_TOP: u32 = 0x6000;
    pub(in super::super) const DIRECTORY: u32 = 0x7000;
    pub(in super::super) const TABLES: u32 = 0x8000;
    /// First page of the image of the stage.
    pub(in super::super) const STAGE: u32 = 0x2_0000;
}

/// Linear address of the monitor's pages.
pub(super) const MONITOR: u32 = 0xC000_0000;
/// Monitor pages that are mapped.
const MONITOR_PAGES: u32 = 8;
/// Selectors of the monitor, in entries of the GDT that no case names.
const TSS_SELECTOR: u16 = 8 * 8;
const LDT_SELECTOR: u16 = 10 * 8;
const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x18;
/// Vectors whose gates Linux opens to ring 3: INT3 and INTO.
const OPEN_VECTORS: [u32; 2] = [3, 4];
const CR0: u32 = cr0::PG | cr0::WP | cr0::NE | cr0::ET | cr0::MP | cr0::PE;
const CR4: u32 = cr4::OSFXSR | cr4::OSXMMEXCPT;

/// Loads the registers of a case, with everything around them as the world and the guest's tables say.
pub(super) fn load(world: World, state: &mut CpuState, start: &MachineState) {
    let mut new = CpuState::reset(0);
    new.gpr = start.gpr;
    new.eip = start.eip;
    new.eflags = start.eflags;
    new.fpu.0 = start.fx;
    new.seg = start.selectors.map(segment);
    new.cpl = 3;
    new.cr0 = CR0;
    new.cr4 = CR4;
    new.cr3 = layout::DIRECTORY;
    new.gdtr = TableRegister {
        base: MONITOR + layout::GDT,
        limit: GDT_ENTRIES * 8 - 1,
    };
    new.idtr = TableRegister {
        base: MONITOR + layout::IDT,
        limit: 256 * 8 - 1,
    };
    new.ldtr = system(LDT_SELECTOR, layout::LDT, LDT_LIMIT, 0x82);
    new.tr = system(TSS_SELECTOR, layout::TSS, TSS_LIMIT, 0x8B);
    if world != World::Ring3 {
        new.cpl = 0;
        for index in [seg::CS, seg::SS] {
            let segment = &mut new.seg[index];
            segment.rights = segment.rights.with_dpl(0);
        }
    }
    if world == World::Unpaged {
        new.cr0 &= !(cr0::PG | cr0::WP);
        if !new.seg[seg::CS].is_big() {
            new.cr0 &= !cr0::PE;
        }
    }
    *state = new;
}

const LDT_LIMIT: u32 = LDT.len() as u32 * 8 - 1;
const TSS_LIMIT: u32 = 103;

fn system(selector: u16, base: u32, limit: u32, rights: u32) -> Segment {
    Segment {
        selector,
        base: MONITOR + base,
        limit,
        rights: Rights::from_bits_retain(rights),
    }
}

/// A segment register as a load from the stage's tables leaves it.
fn segment(selector: u16) -> Segment {
    match stage::descriptor(selector) {
        Some(descriptor) => Segment {
            selector,
            base: descriptor.base,
            limit: descriptor.byte_limit(),
            rights: Rights::from_bits_retain(((descriptor.raw() >> 40) & 0xF0FF) as u32),
        },
        None => Segment {
            selector,
            rights: Rights::UNUSABLE,
            ..Segment::default()
        },
    }
}

/// Everything that guest memory holds at the start: address and bytes.
pub(super) fn guest_memory(world: World, lowest: u32) -> Vec<(u32, Vec<u8>)> {
    let raw = |entries: Vec<u64>| entries.iter().flat_map(|e| e.to_le_bytes()).collect();
    let mut gdt = vec![0; usize::from(GDT_ENTRIES)];
    for (entry, descriptor) in gdt.iter_mut().zip(&GDT) {
        *entry = descriptor.map_or(0, |d| d.raw());
    }
    gdt[usize::from(TSS_SELECTOR / 8)] = system_descriptor(layout::TSS, TSS_LIMIT, 0x8B);
    gdt[usize::from(LDT_SELECTOR / 8)] = system_descriptor(layout::LDT, LDT_LIMIT, 0x82);
    let idt = (0..256u32).map(|vector| {
        let handler = u64::from(MONITOR + layout::HANDLERS + vector);
        let dpl = if OPEN_VECTORS.contains(&vector) { 3 } else { 0 };
        // A 32-bit interrupt gate (Intel SDM vol. 3A, figure 6-2).
        let rights = 0x8E00u64 | dpl << 13;
        (handler & 0xFFFF) | u64::from(KERNEL_CODE) << 16 | rights << 32 | (handler >> 16) << 48
    });
    let mut tss = vec![0; TSS_LIMIT as usize + 1];
    tss[4..8].copy_from_slice(&(MONITOR + layout::STACK_TOP).to_le_bytes());
    tss[8..10].copy_from_slice(&KERNEL_DATA.to_le_bytes());
    // The I/O permission map lies beyond the limit: no port for ring 3.
    tss[102..104].copy_from_slice(&0xFFFFu16.to_le_bytes());
    let mut memory = vec![
        (layout::GDT, raw(gdt)),
        (layout::LDT, raw(LDT.iter().map(|d| d.raw()).collect())),
        (layout::IDT, raw(idt.collect())),
        (layout::TSS, tss),
        (layout::HANDLERS, vec![0xF4; 256]),
    ];
    for region in &REGIONS {
        if region.access == Access::Code {
            let at = world.physical(region, region.base) as u32;
            memory.push((at, vec![0xCC; region.len() as usize]));
        }
    }
    if world == World::Unpaged {
        // The stage lies where the monitor's pages would.
        memory.retain(|(address, _)| *address >= layout::STAGE || *address == stage::CODE_OFFSET);
    } else {
        memory.extend(page_tables(world, lowest));
    }
    memory
}

fn system_descriptor(base: u32, limit: u32, rights: u64) -> u64 {
    let base = u64::from(MONITOR + base);
    u64::from(limit & 0xFFFF) | (base & 0xFF_FFFF) << 16 | rights << 40 | (base >> 24) << 56
}

/// The page directory and its tables: the stage for ring 3, the monitor for ring 0.
fn page_tables(world: World, lowest: u32) -> Vec<(u32, Vec<u8>)> {
    const PRESENT: u32 = 1;
    const WRITE: u32 = 2;
    const USER: u32 = 4;
    let mut pages: Vec<(u32, u32)> = (0..MONITOR_PAGES)
        .map(|page| (MONITOR + page * PAGE, (page * PAGE) | PRESENT | WRITE))
        .collect();
    let there = REGIONS.iter().enumerate();
    for (index, region) in there.filter(|(_, region)| region.base >= lowest) {
        let physical = layout::STAGE + stage::image_offset(index) as u32;
        let mut rights = match region.access {
            Access::ReadWrite => PRESENT | WRITE | USER,
            Access::ReadOnly | Access::Code => PRESENT | USER,
        };
        if world == World::Ring0 {
            rights &= !USER;
        }
        pages.extend(
            (0..region.pages)
                .map(|page| (region.base + page * PAGE, (physical + page * PAGE) | rights)),
        );
    }
    let mut directory = vec![0u32; 1024];
    let mut tables: Vec<Vec<u32>> = Vec::new();
    for (linear, entry) in pages {
        let slot = &mut directory[(linear >> 22) as usize];
        if *slot == 0 {
            let table = layout::TABLES + tables.len() as u32 * PAGE;
            *slot = table | PRESENT | WRITE | USER;
            tables.push(vec![0; 1024]);
        }
        let table = ((*slot & !0xFFF) - layout::TABLES) / PAGE;
        tables[table as usize][(linear >> 12 & 0x3FF) as usize] = entry;
    }
    let raw = |entries: Vec<u32>| entries.iter().flat_map(|e| e.to_le_bytes()).collect();
    let mut memory = vec![(layout::DIRECTORY, raw(directory))];
    for (address, table) in (layout::TABLES..).step_by(PAGE as usize).zip(tables) {
        memory.push((address, raw(table)));
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_fits_below_its_stage() {
        for (address, bytes) in guest_memory(World::Ring3, 0) {
            let end = address + bytes.len() as u32;
            assert!(end <= layout::STAGE || address >= layout::STAGE);
            assert!(end <= 1 << 20);
        }
    }

    #[test]
    fn segment_registers_agree_with_the_flat_ones_of_the_vcpu() {
        assert_eq!(segment(0x23), Segment::flat(0x23, true, 3));
        assert_eq!(segment(0x2B), Segment::flat(0x2B, false, 3));
        assert!(segment(0x0F).limit == 0xFFFF && !segment(0x0F).is_big());
    }
}

//! The translator's side: a guest whose ring 3 is the stage.
//!
//! The stage's pages are mapped by page tables in guest memory; the monitor of this guest is nothing
//! but an interrupt descriptor table whose handlers halt, one byte each, so that the address of the
//! HLT tells the vector and the ring-0 stack the rest.

use crate::native::stage::{self, Access, GDT, GDT_ENTRIES, LDT, PAGE, REGIONS};
use crate::native::{MachineState, Outcome, Trap};
use shadow_mmu::{Mmu, MmuConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use translator::state::{Rights, Segment, TableRegister, cr0, cr4, reg};
use translator::{CpuState, Exit, Kicker, Platform, RunLimits, Vcpu, VcpuConfig};

/// Guest-physical layout of the monitor; the same pages lie at [`MONITOR`] + their number, supervisor
/// only.
mod layout {
    pub(super) const GDT: u32 = 0x1000;
    pub(super) const LDT: u32 = 0x1800;
    pub(super) const IDT: u32 = 0x2000;
    pub(super) const TSS: u32 = 0x3000;
    /// One HLT for each vector.
    pub(super) const HANDLERS: u32 = 0x4000;
    pub(super) const STACK_TOP: u32 = 0x6000;
    pub(super) const DIRECTORY: u32 = 0x7000;
    pub(super) const TABLES: u32 = 0x8000;
    /// First page of the image of the stage.
    pub(super) const STAGE: u32 = 0x2_0000;
}

/// Linear address of the monitor's pages.
const MONITOR: u32 = 0xC000_0000;
/// Monitor pages that are mapped.
const MONITOR_PAGES: u32 = 8;
/// Selectors of the monitor, in entries of the GDT that no case names.
const TSS_SELECTOR: u16 = 8 * 8;
const LDT_SELECTOR: u16 = 10 * 8;
const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x18;
/// Vectors whose gates Linux opens to ring 3: INT3 and INTO.
const OPEN_VECTORS: [u32; 2] = [3, 4];
/// How long one case may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why a case could not be run in the guest.
#[derive(Debug, thiserror::Error)]
pub enum TranslatedError {
    /// The shadow MMU or the vCPU could not be made.
    #[error("set-up of the guest: {0}")]
    SetUp(String),
    /// The vCPU left in a way that no case should cause.
    #[error("the vCPU left with: {0}")]
    Exit(String),
    /// It did not leave at all.
    #[error("the case did not end within {0:?}")]
    Hung(Duration),
    /// The vCPU halted somewhere else than in a handler.
    #[error("the vCPU halted at {0:#x}, which is no handler")]
    Lost(u32),
}

/// A machine with nothing on its buses.
#[derive(Debug, Default)]
struct Bare {
    tsc: u64,
}

impl Platform for Bare {
    fn port_read(&mut self, _port: u16, size: u8) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
    }

    fn port_write(&mut self, _port: u16, _size: u8, _value: u32) {}

    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}

    fn interrupt_pending(&mut self) -> bool {
        false
    }

    fn acknowledge_interrupt(&mut self) -> u8 {
        0
    }

    fn attention(&mut self) -> bool {
        false
    }

    fn tsc(&mut self) -> u64 {
        self.tsc += 1;
        self.tsc
    }
}

/// Kicks the vCPU twice a time-out for as long as it lives.
#[derive(Debug)]
struct Watchdog {
    stop: Arc<AtomicBool>,
}

impl Watchdog {
    fn start(kicker: Kicker) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                std::thread::sleep(TIMEOUT / 2);
                kicker.kick();
            }
        });
        Watchdog { stop }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How a case is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// As a new unit.
    Unit,
    /// With [`Vcpu::step`], and then to its end.
    Step,
    /// Twice, so that the second run, which counts, finds what the translator made of the first.
    Again,
}

/// Runs cases as translated code.
#[derive(Debug)]
pub struct TranslatedRunner {
    vcpu: Vcpu,
    mmu: Mmu,
    platform: Bare,
    /// The image of the data regions as the guest's memory has it.
    image: Vec<u8>,
    _watchdog: Watchdog,
}

impl TranslatedRunner {
    /// Builds the guest. The stage's data is all zero, its code INT3.
    ///
    /// # Errors
    /// [`TranslatedError::SetUp`].
    pub fn new() -> Result<Self, TranslatedError> {
        let set_up = |error: &dyn std::fmt::Display| TranslatedError::SetUp(error.to_string());
        let config = MmuConfig {
            ram_bytes: 1 << 20,
            ..MmuConfig::default()
        };
        let mut mmu = Mmu::new(config).map_err(|e| set_up(&e))?;
        let mut vcpu = Vcpu::new(VcpuConfig {
            strict: true,
            cache_bytes: 16 << 20,
            ..VcpuConfig::default()
        })
        .map_err(|e| set_up(&e))?;
        for (address, bytes) in guest_memory() {
            mmu.write_phys(u64::from(address), &bytes)
                .map_err(|e| set_up(&e))?;
        }
        load(vcpu.state_mut(), &MachineState::new());
        vcpu.sync_paging(&mut mmu);
        Ok(TranslatedRunner {
            _watchdog: Watchdog::start(vcpu.kicker()),
            vcpu,
            mmu,
            platform: Bare::default(),
            image: vec![0; stage::data_len()],
        })
    }

    /// The data regions as the last case left them.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Runs `code` at `linear` from `start` and the data regions `image`.
    ///
    /// # Errors
    /// Every error but [`TranslatedError::SetUp`].
    pub fn run(
        &mut self,
        (linear, code): (u32, &[u8]),
        start: &MachineState,
        image: &[u8],
        manner: Manner,
    ) -> Result<Outcome, TranslatedError> {
        self.write_linear(linear, code)?;
        let turns = if manner == Manner::Again { 2 } else { 1 };
        let mut outcome = Err(TranslatedError::Hung(TIMEOUT));
        for _ in 0..turns {
            self.write_image(image)?;
            load(self.vcpu.state_mut(), start);
            outcome = self.execute(manner == Manner::Step);
            self.read_image()?;
        }
        self.write_linear(linear, &vec![0xCC; code.len()])?;
        outcome
    }

    fn execute(&mut self, single_step: bool) -> Result<Outcome, TranslatedError> {
        let mut kicks = 0;
        let mut exit = if single_step {
            self.vcpu.step(&mut self.mmu, &mut self.platform)
        } else {
            Exit::Budget
        };
        loop {
            match exit {
                Exit::Halted => return self.outcome(),
                Exit::Kicked if kicks > 3 => return Err(TranslatedError::Hung(TIMEOUT)),
                Exit::Kicked => kicks += 1,
                Exit::Budget | Exit::Decide => {}
                other => return Err(TranslatedError::Exit(format!("{other:?}"))),
            }
            let limits = RunLimits::default();
            exit = self.vcpu.run(&mut self.mmu, &mut self.platform, limits);
        }
    }

    /// Reads what the handler found.
    fn outcome(&self) -> Result<Outcome, TranslatedError> {
        let state = self.vcpu.state();
        // EIP is behind the HLT.
        let vector = state.eip.wrapping_sub(MONITOR + layout::HANDLERS + 1);
        if vector > 255 {
            return Err(TranslatedError::Lost(state.eip));
        }
        let mut frame = state.gpr[reg::ESP].wrapping_sub(MONITOR);
        let mut pop = || {
            let mut bytes = [0; 4];
            let read = self.mmu.read_phys(u64::from(frame), &mut bytes);
            frame = frame.wrapping_add(4);
            read.map(|()| u32::from_le_bytes(bytes))
                .map_err(|error| TranslatedError::Exit(error.to_string()))
        };
        let error = if Trap::pushes_error(vector) {
            pop()?
        } else {
            0
        };
        let (eip, cs, eflags, esp, ss) = (pop()?, pop()?, pop()?, pop()?, pop()?);
        let mut gpr = state.gpr;
        gpr[reg::ESP] = esp;
        let mut selectors = state.seg.map(|segment| segment.selector);
        selectors[1] = cs as u16;
        selectors[2] = ss as u16;
        Ok(Outcome {
            state: MachineState {
                fx: state.fpu.0,
                gpr,
                eip,
                eflags,
                selectors,
            },
            trap: Trap {
                vector,
                error,
                cr2: if vector == Trap::PAGE_FAULT {
                    state.cr2
                } else {
                    0
                },
            },
        })
    }

    /// Brings the data regions to `image`, page by page where they differ.
    fn write_image(&mut self, image: &[u8]) -> Result<(), TranslatedError> {
        let size = PAGE as usize;
        let pages = self.image.chunks_mut(size).zip(image.chunks(size));
        for (number, (old, new)) in pages.enumerate() {
            if old != new {
                let address = u64::from(layout::STAGE) + (number * size) as u64;
                self.mmu
                    .write_phys(address, new)
                    .map_err(|error| TranslatedError::Exit(error.to_string()))?;
                old.copy_from_slice(new);
            }
        }
        Ok(())
    }

    fn read_image(&mut self) -> Result<(), TranslatedError> {
        self.mmu
            .read_phys(u64::from(layout::STAGE), &mut self.image)
            .map_err(|error| TranslatedError::Exit(error.to_string()))
    }

    /// Writes code through the stage's mapping; every byte is in a region.
    fn write_linear(&mut self, linear: u32, bytes: &[u8]) -> Result<(), TranslatedError> {
        let place = stage::locate(linear).ok_or(TranslatedError::Lost(linear))?;
        self.mmu
            .write_phys(u64::from(layout::STAGE) + place as u64, bytes)
            .map_err(|error| TranslatedError::Exit(error.to_string()))
    }

    /// Guest and host code of the unit at a linear address of the stage, as text.
    pub fn listing(&self, linear: u32) -> String {
        let place = stage::locate(linear);
        let unit = place.and_then(|p| self.vcpu.unit_listing(layout::STAGE + p as u32));
        unit.unwrap_or_default()
    }
}

const CR0: u32 = cr0::PG | cr0::WP | cr0::NE | cr0::ET | cr0::MP | cr0::PE;
const CR4: u32 = cr4::OSFXSR | cr4::OSXMMEXCPT;

/// Loads the registers of a case at CPL 3, with everything around them as the guest's tables say.
fn load(state: &mut CpuState, start: &MachineState) {
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
fn guest_memory() -> Vec<(u32, Vec<u8>)> {
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
    for (index, region) in REGIONS.iter().enumerate() {
        if region.access == Access::Code {
            let at = layout::STAGE + stage::image_offset(index) as u32;
            memory.push((at, vec![0xCC; region.len() as usize]));
        }
    }
    memory.extend(page_tables());
    memory
}

fn system_descriptor(base: u32, limit: u32, rights: u64) -> u64 {
    let base = u64::from(MONITOR + base);
    u64::from(limit & 0xFFFF) | (base & 0xFF_FFFF) << 16 | rights << 40 | (base >> 24) << 56
}

/// The page directory and its tables: the stage for ring 3, the monitor for ring 0.
fn page_tables() -> Vec<(u32, Vec<u8>)> {
    const PRESENT: u32 = 1;
    const WRITE: u32 = 2;
    const USER: u32 = 4;
    let mut pages: Vec<(u32, u32)> = (0..MONITOR_PAGES)
        .map(|page| (MONITOR + page * PAGE, (page * PAGE) | PRESENT | WRITE))
        .collect();
    for (index, region) in REGIONS.iter().enumerate() {
        let physical = layout::STAGE + stage::image_offset(index) as u32;
        let rights = match region.access {
            Access::ReadWrite => PRESENT | WRITE | USER,
            Access::ReadOnly | Access::Code => PRESENT | USER,
        };
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
        for (address, bytes) in guest_memory() {
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

//! The machine's shadow MMU: its state, guest-physical memory, events and counters.

use std::os::fd::BorrowedFd;

use crate::config::MmuConfig;
use crate::phys::{Frame, FrameRange, PhysMap};
use crate::pool::TablePool;
use crate::ram::{GuestRam, HostPage};
use crate::space::{Space, SpaceKind};
use crate::tlb::Tlb;
use crate::touch::Touches;
use crate::traces::{Trace, Traces};
use crate::walk::{Paging, Role, Tables};
use crate::watch::Watched;
use crate::window::Window;
use crate::{
    Access, MmuError, MmuEvent, MmuStats, PAGE_SHIFT, PAGE_SIZE, PagingRegs, PhysError, PhysTarget,
    Privilege, RangeKind, ShadowRoot, SpaceId, TableEdit, UserRegions,
};

const MIN_RAM: u64 = 1 << 20;
const MAX_RAM: u64 = 3 << 30;
const MAX_EXTRA: u64 = 128 << 20;

/// The spaces, by slot.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    slots: Vec<Option<Box<Space>>>,
}

impl Spaces {
    pub(crate) fn get(&self, slot: u8) -> Option<&Space> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, slot: u8) -> Option<&mut Space> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, &Space)> {
        (0u8..)
            .zip(&self.slots)
            .filter_map(|(slot, s)| Some((slot, s.as_deref()?)))
    }

    pub(crate) fn find(&self, kind: SpaceKind) -> Option<u8> {
        self.iter()
            .find(|(_, s)| s.kind == kind)
            .map(|(slot, _)| slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// The lowest free slot.
    pub(crate) fn free_slot(&self) -> u8 {
        self.slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len()) as u8
    }

    pub(crate) fn put(&mut self, slot: u8, space: Space) {
        if self.slots.len() <= slot as usize {
            self.slots.resize_with(slot as usize + 1, || None);
        }
        if let Some(s) = self.slots.get_mut(slot as usize) {
            *s = Some(Box::new(space));
        }
    }

    pub(crate) fn take(&mut self, slot: u8) -> Option<Box<Space>> {
        self.slots.get_mut(slot as usize)?.take()
    }
}

/// The slots of the spaces that accesses go through now; the same one with paging off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) user: u8,
    pub(crate) supervisor: u8,
}

/// A true fault that was delivered: once the guest's handler has entered the page, it will be accessed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prediction {
    pub(crate) space: SpaceId,
    pub(crate) linear: u32,
    pub(crate) access: Access,
}

/// One machine's guest-physical memory and everything derived from its page tables.
///
/// See the README of the crate for the model. Two of these in one process know nothing of each other.
#[derive(Debug)]
pub struct Mmu {
    // Configuration.
    pub(crate) config: MmuConfig,
    // Memory.
    pub(crate) ram: GuestRam,
    pub(crate) map: PhysMap,
    pub(crate) traces: Traces,
    // Paging registers, decoded.
    pub(crate) regs: PagingRegs,
    pub(crate) paging: Option<Paging>,
    // What is derived from the guest's tables.
    pub(crate) pool: TablePool,
    pub(crate) spaces: Spaces,
    pub(crate) active: Active,
    /// The privilege that code runs with, as far as calls of `view` tell.
    pub(crate) in_use: Privilege,
    pub(crate) tlb: Tlb,
    pub(crate) spare_windows: Vec<Window>,
    /// Host mappings of the windows of all spaces.
    pub(crate) vmas: usize,
    pub(crate) user_regions: UserRegions,
    /// `user_regions` is to be computed again.
    pub(crate) user_regions_dirty: bool,
    pub(crate) prediction: Option<Prediction>,
    pub(crate) touches: Touches,
    /// Pages that no window maps: data breakpoints.
    pub(crate) watched: Watched,
    // Policy state.
    /// Counts activations, for ages.
    pub(crate) clock: u64,
    pub(crate) next_tag: u32,
    pub(crate) next_generation: u32,
    /// Roles under which every root has its own supervisor space.
    pub(crate) split_roles: Vec<Role>,
    /// CR3 loads at which most of every shared supervisor space was wrong, less the others.
    pub(crate) mismatches: u32,
    // Output.
    pub(crate) events: Vec<MmuEvent>,
    pub(crate) stats: MmuStats,
}

impl Mmu {
    /// Makes a machine's memory: RAM everywhere below `ram_bytes` except the VGA hole (A0000h-BFFFFh, a device), holes above.
    /// Paging is off and the A20 gate open.
    ///
    /// # Errors
    ///
    /// A configuration that makes no sense, or the host has no memory or address space left.
    pub fn new(config: MmuConfig) -> Result<Mmu, MmuError> {
        let bytes = config.ram_bytes;
        if !bytes.is_multiple_of(PAGE_SIZE) || !(MIN_RAM..=MAX_RAM).contains(&bytes) {
            return Err(MmuError::RamSize(bytes));
        }
        if !config.extra_bytes.is_multiple_of(PAGE_SIZE) || config.extra_bytes > MAX_EXTRA {
            return Err(MmuError::Limit(
                "extra_bytes must be a multiple of 4 KiB, at most 128 MiB",
            ));
        }
        if !(4..=255).contains(&config.max_spaces) {
            return Err(MmuError::Limit("max_spaces must be 4 to 255"));
        }
        if config.mapping_budget < 256 {
            return Err(MmuError::Limit("mapping_budget must be at least 256"));
        }
        if config.table_pool_base & (PAGE_SIZE - 1) != 0 || config.table_pool_base >= 1 << 51 {
            return Err(MmuError::Limit(
                "table_pool_base must be a multiple of 4 KiB below 2^51",
            ));
        }
        let ram_pages = (bytes >> PAGE_SHIFT) as u32;
        let extra_pages = (config.extra_bytes >> PAGE_SHIFT) as u32;
        let pages = ram_pages + extra_pages;
        let ram = GuestRam::new(pages)?;
        let mut spare_windows = Vec::new();
        // One for each active space and one to change over: from now on a window can always be had.
        for _ in 0..3 {
            spare_windows.push(Window::reserve().map_err(MmuError::Reserve)?);
        }
        let mut mmu = Mmu {
            map: PhysMap::new(ram_pages, extra_pages),
            traces: Traces::new(pages),
            regs: PagingRegs::default(),
            paging: None,
            pool: TablePool::new(pages, config.table_pool_base, config.mirror_edits),
            spaces: Spaces::default(),
            active: Active {
                user: 0,
                supervisor: 0,
            },
            in_use: Privilege::Supervisor,
            tlb: Tlb::new(),
            spare_windows,
            vmas: 0,
            user_regions: UserRegions {
                flags: [false; 256],
                generation: 0,
            },
            user_regions_dirty: true,
            prediction: None,
            touches: Touches::default(),
            watched: Watched::default(),
            clock: 0,
            next_tag: 1,
            next_generation: 0,
            split_roles: Vec::new(),
            mismatches: 0,
            events: Vec::new(),
            stats: MmuStats::default(),
            config,
            ram,
        };
        mmu.activate();
        Ok(mmu)
    }

    /// Bytes of RAM.
    pub fn ram_bytes(&self) -> u64 {
        self.config.ram_bytes
    }

    /// Changes what a page-aligned guest-physical range leads to. A page that has been RAM or ROM keeps its contents through
    /// any change. ROM and RAM above the top of RAM take new memory, at most [`MmuConfig::extra_bytes`] of it.
    ///
    /// # Errors
    ///
    /// The range is not page-aligned, reaches beyond 4 GiB, or there is no memory left for it.
    pub fn set_range(&mut self, gpa: u64, bytes: u64, kind: RangeKind) -> Result<(), MmuError> {
        let range = FrameRange::new(gpa, bytes)?;
        for frame in range.first..range.end {
            if let Some(page) = self.map.backing(frame) {
                self.zap_memory(page);
            }
        }
        self.tlb.flush();
        let done = self.map.set(range, kind);
        self.forget_tables();
        done
    }

    /// Opens (`true`) or closes the A20 gate. A closed gate masks bit 20 of every physical address that the processor makes;
    /// each state has its own spaces, so that this is a change of windows and nothing more.
    pub fn set_a20(&mut self, enabled: bool) {
        if self.map.a20() != enabled {
            self.map.set_a20(enabled);
            self.reload();
        }
    }

    /// The state of the A20 gate: `true` is open.
    pub fn a20(&self) -> bool {
        self.map.a20()
    }

    /// The memory file, for KVM memory slots and processes that share the memory. RAM at guest-physical address N is at offset
    /// N. It may be mapped writable only by who keeps the traces in mind: direct execution, through shadow tables.
    pub fn ram_file(&self) -> BorrowedFd<'_> {
        self.ram.file()
    }

    /// Bytes of the memory file: RAM, and some room above it for ROM at the top of the address space.
    pub fn ram_file_bytes(&self) -> u64 {
        u64::from(self.ram.pages()) << PAGE_SHIFT
    }

    /// The offset in the memory file of the page that a guest-physical address leads to, if it is RAM or ROM (A20 gate not
    /// applied).
    pub fn ram_file_offset(&self, gpa: u64) -> Option<u64> {
        let page = self.map.lookup_on_bus(gpa).page()?;
        Some(u64::from(page) << PAGE_SHIFT)
    }

    /// What an address that the processor puts out leads to, A20 gate applied.
    pub fn phys_kind(&self, gpa: u64) -> PhysTarget {
        self.map.lookup(gpa).target()
    }

    /// What an address on the memory bus leads to: the A20 gate is not applied.
    pub fn bus_kind(&self, gpa: u64) -> PhysTarget {
        self.map.lookup_on_bus(gpa).target()
    }

    /// Reads guest-physical memory (RAM or ROM). The address is one on the memory bus: the A20 gate is not applied.
    ///
    /// # Errors
    ///
    /// Part of the range is not memory; the contents of `buf` are then unspecified.
    pub fn read_phys(&self, gpa: u64, buf: &mut [u8]) -> Result<(), PhysError> {
        let mut gpa = gpa;
        let mut rest = buf;
        while !rest.is_empty() {
            let offset = (gpa & (PAGE_SIZE - 1)) as usize;
            let (part, after) = rest.split_at_mut((PAGE_SIZE as usize - offset).min(rest.len()));
            let frame = self.map.lookup_on_bus(gpa);
            let Some(page) = frame.page() else {
                return Err(PhysError {
                    gpa,
                    target: frame.target(),
                });
            };
            self.ram.read(page, offset as u32, part);
            gpa = gpa.wrapping_add(part.len() as u64);
            rest = after;
        }
        Ok(())
    }

    /// Writes guest-physical memory through the trace hook. Writes to ROM are ignored, as on the bus. The address is one on the
    /// memory bus: the A20 gate is not applied.
    ///
    /// # Errors
    ///
    /// Part of the range is not memory; nothing is written then.
    pub fn write_phys(&mut self, gpa: u64, data: &[u8]) -> Result<(), PhysError> {
        self.write_memory(gpa, data, false)
    }

    /// As [`Mmu::write_phys`], but writes ROM too: for loaders of firmware.
    ///
    /// # Errors
    ///
    /// Part of the range is not memory; nothing is written then.
    pub fn load_rom(&mut self, gpa: u64, data: &[u8]) -> Result<(), PhysError> {
        self.write_memory(gpa, data, true)
    }

    fn write_memory(&mut self, gpa: u64, data: &[u8], rom: bool) -> Result<(), PhysError> {
        let mut check = gpa;
        let end = gpa.saturating_add(data.len() as u64);
        while check < end {
            let frame = self.map.lookup_on_bus(check);
            if frame.page().is_none() {
                return Err(PhysError {
                    gpa: check,
                    target: frame.target(),
                });
            }
            check = (check | (PAGE_SIZE - 1)) + 1;
        }
        let mut gpa = gpa;
        let mut rest = data;
        while !rest.is_empty() {
            let offset = (gpa & (PAGE_SIZE - 1)) as usize;
            let (part, after) = rest.split_at((PAGE_SIZE as usize - offset).min(rest.len()));
            match self.map.lookup_on_bus(gpa) {
                Frame::Ram(page) => self.write_page(page, offset as u32, part),
                Frame::Rom(page) if rom => self.write_page(page, offset as u32, part),
                Frame::Rom(_) => {
                    if let Some(page) = self.map.written_below(gpa) {
                        self.write_page(page, offset as u32, part);
                    }
                }
                Frame::Device | Frame::Hole => {}
            }
            gpa += part.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// Traces a guest page for code: writes to it are reported as [`MmuEvent::CodeWritten`], and from now on no window maps it
    /// writable. `gfn` is the frame number of [`Resolved::gpa`](crate::Resolved::gpa). Nothing happens for a page that is not
    /// RAM or ROM.
    pub fn trace_code(&mut self, gfn: u32) {
        if let Some(page) = self.map.lookup_on_bus(u64::from(gfn) << PAGE_SHIFT).page() {
            self.set_trace(page, Trace::CODE);
        }
    }

    /// Ends [`Mmu::trace_code`]. The page becomes writable again when it is next written to.
    pub fn untrace_code(&mut self, gfn: u32) {
        if let Some(page) = self.map.backing(gfn) {
            self.clear_trace(page, Trace::CODE);
        }
    }

    /// Events are waiting.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Appends the waiting events to `out`, oldest first.
    pub fn take_events(&mut self, out: &mut Vec<MmuEvent>) {
        out.append(&mut self.events);
    }

    /// The shadow tree for privilege `p`, for direct execution. Its leaves are kept like those of a processor's tree under a
    /// guest hypervisor: an access that they do not allow is to be reported to [`Mmu::handle_fault`] or [`Mmu::shadow_fault`].
    pub fn shadow_root(&mut self, p: Privilege) -> ShadowRoot {
        match self.spaces.get(self.slot_of(p)) {
            Some(space) => ShadowRoot {
                space: space.id,
                address: space.tree.root_address(&self.pool),
            },
            None => ShadowRoot {
                space: SpaceId(0),
                address: 0,
            },
        }
    }

    /// The shadow table at an address of the table pool.
    pub fn read_table(&self, address: u64) -> Option<&[u64; 512]> {
        self.pool.by_address(address)
    }

    /// Appends the waiting stores into shadow tables to `out`, oldest first. A mirror starts from all-zero tables; the edits of
    /// one table are complete. Empty unless [`MmuConfig::mirror_edits`] is set.
    pub fn take_edits(&mut self, out: &mut Vec<TableEdit>) {
        self.pool.take_edits(out);
    }

    /// The counters.
    pub fn stats(&self) -> &MmuStats {
        &self.stats
    }

    /// The counters, with the levels (`vmas`, `tables`) as they are now.
    pub fn snapshot(&self) -> MmuStats {
        MmuStats {
            vmas: self.vmas as u64,
            tables: self.pool.used() as u64,
            ..self.stats.clone()
        }
    }

    pub(crate) fn tables(&self) -> Tables<'_> {
        Tables {
            ram: &self.ram,
            map: &self.map,
        }
    }

    /// Drops every mapping of a page of the memory file, and reports it as changed if code was translated from it.
    fn zap_memory(&mut self, page: HostPage) {
        self.unmap_memory(page);
        if self.traces.get(page).contains(Trace::CODE) {
            self.code_written(page, 0, PAGE_SIZE as u16);
        }
    }

    pub(crate) fn code_written(&mut self, page: HostPage, offset: u32, len: u16) {
        let gfn = self.map.owner(page);
        let offset = offset as u16;
        // One write is one event, though it is compared in pieces.
        if let Some(MmuEvent::CodeWritten {
            gfn: last,
            offset: at,
            len: n,
        }) = self.events.last_mut()
            && *last == gfn
            && *at + *n == offset
        {
            *n += len;
            return;
        }
        self.events.push(MmuEvent::CodeWritten { gfn, offset, len });
    }
}

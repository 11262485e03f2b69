//! The machine's shadow MMU.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use crate::{
    Access, AccessPlan, AuditError, FaultOutcome, LinearError, MmuConfig, MmuError, MmuEvent,
    MmuStats, PageFault, PagingRegs, PhysError, PhysTarget, Privilege, RangeKind, Resolved,
    ShadowRoot, SpaceId, TableEdit, UserRegions, View,
};

/// One machine's guest-physical memory and everything derived from its page tables.
#[derive(Debug)]
pub struct Mmu {
    config: MmuConfig,
    file: File,
    a20: bool,
    regions: UserRegions,
    stats: MmuStats,
}

impl Mmu {
    /// Makes a machine's memory: RAM everywhere below `ram_bytes` except the VGA hole (A0000h-BFFFFh), holes above.
    pub fn new(config: MmuConfig) -> Result<Mmu, MmuError> {
        let fd =
            nix::sys::memfd::memfd_create(c"ringshift-ram", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
                .map_err(MmuError::MemoryFile)?;
        let regions = UserRegions {
            flags: [false; 256],
            generation: 0,
        };
        Ok(Mmu {
            config,
            file: File::from(fd),
            a20: true,
            regions,
            stats: MmuStats::default(),
        })
    }
    /// Bytes of RAM.
    pub fn ram_bytes(&self) -> u64 {
        self.config.ram_bytes
    }
    /// Changes what a page-aligned guest-physical range leads to. Contents of RAM and ROM pages are kept.
    pub fn set_range(&mut self, _gpa: u64, _bytes: u64, _kind: RangeKind) -> Result<(), MmuError> {
        Ok(())
    }
    /// Opens (`true`) or closes the A20 gate.
    pub fn set_a20(&mut self, enabled: bool) {
        self.a20 = enabled;
    }
    /// The state of the A20 gate.
    pub fn a20(&self) -> bool {
        self.a20
    }
    /// The memory file.
    pub fn ram_file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
    /// Reads guest-physical memory (RAM or ROM).
    pub fn read_phys(&self, gpa: u64, _buf: &mut [u8]) -> Result<(), PhysError> {
        Err(PhysError {
            gpa,
            target: PhysTarget::Hole,
        })
    }
    /// Writes guest-physical memory through the trace hook. Writes to ROM are ignored, as on the bus.
    pub fn write_phys(&mut self, gpa: u64, _data: &[u8]) -> Result<(), PhysError> {
        Err(PhysError {
            gpa,
            target: PhysTarget::Hole,
        })
    }
    /// As [`Mmu::write_phys`], but writes ROM too: for loaders of firmware.
    pub fn load_rom(&mut self, gpa: u64, _data: &[u8]) -> Result<(), PhysError> {
        Err(PhysError {
            gpa,
            target: PhysTarget::Hole,
        })
    }
    /// What a guest-physical address leads to, A20 gate applied.
    pub fn phys_kind(&self, _gpa: u64) -> PhysTarget {
        PhysTarget::Hole
    }
    /// Takes over the paging registers. Cheap when nothing that matters has changed.
    pub fn set_paging(&mut self, _regs: PagingRegs) {}
    /// A load of CR3, by MOV or a task switch.
    pub fn load_cr3(&mut self, _cr3: u32) {}
    /// INVLPG.
    pub fn invlpg(&mut self, _linear: u32) {}
    /// The window to run code of privilege `p` on. Applies what was put off, and makes `p` the privilege in use.
    pub fn view(&mut self, _p: Privilege) -> View {
        View {
            space: SpaceId(0),
            base: 0,
        }
    }
    /// Nothing is put off for the window of privilege `p`.
    pub fn view_is_clean(&self, _p: Privilege) -> bool {
        true
    }
    /// The regions where user pages can be.
    pub fn user_regions(&mut self) -> &UserRegions {
        &self.regions
    }
    /// The top-level entry that covers `linear` is present with U = 1.
    pub fn top_level_is_user(&mut self, _linear: u32) -> bool {
        false
    }
    /// A fault of translated code.
    pub fn handle_fault(&mut self, linear: u32, access: Access) -> FaultOutcome {
        match self.resolve(linear, access) {
            Ok(resolved) => FaultOutcome::Trapped(resolved),
            Err(fault) => FaultOutcome::PageFault(fault),
        }
    }
    /// Translates an access; sets accessed and dirty bits as the processor does.
    pub fn resolve(&mut self, linear: u32, access: Access) -> Result<Resolved, PageFault> {
        self.probe(linear, access)
    }
    /// As [`Mmu::resolve`], without side effects.
    pub fn probe(&self, linear: u32, _access: Access) -> Result<Resolved, PageFault> {
        Ok(Resolved {
            gpa: u64::from(linear),
            target: PhysTarget::Hole,
            traced: false,
        })
    }
    /// How to carry out an access of `len` bytes from the VMM.
    pub fn plan(
        &mut self,
        linear: u32,
        _len: usize,
        access: Access,
    ) -> Result<AccessPlan, PageFault> {
        self.resolve(linear, access).map(|_| AccessPlan::Slow)
    }
    /// Reads guest-linear memory, across pages.
    pub fn read_linear(
        &mut self,
        linear: u32,
        _buf: &mut [u8],
        access: Access,
    ) -> Result<(), LinearError> {
        self.resolve(linear, access)?;
        Ok(())
    }
    /// Writes guest-linear memory through the trace hook; all or nothing.
    pub fn write_linear(
        &mut self,
        linear: u32,
        _data: &[u8],
        access: Access,
    ) -> Result<(), LinearError> {
        self.resolve(linear, access)?;
        Ok(())
    }
    /// Traces a guest page for code: writes to it are reported.
    pub fn trace_code(&mut self, _gfn: u32) {}
    /// Ends that.
    pub fn untrace_code(&mut self, _gfn: u32) {}
    /// A later change of this linear page is to be reported as [`MmuEvent::Unmapped`].
    pub fn mark_code(&mut self, _space: SpaceId, _linear_page: u32) {}
    /// Events are waiting.
    pub fn has_events(&self) -> bool {
        false
    }
    /// Appends the waiting events to `out`, oldest first.
    pub fn take_events(&mut self, _out: &mut Vec<MmuEvent>) {}
    /// The shadow tree for privilege `p`, for direct execution.
    pub fn shadow_root(&mut self, _p: Privilege) -> ShadowRoot {
        ShadowRoot {
            space: SpaceId(0),
            address: 0,
        }
    }
    /// The shadow table at a pool address.
    pub fn read_table(&self, _address: u64) -> Option<&[u64; 512]> {
        None
    }
    /// Appends the waiting stores into shadow tables to `out`, oldest first.
    pub fn take_edits(&mut self, _out: &mut Vec<TableEdit>) {}
    /// The counters.
    pub fn stats(&self) -> &MmuStats {
        &self.stats
    }
    /// Compares guest tables, shadow trees, windows and traces.
    pub fn audit(&self) -> Result<(), AuditError> {
        Ok(())
    }
}

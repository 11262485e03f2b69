//! Translation and faults: walks, accessed and dirty bits, shadow entries, window fills.

use crate::mmu::{Mmu, Prediction};
use crate::phys::Frame;
use crate::pool::{bits, leaf_page};
use crate::space::{Space, SpaceKind};
use crate::tlb::TlbFill;
use crate::traces::{TableUse, Trace};
use crate::types::{Access, AccessKind, FaultOutcome, PageFault, PhysTarget, Privilege, Resolved};
use crate::walk::{A, D, P, Paging, Role, Translation, Walk, WalkOutcome};
use crate::window::Mapped;

/// A translated access and the space that has a shadow entry for it.
#[derive(Clone, Copy, Debug)]
struct Placed {
    resolved: Resolved,
    /// `None` if the translation may not be kept.
    slot: Option<u8>,
}

/// What is to become a shadow entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafSpec {
    pub(crate) kind: SpaceKind,
    /// Guest-physical address of the page, before the A20 gate.
    pub(crate) gpa: u64,
    /// The guest may write it now: the rights are there, and its dirty bit is set.
    pub(crate) may_write: bool,
    pub(crate) no_execute: bool,
    /// By a large page, or flat.
    pub(crate) extent: bool,
}

impl Mmu {
    /// A fault of translated code: a host fault at `linear` of a window (or an access about to be made there).
    ///
    /// A supervisor access may be answered by [`FaultOutcome::Filled`] though it was made through the user window: pages with
    /// U = 0 exist below top-level entries with U = 1. It has to go through the supervisor window then.
    pub fn handle_fault(&mut self, linear: u32, access: Access) -> FaultOutcome {
        let placed = match self.translate(linear, access) {
            Ok(placed) => placed,
            Err(fault) => {
                self.stats.true_faults += 1;
                self.predict(linear, access);
                return FaultOutcome::PageFault(fault);
            }
        };
        let resolved = placed.resolved;
        let placed = match self.former_table(resolved) {
            Some(page) if access.is_write() => {
                if !self.traces.former_faulted(page) {
                    self.stats.trapped_faults += 1;
                    self.stats.traced_faults += 1;
                    return FaultOutcome::Trapped(resolved);
                }
                self.end_former(page);
                // Once more, for a shadow entry that can be written.
                self.translate(linear, access).unwrap_or(placed)
            }
            _ => placed,
        };
        let mappable = match resolved.target {
            PhysTarget::Ram => !(access.is_write() && resolved.traced),
            PhysTarget::Rom => !access.is_write(),
            PhysTarget::Device | PhysTarget::Hole => false,
        };
        let Some(slot) = placed.slot.filter(|_| mappable) else {
            self.stats.trapped_faults += 1;
            self.stats.traced_faults += u64::from(resolved.traced);
            return FaultOutcome::Trapped(resolved);
        };
        if access.kind != AccessKind::Execute && !self.map_page(slot, linear >> 12) {
            self.stats.trapped_faults += 1;
            return FaultOutcome::Trapped(resolved);
        }
        self.stats.hidden_faults += 1;
        let kernel = slot == self.active.supervisor;
        self.stats.hidden_kernel_faults += u64::from(kernel);
        if slot == self.slot_of(access.privilege) {
            FaultOutcome::Filled
        } else {
            self.stats.user_page_faults += 1;
            FaultOutcome::UserPage
        }
    }

    /// As [`Mmu::handle_fault`], for direct execution: fills the shadow tree and leaves the window alone.
    pub fn shadow_fault(&mut self, linear: u32, access: Access) -> FaultOutcome {
        match self.translate(linear, access) {
            Err(fault) => FaultOutcome::PageFault(fault),
            Ok(Placed { resolved, slot }) => {
                if let Some(page) = self.former_table(resolved).filter(|_| access.is_write()) {
                    self.end_former(page);
                    return self.shadow_fault(linear, access);
                }
                let writable = resolved.target == PhysTarget::Ram && !resolved.traced;
                let readable = matches!(resolved.target, PhysTarget::Ram | PhysTarget::Rom);
                let mappable = if access.is_write() {
                    writable
                } else {
                    readable
                };
                match slot.filter(|_| mappable) {
                    None => FaultOutcome::Trapped(resolved),
                    Some(slot) if slot == self.slot_of(access.privilege) => FaultOutcome::Filled,
                    Some(_) => FaultOutcome::UserPage,
                }
            }
        }
    }

    /// Translates an access; sets accessed and dirty bits as the processor does.
    ///
    /// # Errors
    ///
    /// The page fault that the access causes.
    #[inline]
    pub fn resolve(&mut self, linear: u32, access: Access) -> Result<Resolved, PageFault> {
        match self.cached(linear, access) {
            Some((resolved, _)) => Ok(resolved),
            None => Ok(self.translate(linear, access)?.resolved),
        }
    }

    /// A translation from the software TLB, with the page of the memory file (if there is one).
    #[inline]
    pub(crate) fn cached(&mut self, linear: u32, access: Access) -> Option<(Resolved, u32)> {
        let entry = self.tlb.lookup(linear >> 12, access.privilege)?;
        let allowed = match access.kind {
            AccessKind::Read => true,
            AccessKind::Write => entry.writable,
            AccessKind::Execute => entry.executable,
        };
        if !allowed {
            return None;
        }
        let gpa = u64::from(entry.frame) << 12 | u64::from(linear & 0xfff);
        let memory = matches!(entry.target, PhysTarget::Ram | PhysTarget::Rom);
        let traced = memory && self.traces.is_traced(entry.page);
        let (page, target) = (entry.page, entry.target);
        self.stats.tlb_hits += 1;
        Some((
            Resolved {
                gpa,
                target,
                traced,
            },
            page,
        ))
    }

    /// As [`Mmu::resolve`], without any side effect: for the debugger and the monitor.
    ///
    /// # Errors
    ///
    /// The page fault that the access would cause.
    pub fn probe(&self, linear: u32, access: Access) -> Result<Resolved, PageFault> {
        let gpa = match &self.paging {
            None => u64::from(linear),
            Some(paging) => {
                let walk = paging.walk(self.tables(), linear);
                walk.check(access, paging.role)
                    .map_err(|code| PageFault { linear, code })?
                    .gpa
            }
        };
        Ok(self.resolved(gpa))
    }

    /// The page that a translation leads to, if it was a page table and is none any more.
    fn former_table(&self, resolved: Resolved) -> Option<u32> {
        let page = self.map.lookup_on_bus(resolved.gpa).page()?;
        self.traces.is_former(page).then_some(page)
    }

    fn resolved(&self, gpa: u64) -> Resolved {
        let frame = self.map.lookup(gpa);
        let traced = frame.page().is_some_and(|page| self.traces.is_traced(page));
        Resolved {
            gpa: self.map.gate(gpa),
            target: frame.target(),
            traced,
        }
    }

    /// Walks the tables, sets accessed and dirty bits, and enters the translation in the shadow tree and the TLB.
    fn translate(&mut self, linear: u32, access: Access) -> Result<Placed, PageFault> {
        let Some(paging) = self.paging else {
            return Ok(self.translate_flat(linear, access));
        };
        self.stats.walks += 1;
        let walk = paging.walk(self.tables(), linear);
        if walk.table_entry.is_some() {
            // The directory entry was used, whatever comes of it.
            self.set_table_bits(walk.directory, A);
        }
        let t = walk
            .check(access, paging.role)
            .map_err(|code| PageFault { linear, code })?;
        self.set_table_bits(walk.last_entry(), if access.is_write() { A | D } else { A });
        let dirty = access.is_write() || walk.last_entry().value & D != 0;
        let split = paging.role.contains(Role::WP);
        let slot = match access.privilege {
            Privilege::User => self.active.user,
            Privilege::Supervisor if t.user && split => self.active.user,
            Privilege::Supervisor => self.active.supervisor,
        };
        if !walk.cacheable {
            return Ok(Placed {
                resolved: self.resolved(t.gpa),
                slot: None,
            });
        }
        self.place(&paging, &walk, t, slot, dirty);
        Ok(Placed {
            resolved: self.resolved(t.gpa),
            slot: Some(slot),
        })
    }

    /// Enters a translation in the tree of a space and in the TLB.
    fn place(&mut self, paging: &Paging, walk: &Walk, t: Translation, slot: u8, dirty: bool) {
        let Some(kind) = self.spaces.get(slot).map(|s| s.kind) else {
            return;
        };
        let used = if t.large && dirty { A | D } else { A };
        self.register_region(slot, paging, walk.region, walk.directory.value | used);
        let page = walk.linear >> 12;
        let spec = LeafSpec {
            kind,
            gpa: t.gpa & !0xfff,
            may_write: kind.writable(t.write) && dirty,
            no_execute: t.no_execute,
            extent: t.large,
        };
        self.install(slot, page, spec);
        self.enter_tlb(page, spec, slot);
    }

    fn enter_tlb(&mut self, page: u32, spec: LeafSpec, slot: u8) {
        let frame = self.map.lookup(spec.gpa);
        let fill = TlbFill {
            frame: (self.map.gate(spec.gpa) >> 12) as u32,
            page: frame.page().unwrap_or(0),
            target: frame.target(),
            writable: spec.may_write,
            executable: !spec.no_execute,
        };
        // A frame beyond 4 GiB has no number that fits; such a hole is walked to each time.
        if self.map.gate(spec.gpa) >> 32 == 0 {
            self.tlb.insert(
                page,
                slot == self.active.user && slot != self.active.supervisor,
                fill,
            );
        }
    }

    fn translate_flat(&mut self, linear: u32, access: Access) -> Placed {
        let slot = self.slot_of(access.privilege);
        let page = linear >> 12;
        let spec = LeafSpec {
            kind: SpaceKind::Flat {
                a20: self.map.a20(),
            },
            gpa: u64::from(page) << 12,
            may_write: true,
            no_execute: false,
            extent: true,
        };
        self.install(slot, page, spec);
        self.enter_tlb(page, spec, slot);
        Placed {
            resolved: self.resolved(u64::from(linear)),
            slot: Some(slot),
        }
    }

    /// Records the directory entry that a region of a space is filled from, and traces the page table that it points to.
    pub(crate) fn register_region(&mut self, slot: u8, paging: &Paging, region: u32, entry: u64) {
        let Some(space) = self.spaces.get_mut(slot) else {
            return;
        };
        if let Some(recorded) = space.regions.get(region) {
            const IGNORED: u64 = A | D | 0xf98;
            debug_assert_eq!(
                recorded & !IGNORED,
                entry & !IGNORED,
                "a region outlived its directory entry"
            );
            if entry & !recorded & D != 0 {
                let table = space.regions.table(region);
                space.regions.insert(region, recorded | D, table);
            }
            if let Some(uses) = space
                .regions
                .table(region)
                .and_then(|table| self.traces.uses_mut(table))
            {
                uses.dead_writes = 0;
            }
            return;
        }
        let table = if paging.is_large(entry) {
            None
        } else {
            self.map.lookup(paging.table_address(entry)).page()
        };
        space.regions.insert(region, entry, table);
        self.user_regions_dirty |= slot == self.active.supervisor;
        if let Some(table) = table {
            self.traces.add_use(table, TableUse { slot, region }, false);
            self.set_trace(table, Trace::TABLE);
        }
    }

    /// Makes or updates the shadow entry of a page. Devices and holes get none.
    pub(crate) fn install(&mut self, slot: u8, page: u32, spec: LeafSpec) {
        let frame = self.map.lookup(spec.gpa);
        let Some(host_page) = frame.page() else {
            return;
        };
        if spec.extent {
            self.install_extent(slot, page, spec);
            return;
        }
        if spec.may_write && spec.kind.is_user() {
            self.end_former(host_page);
        }
        let wanted = self.compose(frame, spec);
        let Some(space) = self.spaces.get_mut(slot) else {
            return;
        };
        let old = space.tree.leaf(&self.pool, page).map_or(0, |l| l.entry);
        if old != 0 && leaf_page(old) != host_page {
            debug_assert!(false, "a shadow entry outlived its guest entry");
            self.zap_page(slot, page);
            self.install(slot, page, spec);
            return;
        }
        if old & !bits::CODE != wanted {
            self.stats.shadow_fills += 1;
            space
                .tree
                .set_leaf(&mut self.pool, page, wanted | old & bits::CODE);
        }
    }

    /// The shadow entry for a page of memory.
    pub(crate) fn compose(&self, frame: Frame, spec: LeafSpec) -> u64 {
        let (page, ram) = match frame {
            Frame::Ram(page) => (page, true),
            Frame::Rom(page) => (page, false),
            Frame::Device | Frame::Hole => return 0,
        };
        let mut entry = u64::from(page) << 12 | bits::P | bits::AD | spec.kind.leaf_us();
        if spec.may_write && ram {
            entry |= bits::MAY_WRITE;
            if !self.traces.is_guarded(page) {
                entry |= bits::RW;
            }
        }
        if spec.no_execute {
            entry |= bits::NX;
        }
        if spec.extent {
            entry |= bits::EXTENT;
        }
        entry
    }

    /// Marks a linear page as having code translated from it: a later change of its mapping is reported as
    /// [`MmuEvent::Unmapped`](crate::MmuEvent::Unmapped). If the mapping is gone already, that is reported at once.
    pub fn mark_code(&mut self, space: crate::SpaceId, linear_page: u32) {
        let slot = space.slot() as u8;
        let Some(s) = self.spaces.get_mut(slot).filter(|s| s.id == space) else {
            return;
        };
        match s.tree.leaf(&self.pool, linear_page) {
            None => self.events.push(crate::MmuEvent::Unmapped {
                space,
                first_page: linear_page,
                pages: 1,
            }),
            Some(leaf) if leaf.entry & bits::CODE != 0 => {}
            Some(leaf) => s
                .tree
                .set_leaf(&mut self.pool, linear_page, leaf.entry | bits::CODE),
        }
    }

    /// Maps a page that has a shadow entry in the window of its space, with its neighbours as far as one call can. False if the
    /// page is watched or the host refuses.
    pub(crate) fn map_page(&mut self, slot: u8, page: u32) -> bool {
        if self.watched.contains(page) {
            return false;
        }
        self.make_room(4);
        self.ensure_window(slot);
        let Some(space) = self.spaces.get(slot) else {
            return false;
        };
        let Some(leaf) = space.tree.leaf(&self.pool, page) else {
            return false;
        };
        let wanted = Mapped {
            page: leaf_page(leaf.entry),
            writable: leaf.entry & bits::RW != 0,
        };
        let Some(window) = &space.window else {
            return false;
        };
        let now = window.mapped(page);
        if now == Some(wanted) {
            return true;
        }
        let upgrade = now.is_some_and(|m| m.page == wanted.page && wanted.writable);
        let (first, count) = if upgrade || now.is_some() {
            (page, 1)
        } else {
            self.run_around(slot, page, leaf.entry)
        };
        let Some(Space {
            window: Some(window),
            ..
        }) = self.spaces.get_mut(slot)
        else {
            return false;
        };
        self.vmas -= window.vmas();
        let done = if upgrade {
            window.protect(page, 1, true, &mut self.stats)
        } else {
            let start = Mapped {
                page: wanted.page - (page - first),
                ..wanted
            };
            window.map(self.ram.file(), first, count, start, &mut self.stats)
        };
        self.vmas += window.vmas();
        if let Err(error) = done {
            tracing::warn!(%error, "a page could not be mapped in its window");
            self.empty_window(slot);
            return false;
        }
        if leaf.entry & bits::EXTENT == 0 {
            self.stats.fault_around_pages += u64::from(count - 1);
        }
        true
    }

    /// Remembers a true fault: when the user window is next handed out, its page may have been entered.
    fn predict(&mut self, linear: u32, access: Access) {
        // A supervisor access to a user page goes through the user window only with CR0.WP = 1.
        let wp = self.paging.is_some_and(|p| p.role.contains(Role::WP));
        let split = wp || access.privilege == Privilege::User;
        self.prediction = match self.spaces.get(self.active.user) {
            Some(space) if space.kind.is_user() && access.kind != AccessKind::Execute && split => {
                Some(Prediction {
                    space: space.id,
                    linear,
                    access,
                })
            }
            _ => None,
        };
    }

    /// Maps the page of the last true fault if the guest has entered it, with accessed and dirty bits already set.
    pub(crate) fn apply_prediction(&mut self) {
        let Some(Prediction {
            space,
            linear,
            access,
        }) = self.prediction.take()
        else {
            return;
        };
        let Some(paging) = self
            .paging
            .filter(|_| self.space_of(Privilege::User) == space)
        else {
            return;
        };
        let walk = paging.walk(self.tables(), linear);
        let needed = if access.is_write() { P | A | D } else { P | A };
        let entered = walk.cacheable
            && walk.directory.value & A != 0
            && walk.last_entry().value & needed == needed;
        let WalkOutcome::Mapped(Translation { user: true, .. }) = walk.outcome else {
            return;
        };
        let slot = self.active.user;
        if entered
            && let Ok(t) = walk.check(access, paging.role)
            && let Frame::Ram(page) = self.map.lookup(t.gpa)
            && !(access.is_write() && self.traces.is_traced(page))
        {
            self.place(&paging, &walk, t, slot, walk.last_entry().value & D != 0);
            if self.map_page(slot, linear >> 12) {
                self.stats.predicted_pages += 1;
            }
        }
    }
}

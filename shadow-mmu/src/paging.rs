//! Paging registers and the spaces they select: activation, CR3 loads, eviction.

use crate::mmu::{Active, Mmu};
use crate::space::{Space, SpaceKind};
use crate::traces::{TableUse, Trace};
use crate::walk::{A, D, Entry, P, Paging, Role, Tables, U};
use crate::{MmuEvent, PagingRegs, Privilege, SpaceId, UserRegions};

/// Populated regions below which a shared supervisor space tells nothing about the guest.
const FEW_REGIONS: usize = 2;
/// What a mismatching CR3 load counts against one that agrees: where two roots take turns at one space, half of the loads
/// agree, as there is next to nothing left to disagree with.
const MISMATCH_WEIGHT: u32 = 2;
/// The count at which each root gets its own supervisor space.
const MISMATCH_LIMIT: u32 = 8 * MISMATCH_WEIGHT;
/// Groups of roots that have a supervisor space each. Two, for page-table isolation: the roots that the kernel runs on, and
/// those that user code runs on, which map next to nothing of the kernel.
const GROUPS: u8 = 2;

/// Where a root differs from what a supervisor space was filled from.
#[derive(Default)]
struct Differences {
    populated: usize,
    regions: Vec<u32>,
    /// Directory entries that agree, but have never been used.
    unaccessed: Vec<Entry>,
}

impl Differences {
    /// Regions that need not be filled again.
    fn agreeing(&self) -> usize {
        self.populated - self.regions.len()
    }

    /// Enough was filled to tell, and most of it is different.
    fn are_most(&self) -> bool {
        self.populated > FEW_REGIONS && self.regions.len() * 2 > self.populated
    }
}

impl Mmu {
    /// Takes over the paging registers. Cheap when nothing that matters has changed.
    pub fn set_paging(&mut self, regs: PagingRegs) {
        if self.regs == regs {
            return;
        }
        self.regs = regs;
        self.reload();
    }

    /// A load of CR3, by MOV or a task switch. What is cached stays: guest tables in use are traced, so that nothing derived
    /// from them can be out of date.
    pub fn load_cr3(&mut self, cr3: u32) {
        self.stats.cr3_loads += 1;
        self.regs.cr3 = cr3;
        if self.paging.is_some() {
            let made = self.stats.spaces_made;
            self.reload();
            self.stats.cr3_hits += u64::from(self.stats.spaces_made == made);
        }
    }

    /// INVLPG. Nothing can be out of date (see [`Mmu::load_cr3`]).
    pub fn invlpg(&mut self, linear: u32) {
        if let Some(space) = self.spaces.get(self.active.user) {
            self.tlb.remove(linear >> 12, space.tag);
        }
    }

    /// Decodes the registers again and makes the right spaces active.
    pub(crate) fn reload(&mut self) {
        let mut paging = Paging::from_regs(&self.regs, self.map.a20(), self.config.physical_bits);
        if let Some(p) = &mut paging {
            p.load_pdptes(Tables {
                ram: &self.ram,
                map: &self.map,
            });
        }
        if paging == self.paging && paging.is_some() {
            // The same root again (a TLB flush of the guest).
            if let Some(user) = self.spaces.get_mut(self.active.user) {
                user.foreign_writes = 0;
            }
            return;
        }
        self.paging = paging;
        self.activate();
    }

    /// Finds or makes the spaces for the current paging, and brings the supervisor space in line with the root.
    pub(crate) fn activate(&mut self) {
        self.clock += 1;
        let Some(paging) = self.paging else {
            let (slot, _) = self.find_or_make(SpaceKind::Flat {
                a20: self.map.a20(),
            });
            self.active = Active {
                user: slot,
                supervisor: slot,
            };
            self.activated(false);
            return;
        };
        let user_role = paging.role.difference(Role::WP);
        let (user, cached) = self.find_or_make(SpaceKind::User {
            root: paging.root,
            role: user_role,
        });
        // From here on the new user space is safe from eviction; the old supervisor space still is.
        self.active.user = user;
        if cached {
            self.refresh_pdptes(user, &paging);
        } else {
            self.register_directories(user, &paging);
        }
        self.activate_supervisor(&paging);
    }

    /// Makes the supervisor space active whose content agrees best with the root, and brings it in line.
    fn activate_supervisor(&mut self, paging: &Paging) {
        let own = self.split_roles.contains(&paging.role);
        let kind = |group| SpaceKind::Supervisor {
            root: own.then_some(paging.root),
            role: paging.role,
            group: if own { 0 } else { group },
        };
        let group = self.spaces.get(self.active.user).map_or(0, |s| s.group);
        let (slot, cached) = self.find_or_make(kind(group));
        self.active.supervisor = slot;
        let mut found = cached
            .then(|| self.compare_supervisor(slot, paging))
            .flatten();
        if !own && let Some(here) = &found {
            let group = (group + 1) % GROUPS;
            // A space that has more may agree in more: the root may have come to its group when that was all but empty, or
            // full of roots of another kind.
            let size = |slot| self.spaces.get(slot).map_or(0, |s| s.regions.len());
            let other_size = self.spaces.find(kind(group)).map_or(0, size);
            if here.are_most() || other_size > here.populated + FEW_REGIONS {
                let (slot, cached) = self.find_or_make(kind(group));
                let other = cached
                    .then(|| self.compare_supervisor(slot, paging))
                    .flatten();
                let agreeing = other.as_ref().map_or(other_size, Differences::agreeing);
                let is_other_kind = other.as_ref().is_some_and(Differences::are_most);
                if !is_other_kind && (here.are_most() || agreeing > here.agreeing()) {
                    self.active.supervisor = slot;
                    found = other;
                    if let Some(user) = self.spaces.get_mut(self.active.user) {
                        user.group = group;
                    }
                }
            }
        }
        self.activated(paging.role.contains(Role::WP));
        if let Some(found) = found {
            self.empty_differing(found, paging);
        }
    }

    fn activated(&mut self, split: bool) {
        self.user_regions_dirty = true;
        let clock = self.clock;
        for slot in [self.active.user, self.active.supervisor] {
            if let Some(space) = self.spaces.get_mut(slot) {
                space.used = clock;
                space.foreign_writes = 0;
            }
        }
        self.publish_tags(split);
    }

    /// Tells the TLB the tags of the active spaces.
    fn publish_tags(&mut self, split: bool) {
        let tag = |slot| self.spaces.get(slot).map_or(0, |s| s.tag);
        self.tlb
            .activate(tag(self.active.user), tag(self.active.supervisor), split);
    }

    /// Gives a space a new tag, so that the TLB has nothing of it any more.
    pub(crate) fn retag(&mut self, slot: u8) {
        let tag = self.fresh_tag();
        if let Some(space) = self.spaces.get_mut(slot) {
            space.tag = tag;
        }
        let split = self.paging.is_some_and(|p| p.role.contains(Role::WP));
        self.publish_tags(split);
    }

    fn fresh_tag(&mut self) -> u32 {
        let tag = self.next_tag;
        self.next_tag = match tag.checked_add(1) {
            Some(next) => next,
            None => {
                // Once in 2^32: old tags come round again.
                self.tlb.flush();
                1
            }
        };
        tag
    }

    /// The space of a kind and whether it was there already.
    fn find_or_make(&mut self, kind: SpaceKind) -> (u8, bool) {
        // Most loads return to a space that is there; the active ones first.
        for slot in [self.active.supervisor, self.active.user] {
            if self.spaces.get(slot).is_some_and(|s| s.kind == kind) {
                return (slot, true);
            }
        }
        if let Some(slot) = self.spaces.find(kind) {
            return (slot, true);
        }
        while self.spaces.len() >= self.config.max_spaces && self.evict_oldest() {}
        let slot = self.spaces.free_slot();
        self.next_generation = self.next_generation.wrapping_add(1) & 0xff_ffff;
        let id = SpaceId(self.next_generation << 8 | u32::from(slot));
        let tag = self.fresh_tag();
        let mut space = Space::new(id, kind, tag, &mut self.pool);
        space.used = self.clock;
        self.spaces.put(slot, space);
        self.stats.spaces_made += 1;
        (slot, false)
    }

    pub(crate) fn is_active(&self, slot: u8) -> bool {
        slot == self.active.user || slot == self.active.supervisor
    }

    fn evict_oldest(&mut self) -> bool {
        let oldest = self
            .spaces
            .iter()
            .filter(|(slot, _)| !self.is_active(*slot))
            .min_by_key(|(_, s)| s.used);
        let Some((slot, _)) = oldest else {
            return false;
        };
        self.drop_space(slot);
        true
    }

    /// Ends a space that is not active.
    pub(crate) fn drop_space(&mut self, slot: u8) {
        debug_assert!(!self.is_active(slot), "an active space is dropped");
        let Some(mut space) = self.spaces.take(slot) else {
            return;
        };
        space.tree.release(&mut self.pool);
        let regions: Vec<u32> = space.regions.iter().map(|(region, _)| region).collect();
        for region in regions {
            if let Some(table) = space.regions.remove(region) {
                self.release_use(table, TableUse { slot, region }, false);
            }
        }
        for (page, region) in space.directories {
            self.release_use(page, TableUse { slot, region }, true);
        }
        if let Some(mut window) = space.window {
            self.vmas -= window.vmas();
            match window.clear(&mut self.stats) {
                Ok(()) => self.spare_windows.push(window),
                // Dropping it gives all of its address space back.
                Err(error) => tracing::warn!(%error, "cannot empty a window"),
            }
        }
        self.stats.spaces_dropped += 1;
        self.events.push(MmuEvent::SpaceDropped(space.id));
    }

    /// The memory map has changed, and with it perhaps the memory behind guest tables: starts over with everything paged.
    pub(crate) fn forget_tables(&mut self) {
        let paged: Vec<u8> = self
            .spaces
            .iter()
            .filter(|(_, s)| s.kind.role().is_some())
            .map(|(slot, _)| slot)
            .collect();
        for slot in paged {
            if !self.is_active(slot) {
                self.drop_space(slot);
                continue;
            }
            let Some(space) = self.spaces.get_mut(slot) else {
                continue;
            };
            let directories = std::mem::take(&mut space.directories);
            let regions: Vec<u32> = space.regions.iter().map(|(region, _)| region).collect();
            for region in regions {
                self.zap_region(slot, region);
            }
            for (page, region) in directories {
                self.release_use(page, TableUse { slot, region }, true);
            }
            if slot == self.active.user
                && let Some(paging) = self.paging
            {
                self.register_directories(slot, &paging);
            }
        }
    }

    fn release_use(&mut self, page: u32, user: TableUse, directory: bool) {
        if self.traces.remove_use(page, user, directory) {
            self.clear_trace(page, Trace::TABLE);
        }
    }

    /// Registers a new user space with the page directories of its root, which are traced from now on.
    fn register_directories(&mut self, slot: u8, paging: &Paging) {
        let geometry = paging.geometry();
        let mut found = Vec::new();
        for region in (0..geometry.regions()).step_by(geometry.entries as usize) {
            let page = paging
                .directory(region)
                .and_then(|gpa| self.map.lookup(gpa).page());
            found.extend(page.map(|page| (page, region)));
        }
        for &(page, region) in &found {
            self.traces.add_use(page, TableUse { slot, region }, true);
            self.set_trace(page, Trace::TABLE);
        }
        if let Some(space) = self.spaces.get_mut(slot) {
            space.directories = found;
            space.pdptes = paging.pdptes;
            space.user_regions = None;
            space.agrees_with = None;
        }
    }

    /// PAE: the page-directory-pointer table is read at a CR3 load only; empties what a changed entry covered.
    fn refresh_pdptes(&mut self, slot: u8, paging: &Paging) {
        let Some(space) = self.spaces.get(slot) else {
            return;
        };
        if space.pdptes == paging.pdptes {
            return;
        }
        let old = space.pdptes;
        let changed = |region: u32| {
            let quarter = (region >> 9) as usize;
            old.get(quarter) != paging.pdptes.get(quarter)
        };
        let gone: Vec<u32> = space
            .regions
            .iter()
            .map(|(r, _)| r)
            .filter(|&r| changed(r))
            .collect();
        let directories = space.directories.clone();
        for region in gone {
            self.zap_region(slot, region);
        }
        for (page, region) in directories {
            self.release_use(page, TableUse { slot, region }, true);
        }
        self.register_directories(slot, paging);
        // What the TLB has of pages without a region (none today) or of old directories is dropped too.
        self.retag(slot);
    }

    /// Compares the root now loaded with what a supervisor space was filled from. Nothing where they are known to agree.
    fn compare_supervisor(&self, slot: u8, paging: &Paging) -> Option<Differences> {
        let space = self.spaces.get(slot)?;
        let agreed = Some((space.id, space.regions.version));
        if self
            .spaces
            .get(self.active.user)
            .is_some_and(|user| user.agrees_with == agreed)
        {
            return None;
        }
        let tables = self.tables();
        let mut found = Differences::default();
        for (region, recorded) in space.regions.iter() {
            found.populated += 1;
            let entry = paging.directory_entry(tables, region);
            // Write access through a large page depends on its dirty bit.
            let clean = paging.is_large(recorded) && recorded & !entry.value & D != 0;
            if !entry.cacheable || clean || (entry.value ^ recorded) & !(A | D) != 0 {
                found.regions.push(region);
            } else if entry.value & A == 0 {
                found.unaccessed.push(entry);
            }
        }
        Some(found)
    }

    /// Empties the regions of the active supervisor space in which the root now loaded is different.
    fn empty_differing(&mut self, found: Differences, paging: &Paging) {
        let slot = self.active.supervisor;
        if found.are_most() {
            self.mismatches += MISMATCH_WEIGHT;
        } else if found.populated > FEW_REGIONS {
            self.mismatches = self.mismatches.saturating_sub(1);
        }
        // What stays mapped may be accessed without a walk, so its accessed bit is set now; a processor may do so as well, when
        // it walks the tables ahead of the program.
        for entry in found.unaccessed {
            self.set_table_bits(entry, A);
        }
        self.stats.supervisor_regions_dropped += found.regions.len() as u64;
        for region in found.regions {
            self.zap_region(slot, region);
        }
        let agreed = self
            .spaces
            .get(slot)
            .map(|space| (space.id, space.regions.version));
        if let Some(user) = self.spaces.get_mut(self.active.user) {
            user.agrees_with = agreed;
        }
        if self.mismatches >= MISMATCH_LIMIT && !self.split_roles.contains(&paging.role) {
            tracing::info!(
                "kernel mappings differ from root to root: one supervisor space for each"
            );
            self.mismatches = 0;
            self.split_roles.push(paging.role);
            self.activate();
        }
    }

    /// The regions in which user pages can be, so that supervisor accesses to them can be sent to the user window: some present
    /// top-level entry has U = 1, and no supervisor page was met there so far (Linux sets U = 1 in the top-level entries of
    /// some of its own regions). All false where supervisor accesses never have to be sent elsewhere: with paging off, or with
    /// CR0.WP = 0.
    ///
    /// Cheap when nothing has changed. An access that is sent to the wrong window is answered by [`Mmu::handle_fault`].
    pub fn user_regions(&mut self) -> &UserRegions {
        if std::mem::take(&mut self.user_regions_dirty) {
            let flags = self.current_user_regions();
            if flags != self.user_regions.flags {
                self.user_regions.flags = flags;
                self.user_regions.generation += 1;
            }
        }
        &self.user_regions
    }

    fn current_user_regions(&mut self) -> [bool; 256] {
        let none = [false; 256];
        let Some(paging) = self.paging.filter(|p| p.role.contains(Role::WP)) else {
            return none;
        };
        let tables = Tables {
            ram: &self.ram,
            map: &self.map,
        };
        let Some(space) = self.spaces.get_mut(self.active.user) else {
            return none;
        };
        let shift = 24 - paging.geometry().region_shift;
        let mut flags = **space.user_regions.get_or_insert_with(|| {
            let mut flags = Box::new(none);
            for region in 0..paging.geometry().regions() {
                let entry = paging.directory_entry(tables, region).value;
                if entry & (P | U) == P | U
                    && let Some(flag) = flags.get_mut((region >> shift) as usize)
                {
                    *flag = true;
                }
            }
            flags
        });
        if let Some(supervisor) = self.spaces.get(self.active.supervisor) {
            for (region, _) in supervisor.regions.iter() {
                if let Some(flag) = flags.get_mut((region >> shift) as usize) {
                    *flag = false;
                }
            }
        }
        flags
    }

    /// As [`Mmu::user_regions`], for the one top-level entry that covers `linear`.
    pub fn top_level_is_user(&mut self, linear: u32) -> bool {
        let Some(paging) = self.paging.filter(|p| p.role.contains(Role::WP)) else {
            return false;
        };
        let region = linear >> paging.geometry().region_shift;
        let entry = paging.directory_entry(self.tables(), region).value;
        let supervisor = self.spaces.get(self.active.supervisor);
        entry & (P | U) == P | U && supervisor.is_none_or(|s| s.regions.get(region).is_none())
    }

    /// The slot of the space whose window code of privilege `p` runs on.
    pub(crate) fn slot_of(&self, p: Privilege) -> u8 {
        match p {
            Privilege::User => self.active.user,
            Privilege::Supervisor => self.active.supervisor,
        }
    }

    /// The space that the accesses of privilege `p` go through.
    pub fn space_of(&self, p: Privilege) -> SpaceId {
        self.spaces
            .get(self.slot_of(p))
            .map_or(SpaceId(0), |s| s.id)
    }
}

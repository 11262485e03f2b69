//! The units in the cache, and how they are found: by key, by host address, by guest page.

use super::jumps::LearnedJump;
use super::store_table::{CodeMap, mark, next_code};
use crate::codegen::mode::Mode;
use crate::codegen::{AccessHint, InstructionMap, Site, SiteKind};
use crate::state::InterruptShadow;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use shadow_mmu::SpaceId;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// What a translation depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UnitKey {
    /// Guest-physical address of the first byte.
    pub(crate) gpa: u32,
    /// Its offset in CS: calls push it.
    pub(crate) eip: u32,
    pub(crate) mode: Mode,
    /// Limit of CS.
    pub(crate) code_limit: u32,
}

/// A multiplicative hash: the keys are small integers and looked up often.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// A unit in the cache.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) key: UnitKey,
    /// Host address of the entry, executable view.
    pub(crate) host: u64,
    pub(crate) host_bytes: u32,
    pub(crate) instructions: Box<[InstructionMap]>,
    pub(crate) sites: Box<[Site]>,
    /// Guest bytes covered, offsets in the first page.
    pub(crate) first: u32,
    pub(crate) end: u32,
    /// The page that the unit's only instruction crosses into.
    pub(crate) second_page: Option<u32>,
    pub(crate) untranslated: Option<Box<str>>,
    /// No longer valid; the entry leads to the dead stub, or to its successor.
    pub(crate) dead: bool,
}

impl Unit {
    /// What the record of the unit takes, about: with its places in the lists and a half-full map.
    fn bytes(&self) -> usize {
        size_of::<Unit>()
            + size_of_val(&*self.instructions)
            + size_of_val(&*self.sites)
            + 2 * (size_of::<UnitKey>() + size_of::<u32>())
            + 2 * size_of::<u64>()
    }

    /// Guest-physical address of an instruction of the unit's page.
    pub(crate) fn gpa_of(&self, insn: &Instruction) -> u32 {
        self.key
            .gpa
            .wrapping_add(insn.ip32().wrapping_sub(self.key.eip))
    }

    /// Host addresses of the displacements of its links to the unit with key `key`.
    pub(crate) fn links_to<'a>(&'a self, key: &'a UnitKey) -> impl Iterator<Item = u64> + 'a {
        // Same page, same mode: the key of the target follows from that of the source.
        let reached = UnitKey {
            gpa: self
                .key
                .gpa
                .wrapping_add(key.eip.wrapping_sub(self.key.eip)),
            eip: key.eip,
            ..self.key
        };
        let sites = if reached == *key { &*self.sites } else { &[] };
        sites.iter().filter_map(|site| match site.kind {
            SiteKind::Link { target, patch } if target == key.eip => {
                Some(self.host + u64::from(patch))
            }
            _ => None,
        })
    }

    /// The pages with code of the unit, and the offset at which each begins.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let first = (self.key.gpa >> 12, 0);
        let second = self.second_page.map(|gfn| (gfn, 4096));
        [Some(first), second].into_iter().flatten()
    }

    /// The bytes that the unit was made from, as offsets from the start of its first page: a unit that
    /// follows jumps has gaps.
    pub(crate) fn code_ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.instructions.iter().filter_map(|map| {
            let first = self.gpa_of(&map.guest).wrapping_sub(self.key.gpa & !0xFFF);
            let length = map.guest.len() as u32;
            (length != 0).then_some((first, first + length))
        })
    }

    /// Some of bytes `first..end` of page `gfn` are code of the unit.
    fn covers(&self, gfn: u32, first: u32, end: u32) -> bool {
        let shift = if self.key.gpa >> 12 == gfn { 0 } else { 4096 };
        let (first, end) = (first + shift, end + shift);
        self.first < end
            && first < self.end
            && self
                .code_ranges()
                .any(|(from, to)| from < end && first < to)
    }

    /// The guest instruction whose host code contains `address`.
    pub(crate) fn instruction_at(&self, address: u64) -> Option<&InstructionMap> {
        let offset = address.checked_sub(self.host)? as u32;
        let index = self.instructions.partition_point(|map| map.host <= offset);
        self.instructions.get(index.checked_sub(1)?)
    }

    /// The interrupt shadow that the instruction at `address` is in: that of an inline STI or load of SS.
    pub(crate) fn shadow_at(&self, address: u64) -> InterruptShadow {
        let offset = address.wrapping_sub(self.host) as u32;
        let index = self.instructions.partition_point(|map| map.host <= offset);
        let Some([before, this]) = index
            .checked_sub(2)
            .and_then(|first| self.instructions.get(first..index))
        else {
            return InterruptShadow::None;
        };
        let before = &before.guest;
        if before.next_ip32() != this.guest.ip32() {
            InterruptShadow::None
        } else if before.mnemonic() == Mnemonic::Sti {
            InterruptShadow::Sti
        } else if matches!(before.mnemonic(), Mnemonic::Mov | Mnemonic::Pop)
            && before.op0_kind() == OpKind::Register
            && before.op0_register() == Register::SS
        {
            InterruptShadow::MovSs
        } else {
            InterruptShadow::None
        }
    }

    /// The place in the list of the site whose call returns to `address`.
    fn site_at(&self, address: u64) -> Option<u32> {
        let offset = address.checked_sub(self.host)? as u32;
        // Sites of exits are behind those of the main line, so all are in order of host offset.
        let index = self.sites.partition_point(|site| site.host < offset);
        let found = self.sites.get(index)?.host == offset;
        found.then_some(index as u32)
    }
}

/// An instruction that meets pages that are absent, from the guest's tables or from the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faulting {
    /// Host faults since it was last given its own form.
    count: u32,
    /// So many of them make it a call to Rust, which walks the guest's tables and needs no host fault.
    limit: u32,
    /// It is one now.
    expected: bool,
}

impl Faulting {
    /// What it takes to translate an instruction again, in host faults.
    const FIRST_LIMIT: u32 = 8;
    /// An instruction that was wrongly expected to fault is expected to so much later.
    const BACKOFF: u32 = 4;
}

impl Default for Faulting {
    fn default() -> Self {
        Faulting {
            count: 0,
            limit: Self::FIRST_LIMIT,
            expected: false,
        }
    }
}

/// What is known about a guest page with code.
#[derive(Debug, Default)]
pub(crate) struct CodePage {
    /// Units with bytes in the page.
    pub(crate) units: Vec<u32>,
    /// Hints by offset of the instruction.
    pub(crate) hints: FastMap<u32, AccessHint>,
    /// Trapped accesses by offset of the instruction.
    pub(crate) trapped: FastMap<u32, u32>,
    /// Instructions that meet absent pages, by offset.
    pub(crate) faulting: FastMap<u32, Faulting>,
    /// What is known of indirect jumps, by offset.
    pub(crate) jumps: FastMap<u32, LearnedJump>,
    /// The page is traced.
    pub(crate) traced: bool,
    /// Bytes that live units were made from, and perhaps some of dead ones.
    pub(crate) code: Option<Box<CodeMap>>,
    /// A unit has died since `code` was made.
    pub(crate) code_stale: bool,
    /// Stores that met the page and none of its code.
    pub(crate) data_stores: u32,
    /// Linear pages through which checked stores reach the page.
    pub(crate) aliases: Vec<(SpaceId, u32)>,
}

impl CodePage {
    /// No byte in `first..end` is code.
    fn is_data(&self, first: u32, end: u32) -> bool {
        self.code
            .as_ref()
            .is_some_and(|code| next_code(code, first) >= end)
    }
}

/// Sites found lately, by host address: translated code is left from few places most of the time.
#[derive(Debug)]
struct RecentSites(Box<[(u64, u32, u32)]>);

impl RecentSites {
    const COUNT: usize = 4096;

    fn slot(address: u64) -> usize {
        (address ^ address >> 12) as usize % Self::COUNT
    }

    fn get(&self, address: u64) -> Option<(u32, u32)> {
        let &(at, index, place) = self.0.get(Self::slot(address))?;
        (at == address).then_some((index, place))
    }

    fn put(&mut self, address: u64, index: u32, place: u32) {
        if let Some(slot) = self.0.get_mut(Self::slot(address)) {
            *slot = (address, index, place);
        }
    }

    /// The host code at `address` is no more.
    fn forget(&mut self, address: u64) {
        if let Some(slot) = self.0.get_mut(Self::slot(address))
            && slot.0 == address
        {
            *slot = (0, 0, 0);
        }
    }
}

impl Default for RecentSites {
    fn default() -> Self {
        RecentSites(vec![(0, 0, 0); Self::COUNT].into_boxed_slice())
    }
}

/// All units.
#[derive(Debug, Default)]
pub(crate) struct Units {
    units: Vec<Unit>,
    /// Host addresses of the units, apart from them: searched at every exit.
    hosts: Vec<u64>,
    by_key: FastMap<UnitKey, u32>,
    recent_sites: RecentSites,
    pub(crate) pages: FastMap<u32, CodePage>,
    /// What the records of the units take, about.
    bytes: usize,
}

impl Units {
    /// Bytes that the records of all units take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// True now and then as units are added: time to look at what has grown.
    pub(crate) fn review_due(&self) -> bool {
        self.units.len().is_multiple_of(256)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Unit> {
        self.units.get(index as usize)
    }

    /// All of them, in the order of their host addresses.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Unit> {
        self.units.iter()
    }

    pub(crate) fn find(&self, key: &UnitKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// EIP and host address of the live units that lie in the page of `key`, and whose keys follow from it by their distance: where
    /// a linear page has one of them, it has them all. Units that depend on another page are left out.
    pub(crate) fn siblings(&self, key: &UnitKey) -> impl Iterator<Item = (u32, u64)> + '_ {
        let key = *key;
        let page = self.pages.get(&(key.gpa >> 12));
        let units = page.into_iter().flat_map(|page| &page.units);
        units
            .filter_map(|&index| self.get(index))
            .filter(move |unit| {
                let distance = unit.key.gpa.wrapping_sub(key.gpa);
                let same = UnitKey {
                    gpa: unit.key.gpa,
                    eip: key.eip.wrapping_add(distance),
                    ..key
                };
                unit.key == same
                    && unit.key.gpa >> 12 == key.gpa >> 12
                    && unit.second_page.is_none()
                    && !unit.dead
            })
            .map(|unit| (unit.key.eip, unit.host))
    }

    /// The unit whose host code contains `address`. Host addresses only grow from unit to unit.
    pub(crate) fn at_host(&self, address: u64) -> Option<u32> {
        let index = self
            .hosts
            .partition_point(|&host| host <= address)
            .checked_sub(1)?;
        let unit = self.units.get(index)?;
        (address <= unit.host + u64::from(unit.host_bytes)).then_some(index as u32)
    }

    /// The unit, and the place in its list of sites, whose call returns to `address`.
    pub(crate) fn find_site(&mut self, address: u64) -> Option<(u32, &Site, Instruction)> {
        let (index, place) = match self.recent_sites.get(address) {
            Some(found) => found,
            None => {
                let index = self.at_host(address.wrapping_sub(1))?;
                let place = self.get(index)?.site_at(address)?;
                self.recent_sites.put(address, index, place);
                (index, place)
            }
        };
        let unit = self.get(index)?;
        let site = unit.sites.get(place as usize)?;
        let guest = unit.instructions.get(site.instruction as usize)?.guest;
        Some((index, site, guest))
    }

    pub(crate) fn insert(&mut self, unit: Unit) -> u32 {
        let index = self.units.len() as u32;
        self.by_key.insert(unit.key, index);
        self.pages
            .entry(unit.key.gpa >> 12)
            .or_default()
            .units
            .push(index);
        if let Some(second) = unit.second_page {
            self.pages.entry(second).or_default().units.push(index);
        }
        self.hosts.push(unit.host);
        self.bytes += unit.bytes();
        self.units.push(unit);
        index
    }

    /// The hint for the instruction at guest-physical address `gpa`.
    pub(crate) fn hint(&self, gpa: u32) -> AccessHint {
        self.pages
            .get(&(gpa >> 12))
            .and_then(|page| page.hints.get(&(gpa & 0xFFF)))
            .copied()
            .unwrap_or_default()
    }

    /// Takes a hint back, and forgets what led to it.
    pub(crate) fn forget_hint(&mut self, gpa: u32) {
        if let Some(page) = self.pages.get_mut(&(gpa >> 12)) {
            page.hints.remove(&(gpa & 0xFFF));
            page.trapped.remove(&(gpa & 0xFFF));
            if let Some(faulting) = page.faulting.get_mut(&(gpa & 0xFFF)) {
                faulting.count = 0;
                faulting.expected = false;
                faulting.limit = faulting.limit.saturating_mul(Faulting::BACKOFF);
            }
        }
    }

    /// Counts a host fault that the instruction at `gpa` has met on an absent page; true when it should be
    /// expected to meet more.
    pub(crate) fn count_fault(&mut self, gpa: u32) -> bool {
        let page = self.pages.entry(gpa >> 12).or_default();
        let faulting = page.faulting.entry(gpa & 0xFFF).or_default();
        faulting.count += 1;
        faulting.expected = faulting.count >= faulting.limit;
        faulting.expected
    }

    /// The instruction at `gpa` is a call to Rust because of its faults.
    pub(crate) fn expects_faults(&self, gpa: u32) -> bool {
        self.pages
            .get(&(gpa >> 12))
            .and_then(|page| page.faulting.get(&(gpa & 0xFFF)))
            .is_some_and(|faulting| faulting.expected)
    }

    /// Sets a hint; true if it is new.
    pub(crate) fn set_hint(&mut self, gpa: u32, hint: AccessHint) -> bool {
        let page = self.pages.entry(gpa >> 12).or_default();
        page.hints.insert(gpa & 0xFFF, hint) != Some(hint)
    }

    /// Counts a trapped access of the instruction at `gpa`; returns how many there were.
    pub(crate) fn count_trapped(&mut self, gpa: u32) -> u32 {
        let count = self
            .pages
            .entry(gpa >> 12)
            .or_default()
            .trapped
            .entry(gpa & 0xFFF)
            .or_insert(0);
        *count += 1;
        *count
    }

    /// Takes the units out that cover bytes `first..end` of guest page `gfn`; returns them.
    pub(crate) fn remove_range(&mut self, gfn: u32, first: u32, end: u32) -> Vec<u32> {
        let Some(page) = self.pages.get_mut(&gfn) else {
            return Vec::new();
        };
        if page.is_data(first, end) {
            return Vec::new();
        }
        let units = &mut self.units;
        let mut removed = Vec::new();
        page.units.retain(|&index| {
            let Some(unit) = units.get(index as usize) else {
                return false;
            };
            let hit = unit.covers(gfn, first, end);
            if hit && !unit.dead {
                removed.push(index);
            }
            !hit
        });
        for &index in &removed {
            self.retire(index);
        }
        removed
    }

    /// Marks a unit dead and forgets its key.
    pub(crate) fn retire(&mut self, index: u32) {
        if let Some(unit) = self.units.get_mut(index as usize) {
            unit.dead = true;
            for (gfn, _) in unit.pages() {
                if let Some(page) = self.pages.get_mut(&gfn) {
                    page.code_stale = true;
                }
            }
            if self.by_key.get(&unit.key) == Some(&index) {
                self.by_key.remove(&unit.key);
            }
        }
    }

    /// Takes the newest unit out for good, if it is number `index` and dead; returns its host address.
    pub(crate) fn pop_dead(&mut self, index: u32) -> Option<u64> {
        if index as usize + 1 != self.units.len() || !self.units.last()?.dead {
            return None;
        }
        let unit = self.units.pop()?;
        self.bytes -= unit.bytes();
        self.hosts.pop();
        for site in &unit.sites {
            self.recent_sites.forget(unit.host + u64::from(site.host));
        }
        for gfn in [Some(unit.key.gpa >> 12), unit.second_page]
            .into_iter()
            .flatten()
        {
            if let Some(page) = self.pages.get_mut(&gfn) {
                page.units.retain(|&other| other != index);
            }
        }
        Some(unit.host)
    }

    /// True when no live unit has bytes in the page.
    pub(crate) fn page_is_empty(&self, gfn: u32) -> bool {
        self.pages
            .get(&gfn)
            .is_none_or(|page| page.units.is_empty())
    }

    /// Enters the bytes of a new unit in the maps of its pages.
    pub(crate) fn mark_code(&mut self, index: u32) {
        let Some(unit) = self.units.get(index as usize) else {
            return;
        };
        for (gfn, shift) in unit.pages() {
            if let Some(page) = self.pages.get_mut(&gfn) {
                let code = page.code.get_or_insert_with(|| Box::new([0; 64]));
                for (first, end) in unit.code_ranges() {
                    mark(code, first.saturating_sub(shift), end.saturating_sub(shift));
                }
            }
        }
    }

    /// The map of a page's code, without what is dead.
    pub(crate) fn code_map(&mut self, gfn: u32) -> Option<&CodeMap> {
        let page = self.pages.get_mut(&gfn)?;
        let code = page.code.get_or_insert_with(|| Box::new([0; 64]));
        if std::mem::take(&mut page.code_stale) {
            code.fill(0);
            let units = &self.units;
            page.units
                .retain(|&index| units.get(index as usize).is_some_and(|unit| !unit.dead));
            for unit in page.units.iter().filter_map(|&i| units.get(i as usize)) {
                let shift = if unit.key.gpa >> 12 == gfn { 0 } else { 4096 };
                for (first, end) in unit.code_ranges() {
                    mark(code, first.saturating_sub(shift), end.saturating_sub(shift));
                }
            }
        }
        Some(code)
    }

    /// Forgets all units, keeps the hints. Returns the pages that were traced.
    pub(crate) fn clear(&mut self) -> Vec<u32> {
        self.bytes = 0;
        self.units.clear();
        self.hosts.clear();
        self.by_key.clear();
        self.recent_sites = RecentSites::default();
        let mut traced = Vec::new();
        for (gfn, page) in &mut self.pages {
            page.units.clear();
            page.code = None;
            page.aliases.clear();
            if std::mem::take(&mut page.traced) {
                traced.push(*gfn);
            }
        }
        traced
    }
}

impl Units {
    /// The unit translated last for guest-physical address `gpa`.
    pub(crate) fn newest_at(&self, gpa: u32) -> Option<&Unit> {
        self.units.iter().rev().find(|unit| unit.key.gpa == gpa)
    }
}

//! The units in the cache, and how they are found: by key, by host address, by guest page.

use crate::codegen::mode::Mode;
use crate::codegen::{AccessHint, InstructionMap, Site};
use iced_x86::Instruction;
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
    /// Guest-physical address of an instruction of the unit's page.
    pub(crate) fn gpa_of(&self, insn: &Instruction) -> u32 {
        self.key
            .gpa
            .wrapping_add(insn.ip32().wrapping_sub(self.key.eip))
    }

    /// The guest instruction whose host code contains `address`.
    pub(crate) fn instruction_at(&self, address: u64) -> Option<&InstructionMap> {
        let offset = address.checked_sub(self.host)? as u32;
        let index = self.instructions.partition_point(|map| map.host <= offset);
        self.instructions.get(index.checked_sub(1)?)
    }

    /// The site whose call returns to `address`.
    pub(crate) fn site_at(&self, address: u64) -> Option<&Site> {
        let offset = address.checked_sub(self.host)? as u32;
        // Sites of exits are behind those of the main line, so all are in order of host offset.
        let index = self.sites.partition_point(|site| site.host < offset);
        self.sites.get(index).filter(|site| site.host == offset)
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
    /// The page is traced.
    pub(crate) traced: bool,
}

/// All units.
#[derive(Debug, Default)]
pub(crate) struct Units {
    units: Vec<Unit>,
    /// Host addresses of the units, apart from them: searched at every exit.
    hosts: Vec<u64>,
    by_key: FastMap<UnitKey, u32>,
    pub(crate) pages: FastMap<u32, CodePage>,
}

impl Units {
    pub(crate) fn get(&self, index: u32) -> Option<&Unit> {
        self.units.get(index as usize)
    }

    pub(crate) fn find(&self, key: &UnitKey) -> Option<u32> {
        self.by_key.get(key).copied()
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
        }
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
        let units = &mut self.units;
        let mut removed = Vec::new();
        page.units.retain(|&index| {
            let Some(unit) = units.get(index as usize) else {
                return false;
            };
            let (from, to) = if unit.key.gpa >> 12 == gfn {
                (unit.first, unit.end)
            } else {
                (0, unit.end.saturating_sub(4096))
            };
            let hit = from < end && first < to;
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
        self.hosts.pop();
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

    /// Forgets all units, keeps the hints. Returns the pages that were traced.
    pub(crate) fn clear(&mut self) -> Vec<u32> {
        self.units.clear();
        self.hosts.clear();
        self.by_key.clear();
        let mut traced = Vec::new();
        for (gfn, page) in &mut self.pages {
            page.units.clear();
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

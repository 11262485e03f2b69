//! Shadow spaces: a shadow tree, what it was derived from, and its window.

use crate::pool::{ENTRIES, TableIndex, TablePool, bits};
use crate::ram::HostPage;
use crate::types::SpaceId;
use crate::walk::{Geometry, Role};
use crate::window::{WINDOW_PAGES, Window};

/// What a space shows: its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SpaceKind {
    /// Guest-physical memory, with paging off, for every CPL.
    Flat { a20: bool },
    /// The U = 1 pages of one root, with the user's rights. CR0.WP is no part of the role.
    User { root: u32, role: Role },
    /// The U = 0 pages (with CR0.WP = 0 all pages) with the supervisor's rights: of all roots of a group, or of one root.
    Supervisor {
        root: Option<u32>,
        role: Role,
        group: u8,
    },
}

impl SpaceKind {
    /// The role under which guest tables are read, if they are.
    pub(crate) fn role(self) -> Option<Role> {
        match self {
            SpaceKind::Flat { .. } => None,
            SpaceKind::User { role, .. } | SpaceKind::Supervisor { role, .. } => Some(role),
        }
    }

    /// The state of the A20 gate that its frames were looked up with.
    pub(crate) fn a20(self) -> bool {
        match self {
            SpaceKind::Flat { a20 } => a20,
            SpaceKind::User { role, .. } | SpaceKind::Supervisor { role, .. } => {
                !role.contains(Role::A20_CLOSED)
            }
        }
    }

    pub(crate) fn is_user(self) -> bool {
        matches!(self, SpaceKind::User { .. })
    }

    /// A supervisor space that holds user pages too.
    pub(crate) fn is_unsplit(self) -> bool {
        matches!(self, SpaceKind::Supervisor { role, .. } if !role.contains(Role::WP))
    }

    /// What this kind of space lets be written, given the W bits of the walk.
    pub(crate) fn writable(self, guest_write: bool) -> bool {
        guest_write || self.is_unsplit() || matches!(self, SpaceKind::Flat { .. })
    }

    /// A page with this effective U bit belongs here.
    pub(crate) fn holds(self, user: bool) -> bool {
        match self {
            SpaceKind::Flat { .. } => true,
            SpaceKind::User { .. } => user,
            SpaceKind::Supervisor { .. } => !user || self.is_unsplit(),
        }
    }

    /// The US bit of its leaves.
    pub(crate) fn leaf_us(self) -> u64 {
        match self {
            SpaceKind::Flat { .. } | SpaceKind::User { .. } => bits::US,
            SpaceKind::Supervisor { .. } => 0,
        }
    }
}

/// The directory entries that a space was filled from.
#[derive(Debug)]
pub(crate) struct Regions {
    pub(crate) geometry: Geometry,
    /// For each populated region, the directory entry as it was read.
    entries: Vec<u64>,
    /// For each populated region, the guest page table that it is registered with as a user.
    tables: Vec<Option<HostPage>>,
    populated: [u64; 32],
    /// Changes with every change of the above.
    pub(crate) version: u64,
}

impl Regions {
    fn new(geometry: Geometry) -> Regions {
        let n = geometry.regions() as usize;
        Regions {
            geometry,
            entries: vec![0; n],
            tables: vec![None; n],
            populated: [0; 32],
            version: 0,
        }
    }

    /// The recorded directory entry of a populated region.
    pub(crate) fn get(&self, region: u32) -> Option<u64> {
        if self.populated.get((region / 64) as usize)? >> (region % 64) & 1 == 0 {
            return None;
        }
        self.entries.get(region as usize).copied()
    }

    pub(crate) fn table(&self, region: u32) -> Option<HostPage> {
        self.get(region)?;
        self.tables.get(region as usize).copied().flatten()
    }

    pub(crate) fn insert(&mut self, region: u32, entry: u64, table: Option<HostPage>) {
        let (r, t) = (
            self.entries.get_mut(region as usize),
            self.tables.get_mut(region as usize),
        );
        if let (Some(r), Some(t), Some(p)) = (r, t, self.populated.get_mut((region / 64) as usize))
        {
            (*r, *t) = (entry, table);
            self.version += 1;
            *p |= 1 << (region % 64);
        }
    }

    /// Forgets a region; the page table it was registered with, if it was populated.
    pub(crate) fn remove(&mut self, region: u32) -> Option<HostPage> {
        let table = self.table(region);
        self.version += 1;
        if let Some(p) = self.populated.get_mut((region / 64) as usize) {
            *p &= !(1 << (region % 64));
        }
        table
    }

    /// The number of populated regions.
    pub(crate) fn len(&self) -> usize {
        let ones = |word: &u64| word.count_ones() as usize;
        self.populated.iter().map(ones).sum()
    }

    /// The populated regions, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0u32..).zip(self.populated).flat_map(move |(word, set)| {
            let mut rest = set;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(word * 64 + bit)
            })
            .filter_map(|region| Some((region, self.get(region)?)))
        })
    }
}

/// The shadow tree of a space: 4 GiB of an x86-64 four-level tree.
#[derive(Debug)]
pub(crate) struct Tree {
    slot: u8,
    pml4: TableIndex,
    pdpt: TableIndex,
    directories: [TableIndex; 4],
}

/// A leaf of a shadow tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The entry, as if it mapped 4 KiB: its frame is that of the page asked for.
    pub(crate) entry: u64,
    /// It is part of a 2 MiB leaf.
    pub(crate) large: bool,
}

impl Tree {
    fn new(slot: u8, pool: &mut TablePool) -> Tree {
        let pml4 = pool.alloc(slot, 4, 0);
        let pdpt = pool.alloc(slot, 3, 0);
        let pointer = pool.pointer(pdpt);
        pool.set(pml4, 0, pointer);
        Tree {
            slot,
            pml4,
            pdpt,
            directories: [0; 4],
        }
    }

    pub(crate) fn root_address(&self, pool: &TablePool) -> u64 {
        pool.address(self.pml4)
    }

    fn directory(&self, page: u32) -> TableIndex {
        self.directories
            .get((page >> 18) as usize)
            .copied()
            .unwrap_or(0)
    }

    /// The directory entry that covers a linear page.
    pub(crate) fn directory_entry(&self, pool: &TablePool, page: u32) -> u64 {
        pool.entry(self.directory(page), page >> 9)
    }

    pub(crate) fn leaf(&self, pool: &TablePool, page: u32) -> Option<Leaf> {
        let directory_entry = self.directory_entry(pool, page);
        if directory_entry & (bits::P | bits::PS) == bits::P | bits::PS {
            let offset = u64::from(page % ENTRIES) << 12;
            return Some(Leaf {
                entry: (directory_entry & !bits::PS) + offset,
                large: true,
            });
        }
        let entry = pool.entry(pool.target(directory_entry), page);
        (entry & bits::P != 0).then_some(Leaf {
            entry,
            large: false,
        })
    }

    /// All leaves: first linear page, entry, number of pages.
    pub(crate) fn leaves<'a>(
        &'a self,
        pool: &'a TablePool,
    ) -> impl Iterator<Item = (u32, u64, u32)> + 'a {
        let chunks = (0..WINDOW_PAGES).step_by(ENTRIES as usize);
        chunks
            .filter(|&page| self.directory_entry(pool, page) & bits::P != 0)
            .flat_map(move |first| {
                let entry = self.directory_entry(pool, first);
                let large = (entry & bits::PS != 0).then_some((first, entry & !bits::PS, ENTRIES));
                let table = if large.is_some() {
                    0
                } else {
                    pool.target(entry)
                };
                let small = (0..ENTRIES).map(move |i| (first + i, pool.entry(table, i), 1));
                large
                    .into_iter()
                    .chain(small.filter(|(_, entry, _)| entry & bits::P != 0))
            })
    }

    /// Number of 4 KiB leaves in a range of whole 2 MiB chunks.
    pub(crate) fn count_leaves(&self, pool: &TablePool, first: u32, pages: u32) -> u32 {
        let mut found = 0;
        for chunk in (first..first + pages).step_by(ENTRIES as usize) {
            let table = pool.target(self.directory_entry(pool, chunk));
            found += (0..ENTRIES)
                .filter(|&i| pool.entry(table, i) & bits::P != 0)
                .count() as u32;
        }
        found
    }

    fn ensure_directory(&mut self, pool: &mut TablePool, page: u32) -> TableIndex {
        let index = page >> 18;
        match self.directory(page) {
            0 => {
                let table = pool.alloc(self.slot, 2, index << 18);
                let pointer = pool.pointer(table);
                pool.set(self.pdpt, index, pointer);
                if let Some(d) = self.directories.get_mut(index as usize) {
                    *d = table;
                }
                table
            }
            table => table,
        }
    }

    /// The page table over a linear page; a 2 MiB leaf there is split into 4 KiB leaves with the same rights.
    pub(crate) fn ensure_table(&mut self, pool: &mut TablePool, page: u32) -> TableIndex {
        let directory = self.ensure_directory(pool, page);
        let old = pool.entry(directory, page >> 9);
        if old & bits::P != 0 && old & bits::PS == 0 {
            return pool.target(old);
        }
        let table = pool.alloc(self.slot, 1, page & !(ENTRIES - 1));
        if old & bits::P != 0 {
            for index in 0..ENTRIES {
                pool.set(table, index, (old & !bits::PS) + (u64::from(index) << 12));
            }
        }
        let pointer = pool.pointer(table);
        pool.set(directory, page >> 9, pointer);
        table
    }

    pub(crate) fn set_leaf(&mut self, pool: &mut TablePool, page: u32, entry: u64) {
        let table = self.ensure_table(pool, page);
        pool.set(table, page, entry);
    }

    /// Makes one 2 MiB leaf of an empty stretch.
    pub(crate) fn set_large(&mut self, pool: &mut TablePool, page: u32, entry: u64) {
        let directory = self.ensure_directory(pool, page);
        pool.set(directory, page >> 9, entry | bits::PS);
    }

    /// Removes the leaf of one page.
    pub(crate) fn clear_leaf(&mut self, pool: &mut TablePool, page: u32) {
        let entry = self.directory_entry(pool, page);
        if entry & bits::P != 0 {
            let table = self.ensure_table(pool, page);
            pool.set(table, page, 0);
        }
    }

    /// Removes all leaves of the 2 MiB around a page, and its table. Whether any of them was there, and whether any was marked
    /// as code.
    pub(crate) fn clear_chunk(&mut self, pool: &mut TablePool, page: u32) -> ChunkCleared {
        let directory = self.directory(page);
        let entry = pool.entry(directory, page >> 9);
        if entry & bits::P == 0 {
            return ChunkCleared::default();
        }
        pool.set(directory, page >> 9, 0);
        if entry & bits::PS != 0 {
            return ChunkCleared {
                any: true,
                code: entry & bits::CODE != 0,
            };
        }
        let table = pool.target(entry);
        let all = (0..ENTRIES).fold(0, |all, i| all | pool.entry(table, i));
        pool.release(table);
        ChunkCleared {
            any: all != 0,
            code: all & bits::CODE != 0,
        }
    }

    /// Gives all tables back.
    pub(crate) fn release(&mut self, pool: &mut TablePool) {
        for directory in self.directories {
            if directory == 0 {
                continue;
            }
            for index in 0..ENTRIES {
                let entry = pool.entry(directory, index);
                if entry & bits::P != 0 && entry & bits::PS == 0 {
                    let table = pool.target(entry);
                    pool.set(directory, index, 0);
                    pool.release(table);
                }
            }
        }
        pool.release(self.pml4);
        pool.release(self.pdpt);
        for directory in std::mem::take(&mut self.directories) {
            if directory != 0 {
                pool.release(directory);
            }
        }
    }
}

/// What [`Tree::clear_chunk`] removed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChunkCleared {
    pub(crate) any: bool,
    pub(crate) code: bool,
}

/// Ranges of a window that may differ from the tree, to be compared before the window is used again.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    ranges: Vec<(u32, u32)>,
}

impl Stale {
    /// Ranges beyond which the whole window is compared.
    const LIMIT: usize = 512;

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds pages `first..first + count`.
    pub(crate) fn push(&mut self, first: u32, count: u32) {
        let end = (first + count).min(WINDOW_PAGES);
        if let Some(last) = self.ranges.last_mut()
            && first <= last.1
            && end >= last.0
        {
            *last = (last.0.min(first), last.1.max(end));
            return;
        }
        self.ranges.push((first, end));
        if self.ranges.len() > Self::LIMIT {
            self.merge();
            if self.ranges.len() > Self::LIMIT / 2 {
                self.ranges = vec![(0, WINDOW_PAGES)];
            }
        }
    }

    fn merge(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, last| {
            let touch = next.0 <= last.1;
            if touch {
                last.1 = last.1.max(next.1);
            }
            touch
        });
    }

    /// Takes the ranges, sorted and disjoint, leaving none.
    pub(crate) fn take(&mut self) -> Vec<(u32, u32)> {
        self.merge();
        std::mem::take(&mut self.ranges)
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }

    pub(crate) fn covers(&self, page: u32) -> bool {
        self.ranges
            .iter()
            .any(|&(first, end)| (first..end).contains(&page))
    }
}

/// A shadow space.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) id: SpaceId,
    pub(crate) kind: SpaceKind,
    pub(crate) tree: Tree,
    /// The record of the directory entries; empty geometry for flat spaces is never populated.
    pub(crate) regions: Regions,
    pub(crate) window: Option<Window>,
    pub(crate) stale: Stale,
    /// What software TLB entries of this space are tagged with.
    pub(crate) tag: u32,
    /// When it was last made active.
    pub(crate) used: u64,
    /// Writes to its directories while it was not active, since it last was.
    pub(crate) foreign_writes: u32,
    /// The PDPTEs (PAE) of the root when it was last active.
    pub(crate) pdptes: [u64; 4],
    /// The pages it is registered with as a user of a page directory: (page, first region).
    pub(crate) directories: Vec<(HostPage, u32)>,
    /// The supervisor space (and the version of its record) that this user space's root was last found to agree with; none if
    /// a directory was written since.
    pub(crate) agrees_with: Option<(SpaceId, u64)>,
    /// The group of roots whose supervisor mappings agree, as far as is known, that this user space's root is in.
    pub(crate) group: u8,
    /// [`crate::UserRegions::flags`] of its root, if computed.
    pub(crate) user_regions: Option<Box<[bool; 256]>>,
}

impl Space {
    pub(crate) fn new(id: SpaceId, kind: SpaceKind, tag: u32, pool: &mut TablePool) -> Space {
        let geometry = Geometry::of(kind.role().unwrap_or(Role::empty()));
        Space {
            id,
            kind,
            tree: Tree::new(id.slot() as u8, pool),
            regions: Regions::new(geometry),
            window: None,
            stale: Stale::default(),
            tag,
            used: 0,
            foreign_writes: 0,
            pdptes: [0; 4],
            directories: Vec::new(),
            agrees_with: None,
            group: 0,
            user_regions: None,
        }
    }

    /// Notes that the window may differ from the tree in a range.
    pub(crate) fn mark_stale(&mut self, first: u32, count: u32) {
        if self.window.is_some() {
            self.stale.push(first, count);
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }
}

//! The shadow tables: pages of x86-64 paging structures, and the reverse map from memory to the entries that map it.

use crate::ram::HostPage;
use crate::types::TableEdit;

/// Number of a table in the pool; 0 is none.
pub(crate) type TableIndex = u32;

/// Entries in a table.
pub(crate) const ENTRIES: u32 = 512;

/// Bits of a shadow entry (Intel SDM vol. 3A, 4.5). Software bits carry what the guest's entry allows beyond the hardware bits.
pub(crate) mod bits {
    /// Present.
    pub(crate) const P: u64 = 1 << 0;
    /// Writable: the guest may write it, its dirty bit is set, and it is not traced.
    pub(crate) const RW: u64 = 1 << 1;
    /// User-accessible.
    pub(crate) const US: u64 = 1 << 2;
    /// Accessed and dirty, always set so that the processor never writes to a shadow table.
    pub(crate) const AD: u64 = 1 << 5 | 1 << 6;
    /// A 2 MiB page.
    pub(crate) const PS: u64 = 1 << 7;
    /// Software: code was translated from this linear page.
    pub(crate) const CODE: u64 = 1 << 9;
    /// Software: the guest may write it and its dirty bit is set, traced or not.
    pub(crate) const MAY_WRITE: u64 = 1 << 10;
    /// Software: part of a large guest page, or of flat memory.
    pub(crate) const EXTENT: u64 = 1 << 11;
    /// No-execute.
    pub(crate) const NX: u64 = 1 << 63;
    /// The frame.
    pub(crate) const FRAME: u64 = 0x000f_ffff_ffff_f000;
}

/// The page of the memory file that a leaf maps (of a 2 MiB leaf: the first).
pub(crate) fn leaf_page(entry: u64) -> HostPage {
    ((entry & bits::FRAME) >> 12) as u32
}

/// One leaf that maps a page of memory, found through the reverse map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapper {
    pub(crate) slot: u8,
    /// First linear page of the leaf.
    pub(crate) linear_page: u32,
    pub(crate) table: TableIndex,
    pub(crate) index: u32,
}

/// Neighbours in a list of leaves that map the same memory. A node is named table * 512 + index; 0 ends the list.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    next: u32,
    prev: u32,
}

#[derive(Debug)]
struct Table {
    entries: Box<[u64; ENTRIES as usize]>,
    links: Box<[Link; ENTRIES as usize]>,
    /// Owner.
    slot: u8,
    /// 1 for a page table, 2 for a directory, ...
    level: u8,
    /// First linear page that it covers.
    first: u32,
}

/// All shadow tables of a machine.
///
/// Invariants: an entry of level 1, or of level 2 with PS, is in the list of the page (the 2 MiB chunk) it maps exactly while
/// it is present; a free table is all zero.
#[derive(Debug)]
pub(crate) struct TablePool {
    tables: Vec<Table>,
    free: Vec<TableIndex>,
    /// First node of the list of each page.
    heads: Vec<u32>,
    /// First node of the list of 2 MiB leaves of each 2 MiB of memory.
    large_heads: Vec<u32>,
    base: u64,
    edits: Option<Vec<TableEdit>>,
}

impl TablePool {
    /// A pool for `pages` pages of memory.
    pub(crate) fn new(pages: u32, base: u64, mirror: bool) -> TablePool {
        let mut pool = TablePool {
            tables: Vec::new(),
            free: Vec::new(),
            heads: vec![0; pages as usize],
            large_heads: vec![0; pages.div_ceil(ENTRIES) as usize],
            base,
            edits: mirror.then(Vec::new),
        };
        pool.push(); // number 0 names no table
        pool
    }

    fn push(&mut self) -> TableIndex {
        let entries = Box::new([0; ENTRIES as usize]);
        let links = Box::new([Link::default(); ENTRIES as usize]);
        self.tables.push(Table {
            entries,
            links,
            slot: 0,
            level: 0,
            first: 0,
        });
        self.tables.len() as u32 - 1
    }

    /// Takes an all-zero table.
    pub(crate) fn alloc(&mut self, slot: u8, level: u8, first: u32) -> TableIndex {
        let index = self.free.pop().unwrap_or_else(|| self.push());
        if let Some(t) = self.tables.get_mut(index as usize) {
            (t.slot, t.level, t.first) = (slot, level, first);
        }
        index
    }

    /// Gives a table back; its entries are cleared first.
    pub(crate) fn release(&mut self, table: TableIndex) {
        for index in 0..ENTRIES {
            if self.entry(table, index) != 0 {
                self.set(table, index, 0);
            }
        }
        self.free.push(table);
    }

    /// Tables in use.
    pub(crate) fn used(&self) -> usize {
        self.tables.len() - 1 - self.free.len()
    }

    pub(crate) fn address(&self, table: TableIndex) -> u64 {
        self.base + (u64::from(table) << 12)
    }

    /// The table that a non-leaf entry points to; 0 if none.
    pub(crate) fn target(&self, entry: u64) -> TableIndex {
        if entry & bits::P == 0 {
            0
        } else {
            ((entry & bits::FRAME).wrapping_sub(self.base) >> 12) as u32
        }
    }

    /// A non-leaf entry that points to `table`: rights are decided at the leaf.
    pub(crate) fn pointer(&self, table: TableIndex) -> u64 {
        self.address(table) | bits::P | bits::RW | bits::US | bits::AD & 0x20
    }

    pub(crate) fn by_address(&self, address: u64) -> Option<&[u64; ENTRIES as usize]> {
        let offset = address.checked_sub(self.base)?;
        if offset & 0xfff != 0 || offset == 0 {
            return None;
        }
        self.tables
            .get(usize::try_from(offset >> 12).ok()?)
            .map(|t| &*t.entries)
    }

    pub(crate) fn entry(&self, table: TableIndex, index: u32) -> u64 {
        self.tables
            .get(table as usize)
            .map_or(0, |t| t.entries[(index % ENTRIES) as usize])
    }

    /// Stores an entry, keeping the reverse map right.
    pub(crate) fn set(&mut self, table: TableIndex, index: u32, value: u64) {
        let index = index % ENTRIES;
        let Some(t) = self.tables.get_mut(table as usize) else {
            return;
        };
        let level = t.level;
        let old = std::mem::replace(&mut t.entries[index as usize], value);
        if let Some(edits) = &mut self.edits {
            edits.push(TableEdit {
                address: self.base + (u64::from(table) << 12) + u64::from(index) * 8,
                value,
            });
        }
        let (was, is) = (is_leaf(level, old), is_leaf(level, value));
        if was && is && (old ^ value) & (bits::FRAME | bits::PS) == 0 {
            return;
        }
        let node = table * ENTRIES + index;
        if was {
            self.unlink(node, level, leaf_page(old));
        }
        if is {
            self.link(node, level, leaf_page(value));
        }
    }

    fn head(&mut self, level: u8, page: HostPage) -> Option<&mut u32> {
        if level == 1 {
            self.heads.get_mut(page as usize)
        } else {
            self.large_heads.get_mut((page / ENTRIES) as usize)
        }
    }

    fn link_of(&mut self, node: u32) -> Option<&mut Link> {
        let table = self.tables.get_mut((node / ENTRIES) as usize)?;
        Some(&mut table.links[(node % ENTRIES) as usize])
    }

    fn link(&mut self, node: u32, level: u8, page: HostPage) {
        let Some(head) = self.head(level, page) else {
            return;
        };
        let next = std::mem::replace(head, node);
        if let Some(link) = self.link_of(node) {
            *link = Link { next, prev: 0 };
        }
        if next != 0
            && let Some(link) = self.link_of(next)
        {
            link.prev = node;
        }
    }

    fn unlink(&mut self, node: u32, level: u8, page: HostPage) {
        let Some(link) = self.link_of(node).map(std::mem::take) else {
            return;
        };
        if link.prev == 0 {
            if let Some(head) = self.head(level, page) {
                *head = link.next;
            }
        } else if let Some(prev) = self.link_of(link.prev) {
            prev.next = link.next;
        }
        if link.next != 0
            && let Some(next) = self.link_of(link.next)
        {
            next.prev = link.prev;
        }
    }

    /// The 4 KiB leaves that map a page.
    pub(crate) fn mappers(&self, page: HostPage) -> impl Iterator<Item = Mapper> + '_ {
        self.list(self.heads.get(page as usize).copied().unwrap_or(0))
    }

    /// The 2 MiB leaves that map the 2 MiB around a page.
    pub(crate) fn large_mappers(&self, page: HostPage) -> impl Iterator<Item = Mapper> + '_ {
        self.list(
            self.large_heads
                .get((page / ENTRIES) as usize)
                .copied()
                .unwrap_or(0),
        )
    }

    fn list(&self, head: u32) -> impl Iterator<Item = Mapper> + '_ {
        let mut node = head;
        std::iter::from_fn(move || {
            let (table, index) = (node / ENTRIES, node % ENTRIES);
            let t = self.tables.get(table as usize).filter(|_| node != 0)?;
            node = t.links[index as usize].next;
            let pages = if t.level == 1 { 1 } else { ENTRIES };
            Some(Mapper {
                slot: t.slot,
                linear_page: t.first + index * pages,
                table,
                index,
            })
        })
    }

    pub(crate) fn take_edits(&mut self, out: &mut Vec<TableEdit>) {
        if let Some(edits) = &mut self.edits {
            out.append(edits);
        }
    }
}

fn is_leaf(level: u8, entry: u64) -> bool {
    entry & bits::P != 0 && (level == 1 || level == 2 && entry & bits::PS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pool: &TablePool, page: u32) -> Vec<(u8, u32)> {
        pool.mappers(page)
            .map(|m| (m.slot, m.linear_page))
            .collect()
    }

    #[test]
    fn reverse_map_follows_entries() {
        let mut pool = TablePool::new(1024, 1 << 40, true);
        let a = pool.alloc(1, 1, 0x1000);
        let b = pool.alloc(2, 1, 0x2000);
        let leaf = |page: u64| page << 12 | bits::P;
        pool.set(a, 3, leaf(7));
        pool.set(b, 4, leaf(7));
        pool.set(a, 5, leaf(7));
        assert_eq!(list(&pool, 7), [(1, 0x1005), (2, 0x2004), (1, 0x1003)]);
        pool.set(b, 4, leaf(7) | bits::RW);
        assert_eq!(list(&pool, 7).len(), 3, "a change of rights is no move");
        pool.set(b, 4, leaf(8));
        assert_eq!(list(&pool, 7), [(1, 0x1005), (1, 0x1003)]);
        pool.release(a);
        assert_eq!(list(&pool, 7), []);
        assert_eq!(list(&pool, 8), [(2, 0x2004)]);
        assert_eq!(pool.used(), 1);
        let mut edits = Vec::new();
        pool.take_edits(&mut edits);
        let at = |t: u32, i: u64| (1u64 << 40) + u64::from(t) * 4096 + i * 8;
        assert_eq!(
            edits.last(),
            Some(&TableEdit {
                address: at(a, 5),
                value: 0
            })
        );
        assert!(edits.contains(&TableEdit {
            address: at(b, 4),
            value: leaf(8)
        }));
    }

    #[test]
    fn large_leaves_have_their_own_lists() {
        let mut pool = TablePool::new(2048, 1 << 40, false);
        let d = pool.alloc(1, 2, 0x4_0000);
        pool.set(d, 1, 512 << 12 | bits::P | bits::PS);
        let found: Vec<_> = pool.large_mappers(1023).collect();
        assert_eq!(
            found,
            [Mapper {
                slot: 1,
                linear_page: 0x4_0200,
                table: d,
                index: 1
            }]
        );
        assert_eq!(list(&pool, 512), []);
        let t = pool.alloc(1, 1, 0x4_0200);
        let pointer = pool.pointer(t);
        assert_eq!(pool.target(pointer), t);
        pool.set(d, 1, pointer);
        assert_eq!(pool.large_mappers(512).count(), 0);
    }
}

//! The trace hook: every write of the VMM to guest memory passes here.

use crate::mmu::Mmu;
use crate::pool::bits;
use crate::ram::HostPage;
use crate::space::SpaceKind;
use crate::traces::{TableUse, Trace};
use crate::walk::{A, D, Geometry, P, PS, W, XD};
use crate::zap::Cause;

/// Bytes of a table compared at a time; a multiple of the size of any entry.
const PIECE: usize = 64;
/// Writes to the page directory of a root that is not active, after which the page is taken to be something else by now.
const FOREIGN_WRITES: u32 = 3;
/// Writes to a page table that take entries away, or come from other address spaces, without a fill in between, after which
/// it may be on its way out.
const DEAD_WRITES: u32 = 8;

/// Leaves below which a page table from which entries are taken away is not worth keeping.
const FEW_LEAVES: u32 = 8;

bitflags::bitflags! {
    /// Signs that a page table is on its way out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct TableEnd: u8 {
        /// A present entry was cleared.
        const CLEARED = 1 << 0;
        /// It was written while another address space was loaded.
        const FOREIGN = 1 << 1;
    }
}

/// Bits of an entry that what is derived from it depends on; the others are caching, global and available bits.
const RELEVANT: u64 = !(0xf80 | 0x18) | PS;

/// What is derived from `old` is wrong, or lacks the setting of an accessed or dirty bit, once the entry is `new`.
fn must_zap(old: u64, new: u64) -> bool {
    let changed = (old ^ new) & RELEVANT;
    let only_set = changed & !new == 0 && changed & !(A | D) == 0;
    old & P != 0 && changed != 0 && !only_set
}

impl Mmu {
    /// Writes within a page of RAM (or ROM) and follows up on the traces of the page.
    pub(crate) fn write_page(&mut self, page: HostPage, offset: u32, data: &[u8]) {
        if !self.traces.is_traced(page) {
            self.ram.write(page, offset, data);
            return;
        }
        self.stats.traced_writes += 1;
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (part, after) = rest.split_at((PIECE - at as usize % PIECE).min(rest.len()));
            self.write_traced(page, at, part);
            at += part.len() as u32;
            rest = after;
        }
    }

    /// Writes a piece that does not cross a multiple of [`PIECE`].
    fn write_traced(&mut self, page: HostPage, offset: u32, data: &[u8]) {
        let start = offset & !(PIECE as u32 - 1);
        let (mut old, mut new) = ([0; PIECE], [0; PIECE]);
        self.ram.read(page, start, &mut old);
        self.ram.write(page, offset, data);
        self.ram.read(page, start, &mut new);
        let trace = self.traces.get(page);
        if trace.contains(Trace::CODE) && old != new {
            self.code_written(page, offset, data.len() as u16);
        }
        if trace.contains(Trace::TABLE) {
            let piece = TablePiece {
                start,
                first: offset,
                end: offset + data.len() as u32,
                old,
                new,
            };
            self.table_written(page, &piece);
        }
    }

    fn table_written(&mut self, page: HostPage, piece: &TablePiece) {
        let Some(uses) = self.traces.uses(page) else {
            return;
        };
        // Lists of one or two; the work below changes the originals.
        let (directories, tables) = (uses.directories.clone(), uses.tables.clone());
        for user in directories {
            self.directory_written(user, piece);
        }
        let mut end = TableEnd::empty();
        for &user in &tables {
            end |= self.page_table_written(user, piece);
        }
        if end != TableEnd::empty() {
            self.count_dead_write(page, end);
        }
    }

    fn directory_written(&mut self, user: TableUse, piece: &TablePiece) {
        let Some(space) = self.spaces.get_mut(user.slot) else {
            return;
        };
        let geometry = space.regions.geometry;
        let active = user.slot == self.active.user;
        space.user_regions = None;
        space.agrees_with = None;
        self.user_regions_dirty |= active;
        if !active {
            space.foreign_writes += 1;
            if space.foreign_writes >= FOREIGN_WRITES {
                self.stats.roots_given_up += 1;
                self.drop_space(user.slot);
                return;
            }
        }
        for (index, old, new) in piece.entries(geometry) {
            if old == new {
                continue;
            }
            self.stats.table_writes += 1;
            let region = user.region + index;
            if must_zap(old, new) {
                self.zap_region(user.slot, region);
            } else {
                self.rerecord(user.slot, region, new);
            }
            if active && self.active.supervisor != user.slot {
                self.supervisor_entry_written(region, new);
            }
        }
    }

    /// A directory entry of the active root was written: the supervisor space was filled from it, or from one that agreed.
    fn supervisor_entry_written(&mut self, region: u32, new: u64) {
        let slot = self.active.supervisor;
        let recorded = self.spaces.get(slot).and_then(|s| s.regions.get(region));
        if let Some(recorded) = recorded {
            if must_zap(recorded, new) {
                self.zap_region(slot, region);
            } else {
                self.rerecord(slot, region, new);
            }
        }
    }

    /// Keeps the record of a directory entry up to date where only bits changed that nothing depends on.
    fn rerecord(&mut self, slot: u8, region: u32, new: u64) {
        if let Some(space) = self.spaces.get_mut(slot)
            && space.regions.get(region).is_some()
        {
            let table = space.regions.table(region);
            space.regions.insert(region, new, table);
        }
    }

    /// Returns in what way the write looks like the end of the table.
    fn page_table_written(&mut self, user: TableUse, piece: &TablePiece) -> TableEnd {
        let mut end = TableEnd::empty();
        let Some(space) = self.spaces.get(user.slot) else {
            return end;
        };
        let geometry = space.regions.geometry;
        let kind = space.kind;
        end.set(
            TableEnd::FOREIGN,
            kind.is_user() && user.slot != self.active.user,
        );
        for (index, old, new) in piece.entries(geometry) {
            if old == new {
                continue;
            }
            self.stats.table_writes += 1;
            if kind.is_user() && old & P != 0 && new & P == 0 {
                end |= TableEnd::CLEARED;
            }
            let page = user.region * geometry.region_pages() + index;
            // Nothing is derived from an absent entry.
            let zap = must_zap(old, new) && !self.change_rights(user, kind, page, old, new);
            if zap {
                self.zap_page(user.slot, page);
            }
            if zap || old & P == 0 {
                self.prefill(user.slot, user.region, index, new);
            }
        }
        end
    }

    /// Changes the rights of a leaf in place where the entry still maps the same page for the same users: a fork takes write
    /// access from hundreds of pages that stay in use. False if it has to be zapped.
    fn change_rights(
        &mut self,
        user: TableUse,
        kind: SpaceKind,
        page: u32,
        old: u64,
        new: u64,
    ) -> bool {
        const SAME: u64 = !(RIGHTS | !RELEVANT);
        const RIGHTS: u64 = W | D | A;
        if (old ^ new) & SAME != 0 || new & (P | A) != P | A || (old | new) & XD != 0 {
            return false;
        }
        let Some(space) = self.spaces.get_mut(user.slot) else {
            return true;
        };
        let Some(directory) = space.regions.get(user.region) else {
            return false;
        };
        self.tlb.remove(page, space.tag);
        let Some(leaf) = space.tree.leaf(&self.pool, page) else {
            return true;
        };
        if leaf.large {
            return false;
        }
        let writable = kind.writable(directory & new & W != 0) && new & D != 0;
        let mut entry = leaf.entry & !(bits::RW | bits::MAY_WRITE);
        if writable {
            // Write access, if any, is given at the next write.
            entry |= bits::MAY_WRITE | leaf.entry & bits::RW;
        }
        if entry != leaf.entry {
            space.tree.set_leaf(&mut self.pool, page, entry);
            if leaf.entry & bits::CODE != 0 && entry & bits::MAY_WRITE == 0 {
                // Ends an alias, if there is one (`code_page_alias`).
                self.events.push(crate::MmuEvent::Unmapped {
                    space: space.id,
                    first_page: page,
                    pages: 1,
                });
            }
            if leaf.entry & bits::RW != 0 && entry & bits::RW == 0 {
                self.stats.zaps += 1;
                self.follow(user.slot, page, 1, Cause::Zap);
            }
        }
        true
    }

    /// Counts a write that looks like the end of a table, and gives the table up when there are many.
    fn count_dead_write(&mut self, page: HostPage, end: TableEnd) {
        let Some(uses) = self.traces.uses_mut(page) else {
            return;
        };
        uses.dead_writes += 1;
        if !uses.dead_writes.is_multiple_of(DEAD_WRITES) {
            return;
        }
        let tables = uses.tables.clone();
        let mut left = 0;
        for user in &tables {
            let Some(space) = self.spaces.get(user.slot) else {
                continue;
            };
            if !space.kind.is_user() {
                return;
            }
            let pages = space.regions.geometry.region_pages();
            let first = user.region * pages;
            left += space.tree.count_leaves(&self.pool, first, pages);
        }
        // An address space that unmaps some of its own pages goes on using the others.
        if !end.contains(TableEnd::FOREIGN) && left > FEW_LEAVES {
            return;
        }
        self.stats.tables_given_up += 1;
        for user in tables {
            self.zap_region(user.slot, user.region);
        }
    }

    /// Sets accessed or dirty bits in a guest table, as the processor does: no trace of page tables is triggered, because what
    /// was compared or derived does not depend on bits being set.
    pub(crate) fn set_table_bits(&mut self, entry: crate::walk::Entry, wanted: u64) {
        let Some(at) = entry.at else { return };
        if entry.value & wanted == wanted {
            return;
        }
        self.ram.set_bits_u32(at.page, at.word, wanted as u32);
        if self.traces.get(at.page).contains(Trace::CODE) {
            self.code_written(at.page, at.word * 4, 4);
        }
    }
}

/// A write to part of a table: the aligned piece around it, before and after.
struct TablePiece {
    /// Offset of the piece in the page.
    start: u32,
    /// The bytes written: from here ...
    first: u32,
    /// ... to here.
    end: u32,
    old: [u8; PIECE],
    new: [u8; PIECE],
}

impl TablePiece {
    /// The entries that the write touched: number in the table, before, after.
    fn entries(&self, geometry: Geometry) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        let bytes = geometry.entry_bytes() as u32;
        (self.first / bytes..self.end.div_ceil(bytes)).map(move |index| {
            let at = (index * bytes - self.start) as usize;
            (
                index,
                entry_at(&self.old, at, bytes),
                entry_at(&self.new, at, bytes),
            )
        })
    }
}

fn entry_at(piece: &[u8; PIECE], at: usize, bytes: u32) -> u64 {
    let mut raw = [0; 8];
    if let (Some(to), Some(from)) = (
        raw.get_mut(..bytes as usize),
        piece.get(at..at + bytes as usize),
    ) {
        to.copy_from_slice(from);
    }
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::U;

    #[test]
    fn what_a_change_of_an_entry_undoes() {
        let e = 0x1000 | P | W | U;
        assert!(!must_zap(0, e), "nothing is derived from an absent entry");
        assert!(!must_zap(e, e | A));
        assert!(!must_zap(e | A, e | A | D));
        assert!(must_zap(e | A, e), "accessed has to be set again");
        assert!(must_zap(e | A | D, e | A));
        assert!(must_zap(e, e & !W));
        assert!(must_zap(e & !W, e), "write access may be added");
        assert!(must_zap(e, 0));
        assert!(must_zap(e, e + 0x1000));
        assert!(
            !must_zap(e, e | 0xe00 | 0x118),
            "caching, global and available bits"
        );
    }
}

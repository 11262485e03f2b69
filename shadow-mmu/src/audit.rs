//! The audit: guest tables, shadow trees, windows and traces compared by code that shares nothing with what made them.
//!
//! The invariants, for every space:
//!
//! 1. A shadow leaf is derived from a guest mapping that is there: present and accessed at each level, the same frame, on the
//!    right side of the U/S split.
//! 2. A writable leaf maps untraced RAM that the guest may write and whose dirty bit is set.
//! 3. A page of a window that is not marked stale has a leaf, maps the same memory, and is writable only if the leaf is; and the
//!    host's own record of mappings says the same.
//! 4. The guest tables that leaves were derived from are traced; nothing else is traced as a table.
//! 5. The reverse map knows every leaf, and only those.
//! 6. What the software TLB can hit is what a walk finds.

use crate::mmu::Mmu;
use crate::pool::{bits, leaf_page};
use crate::space::{Space, SpaceKind};
use crate::traces::{TableUse, Trace};
use crate::types::PhysTarget;
use crate::walk::Role;
use crate::window::{WINDOW_PAGES, Window};
use crate::{AuditError, PAGE_SIZE};

type Check = Result<(), AuditError>;

fn fail(what: String) -> Check {
    Err(AuditError(what))
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return fail(format!($($message)+));
        }
    };
}

/// A guest mapping as the audit reads it.
struct GuestPage {
    gpa: u64,
    user: bool,
    write: bool,
    accessed: bool,
    dirty: bool,
    no_execute: bool,
    /// Memory page of the page table, if there is one.
    table: Option<u64>,
}

impl Mmu {
    /// Compares guest tables, shadow trees, windows (against the host's own list of mappings) and traces. Slow: for tests, and
    /// for debugging a guest.
    ///
    /// # Errors
    ///
    /// The first difference found.
    pub fn audit(&self) -> Result<(), AuditError> {
        let host = HostMappings::read()?;
        let mut leaves = 0;
        for (slot, space) in self.spaces.iter() {
            leaves += self.audit_tree(slot, space)?;
            if let Some(window) = &space.window {
                self.audit_window(space, window)?;
                self.audit_host(space, window, &host)?;
            }
            self.audit_regions(slot, space)?;
        }
        self.audit_traces()?;
        self.audit_reverse_map(leaves)?;
        self.audit_tlb()?;
        let vmas: usize = self
            .spaces
            .iter()
            .filter_map(|(_, s)| s.window.as_ref())
            .map(Window::vmas)
            .sum();
        ensure!(
            vmas == self.vmas,
            "{} host mappings counted, {vmas} found",
            self.vmas
        );
        Ok(())
    }

    fn audit_tree(&self, slot: u8, space: &Space) -> Result<usize, AuditError> {
        let mut leaves = 0;
        for (first, entry, pages) in space.tree.leaves(&self.pool) {
            leaves += 1;
            let listed = if pages == 1 {
                self.pool
                    .mappers(leaf_page(entry))
                    .any(|m| (m.slot, m.linear_page) == (slot, first))
            } else {
                self.pool
                    .large_mappers(leaf_page(entry))
                    .any(|m| (m.slot, m.linear_page) == (slot, first))
            };
            if !listed {
                fail(format!(
                    "{:?}: leaf at page {first:#x} is not in the reverse map",
                    space.kind
                ))?;
            }
            for i in 0..pages {
                self.audit_leaf(slot, space, first + i, entry + (u64::from(i) << 12))?;
            }
        }
        Ok(leaves)
    }

    fn audit_leaf(&self, slot: u8, space: &Space, page: u32, entry: u64) -> Check {
        let at = format!("{:?} page {page:#x} entry {entry:#x}", space.kind);
        let guest = self.guest_page(slot, space, page);
        let Some(guest) = guest else {
            return fail(format!("{at}: the guest maps nothing there"));
        };
        let frame = self.map.lookup_with(guest.gpa, space.kind.a20());
        ensure!(
            frame.page() == Some(leaf_page(entry)),
            "{at}: the guest maps {frame:?} there"
        );
        ensure!(guest.accessed, "{at}: not accessed");
        ensure!(
            space.kind.holds(guest.user),
            "{at}: wrong side of the U/S split"
        );
        ensure!(
            entry & bits::US == space.kind.leaf_us(),
            "{at}: wrong US bit"
        );
        ensure!(
            (entry & bits::NX != 0) == guest.no_execute,
            "{at}: wrong NX bit"
        );
        if entry & bits::RW != 0 {
            ensure!(
                space.kind.writable(guest.write),
                "{at}: writable though the guest's entry is not"
            );
            ensure!(guest.dirty, "{at}: writable though not dirty");
            ensure!(
                frame.target() == PhysTarget::Ram,
                "{at}: writable though {frame:?}"
            );
            ensure!(
                !self.traces.is_guarded(leaf_page(entry)),
                "{at}: writable though traced"
            );
        }
        if let Some(table) = guest.table {
            let region = page / space.regions.geometry.region_pages();
            let known = self.map.lookup_with(table, space.kind.a20()).page();
            ensure!(
                space.regions.table(region) == known,
                "{at}: its page table is not registered"
            );
        }
        Ok(())
    }

    /// The guest's own mapping of a linear page of a space, read the slow and simple way.
    fn guest_page(&self, slot: u8, space: &Space, page: u32) -> Option<GuestPage> {
        let linear = u64::from(page) << 12;
        let flat = |gpa| GuestPage {
            gpa,
            user: true,
            write: true,
            accessed: true,
            dirty: true,
            no_execute: false,
            table: None,
        };
        let (role, root) = match space.kind {
            SpaceKind::Flat { .. } => return Some(flat(linear)),
            SpaceKind::User { root, role } => (role, Some(u64::from(root))),
            SpaceKind::Supervisor { root, role, .. } if slot == self.active.supervisor => (
                role,
                root.map(u64::from)
                    .or(self.paging.map(|p| u64::from(p.root))),
            ),
            SpaceKind::Supervisor { role, .. } => (role, None),
        };
        let pae = role.contains(Role::PAE);
        let (shift, bytes) = if pae { (21, 8) } else { (22, 4) };
        let entries = 4096 / bytes;
        let region = linear >> shift;
        let pde = match root {
            // A supervisor space that is not active answers for what it was filled from.
            None => space.regions.get(region as u32)?,
            Some(root) => {
                let directory = if pae {
                    let pdptes = if space.kind.is_user() {
                        space.pdptes
                    } else {
                        self.paging?.pdptes
                    };
                    let pdpte = *pdptes.get((region >> 9) as usize)?;
                    // Higher bits are reserved here, and were looked at by the MOV to CR3, if by anybody.
                    let above = !0 << self.config.physical_bits.clamp(32, 52);
                    (pdpte & 1 != 0).then_some(pdpte & !(above | 0xfff))?
                } else {
                    root
                };
                self.guest_entry(space, directory + region % entries * bytes, bytes)?
            }
        };
        if pde & 1 == 0 {
            return None;
        }
        let pde_accessed = pde & 0x20 != 0;
        let nx = |e: u64| role.contains(Role::NXE) && e >> 63 != 0;
        if pde & 0x80 != 0 && role.intersects(Role::PAE | Role::PSE) {
            let size = 1u64 << shift;
            let base = if pae {
                pde & 0x000f_ffff_ffe0_0000
            } else {
                pde & 0xffc0_0000
            };
            return Some(GuestPage {
                gpa: base + linear % size,
                user: pde & 4 != 0,
                write: pde & 2 != 0,
                accessed: pde_accessed,
                dirty: pde & 0x40 != 0,
                no_execute: nx(pde),
                table: None,
            });
        }
        let table = pde & 0x000f_ffff_ffff_f000;
        let pte = self.guest_entry(space, table + (linear >> 12) % entries * bytes, bytes)?;
        (pte & 1 != 0).then_some(GuestPage {
            gpa: pte & 0x000f_ffff_ffff_f000,
            user: pde & pte & 4 != 0,
            write: pde & pte & 2 != 0,
            accessed: pde_accessed && pte & 0x20 != 0,
            dirty: pte & 0x40 != 0,
            no_execute: nx(pde) || nx(pte),
            table: Some(table),
        })
    }

    fn guest_entry(&self, space: &Space, gpa: u64, bytes: u64) -> Option<u64> {
        let mut raw = [0; 8];
        let gpa = if space.kind.a20() {
            gpa
        } else {
            gpa & !(1 << 20)
        };
        self.read_phys(gpa, raw.get_mut(..bytes as usize)?).ok()?;
        Some(u64::from_le_bytes(raw))
    }

    fn audit_window(&self, space: &Space, window: &Window) -> Check {
        let mut at = 0;
        while let Some(page) = window.next_mapped(at, WINDOW_PAGES) {
            at = page + 1;
            if space.stale.covers(page) {
                continue;
            }
            let what = format!("{:?} window page {page:#x}", space.kind);
            let Some(mapped) = window.mapped(page) else {
                continue;
            };
            let Some(leaf) = space.tree.leaf(&self.pool, page) else {
                return fail(format!("{what}: mapped without a shadow entry"));
            };
            ensure!(
                leaf_page(leaf.entry) == mapped.page,
                "{what}: maps {mapped:?}, shadow entry {:#x}",
                leaf.entry
            );
            ensure!(
                !mapped.writable || leaf.entry & bits::RW != 0,
                "{what}: writable, shadow entry {:#x}",
                leaf.entry
            );
        }
        Ok(())
    }

    /// The window's record against the host's list of mappings.
    fn audit_host(&self, space: &Space, window: &Window, host: &HostMappings) -> Check {
        let mut found = 0;
        for m in host.within(
            window.base(),
            window.base() + (u64::from(WINDOW_PAGES) << 12),
        ) {
            if !m.readable {
                continue;
            }
            let (first, last) = (
                (m.start - window.base()) >> 12,
                (m.end - window.base()) >> 12,
            );
            for i in 0..last - first {
                found += 1;
                let recorded = window
                    .mapped((first + i) as u32)
                    .map(|r| (u64::from(r.page), r.writable));
                let real = (m.offset / PAGE_SIZE + i, m.writable);
                ensure!(
                    recorded == Some(real),
                    "{:?} window page {:#x}: recorded {recorded:?}, the host has {real:?}",
                    space.kind,
                    first + i
                );
            }
        }
        let mut recorded = 0u64;
        let mut at = 0;
        while let Some(page) = window.next_mapped(at, WINDOW_PAGES) {
            recorded += 1;
            at = page + 1;
        }
        ensure!(
            recorded == found,
            "{:?}: {recorded} pages recorded in the window, {found} mapped",
            space.kind
        );
        Ok(())
    }

    fn audit_regions(&self, slot: u8, space: &Space) -> Check {
        for (region, _) in space.regions.iter() {
            if let Some(table) = space.regions.table(region) {
                let user = TableUse { slot, region };
                let known = self
                    .traces
                    .uses(table)
                    .is_some_and(|u| u.tables.contains(&user));
                ensure!(
                    known,
                    "{:?}: region {region:#x} does not depend on its table {table:#x}",
                    space.kind
                );
            }
        }
        for &(page, region) in &space.directories {
            let known = self
                .traces
                .uses(page)
                .is_some_and(|u| u.directories.contains(&TableUse { slot, region }));
            ensure!(
                known,
                "{:?}: its page directory {page:#x} is not traced",
                space.kind
            );
        }
        Ok(())
    }

    fn audit_traces(&self) -> Check {
        let mut tables = 0;
        for (page, uses) in self.traces.tables() {
            tables += 1;
            ensure!(
                self.traces.get(page).contains(Trace::TABLE),
                "table {page:#x} is used but not traced"
            );
            ensure!(
                !uses.tables.is_empty() || !uses.directories.is_empty(),
                "table {page:#x} has no users"
            );
            for user in &uses.tables {
                let space = self.spaces.get(user.slot);
                let agrees = space.is_some_and(|s| s.regions.table(user.region) == Some(page));
                ensure!(agrees, "table {page:#x} has a user that is gone: {user:?}");
            }
            for user in &uses.directories {
                let agrees = self
                    .spaces
                    .get(user.slot)
                    .is_some_and(|s| s.directories.contains(&(page, user.region)));
                ensure!(
                    agrees,
                    "directory {page:#x} has a user that is gone: {user:?}"
                );
            }
        }
        let flagged = (0..self.ram.pages())
            .filter(|&p| self.traces.get(p).contains(Trace::TABLE))
            .count();
        ensure!(
            flagged == tables,
            "{flagged} pages are traced as tables, {tables} are in use"
        );
        for chunk in (0..self.ram.pages()).step_by(512) {
            let any =
                (chunk..(chunk + 512).min(self.ram.pages())).any(|p| self.traces.is_guarded(p));
            ensure!(
                self.traces.any_in_chunk(chunk) == any,
                "wrong count of traces around page {chunk:#x}"
            );
        }
        Ok(())
    }

    fn audit_reverse_map(&self, leaves: usize) -> Check {
        let small: usize = (0..self.ram.pages())
            .map(|p| self.pool.mappers(p).count())
            .sum();
        let large: usize = (0..self.ram.pages())
            .step_by(512)
            .map(|p| self.pool.large_mappers(p).count())
            .sum();
        ensure!(
            small + large == leaves,
            "{leaves} leaves, {small} + {large} in the reverse map"
        );
        Ok(())
    }

    fn audit_tlb(&self) -> Check {
        for (page, user, entry) in self.tlb.live() {
            let slot = if user {
                self.active.user
            } else {
                self.active.supervisor
            };
            let Some(space) = self.spaces.get(slot) else {
                return fail("no active space".into());
            };
            let what = format!("TLB entry for page {page:#x} of {:?}", space.kind);
            let Some(guest) = self.guest_page(slot, space, page) else {
                return fail(format!("{what}: the guest maps nothing there"));
            };
            ensure!(
                self.map.gate(guest.gpa) >> 12 == u64::from(entry.frame),
                "{what}: wrong frame"
            );
            ensure!(
                self.map.lookup(guest.gpa).target() == entry.target,
                "{what}: wrong target"
            );
            ensure!(
                space.kind.holds(guest.user),
                "{what}: wrong side of the U/S split"
            );
            let writable = space.kind.writable(guest.write) && guest.dirty;
            ensure!(!entry.writable || writable, "{what}: writable");
            ensure!(guest.accessed, "{what}: not accessed");
        }
        Ok(())
    }
}

/// A line of /proc/self/maps.
struct HostMapping {
    start: u64,
    end: u64,
    readable: bool,
    writable: bool,
    offset: u64,
}

struct HostMappings(Vec<HostMapping>);

impl HostMappings {
    fn read() -> Result<HostMappings, AuditError> {
        let text = std::fs::read_to_string("/proc/self/maps")
            .map_err(|e| AuditError(format!("/proc/self/maps: {e}")))?;
        let hex = |s: &str| u64::from_str_radix(s, 16).ok();
        let parse = |line: &str| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let rights = fields.next()?.as_bytes();
            let offset = hex(fields.next()?)?;
            Some(HostMapping {
                start: hex(start)?,
                end: hex(end)?,
                readable: rights.first() == Some(&b'r'),
                writable: rights.get(1) == Some(&b'w'),
                offset,
            })
        };
        Ok(HostMappings(text.lines().filter_map(parse).collect()))
    }

    fn within(&self, start: u64, end: u64) -> impl Iterator<Item = &HostMapping> {
        self.0
            .iter()
            .filter(move |m| m.start >= start && m.end <= end)
    }
}

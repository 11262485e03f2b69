//! A small model of paging with 32 address bits, written from the SDM and not from the code under test: no caches, no
//! spaces, no windows.

use super::{A, D, P, PS, U, W};
use shadow_mmu::{Access, AccessKind, FaultCode, Mmu, PagingRegs, Privilege};

/// What an access must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The guest-physical address, or the error code.
    pub(crate) result: Result<u64, FaultCode>,
    /// Entries on the way: address, size in bytes, and the value they must have afterwards.
    pub(crate) entries: Vec<(u64, usize, u64)>,
    /// Combined rights, if there is a translation: user, write, dirty afterwards.
    pub(crate) rights: Option<(bool, bool, bool)>,
}

pub(crate) struct Model {
    pub(crate) regs: PagingRegs,
    pub(crate) a20: bool,
    pub(crate) pdptes: [u64; 4],
}

impl Model {
    pub(crate) fn gate(&self, gpa: u64) -> u64 {
        if self.a20 { gpa } else { gpa & !0x10_0000 }
    }

    fn entry(&self, m: &Mmu, gpa: u64, size: usize) -> Option<u64> {
        let mut raw = [0; 8];
        m.read_phys(self.gate(gpa), &mut raw[..size]).ok()?;
        Some(u64::from_le_bytes(raw))
    }

    pub(crate) fn load_pdptes(&mut self, m: &Mmu) {
        for i in 0..4 {
            self.pdptes[i] = self
                .entry(m, u64::from(self.regs.cr3 & !31) + i as u64 * 8, 8)
                .unwrap_or(u64::MAX);
        }
    }

    /// What `access` to `linear` does in the current state of memory.
    pub(crate) fn access(&self, m: &Mmu, linear: u32, access: Access) -> Expected {
        let mut e = Expected {
            result: Ok(0),
            entries: Vec::new(),
            rights: None,
        };
        if self.regs.cr0 >> 31 == 0 {
            e.result = Ok(self.gate(u64::from(linear)));
            e.rights = Some((true, true, true));
            return e;
        }
        let pae = self.regs.cr4 & 0x20 != 0;
        let nxe = pae && self.regs.efer & 0x800 != 0;
        let wp = self.regs.cr0 & 0x1_0000 != 0;
        let user = access.privilege == Privilege::User;
        let write = access.kind == AccessKind::Write;
        let fetch = access.kind == AccessKind::Execute;
        let mut code = FaultCode::empty();
        if write {
            code |= FaultCode::WRITE;
        }
        if user {
            code |= FaultCode::USER;
        }
        if fetch && nxe {
            code |= FaultCode::FETCH;
        }
        let l = u64::from(linear);
        let (size, directory, pd_index, pt_index, large_mask) = if pae {
            let pdpte = self.pdptes[(linear >> 30) as usize];
            if pdpte & 1 == 0 {
                e.result = Err(code);
                return e;
            }
            (
                8usize,
                pdpte & 0xffff_f000,
                l >> 21 & 511,
                l >> 12 & 511,
                0x1f_ffffu64,
            )
        } else {
            (
                4,
                u64::from(self.regs.cr3 & !0xfff),
                l >> 22,
                l >> 12 & 1023,
                0x3f_ffff,
            )
        };
        let [p, w, u, a, d, ps] = [P, W, U, A, D, PS].map(u64::from);
        let high_reserved = if !pae {
            0
        } else if nxe {
            0x7fff_ffff_0000_0000
        } else {
            0xffff_ffff_0000_0000u64
        };
        let all_ones = if pae { u64::MAX } else { 0xffff_ffff };
        let pde_at = directory + pd_index * size as u64;
        let pde = self.entry(m, pde_at, size).unwrap_or(all_ones);
        if pde & p == 0 {
            e.result = Err(code);
            return e;
        }
        let large = pde & ps != 0 && (pae || self.regs.cr4 & 0x10 != 0);
        let large_reserved = if pae { 0x1f_e000 } else { 0x3f_e000 };
        if pde & high_reserved != 0 || large && pde & large_reserved != 0 {
            e.result = Err(code | FaultCode::PRESENT | FaultCode::RESERVED);
            return e;
        }
        let (last, last_at, rights, no_execute, base, mask);
        if large {
            (last, last_at, rights, no_execute) = (pde, pde_at, pde, nxe && pde >> 63 != 0);
            (base, mask) = (pde & 0xffff_f000 & !large_mask, large_mask);
        } else {
            e.entries.push((self.gate(pde_at), size, pde | a));
            let pte_at = (pde & 0xffff_f000) + pt_index * size as u64;
            // A self-map: the directory entry is its own page-table entry, and has just been used.
            let same = if self.gate(pte_at) == self.gate(pde_at) {
                a
            } else {
                0
            };
            let pte = self.entry(m, pte_at, size).unwrap_or(all_ones) | same;
            if pte & p == 0 {
                e.result = Err(code);
                return e;
            }
            if pte & high_reserved != 0 {
                e.result = Err(code | FaultCode::PRESENT | FaultCode::RESERVED);
                return e;
            }
            (last, last_at, rights) = (pte, pte_at, pde & pte);
            no_execute = nxe && (pde | pte) >> 63 != 0;
            (base, mask) = (pte & 0xffff_f000, 0xfff);
        }
        let denied = user && rights & u == 0
            || write && rights & w == 0 && (user || wp)
            || fetch && no_execute;
        if denied {
            e.result = Err(code | FaultCode::PRESENT);
            return e;
        }
        let last = last | a | if write { d } else { 0 };
        e.entries.retain(|(at, ..)| *at != self.gate(last_at));
        e.entries.push((self.gate(last_at), size, last));
        e.rights = Some((rights & u != 0, rights & w != 0, last & d != 0));
        e.result = Ok(self.gate(base | l & mask));
        e
    }

    /// Checks the entries on the way of an access after it.
    pub(crate) fn check_entries(&self, m: &Mmu, expected: &Expected) -> Result<(), String> {
        for &(at, size, value) in &expected.entries {
            // What is not RAM cannot have bits set.
            if m.phys_kind(at) == shadow_mmu::PhysTarget::Ram {
                let now = self.entry(m, at, size).unwrap_or(0);
                if now != value {
                    return Err(format!("entry at {at:#x} is {now:#x}, must be {value:#x}"));
                }
            }
        }
        Ok(())
    }
}

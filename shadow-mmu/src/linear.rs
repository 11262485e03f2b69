//! Accesses to guest-linear memory by the VMM.

use crate::mmu::Mmu;
use crate::phys::Frame;
use crate::pool::{bits, leaf_page};
use crate::traces::Trace;
use crate::{
    Access, AccessPlan, LinearError, PAGE_SHIFT, PAGE_SIZE, PageFault, PhysError, PhysTarget,
    Privilege, Resolved,
};

/// Linear accesses of the VMM wrap at 4 GiB, as 32-bit addresses do.
impl Mmu {
    /// How to carry out an access of `len` bytes: directly, if it lies in one page of RAM (untraced, for a write; ROM can be
    /// read), otherwise by [`Mmu::read_linear`], [`Mmu::write_linear`], or by what [`Mmu::resolve`] says of each page.
    ///
    /// # Errors
    ///
    /// The page fault that the access to the first page causes.
    #[inline]
    pub fn plan(
        &mut self,
        linear: u32,
        len: usize,
        access: Access,
    ) -> Result<AccessPlan, PageFault> {
        let offset = linear & (PAGE_SIZE as u32 - 1);
        let (resolved, page) = match self.cached(linear, access) {
            Some(hit) => hit,
            None => {
                let resolved = self.resolve(linear, access)?;
                match self.map.lookup_on_bus(resolved.gpa).page() {
                    Some(page) => (resolved, page),
                    None => return Ok(AccessPlan::Slow),
                }
            }
        };
        let direct = match resolved.target {
            PhysTarget::Ram => !(access.is_write() && resolved.traced),
            PhysTarget::Rom => !access.is_write(),
            PhysTarget::Device | PhysTarget::Hole => false,
        };
        if !direct || offset as usize + len > PAGE_SIZE as usize {
            return Ok(AccessPlan::Slow);
        }
        Ok(self
            .ram
            .pointer(page, offset)
            .map_or(AccessPlan::Slow, AccessPlan::Direct))
    }

    /// A write at `linear`, which [`Mmu::plan`] has found to be direct, leads to a page that was a page table until lately: no window
    /// maps that writable for now, and nothing depends on what is written. As long as [`Mmu::direct_epoch`] stays the same, a
    /// caller can go on using the address for writes to this linear page with the same privilege.
    pub fn leads_to_former_table(&mut self, linear: u32, privilege: Privilege) -> bool {
        // What is not in the TLB may change without a change of the epoch, and accesses to watched pages have to be seen.
        let cached = self.cached(linear, Access::write(privilege));
        !self.watched.contains(linear >> PAGE_SHIFT)
            && cached.is_some_and(|(resolved, page)| {
                resolved.target == PhysTarget::Ram
                    && !resolved.traced
                    && self.traces.is_former(page)
            })
    }

    /// Changes whenever something does that [`Mmu::leads_to_former_table`] has looked at: mappings, rights, dirty bits, paging,
    /// traces and watched pages.
    #[inline]
    pub fn direct_epoch(&self) -> u64 {
        self.tlb.epoch()
    }

    /// A write of translated code at `linear` does not fault for the sake of its page: that is RAM which is mapped
    /// writable once it is mapped. False where the write is a page fault.
    pub fn is_plain_write(&mut self, linear: u32, privilege: Privilege) -> bool {
        let resolved = self.resolve(linear, Access::write(privilege));
        resolved.is_ok_and(|resolved| {
            let frame = self.map.lookup_on_bus(resolved.gpa);
            matches!(frame, Frame::Ram(page) if !self.traces.is_guarded(page))
        })
    }

    /// The host address of the page of RAM at `linear`, for a caller that writes it past the trace because it keeps off the
    /// code there itself. `None` unless the page is traced for code alone, may be written now, is not watched, and is mapped by the space of
    /// `privilege`. Good until an [`MmuEvent::Unmapped`](crate::MmuEvent::Unmapped) names the linear page: its mapping or its
    /// rights change, or it comes to be a page table.
    pub fn code_page_alias(&mut self, linear: u32, privilege: Privilege) -> Option<*mut u8> {
        let resolved = self.resolve(linear, Access::write(privilege)).ok()?;
        if resolved.target != PhysTarget::Ram || self.watched.contains(linear >> PAGE_SHIFT) {
            return None;
        }
        let page = self.map.lookup_on_bus(resolved.gpa).page()?;
        let space = self.spaces.get_mut(self.slot_of(privilege))?;
        let leaf = space.tree.leaf(&self.pool, linear >> PAGE_SHIFT)?;
        let traced_for_code = self.traces.get(page) == Trace::CODE;
        let same = !leaf.large && leaf_page(leaf.entry) == page;
        if !traced_for_code || !same || leaf.entry & bits::MAY_WRITE == 0 {
            return None;
        }
        let entry = leaf.entry | bits::CODE;
        space
            .tree
            .set_leaf(&mut self.pool, linear >> PAGE_SHIFT, entry);
        self.ram.pointer(page, 0)
    }

    /// Reads guest-linear memory, across pages.
    ///
    /// # Errors
    ///
    /// A page fault, or part of the range is not memory; the contents of `buf` are then unspecified.
    pub fn read_linear(
        &mut self,
        linear: u32,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), LinearError> {
        let mut linear = linear;
        let mut rest = buf;
        while !rest.is_empty() {
            let (part, after) = rest.split_at_mut(in_page(linear, rest.len()));
            let resolved = self.resolve(linear, access)?;
            self.read_phys(resolved.gpa, part)?;
            linear = linear.wrapping_add(part.len() as u32);
            rest = after;
        }
        Ok(())
    }

    /// Writes guest-linear memory through the trace hook. Writes to ROM are ignored.
    ///
    /// # Errors
    ///
    /// A page fault, or part of the range is not memory; nothing is written then.
    pub fn write_linear(
        &mut self,
        linear: u32,
        data: &[u8],
        access: Access,
    ) -> Result<(), LinearError> {
        if in_page(linear, data.len()) == data.len() {
            let resolved = self.resolve(linear, access)?;
            return Ok(self.write_phys(resolved.gpa, data)?);
        }
        // All pages are translated before the first byte is written, as an instruction that crosses a page does.
        let mut parts: Vec<(u64, &[u8])> = Vec::new();
        let mut at = linear;
        let mut rest = data;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(in_page(at, rest.len()));
            let Resolved { gpa, target, .. } = self.resolve(at, access)?;
            if matches!(target, PhysTarget::Device | PhysTarget::Hole) {
                return Err(PhysError { gpa, target }.into());
            }
            parts.push((gpa, part));
            at = at.wrapping_add(part.len() as u32);
            rest = after;
        }
        for (gpa, part) in parts {
            self.write_phys(gpa, part)?;
        }
        Ok(())
    }
}

/// Bytes of an access that lie in its first page.
fn in_page(linear: u32, len: usize) -> usize {
    let left = PAGE_SIZE as usize - (linear as usize & (PAGE_SIZE as usize - 1));
    left.min(len)
}

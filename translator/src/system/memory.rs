//! Guest memory as instructions reach it: through segmentation, paging and devices.

use super::debug::{breakpoints_enabled, data_breakpoints};
use super::event::vector;
use super::{Exception, System, direct};
use crate::state::{CpuState, Rights, Segment, seg};
use shadow_mmu::{Access, AccessPlan, PAGE_SIZE, PhysTarget, Privilege};

/// Largest access that a device sees at once (the contract of [`crate::Platform::mmio_read`]).
const DEVICE_BYTES: usize = 64;

/// Bytes from `linear` to the end of its page.
const fn to_page_end(linear: u32) -> usize {
    (PAGE_SIZE as u32 - (linear & (PAGE_SIZE as u32 - 1))) as usize
}

/// The parts of a linear range that lie in one page each: address, first byte, length.
fn pages(linear: u32, len: usize) -> impl Iterator<Item = (u32, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = linear.wrapping_add(done as u32);
        let part = to_page_end(at).min(len - done);
        (part != 0).then(|| {
            done += part;
            (at, done - part, part)
        })
    })
}

/// True when `len` bytes (at least 1) at `offset` are inside the limit of the segment (Intel SDM
/// vol. 3A, section 5.3). With a 4 GiB limit an access may wrap, as section 5.3 allows.
pub(super) fn in_limit(segment: &Segment, offset: u32, len: u32) -> bool {
    let last = len.wrapping_sub(1);
    let expand_down = segment.rights & (Rights::CODE | Rights::DOWN_CONFORMING | Rights::S)
        == Rights::DOWN_CONFORMING | Rights::S;
    if expand_down {
        let top = if segment.is_big() { u32::MAX } else { 0xFFFF };
        offset > segment.limit && offset <= top && last <= top - offset
    } else {
        segment.limit == u32::MAX || (offset <= segment.limit && last <= segment.limit - offset)
    }
}

/// The privilege of an ordinary data access at `cpl`.
pub(super) const fn privilege_of(cpl: u8) -> Privilege {
    if cpl == 3 {
        Privilege::User
    } else {
        Privilege::Supervisor
    }
}

/// Checks an access against a segment register: usable, limit, rights. Returns the guest-linear
/// address; #SS(0) for SS and #GP(0) for the others (Intel SDM vol. 3A, sections 5.3 to 5.5).
pub(super) fn check_segment(
    cpu: &CpuState,
    index: usize,
    offset: u32,
    len: u32,
    write: bool,
) -> Result<u32, Exception> {
    let fault = if index == seg::SS {
        Exception::stack_fault()
    } else {
        Exception::general_protection()
    };
    let Some(segment) = cpu.seg.get(index) else {
        return Err(fault);
    };
    let rights = segment.rights;
    // Code is readable or execute-only and never writable; data is read-only or writable. Real mode
    // has no such rights, whatever a stay in protected mode left in the hidden part.
    let allowed = match (write, rights.contains(Rights::CODE)) {
        (true, false) | (false, true) => rights.contains(Rights::WRITE_READ),
        (true, true) => false,
        (false, false) => true,
    } || !cpu.protected_mode();
    if rights.contains(Rights::UNUSABLE) || !allowed || !in_limit(segment, offset, len) {
        return Err(fault);
    }
    Ok(segment.base.wrapping_add(offset))
}

impl System<'_> {
    /// As [`System::segment_access`], for a state alone.
    pub(crate) fn check_access(
        cpu: &CpuState,
        index: usize,
        offset: u32,
        len: u32,
        write: bool,
    ) -> Result<u32, Exception> {
        check_segment(cpu, index, offset, len, write)
    }

    /// The privilege of an ordinary data access now.
    pub fn privilege(&self) -> Privilege {
        privilege_of(self.cpu.cpl)
    }

    /// Checks an access of `len` bytes (at least 1) at `offset` of segment register `index` and
    /// returns its guest-linear address. Paging is not looked at.
    ///
    /// # Errors
    /// #SS(0) for SS, #GP(0) for the others: null selector, limit, rights.
    pub fn segment_access(
        &self,
        index: usize,
        offset: u32,
        len: u32,
        write: bool,
    ) -> Result<u32, Exception> {
        check_segment(self.cpu, index, offset, len, write)
    }

    /// Checks that an access of the program's own to `len` bytes is aligned, where alignment is
    /// checked. A page fault goes before (Intel SDM vol. 3A, table 6-2).
    ///
    /// # Errors
    /// #AC(0), #PF.
    #[inline]
    pub fn check_alignment(
        &mut self,
        linear: u32,
        len: usize,
        alignment: u32,
        write: bool,
    ) -> Result<(), Exception> {
        if linear & (alignment - 1) == 0 || !self.cpu.checks_alignment() {
            return Ok(());
        }
        let kind = if write { Access::write } else { Access::read };
        for (at, ..) in pages(linear, len) {
            self.mmu.resolve(at, kind(Privilege::User))?;
        }
        Err(Exception::fault_with_code(vector::AC, 0))
    }

    /// Reads guest-linear memory; pages and devices may be crossed.
    ///
    /// # Errors
    /// #PF. Then no device has seen anything.
    pub fn read_linear(
        &mut self,
        linear: u32,
        buf: &mut [u8],
        privilege: Privilege,
    ) -> Result<(), Exception> {
        let access = Access::read(privilege);
        match self.mmu.plan(linear, buf.len(), access)? {
            AccessPlan::Direct(from) => direct::load(from, buf),
            AccessPlan::Slow => self.read_pages(linear, buf, access)?,
        }
        self.watch(linear, buf.len(), false);
        Ok(())
    }

    /// Notes the data breakpoints that an access meets.
    #[inline]
    fn watch(&mut self, linear: u32, len: usize, write: bool) {
        if breakpoints_enabled(self.cpu) {
            self.cpu.pending_debug |= data_breakpoints(self.cpu, linear, len as u32, write);
        }
    }

    #[cold]
    fn read_pages(&mut self, linear: u32, buf: &mut [u8], access: Access) -> Result<(), Exception> {
        if buf.len() > to_page_end(linear) {
            for (at, ..) in pages(linear, buf.len()) {
                self.mmu.resolve(at, access)?;
            }
        }
        for (at, start, len) in pages(linear, buf.len()) {
            let Some(part) = buf.get_mut(start..start + len) else {
                break;
            };
            let resolved = self.mmu.resolve(at, access)?;
            let memory = matches!(resolved.target, PhysTarget::Ram | PhysTarget::Rom);
            if memory && self.mmu.read_phys(resolved.gpa, part).is_ok() {
                continue;
            }
            let mut gpa = resolved.gpa;
            if let Some(ram) = self.platform.stand_in(gpa, len)
                && self.mmu.read_phys(ram, part).is_ok()
            {
                continue;
            }
            for chunk in part.chunks_mut(DEVICE_BYTES) {
                self.platform.mmio_read(gpa, chunk);
                gpa += chunk.len() as u64;
            }
        }
        Ok(())
    }

    /// Writes guest-linear memory through the trace hook; pages and devices may be crossed.
    ///
    /// # Errors
    /// #PF. Then nothing has been stored.
    pub fn write_linear(
        &mut self,
        linear: u32,
        data: &[u8],
        privilege: Privilege,
    ) -> Result<(), Exception> {
        let access = Access::write(privilege);
        match self.mmu.plan(linear, data.len(), access)? {
            AccessPlan::Direct(to) => direct::store(to, data),
            AccessPlan::Slow => self.write_pages(linear, data, access)?,
        }
        self.watch(linear, data.len(), true);
        Ok(())
    }

    #[cold]
    fn write_pages(&mut self, linear: u32, data: &[u8], access: Access) -> Result<(), Exception> {
        if data.len() > to_page_end(linear) {
            self.check_write(linear, data.len(), access.privilege)?;
        }
        for (at, start, len) in pages(linear, data.len()) {
            let Some(part) = data.get(start..start + len) else {
                break;
            };
            let resolved = self.mmu.resolve(at, access)?;
            let memory = matches!(resolved.target, PhysTarget::Ram | PhysTarget::Rom);
            if memory && self.mmu.write_phys(resolved.gpa, part).is_ok() {
                continue;
            }
            let mut gpa = resolved.gpa;
            if let Some(ram) = self.platform.stand_in(gpa, len)
                && self.mmu.write_phys(ram, part).is_ok()
            {
                continue;
            }
            for chunk in part.chunks(DEVICE_BYTES) {
                self.platform.mmio_write(gpa, chunk);
                gpa += chunk.len() as u64;
            }
        }
        Ok(())
    }

    /// Checks that a write would not page-fault, and sets accessed and dirty bits as it would.
    ///
    /// # Errors
    /// #PF.
    pub fn check_write(
        &mut self,
        linear: u32,
        len: usize,
        privilege: Privilege,
    ) -> Result<(), Exception> {
        for (at, ..) in pages(linear, len) {
            self.mmu.resolve(at, Access::write(privilege))?;
        }
        Ok(())
    }

    /// Writes what `source` reads from a device, at most 4 bytes. The device is read only when the
    /// write cannot fault any more.
    pub(super) fn write_from_device(
        &mut self,
        linear: u32,
        len: usize,
        source: impl FnOnce(&mut dyn crate::Platform) -> u32,
    ) -> Result<(), Exception> {
        let access = Access::write(self.privilege());
        match self.mmu.plan(linear, len, access)? {
            AccessPlan::Direct(to) => {
                let bytes = source(self.platform).to_le_bytes();
                direct::store(to, bytes.get(..len).unwrap_or(&bytes));
            }
            AccessPlan::Slow => {
                self.check_write(linear, len, access.privilege)?;
                let bytes = source(self.platform).to_le_bytes();
                self.write_pages(linear, bytes.get(..len).unwrap_or(&bytes), access)?;
            }
        }
        self.watch(linear, len, true);
        Ok(())
    }

    /// Reads `N` bytes of a system table (supervisor access at any CPL).
    pub(super) fn read_system<const N: usize>(
        &mut self,
        linear: u32,
    ) -> Result<[u8; N], Exception> {
        let mut bytes = [0; N];
        self.read_linear(linear, &mut bytes, Privilege::Supervisor)?;
        Ok(bytes)
    }

    /// Reads a word, a double word, or a larger structure of double words at an offset in a segment,
    /// with the current privilege.
    pub(super) fn read_segment<const N: usize>(
        &mut self,
        index: usize,
        offset: u32,
    ) -> Result<[u8; N], Exception> {
        self.read_parts(index, offset, if N < 4 { N as u32 } else { 4 })
    }

    /// Reads a structure of parts of `alignment` bytes at an offset in a segment, with the current
    /// privilege.
    pub(super) fn read_parts<const N: usize>(
        &mut self,
        index: usize,
        offset: u32,
        alignment: u32,
    ) -> Result<[u8; N], Exception> {
        let linear = self.segment_access(index, offset, N as u32, false)?;
        self.check_alignment(linear, N, alignment, false)?;
        let mut bytes = [0; N];
        self.read_linear(linear, &mut bytes, self.privilege())?;
        Ok(bytes)
    }

    /// Writes a word, or a table register, at an offset in a segment, with the current privilege.
    pub(super) fn write_segment(
        &mut self,
        index: usize,
        offset: u32,
        data: &[u8],
    ) -> Result<(), Exception> {
        let linear = self.segment_access(index, offset, data.len() as u32, true)?;
        match data.len() {
            // The limit, and the base behind it (Intel SDM vol. 3A, section 3.5.1).
            6 => self.check_alignment(linear.wrapping_add(2), 4, 4, true)?,
            len => self.check_alignment(linear, len, len as u32, true)?,
        }
        self.write_linear(linear, data, self.privilege())
    }
}

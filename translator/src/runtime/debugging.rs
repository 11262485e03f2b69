//! Debug traps, breakpoints and NMI, at instruction boundaries.
//!
//! While no breakpoint is enabled nothing here costs anything but a comparison at a boundary. A page
//! with an instruction breakpoint has no entries in jump tables, and its instructions run alone. A
//! page with a data breakpoint is not mapped in any window, so that each access to it is carried out
//! by Rust, which looks whether it meets the breakpoint. All other pages run as ever.

use super::engine::{Engine, Step};
use crate::system::Exception;
use crate::system::debug::{self, Armed};
use crate::{Exit, Platform};
use shadow_mmu::Mmu;

impl Engine {
    /// Delivers the debug trap that is due.
    pub(super) fn debug_trap(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Option<Exit> {
        match self.raise(mmu, platform, Exception::debug_trap(0)) {
            Step::Leave(exit) => Some(exit),
            _ => None,
        }
    }

    /// Notes the edge of the NMI wire.
    pub(crate) fn raise_nmi(&mut self) {
        self.cache.context_mut().cpu.nmi_pending = true;
    }

    /// Takes the pending NMI, if the vCPU accepts it now.
    pub(crate) fn take_nmi(&mut self, mmu: &mut Mmu, platform: &mut dyn Platform) -> Option<Exit> {
        if !self.state().accepts_nmi() {
            return None;
        }
        self.cache.context_mut().cpu.nmi_pending = false;
        self.stats.nmis += 1;
        self.changed = true;
        match self.system(mmu, platform).deliver(Exception::nmi()) {
            Ok(()) => None,
            Err(_) => Some(Exit::Shutdown),
        }
    }

    /// Looks at the breakpoints in front of an instruction: raises that of an instruction breakpoint
    /// (`Err`), or tells whether the instruction has to run alone because of one in its page.
    pub(super) fn breakpoints(
        &mut self,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Result<bool, Step> {
        if self.changed {
            self.arm(mmu);
        }
        if self.armed == Armed::default() {
            return Ok(false);
        }
        if let Some(fault) = debug::instruction_breakpoint(self.state()) {
            self.single_steps += 1;
            return Err(self.raise(mmu, platform, fault));
        }
        let page = self.state().linear_eip() >> 12;
        Ok(debug::execute_pages(self.state()).any(|watched| watched == page))
    }

    /// Follows a change of the breakpoints.
    fn arm(&mut self, mmu: &mut Mmu) {
        let armed = Armed::of(self.state());
        if armed == self.armed {
            return;
        }
        self.armed = armed;
        let cpu = self.state();
        mmu.watch_pages(debug::data_pages(cpu));
        let pages: Vec<u32> = debug::execute_pages(cpu).collect();
        // Stores beside code go past the windows, and end there as well.
        self.drain_events(mmu);
        for (space, table) in &mut self.code_spaces {
            for &page in &pages {
                let (first, count) = space.eip_pages(page, 1);
                table.clear_pages(first, count);
            }
        }
    }
}

//! Host faults in translated code: hidden, true, and those that teach a better translation.

use super::engine::{Engine, Step};
use super::exits::internal;
use crate::codegen::AccessHint;
use crate::codegen::system::callout_kind;
use crate::state::{InterruptShadow, cr4};
use crate::system::{Exception, vector};
use crate::{Exit, Platform};
use iced_x86::{Instruction, OpKind};
use shadow_mmu::{Access, FaultOutcome, Mmu, Privilege};

/// Trapped accesses of one instruction after which it is translated as a call to Rust.
pub(super) const TRAPPED_BEFORE_CALLOUT: u32 = 3;
/// The same for string instructions, which serve many callers and lose more by a call to Rust.
pub(super) const TRAPPED_STRINGS_BEFORE_CALLOUT: u32 = 8;
/// Write bit of the host's page-fault error code.
pub(super) const ERROR_WRITE: u64 = 2;
pub(super) const FOUR_GIB: u64 = 1 << 32;

/// Where in translated code the fault happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) unit: u32,
    /// Host address at which the guest instruction begins.
    pub(super) start: u64,
    pub(super) insn: Instruction,
    /// Guest-physical address of the instruction.
    pub(super) gpa: u32,
    /// That of an inline STI or load of SS right before it, which nothing has ended yet.
    pub(super) shadow: InterruptShadow,
}

impl Engine {
    pub(super) fn fault(&mut self, mmu: &mut Mmu, platform: &mut dyn Platform) -> Step {
        self.stats.host_faults += 1;
        let context = self.cache.context();
        let (site, address) = (context.site, context.fault_address);
        let (error, number) = (context.fault_error, context.fault_vector);
        if self.cache.stub_range().contains(&site) {
            return self.shortcut_fault(mmu);
        }
        let Some(at) = self.fault_site(site) else {
            return internal(&format!(
                "host fault {number} at {address:#x} outside of any unit ({site:#x})"
            ));
        };
        self.set_eip(at.insn.ip32());
        if self.profiler.is_some() {
            self.profile_fault(&at, number as u8, address);
        }
        tracing::trace!(target: "ringshift::fault", "{number} at {address:#x} error {error:x}: {:08x} {}", at.insn.ip32(), at.insn);
        match number as u8 {
            vector::PF => self.page_fault(at, address, error & ERROR_WRITE != 0, mmu, platform),
            vector::GP | vector::SS => self.protection_fault(at, mmu, platform),
            vector::MF => self.fpu_error(mmu, platform),
            // The guest's AC flag never reaches the host: this is the host's own check for locked
            // accesses that cross a cache line. Rust hands out a buffer for those.
            vector::AC => self.replay(at),
            exception @ (vector::DE | vector::UD | vector::XM) => {
                self.single_steps += 1;
                // SDM vol. 3A, section 6.15, "Interrupt 19".
                let unknown = exception == vector::XM && self.state().cr4 & cr4::OSXMMEXCPT == 0;
                let number = if unknown { vector::UD } else { exception };
                self.raise(mmu, platform, Exception::fault(number))
            }
            vector::DB => internal(&format!(
                "the host steps by itself, at EIP {:#x}: its flags are wrong (is it emulated?)",
                at.insn.ip32()
            )),
            other => internal(&format!(
                "host exception {other} in translated code, at EIP {:#x}",
                at.insn.ip32()
            )),
        }
    }

    pub(super) fn fault_site(&self, site: u64) -> Option<At> {
        let unit_index = self.units.at_host(site)?;
        let unit = self.units.get(unit_index)?;
        let map = unit.instruction_at(site)?;
        Some(At {
            unit: unit_index,
            start: unit.host + u64::from(map.host),
            insn: map.guest,
            gpa: unit
                .key
                .gpa
                .wrapping_add(map.guest.ip32().wrapping_sub(unit.key.eip)),
            shadow: unit.shadow_at(site),
        })
    }

    fn page_fault(
        &mut self,
        at: At,
        address: u64,
        write: bool,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Step {
        if address == self.cache.fpu_missing() {
            return self.fpu_missing(at, mmu, platform);
        }
        if self.cache.poll_range().contains(&address) {
            return Step::Boundary;
        }
        if self.cache.limit_range().contains(&address) {
            return self.replay(at);
        }
        if let Some(linear) = self.stores.trapped(address) {
            if self.refresh_alias(linear, mmu) {
                return self.hidden(at);
            }
            return self.trapped(at);
        }
        let privilege = self.privilege();
        let access = if write {
            Access::write(privilege)
        } else {
            Access::read(privilege)
        };
        let Some(base) = self.view.map(|view| view.base) else {
            return internal("a fault without a window");
        };
        let offset = address.wrapping_sub(base);
        if offset < FOUR_GIB {
            let outcome = mmu.handle_fault(offset as u32, access);
            if write
                && let FaultOutcome::Trapped(resolved) = outcome
                && let Some(step) = self.store_beside_code(at, offset as u32, resolved, mmu)
            {
                return step;
            }
            return self.resolve(at, outcome, mmu, platform);
        }
        if privilege == Privilege::Supervisor {
            let user = mmu.clean_view(Privilege::User).base;
            let offset = address.wrapping_sub(user);
            if user != base && offset < FOUR_GIB {
                // An access through the user window: the page is there afterwards if it is a user page.
                return match mmu.handle_fault(offset as u32, access) {
                    FaultOutcome::UserPage => self.filled(at),
                    FaultOutcome::Filled => self.replay(at),
                    outcome => self.resolve(at, outcome, mmu, platform),
                };
            }
        }
        // A guard region: the address wraps around at 4 GiB.
        if self.units.hint(at.gpa) == AccessHint::None && !self.mode.is_slow() {
            self.learn(at, AccessHint::Wrapped)
        } else {
            self.replay(at)
        }
    }

    fn resolve(
        &mut self,
        at: At,
        outcome: FaultOutcome,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Step {
        tracing::trace!(target: "ringshift::fault", "{outcome:x?}");
        if let Some(profiler) = &mut self.profiler {
            profiler.outcome(&outcome);
        }
        match outcome {
            FaultOutcome::Filled => self.filled(at),
            FaultOutcome::UserPage => self.learn(at, AccessHint::UserWindow),
            FaultOutcome::Trapped(_) => self.trapped(at),
            FaultOutcome::PageFault(fault) => {
                self.expect_faults(at);
                self.single_steps += 1;
                self.raise(mmu, platform, fault.into())
            }
        }
    }

    /// The window has been filled for an access of translated code.
    fn filled(&mut self, at: At) -> Step {
        let step = self.hidden(at);
        if self.expect_faults(at) {
            self.again(at)
        } else {
            step
        }
    }

    /// An access met a page that is absent, from the guest's tables or from the window. Where that happens again
    /// and again, Rust walks the guest's tables for the access, and needs no host fault. True if the instruction has
    /// been given up for that.
    fn expect_faults(&mut self, at: At) -> bool {
        let own_form = matches!(
            self.units.hint(at.gpa),
            AccessHint::None | AccessHint::Wrapped | AccessHint::UserWindow
        );
        // The instruction alone, or its access alone? String instructions do much without a fault.
        let whole = at.insn.is_string_instruction() || callout_kind(&at.insn).is_some();
        let segment = at.insn.op_count() > 0
            && at.insn.op0_kind() == OpKind::Register
            && at.insn.op0_register().is_segment_register();
        if self.mode.is_single() || !own_form || whole || segment || !self.units.count_fault(at.gpa)
        {
            return false;
        }
        self.units.set_hint(at.gpa, AccessHint::Callout);
        self.stats.hints += 1;
        self.discard(at.unit);
        self.discard_copies(at.gpa);
        true
    }

    /// An access to a page that cannot be mapped for it.
    fn trapped(&mut self, at: At) -> Step {
        self.stats.trapped_accesses += 1;
        let enough = if at.insn.is_string_instruction() {
            TRAPPED_STRINGS_BEFORE_CALLOUT
        } else {
            TRAPPED_BEFORE_CALLOUT
        };
        if self.units.count_trapped(at.gpa) > enough
            && self.units.hint(at.gpa) != AccessHint::Callout
        {
            self.learn(at, AccessHint::Callout)
        } else {
            self.replay(at)
        }
    }

    /// The window has been filled: the instruction starts again.
    pub(super) fn hidden(&mut self, at: At) -> Step {
        self.stats.hidden_faults += 1;
        Step::Resume(at.start)
    }

    /// Translates the instruction anew in another form.
    pub(super) fn learn(&mut self, at: At, hint: AccessHint) -> Step {
        if !self.units.set_hint(at.gpa, hint) || self.mode.is_slow() {
            // Translated so already, and it did not help.
            return self.replay(at);
        }
        self.stats.hints += 1;
        self.discard(at.unit);
        self.discard_copies(at.gpa);
        self.again(at)
    }

    /// Runs the instruction alone, with all accesses carried out by Rust, which finds out.
    pub(super) fn replay(&mut self, at: At) -> Step {
        if self.mode.is_slow() {
            return Step::Leave(Exit::Internal(format!(
                "an instruction without accesses of its own faults at EIP {:#x}: {}",
                at.insn.ip32(),
                at.insn
            )));
        }
        self.slow_next = true;
        self.again(at)
    }

    /// The instruction will start again at an instruction boundary, where it still is in the interrupt
    /// shadow that it was in.
    fn again(&mut self, at: At) -> Step {
        if at.shadow != InterruptShadow::None {
            self.cache.context_mut().cpu.interrupt_shadow = at.shadow;
        }
        Step::Boundary
    }

    /// #GP of the host: a segment base that cannot be used, a misaligned SSE operand, or regions
    /// that are out of date.
    fn protection_fault(&mut self, at: At, mmu: &mut Mmu, platform: &mut dyn Platform) -> Step {
        if self.mode.is_slow() {
            self.single_steps += 1;
            return self.raise(mmu, platform, Exception::general_protection());
        }
        if self.units.hint(at.gpa) == AccessHint::UserWindow && !self.regions_usable() {
            self.refresh_regions(mmu);
            return self.hidden(at);
        }
        // FS or GS with a limit, and with rights that an inline check cannot know: one step each.
        let next = match self.units.hint(at.gpa) {
            AccessHint::None | AccessHint::Wrapped => AccessHint::Checked,
            AccessHint::Checked => AccessHint::Callout,
            other => other,
        };
        if self.units.count_trapped(at.gpa) > TRAPPED_BEFORE_CALLOUT {
            self.learn(at, next)
        } else {
            self.replay(at)
        }
    }
}

//! The Rust side of [shortcuts](super::shortcut): what they need in the context, and what follows when
//! translated code comes back at another privilege than it was entered with.

use super::engine::{Engine, Step};
use super::exits::internal;
use super::faults::{ERROR_WRITE, FOUR_GIB, TRAPPED_BEFORE_CALLOUT};
use super::locate::CodeSpace;
use super::shortcut::{Destination, PARAGRAPHS, Paragraph, WAYS, paragraph};
use crate::codegen::AccessHint;
use crate::codegen::mode::Mode;
use crate::state::{cr4, eflags, reg, seg};
use crate::system::cpuid::feature;
use crate::system::debug::Armed;
use crate::system::vector;
use shadow_mmu::{Access, FaultOutcome, Mmu, Privilege, View};

/// How code of one privilege was last run: where a shortcut may take the guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    mode: Mode,
    view: View,
    code_space: CodeSpace,
    /// Entry 0 of the jump table of `code_space`.
    jump_table: u64,
    /// CR4.TSD, on which the mode bits depend in a way of their own.
    tsd: bool,
}

/// Both sides of a change of privilege.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sides {
    user: Option<Side>,
    kernel: Option<Side>,
    /// A code space of real mode: the others that are known differ in the base of CS.
    real: Option<CodeSpace>,
}

/// LAHF and SAHF exist in 64-bit mode (CPUID.80000001H:ECX.LAHF).
pub(super) fn host_has_lahf() -> bool {
    std::arch::x86_64::__cpuid(0x8000_0001).ecx & 1 != 0
}

impl Engine {
    /// Notes how the code is run that the context has been made ready for.
    pub(super) fn note_side(&mut self) {
        let (Some(view), Some(code_space)) = (self.view, self.code_space) else {
            return;
        };
        let cpl = self.state().cpl;
        let Some(table) = self.code_spaces.get(&code_space) else {
            return;
        };
        if self.mode.is_real() {
            let jump_table = table.address();
            self.note_paragraph(code_space, jump_table);
            return;
        }
        if !self.mode.is_flat() || !matches!(cpl, 0 | 3) {
            return;
        }
        let side = Some(Side {
            mode: self.mode,
            view,
            code_space,
            jump_table: table.address(),
            tsd: self.state().cr4 & cr4::TSD != 0,
        });
        if cpl == 3 {
            self.sides.user = side;
        } else {
            self.sides.kernel = side;
        }
    }

    /// A space or a jump table has gone, or may have.
    pub(super) fn forget_sides(&mut self) {
        self.sides = Sides::default();
        self.cache.context_mut().shortcuts.paragraphs = [[Paragraph::default(); WAYS]; PARAGRAPHS];
    }

    /// Notes the jump table of a code segment of real mode.
    fn note_paragraph(&mut self, code_space: CodeSpace, jump_table: u64) {
        let same = self.sides.real.is_some_and(|real| {
            CodeSpace {
                code_base: real.code_base,
                ..code_space
            } == real
        });
        if !same {
            self.forget_sides();
            self.sides.real = Some(code_space);
        }
        let context = self.cache.context_mut();
        let cs = context.cpu.seg[seg::CS];
        // Another load then changes selector and base, and nothing else.
        if context.cpu.is_paragraph(&cs) && cs.base == u32::from(cs.selector) << 4 {
            let place = paragraph(cs.selector);
            let known = Paragraph {
                selector: u64::from(cs.selector) + 1,
                jump_table,
            };
            if let Some([first, second]) = context.shortcuts.paragraphs.get_mut(place) {
                if first.selector != known.selector {
                    *second = *first;
                }
                *first = known;
            }
        } else {
            self.forget_sides();
        }
    }

    /// Where a shortcut may take the guest at privilege `p` without a look from Rust.
    fn destination(&self, mmu: &Mmu, p: Privilege) -> Destination {
        let (side, cpl) = match p {
            Privilege::User => (self.sides.user, 3),
            Privilege::Supervisor => (self.sides.kernel, 0),
        };
        side.filter(|side| {
            side.mode.flat_at(cpl) == self.mode.flat_at(cpl)
                && side.tsd == (self.state().cr4 & cr4::TSD != 0)
                && mmu.standing_view(p) == Some(side.view)
        })
        .map_or(Destination::default(), |side| Destination {
            window: side.view.base,
            jump_table: side.jump_table,
            store_table: self.stores.address(side.view.space),
        })
    }

    /// Before translated code is entered: tells the shortcuts what they may do.
    pub(super) fn arrange_shortcuts(&mut self, mmu: &Mmu, pending: bool) {
        let real = self.mode.is_real();
        if !self.mode.is_flat() && !real {
            return; // there are none in such code, nor in what it leads to
        }
        // The decision is Rust's where it can come out differently; so is a log of every unit.
        let free = self.shortcuts && !self.stop_to_decide && !self.logging;
        let (user, kernel) = if free && !real {
            (
                self.destination(mmu, Privilege::User),
                self.destination(mmu, Privilege::Supervisor),
            )
        } else {
            Default::default()
        };
        let iret = self.armed == Armed::default();
        let sysenter = self.model.has(feature::SEP);
        let empty_table = self.empty_table.address();
        let context = self.cache.context_mut();
        let cpu = &context.cpu;
        let shortcuts = &mut context.shortcuts;
        shortcuts.user = user;
        shortcuts.kernel = kernel;
        shortcuts.empty_table = empty_table;
        shortcuts.pending = u32::from(pending);
        shortcuts.iret = u32::from(iret && !cpu.nmi_blocked && !cpu.nmi_pending);
        shortcuts.sysenter = if sysenter {
            cpu.msrs.sysenter_cs & 0xFFFC
        } else {
            0
        };
    }

    /// Translated code has been left: follows the changes of privilege that shortcuts have made.
    pub(super) fn follow_crossing(&mut self, mmu: &mut Mmu) {
        let shortcuts = &mut self.cache.context_mut().shortcuts;
        let crossed = std::mem::take(&mut shortcuts.crossed);
        if std::mem::take(&mut shortcuts.far) != 0 {
            let code_base = self.state().seg[seg::CS].base;
            self.code_space = self
                .code_space
                .map(|space| CodeSpace { code_base, ..space });
            return;
        }
        let count = std::mem::take(&mut shortcuts.count);
        self.stats.crossings += count;
        let (side, privilege) = match crossed {
            0 => return,
            1 => (self.sides.kernel, Privilege::Supervisor),
            _ => (self.sides.user, Privilege::User),
        };
        let Some(side) = side else {
            tracing::error!("a shortcut to nowhere");
            return;
        };
        self.mode = side.mode;
        self.view = Some(side.view);
        self.code_space = Some(side.code_space);
        mmu.set_privilege(privilege);
    }

    /// A fault in a shortcut: takes back what it has done with RAX and the flags.
    pub(super) fn unwind_shortcut(&mut self) {
        let context = self.cache.context_mut();
        let image = context.shortcuts.flags;
        let status =
            image >> 8 & (eflags::STATUS & 0xFF) | if image & 1 != 0 { eflags::OF } else { 0 };
        context.flags = context.flags & !u64::from(eflags::STATUS) | u64::from(status);
        context.cpu.gpr[reg::EAX] = context.shortcuts.rax as u32;
    }

    /// A shortcut met what the window does not hold: fills it, or leaves the instruction to Rust.
    pub(super) fn shortcut_fault(&mut self, mmu: &mut Mmu) -> Step {
        let context = self.cache.context();
        let (address, number) = (context.fault_address, context.fault_vector);
        let write = context.fault_error & ERROR_WRITE != 0;
        let Some(at) = self.fault_site(context.shortcuts.site.wrapping_sub(1)) else {
            return internal("a fault in a shortcut from nowhere");
        };
        self.set_eip(at.insn.ip32());
        tracing::trace!(target: "ringshift::fault", "{number} at {address:#x} in a shortcut: {:08x} {}", at.insn.ip32(), at.insn);
        let base = mmu.clean_view(Privilege::Supervisor).base;
        let offset = address.wrapping_sub(base);
        if number as u8 == vector::PF && offset < FOUR_GIB {
            let access = if write {
                Access::write(Privilege::Supervisor)
            } else {
                Access::read(Privilege::Supervisor)
            };
            if mmu.handle_fault(offset as u32, access) == FaultOutcome::Filled {
                return self.hidden(at);
            }
        }
        if self.units.count_trapped(at.gpa) > TRAPPED_BEFORE_CALLOUT {
            self.learn(at, AccessHint::Callout)
        } else {
            self.replay(at)
        }
    }
}

//! The ways out of a unit: links inside the page, the jump table, exits behind the main line.

use super::asm::{Asm, Mem, host};
use super::builder::Builder;
use super::{Site, SiteKind, layout};

/// Code that goes on at `target` through the jump table; links to instructions that cross a page
/// lead here.
pub(crate) fn table_jump(asm: &mut Asm, origin: u64, target: u32) -> Vec<u8> {
    asm.start(origin, Vec::with_capacity(32));
    asm.mov_imm32(host::R8, target);
    jump_by_table(asm, layout::jump_table());
    asm.finish()
}

/// Jumps to the EIP in R8 through the jump table that `table` points to.
fn jump_by_table(asm: &mut Asm, table: Mem) {
    load_entry(asm, table);
    jump_by_entry(asm);
}

/// The entry for the EIP in R8 of the jump table that `table` points to, to R9.
pub(super) fn load_entry(asm: &mut Asm, table: Mem) {
    asm.load64(host::R9, table);
    asm.load32(
        host::R9,
        Mem {
            base: Some(host::R9),
            index: Some((host::R8, 4)),
            disp: 0,
            gs32: false,
        },
    );
}

/// Jumps to the unit whose entry in the jump table is in R9; the EIP is in R8.
pub(super) fn jump_by_entry(asm: &mut Asm) {
    asm.lea64(
        host::R9,
        Mem::sum(host::CONTEXT, host::R9, layout::CODE_OFFSET as i32),
    );
    asm.jmp_reg(host::R9);
}

/// Jump out of the unit's main line, emitted behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exit {
    /// Offset of the rel32 that reaches the exit.
    patch: usize,
    target: u32,
    instruction: usize,
    /// The jump goes backwards: look for a kick.
    polls: bool,
}

impl Builder<'_> {
    /// Passes control to `target`: linked directly inside the page, through the jump table across.
    pub(super) fn pass_to(&mut self, target: u32) {
        if self.t.mode.is_single() {
            self.step_end(Some(target));
            return;
        }
        if let Some(address) = self.loop_target(target) {
            self.asm.jmp(address);
        } else if self.in_this_page(target) && !self.after_sti {
            self.count(self.instructions.len());
            let here = self.asm.address() + 5;
            let patch = self.asm.jmp(here);
            self.link_stub(patch, target);
        } else {
            self.pass_through_table(target);
        }
    }

    /// Passes control to `target` through the jump table: for instructions that cross into the
    /// next page, and so depend on where that is.
    pub(super) fn pass_through_table(&mut self, target: u32) {
        self.asm.mov_imm32(host::R8, target);
        self.jump_through_table();
    }

    fn link_stub(&mut self, patch: usize, target: u32) {
        let stub = self.t.stubs.link;
        self.asm.call(stub);
        self.site(SiteKind::Link {
            target,
            patch: patch as u32,
        });
    }

    /// Jumps to the EIP in R8 through the jump table; a kick replaces the table.
    pub(super) fn jump_through_table(&mut self) {
        self.count(self.instructions.len());
        self.jump_uncounted();
    }

    fn jump_uncounted(&mut self) {
        if self.t.mode.is_single() {
            let stub = self.t.stubs.stepped_to;
            self.asm.jmp(stub);
            return;
        }
        let table = if self.after_sti {
            layout::sti_jump_table()
        } else {
            layout::jump_table()
        };
        jump_by_table(self.asm, table);
    }

    /// A conditional jump out of the main line to `target`.
    pub(super) fn exit_if(&mut self, condition: u8, target: u32) {
        if let Some(address) = self.loop_target(target) {
            self.asm.jcc(condition, address);
            return;
        }
        let patch = self.asm.jcc(condition, 0);
        self.add_exit(patch, target);
    }

    /// A jump out of the main line to `target`, in all cases.
    pub(super) fn exit_always(&mut self, target: u32) {
        if let Some(address) = self.loop_target(target) {
            self.asm.jmp(address);
            return;
        }
        let patch = self.asm.jmp(0);
        self.add_exit(patch, target);
    }

    /// A jump out of the main line to `target`, whose rel32 is at `patch`.
    fn add_exit(&mut self, patch: usize, target: u32) {
        let instruction = self.instructions.len() - 1;
        self.exits.push(Exit {
            patch,
            target,
            instruction,
            polls: self.is_backward(target) && self.in_this_page(target),
        });
    }

    /// Adds `executed` to the counter of instructions, where they are counted. Uses R9.
    fn count(&mut self, executed: usize) {
        if self.t.count {
            let counter = layout::instructions();
            self.asm.load64(host::R9, counter);
            self.asm
                .lea64(host::R9, Mem::base(host::R9, executed as i32));
            self.asm.store(8, counter, host::R9);
        }
    }

    /// Adds all instructions of the unit so far.
    pub(super) fn count_all(&mut self) {
        self.count(self.instructions.len());
    }

    pub(super) fn step_end(&mut self, target: Option<u32>) {
        self.count(1);
        match target {
            Some(target) => {
                self.asm.mov_imm32(host::R8, target);
                let stub = self.t.stubs.stepped_to;
                self.asm.jmp(stub);
            }
            None => {
                let stub = self.t.stubs.stepped;
                self.asm.jmp(stub);
            }
        }
    }

    pub(super) fn emit_exits(&mut self) {
        let exits = std::mem::take(&mut self.exits);
        let mut patches = Vec::with_capacity(exits.len());
        for exit in exits {
            patches.push((exit.patch, self.asm.offset()));
            if self.t.mode.is_single() {
                self.step_end(Some(exit.target));
                continue;
            }
            if exit.polls {
                self.map_boundary(exit.target);
                self.poll();
            }
            self.count(exit.instruction + 1);
            if self.in_this_page(exit.target) {
                let stub = self.t.stubs.link;
                let field = self.asm.call(stub);
                // What polls or counts must not be jumped over: then the call itself becomes the link.
                let patch = if exit.polls || self.t.count {
                    field
                } else {
                    exit.patch
                };
                let kind = SiteKind::Link {
                    target: exit.target,
                    patch: patch as u32,
                };
                self.sites.push(Site {
                    host: self.asm.offset() as u32,
                    instruction: exit.instruction as u32,
                    kind,
                });
            } else {
                self.asm.mov_imm32(host::R8, exit.target);
                self.jump_uncounted();
            }
        }
        self.asm.patch_rel32(&patches);
    }
}

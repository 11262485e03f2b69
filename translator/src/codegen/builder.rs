//! The builder of a unit: decodes guest instructions and hands each to its emitter.

use super::asm::{Asm, Mem, Reg, host};
use super::features::{DECODER_OPTIONS, is_undefined_start, needs_osfxsr, strip_prefixes};
use super::leave::Exit;
use super::length::exceeds_limit;
use super::loops::Loops;
use super::mode::Mode;
use super::{AccessHint, CalloutKind, InstructionMap, JumpForm, Site, SiteKind, Thunk, layout};
use crate::state::reg;
use iced_x86::{Decoder, Instruction, Mnemonic, OpKind, Register};

/// Host addresses of the stubs that units call and jump to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stubs {
    pub(crate) callout: u64,
    pub(crate) link: u64,
    pub(crate) dead: u64,
    pub(crate) fault: u64,
    pub(crate) prepare: u64,
    /// As `prepare`, through the lookaside: see `runtime::lookaside`.
    pub(crate) look_up: u64,
    pub(crate) commit: u64,
    /// A bare `ret`.
    pub(crate) nothing: u64,
    pub(crate) stepped: u64,
    pub(crate) stepped_to: u64,
    // Shortcuts: see `runtime::shortcut`. The first is 0 on a host that cannot run them.
    pub(crate) load_segment: u64,
    pub(crate) popfd: u64,
    pub(crate) sysenter: u64,
    pub(crate) sysexit: u64,
    pub(crate) iretd: u64,
    pub(crate) int: u64,
    pub(crate) verw: u64,
    pub(crate) far_real: u64,
    pub(crate) iret_real: u64,
    pub(crate) int_real: u64,
    pub(crate) known_real: u64,
}

/// What the builder asks the runtime about guest code.
pub(crate) trait CodeSource {
    /// The access hint for the instruction at offset `page_offset` of the unit's first page.
    fn hint(&self, page_offset: u32) -> AccessHint;
    /// True when the processor model has the instruction.
    fn supports(&self, insn: &Instruction) -> bool;
    /// How to emit the indirect jump at offset `page_offset` of the unit's first page, if it may be learned.
    fn jump_form(&self, page_offset: u32) -> JumpForm;
    /// The thunk that a call of EIP `target` leads to, if that is known to be one.
    fn thunk(&self, target: u32) -> Option<Thunk>;
    /// True when the host's MXCSR has bits that are reserved in the processor model: Rust looks at what
    /// LDMXCSR and FXRSTOR load.
    fn checks_mxcsr(&self) -> bool;
}

/// The code to translate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Translation<'a> {
    /// Offset of the first instruction in CS.
    pub(crate) eip: u32,
    /// Code bytes from EIP on: to the end of the page, or into the next one when the first
    /// instruction crosses.
    pub(crate) code: &'a [u8],
    /// How many of the bytes belong to the first page.
    pub(crate) in_page: u32,
    /// Offset of EIP in its page.
    pub(crate) page_offset: u32,
    pub(crate) mode: Mode,
    /// Limit of CS.
    pub(crate) code_limit: u32,
    /// Host address where the unit will live.
    pub(crate) origin: u64,
    pub(crate) stubs: &'a Stubs,
    /// Count the instructions that are executed.
    pub(crate) count: bool,
    /// Loops may stay in the unit: nobody wants to see each of its instructions.
    pub(crate) loops: bool,
}

/// A finished unit.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) code: Vec<u8>,
    pub(crate) instructions: Vec<InstructionMap>,
    pub(crate) sites: Vec<Site>,
    /// Guest bytes covered, as offsets from the start of the first page.
    pub(crate) first: u32,
    pub(crate) end: u32,
    /// The first instruction is incomplete: its rest is in the next page, which was not given.
    pub(crate) needs_next_page: bool,
    /// What strict mode stops at.
    pub(crate) untranslated: Option<String>,
}

/// Most instructions in one unit.
const MAX_INSTRUCTIONS: usize = 96;

/// What an emitter leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next instruction follows in the unit.
    Continue,
    /// The unit is over: control has been passed on.
    End,
    /// The unit goes on at another address of the same page.
    Follow(u32),
}

/// An instruction that could not be emitted.
#[derive(Debug)]
pub(super) struct CannotEmit(pub(super) String);

impl From<iced_x86::IcedError> for CannotEmit {
    fn from(error: iced_x86::IcedError) -> Self {
        CannotEmit(error.to_string())
    }
}

pub(super) type Emitted = Result<After, CannotEmit>;

pub(super) struct Builder<'a> {
    pub(super) asm: &'a mut Asm,
    pub(super) t: Translation<'a>,
    pub(super) source: &'a dyn CodeSource,
    pub(super) instructions: Vec<InstructionMap>,
    pub(super) sites: Vec<Site>,
    pub(super) exits: Vec<Exit>,
    /// Hint for the instruction at hand.
    pub(super) hint: AccessHint,
    /// The FPU check has been made in this unit and still holds.
    pub(super) fpu_ready: bool,
    /// The previous instruction was an inline STI: look for interrupts after this one.
    pub(super) after_sti: bool,
    pub(super) loops: Loops,
}

/// Translates one unit.
pub(crate) fn build(
    asm: &mut Asm,
    t: Translation<'_>,
    source: &dyn CodeSource,
    buffer: Vec<u8>,
) -> Built {
    asm.start(t.origin, buffer);
    let mut builder = Builder {
        asm,
        t,
        source,
        instructions: Vec::with_capacity(24),
        sites: Vec::with_capacity(8),
        exits: Vec::with_capacity(4),
        hint: AccessHint::None,
        fpu_ready: false,
        after_sti: false,
        loops: Loops::default(),
    };
    builder.run()
}

impl Builder<'_> {
    fn run(&mut self) -> Built {
        let page_start = self.t.eip.wrapping_sub(self.t.page_offset);
        let (mut first, mut end) = (self.t.page_offset, self.t.page_offset);
        let mut needs_next_page = false;
        let mut untranslated = None;
        let mut eip = self.t.eip;
        let bitness = self.t.mode.bitness();
        let mut decoder = Decoder::with_ip(bitness, self.t.code, u64::from(eip), DECODER_OPTIONS);
        let mut insn = Instruction::default();
        loop {
            decoder.decode_out(&mut insn);
            strip_prefixes(&mut insn);
            let offset = eip.wrapping_sub(page_start);
            let bytes_left = self.t.code.len() as u32 - (offset - self.t.page_offset);
            let crosses =
                insn.len() as u32 > (self.t.page_offset + self.t.in_page).saturating_sub(offset);
            if insn.is_invalid()
                && bytes_left < 15
                && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
                && !is_undefined_start(self.code_at(offset))
            {
                if self.instructions.is_empty() {
                    needs_next_page = self.t.code.len() as u32 == self.t.in_page;
                    if needs_next_page {
                        break;
                    }
                } else {
                    self.pass_through_table(eip);
                    break;
                }
            } else if crosses && !self.instructions.is_empty() {
                self.pass_through_table(eip);
                break;
            }
            first = first.min(offset);
            end = end.max(offset + insn.len() as u32);
            self.instructions.push(InstructionMap {
                host: self.asm.offset() as u32,
                guest: insn,
            });
            self.hint = if self.t.mode.is_slow() || self.t.mode.checks_alignment() {
                AccessHint::Callout
            } else {
                self.source.hint(offset)
            };
            let was_after_sti = self.after_sti;
            self.begin_instruction(&insn);
            let start = self.asm.offset();
            let after = match self.emit(&insn) {
                Ok(after) => after,
                Err(CannotEmit(what)) if self.asm.offset() == start => {
                    untranslated = Some(what);
                    self.callout(CalloutKind::Undefined);
                    After::End
                }
                Err(CannotEmit(what)) => {
                    // Host code was emitted before the encoder refused; it has no effect that the
                    // guest can see, because it only computes into scratch registers.
                    untranslated = Some(what);
                    self.callout(CalloutKind::Undefined);
                    After::End
                }
            };
            if after == After::End {
                break;
            }
            if self.t.mode.is_single() {
                self.step_end(match after {
                    After::Follow(target) => Some(target),
                    _ => None,
                });
                break;
            }
            if let After::Follow(target) = after {
                let seen = self.instructions.iter().any(|i| i.guest.ip32() == target);
                if seen || self.instructions.len() >= MAX_INSTRUCTIONS || !self.in_this_page(target)
                {
                    self.pass_to(target);
                    break;
                }
                let target_offset = target.wrapping_sub(page_start);
                let Some(position) = target_offset.checked_sub(self.t.page_offset) else {
                    self.pass_to(target);
                    break;
                };
                if decoder.set_position(position as usize).is_err()
                    || position as usize >= self.t.code.len()
                {
                    self.pass_to(target);
                    break;
                }
                decoder.set_ip(u64::from(target));
                eip = target;
                continue;
            }
            eip = insn.next_ip32();
            if was_after_sti && self.after_sti {
                self.after_sti = false;
                // The interrupt shadow of STI ends here.
                self.map_boundary(eip);
                self.asm.load64(host::R8, layout::sti_poll());
                self.asm.load32(host::R8, Mem::base(host::R8, 0));
            }
            if crosses
                || self.instructions.len() >= MAX_INSTRUCTIONS
                || !self.can_decode_at(eip, page_start)
            {
                self.pass_to(eip);
                break;
            }
        }
        self.emit_exits();
        while self.asm.offset() < 5 {
            self.asm.byte(0x90);
        }
        Built {
            code: self.asm.finish(),
            instructions: std::mem::take(&mut self.instructions),
            sites: std::mem::take(&mut self.sites),
            first,
            end,
            needs_next_page,
            untranslated,
        }
    }

    /// The code from an offset in the page on, as far as it is given.
    pub(super) fn code_at(&self, offset: u32) -> &[u8] {
        let start = offset.wrapping_sub(self.t.page_offset) as usize;
        self.t.code.get(start..).unwrap_or_default()
    }

    fn can_decode_at(&self, eip: u32, page_start: u32) -> bool {
        eip.wrapping_sub(page_start) < self.t.page_offset + self.t.in_page
    }

    /// True when `eip` lies in the page of the unit.
    pub(super) fn in_this_page(&self, eip: u32) -> bool {
        let page_start = self.t.eip.wrapping_sub(self.t.page_offset);
        eip.wrapping_sub(page_start) < 4096
    }

    /// Maps host code from here on to a boundary in front of the instruction at `eip`, which is
    /// not part of the unit: a fault here has the complete state of that boundary.
    pub(super) fn map_boundary(&mut self, eip: u32) {
        let mut guest = Instruction::default();
        guest.set_ip(u64::from(eip));
        self.instructions.push(InstructionMap {
            host: self.asm.offset() as u32,
            guest,
        });
    }

    fn emit(&mut self, insn: &Instruction) -> Emitted {
        let last = insn.ip32().wrapping_add(insn.len() as u32 - 1);
        if last > self.t.code_limit || (last < insn.ip32() && self.t.code_limit != u32::MAX) {
            return Ok(self.callout_end(CalloutKind::CodeLimit));
        }
        if insn.is_invalid() && self.is_too_long(insn) {
            return Ok(self.callout_end(CalloutKind::CodeLimit));
        }
        let missing =
            !self.source.supports(insn) || (!self.t.mode.xmm_enabled() && needs_osfxsr(insn));
        if insn.is_invalid() || missing {
            return Ok(self.callout_end(CalloutKind::Undefined));
        }
        if let Some(after) = self.emit_control(insn)? {
            return Ok(after);
        }
        if let Some(after) = self.emit_stack(insn)? {
            return Ok(after);
        }
        if let Some(after) = self.emit_system(insn)? {
            self.loop_barrier();
            return Ok(after);
        }
        if insn.is_string_instruction() {
            return self.emit_string(insn);
        }
        if let Some(after) = self.emit_bcd(insn)? {
            return Ok(after);
        }
        self.emit_fpu_check(insn);
        self.emit_identity(insn)
    }

    fn is_too_long(&self, insn: &Instruction) -> bool {
        let offset = insn.ip32().wrapping_sub(self.t.eip) as usize;
        let code = self.t.code.get(offset..).unwrap_or_default();
        exceeds_limit(code, self.t.mode.bitness(), DECODER_OPTIONS)
    }

    /// Records a place where the code just emitted calls Rust.
    pub(super) fn site(&mut self, kind: SiteKind) {
        let instruction = self.instructions.len().saturating_sub(1) as u32;
        self.sites.push(Site {
            host: self.asm.offset() as u32,
            instruction,
            kind,
        });
    }

    /// Carries out the whole instruction in Rust; the unit may go on behind it.
    pub(super) fn callout(&mut self, kind: CalloutKind) -> After {
        let stub = self.t.stubs.callout;
        self.loop_barrier();
        self.asm.call(stub);
        self.site(SiteKind::Callout(kind));
        After::Continue
    }

    /// Like [`Builder::callout`], for an instruction after which the unit is over.
    pub(super) fn callout_end(&mut self, kind: CalloutKind) -> After {
        self.count_all();
        self.callout(kind);
        After::End
    }

    /// The host register that holds guest register `number` (encoding order).
    pub(super) fn guest(number: usize) -> Reg {
        if number == reg::ESP {
            host::STACK
        } else {
            Reg(number as u8)
        }
    }

    pub(super) fn guest_of(register: Register) -> Reg {
        Self::guest(register.number())
    }

    /// Restores R12 after its low half was written as ESP.
    pub(super) fn rebase_stack(&mut self) {
        if self.t.mode.stack_in_window() {
            self.asm
                .lea64(host::STACK, Mem::sum(host::STACK, host::WINDOW, 0));
        }
    }

    /// The instruction behind `insn`, if it is in the unit's first page.
    fn next_in_page(&self, insn: &Instruction) -> Option<Instruction> {
        let offset = insn.next_ip32().wrapping_sub(self.t.eip) as usize;
        let rest = self.t.code.get(offset..).filter(|rest| !rest.is_empty())?;
        let mut decoder = Decoder::new(self.t.mode.bitness(), rest, DECODER_OPTIONS);
        let next = decoder.decode();
        let crosses = self.t.page_offset as usize + offset + next.len()
            > (self.t.page_offset + self.t.in_page) as usize;
        (!next.is_invalid() && !crosses).then_some(next)
    }

    /// `next` is carried out by a unit that then goes on behind it.
    fn goes_on_behind(next: &Instruction) -> bool {
        next.flow_control() == iced_x86::FlowControl::Next
            && super::system::callout_kind(next).is_none()
            && !matches!(next.mnemonic(), Mnemonic::Sti | Mnemonic::Cli)
    }

    /// True when STI cannot be inline because of the instruction behind it, which its interrupt
    /// shadow covers: there must be a place to look for interrupts behind that one.
    pub(super) fn shadow_needs_callout(&self, insn: &Instruction) -> bool {
        self.next_in_page(insn).is_none_or(|next| {
            let near = next.mnemonic() == Mnemonic::Ret
                || next.is_jmp_short_or_near()
                || next.is_call_near();
            !near && !self.returns_by_shortcut(&next) && !Self::goes_on_behind(&next)
        })
    }

    /// True when the instruction behind `insn`, a load of SS that is not in a shadow itself, is in the same unit
    /// and sets the stack pointer, so that nobody looks for interrupts between the two.
    pub(super) fn shadow_is_in_line(&self, insn: &Instruction) -> bool {
        !self.after_sti
            && self.instructions.len() < MAX_INSTRUCTIONS
            && self.next_in_page(insn).is_some_and(|next| {
                matches!(next.mnemonic(), Mnemonic::Mov | Mnemonic::Lea)
                    && next.op0_kind() == OpKind::Register
                    && Self::is_stack_pointer(next.op0_register())
                    && Self::goes_on_behind(&next)
            })
    }
}

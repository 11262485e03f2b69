//! Loads of segment registers, and the instructions that ask about descriptors.

use super::descriptor::{Descriptor, Entry, is_local, is_null, rpl, system_type};
use super::event::{Exception, vector};
use super::operand::segment_index;
use super::stack::Frame;
use super::{Flow, System, decimal};
use crate::state::{CpuState, InterruptShadow, Rights, Segment, eflags, seg};
use iced_x86::{Code, Instruction, OpKind, Register};

/// Rights of a data segment of real mode.
const REAL_RIGHTS: Rights = Rights::from_bits_retain(0x93);
/// Rights of any segment of virtual-8086 mode.
const V86_RIGHTS: Rights = Rights::from_bits_retain(0xF3);

impl Segment {
    /// What virtual-8086 mode loads for a selector (Intel SDM vol. 3B, section 20.2.1).
    pub(super) const fn virtual_8086(selector: u16) -> Segment {
        Segment {
            rights: V86_RIGHTS,
            ..Segment::real(selector)
        }
    }

    /// What a null selector leaves behind.
    pub(super) const fn null(selector: u16) -> Segment {
        Segment {
            selector,
            base: 0,
            limit: 0,
            rights: Rights::UNUSABLE,
        }
    }
}

/// What real mode keeps of a segment's rights when it loads the register.
const REAL_KEEPS: Rights = Rights::BIG.union(Rights::GRANULARITY).union(Rights::AVL);

impl CpuState {
    /// In real mode or virtual-8086 mode: a load of a data segment register that holds `segment` changes
    /// nothing but its selector and its base.
    pub(crate) fn is_paragraph(&self, segment: &Segment) -> bool {
        if self.virtual_8086() {
            segment.rights == V86_RIGHTS && segment.limit == 0xFFFF
        } else {
            segment.rights.difference(REAL_KEEPS) == REAL_RIGHTS
        }
    }
}

impl System<'_> {
    /// Loads a segment register other than CS as MOV does, in any mode. Does not set the interrupt
    /// shadow of a load of SS.
    ///
    /// # Errors
    /// #GP, #NP, #SS (Intel SDM vol. 2B, "MOV"), #PF on the descriptor table.
    pub fn load_segment(&mut self, index: usize, selector: u16) -> Result<(), Exception> {
        if self.cpu.real_or_v86() {
            self.load_paragraph(index, selector);
            return Ok(());
        }
        let segment = if index == seg::SS {
            let entry = self.stack_segment(selector, self.cpu.cpl, vector::GP)?;
            self.mark_accessed(&entry)?;
            entry.segment()
        } else if is_null(selector) {
            Segment::null(selector)
        } else {
            let entry = self.data_segment(selector, vector::GP)?;
            self.mark_accessed(&entry)?;
            entry.segment()
        };
        if let Some(register) = self.cpu.seg.get_mut(index) {
            *register = segment;
        }
        Ok(())
    }

    /// Loads a segment register from a paragraph number. Real mode keeps limit and size, which is
    /// what "unreal mode" rests on.
    pub(super) fn load_paragraph(&mut self, index: usize, selector: u16) {
        let v86 = self.cpu.virtual_8086();
        let Some(register) = self.cpu.seg.get_mut(index) else {
            return;
        };
        let old = *register;
        *register = if v86 {
            Segment::virtual_8086(selector)
        } else {
            Segment::real(selector)
        };
        let expand_down =
            old.rights.contains(Rights::DOWN_CONFORMING) && !old.rights.contains(Rights::CODE);
        if !v86 && !old.rights.contains(Rights::UNUSABLE) && !expand_down {
            register.limit = old.limit;
            register.rights = REAL_RIGHTS | (old.rights & REAL_KEEPS);
        }
    }

    /// Checks a selector for SS at privilege `cpl`. `fault` is #GP, or #TS in a task switch; a null
    /// selector and one for the wrong privilege raise it, a segment that is not present #SS.
    pub(super) fn stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        fault: u8,
    ) -> Result<Entry, Exception> {
        if is_null(selector) {
            return Err(Exception::selector(fault, selector));
        }
        let entry = self.require_descriptor(selector, fault)?;
        let descriptor = entry.descriptor;
        if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(entry.fault(fault));
        }
        if !descriptor.is_present() {
            return Err(entry.fault(vector::SS));
        }
        Ok(entry)
    }

    /// Checks a selector that is not null for DS, ES, FS or GS. `fault` is #GP, or #TS in a task
    /// switch.
    pub(super) fn data_segment(&mut self, selector: u16, fault: u8) -> Result<Entry, Exception> {
        let entry = self.require_descriptor(selector, fault)?;
        if !entry
            .descriptor
            .data_load_allowed(self.cpu.cpl, rpl(selector))
        {
            return Err(entry.fault(fault));
        }
        entry.require_present()?;
        Ok(entry)
    }

    /// After a return to an outer level: segment registers that the new level may not use become
    /// null (Intel SDM vol. 3A, section 5.8.6).
    pub(super) fn drop_inner_segments(&mut self) {
        let cpl = self.cpu.cpl;
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let register = &mut self.cpu.seg[index];
            let rights = register.rights;
            let conforming = rights.contains(Rights::CODE | Rights::DOWN_CONFORMING);
            if !conforming && cpl > rights.dpl() && !rights.contains(Rights::UNUSABLE) {
                *register = Segment::null(0);
            }
        }
    }

    /// True when the hidden part of segment register `index` is what its selector would load from
    /// the descriptor table now, at the current privilege level, so that it could be saved and
    /// loaded again (a *reversible* segment). Nothing is changed, accessed bits included; the
    /// accessed bit of the descriptor does not matter.
    pub fn reversible(&mut self, index: usize) -> bool {
        let Some(&register) = self.cpu.seg.get(index) else {
            return false;
        };
        let selector = register.selector;
        if self.cpu.real_or_v86() {
            let expected = if self.cpu.virtual_8086() {
                Segment::virtual_8086(selector)
            } else {
                Segment::real(selector)
            };
            return register == expected;
        }
        if is_null(selector) {
            return register.rights.contains(Rights::UNUSABLE)
                && index != seg::CS
                && index != seg::SS;
        }
        self.peek_descriptor(selector)
            .is_some_and(|descriptor| self.matches_table(index, descriptor))
    }

    /// The segment registers that are not [reversible](System::reversible), as a mask: bit 0 is ES,
    /// as in [`seg`]. Cheaper than six questions, as registers often share a selector.
    pub fn irreversible(&mut self) -> u8 {
        let mut mask = 0;
        let mut last: Option<(u16, Option<Descriptor>)> = None;
        for index in seg::ES..=seg::GS {
            let register = self.cpu.seg[index];
            let selector = register.selector;
            let reversible = if self.cpu.real_or_v86() || is_null(selector) {
                self.reversible(index)
            } else {
                let descriptor = match last {
                    Some((known, descriptor)) if known | 3 == selector | 3 => descriptor,
                    _ => self.peek_descriptor(selector),
                };
                last = Some((selector, descriptor));
                descriptor.is_some_and(|descriptor| self.matches_table(index, descriptor))
            };
            if !reversible {
                mask |= 1 << index;
            }
        }
        mask
    }

    /// A register holds what loading its selector, which names `descriptor`, would leave in it.
    fn matches_table(&self, index: usize, descriptor: Descriptor) -> bool {
        let register = self.cpu.seg[index];
        let selector = register.selector;
        let cpl = self.cpu.cpl;
        let loadable = match index {
            seg::CS => {
                rpl(selector) == cpl
                    && descriptor.is_code()
                    && (descriptor.dpl() == cpl
                        || descriptor.is_conforming() && descriptor.dpl() < cpl)
            }
            seg::SS => {
                rpl(selector) == cpl && descriptor.dpl() == cpl && descriptor.is_writable_data()
            }
            _ => descriptor.data_load_allowed(cpl, rpl(selector)),
        };
        let fresh = descriptor.segment(selector);
        loadable
            && descriptor.is_present()
            && fresh.base == register.base
            && fresh.limit == register.limit
            && fresh.rights | Rights::ACCESSED == register.rights | Rights::ACCESSED
    }

    /// MOV Sreg, r/m16 and MOV r/m16, Sreg.
    pub(super) fn mov_segment(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let loads =
            insn.op_kind(0) == OpKind::Register && segment_index(insn.op0_register()).is_some();
        if !loads {
            let selector = segment_index(insn.op1_register())
                .and_then(|index| self.cpu.seg.get(index))
                .ok_or(Exception::invalid_opcode())?
                .selector;
            self.write_operand16(insn, 0, selector)?;
            return Ok(Flow::Next);
        }
        let index = self.loadable_segment(insn.op0_register())?;
        let selector = self.read_operand16(insn, 1)?;
        self.load_segment(index, selector)?;
        self.shadow_after_load(index);
        Ok(Flow::Next)
    }

    /// The index of a segment register that may be loaded: not CS.
    fn loadable_segment(&self, register: Register) -> Result<usize, Exception> {
        match segment_index(register) {
            Some(index) if index != seg::CS => Ok(index),
            _ => Err(Exception::invalid_opcode()),
        }
    }

    fn shadow_after_load(&mut self, index: usize) {
        if index == seg::SS {
            self.cpu.interrupt_shadow = InterruptShadow::MovSs;
        }
    }

    /// PUSH Sreg. With a 32-bit operand the selector is zero-extended, one of the two ways that
    /// Intel SDM vol. 2B ("PUSH") allows.
    pub(super) fn push_segment(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let index = segment_index(insn.op0_register()).ok_or(Exception::invalid_opcode())?;
        let width = match insn.code() {
            Code::Pushw_ES
            | Code::Pushw_CS
            | Code::Pushw_SS
            | Code::Pushw_DS
            | Code::Pushw_FS
            | Code::Pushw_GS => 2,
            _ => 4,
        };
        let selector = self.cpu.seg[index].selector;
        self.push(&Frame::with(width, [u32::from(selector)]))?;
        Ok(Flow::Next)
    }

    /// POP Sreg.
    pub(super) fn pop_segment(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let index = self.loadable_segment(insn.op0_register())?;
        let width = match insn.code() {
            Code::Popw_ES | Code::Popw_SS | Code::Popw_DS | Code::Popw_FS | Code::Popw_GS => 2,
            _ => 4,
        };
        // Two bytes are read whatever the operand size.
        let [selector] = self.peek(0, 2)?;
        let mask = super::stack::pointer_mask(&self.cpu.seg[seg::SS]);
        self.load_segment(index, selector as u16)?;
        // POP SS moves the pointer of the old stack: the size is that of the segment popped from.
        let esp = &mut self.cpu.gpr[crate::state::reg::ESP];
        *esp = (*esp & !mask) | (esp.wrapping_add(width) & mask);
        self.shadow_after_load(index);
        Ok(Flow::Next)
    }

    /// LDS, LES, LSS, LFS, LGS.
    pub(super) fn load_far_pointer(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let index = match insn.code() {
            Code::Lds_r16_m1616 | Code::Lds_r32_m1632 => seg::DS,
            Code::Les_r16_m1616 | Code::Les_r32_m1632 => seg::ES,
            Code::Lss_r16_m1616 | Code::Lss_r32_m1632 => seg::SS,
            Code::Lfs_r16_m1616 | Code::Lfs_r32_m1632 => seg::FS,
            Code::Lgs_r16_m1616 | Code::Lgs_r32_m1632 => seg::GS,
            _ => return Err(Exception::invalid_opcode()),
        };
        let (offset, selector) = self.read_far_pointer(insn, 1, insn.op0_register().size() == 4)?;
        self.load_segment(index, selector)?;
        self.set_register(insn.op0_register(), offset);
        Ok(Flow::Next)
    }

    /// Reads an m16:16 or m16:32 operand: offset and selector.
    pub(super) fn read_far_pointer(
        &mut self,
        insn: &Instruction,
        operand: u32,
        is_32_bit: bool,
    ) -> Result<(u32, u16), Exception> {
        if insn.op_kind(operand) == OpKind::Register {
            return Err(Exception::invalid_opcode());
        }
        let (index, at) = self.effective_address(insn, operand);
        if is_32_bit {
            let [a, b, c, d, e, f] = self.read_segment(index, at)?;
            Ok((u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f])))
        } else {
            let [a, b, c, d] = self.read_parts(index, at, 2)?;
            Ok((
                u32::from(u16::from_le_bytes([a, b])),
                u16::from_le_bytes([c, d]),
            ))
        }
    }

    /// LLDT.
    pub(super) fn lldt(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        self.require_cpl0()?;
        let selector = self.read_operand16(insn, 0)?;
        self.cpu.ldtr = self.ldt_segment(selector, vector::GP, vector::NP)?;
        Ok(Flow::Next)
    }

    /// What LLDT or a task switch loads into LDTR.
    pub(super) fn ldt_segment(
        &mut self,
        selector: u16,
        fault: u8,
        absent: u8,
    ) -> Result<Segment, Exception> {
        if is_null(selector) {
            return Ok(Segment::null(selector));
        }
        if is_local(selector) {
            return Err(Exception::selector(fault, selector));
        }
        let entry = self.require_descriptor(selector, fault)?;
        if entry.descriptor.system_type() != Some(system_type::LDT) {
            return Err(entry.fault(fault));
        }
        if !entry.descriptor.is_present() {
            return Err(entry.fault(absent));
        }
        Ok(entry.segment())
    }

    /// LTR.
    pub(super) fn ltr(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        self.require_cpl0()?;
        let selector = self.read_operand16(insn, 0)?;
        if is_null(selector) {
            return Err(Exception::general_protection());
        }
        if is_local(selector) {
            return Err(Exception::selector(vector::GP, selector));
        }
        let entry = self.require_descriptor(selector, vector::GP)?;
        if !matches!(
            entry.descriptor.system_type(),
            Some(system_type::TSS16 | system_type::TSS32)
        ) {
            return Err(entry.fault(vector::GP));
        }
        entry.require_present()?;
        self.mark_busy(entry.address, true)?;
        let mut task = entry.segment();
        task.rights |= Rights::from_bits_retain(u32::from(system_type::BUSY));
        self.cpu.tr = task;
        Ok(Flow::Next)
    }

    /// SLDT.
    pub(super) fn sldt(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        self.write_operand16(insn, 0, self.cpu.ldtr.selector)?;
        Ok(Flow::Next)
    }

    /// STR.
    pub(super) fn str(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        self.write_operand16(insn, 0, self.cpu.tr.selector)?;
        Ok(Flow::Next)
    }

    fn set_zero_flag(&mut self, value: bool) {
        self.cpu.eflags &= !eflags::ZF;
        if value {
            self.cpu.eflags |= eflags::ZF;
        }
    }

    /// The descriptor that LAR, LSL, VERR and VERW ask about, when the current privilege may see it.
    fn visible_descriptor(&mut self, selector: u16) -> Result<Option<Entry>, Exception> {
        if is_null(selector) {
            return Ok(None);
        }
        let cpl = self.cpu.cpl;
        Ok(self.descriptor(selector)?.filter(|entry| {
            let descriptor = entry.descriptor;
            descriptor.is_conforming()
                || (cpl <= descriptor.dpl() && rpl(selector) <= descriptor.dpl())
        }))
    }

    /// LAR.
    pub(super) fn lar(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        let selector = self.read_operand16(insn, 1)?;
        let visible = self.visible_descriptor(selector)?.filter(|entry| {
            matches!(
                entry.descriptor.system_type(),
                None | Some(
                    system_type::TSS16
                        | system_type::LDT
                        | system_type::TSS16_BUSY
                        | system_type::CALL_GATE16
                        | system_type::TASK_GATE
                        | system_type::TSS32
                        | system_type::TSS32_BUSY
                        | system_type::CALL_GATE32
                )
            )
        });
        if let Some(entry) = visible {
            let rights = (entry.descriptor.0 >> 32) as u32 & 0x00F0_FF00;
            self.set_register(insn.op0_register(), rights);
        }
        self.set_zero_flag(visible.is_some());
        Ok(Flow::Next)
    }

    /// LSL.
    pub(super) fn lsl(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        let selector = self.read_operand16(insn, 1)?;
        let visible = self.visible_descriptor(selector)?.filter(|entry| {
            matches!(
                entry.descriptor.system_type(),
                None | Some(
                    system_type::TSS16
                        | system_type::LDT
                        | system_type::TSS16_BUSY
                        | system_type::TSS32
                        | system_type::TSS32_BUSY
                )
            )
        });
        if let Some(entry) = visible {
            self.set_register(insn.op0_register(), entry.descriptor.limit());
        }
        self.set_zero_flag(visible.is_some());
        Ok(Flow::Next)
    }

    /// VERR.
    pub(super) fn verr(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        let selector = self.read_operand16(insn, 0)?;
        let visible = self.visible_descriptor(selector)?;
        self.set_zero_flag(visible.is_some_and(|entry| entry.descriptor.is_readable()));
        Ok(Flow::Next)
    }

    /// VERW.
    pub(super) fn verw(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        let selector = self.read_operand16(insn, 0)?;
        let visible = self.visible_descriptor(selector)?;
        self.set_zero_flag(visible.is_some_and(|entry| entry.descriptor.is_writable_data()));
        Ok(Flow::Next)
    }

    /// ARPL.
    pub(super) fn arpl(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_protected()?;
        let source = self.register(insn.op1_register()) as u16;
        let destination = self.read_operand16(insn, 0)?;
        let (result, flags) = decimal::arpl(destination, source, self.cpu.eflags);
        if result != destination {
            // Of a register only the low half is written, whatever the operand size.
            if insn.op0_kind() == OpKind::Register {
                let upper = self.register(insn.op0_register()) & !0xFFFF;
                self.set_register(insn.op0_register(), upper | u32::from(result));
            } else {
                self.write_operand16(insn, 0, result)?;
            }
        }
        self.cpu.eflags = flags;
        Ok(Flow::Next)
    }
}

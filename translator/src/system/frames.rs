//! ENTER, BOUND and the decimal adjustments: unprivileged instructions that a code generator for
//! 64-bit code may want to leave to a callout.

use super::event::{Exception, vector};
use super::stack::{Frame, pointer_mask};
use super::{Flow, System, decimal};
use crate::state::{reg, seg};
use iced_x86::{Code, Instruction, Mnemonic};

impl System<'_> {
    /// ENTER (Intel SDM vol. 2A).
    pub(super) fn enter(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let width = if insn.code() == Code::Enterw_imm16_imm8 {
            2
        } else {
            4
        };
        let size = u32::from(insn.immediate16());
        let level = u32::from(insn.immediate8_2nd()) & 31;
        let stack = self.cpu.seg[seg::SS];
        let mask = pointer_mask(&stack);
        let (esp, ebp) = (self.cpu.gpr[reg::ESP], self.cpu.gpr[reg::EBP]);
        let mut frame = Frame::new(width);
        frame.push(ebp);
        let frame_pointer = (esp & !mask) | (esp.wrapping_sub(width as u32) & mask);
        for n in 1..level {
            let offset = ebp.wrapping_sub(n * width as u32) & mask;
            let mut value = [0; 4];
            if width == 2 {
                value[..2].copy_from_slice(&self.read_segment::<2>(seg::SS, offset)?);
            } else {
                value = self.read_segment(seg::SS, offset)?;
            }
            // The display may overlap the frame, of which nothing is in memory yet.
            let lowest = esp.wrapping_sub(frame.image().len() as u32);
            for (byte, address) in value.iter_mut().zip(offset..) {
                let distance = address.wrapping_sub(lowest) & mask;
                if let Some(pushed) = frame.image().get(distance as usize) {
                    *byte = *pushed;
                }
            }
            frame.push(u32::from_le_bytes(value));
        }
        if level > 0 {
            frame.push(frame_pointer);
        }
        // The end of the new frame must be writable, although nothing is written there.
        Self::check_frame(&stack, esp, &frame, Exception::stack_fault())?;
        let pushed = width as u32 * (level + 1);
        let top = esp.wrapping_sub(pushed).wrapping_sub(size);
        let linear = self.segment_access(seg::SS, top & mask, 1, true)?;
        self.check_write(linear, 1, self.privilege())?;
        self.push(&frame)?;
        self.set_stack_pointer(top);
        let register = &mut self.cpu.gpr[reg::EBP];
        *register = if width == 2 {
            (*register & !0xFFFF) | (frame_pointer & 0xFFFF)
        } else {
            frame_pointer
        };
        Ok(Flow::Next)
    }

    /// BOUND.
    pub(super) fn bound(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let (index, offset) = self.effective_address(insn, 1);
        let value = self.register(insn.op0_register());
        let inside = if insn.op0_register().size() == 2 {
            let [a, b, c, d] = self.read_parts(index, offset, 2)?;
            let (lower, upper) = (i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d]));
            decimal::bound_holds(i32::from(value as i16), lower.into(), upper.into())
        } else {
            let [a, b, c, d, e, f, g, h] = self.read_segment(index, offset)?;
            let (lower, upper) = (
                i32::from_le_bytes([a, b, c, d]),
                i32::from_le_bytes([e, f, g, h]),
            );
            decimal::bound_holds(value as i32, lower, upper)
        };
        if inside {
            Ok(Flow::Next)
        } else {
            Err(Exception::fault(vector::BR))
        }
    }

    /// DAA, DAS, AAA, AAS, AAM, AAD.
    pub(super) fn decimal_adjust(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let (eax, flags) = (self.cpu.gpr[reg::EAX], self.cpu.eflags);
        let (eax, flags) = match insn.mnemonic() {
            Mnemonic::Daa => decimal::daa(eax, flags),
            Mnemonic::Das => decimal::das(eax, flags),
            Mnemonic::Aaa => decimal::aaa(eax, flags),
            Mnemonic::Aas => decimal::aas(eax, flags),
            Mnemonic::Aad => decimal::aad(eax, flags, insn.immediate8()),
            _ => decimal::aam(eax, flags, insn.immediate8()).ok_or(Exception::fault(vector::DE))?,
        };
        self.cpu.gpr[reg::EAX] = eax;
        self.cpu.eflags = flags;
        Ok(Flow::Next)
    }
}

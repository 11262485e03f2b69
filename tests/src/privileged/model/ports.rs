//! Port instructions, and who may use which ports (Intel SDM vol. 1, section 18.5).

use super::super::Field;
use super::super::driver::SCRATCH;
use super::super::op::{Op, Seg};
use super::super::world::tss32;
use super::{Cpu, Fault, Step, flag, mask, vector};

impl Cpu {
    /// IN, OUT, INS, OUTS.
    pub(super) fn port(&mut self, op: Op) -> Step {
        let edx = self.state[Field::Edx] as u16;
        let (port, size) = match op {
            Op::In { port, size } | Op::Out { port, size } => (port, size),
            Op::Ins { size } | Op::Outs { size } => (edx, size),
            _ => return Err(Fault::new(vector::UD)),
        };
        if !self.port_allowed(port, size) {
            return Err(Fault::new(vector::GP));
        }
        let address = |esi: u32, wide: bool| if wide { esi } else { esi & 0xFFFF };
        let wide = self.seg[Seg::Cs as usize].big;
        let step = if self.flags(flag::DF) {
            size.wrapping_neg()
        } else {
            size
        };
        match op {
            Op::In { .. } => {
                self.set_low(Field::Eax, size, port_value(size));
            }
            Op::Ins { .. } => {
                let offset = address(self.state[Field::Edi], wide);
                self.write_segment(Seg::Es, offset, size, port_value(size))?;
                let edi = self.state[Field::Edi].wrapping_add(step);
                self.set_low(Field::Edi, if wide { 4 } else { 2 }, edi);
            }
            Op::Outs { .. } => {
                let offset = address(self.state[Field::Esi], wide);
                self.read_segment(Seg::Ds, offset, size)?;
                let esi = self.state[Field::Esi].wrapping_add(step);
                self.set_low(Field::Esi, if wide { 4 } else { 2 }, esi);
            }
            _ => {}
        }
        Ok(())
    }

    /// REP: the count is looked at first, and nothing else if it is 0 (vol. 2B, "REP").
    pub(super) fn repeat(&mut self, op: Op) -> Step {
        let size = if self.seg[Seg::Cs as usize].big { 4 } else { 2 };
        while self.state[Field::Ecx] & mask(size) != 0 {
            self.port(op)?;
            let count = self.state[Field::Ecx].wrapping_sub(1);
            self.set_low(Field::Ecx, size, count);
        }
        Ok(())
    }

    /// IOPL, or the map of the task, allows the access.
    fn port_allowed(&self, port: u16, size: u32) -> bool {
        if self.real() || !self.v86() && self.cpl <= self.iopl() {
            return true;
        }
        let tr = self.tr;
        if tr.kind & 8 == 0 || tr.limit < tss32::IO_MAP + 1 {
            return false;
        }
        let map = self.memory.read(tr.base + tss32::IO_MAP, 2);
        let byte = map + u32::from(port / 8);
        if byte + 1 > tr.limit {
            return false;
        }
        let bits = self.memory.read(tr.base + byte, 2) >> (port % 8);
        bits & ((1 << size) - 1) == 0
    }
}

/// What a port has: bytes come from the UART, and nothing answers wider accesses.
fn port_value(size: u32) -> u32 {
    if size == 1 { SCRATCH.into() } else { u32::MAX }
}

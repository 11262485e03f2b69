//! A small assembler for the glue around translated instructions.
//!
//! Guest instructions that keep their operation are encoded by iced ([`Asm::insn`]); the handful
//! of forms that the glue consists of are written here as bytes, because a translator that spends
//! its time in a general encoder is slow to start a guest. None of the glue changes flags unless
//! its name says so.

use iced_x86::{Encoder, IcedError, Instruction, Register};

/// A host general register by its number (0 = RAX ... 15 = R15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reg(pub(crate) u8);

/// The host registers by name, and their roles in translated code.
pub(crate) mod host {
    use super::Reg;
    pub(crate) const RAX: Reg = Reg(0);
    pub(crate) const RCX: Reg = Reg(1);
    pub(crate) const RBX: Reg = Reg(3);
    pub(crate) const RSP: Reg = Reg(4);
    pub(crate) const RBP: Reg = Reg(5);
    pub(crate) const RSI: Reg = Reg(6);
    pub(crate) const RDI: Reg = Reg(7);
    /// Scratch: effective addresses; the target of an indirect jump.
    pub(crate) const R8: Reg = Reg(8);
    /// Scratch: segment bases, table entries.
    pub(crate) const R9: Reg = Reg(9);
    /// Scratch: limit checks.
    pub(crate) const R10: Reg = Reg(10);
    /// Scratch: data on its way.
    pub(crate) const R11: Reg = Reg(11);
    /// The guest's ESP; window base + ESP where the stack segment is flat and 32-bit.
    pub(crate) const STACK: Reg = Reg(12);
    /// Window base + 4 GiB, for absolute addresses in the upper half.
    pub(crate) const WINDOW_END: Reg = Reg(13);
    /// Window base: the host address of guest-linear 0.
    pub(crate) const WINDOW: Reg = Reg(14);
    /// The context.
    pub(crate) const CONTEXT: Reg = Reg(15);
}

/// A host memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mem {
    pub(crate) base: Option<Reg>,
    pub(crate) index: Option<(Reg, u8)>,
    pub(crate) disp: i32,
    /// Through GS with a 32-bit effective address (prefixes 65h 67h).
    pub(crate) gs32: bool,
}

impl Mem {
    pub(crate) const fn base(base: Reg, disp: i32) -> Self {
        Mem {
            base: Some(base),
            index: None,
            disp,
            gs32: false,
        }
    }

    pub(crate) const fn sum(base: Reg, index: Reg, disp: i32) -> Self {
        Mem {
            base: Some(base),
            index: Some((index, 1)),
            disp,
            gs32: false,
        }
    }

    /// A field of the context.
    pub(crate) const fn context(offset: usize) -> Self {
        Mem::base(host::CONTEXT, offset as i32)
    }

    /// Needs a REX prefix, which AH, CH, DH and BH forbid.
    pub(crate) fn needs_rex(&self) -> bool {
        self.base.is_some_and(|r| r.0 >= 8) || self.index.is_some_and(|(r, _)| r.0 >= 8)
    }

    /// Puts this operand in the place of the memory operand of `insn`.
    pub(crate) fn apply(&self, insn: &mut Instruction) {
        let name = |reg: Reg| if self.gs32 { iced32(reg) } else { iced64(reg) };
        insn.set_memory_base(self.base.map_or(Register::None, name));
        insn.set_memory_index(self.index.map_or(Register::None, |(reg, _)| name(reg)));
        insn.set_memory_index_scale(self.index.map_or(1, |(_, scale)| u32::from(scale)));
        insn.set_segment_prefix(if self.gs32 {
            Register::GS
        } else {
            Register::None
        });
        let small = i8::try_from(self.disp).is_ok();
        if self.gs32 {
            insn.set_memory_displacement64(u64::from(self.disp as u32));
            insn.set_memory_displ_size(if self.disp == 0 && self.base.is_some() {
                0
            } else if small && self.base.is_some() {
                1
            } else {
                4
            });
        } else {
            insn.set_memory_displacement64(self.disp as i64 as u64);
            insn.set_memory_displ_size(if self.disp == 0 {
                0
            } else if small {
                1
            } else {
                8
            });
        }
    }
}

/// The iced name of a 64-bit host register.
pub(crate) fn iced64(reg: Reg) -> Register {
    Register::RAX + u32::from(reg.0)
}

/// The iced name of the low half of a host register.
pub(crate) fn iced32(reg: Reg) -> Register {
    Register::EAX + u32::from(reg.0)
}

/// Code under construction.
pub(crate) struct Asm {
    encoder: Encoder,
    /// Host address (executable view) at which the first byte will run.
    origin: u64,
    len: usize,
}

impl std::fmt::Debug for Asm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asm")
            .field("origin", &self.origin)
            .field("len", &self.len)
            .finish()
    }
}

impl Asm {
    pub(crate) fn new() -> Self {
        Asm {
            encoder: Encoder::new(64),
            origin: 0,
            len: 0,
        }
    }

    /// Starts anew at host address `origin`, keeping the allocation of `buffer`.
    pub(crate) fn start(&mut self, origin: u64, mut buffer: Vec<u8>) {
        buffer.clear();
        self.encoder.set_buffer(buffer);
        self.origin = origin;
        self.len = 0;
    }

    /// Ends: the bytes.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.encoder.take_buffer()
    }

    pub(crate) fn offset(&self) -> usize {
        self.len
    }

    pub(crate) fn address(&self) -> u64 {
        self.origin + self.len as u64
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.encoder.write_u8(byte);
        self.len += 1;
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.byte(byte);
        }
    }

    pub(crate) fn dword(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Encodes an instruction of the host's 64-bit mode.
    pub(crate) fn insn(&mut self, insn: &Instruction) -> Result<(), IcedError> {
        self.len += self.encoder.encode(insn, self.origin + self.len as u64)?;
        Ok(())
    }

    /// Prefixes, opcode and ModRM for `reg, mem`. `opcode` is one or two bytes (0F xx).
    fn op_mem(
        &mut self,
        prefix: Option<u8>,
        wide: bool,
        opcode: &[u8],
        reg: u8,
        mem: Mem,
        byte_reg: bool,
    ) {
        if mem.gs32 {
            self.bytes(&[0x65, 0x67]);
        }
        if let Some(prefix) = prefix {
            self.byte(prefix);
        }
        let mut rex = (u8::from(wide) << 3) | ((reg >> 3) << 2);
        rex |= mem.index.map_or(0, |(r, _)| (r.0 >> 3) << 1);
        rex |= mem.base.map_or(0, |r| r.0 >> 3);
        if rex != 0 || (byte_reg && reg >= 4) {
            self.byte(0x40 | rex);
        }
        self.bytes(opcode);
        let field = (reg & 7) << 3;
        match (mem.base, mem.index) {
            (Some(base), index) => {
                let need_disp = mem.disp != 0 || base.0 & 7 == 5;
                let small = i8::try_from(mem.disp).is_ok();
                let mode = match (need_disp, small) {
                    (false, _) => 0x00,
                    (true, true) => 0x40,
                    (true, false) => 0x80,
                };
                if index.is_some() || base.0 & 7 == 4 {
                    self.byte(mode | field | 4);
                    let (index, scale) = index.unwrap_or((host::RSP, 1));
                    self.byte(
                        (scale.trailing_zeros() as u8) << 6 | (index.0 & 7) << 3 | (base.0 & 7),
                    );
                } else {
                    self.byte(mode | field | (base.0 & 7));
                }
                match mode {
                    0x40 => self.byte(mem.disp as u8),
                    0x80 => self.dword(mem.disp as u32),
                    _ => {}
                }
            }
            (None, index) => {
                self.byte(field | 4);
                let (index, scale) = index.unwrap_or((host::RSP, 1));
                self.byte((scale.trailing_zeros() as u8) << 6 | (index.0 & 7) << 3 | 5);
                self.dword(mem.disp as u32);
            }
        }
    }

    fn op_reg(
        &mut self,
        prefix: Option<u8>,
        wide: bool,
        opcode: &[u8],
        reg: u8,
        rm: u8,
        byte_rm: bool,
    ) {
        if let Some(prefix) = prefix {
            self.byte(prefix);
        }
        let rex = (u8::from(wide) << 3) | ((reg >> 3) << 2) | (rm >> 3);
        if rex != 0 || (byte_rm && rm >= 4) {
            self.byte(0x40 | rex);
        }
        self.bytes(opcode);
        self.byte(0xC0 | (reg & 7) << 3 | (rm & 7));
    }

    /// `mov reg64, [mem]`
    pub(crate) fn load64(&mut self, reg: Reg, mem: Mem) {
        self.op_mem(None, true, &[0x8B], reg.0, mem, false);
    }

    /// `mov reg32, [mem]`: clears the upper half.
    pub(crate) fn load32(&mut self, reg: Reg, mem: Mem) {
        self.op_mem(None, false, &[0x8B], reg.0, mem, false);
    }

    /// Loads `size` bytes (1, 2, 4), zero-extended.
    pub(crate) fn load(&mut self, size: u32, reg: Reg, mem: Mem) {
        match size {
            1 => self.op_mem(None, false, &[0x0F, 0xB6], reg.0, mem, false),
            2 => self.op_mem(None, false, &[0x0F, 0xB7], reg.0, mem, false),
            _ => self.load32(reg, mem),
        }
    }

    /// Loads into the low 2 or all 4 bytes of `reg`; a 2-byte load keeps the rest.
    pub(crate) fn load_part(&mut self, size: u32, reg: Reg, mem: Mem) {
        let prefix = (size == 2).then_some(0x66);
        self.op_mem(prefix, false, &[0x8B], reg.0, mem, false);
    }

    /// Stores the low `size` bytes (1, 2, 4, 8).
    pub(crate) fn store(&mut self, size: u32, mem: Mem, reg: Reg) {
        match size {
            1 => self.op_mem(None, false, &[0x88], reg.0, mem, true),
            2 => self.op_mem(Some(0x66), false, &[0x89], reg.0, mem, false),
            4 => self.op_mem(None, false, &[0x89], reg.0, mem, false),
            _ => self.op_mem(None, true, &[0x89], reg.0, mem, false),
        }
    }

    /// `cmp reg, [mem]` on `size` bytes (1, 2, 4): sets flags.
    pub(crate) fn compare(&mut self, size: u32, reg: Reg, mem: Mem) {
        match size {
            1 => self.op_mem(None, false, &[0x3A], reg.0, mem, true),
            2 => self.op_mem(Some(0x66), false, &[0x3B], reg.0, mem, false),
            _ => self.op_mem(None, false, &[0x3B], reg.0, mem, false),
        }
    }

    /// Stores an immediate of `size` bytes (1, 2, 4).
    pub(crate) fn store_imm(&mut self, size: u32, mem: Mem, value: u32) {
        match size {
            1 => {
                self.op_mem(None, false, &[0xC6], 0, mem, false);
                self.byte(value as u8);
            }
            2 => {
                self.op_mem(Some(0x66), false, &[0xC7], 0, mem, false);
                self.bytes(&(value as u16).to_le_bytes());
            }
            _ => {
                self.op_mem(None, false, &[0xC7], 0, mem, false);
                self.dword(value);
            }
        }
    }

    /// `not byte [mem]`: no flags change.
    pub(crate) fn not8_mem(&mut self, mem: Mem) {
        self.op_mem(None, false, &[0xF6], 2, mem, false);
    }

    /// `lea reg64, [mem]`
    pub(crate) fn lea64(&mut self, reg: Reg, mem: Mem) {
        self.op_mem(None, true, &[0x8D], reg.0, mem, false);
    }

    /// `lea reg32, [mem]`: the sum modulo 2^32.
    pub(crate) fn lea32(&mut self, reg: Reg, mem: Mem) {
        self.op_mem(None, false, &[0x8D], reg.0, mem, false);
    }

    /// `mov dst32, src32`: clears the upper half.
    pub(crate) fn mov32(&mut self, dst: Reg, src: Reg) {
        self.op_reg(None, false, &[0x8B], dst.0, src.0, false);
    }

    /// `mov dst64, src64`
    pub(crate) fn mov64(&mut self, dst: Reg, src: Reg) {
        self.op_reg(None, true, &[0x8B], dst.0, src.0, false);
    }

    /// `mov dst16, src16`: keeps the rest of `dst`.
    pub(crate) fn mov16(&mut self, dst: Reg, src: Reg) {
        self.op_reg(Some(0x66), false, &[0x8B], dst.0, src.0, false);
    }

    /// `mov dst8, src8`, both low bytes.
    pub(crate) fn mov8(&mut self, dst: Reg, src: Reg) {
        let rex = ((dst.0 >> 3) << 2) | (src.0 >> 3);
        if rex != 0 || dst.0 >= 4 || src.0 >= 4 {
            self.byte(0x40 | rex);
        }
        self.bytes(&[0x8A, 0xC0 | (dst.0 & 7) << 3 | (src.0 & 7)]);
    }

    /// `movzx dst32, src16`
    pub(crate) fn zero_extend16(&mut self, dst: Reg, src: Reg) {
        self.op_reg(None, false, &[0x0F, 0xB7], dst.0, src.0, false);
    }

    /// `movzx dst32, src8` (low byte)
    pub(crate) fn zero_extend8(&mut self, dst: Reg, src: Reg) {
        self.op_reg(None, false, &[0x0F, 0xB6], dst.0, src.0, true);
    }

    /// `mov reg32, imm32`
    pub(crate) fn mov_imm32(&mut self, reg: Reg, value: u32) {
        if reg.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0xB8 | (reg.0 & 7));
        self.dword(value);
    }

    /// `xchg low, high` of one of RAX, RCX, RDX, RBX (AL with AH and so on).
    pub(crate) fn swap_low_high(&mut self, reg: Reg) {
        self.bytes(&[0x86, 0xC0 | (reg.0 & 3) << 3 | ((reg.0 & 3) + 4)]);
    }

    /// `bswap reg` (32 or 64 bits)
    pub(crate) fn bswap(&mut self, wide: bool, reg: Reg) {
        let rex = (u8::from(wide) << 3) | (reg.0 >> 3);
        if rex != 0 {
            self.byte(0x40 | rex);
        }
        self.bytes(&[0x0F, 0xC8 | (reg.0 & 7)]);
    }

    /// `not reg64`
    pub(crate) fn not64(&mut self, reg: Reg) {
        self.op_reg(None, true, &[0xF7], 2, reg.0, false);
    }

    /// `jmp reg64`
    pub(crate) fn jmp_reg(&mut self, reg: Reg) {
        self.op_reg(None, false, &[0xFF], 4, reg.0, false);
    }

    /// `call [mem]`
    pub(crate) fn call_mem(&mut self, mem: Mem) {
        self.op_mem(None, false, &[0xFF], 2, mem, false);
    }

    /// `jmp rel32`; returns the offset of the displacement, to be patched.
    pub(crate) fn jmp(&mut self, target: u64) -> usize {
        self.byte(0xE9);
        self.rel32(target)
    }

    /// `call rel32`
    pub(crate) fn call(&mut self, target: u64) -> usize {
        self.byte(0xE8);
        self.rel32(target)
    }

    /// `jcc rel32`; `condition` is the low four bits of the opcode.
    pub(crate) fn jcc(&mut self, condition: u8, target: u64) -> usize {
        self.bytes(&[0x0F, 0x80 | condition]);
        self.rel32(target)
    }

    fn rel32(&mut self, target: u64) -> usize {
        let at = self.len;
        let next = self.origin + at as u64 + 4;
        self.dword(target.wrapping_sub(next) as u32);
        at
    }
}

impl Asm {
    /// Sets displacements: each pair is the offset of a rel32 and the offset it shall reach.
    pub(crate) fn patch_rel32(&mut self, patches: &[(usize, usize)]) {
        if patches.is_empty() {
            return;
        }
        let mut code = self.encoder.take_buffer();
        for &(at, target) in patches {
            let displacement = (target as i64 - (at as i64 + 4)) as i32;
            if let Some(field) = code.get_mut(at..at + 4) {
                field.copy_from_slice(&displacement.to_le_bytes());
            }
        }
        self.encoder.set_buffer(code);
    }
}

impl Asm {
    /// Sets 8-bit displacements: each pair is the offset *behind* a rel8 and the offset it shall
    /// reach.
    pub(crate) fn patch_rel8(&mut self, patches: &[(usize, usize)]) {
        let mut code = self.encoder.take_buffer();
        for &(behind, target) in patches {
            if let Some(field) = behind.checked_sub(1).and_then(|at| code.get_mut(at)) {
                *field = (target as i64 - behind as i64) as u8;
            }
        }
        self.encoder.set_buffer(code);
    }
}

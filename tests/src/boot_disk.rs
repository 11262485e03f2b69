//! Floppy disks that hold one real-mode program: the boot sector loads it and jumps to it.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Bytes of a 1.44 MB disk.
pub const DISK: usize = 1_474_560;
/// Where firmware puts a boot sector.
const BOOT: u32 = 0x7c00;
/// Where the program runs: after the boot sector, in segment 0.
const PROGRAM: u32 = BOOT + 512;
/// Sectors that the boot sector reads: the rest of the first track.
const SECTORS: u32 = 17;

/// A program in the making: segments are 0, the stack is below [`BOOT`], interrupts are on.
pub struct Program {
    /// The assembler, for everything else.
    pub a: CodeAssembler,
    put_char: CodeLabel,
    put_hex: CodeLabel,
}

impl Program {
    /// A program that does nothing yet.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn new() -> Result<Self, IcedError> {
        let mut a = CodeAssembler::new(16)?;
        let mut start = a.create_label();
        let (mut put_char, mut put_hex) = (a.create_label(), a.create_label());
        let (mut digit, mut decimal) = (a.create_label(), a.create_label());
        a.jmp(start)?;
        // AL to the screen, all registers kept.
        a.set_label(&mut put_char)?;
        a.pusha()?;
        a.mov(ah, 0x0e)?;
        a.mov(bx, 7)?;
        a.int(0x10)?;
        a.popa()?;
        a.ret()?;
        // AL in two digits.
        a.set_label(&mut put_hex)?;
        a.push(ax)?;
        a.shr(al, 4)?;
        a.call(digit)?;
        a.pop(ax)?;
        a.push(ax)?;
        a.and(al, 0x0f)?;
        a.call(digit)?;
        a.pop(ax)?;
        a.ret()?;
        a.set_label(&mut digit)?;
        a.cmp(al, 10)?;
        a.jb(decimal)?;
        a.add(al, i32::from(b'A' - b'0' - 10))?;
        a.set_label(&mut decimal)?;
        a.add(al, i32::from(b'0'))?;
        a.call(put_char)?;
        a.ret()?;
        a.set_label(&mut start)?;
        Ok(Self {
            a,
            put_char,
            put_hex,
        })
    }

    /// Shows a text. Changes AL.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn print(&mut self, text: &str) -> Result<(), IcedError> {
        for byte in text.bytes() {
            self.a.mov(al, u32::from(byte))?;
            self.a.call(self.put_char)?;
        }
        Ok(())
    }

    /// Starts a new line. Changes AL.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn new_line(&mut self) -> Result<(), IcedError> {
        self.print("\r\n")
    }

    /// Shows AL as a character.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn print_al(&mut self) -> Result<(), IcedError> {
        self.a.call(self.put_char)
    }

    /// Shows AL in two hexadecimal digits.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn print_hex(&mut self) -> Result<(), IcedError> {
        self.a.call(self.put_hex)
    }

    /// The disk: boot sector, program, zeros. The program stops where it ends.
    ///
    /// # Errors
    ///
    /// A label or an operand is wrong.
    ///
    /// # Panics
    ///
    /// The program is longer than the first track.
    pub fn disk(mut self) -> Result<Vec<u8>, IcedError> {
        let mut stop = self.a.create_label();
        self.a.set_label(&mut stop)?;
        self.a.hlt()?;
        self.a.jmp(stop)?;
        let program = self.a.assemble(u64::from(PROGRAM))?;
        assert!(program.len() <= SECTORS as usize * 512, "{}", program.len());
        let mut disk = boot_sector()?;
        disk.resize(510, 0);
        disk.extend([0x55, 0xaa]);
        disk.extend(program);
        disk.resize(DISK, 0);
        Ok(disk)
    }
}

/// Reads the rest of the first track behind the boot sector, and jumps there.
fn boot_sector() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let mut again = a.create_label();
    a.xor(ax, ax)?;
    a.mov(ds, ax)?;
    a.mov(es, ax)?;
    a.mov(ss, ax)?;
    a.mov(sp, BOOT)?;
    a.sti()?;
    a.set_label(&mut again)?;
    a.mov(ax, 0x0200 | SECTORS)?;
    a.mov(bx, PROGRAM)?;
    a.mov(cx, 2)?;
    a.xor(dx, dx)?;
    a.int(0x13)?;
    a.jc(again)?;
    a.jmp(u64::from(PROGRAM))?;
    a.assemble(u64::from(BOOT))
}

//! The images that machines boot: a bzImage, and a disk whose boot sector loads the same bytes.

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al, ax, cr0, cx, ds, dx, eax, es, si, sp, ss, word_ptr};

use super::case::Case;
use super::layout as at;
use super::world::Memory;
use super::{driver, units, world};
use crate::bzimage;

/// What the driver and the cases are in memory, from [`at::DRIVER`] on.
///
/// # Errors
///
/// When an instruction of the driver does not encode, which is a bug.
pub fn payload(cases: &[Case]) -> Result<Vec<u8>, IcedError> {
    let mut bytes = driver::driver()?;
    bytes.extend_from_slice(world::pristine()?.bytes());
    for (address, pending) in [(at::UNITS, false), (at::UNITS_PENDING, true)] {
        bytes.resize((address - at::DRIVER) as usize, 0);
        bytes.extend_from_slice(&units::prepared(pending));
    }
    bytes.resize((at::CASES - at::DRIVER) as usize, 0);
    for case in cases {
        case.record(&mut bytes);
    }
    bytes.extend_from_slice(&[0; 16]);
    assert!(
        bytes.len() as u32 <= at::HOLE - (1 << 16) - at::DRIVER,
        "too many cases"
    );
    Ok(bytes)
}

/// A bzImage, for `--kernel` and `-kernel`.
#[must_use]
pub fn kernel(payload: &[u8]) -> Vec<u8> {
    bzimage::bzimage(payload)
}

const SECTOR: usize = 512;
/// Where the BIOS puts the boot sector.
const BOOT: u32 = 0x7C00;
/// Sectors that are read at once, below 64 KiB.
const CHUNK: u32 = 32;
/// Where they are read to.
const BUFFER: u32 = 0x1_0000;
/// The packet of INT 13h, AH = 42h.
const PACKET: u32 = BOOT + 0x180;
/// The descriptor table of INT 15h, AH = 87h: 8 descriptors of which the caller fills two.
const MOVE: u32 = BOOT + 0x1A0;
/// The GDT of the boot sector, with its register in front.
const GDTR: u32 = BOOT + 0x150;
const GDT: u32 = BOOT + 0x158;

/// A raw disk of `cylinders()` x 16 x 63 sectors for a BIOS with INT 13h extensions.
///
/// # Errors
///
/// When an instruction of the boot sector does not encode, which is a bug.
pub fn disk(payload: &[u8]) -> Result<Vec<u8>, IcedError> {
    let chunk_bytes = CHUNK as usize * SECTOR;
    let chunks = payload.len().div_ceil(chunk_bytes);
    let mut disk = boot_sector(chunks as u32)?;
    disk.extend_from_slice(payload);
    let cylinder = 16 * 63 * SECTOR;
    let used = SECTOR + chunks * chunk_bytes;
    disk.resize(used.next_multiple_of(cylinder), 0);
    Ok(disk)
}

/// Cylinders of a [`disk`] with 16 heads and 63 sectors a track.
#[must_use]
pub fn cylinders(disk: &[u8]) -> usize {
    disk.len() / (16 * 63 * SECTOR)
}

fn boot_sector(chunks: u32) -> Result<Vec<u8>, IcedError> {
    let mut sector = Memory::new(BOOT + SECTOR as u32);
    sector.put(BOOT, &boot_code(chunks)?);
    // size, sectors, offset, segment, block number
    let packet = [16, CHUNK, 0, BUFFER >> 4];
    for (index, value) in packet.into_iter().enumerate() {
        sector.write(PACKET + 2 * index as u32, 2, value);
    }
    sector.write(PACKET + 8, 4, 1);
    for (entry, base) in [(0x10, BUFFER), (0x18, at::DRIVER)] {
        let raw = at::Raw::segment(base, 0xFFFF, 0x93, 0);
        sector.put_descriptor(MOVE + entry, raw);
    }
    sector.write(GDTR, 2, 0x1F);
    sector.write(GDTR + 2, 4, GDT);
    for (entry, access) in [(0x10, 0x9B), (0x18, 0x93)] {
        sector.put_descriptor(GDT + entry, at::Raw::segment(0, 0xF_FFFF, access, 0xC));
    }
    sector.write(BOOT + 0x1FE, 2, 0xAA55);
    Ok(sector.bytes()[BOOT as usize..].to_vec())
}

/// Reads the payload in chunks and lets the BIOS move each to its place; then starts it as the
/// Linux boot protocol would.
fn boot_code(chunks: u32) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let mut next = a.create_label();
    let mut failed = a.create_label();
    a.cli()?;
    a.xor(ax, ax)?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)?;
    a.mov(sp, BOOT)?;
    a.sti()?;
    a.set_label(&mut next)?;
    a.push(dx)?;
    a.mov(si, PACKET)?;
    a.mov(ax, 0x4200)?;
    a.int(0x13)?;
    a.jb(failed)?;
    a.mov(si, MOVE)?;
    a.mov(cx, CHUNK * SECTOR as u32 / 2)?;
    a.mov(ax, 0x8700)?;
    a.int(0x15)?;
    a.jb(failed)?;
    a.pop(dx)?;
    a.add(word_ptr(PACKET + 8), CHUNK as i32)?;
    // The destination's base, in units of 100h.
    a.add(
        word_ptr(MOVE + 0x18 + 3),
        (CHUNK * SECTOR as u32 / 0x100) as i32,
    )?;
    a.dec(word_ptr(BOOT + 0x14E))?;
    a.jne(next)?;
    a.cli()?;
    // A20, as far as the BIOS left it off.
    a.in_(al, 0x92)?;
    a.or(al, 2)?;
    a.and(al, 0xFEu32 as i32)?;
    a.out(0x92, al)?;
    let [low, high, ..] = GDTR.to_le_bytes();
    a.db(&[0x66, 0x0F, 0x01, 0x16, low, high])?;
    a.mov(eax, cr0)?;
    a.or(al, 1)?;
    a.mov(cr0, eax)?;
    a.mov(ax, 0x18)?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)?;
    a.db(&[0x66, 0xEA])?;
    a.db(&at::DRIVER.to_le_bytes())?;
    a.db(&[0x10, 0])?;
    a.set_label(&mut failed)?;
    a.hlt()?;
    a.jmp(failed)?;
    let mut code = a.assemble(BOOT.into())?;
    code.resize(0x14E, 0);
    code.extend_from_slice(&(chunks as u16).to_le_bytes());
    Ok(code)
}

//! The guest around the code: descriptor tables with every kind of descriptor, page tables, handlers, and
//! the state to start from.

use crate::fuzz::bytes::Bytes;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use shadow_mmu::PAGE_SIZE;
use translator::CpuState;
use translator::state::{Rights, Segment, TableRegister, cr0, cr4, eflags, reg, seg};

/// Bytes of an input that are not code.
pub(super) const HEADER: usize = 64;
/// Guest RAM in bytes; device memory is behind it.
pub(super) const RAM: usize = 0x4_1000;

/// Guest-physical layout. With paging, linear addresses are the same.
const GDT: u32 = 0x1000;
const LDT: u32 = 0x1400;
const IDT: u32 = 0x800;
const TSS: u32 = 0x1800;
const TSS_B: u32 = 0x1A00;
const TSS_16: u32 = 0x1C00;
/// One byte for each vector.
const HANDLERS: u32 = 0x2000;
const STACK0: u32 = 0x4000;
const STACK1: u32 = 0x4800;
const STACK3: u32 = 0x6000;
const DIRECTORY: u32 = 0x8000;
const TABLE: u32 = 0x9000;
const PAE_POINTERS: u32 = 0xA000;
const PAE_DIRECTORY: u32 = 0xB000;
const PAE_TABLE: u32 = 0xC000;
const CODE: u32 = 0x1_0000;
const DATA: u32 = 0x2_0000;
/// End of what is mapped; the page before it is read-only, that behind it absent.
const END: u32 = 0x4_0000;

/// Selectors; the ones with RPL 3 are for ring 3.
mod sel {
    pub(super) const CODE0: u16 = 0x08;
    pub(super) const DATA0: u16 = 0x10;
    pub(super) const CODE3: u16 = 0x1B;
    pub(super) const DATA3: u16 = 0x23;
    pub(super) const TSS: u16 = 0x28;
    pub(super) const LDT: u16 = 0x30;
    pub(super) const CODE16: u16 = 0x38;
    pub(super) const DATA16: u16 = 0x40;
    pub(super) const CODE16_3: u16 = 0x4B;
    pub(super) const DATA16_3: u16 = 0x53;
    pub(super) const TSS_B: u16 = 0x58;
    pub(super) const TSS_16: u16 = 0x60;
    pub(super) const TASK_GATE: u16 = 0x6B;
    pub(super) const CALL_GATE: u16 = 0x73;
    pub(super) const CALL_GATE_16: u16 = 0x7B;
    pub(super) const CONFORMING: u16 = 0x83;
    pub(super) const EXECUTE_ONLY: u16 = 0x8B;
    pub(super) const READ_ONLY: u16 = 0x93;
    pub(super) const DOWN: u16 = 0x9B;
    pub(super) const DOWN_16: u16 = 0xA3;
    pub(super) const LIMITED: u16 = 0xAB;
    pub(super) const BASED: u16 = 0xB3;
    pub(super) const ABSENT: u16 = 0xBB;
    pub(super) const CALL_GATE_SAME: u16 = 0xC3;
    /// In the LDT.
    pub(super) const LDT_DATA: u16 = 0x07;
    pub(super) const LDT_CODE: u16 = 0x0F;
}

/// Data segments that a start state may hold.
const DATA_SELECTORS: [u16; 12] = [
    sel::DATA3,
    sel::DATA3,
    sel::DATA16_3,
    sel::LIMITED,
    sel::BASED,
    sel::DOWN,
    sel::DOWN_16,
    sel::READ_ONLY,
    sel::CODE3,
    sel::CONFORMING,
    sel::LDT_DATA,
    0,
];

/// Selectors for general registers: what code may try to load or jump to.
const OTHER_SELECTORS: [u16; 13] = [
    sel::CALL_GATE,
    sel::CALL_GATE_16,
    sel::CALL_GATE_SAME,
    sel::TASK_GATE,
    sel::TSS_B,
    sel::TSS_16,
    sel::CODE16,
    sel::EXECUTE_ONLY,
    sel::ABSENT,
    sel::LDT_CODE,
    sel::LDT,
    sel::DATA0,
    sel::CODE0,
];

/// Where processor and code are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Real,
    /// Real mode with the limits of protected mode left in the segment registers.
    Unreal,
    Virtual8086,
    /// Protected mode: bits of the code segment, and CPL.
    Protected(u8, u8),
}

const MODES: [Mode; 8] = [
    Mode::Protected(32, 3),
    Mode::Protected(32, 0),
    Mode::Real,
    Mode::Virtual8086,
    Mode::Protected(16, 3),
    Mode::Protected(16, 0),
    Mode::Unreal,
    Mode::Protected(32, 0),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Paging {
    Off,
    Bits32,
    Pae,
}

/// A start state, and what is changed in memory.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    mode: Mode,
    paging: Paging,
    /// Bit 0: traps and interrupts come back; 1: an interrupt is pending.
    options: u8,
    gpr: [u32; 8],
    eflags: u32,
    cr0: u32,
    cr4: u32,
    selectors: [u16; 6],
    fcw: u16,
    mxcsr: u32,
    dr7: u32,
    /// Address below [`END`] and value.
    patches: Vec<(u32, u16)>,
}

impl Guest {
    /// Reads the header of an input.
    pub(super) fn choose(bytes: &mut Bytes<'_>) -> Guest {
        let mode = bytes.pick(&MODES);
        let choice = bytes.u8();
        let paging = match mode {
            Mode::Real | Mode::Unreal => Paging::Off,
            _ => {
                [Paging::Bits32, Paging::Pae, Paging::Off, Paging::Bits32][usize::from(choice & 3)]
            }
        };
        let options = choice >> 2;
        let flags = bytes.u16();
        let bits = bytes.u16();
        let bit = |index: u32, value: u32| if bits >> index & 1 != 0 { value } else { 0 };
        let rare = |index: u32, value: u32| if bits >> index & 7 == 7 { value } else { 0 };
        let cr0 = bit(0, cr0::WP)
            | bit(1, cr0::NE)
            | bit(2, cr0::MP)
            | rare(3, cr0::TS)
            | rare(6, cr0::EM)
            | bit(9, cr0::AM);
        let cr4 = bit(10, cr4::OSFXSR | cr4::OSXMMEXCPT)
            | bit(11, cr4::PSE)
            | bit(12, cr4::DE)
            | rare(13, cr4::TSD);
        let mut eflags = u32::from(flags)
            & (eflags::STATUS | eflags::DF | eflags::IF | eflags::NT | eflags::IOPL)
            | eflags::FIXED;
        // Bits 1, 3, 5 and 15 of FLAGS mean nothing.
        if flags & 0x802A == 0x802A {
            eflags |= eflags::TF;
        }
        if flags & 0x8008 == 0x8008 {
            eflags |= eflags::AC;
        }
        let selectors = [(); 6].map(|()| bytes.pick(&DATA_SELECTORS));
        let mut gpr = [(); 8].map(|()| value(bytes));
        let deep = bytes.u8();
        gpr[reg::ESP] = match deep & 3 {
            0 => STACK3,
            1 => STACK3 | 0x1234_0000,
            2 => u32::from(deep),
            _ => gpr[reg::ESP],
        };
        let fcw = if bytes.u8() & 3 == 0 {
            bytes.u16() & 0x0F3F | 0x40
        } else {
            0x37F
        };
        let mxcsr = if bytes.u8() & 3 == 0 {
            u32::from(bytes.u16())
        } else {
            0x1F80
        };
        let dr7 = if bytes.u8() & 15 == 0 {
            bytes.u32() & 0xFFFF_0FFF | 0x400
        } else {
            0x400
        };
        let count = bytes.u8() & 7;
        let patches = (0..count.saturating_sub(3)).map(|_| (patched(bytes), bytes.u16()));
        Guest {
            mode,
            paging,
            options,
            gpr,
            eflags,
            cr0,
            cr4,
            selectors,
            fcw,
            mxcsr,
            dr7,
            patches: patches.collect(),
        }
    }

    /// An external interrupt waits from the start.
    pub(super) fn interrupt_pending(&self) -> bool {
        self.options & 2 != 0
    }

    /// All of RAM at the start.
    pub(super) fn memory(&self, code: &[u8]) -> Vec<u8> {
        let mut memory = vec![0; RAM];
        let mut put = |at: u32, bytes: &[u8]| {
            memory[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        for vector in 0..256u32 {
            let entry = match self.mode {
                Mode::Real | Mode::Unreal => continue,
                _ => idt_entry(vector),
            };
            put(IDT + vector * 8, &entry.to_le_bytes());
        }
        for (at, entries) in [(GDT, &descriptors()[..]), (LDT, &ldt()[..])] {
            for (index, entry) in entries.iter().enumerate() {
                put(at + index as u32 * 8, &entry.to_le_bytes());
            }
        }
        put(TSS, &tss(HANDLERS));
        put(TSS_B, &tss(CODE + 0x100));
        put(TSS_16, &tss_16());
        for vector in 0..256u32 {
            // Traps and interrupts come back if the input says so; what would fault again does not.
            let returns = self.options & 1 != 0 && (matches!(vector, 1 | 3 | 4) || vector >= 0x20);
            put(HANDLERS + vector, &[if returns { 0xCF } else { 0xF4 }]);
            if matches!(self.mode, Mode::Real | Mode::Unreal) && vector < 0xC0 {
                let pointer = (HANDLERS >> 4) << 16 | vector;
                put(vector * 4, &pointer.to_le_bytes());
            }
        }
        for page in 0..256u32 {
            let rights = match page << 12 {
                at if at == END - 0x1000 => 5,
                at if at == END => 0,
                // The monitor's tables are the supervisor's in part.
                0x8000..0xD000 => 3,
                _ => 7,
            };
            let entry = page << 12 | rights;
            put(TABLE + page * 4, &entry.to_le_bytes());
            put(PAE_TABLE + page * 8, &u64::from(entry).to_le_bytes());
        }
        put(DIRECTORY, &(TABLE | 7).to_le_bytes());
        // A second view of the same, for the supervisor, and a large page of what is no memory.
        put(DIRECTORY + 0xC00, &(TABLE | 3).to_le_bytes());
        put(DIRECTORY + 4, &0x0000_0087u32.to_le_bytes());
        put(PAE_POINTERS, &(PAE_DIRECTORY | 1).to_le_bytes());
        put(PAE_POINTERS + 24, &(PAE_DIRECTORY | 1).to_le_bytes());
        put(PAE_DIRECTORY, &(PAE_TABLE | 7).to_le_bytes());
        put(PAE_DIRECTORY + 8, &0x0000_0087u32.to_le_bytes());
        for at in (DATA..END).step_by(4) {
            put(at, &at.wrapping_mul(0x9E37_79B9).to_le_bytes());
        }
        memory[CODE as usize..DATA as usize].fill(0xF4);
        memory[CODE as usize..CODE as usize + code.len()].copy_from_slice(code);
        for (at, value) in &self.patches {
            memory[*at as usize..*at as usize + 2].copy_from_slice(&value.to_le_bytes());
        }
        memory
    }

    /// Loads the start state. `memory` holds the descriptors that segment registers are loaded from.
    pub(super) fn load(&self, state: &mut CpuState, memory: &[u8]) {
        let mut new = CpuState::reset(0x673);
        new.gpr = self.gpr;
        new.cr4 = self.cr4;
        new.dr[7] = self.dr7;
        for (index, address) in new.dr.iter_mut().take(4).enumerate() {
            *address = [CODE, CODE + 4, DATA, STACK3 - 4][index];
        }
        new.fpu.0[..2].copy_from_slice(&self.fcw.to_le_bytes());
        new.fpu.0[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        match self.mode {
            Mode::Real | Mode::Unreal => self.load_real(&mut new),
            Mode::Virtual8086 => self.load_v86(&mut new, memory),
            Mode::Protected(bits, cpl) => self.load_protected(&mut new, memory, bits, cpl),
        }
        *state = new;
    }

    fn load_real(&self, new: &mut CpuState) {
        new.cr0 = self.cr0 & !cr0::WP | cr0::ET;
        new.eflags = self.eflags;
        new.seg = [Segment::real((DATA >> 4) as u16); 6];
        new.seg[seg::SS] = Segment::real(0);
        new.seg[seg::CS] = Segment::real((CODE >> 4) as u16);
        if self.mode == Mode::Unreal {
            for index in [seg::DS, seg::ES, seg::FS] {
                new.seg[index] = Segment::flat(0, false, 0);
            }
        }
        new.eip = 0;
        new.idtr.limit = 0x3FF;
        new.gdtr = table(GDT, 0x3FF);
    }

    fn tables(&self, new: &mut CpuState, memory: &[u8]) {
        new.gdtr = table(GDT, 0xC7);
        new.idtr = table(IDT, 0x7FF);
        new.ldtr = loaded(memory, sel::LDT);
        new.tr = loaded(memory, sel::TSS);
        new.cr0 = self.cr0 | cr0::ET | cr0::PE;
        if self.paging != Paging::Off {
            new.cr0 |= cr0::PG;
            new.cr3 = DIRECTORY;
        }
        if self.paging == Paging::Pae {
            new.cr4 |= cr4::PAE;
            new.cr3 = PAE_POINTERS;
        }
    }

    fn load_v86(&self, new: &mut CpuState, memory: &[u8]) {
        self.tables(new, memory);
        new.cpl = 3;
        new.eflags = self.eflags & !eflags::NT | eflags::VM;
        new.seg = [Segment::real((DATA >> 4) as u16); 6];
        new.seg[seg::SS] = Segment::real(0);
        new.seg[seg::CS] = Segment::real((CODE >> 4) as u16);
        for segment in &mut new.seg {
            segment.rights = Rights::from_bits_retain(0xF3);
        }
        new.eip = 0;
    }

    fn load_protected(&self, new: &mut CpuState, memory: &[u8], bits: u8, cpl: u8) {
        self.tables(new, memory);
        new.cpl = cpl;
        new.eflags = self.eflags;
        if cpl == 3 {
            // NT in ring 3 only leads to #TS at an IRET.
            new.eflags &= !eflags::NT;
        }
        let (code, stack) = match (bits, cpl) {
            (32, 3) => (
                sel::CODE3,
                [sel::DATA3, sel::DOWN, sel::DATA16_3, sel::DATA3],
            ),
            (16, 3) => (
                sel::CODE16_3,
                [sel::DATA16_3, sel::DATA3, sel::DOWN_16, sel::DATA16_3],
            ),
            (32, _) => (
                sel::CODE0,
                [sel::DATA0, sel::DATA0, sel::DATA16, sel::DATA0],
            ),
            _ => (
                sel::CODE16,
                [sel::DATA16, sel::DATA16, sel::DATA0, sel::DATA16],
            ),
        };
        new.seg = self.selectors.map(|selector| loaded(memory, selector));
        new.seg[seg::CS] = loaded(memory, code);
        new.seg[seg::SS] = loaded(memory, stack[usize::from(self.selectors[seg::SS] >> 3) % 4]);
        new.eip = CODE.wrapping_sub(new.seg[seg::CS].base);
    }

    /// The code as text, as the start state reads it.
    pub(super) fn listing(&self, code: &[u8]) -> String {
        let bits = match self.mode {
            Mode::Protected(32, _) => 32,
            _ => 16,
        };
        let decoder = Decoder::with_ip(bits, code, 0, DecoderOptions::NONE);
        let mut formatter = IntelFormatter::new();
        let mut text = String::new();
        for instruction in decoder {
            let at = instruction.ip() as usize;
            let bytes = &code[at..at + instruction.len()];
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            text += &format!("{at:04x}  {bytes:02x?}  {line}\n");
        }
        text
    }
}

fn table(base: u32, limit: u16) -> TableRegister {
    TableRegister { base, limit }
}

/// A register's value, by one byte.
fn value(bytes: &mut Bytes<'_>) -> u32 {
    let choice = bytes.u8();
    let small = u32::from(choice >> 4);
    match choice & 15 {
        0 => small,
        1 => DATA + small * 0x100,
        2 => CODE + small * 4,
        3 => END - small,
        4 => u32::MAX - small,
        5 => 0x8000_0000 >> small,
        6 => RAM as u32 - 0x123 + small * 0x123,
        7 => PAGE_SIZE as u32 * (32 + small) - 2,
        8 => 0xFFFF - small,
        9 => u32::from(u16::MAX) << small,
        10 => 0xC000_0000 + DATA + small,
        11 => [GDT, IDT, TSS, LDT, STACK0, TABLE, PAE_TABLE, HANDLERS][small as usize & 7],
        12 => u32::from(DATA_SELECTORS[small as usize % 12]),
        13 => u32::from(OTHER_SELECTORS[small as usize % OTHER_SELECTORS.len()]),
        14 => 0x0101_0101 * small,
        _ => bytes.u32(),
    }
}

/// An address that is worth changing.
fn patched(bytes: &mut Bytes<'_>) -> u32 {
    let choice = bytes.u8();
    let offset = u32::from(bytes.u8());
    let base = match choice & 15 {
        0..6 => GDT,
        6 => LDT,
        7 => TSS,
        8 => TSS_B,
        9 => TSS_16,
        10 => TABLE + 0x40,
        11 => PAE_TABLE + 0x80,
        12 => IDT,
        13 => STACK3 - 0x80,
        14 => CODE + 0x100,
        _ => DATA,
    };
    base + offset
}

fn segment(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | u64::from(access) << 40
        | (limit >> 16 & 0xF) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

fn gate(selector: u16, offset: u32, access: u8, parameters: u8) -> u64 {
    u64::from(offset & 0xFFFF)
        | u64::from(selector) << 16
        | u64::from(parameters) << 32
        | u64::from(access) << 40
        | u64::from(offset >> 16) << 48
}

/// The GDT, in the order of [`sel`].
fn descriptors() -> [u64; 25] {
    const BIG: u8 = 0xC;
    [
        0,
        segment(0, 0xF_FFFF, 0x9B, BIG),
        segment(0, 0xF_FFFF, 0x93, BIG),
        segment(0, 0xF_FFFF, 0xFB, BIG),
        segment(0, 0xF_FFFF, 0xF3, BIG),
        segment(TSS, 0x1FF, 0x8B, 0),
        segment(LDT, 0x1F, 0x82, 0),
        segment(CODE, 0xFFFF, 0x9B, 0),
        segment(0, 0xFFFF, 0x93, 0),
        segment(CODE, 0xFFFF, 0xFB, 0),
        segment(0, 0xFFFF, 0xF3, 0),
        segment(TSS_B, 0x1FF, 0x89, 0),
        segment(TSS_16, 0x2B, 0x81, 0),
        gate(sel::TSS_B, 0, 0xE5, 0),
        gate(sel::CODE0, HANDLERS, 0xEC, 2),
        gate(sel::CODE16, 0x200, 0xE4, 1),
        segment(0, 0xF_FFFF, 0x9F, BIG),
        segment(0, 0xF_FFFF, 0xF9, BIG),
        segment(DATA, 0xFFF, 0xF1, 4),
        segment(0, 0x3, 0xF7, BIG),
        segment(DATA, 0x1FFF, 0xF7, 0),
        segment(DATA, 0x1234, 0xF3, 4),
        segment(DATA + 0x10, 0xF_FFFF, 0xF2, BIG),
        segment(0, 0xF_FFFF, 0x73, BIG),
        gate(sel::CODE3, CODE + 0x80, 0xEC, 0),
    ]
}

fn ldt() -> [u64; 4] {
    [
        segment(DATA, 0x3FFF, 0xF2, 4),
        segment(CODE, 0xFFF, 0xFA, 4),
        segment(DATA, 0x3FFF, 0x92, 0),
        gate(sel::CODE16_3, 0x40, 0xE4, 0),
    ]
}

/// Faults halt in the handlers; vectors from 20h on are of every kind.
fn idt_entry(vector: u32) -> u64 {
    let handler = HANDLERS + vector;
    match vector {
        3 | 4 => gate(sel::CODE0, handler, 0xEE, 0),
        8 => gate(sel::TSS_B, 0, 0x85, 0),
        0x20..0x80 => match vector & 7 {
            0 => gate(sel::CODE0, handler, 0xEE, 0),
            1 => gate(sel::CODE0, handler, 0xEF, 0),
            2 => gate(sel::CODE16, 0x200 + vector, 0xE6, 0),
            3 => gate(sel::CODE16, 0x200 + vector, 0xE7, 0),
            4 => gate(sel::TSS_B, 0, 0xE5, 0),
            5 => gate(sel::TSS_16, 0, 0xE5, 0),
            6 => gate(sel::CODE0, handler, 0x6E, 0),
            _ => gate(sel::CONFORMING, handler, 0xEE, 0),
        },
        _ => gate(sel::CODE0, handler, 0x8E, 0),
    }
}

/// A 32-bit task that starts at `eip` (Intel SDM vol. 3A, figure 7-2).
fn tss(eip: u32) -> Vec<u8> {
    let mut tss = vec![0; 0x200];
    let mut put = |at: usize, value: u32| tss[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(4, STACK0);
    put(8, sel::DATA0.into());
    put(12, STACK1);
    put(16, sel::DATA0.into());
    put(0x1C, DIRECTORY);
    put(0x20, eip);
    put(0x24, 2);
    put(0x38, STACK1);
    for at in [0x48, 0x50, 0x54, 0x58, 0x5C] {
        put(at, sel::DATA0.into());
    }
    put(0x4C, sel::CODE0.into());
    put(0x60, sel::LDT.into());
    put(0x64, 0x68 << 16);
    // Ports: every other byte of the map is free.
    for (index, byte) in tss[0x68..0x1FF].iter_mut().enumerate() {
        *byte = if index & 1 == 0 { 0 } else { 0xA5 };
    }
    tss[0x1FF] = 0xFF;
    tss
}

/// A 16-bit task (Intel SDM vol. 3A, figure 7-10).
fn tss_16() -> Vec<u8> {
    let mut tss = vec![0; 0x2C];
    let mut put = |at: usize, value: u16| tss[at..at + 2].copy_from_slice(&value.to_le_bytes());
    put(2, STACK0 as u16);
    put(4, sel::DATA16);
    put(0x0E, 0x300);
    put(0x10, 2);
    put(0x1A, STACK1 as u16);
    for at in [0x22, 0x26, 0x28] {
        put(at, sel::DATA16);
    }
    put(0x24, sel::CODE16);
    put(0x2A, sel::LDT);
    tss
}

/// A segment register after a load from the tables in memory.
fn loaded(memory: &[u8], selector: u16) -> Segment {
    let unusable = Segment {
        selector,
        rights: Rights::UNUSABLE,
        ..Segment::default()
    };
    if selector & !3 == 0 {
        return unusable;
    }
    let at = if selector & 4 == 0 { GDT } else { LDT } as usize + usize::from(selector & !7);
    let mut raw = [0; 8];
    raw.copy_from_slice(&memory[at..at + 8]);
    let raw = u64::from_le_bytes(raw);
    let limit = (raw & 0xFFFF | raw >> 32 & 0xF_0000) as u32;
    let rights = Rights::from_bits_retain((raw >> 40) as u32 & 0xF0FF & !0x2000);
    Segment {
        selector,
        base: (raw >> 16 & 0xFF_FFFF | raw >> 32 & 0xFF00_0000) as u32,
        limit: if rights.contains(Rights::GRANULARITY) {
            limit << 12 | 0xFFF
        } else {
            limit
        },
        rights,
    }
}

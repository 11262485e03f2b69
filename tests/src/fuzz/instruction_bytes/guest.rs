//! The guest around the code: descriptor tables with every kind of descriptor, page tables, handlers, and
//! the state to start from.

use super::tables::{
    CODE, DATA, DIRECTORY, END, GDT, HANDLERS, IDT, LDT, PAE_DIRECTORY, PAE_POINTERS, PAE_TABLE,
    STACK0, STACK3, TABLE, TSS, TSS_16, TSS_B, descriptors, idt_entry, ldt, sel, tss, tss_16,
};
use crate::fuzz::bytes::Bytes;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use shadow_mmu::PAGE_SIZE;
use translator::CpuState;
use translator::state::{Rights, Segment, TableRegister, cr0, cr4, efer, eflags, reg, seg};
use translator::system::CpuModel;

/// Bytes of an input that are not code.
pub(super) const HEADER: usize = 64;
/// Guest RAM in bytes; device memory is behind it.
pub(super) const RAM: usize = 0x4_1000;

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

const MODELS: [CpuModel; 8] = [
    CpuModel::CoreDuo,
    CpuModel::CoreDuo,
    CpuModel::CoreDuo,
    CpuModel::CoreDuo,
    CpuModel::Pentium3,
    CpuModel::Pentium3,
    CpuModel::Pentium,
    CpuModel::I486,
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
    /// Bit 0: traps and interrupts come back; 1: an interrupt is pending; 2: some pages may not be executed.
    options: u8,
    model: CpuModel,
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
        let options = choice >> 2;
        let model = MODELS[usize::from(options >> 3)];
        let paging = match mode {
            Mode::Real | Mode::Unreal => Paging::Off,
            _ => match choice & 3 {
                1 if model.cr4_bits() & cr4::PAE != 0 => Paging::Pae,
                2 => Paging::Off,
                _ => Paging::Bits32,
            },
        };
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
        let cr4 = cr4 & model.cr4_bits();
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
            model,
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

    /// The processor to be.
    pub(super) fn model(&self) -> CpuModel {
        self.model
    }

    /// IA32_EFER.NXE is set, and pages are marked.
    fn execute_disable(&self) -> bool {
        self.options & 4 != 0 && self.paging == Paging::Pae && self.model.has_execute_disable()
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
            let disabled = self.execute_disable() && matches!(page << 12, STACK3 | DATA..END);
            let entry = u64::from(entry) | u64::from(disabled) << 63;
            put(PAE_TABLE + page * 8, &entry.to_le_bytes());
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
        if self.execute_disable() {
            new.msrs.efer = efer::NXE;
        }
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

//! Where things are in the guest's memory, and its descriptor tables and task state segments.

/// Guest-physical layout. With paging, linear addresses are the same.
pub(super) const GDT: u32 = 0x1000;
pub(super) const LDT: u32 = 0x1400;
pub(super) const IDT: u32 = 0x800;
pub(super) const TSS: u32 = 0x1800;
pub(super) const TSS_B: u32 = 0x1A00;
pub(super) const TSS_16: u32 = 0x1C00;
/// One byte for each vector.
pub(super) const HANDLERS: u32 = 0x2000;
pub(super) const STACK0: u32 = 0x4000;
pub(super) const STACK1: u32 = 0x4800;
pub(super) const STACK3: u32 = 0x6000;
pub(super) const DIRECTORY: u32 = 0x8000;
pub(super) const TABLE: u32 = 0x9000;
pub(super) const PAE_POINTERS: u32 = 0xA000;
pub(super) const PAE_DIRECTORY: u32 = 0xB000;
pub(super) const PAE_TABLE: u32 = 0xC000;
pub(super) const CODE: u32 = 0x1_0000;
pub(super) const DATA: u32 = 0x2_0000;
/// End of what is mapped; the page before it is read-only, that behind it absent.
pub(super) const END: u32 = 0x4_0000;

/// Selectors; the ones with RPL 3 are for ring 3.
pub(super) mod sel {
    pub(in super::super) const CODE0: u16 = 0x08;
    pub(in super::super) const DATA0: u16 = 0x10;
    pub(in super::super) const CODE3: u16 = 0x1B;
    pub(in super::super) const DATA3: u16 = 0x23;
    pub(in super::super) const TSS: u16 = 0x28;
    pub(in super::super) const LDT: u16 = 0x30;
    pub(in super::super) const CODE16: u16 = 0x38;
    pub(in super::super) const DATA16: u16 = 0x40;
    pub(in super::super) const CODE16_3: u16 = 0x4B;
    pub(in super::super) const DATA16_3: u16 = 0x53;
    pub(in super::super) const TSS_B: u16 = 0x58;
    pub(in super::super) const TSS_16: u16 = 0x60;
    pub(in super::super) const TASK_GATE: u16 = 0x6B;
    pub(in super::super) const CALL_GATE: u16 = 0x73;
    pub(in super::super) const CALL_GATE_16: u16 = 0x7B;
    pub(in super::super) const CONFORMING: u16 = 0x83;
    pub(in super::super) const EXECUTE_ONLY: u16 = 0x8B;
    pub(in super::super) const READ_ONLY: u16 = 0x93;
    pub(in super::super) const DOWN: u16 = 0x9B;
    pub(in super::super) const DOWN_16: u16 = 0xA3;
    pub(in super::super) const LIMITED: u16 = 0xAB;
    pub(in super::super) const BASED: u16 = 0xB3;
    pub(in super::super) const ABSENT: u16 = 0xBB;
    pub(in super::super) const CALL_GATE_SAME: u16 = 0xC3;
    /// In the LDT.
    pub(in super::super) const LDT_DATA: u16 = 0x07;
    pub(in super::super) const LDT_CODE: u16 = 0x0F;
}

pub(super) fn segment(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | u64::from(access) << 40
        | (limit >> 16 & 0xF) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

pub(super) fn gate(selector: u16, offset: u32, access: u8, parameters: u8) -> u64 {
    u64::from(offset & 0xFFFF)
        | u64::from(selector) << 16
        | u64::from(parameters) << 32
        | u64::from(access) << 40
        | u64::from(offset >> 16) << 48
}

/// The GDT, in the order of [`sel`].
pub(super) fn descriptors() -> [u64; 25] {
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

pub(super) fn ldt() -> [u64; 4] {
    [
        segment(DATA, 0x3FFF, 0xF2, 4),
        segment(CODE, 0xFFF, 0xFA, 4),
        segment(DATA, 0x3FFF, 0x92, 0),
        gate(sel::CODE16_3, 0x40, 0xE4, 0),
    ]
}

/// Faults halt in the handlers; vectors from 20h on are of every kind.
pub(super) fn idt_entry(vector: u32) -> u64 {
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
pub(super) fn tss(eip: u32) -> Vec<u8> {
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
pub(super) fn tss_16() -> Vec<u8> {
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

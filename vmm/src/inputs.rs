//! Builds the inputs of a decision from the vCPU and from the guest's descriptor tables.

use decision::{CodeSize, Inputs, Segments};
use shadow_mmu::{Access, Mmu, Privilege};
use translator::CpuState;
use translator::state::{InterruptShadow, Rights, Segment, cr0, eflags, seg};

/// Copies of the descriptor tables, as the last decision saw them: comparing a table with its copy
/// is much cheaper than looking through it. Direct execution makes its shadows from them.
#[derive(Debug, Default)]
pub struct DescriptorTables {
    gdt: TableCopy,
    ldt: TableCopy,
}

#[derive(Debug, Default)]
struct TableCopy {
    bytes: Vec<u8>,
    /// Spare room for the next reading.
    next: Vec<u8>,
    /// See [`Inputs::long_mode_visible`].
    visible: bool,
}

/// DR7: a breakpoint is enabled (L0 to G3), or general detection (Intel SDM vol. 3B, 18.2.4).
const DR7_ENABLES: u32 = 0xFF | 1 << 13;
const SELECTOR_TI: u16 = 1 << 2;
const SELECTOR_RPL: u16 = 3;

impl DescriptorTables {
    /// The decision's inputs for `state`. `replay` tells that direct execution left at an
    /// instruction that the translator has to run.
    pub fn inputs(&mut self, state: &CpuState, mmu: &Mmu, replay: bool) -> Inputs {
        let descriptors = state.protected_mode() && !state.virtual_8086();
        let reversible = if descriptors {
            self.read(state, mmu);
            self.reversible(state)
        } else {
            Segments::all()
        };
        Inputs {
            protected_mode: state.protected_mode(),
            virtual_8086: state.virtual_8086(),
            cpl: state.cpl,
            iopl: state.iopl(),
            interrupt_flag: state.interrupt_flag(),
            trap_flag: state.eflags & eflags::TF != 0,
            interrupt_shadow: state.interrupt_shadow != InterruptShadow::None,
            debug_registers_enabled: state.dr[7] & DR7_ENABLES != 0 || state.pending_debug != 0,
            reversible,
            limited: descriptors && state.seg.iter().any(is_limited),
            code_size: if state.seg[seg::CS].is_big() {
                CodeSize::Bits32
            } else {
                CodeSize::Bits16
            },
            stack_16: !state.seg[seg::SS].is_big(),
            paging: state.cr0 & cr0::PG != 0,
            long_mode_visible: descriptors && (self.gdt.visible || self.ldt.visible),
            // While FERR# is asserted the translator looks at each x87 instruction.
            replay_pending: replay || state.ferr,
            cs: state.seg[seg::CS].selector,
            eip: state.eip,
            eflags: state.eflags,
            cr3: state.cr3,
        }
    }

    /// The global table as the last decision in protected mode saw it; zeros where it could not be read.
    #[must_use]
    pub fn gdt(&self) -> &[u8] {
        &self.gdt.bytes
    }

    /// The local table likewise; empty if there is none.
    #[must_use]
    pub fn ldt(&self) -> &[u8] {
        &self.ldt.bytes
    }

    fn read(&mut self, state: &CpuState, mmu: &Mmu) {
        let gdtr = state.gdtr;
        self.gdt.update(gdtr.base, usize::from(gdtr.limit) + 1, mmu);
        let ldt = &state.ldtr;
        let has_ldt = ldt.selector & !SELECTOR_RPL != 0
            && ldt.rights.contains(Rights::PRESENT)
            && !ldt.rights.contains(Rights::UNUSABLE);
        let ldt_size = if has_ldt {
            // A table has at most 8192 descriptors, whatever its limit.
            (ldt.limit as usize).saturating_add(1).min(0x1_0000)
        } else {
            0
        };
        self.ldt.update(ldt.base, ldt_size, mmu);
    }

    fn reversible(&self, state: &CpuState) -> Segments {
        const SEGMENTS: [(usize, Segments); 6] = [
            (seg::ES, Segments::ES),
            (seg::CS, Segments::CS),
            (seg::SS, Segments::SS),
            (seg::DS, Segments::DS),
            (seg::FS, Segments::FS),
            (seg::GS, Segments::GS),
        ];
        let mut set = Segments::empty();
        for (index, segment) in SEGMENTS {
            if self.is_reversible(index, state) {
                set |= segment;
            }
        }
        set
    }

    /// The hidden part of the register is what loading its selector would give now, and the load
    /// would be allowed (Intel SDM vol. 2A, MOV, and vol. 3A, section 5.5).
    fn is_reversible(&self, index: usize, state: &CpuState) -> bool {
        let Some(register) = state.seg.get(index) else {
            return false;
        };
        if register.selector & !SELECTOR_RPL == 0 {
            let data = index != seg::CS && index != seg::SS;
            return data && register.rights.contains(Rights::UNUSABLE);
        }
        let Some(loaded) = self.load(register.selector) else {
            return false;
        };
        same_hidden_part(&loaded, register)
            && load_allowed(index, &loaded, register.selector, state.cpl)
    }

    /// What a load of the selector would put into the hidden part.
    fn load(&self, selector: u16) -> Option<Segment> {
        let table = if selector & SELECTOR_TI == 0 {
            &self.gdt
        } else {
            &self.ldt
        };
        let offset = usize::from(selector & !7);
        let bytes = table.bytes.get(offset..offset + 8)?;
        let raw = u64::from_le_bytes(bytes.try_into().ok()?);
        Some(descriptor(selector, raw))
    }
}

/// An offset can be beyond the limit of the segment.
fn is_limited(segment: &Segment) -> bool {
    !segment.rights.contains(Rights::UNUSABLE) && !segment.has_full_limit()
}

/// Decodes a code or data descriptor (Intel SDM vol. 3A, section 3.4.5).
fn descriptor(selector: u16, raw: u64) -> Segment {
    let rights = Rights::from_bits_retain((raw >> 40) as u32 & 0xF0FF);
    let raw_limit = (raw & 0xFFFF) as u32 | ((raw >> 48) as u32 & 0xF) << 16;
    let limit = if rights.contains(Rights::GRANULARITY) {
        raw_limit << 12 | 0xFFF
    } else {
        raw_limit
    };
    Segment {
        selector,
        base: (raw >> 16) as u32 & 0xFF_FFFF | ((raw >> 56) as u32) << 24,
        limit,
        rights,
    }
}

fn same_hidden_part(loaded: &Segment, register: &Segment) -> bool {
    // A load sets the accessed bit, in the register and in memory.
    let rights = |segment: &Segment| segment.rights | Rights::ACCESSED;
    loaded.base == register.base
        && loaded.limit == register.limit
        && rights(loaded) == rights(register)
}

fn load_allowed(index: usize, loaded: &Segment, selector: u16, cpl: u8) -> bool {
    let rights = loaded.rights;
    if !rights.contains(Rights::S | Rights::PRESENT) {
        return false;
    }
    let code = rights.contains(Rights::CODE);
    let conforming = code && rights.contains(Rights::DOWN_CONFORMING);
    let rpl = (selector & SELECTOR_RPL) as u8;
    let dpl = rights.dpl();
    match index {
        seg::CS => code && rpl == cpl && if conforming { dpl <= cpl } else { dpl == cpl },
        seg::SS => !code && rights.contains(Rights::WRITE_READ) && rpl == cpl && dpl == cpl,
        _ => {
            let readable = !code || rights.contains(Rights::WRITE_READ);
            readable && (conforming || dpl >= rpl.max(cpl))
        }
    }
}

impl TableCopy {
    /// Reads the table again, and looks through it if it differs from the copy.
    fn update(&mut self, base: u32, size: usize, mmu: &Mmu) {
        self.next.clear();
        self.next.resize(size, 0);
        let mut offset = 0;
        while offset < size {
            let linear = base.wrapping_add(offset as u32);
            let count = (0x1000 - (linear as usize & 0xFFF)).min(size - offset);
            // What cannot be read cannot be loaded: zeros are descriptors that are not present.
            if let Some(part) = self.next.get_mut(offset..offset + count)
                && let Ok(found) = mmu.probe(linear, Access::read(Privilege::Supervisor))
                && mmu.read_phys(found.gpa, part).is_err()
            {
                part.fill(0);
            }
            offset += count;
        }
        if self.next != self.bytes {
            std::mem::swap(&mut self.next, &mut self.bytes);
            self.visible = self
                .bytes
                .as_chunks::<8>()
                .0
                .iter()
                .any(|raw| looks_different_in_long_mode(u64::from_le_bytes(*raw)));
        }
    }
}

/// `lar` or `lsl` at ring 3 gives an answer that direct execution does not give: 16-bit TSSs, the 16-bit
/// call gate and the task gate, with DPL 3 (Intel SDM vol. 2A, LAR and LSL, tables 3-53 and 3-56); code
/// with L, which the shadow table does not have.
fn looks_different_in_long_mode(raw: u64) -> bool {
    const LONG: u64 = 1 << 53;
    let rights = Rights::from_bits_retain((raw >> 40) as u32 & 0xFF);
    let code = rights.contains(Rights::S | Rights::CODE);
    let seen = rights.dpl() == 3 || rights.contains(Rights::DOWN_CONFORMING);
    if code && seen && raw & LONG != 0 {
        return true;
    }
    const TSS_16: u8 = 1;
    const TSS_16_BUSY: u8 = 3;
    const CALL_GATE_16: u8 = 4;
    const TASK_GATE: u8 = 5;
    !rights.contains(Rights::S)
        && rights.dpl() == 3
        && matches!(
            rights.segment_type(),
            TSS_16 | TSS_16_BUSY | CALL_GATE_16 | TASK_GATE
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use translator::state::reg;

    const KERNEL_CODE: u64 = 0x00CF_9B00_0000_FFFF;
    const USER_CODE: u64 = 0x00CF_FB00_0000_FFFF;
    const USER_DATA: u64 = 0x00CF_F300_0000_FFFF;
    const CS3: u16 = 0x13;
    const DS3: u16 = 0x1B;

    fn tables(gdt: &[u64]) -> DescriptorTables {
        let mut tables = DescriptorTables::default();
        tables.gdt.bytes = gdt.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        tables
    }

    fn ring3() -> (DescriptorTables, CpuState) {
        let mut state = CpuState::reset(0);
        state.cr0 |= cr0::PE;
        state.cpl = 3;
        state.gpr[reg::EAX] = 1;
        state.seg = [descriptor(DS3, USER_DATA); 6];
        state.seg[seg::CS] = descriptor(CS3, USER_CODE);
        (tables(&[0, KERNEL_CODE, USER_CODE, USER_DATA]), state)
    }

    #[test]
    fn what_was_loaded_from_the_table_is_reversible() {
        let (tables, state) = ring3();
        assert_eq!(tables.reversible(&state), Segments::all());
    }

    #[test]
    fn a_table_that_changed_since_the_load_is_found() {
        let (_, state) = ring3();
        // The base of the data segment was changed, the code segment got its accessed bit cleared.
        let changed = tables(&[
            0,
            KERNEL_CODE,
            USER_CODE & !(1 << 40),
            USER_DATA | 0x10 << 16,
        ]);
        assert_eq!(changed.reversible(&state), Segments::CS);
        // The table got shorter.
        let shorter = tables(&[0, KERNEL_CODE, USER_CODE]);
        assert_eq!(shorter.reversible(&state), Segments::CS);
        // Not present any more.
        let absent = tables(&[0, KERNEL_CODE, USER_CODE & !(1 << 47), USER_DATA]);
        assert_eq!(absent.reversible(&state), Segments::all() - Segments::CS);
    }

    #[test]
    fn unreal_mode_and_left_over_segments_are_not_reversible() {
        let (tables, mut state) = ring3();
        // FS kept the limit it had in real mode, GS a base from nowhere.
        state.seg[seg::FS] = Segment::real(0x1B);
        state.seg[seg::GS].base = 0x1234;
        assert_eq!(
            tables.reversible(&state),
            Segments::all() - (Segments::FS | Segments::GS)
        );
    }

    #[test]
    fn a_null_selector_is_reversible_only_in_an_unusable_data_segment() {
        let (tables, mut state) = ring3();
        for index in [seg::FS, seg::GS, seg::SS] {
            state.seg[index] = Segment {
                selector: 3,
                rights: Rights::UNUSABLE,
                ..Segment::default()
            };
        }
        state.seg[seg::GS].rights = Rights::from_bits_retain(0xC0F3);
        assert_eq!(
            tables.reversible(&state),
            Segments::all() - (Segments::GS | Segments::SS)
        );
    }

    #[test]
    fn a_load_that_ring_3_may_not_do_is_not_reversible() {
        const KERNEL_DATA: u64 = 0x00CF_9300_0000_FFFF;
        let (_, mut state) = ring3();
        state.seg[seg::ES] = descriptor(0x20, KERNEL_DATA);
        let tables = tables(&[0, KERNEL_CODE, USER_CODE, USER_DATA, KERNEL_DATA]);
        assert_eq!(tables.reversible(&state), Segments::all() - Segments::ES);
    }

    #[test]
    fn descriptors_decode_by_the_manual() {
        let segment = descriptor(0x2F, 0x12CF_F334_5678_9ABC);
        assert_eq!(segment.base, 0x1234_5678);
        assert_eq!(segment.limit, 0xF9AB_CFFF);
        assert_eq!(segment.rights.bits(), 0xC0F3);
        let small = descriptor(0x2F, 0x120F_F334_5678_9ABC);
        assert_eq!(small.limit, 0xF_9ABC);
    }

    #[test]
    fn only_what_lar_and_lsl_answer_differently_is_visible() {
        let of = |segment_type: u64, dpl: u64, s: u64| {
            looks_different_in_long_mode((segment_type | s << 4 | dpl << 5 | 0x80) << 40)
        };
        for segment_type in 0..16 {
            let differs = [1, 3, 4, 5].contains(&segment_type);
            assert_eq!(of(segment_type, 3, 0), differs, "type {segment_type}");
            assert!(!of(segment_type, 0, 0), "ring 3 gets no answer");
            assert!(!of(segment_type, 3, 1), "no system descriptor");
        }
        const LONG: u64 = 1 << 53;
        assert!(looks_different_in_long_mode(USER_CODE | LONG));
        assert!(!looks_different_in_long_mode(USER_DATA | LONG));
        assert!(!looks_different_in_long_mode(KERNEL_CODE | LONG));
    }
}

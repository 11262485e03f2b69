//! Control, debug and model-specific registers, descriptor-table registers, CPUID.

use super::*;
use crate::state::cr4;

fn mov_cr(m: &mut Machine, number: u8, value: u32) -> Result<Flow, Exception> {
    m.cpu.gpr[reg::EAX] = value;
    m.run(&[0x0F, 0x22, 0xC0 | number << 3])
}

#[test]
fn cr0_combinations() {
    let mut m = Machine::protected();
    let old = m.cpu.cr0;
    assert_eq!(mov_cr(&mut m, 0, cr0::PG), gp0(), "PG without PE");
    assert_eq!(mov_cr(&mut m, 0, cr0::PE | cr0::NW), gp0(), "NW without CD");
    assert_eq!(mov_cr(&mut m, 0, 0x1FF0_0000 | old), Ok(Flow::Next));
    assert_eq!(m.cpu.cr0, old, "reserved bits are ignored, ET is fixed");
    assert_eq!(mov_cr(&mut m, 0, cr0::PE), Ok(Flow::Next));
    assert_eq!(m.run(&[0x0F, 0x20, 0xC3]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::EBX], cr0::PE | cr0::ET);
}

#[test]
fn cr4_has_the_bits_of_the_model() {
    let mut m = Machine::protected();
    let all = CpuModel::Pentium3.cr4_bits();
    assert_eq!(mov_cr(&mut m, 4, all), Ok(Flow::Next));
    assert_eq!(m.cpu.cr4, all);
    for absent in [cr4::VME, cr4::MCE, 1 << 20] {
        assert_eq!(mov_cr(&mut m, 4, absent), gp0(), "{absent:#x}");
    }
    m.model = CpuModel::I486;
    assert_eq!(mov_cr(&mut m, 4, cr4::PSE), Ok(Flow::Next));
    for absent in [cr4::TSD, cr4::DE, cr4::PAE, cr4::PGE, cr4::PCE, cr4::OSFXSR] {
        assert_eq!(mov_cr(&mut m, 4, absent), gp0(), "{absent:#x}");
    }
}

#[test]
fn a_page_directory_pointer_with_a_reserved_bit_is_not_loaded() {
    let mut m = Machine::protected();
    let table = 0x6000u32;
    let present = |extra: u64| (0x7001 | extra).to_le_bytes();
    m.mmu.write_phys(u64::from(table), &present(0)).unwrap();
    assert_eq!(mov_cr(&mut m, 4, cr4::PAE), Ok(Flow::Next));
    assert_eq!(mov_cr(&mut m, 3, table), Ok(Flow::Next));
    // Without paging nobody looks; turning it on does.
    m.mmu.write_phys(u64::from(table) + 8, &present(2)).unwrap();
    assert_eq!(mov_cr(&mut m, 3, table), Ok(Flow::Next));
    assert_eq!(mov_cr(&mut m, 0, cr0::PE | cr0::PG), gp0());
    m.mmu.write_phys(u64::from(table) + 8, &[0; 8]).unwrap();
    m.cpu.cr0 |= cr0::PG;
    assert_eq!(mov_cr(&mut m, 3, table), Ok(Flow::Next));
    m.mmu
        .write_phys(u64::from(table) + 24, &present(1 << 36))
        .unwrap();
    assert_eq!(mov_cr(&mut m, 3, table), gp0());
    assert_eq!(m.cpu.cr3, table);
}

#[test]
fn privileged_instructions_at_cpl_3() {
    let codes: [&[u8]; 13] = [
        &[0x0F, 0x20, 0xC0],
        &[0x0F, 0x22, 0xD8],
        &[0x0F, 0x21, 0xC0],
        &[0x0F, 0x06],
        &[0x0F, 0x01, 0xF0],
        &[0x0F, 0x01, 0x38],
        &[0x0F, 0x01, 0x10],
        &[0x0F, 0x01, 0x18],
        &[0x0F, 0x08],
        &[0x0F, 0x09],
        &[0x0F, 0x30],
        &[0x0F, 0x32],
        &[0xF4],
    ];
    for code in codes {
        assert_eq!(Machine::user().run(code), gp0(), "{code:02x?}");
    }
    let codes: [&[u8]; 4] = [
        &[0x0F, 0x0B],
        &[0x0F, 0xAA],
        &[0x0F, 0xFF, 0xC0],
        &[0x0F, 0xB9, 0xC0],
    ];
    for code in codes {
        assert_eq!(Machine::user().run(code), ud(), "{code:02x?}");
    }
}

#[test]
fn cr2_cr3_clts_lmsw_smsw() {
    let mut m = Machine::protected();
    assert_eq!(mov_cr(&mut m, 2, 0x1234_5678), Ok(Flow::Next));
    assert_eq!(m.cpu.cr2, 0x1234_5678);
    assert_eq!(mov_cr(&mut m, 3, 0x0010_0FFF), Ok(Flow::Next));
    assert_eq!(m.cpu.cr3, 0x0010_0018);
    m.cpu.gpr[reg::EAX] = 0xFFFE;
    assert_eq!(m.run(&[0x0F, 0x01, 0xF0]), Ok(Flow::Next));
    assert_eq!(m.cpu.cr0 & 0xF, 0xF, "LMSW does not clear PE");
    assert_eq!(m.run(&[0x0F, 0x06]), Ok(Flow::Next));
    assert_eq!(m.cpu.cr0 & 0xF, 0x7);
    assert_eq!(m.run(&[0x66, 0x0F, 0x01, 0xE0]), Ok(Flow::Next));
    assert_eq!(
        m.cpu.gpr[reg::EAX],
        m.cpu.cr0 & 0xFFFF,
        "SMSW AX keeps the upper half"
    );
    assert_eq!(m.run(&[0x0F, 0x20, 0xC8]), ud(), "CR1");
}

#[test]
fn debug_registers() {
    let mut m = Machine::protected();
    m.cpu.gpr[reg::EAX] = 0xFFFF_FFFF;
    assert_eq!(m.run(&[0x0F, 0x23, 0xF0]), Ok(Flow::Next));
    assert_eq!(m.cpu.dr[6], 0xFFFF_EFFF);
    m.cpu.gpr[reg::EAX] = 0;
    assert_eq!(m.run(&[0x0F, 0x23, 0xE8]), Ok(Flow::Next), "DR5 is DR7");
    assert_eq!(m.cpu.dr[7], 0x400);
    assert_eq!(m.run(&[0x0F, 0x21, 0xE3]), Ok(Flow::Next), "DR4 is DR6");
    assert_eq!(m.cpu.gpr[reg::EBX], 0xFFFF_EFFF);
    m.cpu.cr4 |= cr4::DE;
    assert_eq!(m.run(&[0x0F, 0x21, 0xE3]), ud());
    m.cpu.dr[7] |= 1 << 13;
    assert_eq!(
        m.run(&[0x0F, 0x21, 0xC3]),
        Err(Exception::debug_fault(1 << 13))
    );
}

#[test]
fn table_registers() {
    let mut m = Machine::protected();
    m.set(0x6000, &[0x34, 0x12, 0x44, 0x33, 0x22, 0x11]);
    m.cpu.gpr[reg::EAX] = 0x6000;
    assert_eq!(m.run(&[0x0F, 0x01, 0x18]), Ok(Flow::Next));
    assert_eq!((m.cpu.idtr.limit, m.cpu.idtr.base), (0x1234, 0x1122_3344));
    assert_eq!(m.run(&[0x66, 0x0F, 0x01, 0x10]), Ok(Flow::Next));
    assert_eq!((m.cpu.gdtr.limit, m.cpu.gdtr.base), (0x1234, 0x0022_3344));
    m.cpu.gpr[reg::EAX] = 0x6100;
    assert_eq!(m.run(&[0x66, 0x0F, 0x01, 0x08]), Ok(Flow::Next));
    assert_eq!(m.get(0x6100), [0x34, 0x12, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(m.run(&[0x0F, 0x01, 0x00]), Ok(Flow::Next));
    assert_eq!(m.get(0x6100), [0x34, 0x12, 0x44, 0x33, 0x22, 0x00]);
}

#[test]
fn model_specific_registers() {
    let mut m = Machine::protected();
    m.cpu.gpr[reg::ECX] = 0x176;
    m.cpu.gpr[reg::EAX] = 0xC000_0000;
    assert_eq!(m.run(&[0x0F, 0x30]), Ok(Flow::Next));
    m.cpu.gpr[reg::EAX] = 0;
    assert_eq!(m.run(&[0x0F, 0x32]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::EAX], 0xC000_0000);
    m.cpu.gpr[reg::ECX] = 0xC000_0080;
    assert_eq!(m.run(&[0x0F, 0x32]), gp0(), "no EFER");
    m.cpu.gpr[reg::ECX] = 0x8B;
    assert_eq!(m.run(&[0x0F, 0x32]), Ok(Flow::Next), "microcode revision");
    m.model = CpuModel::I486;
    assert_eq!(m.run(&[0x0F, 0x32]), ud());
}

#[test]
fn time_stamp_counter() {
    let mut m = Machine::user();
    assert_eq!(m.run(&[0x0F, 0x31]), Ok(Flow::Next));
    assert_eq!((m.cpu.gpr[reg::EDX], m.cpu.gpr[reg::EAX]), (1, 0x2345_6789));
    m.cpu.cr4 |= cr4::TSD;
    assert_eq!(m.run(&[0x0F, 0x31]), gp0());
    let mut m = Machine::protected();
    m.cpu.gpr[reg::ECX] = 0x10;
    m.cpu.gpr[reg::EDX] = 5;
    m.cpu.gpr[reg::EAX] = 100;
    assert_eq!(m.run(&[0x0F, 0x30]), Ok(Flow::Next));
    assert_eq!(m.run(&[0x0F, 0x31]), Ok(Flow::Next));
    assert_eq!((m.cpu.gpr[reg::EDX], m.cpu.gpr[reg::EAX]), (0, 100));
    assert_eq!(m.run(&[0x0F, 0x33]), gp0(), "RDPMC of counter 16");
    m.cpu.gpr[reg::ECX] = 1;
    assert_eq!(m.run(&[0x0F, 0x33]), Ok(Flow::Next));
}

#[test]
fn cpuid_answers_at_any_privilege() {
    let mut m = Machine::user();
    m.cpu.gpr[reg::EAX] = 1;
    assert_eq!(m.run(&[0x0F, 0xA2]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::EAX], CpuModel::Pentium3.signature());
    assert_eq!(m.cpu.gpr[reg::EDX], CpuModel::Pentium3.features());
}

#[test]
fn popf_by_privilege() {
    // At CPL 3 with IOPL 0, IF and IOPL stay silently; CLI and STI fault.
    let mut m = Machine::user();
    m.put_stack32(&[0x3000 | eflags::CF]);
    assert_eq!(m.run(&[0x9D]), Ok(Flow::Next));
    assert_eq!(m.cpu.eflags, eflags::FIXED | eflags::IF | eflags::CF);
    assert_eq!(m.run(&[0xFA]), gp0());
    assert_eq!(m.run(&[0xFB]), gp0());
    m.cpu.eflags |= eflags::IOPL;
    assert_eq!(m.run(&[0xFA]), Ok(Flow::Next));
    // 16-bit operands do not reach AC and ID.
    let mut m = Machine::protected();
    m.cpu.eflags |= eflags::AC;
    m.put_stack32(&[0]);
    assert_eq!(m.run(&[0x66, 0x9D]), Ok(Flow::Next));
    assert_eq!(m.cpu.eflags, eflags::FIXED | eflags::AC);
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0 + 2);
}

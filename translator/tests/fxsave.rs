//! FXSAVE and FXRSTOR: what they move, and what stops them (Intel SDM vol. 2A).

mod common;

use common::guarded::{Report, guarded_with};
use common::{Machine, ORIGIN};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use translator::state::{cr0, cr4};
use translator::system::CpuModel;
use translator::{Exit, VcpuConfig};

/// Where images are.
const FROM: u32 = 0x3000;
const TO: u32 = 0x3200;
/// Bytes of the operand, and those of them that are written.
const SIZE: usize = 512;
const WRITTEN: usize = 288;
/// Offsets in an image.
const FIP: usize = 8;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const XMM: usize = 160;

type Program<'a> = dyn Fn(&mut CodeAssembler) -> Result<(), IcedError> + 'a;

/// A program at `cpl` with an image to load, memory to save to that is full of CCh, and all units on.
fn machine(model: CpuModel, cpl: u8, image: &[u8; SIZE], program: &Program<'_>) -> Machine {
    let config = VcpuConfig {
        model,
        ..VcpuConfig::default()
    };
    let mut machine = guarded_with(config, cpl, |a| {
        program(a)?;
        a.hlt()
    });
    machine.write(FROM, image);
    machine.write(TO, &[0xCC; SIZE]);
    let cpu = machine.vcpu.state_mut();
    cpu.cr0 = cr0::PE | cr0::ET | cr0::NE;
    cpu.cr4 |= cr4::OSFXSR;
    machine
}

/// An image in which no two registers are alike.
fn image() -> [u8; SIZE] {
    let mut image = [0; SIZE];
    for (n, byte) in image[..WRITTEN].iter_mut().enumerate() {
        *byte = n as u8;
    }
    // Round down, TOP = 4, one register in use, no pointers.
    image[..8].copy_from_slice(&[0x7F, 0x07, 0x00, 0x20, 0x10, 0, 0, 0]);
    image[8..MXCSR].fill(0);
    image[MXCSR..MXCSR + 4].copy_from_slice(&0x3FA0u32.to_le_bytes());
    image[MXCSR_MASK..MXCSR_MASK + 4].copy_from_slice(&0xFFFFu32.to_le_bytes());
    for register in image[32..XMM].chunks_mut(16) {
        register[9] = 0x3F;
        register[10..].fill(0);
    }
    image
}

fn bytes(machine: &Machine, at: u32, size: usize) -> Vec<u8> {
    (0..size as u32)
        .step_by(4)
        .flat_map(|n| machine.dword(u64::from(at + n)).to_le_bytes())
        .collect()
}

/// Vector and offset of EIP of the first exception of a program.
fn fault(machine: &mut Machine) -> Option<(u32, u32)> {
    assert_eq!(machine.run(), Exit::Halted);
    let reports = machine.ports.reports();
    let brief = |r: &Report| (r.vector, r.eip.wrapping_sub(ORIGIN));
    reports.first().map(brief)
}

fn restore_and_save(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.fxrstor(ptr(FROM))?; // 0
    a.fxsave(ptr(TO)) // 7
}

#[test]
fn what_is_restored_is_saved() {
    for cpl in [0, 3] {
        let mut machine = machine(CpuModel::CoreDuo, cpl, &image(), &restore_and_save);
        // HLT ends the program at CPL 3.
        let end = (cpl == 3).then_some((13, 14));
        assert_eq!(fault(&mut machine), end);
        let saved = bytes(&machine, TO, SIZE);
        assert_eq!(saved[..FIP], image()[..FIP]);
        // Instruction and operand pointers lie between.
        assert_eq!(saved[MXCSR..WRITTEN], image()[MXCSR..WRITTEN]);
        assert!(
            saved[WRITTEN..].iter().all(|&byte| byte == 0xCC),
            "what lies behind XMM7 stays as it is"
        );
    }
}

#[test]
fn em_and_ts_make_them_unavailable() {
    for flag in [cr0::EM, cr0::TS, cr0::EM | cr0::TS] {
        for osfxsr in [0, cr4::OSFXSR] {
            let programs: [&Program<'_>; 2] = [&|a| a.fxsave(ptr(TO)), &|a| a.fxrstor(ptr(FROM))];
            for program in programs {
                let mut machine = machine(CpuModel::CoreDuo, 0, &image(), program);
                let cpu = machine.vcpu.state_mut();
                cpu.cr0 |= flag;
                cpu.cr4 = osfxsr;
                assert_eq!(fault(&mut machine), Some((7, 0)), "#NM");
                assert_eq!(machine.dword(u64::from(TO)), 0xCCCC_CCCC);
            }
        }
    }
}

#[test]
fn they_need_no_osfxsr() {
    let mut machine = machine(CpuModel::CoreDuo, 0, &image(), &restore_and_save);
    machine.vcpu.state_mut().cr4 = 0;
    assert_eq!(fault(&mut machine), None);
    assert_eq!(bytes(&machine, TO, FIP), image()[..FIP]);
}

#[test]
fn misaligned_operands_are_a_general_protection_fault() {
    for cpl in [0, 3] {
        for by in [1, 2, 4, 8] {
            let programs: [&Program<'_>; 2] =
                [&|a| a.fxsave(ptr(TO + by)), &|a| a.fxrstor(ptr(FROM + by))];
            for program in programs {
                let mut machine = machine(CpuModel::CoreDuo, cpl, &image(), program);
                assert_eq!(fault(&mut machine), Some((13, 0)), "#GP, by {by}");
                assert_eq!(machine.dword(u64::from(TO + by)), 0xCCCC_CCCC);
            }
        }
    }
}

/// Loads an MXCSR by FXRSTOR or LDMXCSR; whether that is #GP, which leaves all registers alone.
fn refuses(model: CpuModel, mxcsr: u32, alone: bool) -> bool {
    let mut image = image();
    image[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    let program: &Program<'_> = if alone {
        &|a| a.ldmxcsr(dword_ptr(FROM + MXCSR as u32))
    } else {
        &|a| a.fxrstor(ptr(FROM))
    };
    let mut machine = machine(model, 0, &image, program);
    let before = machine.vcpu.state().fpu;
    let found = fault(&mut machine);
    let after = machine.vcpu.state().fpu;
    match found {
        None => {
            assert_eq!(after.0[MXCSR..MXCSR + 4], mxcsr.to_le_bytes());
            false
        }
        Some(found) => {
            assert_eq!(found, (13, 0));
            assert_eq!(after.0[MXCSR..MXCSR + 4], before.0[MXCSR..MXCSR + 4]);
            assert_eq!(after.0[XMM..WRITTEN], before.0[XMM..WRITTEN]);
            true
        }
    }
}

#[test]
fn mxcsr_has_the_bits_of_the_model_whatever_the_host_has() {
    for alone in [false, true] {
        for bit in 0..32 {
            let refused = |model| refuses(model, 0x1F80 ^ 1 << bit, alone);
            assert_eq!(refused(CpuModel::CoreDuo), bit >= 16, "bit {bit}");
            // No denormals-are-zeros.
            assert_eq!(refused(CpuModel::Pentium3), bit >= 16 || bit == 6);
        }
    }
    for (model, mask) in [(CpuModel::CoreDuo, 0xFFFF), (CpuModel::Pentium3, 0xFFBF)] {
        let mut machine = machine(model, 0, &image(), &|a| a.fxsave(ptr(TO)));
        assert_eq!(fault(&mut machine), None);
        assert_eq!(
            machine.dword(u64::from(TO) + MXCSR_MASK as u64),
            mask,
            "{model}"
        );
    }
}

#[test]
fn a_pending_exception_is_loaded_and_not_reported() {
    // ZE and ES with the division by zero unmasked.
    let mut pending = image();
    pending[..4].copy_from_slice(&[0x7B, 0x03, 0x84, 0xA0]);
    let mut machine = machine(CpuModel::CoreDuo, 0, &pending, &|a| {
        a.fxrstor(ptr(FROM))?; // 0
        a.fxsave(ptr(TO))?; // 7
        a.wait() // 14
    });
    assert_eq!(fault(&mut machine), Some((16, 14)), "#MF");
    assert_eq!(bytes(&machine, TO, 4), pending[..4]);
}

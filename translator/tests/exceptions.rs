//! Alignment checks, numeric exceptions and LOCK, through the whole translator.

mod common;

use common::guarded::{Report, guarded};
use common::{Machine, ORIGIN};
use iced_x86::code_asm::*;
use iced_x86::{IcedError, code_asm};
use translator::Exit;
use translator::state::{cr0, cr4, eflags, reg};

/// #GP, which HLT at CPL 3 ends a program with.
const GP: u32 = 13;
const AC: u32 = 17;

/// The exceptions of a program: vector, offset of EIP, error code.
fn exceptions(machine: &mut Machine) -> Vec<(u32, u32, u32)> {
    assert_eq!(machine.run(), Exit::Halted);
    let reports = machine.ports.reports();
    let brief = |r: &Report| (r.vector, r.eip.wrapping_sub(ORIGIN), r.error_code);
    reports.iter().map(brief).collect()
}

/// The first exception of a program at CPL 3 with alignment checks on: its vector. The program begins
/// with EBX = 3001h, ECX = 3002h and ESI = 3004h.
fn checked(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> u32 {
    let mut machine = guarded(3, |a| {
        program(a)?;
        a.hlt()
    });
    let cpu = machine.vcpu.state_mut();
    cpu.cr0 = (cpu.cr0 | cr0::AM) & !(cr0::TS | cr0::EM);
    cpu.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.eflags |= eflags::AC;
    cpu.gpr[reg::EBX] = 0x3001;
    cpu.gpr[reg::ECX] = 0x3002;
    cpu.gpr[reg::ESI] = 0x3004;
    cpu.gpr[reg::EDI] = 0x3005;
    cpu.gpr[reg::EAX] = 0;
    let found = exceptions(&mut machine);
    assert_eq!(found.len(), 1);
    let (vector, _, code) = found[0];
    assert_eq!(code, 0);
    vector
}

#[test]
fn each_operand_has_its_alignment() {
    // SDM vol. 3A, table 6-7.
    assert_eq!(checked(|a| a.mov(al, byte_ptr(ebx))), GP);
    assert_eq!(checked(|a| a.mov(ax, word_ptr(ebx))), AC);
    assert_eq!(checked(|a| a.mov(ax, word_ptr(ecx))), GP);
    assert_eq!(checked(|a| a.mov(dword_ptr(ecx), eax)), AC);
    assert_eq!(checked(|a| a.add(dword_ptr(esi), eax)), GP);
    assert_eq!(checked(|a| a.fld(qword_ptr(esi))), AC);
    assert_eq!(checked(|a| a.fld(dword_ptr(esi))), GP);
    assert_eq!(checked(|a| a.fld(tword_ptr(esi))), AC);
    assert_eq!(checked(|a| a.fld(tword_ptr(esi + 4))), GP);
    assert_eq!(checked(|a| a.movq(mm0, qword_ptr(esi))), AC);
    assert_eq!(checked(|a| a.movss(xmm0, dword_ptr(ecx))), AC);
    assert_eq!(checked(|a| a.movaps(xmm0, xmmword_ptr(esi))), GP);
    assert_eq!(checked(|a| a.movups(xmm0, xmmword_ptr(ebx))), GP);
    assert_eq!(checked(|a| a.fnstenv(ptr(ecx))), AC, "32-bit image: 4");
    assert_eq!(checked(|a| a.fnstenv(ptr(esi))), GP);
    assert_eq!(checked(|a| a.bts(dword_ptr(ecx), eax)), AC);
    assert_eq!(checked(|a| a.bound(ax, dword_ptr(ecx))), GP);
    assert_eq!(checked(|a| a.bound(eax, qword_ptr(ecx))), AC);
    assert_eq!(checked(|a| a.sgdt(ptr(ecx))), GP, "odd word address");
    assert_eq!(checked(|a| a.sgdt(ptr(esi))), AC);
    assert_eq!(checked(|a| a.mov(word_ptr(ebx), ds)), AC);
    assert_eq!(checked(|a| a.lodsd()), GP);
    assert_eq!(checked(|a| a.stosd()), AC);
    assert_eq!(checked(|a| a.scasw()), AC);
    assert_eq!(checked(|a| a.movsb()), GP);
}

#[test]
fn the_stack_is_checked_as_well() {
    fn misaligned(a: &mut CodeAssembler) -> Result<(), IcedError> {
        a.mov(esp, 0x3803)
    }
    assert_eq!(
        checked(|a| {
            misaligned(a)?;
            a.push(eax)
        }),
        AC
    );
    assert_eq!(
        checked(|a| {
            misaligned(a)?;
            a.pushfd()
        }),
        AC
    );
    assert_eq!(
        checked(|a| {
            misaligned(a)?;
            a.popfd()
        }),
        AC
    );
    assert_eq!(
        checked(|a| {
            misaligned(a)?;
            a.ret()
        }),
        AC
    );
    assert_eq!(
        checked(|a| {
            misaligned(a)?;
            a.retf()
        }),
        AC
    );
    assert_eq!(
        checked(|a| {
            misaligned(a)?;
            a.iretd()
        }),
        AC
    );
    assert_eq!(
        checked(|a| {
            misaligned(a)?;
            a.pushad()
        }),
        AC
    );
    assert_eq!(
        checked(|a| {
            misaligned(a)?;
            a.enter(0, 2)
        }),
        AC
    );
    assert_eq!(
        checked(|a| {
            a.mov(esp, 0x3802)?;
            a.push(ax)
        }),
        GP
    );
}

#[test]
fn alignment_is_checked_only_where_it_is_asked_for() {
    let run = |cpl: u8, am: u32, ac: u32| {
        let mut machine = guarded(cpl, |a| {
            a.mov(eax, dword_ptr(0x3001))?;
            a.hlt()
        });
        let cpu = machine.vcpu.state_mut();
        cpu.cr0 |= am;
        cpu.eflags |= ac;
        exceptions(&mut machine).first().map(|e| e.0)
    };
    assert_eq!(run(3, cr0::AM, eflags::AC), Some(AC));
    assert_eq!(run(3, cr0::AM, 0), Some(GP));
    assert_eq!(run(3, 0, eflags::AC), Some(GP));
    assert_eq!(run(0, cr0::AM, eflags::AC), None);
}

#[test]
fn a_program_turns_the_check_on_and_off_itself() {
    let mut machine = guarded(3, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 2)?;
        a.set_label(&mut top)?;
        a.pushfd()?;
        a.or(dword_ptr(esp), eflags::AC as i32)?;
        a.popfd()?;
        a.inc(dword_ptr(0x3000))?;
        a.pushfd()?;
        a.and(dword_ptr(esp), !eflags::AC as i32)?;
        a.popfd()?;
        a.inc(dword_ptr(0x3005))?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    machine.vcpu.state_mut().cr0 |= cr0::AM;
    let found = exceptions(&mut machine);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, GP, "{found:x?}");
    assert_eq!((machine.dword(0x3000), machine.dword(0x3005)), (2, 2));
}

/// Control word with the divide-by-zero exception unmasked.
fn unmask_division(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.fninit()?; // 2 bytes
    a.mov(word_ptr(0x3000), 0x37B)?; // 9
    a.fldcw(word_ptr(0x3000)) // 6
}

#[test]
fn an_x87_exception_is_reported_by_the_next_waiting_instruction() {
    for waits in [true, false] {
        let mut machine = guarded(0, |a| {
            unmask_division(a)?; // 0
            a.fld1()?; // 17
            a.fldz()?; // 19
            a.fdivp(st1, st0)?; // 21
            a.fnstsw(ax)?; // 23: does not wait
            a.mov(ebx, eax)?; // 25
            if waits {
                a.wait()?; // 27
            } else {
                a.fld1()?;
            }
            a.hlt()
        });
        machine.vcpu.state_mut().cr0 = cr0::PE | cr0::NE | cr0::ET;
        assert_eq!(exceptions(&mut machine), [(16, 27, 0)]);
        assert_eq!(machine.gpr(reg::EBX) & 0x80FF, 0x8084, "ES, B and ZE");
    }
}

/// A store from an empty register with the invalid-operation exception unmasked, to memory that Rust writes.
#[test]
fn an_x87_store_that_raises_an_exception_leaves_memory_alone() {
    const SCREEN: u32 = 0xA_0000;
    type Store = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let stores: [Store; 8] = [
        |a| a.fst(qword_ptr(SCREEN)),
        |a| a.fstp(dword_ptr(SCREEN)),
        |a| a.fist(dword_ptr(SCREEN)),
        |a| a.fistp(qword_ptr(SCREEN)),
        |a| a.fisttp(word_ptr(SCREEN)),
        |a| a.fisttp(dword_ptr(SCREEN)),
        |a| a.fisttp(qword_ptr(SCREEN)),
        |a| a.fbstp(tword_ptr(SCREEN)),
    ];
    for (number, store) in stores.into_iter().enumerate() {
        let mut machine = guarded(0, |a| {
            a.fninit()?;
            a.mov(word_ptr(0x3000), 0x37E)?;
            a.fldcw(word_ptr(0x3000))?;
            // What is written there first is what a buffer may still hold.
            a.mov(dword_ptr(SCREEN + 16), 0x1234_5678)?;
            store(a)?;
            a.fnstsw(ax)?;
            a.hlt()
        });
        machine.vcpu.state_mut().cr0 = cr0::PE | cr0::NE | cr0::ET;
        machine.ports.screen = vec![0xEE; 32];
        assert_eq!(exceptions(&mut machine), []);
        assert_eq!(machine.gpr(reg::EAX) & 0x80C1, 0x80C1, "store {number}");
        assert_eq!(machine.ports.screen[..16], [0xEE; 16], "store {number}");
    }
}

#[test]
fn wait_reports_a_pending_exception_without_a_usable_fpu_as_well() {
    const MF: u32 = 16;
    const NM: u32 = 7;
    for (bits, vector) in [
        (cr0::EM, MF),
        (cr0::EM | cr0::MP, MF),
        (cr0::TS, MF),
        (cr0::TS | cr0::EM, MF),
        (cr0::TS | cr0::MP, NM),
    ] {
        for error in [true, false] {
            let mut machine = guarded(0, |a| {
                unmask_division(a)?; // 0
                a.fld1()?; // 17
                if error {
                    a.fldz()?; // 19
                } else {
                    a.fld1()?;
                }
                a.fdivp(st1, st0)?; // 21
                a.mov(eax, (cr0::PE | cr0::NE | cr0::ET | bits) as i32)?; // 23
                a.mov(code_asm::cr0, eax)?; // 28
                a.wait()?; // 31
                a.ud2()?; // 32
                a.hlt()
            });
            machine.vcpu.state_mut().cr0 = cr0::PE | cr0::NE | cr0::ET;
            let expected = if error || vector == NM {
                (vector, 31, 0)
            } else {
                (6, 32, 0)
            };
            assert_eq!(exceptions(&mut machine), [expected], "CR0 {bits:#x}");
        }
    }
}

#[test]
fn with_ne_clear_an_x87_exception_goes_the_way_of_irq_13() {
    let mut machine = guarded(0, |a| {
        let mut handler = a.create_label();
        let mut start = a.create_label();
        a.jmp(start)?;
        a.set_label(&mut handler)?;
        // As a DOS handler: the latch first, then the coprocessor.
        a.push(eax)?;
        a.xor(eax, eax)?;
        a.out(0xF0, al)?;
        a.fld1()?; // waits, and goes on: IGNNE#
        a.fstp(qword_ptr(0x3010))?;
        a.fnstsw(word_ptr(0x3008))?;
        a.fnclex()?;
        a.inc(dword_ptr(0x3004))?;
        a.pop(eax)?;
        a.iretd()?;
        a.set_label(&mut start)?;
        a.mov(ecx, 2)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        unmask_division(a)?;
        a.sti()?;
        a.fld1()?;
        a.fldz()?;
        a.fdivp(st1, st0)?;
        a.inc(dword_ptr(0x300C))?;
        a.fstp(qword_ptr(0x3018))?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.cli()?;
        a.hlt()
    });
    let handler = ORIGIN + 2;
    let gate =
        u64::from(handler & 0xFFFF) | 8 << 16 | 0x8E00u64 << 32 | u64::from(handler >> 16) << 48;
    machine.write(0x2000 + 13 * 8, &gate.to_le_bytes());
    machine.write(0x3018, &[0xFF; 8]);
    machine.vcpu.state_mut().cr0 = cr0::PE | cr0::ET;
    for round in 0..2 {
        // Frozen in front of the instruction that waits, until the interrupt comes.
        assert_eq!(machine.run(), Exit::Halted);
        assert_eq!(machine.ports.ferr.last(), Some(&true));
        assert_eq!(machine.dword(0x300C), round + 1);
        assert_eq!(machine.dword(0x3004), round);
        assert_eq!(machine.run(), Exit::InterruptReady);
        machine
            .vcpu
            .take_interrupt(&mut machine.mmu, &mut machine.ports);
    }
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.ports.ferr, [true, false, true, false]);
    assert!(!machine.vcpu.state().ferr);
    assert_eq!(machine.dword(0x3004), 2, "handled twice");
    assert_eq!(
        machine.dword(0x3008) & 0x84,
        0x84,
        "the handler saw ES and ZE"
    );
    assert_eq!(machine.dword(0x3014), 0x3FF0_0000, "FLD1 went on");
    // FSTP after the handler: an unmasked division leaves its operands, and the 0 on top.
    assert_eq!((machine.dword(0x3018), machine.dword(0x301C)), (0, 0));
    // The masks are the program's again.
    assert_eq!(machine.vcpu.state().fpu.control_word(), 0x37B);
}

/// A machine at CPL 0 with SSE, and MXCSR at 3000h.
fn sse(mxcsr: u32, program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut machine = guarded(0, |a| {
        a.ldmxcsr(dword_ptr(0x3000))?; // 0
        program(a)?; // 7
        a.hlt()
    });
    machine.write(0x3000, &mxcsr.to_le_bytes());
    let cpu = machine.vcpu.state_mut();
    cpu.cr0 = cr0::PE | cr0::ET | cr0::NE;
    cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
    machine
}

#[test]
fn an_unmasked_sse_exception_is_xm_or_ud() {
    const ALL_BUT_ZM: u32 = 0x1F80 & !(1 << 9);
    let divide = |a: &mut CodeAssembler| a.divss(xmm0, xmm1);
    let mut machine = sse(ALL_BUT_ZM, divide);
    machine.vcpu.state_mut().fpu.0[160..164].copy_from_slice(&1f32.to_le_bytes());
    let mut without = sse(ALL_BUT_ZM, divide);
    without.vcpu.state_mut().fpu.0[160..164].copy_from_slice(&1f32.to_le_bytes());
    without.vcpu.state_mut().cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(exceptions(&mut machine), [(19, 7, 0)]);
    let fpu = &machine.vcpu.state().fpu.0;
    let mxcsr = u32::from_le_bytes([fpu[24], fpu[25], fpu[26], fpu[27]]);
    assert_eq!(mxcsr & 0x3F, 4, "ZE");
    assert_eq!(
        fpu[160..164],
        1f32.to_le_bytes(),
        "the operand is as it was"
    );
    assert_eq!(exceptions(&mut without), [(6, 7, 0)]);
}

#[test]
fn denormals_raise_their_own_exception() {
    let mut machine = sse(0x1F80 & !(1 << 8), |a| a.addss(xmm0, dword_ptr(0x3004)));
    machine.write(0x3004, &1u32.to_le_bytes());
    assert_eq!(exceptions(&mut machine), [(19, 7, 0)]);
    // Masked: the flag alone, and with DAZ not even that.
    let mut machine = sse(0x1F80, |a| {
        a.addss(xmm0, dword_ptr(0x3004))?;
        a.stmxcsr(dword_ptr(0x3008))
    });
    machine.write(0x3004, &1u32.to_le_bytes());
    assert_eq!(exceptions(&mut machine), []);
    assert_eq!(machine.dword(0x3008) & 0x3F, 2, "DE");
    // x87, denormal exception unmasked.
    let mut machine = guarded(0, |a| {
        a.fninit()?; // 0
        a.fldcw(word_ptr(0x3000))?; // 2
        a.fld(dword_ptr(0x3004))?; // 8
        a.wait()?; // 14
        a.hlt()
    });
    machine.write(0x3000, &0x37Du16.to_le_bytes());
    machine.write(0x3004, &1u32.to_le_bytes());
    machine.vcpu.state_mut().cr0 = cr0::PE | cr0::NE | cr0::ET;
    assert_eq!(exceptions(&mut machine), [(16, 14, 0)]);
}

#[test]
fn mmx_marks_all_registers_as_used_until_emms() {
    let mut machine = guarded(0, |a| {
        a.fninit()?;
        a.fld1()?;
        a.pxor(mm3, mm3)?;
        a.fnstenv(ptr(0x3000))?;
        a.fldenv(ptr(0x3000))?;
        a.emms()?;
        a.fnstenv(ptr(0x3040))?;
        a.hlt()
    });
    machine.vcpu.state_mut().cr0 = cr0::PE | cr0::NE | cr0::ET;
    assert_eq!(exceptions(&mut machine), []);
    assert_eq!(machine.dword(0x3004) >> 11 & 7, 0, "TOP is 0");
    let tags = machine.dword(0x3008);
    assert!((0..8).all(|n| tags >> (2 * n) & 3 != 3), "{tags:x}");
    assert_eq!(machine.dword(0x3048) as u16, 0xFFFF, "empty");
}

#[test]
fn lock_needs_a_lockable_instruction_and_memory() {
    // SDM vol. 2A, LOCK: #UD in every mode.
    let cases: [(&[u8], bool); 14] = [
        (&[0xF0, 0x01, 0x03], true),        // add [ebx], eax
        (&[0xF0, 0x01, 0xC3], false),       // add ebx, eax
        (&[0xF0, 0x03, 0x03], false),       // add eax, [ebx]
        (&[0xF0, 0x39, 0x03], false),       // cmp [ebx], eax
        (&[0xF0, 0x89, 0x03], false),       // mov [ebx], eax
        (&[0xF0, 0x87, 0x03], true),        // xchg [ebx], eax
        (&[0xF0, 0x0F, 0xAB, 0x03], true),  // bts [ebx], eax
        (&[0xF0, 0x0F, 0xA3, 0x03], false), // bt [ebx], eax
        (&[0xF0, 0x0F, 0xC7, 0x0B], true),  // cmpxchg8b [ebx]
        (&[0xF0, 0x0F, 0xC1, 0xC3], false), // xadd ebx, eax
        (&[0xF0, 0x90], false),             // nop
        (&[0xF0, 0xA4], false),             // movsb
        (&[0xF0, 0xFF, 0x33], false),       // push [ebx]
        (&[0xF0, 0xF7, 0x1B], true),        // neg [ebx]
    ];
    for cpl in [0, 3] {
        for (code, lockable) in cases {
            let mut machine = guarded(cpl, |a| {
                a.db(code)?;
                a.hlt()
            });
            let cpu = machine.vcpu.state_mut();
            cpu.gpr[reg::EBX] = 0x3000;
            let expected = match (lockable, cpl) {
                (false, _) => vec![(6, 0, 0)],
                (true, 0) => vec![],
                (true, _) => vec![(GP, code.len() as u32, 0)],
            };
            assert_eq!(exceptions(&mut machine), expected, "{code:02x?}");
        }
    }
}

#[test]
fn locked_accesses_reach_device_memory_and_cross_cache_lines() {
    let mut machine = guarded(0, |a| {
        a.mov(eax, 5)?;
        a.lock().add(dword_ptr(0xA_0000), eax)?;
        a.lock().xadd(dword_ptr(0x303E), eax)?;
        a.hlt()
    });
    machine.write(0x303E, &7u32.to_le_bytes());
    assert_eq!(exceptions(&mut machine), []);
    let sum = 0x0302_0100u32 + 5;
    assert_eq!(
        machine.ports.memory,
        [(0xA_0000, sum.to_le_bytes().to_vec())]
    );
    assert_eq!(machine.dword(0x303E), 12);
    assert_eq!(machine.gpr(reg::EAX), 7);
}

#[test]
fn lock_is_checked_in_real_mode_as_well() {
    for (code, lockable) in [
        (&[0xF0, 0x00, 0x07][..], true), // add [bx], al
        (&[0xF0, 0x8B, 0x07], false),    // mov ax, [bx]
        (&[0xF0, 0xFA], false),          // cli
        (&[0xF0, 0xFE, 0xC0], false),    // inc al
        (&[0xF0, 0xF3, 0xA4], false),    // rep movsb
    ] {
        let mut machine = Machine::new(16, |a| {
            a.db(code)?;
            a.hlt()
        });
        // Vector 6 leads to a HLT at 3000:0000.
        machine.write(0x3_0000, &[0xF4]);
        machine.write(24, &[0, 0, 0, 0x30]);
        assert_eq!(machine.run(), Exit::Halted);
        let cpu = machine.vcpu.state();
        let undefined = cpu.linear_eip() == 0x3_0001;
        assert_eq!(undefined, !lockable, "{code:02x?}");
    }
}

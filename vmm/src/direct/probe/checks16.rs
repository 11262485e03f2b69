//! Does this host's KVM run 16-bit ring-3 code in compatibility mode as a processor does?
//!
//! The code segment starts at [`CODE`], so that the programs run from IP 0; data segments are flat.

use translator::state::reg;

use super::checks::{Check, Fault, Named, Needed, Verdict, expect, run};
use super::lab::{self, CODE, Lab, UNMAPPED, selector};
use crate::direct::instruction::trap_length;
use crate::direct::world::{Context, Leave, WorldError};

const CHECKS: [Named; 6] = [
    ("16-bit arithmetic and stack", Needed::Always, arithmetic),
    (
        "16-bit addresses that wrap at 64 KiB",
        Needed::Always,
        addresses,
    ),
    (
        "far jumps to 32-bit code and back",
        Needed::Always,
        far_jumps,
    ),
    ("instructions that must leave", Needed::Always, leaving),
    (
        "page faults, CR2 and error codes",
        Needed::Always,
        page_faults,
    ),
    ("16-bit stack pointers", Needed::Stack16, stack_pointer),
];

/// Runs all checks of 16-bit code.
pub(super) fn all(lab: &mut Lab) -> (Vec<Check>, Option<WorldError>) {
    run(lab, &CHECKS)
}

fn start() -> Context {
    Context {
        eip: 0,
        cs: selector::CODE16,
        ..Lab::start()
    }
}

/// Runs `code` from `context` to the `int 80h` after it.
fn run_all(lab: &mut Lab, context: &mut Context, code: &[u8]) -> Verdict {
    run_to(lab, context, &[code, &[0xCD, 0x80]].concat(), code.len())
}

/// Runs to the exception at `code[at..]`.
fn run_to(lab: &mut Lab, context: &mut Context, code: &[u8], at: usize) -> Verdict {
    lab.program(code);
    match lab.run(context)? {
        Leave::Exception { vector, .. } => {
            let offset = context.eip as usize;
            if let Some(&[low, high]) = offset
                .checked_sub(2)
                .and_then(|start| code.get(start..offset))
            {
                context.eip -= trap_length(vector, [low, high]);
            }
            const INVALID_OPCODE: u8 = 6;
            if vector == INVALID_OPCODE && offset < at {
                return Err(Fault::GaveUp);
            }
            expect(&format!("IP at exception {vector}"), context.eip, at as u32)
        }
        Leave::GaveUp => Err(Fault::GaveUp),
        other => Err(Fault::Differs(format!("left with {other:x?}"))),
    }
}

fn arithmetic(lab: &mut Lab) -> Verdict {
    let code = [
        0xB8, 0x34, 0x12, // mov ax, 1234h
        0x05, 0x00, 0xF0, // add ax, F000h: carry
        0x66, 0x83, 0xD2, 0x00, // adc edx, 0
        0x50, 0x5B, // push ax; pop bx
        0x66, 0x50, 0x66, 0x59, // push eax; pop ecx
        0x60, 0x31, 0xC0, 0x61, // pusha; xor ax, ax; popa
        0x48, // dec ax
    ];
    let mut end = start();
    end.gpr[reg::EAX] = 0xAAAA_0000;
    end.gpr[reg::EBX] = 0xBBBB_0000;
    run_all(lab, &mut end, &code)?;
    expect("EAX", end.gpr[reg::EAX], 0xAAAA_0233)?;
    expect("EBX", end.gpr[reg::EBX], 0xBBBB_0234)?;
    expect("ECX", end.gpr[reg::ECX], 0xAAAA_0234)?;
    expect("EDX", end.gpr[reg::EDX], 1)?;
    expect("ESP", end.gpr[reg::ESP], lab::STACK)
}

fn addresses(lab: &mut Lab) -> Verdict {
    lab.write(lab::SEGMENT_BASE, &[1, 2, 3, 4, 5, 6, 7, 8]);
    // FFFFh + 3 is 2: inside the limit of the segment.
    let code = [
        0xBB, 0xFF, 0xFF, // mov bx, FFFFh
        0xBE, 0x03, 0x00, // mov si, 3
        0x64, 0x8B, 0x00, // mov ax, fs:[bx+si]
    ];
    let mut end = start();
    end.data[2] = selector::BASED;
    end.gpr[reg::EBX] = 0x1111_0000;
    end.gpr[reg::ESI] = 0x2222_0000;
    run_all(lab, &mut end, &code)?;
    expect("AX", end.gpr[reg::EAX] as u16, 0x0403)
}

fn far_jumps(lab: &mut Lab) -> Verdict {
    let [flat0, flat1, flat2, flat3] = (CODE + 16).to_le_bytes();
    let [cs0, cs1] = selector::CODE.to_le_bytes();
    let [small0, small1] = selector::CODE16.to_le_bytes();
    let mut code = [0x90; 64];
    // jmp far CODE:CODE+16, with a 32-bit offset
    code[..8].copy_from_slice(&[0x66, 0xEA, flat0, flat1, flat2, flat3, cs0, cs1]);
    // In 32-bit code: mov eax, 12345678h; jmp far CODE16:20h
    code[16..21].copy_from_slice(&[0xB8, 0x78, 0x56, 0x34, 0x12]);
    code[21..28].copy_from_slice(&[0xEA, 0x20, 0, 0, 0, small0, small1]);
    // In 16-bit code again: mov ax, 1; int 80h
    code[0x20..0x25].copy_from_slice(&[0xB8, 0x01, 0x00, 0xCD, 0x80]);
    let mut end = start();
    run_to(lab, &mut end, &code, 0x23)?;
    expect("EAX", end.gpr[reg::EAX], 0x1234_0001)?;
    expect("CS", end.cs, selector::CODE16)
}

fn leaving(lab: &mut Lab) -> Verdict {
    let instructions: [&[u8]; 6] = [
        &[0xCD, 0x21], // int 21h
        &[0xCC],       // int3
        &[0xFA],       // cli
        &[0xF4],       // hlt
        &[0xE4, 0x80], // in al, 80h
        &[0x0F, 0x0B], // ud2
    ];
    for instruction in instructions {
        let mut context = start();
        let code = [&[0x90, 0x43], instruction, &[0x0F, 0x0B]].concat(); // nop; inc bx
        run_to(lab, &mut context, &code, 2)?;
        expect("EBX", context.gpr[reg::EBX], 1)?;
        expect("ESP", context.gpr[reg::ESP], lab::STACK)?;
    }
    Ok(())
}

fn page_faults(lab: &mut Lab) -> Verdict {
    let [a, b, c, d] = UNMAPPED.to_le_bytes();
    lab.program(&[0x90, 0x66, 0x67, 0xA3, a, b, c, d]); // nop; mov [UNMAPPED], eax
    let mut context = start();
    match lab.run(&mut context)? {
        Leave::Exception {
            vector: 14,
            error,
            address,
        } => {
            expect("error code", error, 6)?;
            expect("CR2", address, u64::from(UNMAPPED))?;
            expect("IP", context.eip, 1)
        }
        Leave::GaveUp => Err(Fault::GaveUp),
        other => Err(Fault::Differs(format!("no #PF but {other:x?}"))),
    }
}

fn stack_pointer(lab: &mut Lab) -> Verdict {
    let mut end = start();
    end.ss = selector::STACK16;
    let high = 0x5A5A_0000;
    end.gpr[reg::ESP] = high | (lab::STACK & 0xFFFF);
    let code = [0xB8, 0x34, 0x12, 0x50, 0x5B]; // mov ax, 1234h; push ax; pop bx
    run_all(lab, &mut end, &code)?;
    expect("BX", end.gpr[reg::EBX], 0x1234)?;
    expect("ESP", end.gpr[reg::ESP], high | (lab::STACK & 0xFFFF))
}

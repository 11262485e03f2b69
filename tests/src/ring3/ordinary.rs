//! What compilers and libraries emit, and the faults that programs cause on purpose.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::layout::selector;
use super::program::{BYTE_REGISTERS, Character, Dice, REGISTERS, Template, address, plain};

pub(super) const ORDINARY: &[Template] = &[
    arithmetic,
    arithmetic,
    memory,
    memory,
    memory,
    byte_registers,
    multiply_divide,
    counted_loop,
    calls,
    stack,
    strings,
    floating_point,
    vectors,
    system_call,
    system_call,
    tls,
    breakpoint,
];

fn arithmetic(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let (x, y) = (rng.pick(&REGISTERS), rng.pick(&REGISTERS));
    let value = rng.value();
    match rng.below(14) {
        0 => a.add(x, y)?,
        1 => a.adc(x, value as i32)?,
        2 => a.sub(x, value as i32)?,
        3 => a.sbb(x, y)?,
        4 => a.cmp(x, y)?,
        5 => a.lea(x, dword_ptr(y + x * 4 + (value & 0xFFF)))?,
        6 => a.mov(x, value)?,
        7 => a.bswap(x)?,
        8 => a.inc(x)?,
        9 => a.neg(x)?,
        10 => a.cmovb(x, y)?,
        11 => a.xchg(x, y)?,
        12 => a.movsx(x, rng.pick(&BYTE_REGISTERS))?,
        _ => {
            a.rol(x, 1)?;
            a.xor(x, y)?;
            a.cmp(x, 0)?;
        }
    }
    Ok(())
}

fn byte_registers(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let (x, y) = (rng.pick(&BYTE_REGISTERS), rng.pick(&BYTE_REGISTERS));
    a.add(x, y)?;
    a.mov(rng.pick(&BYTE_REGISTERS), rng.value() as u8 as i32)?;
    a.setle(y)
}

fn multiply_divide(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let x = rng.pick(&REGISTERS);
    match rng.below(4) {
        0 => a.imul_2(x, rng.pick(&REGISTERS))?,
        1 => a.mul(x)?,
        2 => a.div(x)?,
        _ => a.idiv(rng.pick(&BYTE_REGISTERS))?,
    }
    a.cmp(x, 1) // the flags are undefined
}

fn memory(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let (base, x) = (rng.pick(&[ebx, ebp, esi, edi]), rng.pick(&[eax, ecx, edx]));
    let displacement = rng.below(64) as i32 - 32;
    let target = address(rng).wrapping_sub(displacement as u32);
    a.mov(base, target)?;
    let there = base + displacement;
    match rng.below(9) {
        0 => a.mov(x, dword_ptr(there))?,
        1 | 2 => a.mov(dword_ptr(there), x)?,
        3 => a.add(dword_ptr(there), x)?,
        4 => a.movzx(x, word_ptr(there))?,
        5 => a.lock().xadd(dword_ptr(there), x)?,
        6 => a.mov(byte_ptr(there), rng.pick(&BYTE_REGISTERS))?,
        7 => a.lock().cmpxchg(dword_ptr(there), x)?,
        _ => a.cmp(byte_ptr(there), 7)?,
    }
    Ok(())
}

fn counted_loop(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ecx, rng.below(200) + 1)?;
    a.mov(esi, plain(rng))?;
    a.set_label(&mut top)?;
    a.add(dword_ptr(esi), ecx)?;
    a.add(esi, 4)?;
    a.dec(ecx)?;
    a.jne(top)
}

fn calls(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let (mut function, mut behind) = (a.create_label(), a.create_label());
    let argument = rng.one_in(2);
    if argument {
        a.push(4)?;
    }
    a.call(function)?;
    a.jmp(behind)?;
    a.set_label(&mut function)?;
    a.add(eax, rng.value() as i32)?;
    if argument {
        a.ret_1(4)?;
    } else {
        a.ret()?;
    }
    a.set_label(&mut behind)?;
    a.nop()
}

fn stack(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    // How much of PUSHA and ENTER is in memory when they fault is up to the processor, so they are for
    // programs whose stack is always there.
    let forms = if rng.character == Character::Ordinary {
        5
    } else {
        3
    };
    match rng.below(forms) {
        0 => {
            a.push(rng.value() as i32)?;
            a.pop(rng.pick(&REGISTERS))?;
        }
        1 => {
            a.pushf()?;
            a.pop(rng.pick(&REGISTERS))?;
        }
        3 => {
            a.pusha()?;
            a.popa()?;
        }
        4 => {
            // Its frame pointers can be read.
            a.mov(ebp, plain(rng) | 0x40)?;
            a.enter(rng.below(64) as i32, rng.below(4) as i32)?;
            a.leave()?;
        }
        _ => {
            if rng.process() {
                a.push(eax)?; // what ESP points at stays aligned, and so below 4 GiB
            } else {
                a.push(ax)?;
            }
            a.pop(dword_ptr(esp + 4))?;
        }
    }
    Ok(())
}

fn strings(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let form = rng.below(6);
    // A fault midway leaves the flags of a comparison open (Intel SDM vol. 2B, REP; processors differ).
    let compares = matches!(form, 3 | 4);
    let place = if compares { plain } else { address };
    a.mov(ecx, rng.below(40))?;
    a.mov(esi, place(rng))?;
    a.mov(edi, place(rng))?;
    match form {
        0 => a.rep().movsd()?,
        1 => a.rep().stosb()?,
        2 => a.rep().lodsw()?,
        3 => a.repe().cmpsb()?,
        4 => a.repne().scasd()?,
        _ => {
            a.std()?;
            a.rep().movsb()?;
            a.cld()?;
        }
    }
    Ok(())
}

fn floating_point(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let at = plain(rng);
    match rng.below(6) {
        0 => {
            a.fld(qword_ptr(at))?;
            a.fsqrt()?;
            a.fstp(dword_ptr(plain(rng)))?;
        }
        1 => {
            a.fild(dword_ptr(at))?;
            a.fld1()?;
            a.faddp(st1, st0)?;
            a.fistp(dword_ptr(plain(rng)))?;
        }
        2 => {
            a.fld1()?;
            a.fldpi()?;
            a.fmulp(st1, st0)?;
            a.fnstsw(ax)?;
        }
        3 => {
            a.fldz()?;
            a.fld1()?;
            a.fcomip(st0, st1)?;
            a.fstp(qword_ptr(address(rng)))?;
        }
        4 => {
            // An unmasked division by zero, noticed at the next instruction.
            a.fnstcw(word_ptr(at))?;
            a.and(word_ptr(at), 0xFFFB_u32)?;
            a.fldcw(word_ptr(at))?;
            a.fld1()?;
            a.fldz()?;
            a.fdivp(st1, st0)?;
            a.wait()?;
        }
        _ => {
            a.fnclex()?;
            a.fninit()?;
        }
    }
    Ok(())
}

fn vectors(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let at = plain(rng) & !15;
    match rng.below(5) {
        0 => {
            a.movups(xmm1, xmmword_ptr(address(rng)))?;
            a.paddd(xmm1, xmm2)?;
            a.movaps(xmmword_ptr(at), xmm1)?;
        }
        1 => {
            a.movd(xmm2, eax)?;
            a.pshufd(xmm3, xmm2, 0x1B)?;
            // QEMU's processors store half of it before they fault for the other half.
            let place = if rng.process() {
                address(rng)
            } else {
                plain(rng)
            };
            a.movdqu(xmmword_ptr(place), xmm3)?;
        }
        2 => {
            a.cvtsi2sd(xmm4, ecx)?;
            a.mulsd(xmm4, xmm4)?;
            a.movsd_2(qword_ptr(at), xmm4)?;
        }
        3 => a.movaps(xmm5, xmmword_ptr(at + 4))?, // misaligned: #GP
        _ => {
            a.movd(mm0, edx)?;
            a.paddb(mm0, mm0)?;
            a.movq(qword_ptr(at), mm0)?;
            // QEMU's processors ignore CR0.TS for EMMS, so that it acts on another one's FPU state.
            if rng.process() {
                a.emms()?;
            }
        }
    }
    Ok(())
}

/// Vector 80h does nothing, 82h changes the program's memory and segments.
fn system_call(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    a.mov(eax, rng.below(9))?;
    let others: &[i32] = if rng.process() {
        &[0x80]
    } else {
        &[0x80, 0x82]
    };
    a.int(rng.pick(others))
}

fn tls(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    a.mov(
        eax,
        u32::from(if rng.process() || rng.one_in(2) {
            selector::LDT_DATA
        } else {
            selector::TLS
        }),
    )?;
    a.mov(gs, ax)?;
    let at = rng.below(0x1010);
    if rng.one_in(2) {
        a.mov(ecx, dword_ptr(at).gs())
    } else {
        a.add(dword_ptr(at).gs(), ecx)
    }
}

fn breakpoint(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    match rng.below(4) {
        0 => a.int3(),
        1 => {
            a.cmp(eax, ecx)?;
            a.into()
        }
        2 => {
            a.mov(ebx, plain(rng))?;
            a.bound(eax, qword_ptr(ebx))
        }
        _ => a.ud2(),
    }
}

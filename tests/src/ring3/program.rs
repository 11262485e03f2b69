//! Programs for ring 3, generated: each slot of a program does one thing, which may fault.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::layout::{selector, user};
use crate::generate::Rng;

/// The page of a program: its slots, then the registers that it starts with.
pub type Page = [u8; 0x1000];

/// What a program is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// What compilers and libraries emit, and the faults that programs cause on purpose.
    Ordinary,
    /// Everything that ring 3 can try.
    Hostile,
}

/// One instruction or a few, for a slot.
type Template = fn(&mut CodeAssembler, &mut Rng) -> Result<(), IcedError>;

/// One that goes elsewhere: to the slot whose number it is given, or to a random one.
type Transfer = fn(&mut CodeAssembler, &mut Rng, u32) -> Result<(), IcedError>;

const ORDINARY: &[Template] = &[
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

const HOSTILE: &[Template] = &[
    segment_load,
    segment_load,
    segment_use,
    sensitive_store,
    selector_checks,
    flags_load,
    flags_load,
    interrupt,
    port,
    privileged,
    odd_stack,
    shadowed_interrupt,
    edge_of_memory,
    code_edit,
    undefined,
    single_step,
    decimal,
];

const TRANSFERS: &[Transfer] = &[far_transfer, far_transfer, far_return, interrupt_return];

/// The program with this number under `seed`.
///
/// # Panics
///
/// When a template does not fit into a slot: a mistake of the template.
#[must_use]
pub fn program(seed: u64, number: u32, character: Character) -> Page {
    // Twice through the generator: neighbouring numbers shall not give the same sequence, shifted.
    let mut rng = Rng::new(Rng::new(seed ^ u64::from(number) << 32).next_u64());
    let mut page = [0x90; 0x1000];
    for slot in 0..user::SLOTS {
        let bytes = if slot + 1 == user::SLOTS {
            vec![0xCD, 0x81]
        } else {
            fill_slot(&mut rng, slot, character)
        };
        let start = (slot * user::SLOT) as usize;
        page[start..start + bytes.len()].copy_from_slice(&bytes);
    }
    for register in 0..8 {
        let value = rng.value();
        page[0xFD0 + register * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
    // EFLAGS: status and DF at random, IF. IOPL is 0: a program that could clear IF would never run
    // directly, and might never end.
    let flags = rng.next_u32() & 0x8D5 | 0x202;
    page[0xFF0..0xFF4].copy_from_slice(&flags.to_le_bytes());
    page
}

/// As many templates as fit.
fn fill_slot(rng: &mut Rng, slot: u32, character: Character) -> Vec<u8> {
    let at = user::CODE + slot * user::SLOT;
    let mut bytes = Vec::new();
    for _ in 0..3 {
        let hostile = character == Character::Hostile && !rng.one_in(3);
        let mut assembler = CodeAssembler::new(32).expect("32 is a bitness");
        let made = if hostile && rng.one_in(6) {
            // Nearly always forward, or most programs would be loops.
            let target = if rng.one_in(16) {
                rng.below(user::SLOTS)
            } else {
                slot + 1
            };
            rng.pick(TRANSFERS)(&mut assembler, rng, target)
        } else {
            rng.pick(if hostile { HOSTILE } else { ORDINARY })(&mut assembler, rng)
        };
        made.expect("an instruction that exists");
        let ip = u64::from(at) + bytes.len() as u64;
        let more = assembler.assemble(ip).expect("code that can be encoded");
        assert!(more.len() <= user::SLOT as usize, "{more:02x?}");
        if bytes.len() + more.len() > user::SLOT as usize {
            break;
        }
        bytes.extend(more);
        if rng.one_in(2) {
            break;
        }
    }
    bytes
}

const REGISTERS: [AsmRegister32; 7] = [eax, ecx, edx, ebx, ebp, esi, edi];
const BYTE_REGISTERS: [AsmRegister8; 8] = [al, cl, dl, bl, ah, ch, dh, bh];

/// An address in one of the pages of the program, near its borders more often than not.
fn address(rng: &mut Rng) -> u32 {
    const PAGES: [u32; 14] = [
        user::DATA,
        user::DATA,
        user::DATA,
        user::DATA + 0x1000,
        user::READ_ONLY,
        user::ABSENT,
        user::SUPERVISOR,
        user::FLIPPED,
        user::FLIPPED,
        user::LAZY,
        user::STACK - 0x2000,
        user::STACK - 0x1000,
        user::TOP,
        0,
    ];
    let offset = match rng.below(4) {
        0 => 0x1000 - 1 - rng.below(16),
        1 => rng.below(16),
        _ => rng.below(0x1000),
    };
    rng.pick(&PAGES).wrapping_add(offset)
}

/// An address that is plain memory.
fn plain(rng: &mut Rng) -> u32 {
    user::DATA + rng.below(0x1F00)
}

fn arithmetic(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
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

fn byte_registers(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let (x, y) = (rng.pick(&BYTE_REGISTERS), rng.pick(&BYTE_REGISTERS));
    a.add(x, y)?;
    a.mov(rng.pick(&BYTE_REGISTERS), rng.value() as u8 as i32)?;
    a.setle(y)
}

fn multiply_divide(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let x = rng.pick(&REGISTERS);
    match rng.below(4) {
        0 => a.imul_2(x, rng.pick(&REGISTERS))?,
        1 => a.mul(x)?,
        2 => a.div(x)?,
        _ => a.idiv(rng.pick(&BYTE_REGISTERS))?,
    }
    a.cmp(x, 1) // the flags are undefined
}

fn memory(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
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

fn counted_loop(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ecx, rng.below(200) + 1)?;
    a.mov(esi, plain(rng))?;
    a.set_label(&mut top)?;
    a.add(dword_ptr(esi), ecx)?;
    a.add(esi, 4)?;
    a.dec(ecx)?;
    a.jne(top)
}

fn calls(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
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

fn stack(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    match rng.below(5) {
        0 => {
            a.push(rng.value() as i32)?;
            a.pop(rng.pick(&REGISTERS))?;
        }
        1 => {
            a.pusha()?;
            a.popa()?;
        }
        2 => {
            a.enter(rng.below(64) as i32, rng.below(4) as i32)?;
            a.leave()?;
        }
        3 => {
            a.pushf()?;
            a.pop(rng.pick(&REGISTERS))?;
        }
        _ => {
            a.push(ax)?;
            a.pop(dword_ptr(esp + 4))?;
        }
    }
    Ok(())
}

fn strings(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
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

fn floating_point(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
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

fn vectors(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
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
            a.movdqu(xmmword_ptr(address(rng)), xmm3)?;
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
            a.emms()?;
        }
    }
    Ok(())
}

fn system_call(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    a.mov(eax, rng.below(8))?;
    a.int(rng.pick(&[0x80, 0x82]))
}

fn tls(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    a.mov(
        eax,
        u32::from(rng.pick(&[selector::TLS, selector::LDT_DATA])),
    )?;
    a.mov(gs, ax)?;
    let at = rng.below(0x1010);
    if rng.one_in(2) {
        a.mov(ecx, dword_ptr(at).gs())
    } else {
        a.add(dword_ptr(at).gs(), ecx)
    }
}

fn breakpoint(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
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

fn any_selector(rng: &mut Rng) -> u16 {
    if rng.one_in(8) {
        rng.next_u32() as u16
    } else {
        rng.pick(&selector::ALL)
    }
}

/// A selector for a data segment register; the 16-bit stack has its own template.
fn data_selector(rng: &mut Rng) -> u16 {
    loop {
        let value = any_selector(rng);
        if value != selector::STACK16 && !selector::NOT_WRITABLE.contains(&value) {
            return value;
        }
    }
}

fn load(a: &mut CodeAssembler, register: AsmRegisterSegment, value: u16) -> Result<(), IcedError> {
    a.mov(eax, u32::from(value))?;
    a.mov(register, ax)
}

const DATA_REGISTERS: [AsmRegisterSegment; 5] = [ds, es, fs, gs, ss];

fn segment_load(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let value = data_selector(rng);
    match rng.below(4) {
        0 => {
            a.push(i32::from(value))?;
            match rng.below(4) {
                0 => a.pop(ds)?,
                1 => a.pop(es)?,
                2 => a.pop(fs)?,
                _ => a.pop(gs)?,
            }
        }
        1 => {
            a.mov(ebx, plain(rng))?;
            a.mov(word_ptr(ebx + 4), i32::from(value as i16))?;
            match rng.below(4) {
                0 => a.les(ecx, fword_ptr(ebx))?,
                1 => a.lfs(ecx, fword_ptr(ebx))?,
                2 => a.lss(esp, fword_ptr(ebx))?,
                _ => a.lds(ecx, fword_ptr(ebx))?,
            }
        }
        _ => load(a, rng.pick(&DATA_REGISTERS), value)?,
    }
    Ok(())
}

fn segment_use(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let register = rng.pick(&[ds, es, fs, gs]);
    load(a, register, data_selector(rng))?;
    let at = match rng.below(5) {
        0 => rng.below(0x2000),
        1 => 0xFF0 + rng.below(32),
        2 => address(rng),
        3 => 0u32.wrapping_sub(rng.below(0x1100)),
        _ => address(rng).wrapping_sub(user::DATA),
    };
    let place = dword_ptr(at);
    let place = match register {
        register if register == es => place.es(),
        register if register == fs => place.fs(),
        register if register == gs => place.gs(),
        _ => place.ds(),
    };
    if rng.one_in(2) {
        a.mov(edx, place)
    } else {
        a.mov(place, edx)
    }
}

/// `jmp`, `call` far, direct: iced's assembler has no form with a selector, so bytes.
fn far(a: &mut CodeAssembler, opcode: u8, target: u16, offset: u32) -> Result<(), IcedError> {
    let mut bytes = vec![opcode];
    bytes.extend(offset.to_le_bytes());
    bytes.extend(target.to_le_bytes());
    a.db(&bytes)
}

fn far_transfer(a: &mut CodeAssembler, rng: &mut Rng, slot: u32) -> Result<(), IcedError> {
    let target = any_selector(rng);
    let slot = slot * user::SLOT;
    let offset = if matches!(target, selector::CODE16 | 0x17) {
        slot
    } else {
        user::CODE + slot
    };
    let opcode = rng.pick(&[0xEA, 0x9A]);
    far(a, opcode, target, offset)
}

fn far_return(a: &mut CodeAssembler, rng: &mut Rng, slot: u32) -> Result<(), IcedError> {
    a.push(i32::from(any_selector(rng)))?;
    a.push((user::CODE + slot * user::SLOT) as i32)?;
    a.db(&[0xCB]) // retf
}

fn interrupt_return(a: &mut CodeAssembler, rng: &mut Rng, slot: u32) -> Result<(), IcedError> {
    a.push(flags(rng) as i32)?;
    a.push(i32::from(any_selector(rng)))?;
    a.push((user::CODE + slot * user::SLOT) as i32)?;
    a.iretd()
}

fn sensitive_store(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    a.mov(ebx, plain(rng))?;
    // The tables' addresses are the kernel's, the same in both engines.
    match rng.below(6) {
        0 => a.sgdt(fword_ptr(ebx)),
        1 => a.sidt(fword_ptr(ebx)),
        2 => a.sldt(ecx),
        3 => a.str(ecx),
        4 => a.smsw(ecx),
        _ => a.smsw(word_ptr(ebx)),
    }
}

fn selector_checks(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    a.mov(ecx, u32::from(any_selector(rng)))?;
    match rng.below(5) {
        0 => a.lar(eax, ecx)?,
        1 => a.lsl(eax, ecx)?,
        2 => a.verr(cx)?,
        3 => a.verw(cx)?,
        _ => {
            a.mov(edx, u32::from(any_selector(rng)))?;
            a.arpl(cx, dx)?;
        }
    }
    a.sete(al)
}

/// TF, VM and RF are in it; AC is left out, as CR0.AM is clear either way.
fn flags(rng: &mut Rng) -> u32 {
    rng.next_u32() & 0x003F_7FD7
}

fn flags_load(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let flags = flags(rng);
    match rng.below(3) {
        0 => {
            a.push(flags as i32)?;
            a.popfd()
        }
        1 => {
            a.push(flags as i32)?;
            a.popf()
        }
        _ => {
            a.mov(ah, flags as u8 as i32)?;
            a.sahf()
        }
    }
}

fn interrupt(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let vector = loop {
        let vector = rng.below(256);
        if vector != 0x81 {
            break vector;
        }
    };
    a.int(vector as i32)
}

fn port(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    // 80h and 84h are allowed and answer nothing that matters.
    match rng.below(5) {
        0 => a.out(rng.pick(&[0x80, 0x84, 0x20, 0x60, 0xFF]), al),
        1 => {
            a.mov(edx, rng.next_u32() & 0xFFFF | 1)?;
            a.in_(al, dx)
        }
        2 => {
            a.mov(edx, 0x80u32)?;
            a.out(dx, eax) // 81h to 83h are denied
        }
        3 => {
            a.mov(edx, rng.next_u32() & 0xFFFF | 1)?;
            a.mov(esi, address(rng))?;
            a.outsb()
        }
        _ => {
            a.mov(edx, rng.next_u32() & 0xFFFF | 1)?;
            a.mov(edi, address(rng))?;
            a.insd()
        }
    }
}

fn privileged(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let at = plain(rng);
    match rng.below(16) {
        0 => a.cli(),
        1 => a.sti(),
        2 => a.hlt(),
        3 => a.lgdt(fword_ptr(at)),
        4 => a.lidt(fword_ptr(at)),
        5 => a.lldt(ax),
        6 => a.ltr(ax),
        7 => a.clts(),
        8 => a.lmsw(ax),
        9 => a.mov(eax, cr0),
        10 => a.mov(cr3, eax),
        11 => a.mov(eax, dr7),
        12 => a.invlpg(byte_ptr(at)),
        13 => a.wbinvd(),
        14 => a.rdmsr(),
        _ => a.sysexit(),
    }
}

fn odd_stack(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    match rng.below(4) {
        0 => {
            // IRET to a 16-bit stack leaves the kernel's upper half of ESP in place, so that a timer
            // interrupt would show: it is the same from the start.
            let offset = rng.pick(&[0, 2, 4, 0x1000, 0x1FFE, 0x2002]);
            a.mov(esp, user::KERNEL_ESP_HIGH | offset)?;
            load(a, ss, selector::STACK16)?;
        }
        1 => a.mov(esp, address(rng))?,
        2 => a.mov(esp, rng.pick(&[0u32, 1, 2, 4, 6, 0xFFFF_FFFE, 0xFFFF_F002]))?,
        _ => {
            load(a, ss, 0x27)?;
            a.mov(esp, user::TOP + rng.below(0x1000))?;
        }
    }
    match rng.below(4) {
        0 => a.push(eax),
        1 => a.pusha(),
        2 => a.int(0x80),
        _ => a.pop(edx),
    }
}

fn shadowed_interrupt(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let stack = rng.pick(&[selector::DATA, selector::STACK16, 0x63]);
    if stack == selector::STACK16 {
        a.mov(esp, user::KERNEL_ESP_HIGH | 0x1800)?;
    }
    load(a, ss, stack)?;
    match rng.below(4) {
        0 => a.int(0x80),
        1 => a.int3(),
        2 => a.hlt(),
        _ => a.mov(ecx, dword_ptr(user::ABSENT)),
    }
}

fn edge_of_memory(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let at = 0u32.wrapping_sub(rng.below(8) + 1);
    a.mov(ebx, at)?;
    match rng.below(6) {
        0 => a.mov(eax, dword_ptr(ebx)),
        1 => a.mov(dword_ptr(ebx), eax),
        2 => a.fld(tbyte_ptr(ebx)),
        3 => a.jmp(ebx),
        4 => a.mov(eax, dword_ptr(ebx + ebx * 8 + 0x7FFF_FFFF)),
        _ => {
            a.mov(ecx, rng.below(12))?;
            a.mov(edi, ebx)?;
            a.rep().stosw()
        }
    }
}

/// Writes into the program itself, through the alias and in place: a slot gets an instruction of two
/// bytes that changes a register, or a system call, and a jump to its end.
fn code_edit(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let offset = rng.below(user::SLOTS - 1) * user::SLOT;
    let base = rng.pick(&[user::CODE_ALIAS, user::CODE_ALIAS, user::CODE]);
    // inc eax; nop - dec eax; nop - xor eax, eax - not eax - int 80h
    let [first, second] = rng.pick(&[
        [0x40, 0x90],
        [0x48, 0x90],
        [0x31, 0xC0],
        [0xF7, 0xD0],
        [0xCD, 0x80],
    ]);
    let jump = [0xEB, user::SLOT as u8 - 4];
    let word = u32::from_le_bytes([first, second, jump[0], jump[1]]);
    a.mov(dword_ptr(base + offset), word as i32)
}

fn undefined(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    // LOCK where it is not allowed is left to the tests of the translator: QEMU's processors run it.
    const BYTES: [&[u8]; 10] = [
        &[0x0F, 0x0B],
        &[0x0F, 0xFF, 0xC0],
        &[0x8E, 0xC8],       // mov cs, ax
        &[0xFE, 0xF8],       // no such operation
        &[0x0F, 0x05],       // syscall, without EFER.SCE
        &[0x0F, 0x34],       // sysenter, with no CS for it
        &[0xC4, 0xC0],       // les with a register, or VEX
        &[0x62, 0xC0],       // bound with a register, or EVEX
        &[0xF1],             // icebp
        &[0x0F, 0x01, 0xD0], // xgetbv, without OSXSAVE
    ];
    a.db(rng.pick(&BYTES))
}

fn single_step(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    a.pushfd()?;
    a.or(dword_ptr(esp), 0x100)?;
    a.popfd()?;
    match rng.below(4) {
        0 => a.nop(),
        1 => a.mov(eax, dword_ptr(user::ABSENT)),
        2 => a.int(0x80),
        _ => a.push(eax),
    }
}

fn decimal(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    match rng.below(6) {
        0 => a.daa()?,
        1 => a.das()?,
        2 => a.aaa()?,
        3 => a.aas()?,
        4 => a.aam(rng.below(12) as i32)?,
        _ => a.aad(rng.below(256) as i32)?,
    }
    a.cmp(al, 5) // some flags are undefined
}

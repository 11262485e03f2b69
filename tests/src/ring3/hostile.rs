//! Everything that ring 3 can try: segments, gates, flags, ports, privileged instructions, odd places.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::layout::{selector, user};
use super::program::{Dice, Template, Transfer, address, plain};

pub(super) const HOSTILE: &[Template] = &[
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
    locked,
    misaligned,
];

pub(super) const TRANSFERS: &[Transfer] =
    &[far_transfer, far_transfer, far_return, interrupt_return];

fn any_selector(rng: &mut Dice) -> u16 {
    loop {
        let value = if rng.one_in(8) {
            rng.next_u32() as u16
        } else {
            rng.pick(&selector::ALL)
        };
        if !rng.process() || is_alike_for_processes(value) {
            return value;
        }
    }
}

/// A process finds the same at this selector, and can look at it: before it sees null selectors other
/// than 0, an IRET has made them 0.
fn is_alike_for_processes(value: u16) -> bool {
    let local = value & 4 != 0;
    let table = value & !7;
    value == 0 || local || (8..=selector::DATA & !7).contains(&table) || table >= selector::GDT_END
}

/// A selector for a data segment register; the 16-bit stack has its own template.
fn data_selector(rng: &mut Dice) -> u16 {
    loop {
        let value = any_selector(rng);
        let unchecked = !rng.process() && selector::NOT_WRITABLE.contains(&(value | 3));
        if value != selector::STACK16 && !unchecked {
            return value;
        }
    }
}

fn load(a: &mut CodeAssembler, register: AsmRegisterSegment, value: u16) -> Result<(), IcedError> {
    a.mov(eax, u32::from(value))?;
    a.mov(register, ax)
}

const DATA_REGISTERS: [AsmRegisterSegment; 5] = [ds, es, fs, gs, ss];

fn segment_load(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
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

fn segment_use(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let register = rng.pick(&[ds, es, fs, gs]);
    load(a, register, data_selector(rng))?;
    let at = match rng.below(5) {
        0 => rng.below(0x2000),
        1 => 0xFF0 + rng.below(32),
        2 => address(rng),
        3 => 0u32.wrapping_sub(rng.below(0x1100)),
        _ => address(rng).wrapping_sub(user::DATA),
    };
    // An access across the highest offset is up to the processor.
    let at = if rng.process() && at > 0xFFFF_FFF0 {
        at & !3
    } else {
        at
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

fn far_transfer(a: &mut CodeAssembler, rng: &mut Dice, slot: u32) -> Result<(), IcedError> {
    let target = any_selector(rng);
    let slot = slot * user::SLOT;
    let offset = if matches!(target, selector::CODE16 | 0x83) {
        slot
    } else {
        user::CODE + slot
    };
    let opcode = rng.pick(&[0xEA, 0x9A]);
    far(a, opcode, target, offset)
}

fn far_return(a: &mut CodeAssembler, rng: &mut Dice, slot: u32) -> Result<(), IcedError> {
    sound_stack(a, rng)?;
    a.push(i32::from(any_selector(rng)))?;
    a.push((user::CODE + slot * user::SLOT) as i32)?;
    a.db(&[0xCB]) // retf
}

/// For processes: some processors read more than they need for far returns, and fault for it.
fn sound_stack(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    if rng.process() {
        a.mov(esp, user::START_ESP)?;
    }
    Ok(())
}

fn interrupt_return(a: &mut CodeAssembler, rng: &mut Dice, slot: u32) -> Result<(), IcedError> {
    // QEMU's processors go to virtual-8086 mode here, from ring 3, where VM should have no effect.
    const VM: u32 = 1 << 17;
    let flags = if rng.process() {
        flags(rng)
    } else {
        flags(rng) & !VM
    };
    sound_stack(a, rng)?;
    a.push(flags as i32)?;
    a.push(i32::from(any_selector(rng)))?;
    a.push((user::CODE + slot * user::SLOT) as i32)?;
    a.iretd()
}

fn sensitive_store(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    if rng.process() {
        return a.nop(); // Linux gives answers of its own
    }
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

fn selector_checks(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let value = loop {
        let value = any_selector(rng);
        if rng.process() || !selector::LIMITED.contains(&(value | 3)) {
            break value;
        }
    };
    a.mov(ecx, u32::from(value))?;
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
    a.sete(al)?;
    if rng.process() {
        a.and(eax, 0xFFF0_FFFF_u32 as i32)?; // bits that LAR leaves undefined
    }
    Ok(())
}

/// TF, VM and RF are in it, but see [`interrupt_return`] for VM. AC has a template of its own; processes have no NT, as `iret` with it is a
/// task switch for one kernel and a fault for another.
fn flags(rng: &mut Dice) -> u32 {
    let no_nt = if rng.process() { !0x4000 } else { !0 };
    rng.next_u32() & 0x003B_7FD7 & no_nt
}

fn flags_load(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
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

fn interrupt(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let vector = loop {
        let vector = rng.below(256);
        if vector != 0x81 && !(vector == 0x82 && rng.process()) {
            break vector;
        }
    };
    a.int(vector as i32)
}

fn port(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    // 80h and 84h are allowed and answer nothing that matters; a process has no ports at all.
    let allowed: &[i32] = if rng.process() {
        &[0x21]
    } else {
        &[0x80, 0x84]
    };
    match rng.below(5) {
        0 => {
            let port = if rng.one_in(2) {
                rng.pick(allowed)
            } else {
                rng.pick(&[0x20, 0x60, 0xFF])
            };
            a.out(port, al)
        }
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

/// LOCK where it is allowed and where it is not; and the loads and stores that need no prefix.
fn locked(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    // Opcode and ModRM with [ebx], or with a register.
    const FORMS: [&[u8]; 20] = [
        &[0xF0, 0x01, 0x03],             // add [ebx], eax
        &[0xF0, 0x11, 0x0B],             // adc [ebx], ecx
        &[0xF0, 0xFF, 0x03],             // inc dword [ebx]
        &[0xF0, 0xF6, 0x13],             // not byte [ebx]
        &[0xF0, 0x86, 0x03],             // xchg [ebx], al
        &[0xF0, 0x0F, 0xC1, 0x03],       // xadd [ebx], eax
        &[0xF0, 0x83, 0x6B, 0x00, 0x07], // sub dword [ebx], 7
        &[0x87, 0x0B],                   // xchg [ebx], ecx
        &[0xF0, 0x0F, 0xC7, 0x0B],       // cmpxchg8b [ebx]
        &[0x0F, 0xC7, 0x0B],             // without LOCK
        &[0xF0, 0x8B, 0x03],             // mov eax, [ebx]
        &[0xF0, 0x89, 0x03],             // mov [ebx], eax
        &[0xF0, 0x03, 0x03],             // add eax, [ebx]
        &[0xF0, 0x39, 0x03],             // cmp [ebx], eax
        &[0xF0, 0x01, 0xC0],             // add eax, eax
        &[0xF0, 0x0F, 0xC7, 0xC8],       // cmpxchg8b eax
        &[0xF0, 0x0F, 0xBA, 0x23, 0x07], // bt dword [ebx], 7
        &[0xF0, 0xFF, 0x33],             // push dword [ebx]
        &[0xF0, 0x90],
        &[0xF0, 0xA5], // movsd
    ];
    a.mov(ebx, address(rng))?;
    // QEMU's processors ignore the prefix where it is not allowed, and get the flags of CMPXCHG8B wrong.
    let forms = if rng.process() {
        &FORMS[..]
    } else {
        &FORMS[..8]
    };
    a.db(rng.pick(forms))
}

/// #AC, but for QEMU's processors. Which of #AC and #PF comes first is up to the processor, so the page
/// is there and AC is set for one access.
fn misaligned(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    const AC: i32 = 1 << 18;
    let at = plain(rng);
    if rng.process() {
        a.pushfd()?;
        a.or(dword_ptr(esp), AC)?;
        a.popfd()?;
    }
    match rng.below(5) {
        0 => a.mov(eax, dword_ptr(at))?,
        1 => a.mov(dword_ptr(at), edx)?,
        2 => a.fild(qword_ptr(at))?,
        3 => a.movq(mm1, qword_ptr(at))?,
        _ => a.push(dword_ptr(at))?,
    }
    if rng.process() {
        a.pushfd()?;
        a.and(dword_ptr(esp), !AC)?;
        a.popfd()?;
    }
    Ok(())
}

fn privileged(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let at = plain(rng);
    // AMD's processors do not know SYSEXIT in long mode.
    let forms = if rng.process() { 15 } else { 16 };
    match rng.below(forms) {
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

fn odd_stack(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    match rng.below(4) {
        0 => {
            // IRET to a 16-bit stack leaves the kernel's upper half of ESP in place, so that a timer
            // interrupt would show: it is the same from the start.
            let offset = rng.pick(&[0, 2, 4, 0x1000, 0x1FFE, 0x2002]);
            a.mov(esp, user::KERNEL_ESP_HIGH | offset)?;
            load(a, ss, selector::STACK16)?;
        }
        1 => a.mov(esp, address(rng))?,
        2 if rng.process() => {
            a.mov(esp, rng.pick(&[0x800u32, 0x1000, 0xFFFF_F800, 0xFFFF_F002]))?
        }
        2 => a.mov(esp, rng.pick(&[0u32, 1, 2, 4, 6, 0xFFFF_FFFE, 0xFFFF_F002]))?,
        _ => {
            load(a, ss, selector::STACK_DOWN)?;
            a.mov(esp, 0u32.wrapping_sub(rng.below(0x1100)) & !3)?;
        }
    }
    // How much of PUSHA is in memory when it faults is up to the processor.
    match rng.below(3) {
        0 => a.push(eax),
        1 => a.int(0x80),
        _ => a.pop(edx),
    }
}

fn shadowed_interrupt(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    let stack = rng.pick(&[selector::DATA, selector::STACK16, selector::STACK_ABSENT]);
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

fn edge_of_memory(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    if rng.process() {
        // Whether an access may go beyond 4 GiB is up to the processor (Intel SDM vol. 3A, section 5.3).
        let at = 0u32.wrapping_sub(4 * (rng.below(2) + 1));
        a.mov(ebx, at)?;
        return match rng.below(4) {
            0 => a.mov(eax, dword_ptr(ebx)),
            1 => a.mov(dword_ptr(ebx), eax),
            2 => a.mov(eax, dword_ptr(ebx + ebx * 8 + 0x7FFF_FFE0)),
            _ => {
                a.mov(ecx, 5)?;
                a.mov(edi, ebx)?;
                a.rep().stosd()
            }
        };
    }
    let at = 0u32.wrapping_sub(rng.below(8) + 1);
    let form = rng.below(6);
    if form == 3 {
        // nop; nop - nop; nop; ud2
        a.mov(word_ptr(0xFFFF_FFFE_u32), 0x9090_u32 as i32)?;
        a.mov(dword_ptr(0), 0x0B0F_9090)?;
        a.mov(ebx, at | 6)?;
        return a.jmp(ebx);
    }
    a.mov(ebx, at)?;
    match form {
        0 => a.mov(eax, dword_ptr(ebx)),
        1 => a.mov(dword_ptr(ebx), eax),
        2 => a.fld(tbyte_ptr(ebx)),
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
fn code_edit(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
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

fn undefined(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
    const BYTES: [&[u8]; 10] = [
        &[0x0F, 0x0B],
        &[0x0F, 0xFF, 0xC0],
        &[0x8E, 0xC8], // mov cs, ax
        &[0xFE, 0xF8], // no such operation
        // What a process of today has, and a Core Duo has not; and what some virtual machines leave at
        // the wrong address.
        &[0xF1],             // icebp
        &[0x0F, 0x05],       // syscall, without EFER.SCE
        &[0x0F, 0x34],       // sysenter, with no CS for it
        &[0xC4, 0xC0],       // les with a register, or VEX
        &[0x62, 0xC0],       // bound with a register, or EVEX
        &[0x0F, 0x01, 0xD0], // xgetbv, without OSXSAVE
    ];
    let bytes = if rng.process() { &BYTES[..4] } else { &BYTES };
    a.db(rng.pick(bytes))
}

fn single_step(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
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

fn decimal(a: &mut CodeAssembler, rng: &mut Dice) -> Result<(), IcedError> {
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

//! Does this host's KVM run 32-bit ring-3 code in compatibility mode as a processor does?
//!
//! Each check runs a few instructions and compares everything with what the manual says. An
//! instruction that KVM refuses to run (an emulation failure) is no error: the engine leaves there
//! and the translator runs it.

use std::f64::consts::{PI, SQRT_2};
use std::time::Duration;

use serde::Serialize;
use translator::state::{FxState, cr4, eflags, reg};

use super::lab::{self, CODE, DATA, Lab, Rights, UNMAPPED, selector};
use super::watchdog::Watchdog;
use crate::direct::instruction::trap_length;
use crate::direct::world::{Context, FpuUse, Leave, WorldError};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "result", content = "detail")]
pub enum Outcome {
    /// As the manual says.
    Right,
    /// KVM did not run an instruction; the translator will.
    LeftToTranslator,
    /// Something else, in words.
    Wrong(String),
}

/// A check and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// What for.
    pub needed: Needed,
    /// What was found.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Why a check is not right. An early #UD counts as giving up: the engine leaves there as well.
#[derive(Debug)]
pub(super) enum Fault {
    /// KVM gave up on an instruction.
    GaveUp,
    /// It differs from the manual.
    Differs(String),
    /// The vCPU is of no more use.
    World(WorldError),
}

impl From<WorldError> for Fault {
    fn from(error: WorldError) -> Self {
        Fault::World(error)
    }
}

pub(super) type Verdict = Result<(), Fault>;

/// What a check is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Needed {
    /// For anything: without it the mode is not used.
    Always,
    /// For guest states with IOPL other than 0.
    Iopl,
    /// For segments with a limit.
    Limits,
    /// For 16-bit stacks.
    Stack16,
}

/// A check: what it is called, what it is needed for, what it does.
pub(super) type Named = (&'static str, Needed, fn(&mut Lab) -> Verdict);

/// How many checks there are.
pub(super) const COUNT: usize = 18;

const CHECKS: [Named; COUNT] = [
    ("integer arithmetic and flags", Needed::Always, arithmetic),
    (
        "instructions that 64-bit mode lacks",
        Needed::Always,
        legacy_instructions,
    ),
    (
        "flags that ring 3 may not change",
        Needed::Always,
        protected_flags,
    ),
    ("IOPL other than 0", Needed::Iopl, iopl),
    ("segment bases and loads", Needed::Always, segments),
    ("segment limits", Needed::Limits, limits),
    (
        "segments that are null or read-only",
        Needed::Always,
        unusable_segments,
    ),
    ("addresses that wrap at 4 GiB", Needed::Always, wrapping),
    ("x87", Needed::Always, x87),
    ("SSE", Needed::Always, sse),
    (
        "FPU state, loaded early, late or not at all",
        Needed::Always,
        fpu_state,
    ),
    ("instructions that must leave", Needed::Always, leaving),
    ("software interrupts", Needed::Always, interrupts),
    ("iret with VM in the image", Needed::Always, iret_with_vm),
    ("stores that fault halfway", Needed::Always, split_store),
    (
        "page faults, CR2 and error codes",
        Needed::Always,
        page_faults,
    ),
    ("page-table edits by the monitor", Needed::Always, edits),
    ("an endless loop is interrupted", Needed::Always, kick),
];

/// Runs all checks of 32-bit code.
pub(super) fn all(lab: &mut Lab) -> (Vec<Check>, Option<WorldError>) {
    run(lab, &CHECKS)
}

/// Runs checks. After an error of the vCPU, which is told as well, the remaining ones fail.
pub(super) fn run(lab: &mut Lab, named: &[Named]) -> (Vec<Check>, Option<WorldError>) {
    let mut checks: Vec<Check> = Vec::new();
    let mut dead = None;
    for &(name, needed, check) in named {
        let outcome = match &dead {
            Some(error) => Outcome::Wrong(format!("not run: {error}")),
            None => match check(lab) {
                Ok(()) => Outcome::Right,
                Err(Fault::GaveUp) => Outcome::LeftToTranslator,
                Err(Fault::Differs(what)) => Outcome::Wrong(what),
                Err(Fault::World(error)) => {
                    let outcome = Outcome::Wrong(error.to_string());
                    dead = Some(error);
                    outcome
                }
            },
        };
        checks.push(Check {
            name,
            needed,
            outcome,
        });
    }
    (checks, dead)
}

pub(super) fn expect<T: PartialEq + std::fmt::LowerHex>(
    what: &str,
    found: T,
    wanted: T,
) -> Verdict {
    if found == wanted {
        return Ok(());
    }
    let text = format!("{what} is {found:#x}, not {wanted:#x}");
    Err(Fault::Differs(text))
}

/// Runs to the exception at `code[at..]`, wherever KVM puts it, and takes traps back to there.
fn run_to(lab: &mut Lab, context: &mut Context, code: &[u8], at: usize) -> Result<u8, Fault> {
    lab.program(code);
    let leave = lab.run(context)?;
    exception_at(leave, context, code, at)
}

fn exception_at(leave: Leave, context: &mut Context, code: &[u8], at: usize) -> Result<u8, Fault> {
    match leave {
        Leave::Exception { vector, .. } => {
            let offset = context.eip.wrapping_sub(CODE) as usize;
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
            let what = format!("EIP at exception {vector}");
            expect(&what, context.eip, CODE + at as u32)?;
            Ok(vector)
        }
        Leave::GaveUp => Err(Fault::GaveUp),
        other => Err(Fault::Differs(format!("left with {other:x?}"))),
    }
}

/// `code` and `int 0x80` after it.
fn with_end(code: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = code.to_vec();
    bytes.extend([0xCD, 0x80]);
    (bytes, code.len())
}

/// Runs `code` from the start state to its end.
fn run_all(lab: &mut Lab, code: &[u8]) -> Result<Context, Fault> {
    let (code, end) = with_end(code);
    let mut context = Lab::start();
    run_to(lab, &mut context, &code, end)?;
    Ok(context)
}

/// Opcode bytes and a 32-bit address or immediate.
fn op(opcode: &[u8], value: u32) -> Vec<u8> {
    [opcode, &value.to_le_bytes()].concat()
}

fn arithmetic(lab: &mut Lab) -> Verdict {
    let (a, c) = (0x1234_5678u32, 0x0F0F_0F0Fu32);
    let code = [
        op(&[0xB8], a),           // mov eax, a
        op(&[0xB9], c),           // mov ecx, c
        vec![0x0F, 0xAF, 0xC1],   // imul eax, ecx
        op(&[0x05], 0x8000_0001), // add eax, 80000001h
        vec![0x50, 0x5A],         // push eax; pop edx
        vec![0x89, 0xD3],         // mov ebx, edx
        vec![0xF7, 0xE1],         // mul ecx
        op(&[0xA3], DATA),        // mov [DATA], eax
        vec![0xF9, 0x19, 0xF6],   // stc; sbb esi, esi
    ]
    .concat();
    let end = run_all(lab, &code)?;
    let sum = a.wrapping_mul(c).wrapping_add(0x8000_0001);
    let product = u64::from(sum) * u64::from(c);
    expect("EAX", end.gpr[reg::EAX], product as u32)?;
    expect("EDX", end.gpr[reg::EDX], (product >> 32) as u32)?;
    expect("EBX", end.gpr[reg::EBX], sum)?;
    expect("ESI", end.gpr[reg::ESI], u32::MAX)?;
    expect("ESP", end.gpr[reg::ESP], lab::STACK)?;
    expect("memory", lab.read_u64(DATA) as u32, product as u32)?;
    let flags = eflags::CF | eflags::PF | eflags::AF | eflags::SF;
    expect("flags", end.eflags & eflags::STATUS, flags)
}

fn legacy_instructions(lab: &mut Lab) -> Verdict {
    let code = [
        0xB8, 57, 0, 0, 0, // mov eax, 57
        0xD4, 0x0A, // aam: AH = 5, AL = 7
        0x40, 0x4B, // inc eax; dec ebx
        0x60, // pusha
        0x31, 0xC0, // xor eax, eax
        0x61, // popa
        0x0E, 0x59, // push cs; pop ecx
        0x27, // daa: AL = 8 stays
    ];
    let end = run_all(lab, &code)?;
    expect("EAX", end.gpr[reg::EAX], 0x0508)?;
    expect("EBX", end.gpr[reg::EBX], u32::MAX)?;
    expect("ECX", end.gpr[reg::ECX], u32::from(selector::CODE))
}

fn protected_flags(lab: &mut Lab) -> Verdict {
    flags_with(lab, 0)
}

fn iopl(lab: &mut Lab) -> Verdict {
    for iopl in 1..3 {
        flags_with(lab, iopl << eflags::IOPL_SHIFT)?;
    }
    Ok(())
}

fn flags_with(lab: &mut Lab, iopl: u32) -> Verdict {
    let (code, end) = with_end(&[
        0x9C, 0x58, // pushf; pop eax
        0x6A, 0x00, 0x9D, // push 0; popf
        0x9C, 0x5B, // pushf; pop ebx
    ]);
    let mut context = Lab::start();
    context.eflags |= iopl | eflags::CF | eflags::ID;
    run_to(lab, &mut context, &code, end)?;
    let fixed = eflags::FIXED | eflags::IF | iopl;
    expect(
        "EAX",
        context.gpr[reg::EAX],
        fixed | eflags::CF | eflags::ID,
    )?;
    expect("EBX", context.gpr[reg::EBX], fixed)
}

fn segments(lab: &mut Lab) -> Verdict {
    let base = lab::SEGMENT_BASE;
    lab.write(base, &0x1111_2222_3333_4444u64.to_le_bytes());
    let code = [
        vec![0x64, 0xA1, 0, 0, 0, 0],        // mov eax, fs:[0]
        op(&[0xB9], selector::BASED.into()), // mov ecx, BASED
        vec![0x8E, 0xE9],                    // mov gs, cx
        vec![0x65, 0x8B, 0x15, 4, 0, 0, 0],  // mov edx, gs:[4]
    ]
    .concat();
    let (code, end) = with_end(&code);
    let mut context = Lab::start();
    context.data[2] = selector::BASED;
    run_to(lab, &mut context, &code, end)?;
    expect("EAX", context.gpr[reg::EAX], 0x3333_4444)?;
    expect("EDX", context.gpr[reg::EDX], 0x1111_2222)?;
    expect("GS", context.data[3], selector::BASED)?;
    // A descriptor of the monitor's is out of reach.
    let monitor = u32::from(crate::direct::layout::STACK_SELECTOR | 3);
    let code = [op(&[0xB9], monitor), vec![0x8E, 0xE9]].concat();
    let mut context = Lab::start();
    run_to(lab, &mut context, &code, 5)?;
    expect("GS", context.data[3], selector::DATA)
}

fn limits(lab: &mut Lab) -> Verdict {
    let inside = op(&[0x64, 0x8B, 0x1D], lab::SEGMENT_LIMIT - 3); // mov ebx, fs:[limit - 3]
    let beyond = op(&[0x64, 0x8B, 0x1D], lab::SEGMENT_LIMIT - 2); // mov ebx, fs:[limit - 2]
    let (code, _) = with_end(&[inside.clone(), beyond].concat());
    let mut context = Lab::start();
    context.data[2] = selector::BASED;
    let vector = run_to(lab, &mut context, &code, inside.len())?;
    expect("vector beyond the limit", vector, 13)
}

fn unusable_segments(lab: &mut Lab) -> Verdict {
    let through_null = op(&[0x65, 0xA3], DATA); // mov gs:[DATA], eax
    let through_code = op(&[0x2E, 0xA3], DATA); // mov cs:[DATA], eax
    for (code, at) in [
        ([vec![0x6A, 0, 0x0F, 0xA9], through_null].concat(), 4), // push 0; pop gs
        (through_code, 0),
    ] {
        let (code, _) = with_end(&code);
        let vector = run_to(lab, &mut Lab::start(), &code, at)?;
        expect("vector", vector, 13)?;
    }
    Ok(())
}

fn wrapping(lab: &mut Lab) -> Verdict {
    let value = 0x7766_5544u32;
    lab.write(DATA + 8, &value.to_le_bytes());
    let offset = (DATA + 8).wrapping_sub(lab::WRAP_BASE);
    let mut context = Lab::start();
    context.data[1] = selector::WRAPPING;
    let (code, end) = with_end(&op(&[0x26, 0xA1], offset)); // mov eax, es:[offset]
    run_to(lab, &mut context, &code, end)?;
    expect("EAX", context.gpr[reg::EAX], value)
}

fn x87(lab: &mut Lab) -> Verdict {
    let code = [
        vec![0xD9, 0xE8, 0xD9, 0xE8, 0xDE, 0xC1], // fld1; fld1; faddp
        vec![0xD9, 0xFA],                         // fsqrt
        op(&[0xDD, 0x1D], DATA),                  // fstp qword [DATA]
        vec![0xD9, 0xEB],                         // fldpi
        op(&[0xDD, 0x1D], DATA + 8),              // fstp qword [DATA + 8]
    ]
    .concat();
    let (code, end) = with_end(&code);
    lab.program(&code);
    let mut context = Lab::start();
    let initial = FxState::initial();
    let leave = lab.run_with_fpu(&mut context, &initial.0, FpuUse::Lazy)?;
    exception_at(leave, &mut context, &code, end)?;
    expect("square root of 2", lab.read_u64(DATA), SQRT_2.to_bits())?;
    expect("pi", lab.read_u64(DATA + 8), PI.to_bits())
}

fn sse(lab: &mut Lab) -> Verdict {
    let pair = |a: f32, b: f32| u64::from(a.to_bits()) | u64::from(b.to_bits()) << 32;
    lab.write(DATA, &pair(1.5, -2.0).to_le_bytes());
    lab.write(DATA + 8, &pair(0.25, 3.0).to_le_bytes());
    let code = [
        op(&[0x0F, 0x10, 0x05], DATA),      // movups xmm0, [DATA]
        vec![0x0F, 0x59, 0xC0],             // mulps xmm0, xmm0
        op(&[0x0F, 0x11, 0x05], DATA + 16), // movups [DATA + 16], xmm0
    ]
    .concat();
    let (code, end) = with_end(&code);
    lab.program(&code);
    lab.world
        .set_guest_control(0, cr4::OSFXSR | cr4::OSXMMEXCPT);
    let mut context = Lab::start();
    let initial = FxState::initial();
    let leave = lab.run_with_fpu(&mut context, &initial.0, FpuUse::Lazy)?;
    exception_at(leave, &mut context, &code, end)?;
    expect("low half", lab.read_u64(DATA + 16), pair(2.25, 4.0))?;
    expect("high half", lab.read_u64(DATA + 24), pair(0.0625, 9.0))
}

fn fpu_state(lab: &mut Lab) -> Verdict {
    /// Mantissa 1.5, with exponents for 3 and 6.
    const MANTISSA: u64 = 0xC000_0000_0000_0000;
    const THREE: u16 = 0x4000;
    const SIX: u16 = 0x4001;
    let mut state = FxState::initial();
    state.0[2..4].copy_from_slice(&(7u16 << 11).to_le_bytes()); // TOP = 7
    state.0[4] = 0x80; // the register it names is in use
    state.0[32..40].copy_from_slice(&MANTISSA.to_le_bytes());
    state.0[40..42].copy_from_slice(&THREE.to_le_bytes());
    let (code, end) = with_end(&[0xD8, 0xC0]); // fadd st(0), st(0)
    lab.program(&code);
    for fpu_use in [FpuUse::Lazy, FpuUse::Eager, FpuUse::Lazy] {
        let mut context = Lab::start();
        let leave = lab.run_with_fpu(&mut context, &state.0, fpu_use)?;
        exception_at(leave, &mut context, &code, end)?;
        let Some(area) = lab.world.fpu() else {
            return Err(Fault::Differs("the FPU was used and not saved".into()));
        };
        let word = |at: usize| u16::from_le_bytes([area[at], area[at + 1]]);
        expect("exponent of ST0", word(40), SIX)?;
        expect("highest word of ST0", word(38), (MANTISSA >> 48) as u16)?;
        expect("tag word", area[4], 0x80)?;
    }
    let mut context = Lab::start();
    let leave = lab.run_with_fpu(&mut context, &state.0, FpuUse::Forbidden)?;
    let vector = exception_at(leave, &mut context, &code, 0)?;
    expect("vector with the FPU forbidden", vector, 7)?;
    lab.world.load_fpu(&state.0, FpuUse::Lazy);
    Ok(())
}

fn leaving(lab: &mut Lab) -> Verdict {
    let instructions: [&[u8]; 14] = [
        &[0xCD, 0x80],       // int 80h
        &[0xCD, 0x03],       // int 3
        &[0xCC],             // int3
        &[0xCE],             // into, with OF = 1
        &[0xF1],             // icebp
        &[0x0F, 0x34],       // sysenter
        &[0x0F, 0x05],       // syscall
        &[0x0F, 0x0B],       // ud2
        &[0xF4],             // hlt
        &[0xFA],             // cli
        &[0xE4, 0x80],       // in al, 80h
        &[0xE6, 0x80],       // out 80h, al
        &[0x0F, 0x20, 0xC0], // mov eax, cr0
        &[0xF7, 0xF1],       // div ecx, with ECX = 0
    ];
    for instruction in instructions {
        let code = [&[0x90, 0x43], instruction, &[0x43, 0x0F, 0x0B]].concat(); // nop; inc ebx; ...
        let mut context = Lab::start();
        context.eflags |= eflags::OF;
        let mut wanted = context;
        // `inc` clears OF, so EBX starts where it sets it.
        context.gpr[reg::EBX] = 0x7FFF_FFFF;
        let result = run_to(lab, &mut context, &code, 2);
        if let Err(Fault::Differs(what)) = result {
            let text = format!("instruction {instruction:02x?}: {what}");
            return Err(Fault::Differs(text));
        }
        result?;
        wanted.gpr[reg::EBX] = 0x8000_0000;
        expect("EBX", context.gpr[reg::EBX], wanted.gpr[reg::EBX])?;
        expect("EAX", context.gpr[reg::EAX], wanted.gpr[reg::EAX])?;
        expect("ESP", context.gpr[reg::ESP], wanted.gpr[reg::ESP])?;
    }
    Ok(())
}

/// Every `int n` leaves with the registers as they were.
fn interrupts(lab: &mut Lab) -> Verdict {
    let registers = [1, 2, 3, 4, lab::STACK, 5, 6, 7];
    for vector in 0..=u8::MAX {
        let mut context = Lab::start();
        context.gpr = registers;
        match run_to(lab, &mut context, &[0xCD, vector], 0) {
            Err(Fault::Differs(what)) => {
                return Err(Fault::Differs(format!("int {vector:#x}: {what}")));
            }
            result => result?,
        };
        for (found, wanted) in context.gpr.into_iter().zip(registers) {
            expect(&format!("a register after int {vector:#x}"), found, wanted)?;
        }
    }
    Ok(())
}

/// At ring 3 `iret` leaves EFLAGS.VM alone (Intel SDM vol. 2A, IRET).
fn iret_with_vm(lab: &mut Lab) -> Verdict {
    let flags = eflags::VM | eflags::IF | eflags::FIXED;
    let frame = [
        op(&[0x68], flags),                 // push flags
        op(&[0x68], selector::CODE.into()), // push CODE
        op(&[0x68], CODE + 16),             // push CODE + 16
        vec![0xCF],                         // iretd
    ]
    .concat();
    let (code, end) = with_end(&frame);
    // A processor that goes to virtual-8086 mode takes more from the stack.
    let mut context = Lab::start();
    context.gpr[reg::ESP] -= 64;
    let stack = context.gpr[reg::ESP];
    match run_to(lab, &mut context, &code, end) {
        Err(Fault::World(error @ WorldError::Virtual8086)) => {
            lab.world.recover()?;
            return Err(Fault::Differs(error.to_string()));
        }
        Err(Fault::Differs(_)) if context.eip == CODE + end as u32 - 1 => {
            return Err(Fault::GaveUp); // it faulted: the translator runs it
        }
        result => result?,
    };
    expect("ESP", context.gpr[reg::ESP], stack)
}

/// A store that faults for its second page has not changed the first.
fn split_store(lab: &mut Lab) -> Verdict {
    const BEFORE: u64 = 0x1111_2222_3333_4444;
    let second = DATA + 0x1000;
    lab.write(second - 8, &BEFORE.to_le_bytes());
    lab.world.edit(Lab::entry_address(second), 0)?;
    let store = op(&[0xA3], second - 2); // mov [second - 2], eax
    let found = fault(lab, &store, 0, 4 | 2, second);
    lab.map_page(second, Lab::data_frame(1), Rights::Write)?;
    found?;
    expect("memory", lab.read_u64(second - 8), BEFORE)
}

/// Runs `code` and expects #PF at its instruction `at`.
fn fault(lab: &mut Lab, code: &[u8], at: usize, error: u32, address: u32) -> Verdict {
    lab.program(code);
    let mut context = Lab::start();
    match lab.run(&mut context)? {
        Leave::Exception {
            vector: 14,
            error: found,
            address: cr2,
        } => {
            expect("error code", found, error)?;
            expect("CR2", cr2, u64::from(address))?;
            expect("ESP", context.gpr[reg::ESP], lab::STACK)?;
            expect("EIP", context.eip, CODE + at as u32)
        }
        Leave::GaveUp => Err(Fault::GaveUp),
        other => Err(Fault::Differs(format!("no #PF but {other:x?}"))),
    }
}

fn page_faults(lab: &mut Lab) -> Verdict {
    const PRESENT: u32 = 1;
    const WRITE: u32 = 2;
    const USER: u32 = 4;
    const FETCH: u32 = 16;
    let read = |address| op(&[0xA1], address); // mov eax, [address]
    let write = |address| op(&[0xA3], address); // mov [address], eax
    lab.map_page(DATA, Lab::data_frame(0), Rights::Read)?;
    fault(lab, &read(UNMAPPED + 4), 0, USER, UNMAPPED + 4)?;
    fault(lab, &write(UNMAPPED), 0, USER | WRITE, UNMAPPED)?;
    let code = [read(DATA), write(DATA + 4)].concat();
    fault(lab, &code, 5, USER | WRITE | PRESENT, DATA + 4)?;
    // push dword [UNMAPPED]: ESP must not have moved.
    fault(lab, &op(&[0xFF, 0x35], UNMAPPED), 0, USER, UNMAPPED)?;
    lab.map_page(DATA, Lab::data_frame(0), Rights::Write)?;
    // jmp DATA: not executable. The fault is at the target.
    let distance = DATA.wrapping_sub(CODE + 5);
    let code = op(&[0xE9], distance);
    let at = (DATA - CODE) as usize;
    fault(lab, &code, at, USER | PRESENT | FETCH, DATA)
}

fn edits(lab: &mut Lab) -> Verdict {
    let page = |number: u32| DATA + number * 4096;
    for number in 0..3 {
        lab.write(page(number), &[number as u8 + 1; 4]);
    }
    let reading = op(&[0xA1], page(0)); // mov eax, [page 0]
    let writing = op(&[0xA3], page(0)); // mov [page 0], eax
    for round in 0..3 {
        for frame in [1, 2, 0] {
            lab.map_page(page(0), Lab::data_frame(frame), Rights::Write)?;
            let end = run_all(lab, &reading)?;
            let wanted = (frame as u32 + 1) * 0x0101_0101;
            let what = format!("round {round}: what is read from frame {frame}");
            expect(&what, end.gpr[reg::EAX], wanted)?;
        }
    }
    lab.map_page(page(0), Lab::data_frame(0), Rights::Read)?;
    fault(lab, &writing, 0, 7, page(0))?;
    lab.map_page(page(0), Lab::data_frame(0), Rights::Write)?;
    run_all(lab, &writing)?;
    lab.world.edit(Lab::entry_address(page(0)), 0)?;
    fault(lab, &reading, 0, 4, page(0))?;
    lab.map_page(page(0), Lab::data_frame(0), Rights::Write)?;
    run_all(lab, &reading).map(|_| ())
}

fn kick(lab: &mut Lab) -> Verdict {
    lab.program(&[0x43, 0xEB, 0xFD]); // 1: inc ebx; jmp 1b
    let mut context = Lab::start();
    let watchdog = Watchdog::start(lab.world.kicker().clone(), Duration::from_millis(2));
    let leave = lab.run(&mut context)?;
    drop(watchdog);
    match leave {
        Leave::Kicked if context.gpr[reg::EBX] != 0 && context.eip.wrapping_sub(CODE) < 3 => Ok(()),
        other => Err(Fault::Differs(format!(
            "left with {other:x?}, {context:x?}"
        ))),
    }
}

//! The way into translated code and out of it.
#![allow(unsafe_code)] // assembly

use super::context::{Context, Reason};
use crate::codegen::Stubs;
use crate::codegen::asm::{Asm, Mem, host};
use crate::state::CpuState;
use std::arch::naked_asm;
use std::mem::offset_of;

const CPU: usize = offset_of!(Context, cpu);
const GPR: usize = CPU + offset_of!(CpuState, gpr);
const FPU: usize = CPU + offset_of!(CpuState, fpu);

/// MXCSR of Rust code: all exceptions masked.
static DEFAULT_MXCSR: u32 = 0x1F80;

/// Loads the guest's registers and jumps to `Context::target`. Returns when translated code leaves
/// through [`leave`]; the registers are in the context then.
///
/// The guest's FPU state is loaded if `Context::fpu_loaded` says that it was there at the exit.
///
/// # Safety
///
/// `context` is the initialized context of a code cache, `target` an address of a unit or of a
/// place inside one, `window` and `stack` what the unit expects, GS base equals `window`.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(context: *mut Context) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov r15, rdi",
        "mov [r15 + {host_rsp}], rsp",
        "mov r14, [r15 + {window}]",
        "mov r13d, 1",
        "shl r13, 32",
        "add r13, r14",
        "mov r12, [r15 + {stack}]",
        "cmp byte ptr [r15 + {fpu_loaded}], 0",
        "je 2f",
        "fxrstor64 [r15 + {fpu}]",
        "2:",
        "push [r15 + {flags}]",
        "popfq",
        "mov r8, [r15 + {scratch}]",
        "mov r9, [r15 + {scratch} + 8]",
        "mov r10, [r15 + {scratch} + 16]",
        "mov r11, [r15 + {scratch} + 24]",
        "mov eax, [r15 + {gpr}]",
        "mov ecx, [r15 + {gpr} + 4]",
        "mov edx, [r15 + {gpr} + 8]",
        "mov ebx, [r15 + {gpr} + 12]",
        "mov ebp, [r15 + {gpr} + 20]",
        "mov esi, [r15 + {gpr} + 24]",
        "mov edi, [r15 + {gpr} + 28]",
        "jmp [r15 + {target}]",
        host_rsp = const offset_of!(Context, host_rsp),
        window = const offset_of!(Context, window),
        stack = const offset_of!(Context, stack),
        fpu_loaded = const offset_of!(Context, fpu_loaded),
        fpu = const FPU,
        flags = const offset_of!(Context, flags),
        scratch = const offset_of!(Context, scratch),
        gpr = const GPR,
        target = const offset_of!(Context, target),
    )
}

/// Runs translated code from `Context::target` until it leaves.
pub(super) fn run(context: *mut Context) {
    // SAFETY: the engine passes the context of its own cache with all fields set for the unit it
    // has found; faults in translated code are redirected to the fault stub by the signal handler.
    unsafe { enter(context) }
}

/// Saves the guest's registers and returns from [`enter`]. Stubs jump here.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave() {
    naked_asm!(
        "mov [r15 + {gpr}], eax",
        "mov [r15 + {gpr} + 4], ecx",
        "mov [r15 + {gpr} + 8], edx",
        "mov [r15 + {gpr} + 12], ebx",
        "mov [r15 + {gpr} + 16], r12d",
        "mov [r15 + {gpr} + 20], ebp",
        "mov [r15 + {gpr} + 24], esi",
        "mov [r15 + {gpr} + 28], edi",
        "mov [r15 + {scratch}], r8",
        "mov [r15 + {scratch} + 8], r9",
        "mov [r15 + {scratch} + 16], r10",
        "mov [r15 + {scratch} + 24], r11",
        "mov rsp, [r15 + {host_rsp}]",
        "pushfq",
        "pop [r15 + {flags}]",
        "cld",
        "cmp byte ptr [r15 + {fpu_loaded}], 0",
        "je 2f",
        "fxsave64 [r15 + {fpu}]",
        "ldmxcsr [rip + {mxcsr}]",
        "2:",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        gpr = const GPR,
        scratch = const offset_of!(Context, scratch),
        host_rsp = const offset_of!(Context, host_rsp),
        flags = const offset_of!(Context, flags),
        fpu_loaded = const offset_of!(Context, fpu_loaded),
        fpu = const FPU,
        mxcsr = sym DEFAULT_MXCSR,
    )
}

/// Sets GS base, through which translated code with two address registers loads.
pub(super) fn set_gs_base(base: u64, fsgsbase: bool) {
    if fsgsbase {
        // SAFETY: the kernel has enabled the instruction (checked by the caller); nothing in this
        // process uses GS.
        unsafe {
            std::arch::asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags))
        };
    } else {
        const ARCH_SET_GS: i64 = 0x1001;
        // SAFETY: as above; the system call touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
    }
}

/// True when user mode may use WRGSBASE (AT_HWCAP2 bit 1).
pub(super) fn host_has_fsgsbase() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}

/// Where stubs and shortcuts go to return to Rust.
pub(super) fn leave_address() -> u64 {
    leave as *const () as u64
}

/// Emits the stubs for a cache whose executable view begins at `origin`. The miss stub is the very
/// first: an empty entry of a jump table leads there.
pub(super) fn stubs(origin: u64) -> (Stubs, Vec<u8>) {
    let mut asm = Asm::new();
    asm.start(origin, Vec::new());
    let reason = Mem::context(offset_of!(Context, reason));
    let site = offset_of!(Context, site) as u32;
    let leave_address = leave_address();
    let pop_site = |asm: &mut Asm| {
        asm.bytes(&[0x41, 0x8F, 0x87]); // pop [r15 + disp32]
        asm.dword(site);
    };
    let go = |asm: &mut Asm, why: Reason| {
        asm.store_imm(4, reason, why as u32);
        // Not a register of the guest, and its content matters only at a miss: R9 is free.
        asm.bytes(&[0x49, 0xB9]); // mov r9, imm64
        asm.bytes(&leave_address.to_le_bytes());
        asm.jmp_reg(host::R9);
    };
    let stub = |asm: &mut Asm, pop: bool, why: Reason| {
        let address = asm.address();
        if pop {
            pop_site(asm);
        }
        go(asm, why);
        address
    };
    stub(&mut asm, false, Reason::Miss);
    let mut stubs = Stubs {
        callout: stub(&mut asm, true, Reason::Callout),
        link: stub(&mut asm, true, Reason::Link),
        dead: stub(&mut asm, true, Reason::Dead),
        fault: stub(&mut asm, false, Reason::Fault),
        prepare: stub(&mut asm, true, Reason::Prepare),
        commit: stub(&mut asm, true, Reason::Commit),
        stepped: stub(&mut asm, false, Reason::Stepped),
        stepped_to: stub(&mut asm, false, Reason::SteppedTo),
        ..Stubs::default()
    };
    stubs.nothing = asm.address();
    asm.byte(0xC3); // ret
    while !asm.offset().is_multiple_of(16) {
        asm.byte(0x90);
    }
    let (entries, code) = super::shortcut::code();
    let start = asm.address();
    asm.bytes(code);
    stubs.load_segment = start + entries.load_segment;
    stubs.popfd = start + entries.popfd;
    stubs.sysenter = start + entries.sysenter;
    stubs.sysexit = start + entries.sysexit;
    stubs.iretd = start + entries.iretd;
    stubs.int = start + entries.int;
    stubs.verw = start + entries.verw;
    stubs.far_real = start + entries.far_real;
    stubs.iret_real = start + entries.iret_real;
    stubs.int_real = start + entries.int_real;
    stubs.known_real = start + entries.known_real;
    stubs.look_up = start + entries.look_up;
    (stubs, asm.finish())
}

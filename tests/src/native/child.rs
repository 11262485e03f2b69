//! The child process: it maps the stage, enters a signal handler and never leaves it.
//!
//! Between `fork` and the end of the process only system calls are made, and nothing that uses
//! thread-local storage: code under test runs with its own FS.
#![allow(unsafe_code)] // builds an address space and edits signal frames

use super::stage::Kind;
use super::{MachineState, Outcome, Scene, Trap};
use std::arch::asm;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

/// Values of [`Control::phase`].
pub(super) mod phase {
    /// The child has not come to its handler yet.
    pub(in super::super) const START: u32 = 0;
    /// The child waits for a case.
    pub(in super::super) const IDLE: u32 = 1;
    /// A case is being run.
    pub(in super::super) const RUN: u32 = 2;
    /// The child could not be set up; `Control::error` says why.
    pub(in super::super) const FAILED: u32 = 3;
}

/// Size of the shared block with the control structure and, above it, the alternate signal stack.
pub(super) const CONTROL_BYTES: usize = 256 * 1024;

/// What parent and child share, at the bottom of the alternate signal stack (so that the handler
/// finds it through its own frame).
#[repr(C)]
pub(super) struct Control {
    /// One of [`phase`]; also the futex.
    pub(super) phase: AtomicU32,
    /// The step of the set-up that failed, and `errno`.
    pub(super) error: [i32; 2],
    /// Address below which the host allows no mapping, as far as the stage's regions tell.
    pub(super) lowest: AtomicU32,
    /// Registers to start from.
    pub(super) start: MachineState,
    /// Registers at the end.
    pub(super) outcome: Outcome,
}

/// The usual `vm.mmap_min_addr`: only root may map pages below it.
const LOW_MEMORY: u32 = 0x1_0000;

/// Steps of the set-up, for messages.
pub(super) const STEPS: [&str; 7] = [
    "",
    "mmap",
    "modify_ldt",
    "sigaltstack",
    "sigaction",
    "sigprocmask",
    "seccomp",
];

/// The kernel's `struct user_desc`.
#[repr(C)]
struct UserDesc {
    entry_number: u32,
    base_addr: u32,
    limit: u32,
    flags: u32,
}

/// Offset of the XSAVE header's `xstate_bv` in a signal frame's floating-point area (Intel SDM
/// vol. 1, section 13.4.2).
const XSTATE_BV: usize = 512;
/// x87 and SSE are not in their initial configuration.
const XSTATE_LEGACY: u64 = 3;
/// Bytes of the legacy area that hold registers; Linux keeps data of its own behind them.
const FX_REGISTERS: usize = 416;
/// The flags that `sigreturn` leaves as they are and a case could have set: NT, AC, ID.
const STICKY_FLAGS: u64 = 1 << 14 | 1 << 18 | 1 << 21;

/// The flag with which code finds out that there is CPUID.
const ID: u32 = 1 << 21;

/// Runs the child; returns only by ending the process.
///
/// `control` is the shared block, `image_fd` the file behind the mappings, whose image starts at
/// [`CONTROL_BYTES`].
///
/// # Safety
/// Call in a fresh child of `fork` only. `control` must point to [`CONTROL_BYTES`] of shared memory.
pub(super) unsafe fn main(control: *mut Control, image_fd: i32, scene: &Scene) -> ! {
    // SAFETY: `control` is valid as the caller promises, and the parent only reads `error` after
    // `phase` has become FAILED.
    unsafe {
        let step = set_up(control, image_fd, scene);
        if step == 0 {
            // Enters the handler, which stays.
            asm!("int3");
        }
        (*control).error = [step, *libc::__errno_location()];
        (*control).phase.store(phase::FAILED, Ordering::Release);
        futex(&(*control).phase, libc::FUTEX_WAKE, 1);
        libc::_exit(1)
    }
}

/// Maps the stage, fills the LDT and installs the handler. Returns the step that failed, or 0.
unsafe fn set_up(control: *mut Control, image_fd: i32, scene: &Scene) -> i32 {
    // SAFETY: plain system calls with arguments that live long enough; the mappings are below 4 GiB,
    // where a position-independent process has none (MAP_FIXED_NOREPLACE fails otherwise).
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for mapping in &scene.mappings {
            let mut protection = libc::PROT_READ;
            if mapping.writable {
                protection |= libc::PROT_WRITE;
            }
            if mapping.executable {
                protection |= libc::PROT_EXEC;
            }
            let wanted = mapping.base as usize as *mut c_void;
            let got = libc::mmap(
                wanted,
                mapping.len as usize,
                protection,
                // Populated, so that a write to a read-only page finds it present.
                libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE,
                image_fd,
                CONTROL_BYTES as i64 + i64::from(mapping.offset),
            );
            if got == wanted {
                continue;
            }
            let denied = *libc::__errno_location() == libc::EPERM;
            if !denied || mapping.base >= LOW_MEMORY {
                return 1;
            }
            (*control).lowest.store(LOW_MEMORY, Ordering::Release);
        }
        for (entry_number, entry) in (0u32..).zip(scene.ldt) {
            let (contents, read_exec_only) = match entry.kind {
                Kind::Data => (0, 0),
                Kind::DataReadOnly => (0, 1),
                Kind::DataDown => (1, 0),
                Kind::Code => (2, 0),
                Kind::CodeExecuteOnly => (2, 1),
            };
            let description = UserDesc {
                entry_number,
                base_addr: entry.base,
                limit: entry.limit,
                flags: u32::from(entry.big)
                    | contents << 1
                    | read_exec_only << 3
                    | u32::from(entry.pages) << 4
                    | u32::from(!entry.present) << 5,
            };
            let size = size_of::<UserDesc>();
            // `modify_ldt` returns an int that the system-call wrapper does not sign-extend.
            if libc::syscall(libc::SYS_modify_ldt, 0x11, &raw const description, size) as i32 != 0 {
                return 2;
            }
        }
        let stack = libc::stack_t {
            ss_sp: control.cast(),
            ss_flags: 0,
            ss_size: CONTROL_BYTES,
        };
        if libc::sigaltstack(&stack, std::ptr::null_mut()) != 0 {
            return 3;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [
            libc::SIGSYS,
            libc::SIGTRAP,
            libc::SIGSEGV,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGBUS,
        ] {
            if libc::sigaction(signal, &action, std::ptr::null_mut()) != 0 {
                return 4;
            }
        }
        let none: libc::sigset_t = std::mem::zeroed();
        if libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) != 0 {
            return 5;
        }
        if scene.trap_system_calls && !trap_system_calls() {
            return 6;
        }
        0
    }
}

/// Has 32-bit system calls raise SIGSYS.
unsafe fn trap_system_calls() -> bool {
    /// `AUDIT_ARCH_I386`.
    const I386: u32 = 0x4000_0003;
    /// Offset of `arch` in `struct seccomp_data`.
    const ARCHITECTURE: u32 = 4;
    let step = |code, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        step(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            0,
            0,
            ARCHITECTURE,
        ),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, I386),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_TRAP),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: plain system calls; the program outlives them.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    }
}

/// Records the case that just ended, waits for the next one and makes the signal return enter it.
unsafe extern "C" fn handler(signal: i32, _info: *mut libc::siginfo_t, context: *mut c_void) {
    let context: *mut libc::ucontext_t = context.cast();
    // SAFETY: the kernel passes a valid context with a floating-point area, on the alternate stack
    // whose bottom is the control block. The parent does not touch `start` and `outcome` while the
    // phase is RUN, and the child only while it is. No thread-local storage is used.
    unsafe {
        // AC would make our own misaligned accesses fault; sigreturn keeps NT, AC and ID.
        asm!("pushfq", "and qword ptr [rsp], {mask}", "popfq", mask = const !STICKY_FLAGS as i32);
        let control: *mut Control = (*context).uc_stack.ss_sp.cast();
        let shared = &(*control).phase;
        if shared.load(Ordering::Acquire) == phase::RUN {
            record(signal, context, &raw mut (*control).outcome);
        }
        shared.store(phase::IDLE, Ordering::Release);
        futex(shared, libc::FUTEX_WAKE, 1);
        loop {
            let now = shared.load(Ordering::Acquire);
            if now == phase::RUN {
                break;
            }
            futex(shared, libc::FUTEX_WAIT, now);
        }
        load(context, &raw const (*control).start);
    }
}

/// Index in the signal context of each general register, in encoding order.
const GPRS: [i32; 8] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
];

/// Copies the registers of the interrupted code out of the signal context.
unsafe fn record(signal: i32, context: *mut libc::ucontext_t, outcome: *mut Outcome) {
    // SAFETY: as `handler`; selectors are read and nothing is loaded.
    unsafe {
        let machine = &(*context).uc_mcontext;
        let state = &mut (*outcome).state;
        for (to, from) in GPRS.into_iter().enumerate() {
            state.gpr[to] = machine.gregs[from as usize] as u32;
        }
        state.eip = machine.gregs[libc::REG_RIP as usize] as u32;
        state.eflags = machine.gregs[libc::REG_EFL as usize] as u32;
        let pair = machine.gregs[libc::REG_CSGSFS as usize] as u64;
        let (es, ds, fs, gs): (u16, u16, u16, u16);
        asm!("mov {0:x}, es", "mov {1:x}, ds", "mov {2:x}, fs", "mov {3:x}, gs",
             out(reg) es, out(reg) ds, out(reg) fs, out(reg) gs,
             options(nomem, nostack, preserves_flags));
        state.selectors = [es, pair as u16, (pair >> 48) as u16, ds, fs, gs];
        std::ptr::copy_nonoverlapping(
            machine.fpregs.cast::<u8>(),
            state.fx.as_mut_ptr(),
            FX_REGISTERS,
        );
        let vector = if signal == libc::SIGSYS {
            Trap::SYSTEM_CALL
        } else {
            machine.gregs[libc::REG_TRAPNO as usize] as u32
        };
        let page_fault = vector == Trap::PAGE_FAULT;
        (*outcome).trap = Trap {
            vector,
            error: if Trap::pushes_error(vector) {
                machine.gregs[libc::REG_ERR as usize] as u32
            } else {
                0
            },
            cr2: if page_fault {
                machine.gregs[libc::REG_CR2 as usize] as u32
            } else {
                0
            },
        };
    }
}

/// Edits the signal context, and loads the segment registers that it does not hold, so that the
/// signal return enters the case.
unsafe fn load(context: *mut libc::ucontext_t, start: *const MachineState) {
    // SAFETY: as `handler`. The selectors are among the stage's, so that the loads do not fault; DS
    // and ES mean nothing in 64-bit code, FS and GS are not used by what follows.
    unsafe {
        let start = &*start;
        let machine = &mut (*context).uc_mcontext;
        for (from, to) in GPRS.into_iter().enumerate() {
            machine.gregs[to as usize] = i64::from(start.gpr[from]);
        }
        machine.gregs[libc::REG_RIP as usize] = i64::from(start.eip);
        machine.gregs[libc::REG_EFL as usize] = i64::from(start.eflags);
        let [es, cs, ss, ds, fs, gs] = start.selectors;
        machine.gregs[libc::REG_CSGSFS as usize] = (u64::from(cs) | u64::from(ss) << 48) as i64;
        let fpu = machine.fpregs.cast::<u8>();
        std::ptr::copy_nonoverlapping(start.fx.as_ptr(), fpu, FX_REGISTERS);
        let present = fpu.add(XSTATE_BV).cast::<u64>();
        present.write_unaligned(present.read_unaligned() | XSTATE_LEGACY);
        // `sigreturn` leaves ID as it is now.
        if start.eflags & ID != 0 {
            asm!("pushfq", "or qword ptr [rsp], {mask}", "popfq", mask = const ID);
        }
        asm!("mov es, {0:x}", "mov ds, {1:x}", "mov fs, {2:x}", "mov gs, {3:x}",
             in(reg) es, in(reg) ds, in(reg) fs, in(reg) gs,
             options(nostack, preserves_flags));
    }
}

/// The futex system call without libc, whose wrapper writes the thread-local `errno`.
pub(super) fn futex(word: &AtomicU32, operation: i32, value: u32) {
    // SAFETY: the address is valid, there is no time-out, and a futex call writes no memory here.
    unsafe {
        asm!("syscall",
             inlateout("rax") libc::SYS_futex => _,
             in("rdi") word.as_ptr(), in("rsi") i64::from(operation), in("rdx") u64::from(value),
             in("r10") 0, in("r8") 0, in("r9") 0,
             lateout("rcx") _, lateout("r11") _,
             options(nostack));
    }
}

//! Host faults inside translated code.
//!
//! The handler does almost nothing: it notes the fault in the context and moves the thread to the
//! fault stub, which leaves translated code in the ordinary way. Faults elsewhere go to whoever
//! handled them before.
#![allow(unsafe_code)] // a signal handler

use super::context::Context;
use super::sampler::Place;
use crate::state::eflags;
use std::cell::Cell;
use std::sync::OnceLock;

/// What the handler must know of the vCPU that this thread runs.
#[derive(Debug, Clone, Copy)]
struct Active {
    context: *mut Context,
    start: u64,
    end: u64,
    fault_stub: u64,
}

thread_local! {
    static ACTIVE: Cell<Active> =
        const { Cell::new(Active { context: std::ptr::null_mut(), start: 0, end: 0, fault_stub: 0 }) };
}

const SIGNALS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGBUS,
    libc::SIGTRAP,
];

/// The handlers that were there before. Signal dispositions belong to the process, so this is the
/// one thing here that is not per machine.
static PREVIOUS: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// Installs the handler; harmless when it is there already.
pub(super) fn install() {
    PREVIOUS.get_or_init(|| {
        // SAFETY: sigaction is plain data; all-zero is a valid (default) value.
        let mut previous: [libc::sigaction; SIGNALS.len()] = unsafe { std::mem::zeroed() };
        for (signal, old) in SIGNALS.iter().zip(previous.iter_mut()) {
            // SAFETY: installs a handler that is async-signal-safe: see `handler`.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(*signal, &raw const action, old);
            }
        }
        previous
    });
}

/// Tells the handler which code this thread may be in while `run` goes on.
pub(super) fn with_active<T>(
    context: *mut Context,
    code: std::ops::Range<u64>,
    fault_stub: u64,
    run: impl FnOnce() -> T,
) -> T {
    let outer = ACTIVE.replace(Active {
        context,
        start: code.start,
        end: code.end,
        fault_stub,
    });
    let result = run();
    ACTIVE.set(outer);
    result
}

/// What the calling thread does at host address `rip`; safe in a signal handler.
pub(super) fn place(rip: u64) -> Place {
    let active = ACTIVE.get();
    if active.context.is_null() {
        return Place::Machine;
    }
    if (active.start..active.end).contains(&rip) {
        return Place::Code(rip);
    }
    // SAFETY: the context lives while `with_active` runs, and that is this thread; plain numbers,
    // which Rust code may be writing: a torn pair is a sample at a wrong place.
    unsafe {
        let reason = (&raw const (*active.context).reason).read_volatile();
        let site = (&raw const (*active.context).site).read_volatile();
        Place::Runtime(reason, site)
    }
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, ucontext: *mut libc::c_void) {
    let active = ACTIVE.get();
    // SAFETY: the kernel passes a valid ucontext to an SA_SIGINFO handler.
    let registers = unsafe { &mut (*ucontext.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = registers[libc::REG_RIP as usize] as u64;
    if rip >= active.start && rip < active.end && !active.context.is_null() {
        // SAFETY: the context lives while `with_active` runs, and this thread is inside translated
        // code: no Rust reference to it is in use.
        unsafe {
            let context = active.context;
            (*context).site = rip;
            (*context).fault_address = registers[libc::REG_CR2 as usize] as u64;
            (*context).fault_error = registers[libc::REG_ERR as usize] as u64;
            (*context).fault_vector = registers[libc::REG_TRAPNO as usize] as u64;
        }
        registers[libc::REG_RIP as usize] = active.fault_stub as i64;
        // Nothing sets TF here. An emulator that computes flags wrongly may: the stub must be able to
        // leave, and the engine to say what happened.
        registers[libc::REG_EFL as usize] &= !i64::from(eflags::TF);
        return;
    }
    // SAFETY: hands the signal to the previous handler as the kernel would have called it.
    unsafe { chain(signal, info, ucontext) };
}

/// # Safety
///
/// The arguments are those of the signal handler.
unsafe fn chain(signal: i32, info: *mut libc::siginfo_t, ucontext: *mut libc::c_void) {
    let previous = PREVIOUS.get().and_then(|all| {
        SIGNALS
            .iter()
            .position(|s| *s == signal)
            .map(|index| all[index])
    });
    let address = previous.map_or(libc::SIG_DFL, |old| old.sa_sigaction);
    if let Some(old) = previous
        && address != libc::SIG_DFL
        && address != libc::SIG_IGN
    {
        // SAFETY: the address was registered with these flags as a handler of this type.
        unsafe {
            if old.sa_flags & libc::SA_SIGINFO != 0 {
                let function: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(address);
                function(signal, info, ucontext);
            } else {
                let function: extern "C" fn(i32) = std::mem::transmute(address);
                function(signal);
            }
        }
        return;
    }
    // The default action: restore it and return, so that the fault happens again.
    // SAFETY: plain system call with valid arguments.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

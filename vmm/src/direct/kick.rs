//! Making a running KVM vCPU come back, from any thread.
#![allow(unsafe_code)] // a second mapping of the vCPU's run page, a signal handler

use std::fmt;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::time::Duration;

use kvm_bindings::kvm_run;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::{
    SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction,
};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::{getpid, gettid};

use crate::engine::Kick;

/// The signal that interrupts `KVM_RUN`. Its handler does nothing.
const SIGNAL: Signal = Signal::SIGUSR1;

/// Signals this thread again and again until it is dropped, so that `KVM_RUN` comes back whatever the
/// vCPU does. Otherwise a vCPU that spins in the monitor, where no interrupt reaches it, would never
/// come back: a host's processor that is not right can do that.
pub(super) fn alarm(interval: Duration) -> Result<Timer, Errno> {
    let notify = SigevNotify::SigevThreadId {
        signal: SIGNAL,
        thread_id: gettid().as_raw(),
        si_value: 0,
    };
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))?;
    let expiration = Expiration::Interval(interval.into());
    timer.set(expiration, TimerSetTimeFlags::empty())?;
    Ok(timer)
}

/// Shared by the vCPU and its kickers.
struct Shared {
    /// A mapping of the vCPU's `kvm_run` page that lives as long as the last kicker.
    run: NonNull<kvm_run>,
    /// The thread that is in `KVM_RUN`, or about to be; 0 if none.
    thread: AtomicI32,
}

// SAFETY: the only field of the mapping that is touched is an atomic byte.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// `kvm_run.immediate_exit`: `KVM_RUN` returns at once with EINTR while it is not 0.
    fn immediate_exit(&self) -> &AtomicU8 {
        let address = self.run.as_ptr().cast::<u8>();
        // SAFETY: the byte is inside the mapping, which lives as long as `self`, and everybody in
        // this process accesses it through this function.
        unsafe { AtomicU8::from_ptr(address.add(offset_of!(kvm_run, immediate_exit))) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        let result = unsafe { munmap(self.run.cast(), size_of::<kvm_run>()) };
        debug_assert!(result.is_ok(), "munmap: {result:?}");
    }
}

/// A handle that makes the vCPU come back.
#[derive(Clone)]
pub(super) struct Kicker(Arc<Shared>);

impl Kicker {
    /// A kicker for the vCPU behind `vcpu`.
    pub(super) fn new(vcpu: BorrowedFd<'_>) -> Result<Self, Errno> {
        extern "C" fn nothing(_: libc::c_int) {}
        let action = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::empty(), // no SA_RESTART: KVM_RUN must come back
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing, which is safe at any point.
        unsafe { sigaction(SIGNAL, &action) }?;
        let bytes = NonZeroUsize::new(size_of::<kvm_run>()).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let run = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, vcpu, 0) }?.cast();
        Ok(Self(Arc::new(Shared {
            run,
            thread: AtomicI32::new(0),
        })))
    }

    /// The vCPU is going to run on this thread.
    pub(super) fn enter(&self) {
        self.0.thread.store(gettid().as_raw(), Ordering::SeqCst);
    }

    /// The vCPU does not run any more.
    pub(super) fn leave(&self) {
        self.0.thread.store(0, Ordering::SeqCst);
    }

    /// Makes [`Kicker::take`] true once more.
    pub(super) fn again(&self) {
        self.0.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// True if there was a kick since the last call.
    pub(super) fn take(&self) -> bool {
        let byte = self.0.immediate_exit();
        byte.load(Ordering::SeqCst) != 0 && byte.swap(0, Ordering::SeqCst) != 0
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        // In this order: a vCPU that is not in KVM_RUN yet sees the byte, one that is gets the
        // signal.
        self.0.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.0.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: plain system call. A thread that has gone makes it fail, which is fine.
            unsafe { libc::syscall(libc::SYS_tgkill, getpid().as_raw(), thread, SIGNAL as i32) };
        }
    }
}

impl fmt::Debug for Kicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kicker").finish_non_exhaustive()
    }
}

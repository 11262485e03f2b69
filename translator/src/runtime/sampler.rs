//! Samples of where the vCPU's thread is, taken by a timer signal.
//!
//! The handler writes a record into a ring and nothing else; the engine reads the ring when it has
//! control anyway. A vCPU without a sampler runs not one instruction more.
#![allow(unsafe_code)] // a signal handler and its timer

use super::signal;
use std::cell::UnsafeCell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Samples that fit until the engine looks: half a minute.
const ENTRIES: usize = 1 << 15;
/// Time of the thread between two samples, nanoseconds. The host's kernel may round it up to its tick.
const PERIOD_NS: i64 = 1_000_000;

/// Where the thread was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In translated code, at this host address.
    Code(u64),
    /// In the runtime, which translated code was last left to for this reason (raw) at this host
    /// address.
    Runtime(u32, u64),
    /// Elsewhere: the run loop, devices.
    Machine,
}

#[derive(Debug)]
struct Ring {
    entries: Box<[UnsafeCell<Place>]>,
    /// Entries written and read so far.
    written: AtomicUsize,
    read: AtomicUsize,
    /// Samples that found no room.
    lost: AtomicUsize,
}

// SAFETY: one thread writes (the handler) and reads; the counters say which entries belong to whom.
unsafe impl Sync for Ring {}

/// A timer of one thread and its ring.
#[derive(Debug)]
pub(super) struct Sampler {
    ring: &'static Ring,
    timer: Option<(libc::pid_t, libc::timer_t)>,
}

// SAFETY: a timer is a number of this process, as good in one thread as in another.
unsafe impl Send for Sampler {}

impl Sampler {
    /// A sampler whose timer does not run yet.
    pub(super) fn new() -> Sampler {
        let entries = (0..ENTRIES).map(|_| UnsafeCell::new(Place::Machine));
        // Never given back: a signal with its address may be on the way when the timer ends.
        let ring = Box::leak(Box::new(Ring {
            entries: entries.collect(),
            written: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
        }));
        Sampler { ring, timer: None }
    }

    /// Makes the timer measure the calling thread.
    ///
    /// # Errors
    ///
    /// When the host has no timer left.
    pub(super) fn attach(&mut self) -> io::Result<()> {
        // SAFETY: takes no arguments and cannot fail.
        let thread = unsafe { libc::gettid() };
        if self.timer.is_some_and(|(owner, _)| owner == thread) {
            return Ok(());
        }
        self.detach();
        // SAFETY: plain data whose all-zero value is valid; every pointer is to a local that outlives
        // the call, and the ring lives for ever.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGPROF;
            event.sigev_notify_thread_id = thread;
            event.sigev_value.sival_ptr = std::ptr::from_ref(self.ring).cast_mut().cast();
            let mut timer: libc::timer_t = std::mem::zeroed();
            let clock = libc::CLOCK_THREAD_CPUTIME_ID;
            if libc::timer_create(clock, &raw mut event, &raw mut timer) != 0 {
                return Err(io::Error::last_os_error());
            }
            self.timer = Some((thread, timer));
            let period = libc::timespec {
                tv_sec: 0,
                tv_nsec: PERIOD_NS,
            };
            let times = libc::itimerspec {
                it_interval: period,
                it_value: period,
            };
            if libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    fn detach(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            // SAFETY: made in `attach`, and not deleted since.
            unsafe { libc::timer_delete(timer) };
        }
    }

    /// The oldest sample that was not read yet.
    pub(super) fn next(&self) -> Option<Place> {
        let read = self.ring.read.load(Ordering::Relaxed);
        if read == self.ring.written.load(Ordering::Acquire) {
            return None;
        }
        let entry = self.ring.entries.get(read % ENTRIES)?;
        // SAFETY: written before `written` was raised, and not written again before `read` is.
        let place = unsafe { *entry.get() };
        self.ring.read.store(read + 1, Ordering::Release);
        Some(place)
    }

    /// Samples that found no room so far.
    pub(super) fn lost(&self) -> u64 {
        self.ring.lost.load(Ordering::Relaxed) as u64
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.detach();
    }
}

extern "C" fn handler(_: i32, info: *mut libc::siginfo_t, ucontext: *mut libc::c_void) {
    // SAFETY: the kernel passes valid structures; the value is the ring that `attach` gave the timer.
    // Signals that others send carry no timer's code.
    unsafe {
        if (*info).si_code != libc::SI_TIMER {
            return;
        }
        let ring = (*info).si_value().sival_ptr.cast::<Ring>();
        let Some(ring) = ring.as_ref() else {
            return;
        };
        let registers = &(*ucontext.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let place = signal::place(registers[libc::REG_RIP as usize] as u64);
        let written = ring.written.load(Ordering::Relaxed);
        if written - ring.read.load(Ordering::Acquire) >= ENTRIES {
            ring.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some(entry) = ring.entries.get(written % ENTRIES) {
            *entry.get() = place;
            ring.written.store(written + 1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_busy_thread_is_sampled() {
        let mut sampler = Sampler::new();
        sampler.attach().expect("a timer");
        sampler.attach().expect("the same timer");
        let give_up = Instant::now() + Duration::from_secs(60);
        let place = loop {
            if let Some(place) = sampler.next() {
                break place;
            }
            assert!(Instant::now() < give_up, "no sample in a minute");
        };
        assert_eq!(place, Place::Machine, "no vCPU runs in this thread");
    }
}

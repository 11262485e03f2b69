//! The parent's side: starts the child, hands it cases, restarts it when it died.
#![allow(unsafe_code)] // forks, and shares memory with the child

use super::child::{self, CONTROL_BYTES, Control, futex, phase};
use super::stage;
use super::{MachineState, Outcome, Scene};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::ClockId;
use nix::unistd::{ForkResult, Pid, fork, ftruncate};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Why a case could not be run natively.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// the host refused a system call
    #[error("{what}: {source}")]
    Host {
        /// The call.
        what: &'static str,
        /// The host's reason.
        #[source]
        source: Errno,
    },
    /// The case did not end in time; the child was killed and a new one started.
    #[error("the case did not end within {0:?}")]
    Hung(Duration),
    /// The case killed the child; a new one was started.
    #[error("the case ended the child: {0}")]
    Died(String),
}

fn host(what: &'static str) -> impl Fn(Errno) -> NativeError {
    move |source| NativeError::Host { what, source }
}

/// How much processor time one case may take: other processes do not count.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// The processor time of a child, zero if it is not there any more.
fn processor_time(child: Pid) -> Duration {
    let clock = ClockId::pid_cpu_clock_id(child);
    let time = clock.and_then(ClockId::now);
    time.map_or(Duration::ZERO, Duration::from)
}

/// Runs cases on the host processor.
#[derive(Debug)]
pub struct NativeRunner {
    scene: Scene,
    file: OwnedFd,
    base: NonNull<c_void>,
    child: Option<Pid>,
}

impl NativeRunner {
    /// A child on the stage, which is all zero but for the code regions: these hold INT3.
    ///
    /// # Errors
    /// As [`NativeRunner::with`].
    pub fn new() -> Result<Self, NativeError> {
        let mut runner = Self::with(Scene::stage())?;
        for (index, region) in stage::REGIONS.iter().enumerate() {
            if region.access == stage::Access::Code {
                let start = stage::image_offset(index);
                runner.image_mut()[start..start + region.len() as usize].fill(0xCC);
            }
        }
        Ok(runner)
    }

    /// Shares memory, all zero, with a child and starts it.
    ///
    /// # Errors
    /// [`NativeError::Host`] where the host does not allow what is needed, such as `modify_ldt`.
    pub fn with(scene: Scene) -> Result<Self, NativeError> {
        let file =
            memfd_create("native-stage", MFdFlags::MFD_CLOEXEC).map_err(host("memfd_create"))?;
        let len = CONTROL_BYTES + scene.image_len;
        ftruncate(&file, len as i64).map_err(host("ftruncate"))?;
        let Some(size) = NonZeroUsize::new(len) else {
            return Err(host("size of the stage")(Errno::EINVAL));
        };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &file,
                0,
            )
        }
        .map_err(host("mmap"))?;
        let mut runner = NativeRunner {
            scene,
            file,
            base,
            child: None,
        };
        runner.start()?;
        Ok(runner)
    }

    /// Address below which the host let no region be mapped: 0, or 64 KiB where `vm.mmap_min_addr` is so
    /// and we are not root. The guest to compare with must lack them as well.
    pub fn lowest(&self) -> u32 {
        // SAFETY: the block lives as long as `self`, and the field is atomic.
        unsafe { (*self.control()).lowest.load(Ordering::Acquire) }
    }

    /// The bytes of the image. On the stage it holds all regions, one after another as
    /// [`stage::image_offset`] places them.
    pub fn image(&self) -> &[u8] {
        // SAFETY: the mapping is valid as long as `self`; the child writes it only during `run`,
        // which borrows `self` exclusively.
        unsafe {
            let start = self.base.as_ptr().cast::<u8>().add(CONTROL_BYTES);
            std::slice::from_raw_parts(start, self.scene.image_len)
        }
    }

    /// The bytes of the image, to change them.
    pub fn image_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `image`.
        unsafe {
            let start = self.base.as_ptr().cast::<u8>().add(CONTROL_BYTES);
            std::slice::from_raw_parts_mut(start, self.scene.image_len)
        }
    }

    /// Enters the code at CS:EIP of `start` and returns with what the first exception found.
    ///
    /// # Errors
    /// [`NativeError::Hung`] and [`NativeError::Died`] leave a new child behind, and the runner can
    /// be used again.
    pub fn run(&mut self, start: &MachineState) -> Result<Outcome, NativeError> {
        let control = self.control();
        // SAFETY: the control block is valid, and the child waits (its phase is IDLE), so that it
        // touches neither field.
        let shared = unsafe {
            (*control).start = *start;
            &(*control).phase
        };
        shared.store(phase::RUN, Ordering::Release);
        futex(shared, libc::FUTEX_WAKE, 1);
        match self.wait_while(phase::RUN) {
            // SAFETY: the child waits again.
            Ok(()) => Ok(unsafe { (*control).outcome }),
            Err(error) => {
                self.start()?;
                Err(error)
            }
        }
    }

    fn control(&self) -> *mut Control {
        self.base.as_ptr().cast()
    }

    /// Starts a child and waits until it is ready.
    fn start(&mut self) -> Result<(), NativeError> {
        self.stop();
        let control = self.control();
        // SAFETY: there is no child that could look at the block.
        unsafe { (*control).phase.store(phase::START, Ordering::Release) };
        // SAFETY: the child makes only system calls, see `child::main`.
        match unsafe { fork() }.map_err(host("fork"))? {
            ForkResult::Child => {
                // SAFETY: this is the fresh child; the block has the promised size.
                unsafe { child::main(control, self.file.as_raw_fd(), &self.scene) }
            }
            ForkResult::Parent { child } => self.child = Some(child),
        }
        self.wait_while(phase::START)?;
        // SAFETY: the child waits, or has ended.
        let (now, [step, error]) =
            unsafe { ((*control).phase.load(Ordering::Acquire), (*control).error) };
        if now == phase::FAILED {
            let what = child::STEPS.get(step as usize).copied().unwrap_or("set-up");
            return Err(host(what)(Errno::from_raw(error)));
        }
        Ok(())
    }

    /// Waits until the phase is another one; kills a child that takes too long.
    fn wait_while(&mut self, old: u32) -> Result<(), NativeError> {
        let begin = Instant::now();
        let before = self.child.map_or(Duration::ZERO, processor_time);
        // SAFETY: the block outlives the reference.
        let shared = unsafe { &(*self.control()).phase };
        while shared.load(Ordering::Acquire) == old {
            let limit = libc::timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            // SAFETY: the word and the time-out are valid during the call.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    shared.as_ptr(),
                    libc::FUTEX_WAIT,
                    old,
                    &raw const limit,
                    0,
                    0,
                );
            }
            let Some(child) = self.child else {
                return Err(NativeError::Died("no child".to_owned()));
            };
            if shared.load(Ordering::Acquire) != old {
                break;
            }
            match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {}
                status => {
                    self.child = None;
                    return Err(NativeError::Died(format!("{status:?}")));
                }
            }
            let used = processor_time(child).saturating_sub(before);
            if used > TIMEOUT || begin.elapsed() > PATIENCE {
                self.stop();
                return Err(NativeError::Hung(TIMEOUT));
            }
        }
        Ok(())
    }

    /// Ends the child.
    fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            // A child that has died by itself is still ours to reap, so the id is not another's.
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
    }
}

impl Drop for NativeRunner {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: nobody holds a reference into the mapping any more.
        let _ = unsafe { munmap(self.base, CONTROL_BYTES + self.scene.image_len) };
    }
}

#[cfg(test)]
mod tests {
    use super::stage::{Environment, REGIONS, image_offset, locate};
    use super::*;

    /// Runs `code` in an environment from registers that `edit` chooses.
    fn run(
        runner: &mut NativeRunner,
        environment: Environment,
        code: &[u8],
        edit: impl Fn(&mut MachineState),
    ) -> Outcome {
        let eip = environment.code_offset();
        let at = locate(environment.code_base() + eip).unwrap_or_default();
        runner.image_mut()[at..at + 32].fill(0xCC);
        runner.image_mut()[at..at + code.len()].copy_from_slice(code);
        let mut start = MachineState::new();
        start.eip = eip;
        start.selectors = environment.selectors();
        start.gpr[4] = 0x0BAD_3000;
        edit(&mut start);
        runner.run(&start).expect("the case runs")
    }

    #[test]
    fn known_answers() {
        let mut runner = NativeRunner::new().expect("a native runner");
        // add eax, ebx
        let end = run(&mut runner, Environment::Flat32, &[0x01, 0xD8], |s| {
            s.gpr[0] = 0xFFFF_FFFF;
            s.gpr[3] = 1;
        });
        assert_eq!((end.trap.vector, end.state.gpr[0]), (3, 0));
        assert_eq!(end.state.eip, Environment::Flat32.code_offset() + 3);
        assert_eq!(end.state.eflags & 0x8D5, 0x55); // CF PF AF ZF
        // The same bytes are add ax, bx in 16-bit code: the upper half stays.
        let end = run(&mut runner, Environment::Segmented16, &[0x01, 0xD8], |s| {
            s.gpr[0] = 0x1234_FFFF;
            s.gpr[3] = 1;
        });
        assert_eq!((end.trap.vector, end.state.gpr[0]), (3, 0x1234_0000));
        assert_eq!(end.state.selectors, Environment::Segmented16.selectors());
        // div cl by zero
        let end = run(&mut runner, Environment::Flat32, &[0xF6, 0xF1], |_| ());
        assert_eq!(
            (end.trap.vector, end.state.eip),
            (0, Environment::Flat32.code_offset())
        );
        // mov [ebx], eax behind the data: not present, write, user
        let end = run(&mut runner, Environment::Flat32, &[0x89, 0x03], |s| {
            s.gpr[3] = 0x0123_7008;
        });
        let trap = end.trap;
        assert_eq!((trap.vector, trap.error, trap.cr2), (14, 6, 0x0123_7008));
        // the same into the read-only page: present
        let end = run(&mut runner, Environment::Flat32, &[0x89, 0x03], |s| {
            s.gpr[3] = 0x0123_6008;
        });
        let trap = end.trap;
        assert_eq!((trap.vector, trap.error, trap.cr2), (14, 7, 0x0123_6008));
        // mov fs:[0x5800], al: beyond the limit
        let code = [0x64, 0xA2, 0x00, 0x58, 0, 0];
        let end = run(&mut runner, Environment::Flat32, &code, |_| ());
        assert_eq!((end.trap.vector, end.trap.error), (13, 0));
        // mov fs, ax: a segment that is not present
        let end = run(&mut runner, Environment::Flat32, &[0x8E, 0xE0], |s| {
            s.gpr[0] = 0x2F;
        });
        assert_eq!((end.trap.vector, end.trap.error), (11, 0x2C));
        // push eax on a 16-bit stack: the upper half of ESP stays
        let end = run(&mut runner, Environment::Segmented16, &[0x66, 0x50], |s| {
            s.gpr[0] = 0xC0FF_EE11;
            s.gpr[4] = 0xDEAD_8800;
        });
        assert_eq!(end.state.gpr[4], 0xDEAD_87FC);
        let at = locate(stage::DATA16_BASE + 0x87FC).unwrap_or_default();
        assert_eq!(runner.image()[at..at + 4], 0xC0FF_EE11u32.to_le_bytes());
        // fld1 onto a stack with one register
        let end = run(&mut runner, Environment::Flat32, &[0xD9, 0xE8], |s| {
            s.fx[3] = 0x38; // TOP = 7
            s.fx[4] = 0x80;
        });
        assert_eq!((end.state.fx[3] & 0x38, end.state.fx[4]), (0x30, 0xC0));
        assert_eq!(
            end.state.fx[32..42],
            [0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F]
        );
        // addps xmm0, xmm1
        let end = run(&mut runner, Environment::Flat32, &[0x0F, 0x58, 0xC1], |s| {
            s.fx[160..164].copy_from_slice(&1.5f32.to_le_bytes());
            s.fx[176..180].copy_from_slice(&2.25f32.to_le_bytes());
        });
        assert_eq!(end.state.fx[160..164], 3.75f32.to_le_bytes());
    }

    #[test]
    fn flags_that_a_case_leaves_behind_do_not_reach_the_next_one() {
        let mut runner = NativeRunner::new().expect("a native runner");
        let top = locate(0x0BAD_3000).unwrap_or_default();
        let flags = 0x0024_4ED7u32; // ID AC NT OF DF IF SF ZF AF PF CF
        runner.image_mut()[top..top + 4].copy_from_slice(&flags.to_le_bytes());
        let end = run(&mut runner, Environment::Flat32, &[0x9D], |_| ());
        assert_eq!(end.state.eflags, flags);
        let end = run(&mut runner, Environment::Flat32, &[0x90], |_| ());
        assert_eq!(end.state.eflags, 0x202);
    }

    #[test]
    fn a_case_that_does_not_end_costs_one_child() {
        let mut runner = NativeRunner::new().expect("a native runner");
        let code = locate(Environment::Flat32.code_offset()).unwrap_or_default();
        runner.image_mut()[code..code + 2].copy_from_slice(&[0xEB, 0xFE]);
        let mut start = MachineState::new();
        start.eip = Environment::Flat32.code_offset();
        start.selectors = Environment::Flat32.selectors();
        assert!(matches!(runner.run(&start), Err(NativeError::Hung(_))));
        runner.image_mut()[code..code + 2].fill(0xCC);
        assert!(runner.run(&start).is_ok());
        assert_eq!(image_offset(REGIONS.len()), runner.image().len());
    }
}

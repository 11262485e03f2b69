//! After a failure of the vCPU: where guest code stands, and the way back into the monitor.
//!
//! What guest code has changed in memory stays changed, so the guest can only go on with the
//! registers that belong to it. They are known in two cases: the vCPU is in guest code, between two
//! instructions, and KVM tells its registers; or guest code has not run since the last exit, as the
//! vCPU is still on the monitor's way to it.

use kvm_bindings::{KVM_VCPUEVENT_VALID_SHADOW, kvm_vcpu_events};
use nix::errno::Errno;

use super::super::kvm::{self, CR0_TS};
use super::super::layout::{CODE, CODE_SELECTOR, MONITOR_LINEAR, comm};
use super::super::monitor;
use super::{Context, Leave, RFLAGS_VM, World, WorldError};

/// The vector of #DB.
const DEBUG: u8 = 1;

/// A failure that a test orders: `KVM_RUN` is taken to have failed with EIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// On the way into the guest, after so many more ways that are as they should be.
    BeforeEntry(u32),
    /// When the next kick has brought the vCPU back, as a rule from guest code.
    AtKick,
}

/// Where guest code stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Between two instructions, with these registers.
    Guest(Context),
    /// Where it was at the last exit.
    NotEntered,
    /// Somewhere else.
    Unknown,
}

/// The monitor is between its `hlt` and the `iretq` to guest code, that instruction included.
pub(super) fn enters_guest(rip: u64) -> bool {
    let image = monitor::image();
    let base = MONITOR_LINEAR + CODE;
    (base + image.resume..base + image.entered).contains(&rip)
}

impl World {
    /// After an error of a run with `context`, or on the way to it: makes `context` what the guest's
    /// registers are, and [`World::fpu`] its FPU state. False: they are lost.
    pub(in super::super) fn rescue(&mut self, error: &WorldError, context: &mut Context) -> bool {
        let standing = match error {
            // What KVM tells is the monitor at its `hlt`, after an exit of its own.
            WorldError::Monitor { rip, .. } if enters_guest(*rip) => Standing::NotEntered,
            WorldError::Monitor { .. }
            | WorldError::TripleFault
            | WorldError::Virtual8086
            | WorldError::Unfinished(_) => Standing::Unknown,
            // Nothing has run since the last exit, or since `context` was brought up to date.
            WorldError::Edit(_) | WorldError::Lost(_) => Standing::NotEntered,
            WorldError::Run(_) | WorldError::Exit(_) | WorldError::GaveUp | WorldError::Stuck => {
                self.standing().unwrap_or(Standing::Unknown)
            }
        };
        match standing {
            Standing::Guest(found) => *context = found,
            Standing::NotEntered => {}
            Standing::Unknown => return false,
        }
        true
    }

    /// KVM gave up on an instruction. If that is the guest's, the vCPU goes back into the monitor.
    pub(super) fn gave_up(&mut self, context: &mut Context) -> Result<Leave, WorldError> {
        let Ok(Standing::Guest(found)) = self.standing() else {
            return Err(WorldError::GaveUp);
        };
        tracing::debug!(target: "ringshift::direct", rip = found.eip, "KVM gave up");
        *context = found;
        self.recover()?;
        Ok(Leave::GaveUp)
    }

    /// Finds out where the vCPU is. The FPU state of guest code is fetched to where the monitor would
    /// have saved it.
    fn standing(&mut self) -> Result<Standing, kvm_ioctls::Error> {
        let regs = self.vcpu.get_regs()?;
        let sregs = self.vcpu.get_sregs()?;
        if regs.rflags & RFLAGS_VM != 0 {
            return Ok(Standing::Unknown);
        }
        let selector = sregs.cs.selector;
        if selector == CODE_SELECTOR {
            let not_entered =
                self.get::<u64>(comm::VECTOR) == comm::PARKED && enters_guest(regs.rip);
            return Ok(if not_entered {
                Standing::NotEntered
            } else {
                Standing::Unknown
            });
        }
        if selector & 3 != 3 || regs.rip >> 32 != 0 || self.trap_pending() {
            return Ok(Standing::Unknown);
        }
        if self.get::<u32>(comm::FPU_LIVE) != 0 {
            self.rescue_fpu()?;
        }
        self.queued = 0; // the monitor has stored all edits on its way
        Ok(Standing::Guest(Context {
            gpr: [
                regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            ]
            .map(|register| register as u32),
            eip: regs.rip as u32,
            eflags: regs.rflags as u32,
            cs: selector,
            ss: sregs.ss.selector,
            data: [sregs.ds, sregs.es, sregs.fs, sregs.gs].map(|segment| segment.selector),
        }))
    }

    /// An exception is on its way to the guest that would not come again when its instruction is run
    /// again: a trap. (Faults and `int` come again; nobody but us sends interrupts.)
    fn trap_pending(&self) -> bool {
        self.vcpu.get_vcpu_events().is_ok_and(|events| {
            let exception = events.exception;
            (exception.injected != 0 || exception.pending != 0) && exception.nr == DEBUG
        })
    }

    /// Makes the vCPU usable again after an error; guest code goes on from what is loaded next.
    ///
    /// # Errors
    ///
    /// When KVM does not take the registers: the vCPU is of no more use.
    pub(in super::super) fn recover(&mut self) -> Result<(), WorldError> {
        self.back_to_the_monitor()
            .map_err(|error| WorldError::Lost(Errno::from_raw(error.errno())))?;
        kvm::enable_cpuid_faulting(&self.vcpu); // a triple fault has reset it
        // Edits that may not have been stored are still in the queue.
        self.command = comm::RELOAD_CR3 | comm::LOAD_CONTROL;
        Ok(())
    }

    /// Puts the vCPU where it waits for the next crossing, as if the monitor had come back.
    fn back_to_the_monitor(&mut self) -> Result<(), kvm_ioctls::Error> {
        let (regs, mut initial) = self.initial;
        self.cr0 &= !CR0_TS;
        (initial.cr0, initial.cr3, initial.cr4) = (self.cr0, self.cr3, self.cr4);
        self.vcpu.set_sregs(&initial)?;
        self.vcpu.set_regs(&regs)?;
        // A kick that was on its way would find the monitor, and so would what the guest's last
        // instruction has raised.
        self.vcpu.set_vcpu_events(&kvm_vcpu_events {
            flags: KVM_VCPUEVENT_VALID_SHADOW,
            ..kvm_vcpu_events::default()
        })
    }

    /// Fetches the FPU state from KVM.
    fn rescue_fpu(&self) -> Result<(), kvm_ioctls::Error> {
        // The first 512 bytes of the XSAVE area are the FXSAVE area.
        let xsave = self.vcpu.get_xsave()?;
        for (number, words) in (0..).zip(xsave.region[..128].as_chunks::<2>().0) {
            let value = u64::from(words[0]) | u64::from(words[1]) << 32;
            self.set(comm::FPU + number * 8, value);
        }
        Ok(())
    }

    /// The next run that this is about fails.
    pub(in super::super) fn order_failure(&mut self, failure: Failure) {
        self.ordered = Some(failure);
    }

    /// A test wants this entry to fail.
    pub(super) fn fails_before_entry(&mut self) -> bool {
        let Some(Failure::BeforeEntry(left)) = &mut self.ordered else {
            return false;
        };
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => self.ordered = None,
        }
        self.ordered.is_none()
    }

    /// A test wants this kick to end in a failure.
    pub(super) fn fails_at_kick(&mut self) -> bool {
        let fails = self.ordered == Some(Failure::AtKick);
        if fails {
            self.ordered = None;
        }
        fails
    }
}

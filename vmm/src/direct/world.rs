//! The other side of the world switch: a KVM vCPU with the monitor in it, ready to run guest code.
//!
//! A [`World`] knows guest registers, page-table edits and exits; it knows nothing of a machine, of
//! its shadow MMU or of what an exception means.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use nix::errno::Errno;

use super::kick::{self, Kicker};
use super::kvm::{self, CR0, CR0_TS, CR4, CR4_UMIP, Features, SetupError, failed};
use super::layout::{
    COMM, EDIT_CAPACITY, EDITS, KICK_VECTOR, MONITOR_BYTES, MONITOR_GPA, MONITOR_LINEAR,
    POOL_BYTES, ROOT_COUNT, TABLE_POOL_BASE, comm,
};
use super::memory::SharedMemory;
use super::monitor;
use super::roots::RootCache;
use super::tables::{self, gpa};

/// RFLAGS.VM.
const RFLAGS_VM: u64 = 1 << 17;

/// The guest registers that the monitor loads and saves. Selectors stand for what the shadow
/// descriptor tables hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Context {
    /// General registers in encoding order.
    pub(super) gpr: [u32; 8],
    /// EIP.
    pub(super) eip: u32,
    /// EFLAGS.
    pub(super) eflags: u32,
    /// CS.
    pub(super) cs: u16,
    /// SS.
    pub(super) ss: u16,
    /// DS, ES, FS, GS.
    pub(super) data: [u16; 4],
}

/// Why the vCPU came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// An exception at ring 3, at the instruction of the context (fault or trap).
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, 0 if it has none.
        error: u32,
        /// CR2 after #PF, DR6 after #DB.
        address: u64,
    },
    /// The kick took effect at ring 3, between two instructions.
    Kicked,
    /// The monitor itself faulted while entering: a descriptor could not be loaded. The guest has
    /// not run and the context is what was asked for.
    Refused {
        /// Vector of the monitor's exception.
        vector: u8,
        /// Its error code.
        error: u32,
    },
    /// KVM gave up on the instruction of the context (emulation failure); the state was fetched
    /// from KVM and the vCPU is back in the monitor.
    GaveUp,
}

/// The vCPU came back in a way that neither the monitor nor guest code on a processor that is right
/// can cause. What guest code did since the last exit is in memory; [`World::rescue`] finds the
/// registers that belong to it, and [`World::recover`] makes the vCPU usable again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WorldError {
    /// `KVM_RUN` failed.
    #[error("KVM_RUN: {0}")]
    Run(Errno),
    /// An exit that nothing in the monitor or the guest should cause.
    #[error("unexpected exit from KVM: {0}")]
    Exit(String),
    /// The vCPU could not deliver an exception, which is gone with that; many a KVM also resets the
    /// registers.
    #[error("triple fault")]
    TripleFault,
    /// An unexpected exit, with an instruction of the guest begun: KVM waits for what a device answers.
    #[error("access to a device that is not there: {0}")]
    Unfinished(String),
    /// KVM gave up on an instruction (KVM_EXIT_INTERNAL_ERROR).
    #[error("KVM could not go on: an emulation failure")]
    GaveUp,
    /// The monitor's own code faulted outside its entry path.
    #[error("exception {vector} in the monitor at {rip:#x}, error code {error:#x}, CR2 {cr2:#x}")]
    Monitor {
        /// Vector.
        vector: u64,
        /// Where.
        rip: u64,
        /// Error code.
        error: u64,
        /// CR2.
        cr2: u64,
    },
    /// The guest's code was in virtual-8086 mode, which it cannot get into from ring 3. (QEMU's
    /// processors go there by an IRET with VM in the image; Intel SDM vol. 2A, IRET: VM counts at
    /// ring 0 alone.)
    #[error("guest code got into virtual-8086 mode")]
    Virtual8086,
    /// The vCPU does not take the registers that would bring it back to the monitor.
    #[error("the vCPU cannot be brought back: {0}")]
    Lost(Errno),
    /// The vCPU neither reaches guest code nor comes back.
    #[error("the vCPU is stuck in the monitor")]
    Stuck,
    /// A page-table edit that is not in the table pool.
    #[error("page-table edit at {0:#x}, outside the table pool")]
    Edit(u64),
}

/// How the guest may use the FPU during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FpuUse {
    /// Every use leaves (the guest's CR0.TS or EM is set).
    Forbidden,
    /// The state is loaded at first use.
    Lazy,
    /// The state is loaded on entry.
    Eager,
}

/// A KVM VM with one vCPU that holds the monitor.
#[derive(Debug)]
pub(super) struct World {
    // Dropped in this order: the VM refers to the mappings.
    vcpu: VcpuFd,
    vm: VmFd,
    monitor: SharedMemory,
    ram: Option<SharedMemory>,
    kicker: Kicker,
    features: Features,
    roots: RootCache,
    /// The vCPU at its start, to bring it back to.
    initial: (kvm_regs, kvm_sregs),
    /// The failure that a test has ordered.
    ordered: Option<Failure>,
    /// Edits in the queue.
    queued: usize,
    /// Commands for the next entry.
    command: u32,
    /// What CR3, CR0 and CR4 hold inside.
    cr3: u64,
    cr0: u64,
    cr4: u64,
    /// Where KVM's counter stands against the host's; `None` if it cannot be set.
    tsc_offset: Option<u64>,
    counters: Counters,
}

/// What a [`World`] counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Entries into guest code.
    pub(super) entries: u64,
    /// `KVM_RUN` calls.
    pub(super) runs: u64,
    /// Edits stored.
    pub(super) edits: u64,
}

impl World {
    /// Makes a world without guest memory.
    pub(super) fn new() -> Result<Self, SetupError> {
        let kvm = kvm::open()?;
        let monitor = SharedMemory::anonymous(MONITOR_BYTES + POOL_BYTES)?;
        let image = monitor::image();
        tables::install(&monitor, image, POOL_BYTES);
        let vm = kvm::create_vm(&kvm, &monitor)?;
        let (vcpu, features) = kvm::create_vcpu(&kvm, &vm, image.resume)?;
        let kicker = Kicker::new(kvm::descriptor(&vcpu))?;
        let initial = (
            vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?,
            vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?,
        );
        Ok(Self {
            cr3: initial.1.cr3,
            cr0: initial.1.cr0,
            cr4: initial.1.cr4,
            vcpu,
            vm,
            monitor,
            ram: None,
            kicker,
            features,
            roots: RootCache::new(ROOT_COUNT),
            initial,
            ordered: None,
            queued: 0,
            command: 0,
            tsc_offset: None,
            counters: Counters::default(),
        })
    }

    /// Gives the guest its memory, once: the first `bytes` of `file` at guest-physical 0.
    pub(super) fn attach(&mut self, file: impl AsFd, bytes: u64) -> Result<(), SetupError> {
        let ram = SharedMemory::file(file, bytes)?;
        kvm::add_memory(&self.vm, kvm::RAM_SLOT, 0, &ram)?;
        self.ram = Some(ram);
        Ok(())
    }

    /// The handle that makes the vCPU come back.
    pub(super) fn kicker(&self) -> &Kicker {
        &self.kicker
    }

    /// The counters.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The monitor's memory, for the shadow descriptor tables.
    pub(super) fn monitor_memory(&self) -> &SharedMemory {
        &self.monitor
    }

    /// The guest's memory, if it has any yet.
    pub(super) fn ram(&self) -> Option<&SharedMemory> {
        self.ram.as_ref()
    }

    /// Queues a store into the mirror of the table pool; the monitor carries it out before guest
    /// code runs again. An entry is queued once between two runs.
    pub(super) fn edit(&mut self, address: u64, value: u64) -> Result<(), WorldError> {
        let pool = TABLE_POOL_BASE..TABLE_POOL_BASE + POOL_BYTES;
        if !pool.contains(&address) || !address.is_multiple_of(8) {
            return Err(WorldError::Edit(address));
        }
        if self.monitor.read::<u64>(address - MONITOR_GPA) == value {
            return Ok(()); // changed and changed back
        }
        self.queue(address, value)
    }

    /// Makes `top_entry`, a page-map-level-4 entry, what the guest's 4 GiB are seen through.
    pub(super) fn set_space(&mut self, top_entry: u64) -> Result<(), WorldError> {
        let (index, is_new) = self.roots.find(top_entry);
        let root = gpa(super::layout::ROOTS) + index as u64 * super::layout::PAGE;
        if is_new {
            self.queue(root, top_entry)?;
        }
        if self.cr3 != root {
            self.cr3 = root;
            self.command |= comm::RELOAD_CR3;
        }
        Ok(())
    }

    fn queue(&mut self, address: u64, value: u64) -> Result<(), WorldError> {
        if self.queued == EDIT_CAPACITY {
            self.flush_edits()?;
        }
        let at = EDITS + self.queued as u64 * 16;
        self.monitor
            .write(at, address - MONITOR_GPA + MONITOR_LINEAR);
        self.monitor.write(at + 8, value);
        self.queued += 1;
        self.counters.edits += 1;
        self.command |= comm::RELOAD_CR3;
        Ok(())
    }

    /// Has the monitor store what is queued, without entering the guest.
    pub(super) fn flush_edits(&mut self) -> Result<(), WorldError> {
        let pending = self.command;
        self.command = comm::PARK | pending & comm::RELOAD_CR3;
        match self.cross()? {
            comm::PARKED => {
                self.command = pending & !comm::RELOAD_CR3;
                Ok(())
            }
            vector => Err(self.monitor_error(vector)),
        }
    }

    /// What the next entry loads: all registers but the FPU's.
    pub(super) fn load(&mut self, context: &Context, ldtr: u16) {
        for (number, value) in (0..).zip(context.gpr) {
            self.set(comm::GPR + number * 8, u64::from(value));
        }
        self.set(comm::RIP, u64::from(context.eip));
        self.set(comm::RFLAGS, u64::from(context.eflags));
        self.set(comm::CS, u64::from(context.cs));
        self.set(comm::SS, u64::from(context.ss));
        for (number, selector) in (0..).zip(context.data) {
            self.set(comm::DATA_SEGMENTS + number * 2, selector);
        }
        self.set(comm::LDTR, ldtr);
        self.command |= comm::LOAD_SEGMENTS;
    }

    /// What the next entry loads into the FPU, in the 64-bit FXSAVE layout, and when.
    pub(super) fn load_fpu(&mut self, state: &[u8; 512], fpu_use: FpuUse) {
        self.monitor.write_bytes(COMM + comm::FPU, state);
        self.set(comm::FPU_ALLOWED, u32::from(fpu_use != FpuUse::Forbidden));
        self.set(comm::FPU_LIVE, 0u32);
        self.command &= !comm::LOAD_FPU;
        if fpu_use == FpuUse::Eager {
            self.command |= comm::LOAD_FPU;
        }
        self.set_control(
            if fpu_use == FpuUse::Eager {
                self.cr0 & !CR0_TS
            } else {
                self.cr0 | CR0_TS
            },
            self.cr4,
        );
    }

    /// The FPU state at the last exit; `None` if the guest has not used the FPU since
    /// [`World::load_fpu`].
    pub(super) fn fpu(&self) -> Option<[u8; 512]> {
        let live: u32 = self.get(comm::FPU_LIVE);
        (live != 0).then(|| {
            let mut state = [0; 512];
            self.monitor.read_bytes(COMM + comm::FPU, &mut state);
            state
        })
    }

    /// Sets the bits of CR0 and CR4 that ring-3 code notices: CR0.AM; CR4.TSD, OSFXSR, OSXMMEXCPT.
    pub(super) fn set_guest_control(&mut self, cr0: u32, cr4: u32) {
        use translator::state::{cr0 as cr0_bits, cr4 as cr4_bits};
        const AM: u64 = cr0_bits::AM as u64;
        const CR4_MASK: u64 = (cr4_bits::TSD | cr4_bits::OSFXSR | cr4_bits::OSXMMEXCPT) as u64;
        let umip = if self.features.umip { CR4_UMIP } else { 0 };
        self.set_control(
            CR0 | self.cr0 & CR0_TS | u64::from(cr0) & AM,
            CR4 | umip | u64::from(cr4) & CR4_MASK,
        );
    }

    /// Makes `rdtsc` in the guest give the host's counter plus `offset`, if the host's KVM can do
    /// that.
    pub(super) fn set_tsc_offset(&mut self, offset: u64) -> bool {
        if self.tsc_offset != Some(offset) {
            let done = kvm::set_tsc_offset(&self.vcpu, offset);
            self.tsc_offset = done.then_some(offset);
        }
        self.tsc_offset.is_some()
    }

    fn set_control(&mut self, cr0: u64, cr4: u64) {
        if (cr0, cr4) != (self.cr0, self.cr4) {
            (self.cr0, self.cr4) = (cr0, cr4);
            self.command |= comm::LOAD_CONTROL;
        }
    }

    /// Runs guest code until something happens, and says what. The registers then are in `context`;
    /// after an error [`World::rescue`] has to bring it up to date.
    pub(super) fn run(&mut self, context: &mut Context) -> Result<Leave, WorldError> {
        self.counters.entries += 1;
        let vector = match self.cross() {
            Err(WorldError::GaveUp) => return self.gave_up(context),
            result => result?,
        };
        if self.get::<u32>(comm::FPU_LIVE) != 0 {
            self.cr0 &= !CR0_TS; // the monitor may have executed `clts`
        }
        if self.get::<u64>(comm::RFLAGS) & RFLAGS_VM != 0 {
            return Err(WorldError::Virtual8086);
        }
        if self.get::<u64>(comm::CS) & 3 != 3 {
            return self.refused(vector);
        }
        self.save(context);
        let Ok(vector) = u8::try_from(vector) else {
            return Err(self.monitor_error(vector));
        };
        if vector == KICK_VECTOR {
            return Ok(Leave::Kicked);
        }
        Ok(Leave::Exception {
            vector,
            error: self.get::<u64>(comm::ERROR) as u32,
            address: match vector {
                1 => self.get(comm::DR6),
                14 => self.get(comm::CR2),
                _ => 0,
            },
        })
    }

    fn save(&self, context: &mut Context) {
        for (number, register) in (0..).zip(&mut context.gpr) {
            *register = self.get::<u64>(comm::GPR + number * 8) as u32;
        }
        context.eip = self.get::<u64>(comm::RIP) as u32;
        context.eflags = self.get::<u64>(comm::RFLAGS) as u32;
        context.cs = self.get::<u64>(comm::CS) as u16;
        context.ss = self.get::<u64>(comm::SS) as u16;
        for (number, selector) in (0..).zip(&mut context.data) {
            *selector = self.get(comm::DATA_SEGMENTS + number * 2);
        }
    }

    /// The monitor faulted: while loading what the guest's registers ask for, or for no good reason.
    fn refused(&self, vector: u64) -> Result<Leave, WorldError> {
        match vector {
            // #TS, #NP, #SS, #GP of a segment load or of `iretq`.
            10..=13 if rescue::enters_guest(self.get(comm::RIP)) => Ok(Leave::Refused {
                vector: vector as u8,
                error: self.get::<u64>(comm::ERROR) as u32,
            }),
            _ => Err(self.monitor_error(vector)),
        }
    }

    fn monitor_error(&self, vector: u64) -> WorldError {
        WorldError::Monitor {
            vector,
            rip: self.get(comm::RIP),
            error: self.get(comm::ERROR),
            cr2: self.get(comm::CR2),
        }
    }

    /// One crossing: from the monitor's `hlt` to its next one. Returns the vector.
    fn cross(&mut self) -> Result<u64, WorldError> {
        self.set(comm::EDIT_COUNT, self.queued as u32);
        self.set(comm::COMMAND, self.command);
        self.set(comm::VECTOR, comm::PARKED);
        if self.command & comm::RELOAD_CR3 != 0 {
            self.set(comm::CR3, self.cr3);
        }
        if self.command & comm::LOAD_CONTROL != 0 {
            self.set(comm::CR0, self.cr0);
            self.set(comm::CR4, self.cr4);
        }
        self.kicker.enter();
        let result = self.run_until_halt();
        self.kicker.leave();
        result?;
        // Not 0 after a fault on the way: the monitor stores them all again.
        if self.get::<u32>(comm::EDIT_COUNT) == 0 {
            self.queued = 0;
        }
        self.command = 0;
        Ok(self.get(comm::VECTOR))
    }

    /// Runs the vCPU until the monitor halts. A kick is turned into an interrupt as soon as the
    /// vCPU can take one, which is in guest code (always with IF = 1) and not in the monitor.
    fn run_until_halt(&mut self) -> Result<(), WorldError> {
        /// How long a kick may take to get through; the monitor needs microseconds from `hlt` to
        /// guest code.
        const PATIENCE: Duration = Duration::from_secs(2);
        /// Into how many parts an alarm divides that. As many times the vCPU must have come back in
        /// vain: the time alone may have passed while this process did not run.
        const ALARMS: u32 = 8;
        let mut kicked = false;
        let mut waiting_since = None;
        let mut alarm = None;
        let mut in_vain = 0;
        if self.fails_before_entry() {
            return Err(WorldError::Run(Errno::EIO));
        }
        let result = loop {
            self.counters.runs += 1;
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => break Ok(()),
                Ok(VcpuExit::IrqWindowOpen) => {}
                Ok(VcpuExit::Intr) => kicked |= self.kicker.take(),
                Ok(VcpuExit::Shutdown) => break Err(WorldError::TripleFault),
                Ok(VcpuExit::InternalError) => break Err(WorldError::GaveUp),
                Ok(
                    exit @ (VcpuExit::IoIn(..)
                    | VcpuExit::IoOut(..)
                    | VcpuExit::MmioRead(..)
                    | VcpuExit::MmioWrite(..)),
                ) => break Err(WorldError::Unfinished(format!("{exit:?}"))),
                Ok(other) => break Err(WorldError::Exit(format!("{other:?}"))),
                Err(error) => match Errno::from_raw(error.errno()) {
                    Errno::EINTR => kicked |= self.kicker.take(),
                    Errno::EAGAIN => {}
                    errno => break Err(WorldError::Run(errno)),
                },
            }
            if kicked && self.fails_at_kick() {
                break Err(WorldError::Run(Errno::EIO));
            }
            if kicked && waiting_since.is_none() {
                waiting_since = Some(Instant::now());
                // Also where the interrupt is injected at once: nothing says that it gets through.
                alarm = kick::alarm(PATIENCE / ALARMS).ok();
            }
            if let Some(since) = waiting_since {
                if since.elapsed() > PATIENCE && in_vain >= ALARMS {
                    kicked = true; // injected or not, it has not been seen
                    break Err(WorldError::Stuck);
                }
                in_vain += 1;
            }
            if kicked {
                let run = self.vcpu.get_kvm_run();
                let ready = run.ready_for_interrupt_injection != 0 && run.if_flag != 0;
                run.request_interrupt_window = u8::from(!ready);
                if ready {
                    kvm::inject(&self.vcpu, KICK_VECTOR).map_err(WorldError::Run)?;
                    kicked = false;
                }
            }
        };
        drop(alarm);
        if kicked {
            // An exception came first. The kick must still be seen.
            self.vcpu.get_kvm_run().request_interrupt_window = 0;
            self.kicker.again();
        }
        result
    }

    fn get<T: super::memory::Plain>(&self, offset: u64) -> T {
        self.monitor.read(COMM + offset)
    }

    fn set<T: super::memory::Plain>(&self, offset: u64, value: T) {
        self.monitor.write(COMM + offset, value);
    }
}

mod rescue;
#[cfg(test)]
mod tests;

pub use rescue::Failure;

//! A machine: memory, vCPU, devices, decision, and the guest that it boots.

mod config;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use decision::{Decider, EngineCosts, HostSupport, PolicySpec};
use devices::acpi::{self, AcpiConfig, AcpiError, AcpiTables};
use devices::bus::BusError;
use devices::fw_cfg::FwCfgError;
use devices::pci::host_bridge::pam_ranges;
use devices::{Chipset, ChipsetConfig, ChipsetCounters, Picture, ResetKind, TextScreen, VgaConfig};
use shadow_mmu::{AuditError, Mmu, MmuConfig, MmuError, PAGE_SIZE, RangeKind, Shadowing};
use translator::system::CpuModel;
use translator::{CpuState, Vcpu, VcpuConfig, VcpuError};

use crate::board::Board;
use crate::clock::{Clock, host_tsc, wall_clock};
use crate::direct::{self, OpenError, Purpose};
use crate::disk::{FloppyError, FloppyImage};
use crate::engine::{DirectEngine, Kick};
use crate::firmware::{Firmware, MapError};
use crate::guest::{Guest, GuestError};
use crate::helper::Helper;
use crate::inputs::DescriptorTables;
use crate::memory_use::MemoryUse;
use crate::nmi::NmiButton;
use crate::report::{Counters, Report, SCHEMA, Times, mmu_counters};
use crate::run_loop::Account;
use crate::serial::{SerialOutput, SerialTarget, SharedOutput};
use crate::trace::{End, EndOfVcpu, Header, Losses, Recorder, Tracer};
use crate::video::VideoMap;

pub use config::{DirectMode, MachineConfig};

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// no memory
    #[error("the guest's memory cannot be set up")]
    Memory(#[from] MmuError),
    /// no vCPU
    #[error("the translator cannot be set up")]
    Vcpu(#[from] VcpuError),
    /// nothing to boot
    #[error("the guest cannot be loaded")]
    Guest(#[from] GuestError),
    /// no output
    #[error("the serial port cannot lead to {target}")]
    Output {
        /// Where it was to lead.
        target: SerialTarget,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// devices that do not go together
    #[error("the devices cannot be put together")]
    Devices(#[from] BusError),
    /// no ACPI tables
    #[error("the ACPI tables cannot be built")]
    Acpi(#[from] AcpiError),
    /// no configuration for the firmware
    #[error("the firmware cannot be configured")]
    FwCfg(#[from] FwCfgError),
    /// no direct execution, where it was asked for
    #[error("there is no direct execution")]
    Direct(#[from] OpenError),
    /// no trace
    #[error("the trace cannot be written to {}", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// a floppy disk that its drive does not take
    #[error(transparent)]
    Floppy(#[from] FloppyError),
    /// no helper thread
    #[error("the helper thread cannot be started")]
    Helper(#[source] io::Error),
}

/// A machine with one vCPU.
#[derive(Debug)]
pub struct Machine {
    pub(crate) mmu: Mmu,
    pub(crate) vcpu: Vcpu,
    pub(crate) direct: Option<Box<dyn DirectEngine>>,
    pub(crate) board: Board,
    pub(crate) decider: Decider,
    pub(crate) tables: DescriptorTables,
    pub(crate) account: Account,
    video: VideoMap,
    pub(crate) recorder: Option<Recorder>,
    tracer: Option<Tracer>,
    pub(crate) end_at_reset: bool,
    guest: Guest,
    acpi: AcpiTables,
    cpu: CpuModel,
    note: Option<String>,
    passed_over: bool,
}

impl Machine {
    /// Makes a machine and loads its guest.
    pub fn new(config: MachineConfig, guest: Guest) -> Result<Machine, MachineError> {
        let Engines {
            direct,
            policy,
            note,
            passed_over,
        } = Engines::open(&config)?;
        let mut mmu = Mmu::new(MmuConfig {
            ram_bytes: config.memory.bytes(),
            mirror_edits: direct.is_some(),
            table_pool_base: direct::TABLE_POOL_BASE,
            // For the linear frame buffer.
            extra_bytes: MmuConfig::default().extra_bytes + u64::from(VgaConfig::default().memory),
            physical_bits: config.cpu.physical_bits(),
            ..MmuConfig::default()
        })?;
        let vcpu = Vcpu::new(VcpuConfig {
            strict: config.strict,
            count_instructions: config.count_instructions,
            model: config.cpu,
            ..VcpuConfig::default()
        })?;
        let mut kickers: Vec<Arc<dyn Kick>> = vec![Arc::new(vcpu.kicker())];
        kickers.extend(direct.as_ref().map(|direct| direct.kicker()));
        let stop = Arc::new(AtomicBool::new(false));
        let output = SerialOutput::open(&config.serial, config.until, Arc::clone(&stop)).map_err(
            |source| MachineError::Output {
                target: config.serial,
                source,
            },
        )?;
        let helper = Helper::start(config.watch, kickers, stop).map_err(MachineError::Helper)?;

        let firmware = guest.firmware();
        if let Some(firmware) = firmware {
            firmware.map(&mut mmu).map_err(|error| match error {
                MapError::Range(error) => MachineError::Memory(error),
                MapError::Memory(error) => MachineError::Guest(error.into()),
            })?;
        }
        let output = SharedOutput::new(output);
        let mut chipset = Chipset::new(ChipsetConfig {
            wall_clock: wall_clock(),
            memory_size: config.memory.bytes(),
            com1: Box::new(output.clone()),
            firmware: firmware
                .map(|firmware| firmware.configuration(config.memory.bytes()))
                .transpose()?,
            floppy_drives: config.floppies.each_ref().map(|slot| slot.drive),
            vga: firmware
                .and_then(Firmware::vga_adapter)
                .or(config.vga.then(VgaConfig::default)),
        })?;
        for (index, value) in config.boot.cmos() {
            chipset.set_cmos(index, value);
        }
        for range in chipset.mmio_ranges() {
            let first = range.start() / PAGE_SIZE * PAGE_SIZE;
            let bytes = (range.end() + 1 - first).next_multiple_of(PAGE_SIZE);
            mmu.set_range(first, bytes, RangeKind::Device)?;
        }
        let (support, costs) = match &direct {
            Some(direct) => (direct.support(), direct.costs()),
            None => (HostSupport::NONE, EngineCosts::default()),
        };
        let costs = config.host_costs.unwrap_or(costs);
        let header = Header {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            vcpus: 1,
            memory_bytes: config.memory.bytes(),
            policy: policy.to_string(),
            guest_cpu: config.cpu.name().to_owned(),
            direct: direct.is_some(),
            costs,
            support,
            ..Header::default()
        };
        let (tracer, recorder) = start_trace(config.trace.as_deref(), header)?;
        let mut board = Board::new(chipset, Clock::start(), helper, output);
        for (drive, slot) in config.floppies.into_iter().enumerate() {
            if slot.disk.is_some() {
                board.change_floppy(drive, slot.disk)?;
            }
        }
        let mut machine = Machine {
            mmu,
            vcpu,
            direct,
            board,
            decider: Decider::new(policy.build(), support, costs),
            tables: DescriptorTables::default(),
            account: Account::default(),
            video: VideoMap::default(),
            recorder,
            tracer,
            end_at_reset: config.end_at_reset,
            guest,
            acpi: acpi::build(&AcpiConfig::default())?,
            cpu: config.cpu,
            note,
            passed_over,
        };
        machine.boot()?;
        Ok(machine)
    }

    /// Puts the vCPU into its reset state, and the guest into memory and at its start. Memory that
    /// the guest does not load keeps its contents, as on a PC.
    fn boot(&mut self) -> Result<(), GuestError> {
        self.mmu.set_a20(true);
        self.shadow_firmware();
        self.video.follow(&mut self.mmu, &mut self.board);
        if self.guest.firmware().is_none() {
            self.mmu
                .write_phys(u64::from(self.acpi.base), &self.acpi.bytes)?;
        }
        let state = self.vcpu.state_mut();
        *state = CpuState::reset(self.cpu.signature());
        // The guest's time-stamp counter starts at zero.
        state.msrs.tsc_offset = host_tsc().wrapping_neg();
        self.guest
            .boot(&mut self.mmu, state, Some(self.acpi.rsdp))?;
        self.vcpu.sync_paging(&mut self.mmu);
        Ok(())
    }

    /// Starts again: the vCPU alone, or the devices with it. Without firmware there is nobody to tell
    /// the one from the other, and the guest is loaded again.
    pub(crate) fn reset(&mut self, kind: ResetKind) -> Result<(), GuestError> {
        self.account.resets += 1;
        match kind {
            ResetKind::Processor if self.has_firmware() => {
                self.board.processor_reset();
                self.init_processor();
                self.follow_board();
                Ok(())
            }
            ResetKind::Processor | ResetKind::System => {
                self.board.reset();
                self.boot()
            }
        }
    }

    /// INIT#: as a reset, but for the floating-point unit and the model-specific registers, the
    /// time-stamp counter among them (Intel SDM vol. 3A, table 9-1).
    fn init_processor(&mut self) {
        let state = self.vcpu.state_mut();
        *state = CpuState {
            msrs: state.msrs,
            fpu: state.fpu,
            ..CpuState::reset(self.cpu.signature())
        };
        self.vcpu.sync_paging(&mut self.mmu);
    }

    /// Whether the machine starts with firmware.
    pub(crate) fn has_firmware(&self) -> bool {
        self.guest.firmware().is_some()
    }

    /// Does what devices have asked for that concerns memory: the A20 gate, shadow RAM, transfers.
    pub(crate) fn follow_board(&mut self) {
        if let Some(open) = self.board.take_a20() {
            self.mmu.set_a20(open);
        }
        if self.board.take_pam() {
            self.shadow_firmware();
        }
        if self.board.take_video() {
            self.video.follow(&mut self.mmu, &mut self.board);
        }
        if self.board.take_transfer() {
            self.board.transfer(&mut self.mmu);
        }
    }

    /// Shadow RAM as the host bridge's PAM registers say.
    fn shadow_firmware(&mut self) {
        for range in pam_ranges(self.board.chipset().pam()) {
            let how = Shadowing {
                read_ram: range.read_ram,
                write_ram: range.write_ram,
            };
            let bytes = range.addresses.end - range.addresses.start;
            if let Err(error) = self.mmu.set_shadowing(range.addresses.start, bytes, how) {
                // The ranges are whole pages below 1 MiB.
                tracing::error!(%error, "shadow RAM");
            }
        }
    }

    /// Whether there is a display.
    pub fn has_display(&self) -> bool {
        self.board.chipset().has_display()
    }

    /// Control of the machine for other threads, while it runs.
    pub fn remote(&self) -> crate::control::Remote {
        self.board.remote()
    }

    /// What is on the screen in a text mode; `None` in graphics modes and without a display.
    pub fn text_screen(&mut self) -> Option<TextScreen> {
        self.video.refresh(&self.mmu, self.board.chipset_mut());
        self.board.chipset().text_screen()
    }

    /// The picture on the screen; `None` without a display.
    pub fn picture(&mut self) -> Option<Picture> {
        self.video.refresh(&self.mmu, self.board.chipset_mut());
        self.board.chipset().render(self.board.now())
    }

    /// The NMI button, to be pressed from other threads while the machine runs.
    pub fn nmi_button(&self) -> NmiButton {
        self.board.nmi_button()
    }

    /// Gives the processor an NMI, whatever the board's ports 61h and 70h say, at the start of the next
    /// [`Machine::run`]. Wakes up a guest that has halted with interrupts off, too.
    pub fn raise_nmi(&mut self) {
        self.vcpu.raise_nmi();
    }

    /// A fault on one of the board's buses, which asks for an NMI through ports 61h and 70h.
    pub fn nmi_source(&mut self, source: devices::NmiSource) {
        self.board.nmi_source(source);
    }

    /// Takes the disk out of floppy drive `drive` (0: A, 1: B), and puts `disk` in.
    ///
    /// # Errors
    /// The drive is not there, or not made for the disk; nothing is changed then.
    pub fn change_floppy(
        &mut self,
        drive: usize,
        disk: Option<FloppyImage>,
    ) -> Result<(), FloppyError> {
        self.board.change_floppy(drive, disk)
    }

    /// Guest-physical memory.
    pub fn memory(&self) -> &Mmu {
        &self.mmu
    }

    /// The vCPU's state.
    pub fn state(&self) -> &CpuState {
        self.vcpu.state()
    }

    /// Why there is no direct execution, where somebody could expect it.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Direct execution works on this host, but is not used because it is slow here and no policy
    /// was asked for.
    pub fn direct_passed_over(&self) -> bool {
        self.passed_over
    }

    /// Direct execution is there.
    pub fn has_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Walks guest tables, shadow tables and windows independently of the code that made them, and
    /// compares.
    ///
    /// # Errors
    /// They disagree: a bug of the shadow MMU.
    pub fn audit(&self) -> Result<(), AuditError> {
        self.mmu.audit()
    }

    /// Writes the end of the trace, if there is one, and tells what is missing in it. Later switches
    /// are not recorded. `ending` tells how the run ended.
    pub fn finish_trace(&mut self, ending: &str) -> Option<Losses> {
        let tracer = self.tracer.take()?;
        self.recorder = None;
        let last = EndOfVcpu {
            engine: self.decider.last_engine(),
            stay: *self.decider.stay(),
        };
        let statistics = self.decider.statistics();
        let end = End {
            exits: self.account.exits(),
            ..End::new(ending, self.board.now().0, statistics, last)
        };
        Some(tracer.finish(end))
    }

    /// The vCPU, for its profile.
    pub(crate) fn vcpu_mut(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// The counters of the run so far. `ending` tells how it ended.
    pub fn report(&self, ending: &str) -> Report {
        let history = self.decider.history();
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ending: ending.to_owned(),
            policy: self.decider.policy_name().to_owned(),
            direct_available: self.has_direct(),
            cpu: self.cpu.name().to_owned(),
            memory_bytes: self.mmu.ram_bytes(),
            host_memory: MemoryUse::of_this_process().ok(),
            resets: self.account.resets,
            time: Times {
                total_ns: self.board.now().0,
                translator_ns: history.translated_ns,
                direct_ns: history.direct_ns,
                halted_ns: self.account.halted_ns,
            },
            runs: crate::report::Runs {
                translator: history.translated_runs,
                direct: history.direct_runs,
            },
            exits: self.account.exits(),
            decisions: self.decider.statistics().clone(),
            direct: self
                .direct
                .as_ref()
                .map(|direct| direct.statistics())
                .unwrap_or_default(),
            translator: self.vcpu.stats().clone(),
            callouts_per_1000_instructions: self.vcpu.stats().callouts_per_1000_instructions(),
            mmu: mmu_counters(&self.mmu.snapshot()),
            devices: device_counters(&self.board.chipset().counters()),
        }
    }
}

fn device_counters(counters: &ChipsetCounters) -> Counters {
    let buses = [
        ("port_reads", counters.ports.reads),
        ("port_writes", counters.ports.writes),
        ("unclaimed_port_accesses", counters.ports.unclaimed),
        ("memory_reads", counters.mmio.reads),
        ("memory_writes", counters.mmio.writes),
        ("unclaimed_memory_accesses", counters.mmio.unclaimed),
        ("spurious_interrupts", counters.spurious),
    ];
    let interrupts = counters.interrupts.iter().enumerate();
    buses
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .chain(interrupts.map(|(irq, count)| (format!("irq{irq}_interrupts"), *count)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Starts the trace, with what there is to say of the host in its header.
fn start_trace(
    path: Option<&Path>,
    header: Header,
) -> Result<(Option<Tracer>, Option<Recorder>), MachineError> {
    let Some(path) = path else {
        return Ok((None, None));
    };
    let header = Header {
        started: u64::try_from(wall_clock().seconds).unwrap_or(0),
        host_cpu: direct::HostCpu::look().name,
        ..header
    };
    let (tracer, recorders) =
        Tracer::start(path, &header).map_err(|source| MachineError::Trace {
            path: path.to_owned(),
            source,
        })?;
    Ok((Some(tracer), recorders.into_iter().next()))
}

/// Who runs a machine.
struct Engines {
    direct: Option<Box<dyn DirectEngine>>,
    policy: PolicySpec,
    /// Why there is no direct execution, where somebody could expect it.
    note: Option<String>,
    /// Direct execution works here, and is not used because it is slow.
    passed_over: bool,
}

impl Engines {
    /// Opens direct execution where it has a use; picks the policy where none was asked for.
    fn open(config: &MachineConfig) -> Result<Engines, OpenError> {
        let force = config.direct == DirectMode::Forced;
        let policy = match &config.policy {
            Some(policy) => policy.clone(),
            None if force => PolicySpec::Vmware,
            None => PolicySpec::default(),
        };
        let translate = |note, passed_over| Engines {
            direct: None,
            policy: policy.clone(),
            note,
            passed_over,
        };
        if config.direct == DirectMode::None || policy == PolicySpec::Translate {
            return Ok(translate(None, false));
        }
        let optional = config.direct == DirectMode::Auto;
        let measured = config.host_costs.is_none();
        let adaptive = matches!(policy, PolicySpec::Adaptive(_));
        let purpose = Purpose {
            force,
            must_pay: optional && measured && adaptive,
            without: config.without,
        };
        match direct::open(purpose) {
            Ok(direct) => Ok(Engines {
                direct: Some(Box::new(direct)),
                policy,
                note: None,
                passed_over: false,
            }),
            Err(error) if optional => {
                let slow = matches!(error, OpenError::Slow { .. });
                let hint = match error {
                    OpenError::Setup(_) => "",
                    OpenError::NoMode(_) | OpenError::Slow { .. } => {
                        " (--direct kvm=force runs directly all the same)"
                    }
                };
                let note = format!("everything runs translated: {error}{hint}");
                Ok(translate(Some(note), slow))
            }
            Err(error) => Err(error),
        }
    }
}

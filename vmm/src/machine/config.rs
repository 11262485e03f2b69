//! What a machine is to be.

use std::path::PathBuf;

use decision::{EngineCosts, HostSupport, PolicySpec};
use devices::fdc;
use translator::system::CpuModel;

use crate::boot_order::BootOrder;
use crate::disk::FloppySlot;
use crate::helper::Watch;
use crate::memory_size::MemorySize;
use crate::serial::{SerialTarget, Until};

/// What a machine is made of.
#[derive(Debug)]
pub struct MachineConfig {
    /// Memory.
    pub memory: MemorySize,
    /// The order in which firmware tries drives.
    pub boot: BootOrder,
    /// There is a display even without firmware.
    pub vga: bool,
    /// The processor that the guest is shown.
    pub cpu: CpuModel,
    /// Who picks the engine; `None`: the default, [`PolicySpec::Adaptive`], or where direct execution
    /// is forced [`PolicySpec::Vmware`].
    pub policy: Option<PolicySpec>,
    /// Stop at the first instruction that is not translated.
    pub strict: bool,
    /// Count the guest instructions that the translator executes.
    pub count_instructions: bool,
    /// A reset by the guest ends the run.
    pub end_at_reset: bool,
    /// Where the serial output goes.
    pub serial: SerialTarget,
    /// Text in the serial output that ends the run.
    pub until: Option<Until>,
    /// Input, signals, time limit.
    pub watch: Watch,
    /// Whether to look for direct execution on this host.
    pub direct: DirectMode,
    /// Modes that direct execution does not use, even where the probe finds them right.
    pub without: HostSupport,
    /// What policies are told of the engines' costs, in place of what the probe measured.
    pub host_costs: Option<EngineCosts>,
    /// Where to record every switch.
    pub trace: Option<PathBuf>,
    /// The floppy drives, A: and B:.
    pub floppies: [FloppySlot; fdc::DRIVES],
}

/// Whether a machine has direct execution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DirectMode {
    /// Where the policy has a use for it and the probe finds it right.
    #[default]
    Auto,
    /// No.
    None,
    /// It must: without it there is no machine.
    Kvm,
    /// It must, even where the probe finds 32-bit code to go wrong.
    Forced,
}

impl Default for MachineConfig {
    /// A machine whose serial port leads nowhere, with everything translated.
    fn default() -> Self {
        MachineConfig {
            memory: MemorySize::DEFAULT,
            boot: BootOrder::default(),
            vga: false,
            cpu: CpuModel::default(),
            policy: Some(PolicySpec::Translate),
            strict: false,
            count_instructions: false,
            end_at_reset: false,
            serial: SerialTarget::Null,
            until: None,
            watch: Watch::default(),
            direct: DirectMode::None,
            without: HostSupport::NONE,
            host_costs: None,
            trace: None,
            floppies: Default::default(),
        }
    }
}

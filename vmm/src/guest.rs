//! What a machine boots, again after every reset.

use shadow_mmu::{Mmu, PhysError};
use translator::CpuState;
use translator::state::{Segment, seg};

use crate::firmware::Firmware;
use crate::loader::{self, LinuxImage, LoaderError};

/// The software of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guest {
    /// Firmware, entered at the reset vector, which finds something to boot by itself.
    Firmware(Firmware),
    /// A Linux kernel, entered by the 32-bit boot protocol.
    Linux {
        /// The bzImage.
        kernel: Vec<u8>,
        /// The initial RAM disk.
        initrd: Option<Vec<u8>>,
        /// The kernel's command line.
        command_line: String,
    },
    /// Bytes in memory, entered in real mode.
    RealMode {
        /// What to load.
        bytes: Vec<u8>,
        /// Where to, guest-physical.
        address: u32,
        /// CS at the entry.
        cs: u16,
        /// IP at the entry.
        ip: u16,
    },
}

/// Why a guest could not be put into memory.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// the kernel cannot be loaded
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// there is no memory where the guest belongs
    #[error("the guest does not fit into memory")]
    Memory(#[from] PhysError),
}

impl Guest {
    /// The firmware, where there is one.
    pub fn firmware(&self) -> Option<&Firmware> {
        match self {
            Guest::Firmware(firmware) => Some(firmware),
            _ => None,
        }
    }

    /// Puts the guest into memory and the vCPU at its start. `rsdp` is the guest-physical address
    /// of the ACPI root pointer.
    pub fn boot(
        &self,
        mmu: &mut Mmu,
        state: &mut CpuState,
        rsdp: Option<u32>,
    ) -> Result<(), GuestError> {
        match self {
            // The ROM is there, and the reset state is where it starts.
            Guest::Firmware(_) => {}
            Guest::Linux {
                kernel,
                initrd,
                command_line,
            } => {
                let image = LinuxImage {
                    kernel,
                    initrd: initrd.as_deref(),
                    command_line,
                    rsdp,
                };
                let plan = loader::plan(&image, mmu.ram_bytes())?;
                for piece in &plan.pieces {
                    mmu.write_phys(u64::from(piece.address), &piece.bytes)?;
                }
                plan.start(state);
            }
            Guest::RealMode {
                bytes,
                address,
                cs,
                ip,
            } => {
                mmu.write_phys(u64::from(*address), bytes)?;
                state.seg = [Segment::real(0); 6];
                state.seg[seg::CS] = Segment::real(*cs);
                state.eip = u32::from(*ip);
            }
        }
        Ok(())
    }
}

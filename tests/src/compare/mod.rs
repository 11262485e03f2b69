//! What work costs natively, in Ringshift (everything translated) and in QEMU TCG, on the same
//! kernel, memory, command line and processor model.
//!
//! [`work`] lists the kinds of work. Programs are one static i686 executable, made from
//! `tests/bench/programs`, which either stays and takes orders ([`Session`]), or as init carries out
//! one kind of work a number of times and powers the machine off ([`Bench::ringshift`]).

pub mod boot;
mod build;
mod counters;
pub mod real_mode;
pub mod ring0;
mod session;
pub mod table;
pub mod work;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::console::ConsoleError;
use crate::guests::{self, GuestError};
use crate::packages::Package;
use crate::programs::{self, BuildError};

pub use counters::{Sample, cpu_per_operation, per_operation};
pub use session::{Outcome, Session};
pub use work::{Bars, Group, PROGRAMS, Work};

/// The processor model of both: Ringshift's default.
pub const CPU: &str = "coreduo";
/// Memory of the guests.
const MEMORY: &str = "128M";

/// A kernel to run the programs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's 686 kernel: two-level page tables.
    Linux686,
    /// Debian's 686-pae kernel: PAE, and page tables isolated from user programs.
    Linux686Pae,
}

impl Kernel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Linux686, Self::Linux686Pae];

    /// Debian's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux686 => "686",
            Self::Linux686Pae => "686-pae",
        }
    }
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The guest could not be put together.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Ringshift does not build.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The run failed.
    #[error(transparent)]
    Run(#[from] ConsoleError),
    /// The program does not compile.
    #[error("cannot compile {path}: {reason}")]
    Compile {
        /// Its source.
        path: PathBuf,
        /// What the compiler said.
        reason: String,
    },
    /// A program of code of ours does not assemble.
    #[error("cannot assemble a program: {0}")]
    Assemble(#[from] iced_x86::IcedError),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The program ran and printed no result.
    #[error("no result in\n{0}")]
    NoResult(String),
    /// The statistics of a run.
    #[error("the statistics of a run: {0}")]
    Statistics(String),
}

/// The programs, and a guest that runs them.
#[derive(Clone, Debug)]
pub struct Bench {
    program: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Bench {
    /// Compiles the programs and puts them into a guest.
    ///
    /// # Errors
    ///
    /// When there is no compiler for i686, or no package.
    pub fn new(kernel: Kernel) -> Result<Self, CompareError> {
        let program = build::programs()?;
        Ok(Self {
            kernel: guests::debian_kernel(match kernel {
                Kernel::Linux686 => Package::Linux686,
                Kernel::Linux686Pae => Package::Linux686Pae,
            })?,
            initrd: build::initrd(&program)?,
            program,
        })
    }

    /// The options that Ringshift and QEMU share (QEMU takes two dashes as well); init gets
    /// `arguments`.
    fn options(&self, arguments: &str) -> Vec<OsString> {
        vec![
            "--kernel".into(),
            self.kernel.clone().into(),
            "--initrd".into(),
            self.initrd.clone().into(),
            "--append".into(),
            format!("console=ttyS0 quiet panic=-1 -- {arguments}").into(),
        ]
    }

    /// The programs on the host itself. libc picks its functions by what the processor has: it is
    /// shown no more than the guest's.
    #[must_use]
    pub fn native(&self, arguments: &str) -> Command {
        const MORE_THAN_CORE_DUO: &str = "glibc.cpu.hwcaps=-SSSE3,-SSE4_1,-SSE4_2,-AVX,-AVX2,-FMA,\
             -FMA4,-AVX512F,-AVX512VL,-ERMS,-FSRM,-POPCNT,-MOVBE,-BMI1,-BMI2,-LZCNT,\
             -Fast_Unaligned_Copy,-Fast_Rep_String,-AVX_Fast_Unaligned_Load";
        let mut command = Command::new(&self.program);
        command
            .args(arguments.split_whitespace())
            .env("GLIBC_TUNABLES", MORE_THAN_CORE_DUO);
        command
    }

    /// The programs in Ringshift, everything translated.
    ///
    /// # Errors
    ///
    /// When Ringshift does not build.
    pub fn ringshift(&self, arguments: &str) -> Result<Command, CompareError> {
        let mut command = programs::ringshift()?;
        command
            .arg("run")
            .args(self.options(arguments))
            .args(["--memory", MEMORY, "--policy", "translate"])
            .args(["--cpu", CPU, "--no-reboot"]);
        Ok(command)
    }

    /// The programs in QEMU TCG.
    #[must_use]
    pub fn qemu(&self, arguments: &str) -> Command {
        let mut command = Command::new("qemu-system-i386");
        command
            .args(["-accel", "tcg", "-nodefaults", "-no-user-config"])
            .args(["-no-reboot", "-display", "none", "-serial", "stdio"])
            .args(["-m", MEMORY, "-cpu", CPU])
            .args(self.options(arguments));
        command
    }
}

/// The median.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

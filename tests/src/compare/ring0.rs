//! The nanobenchmarks in ring 0: `tests/bench/ring0`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{CPU, CompareError, Work, build};
use crate::bzimage::bzimage;
use crate::console::Console;
use crate::programs;

/// More than any run takes.
const LIMIT: Duration = Duration::from_secs(120);
/// Offset of the number of the work in the image, and of how often to do it.
const WORK: usize = 8;
const COUNT: usize = 12;

/// The kernel that does the work with number `number` (in [`super::work::RING0`]).
///
/// # Errors
///
/// When it does not compile.
pub fn kernel(number: usize, work: &Work) -> Result<PathBuf, CompareError> {
    let image = build::ring0()?;
    let mut code = std::fs::read(&image).map_err(build::at(&image))?;
    for (offset, value) in [(WORK, number as u32), (COUNT, work.round as u32)] {
        if let Some(field) = code.get_mut(offset..offset + 4) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
    build::store(&format!("bench-ring0-{}", work.name), &bzimage(&code))
}

/// Runs one of our own kernels: the host's time from the line that it prints in front of its work to
/// the one behind, and the line that follows, if it prints one.
///
/// # Errors
///
/// When the run fails or says nothing.
pub fn time(command: Command, says_more: bool) -> Result<(Duration, String), CompareError> {
    let mut console = Console::start(command)?;
    console.expect("S\n", LIMIT)?;
    let start = Instant::now();
    console.expect("E\n", LIMIT)?;
    let elapsed = start.elapsed();
    let more = if says_more {
        console.expect("\n", LIMIT)?
    } else {
        String::new()
    };
    Ok((elapsed, more))
}

/// `kernel` in Ringshift, everything translated.
///
/// # Errors
///
/// When Ringshift does not build.
pub fn ringshift(kernel: &Path) -> Result<Command, CompareError> {
    let mut command = programs::ringshift()?;
    command.arg("run").arg("--kernel").arg(kernel);
    command.args(["--memory", "40M", "--policy", "translate", "--cpu", CPU]);
    Ok(command)
}

/// `kernel` in QEMU TCG.
#[must_use]
pub fn qemu(kernel: &Path) -> Command {
    let mut command = Command::new("qemu-system-i386");
    command
        .args(["-accel", "tcg", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-serial", "stdio", "-m", "40"])
        .args(["-cpu", CPU])
        .arg("-kernel")
        .arg(kernel);
    command
}

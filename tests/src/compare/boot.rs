//! Debian's 686 kernel from start to `init`.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{CPU, CompareError};
use crate::console::Console;
use crate::{guests, programs};

/// What the kernel prints in front of starting `init`.
const MARKER: &str = "Run /init as init process";
const LIMIT: Duration = Duration::from_secs(120);

/// Wall time of one start in Ringshift (everything translated) and of one in QEMU TCG.
///
/// # Errors
///
/// When the guest cannot be put together, or a run fails.
pub fn pair() -> Result<(Duration, Duration), CompareError> {
    let guest = guests::debian_686(guests::Session::Scripted)?;
    let mut ours = programs::ringshift_run(&guest)?;
    ours.args(["--policy", "translate", "--cpu", CPU]);
    let mut theirs = programs::qemu_run(&guest);
    theirs.args(["-cpu", CPU]);
    Ok((time(ours)?, time(theirs)?))
}

fn time(command: Command) -> Result<Duration, CompareError> {
    let start = Instant::now();
    let mut console = Console::start(command)?;
    console.expect(MARKER, LIMIT)?;
    Ok(start.elapsed())
}

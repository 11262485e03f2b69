//! `ringshift host`: what this host offers.

use std::io::{self, Write};

use serde::Serialize;

use super::args::HostArgs;
use super::{CliError, Status};

/// What a host offers.
#[derive(Debug, Serialize)]
struct HostReport {
    /// The processor's brand string.
    cpu: String,
    /// Processors that this process may use.
    processors: usize,
    /// User code may write the GS base (kernel and processor).
    fsgsbase: bool,
    /// The kernel's limit on mappings of a process, which bounds the shadow windows.
    max_map_count: Option<u64>,
}

/// Runs the subcommand.
pub(super) fn main(args: &HostArgs) -> Result<Status, CliError> {
    let report = HostReport::gather();
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|error| CliError::Stdout(error.into()))?
    } else {
        report.to_string()
    };
    writeln!(io::stdout(), "{}", text.trim_end()).map_err(CliError::Stdout)?;
    Ok(Status::Done)
}

impl HostReport {
    fn gather() -> HostReport {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name| {
            cpuinfo
                .lines()
                .find_map(|line| line.strip_prefix(name)?.split_once(": "))
                .map_or("", |(_, value)| value)
        };
        HostReport {
            cpu: field("model name").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            // The kernel hides the flag where it does not allow the instructions.
            fsgsbase: field("flags").split(' ').any(|flag| flag == "fsgsbase"),
            max_map_count: std::fs::read_to_string("/proc/sys/vm/max_map_count")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        }
    }
}

impl std::fmt::Display for HostReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let yes = |there| if there { "yes" } else { "no" };
        writeln!(f, "processor      {}", self.cpu)?;
        writeln!(f, "processors     {}", self.processors)?;
        writeln!(f, "FSGSBASE       {}", yes(self.fsgsbase))?;
        match self.max_map_count {
            Some(count) => writeln!(f, "max_map_count  {count}"),
            None => writeln!(f, "max_map_count  unknown"),
        }
    }
}

//! `ringshift host`: what this host offers.

use std::io::{self, Write};

use super::args::HostArgs;
use super::{CliError, Status};
use crate::direct::host_report;

/// Runs the subcommand.
pub(super) fn main(args: &HostArgs) -> Result<Status, CliError> {
    let report = host_report();
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|error| CliError::Stdout(error.into()))?
    } else {
        report.to_string()
    };
    writeln!(io::stdout(), "{}", text.trim_end()).map_err(CliError::Stdout)?;
    Ok(Status::Done)
}

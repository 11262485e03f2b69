//! Values of options that need more than `FromStr`.

use std::ffi::OsStr;
use std::fmt::Write as _;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};
use decision::PolicySpec;
use translator::system::CpuModel;

use super::args::PolicyArg;

/// The value of `--cpu`: the name of a model, or `help` for a table of them in place of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuParser;

impl TypedValueParser for CpuParser {
    type Value = CpuModel;

    fn parse_ref(
        &self,
        cmd: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<CpuModel, Error> {
        if value == "help" {
            return Err(instead_of_a_run(processor_table()));
        }
        <CpuModel as std::str::FromStr>::from_str.parse_ref(cmd, arg, value)
    }
}

/// The value of `--policy`: a policy, or `help` for all of them in place of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct PolicyParser;

impl TypedValueParser for PolicyParser {
    type Value = PolicyArg;

    fn parse_ref(
        &self,
        cmd: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<PolicyArg, Error> {
        if value == "help" {
            return Err(instead_of_a_run(PolicySpec::help()));
        }
        <PolicyArg as std::str::FromStr>::from_str.parse_ref(cmd, arg, value)
    }
}

/// A text that is shown in the way of `--help`: on standard output, status 0, whatever else is missing
/// on the command line.
fn instead_of_a_run(text: String) -> Error {
    let asked = Command::new("ringshift")
        .override_help(text)
        .try_get_matches_from(["ringshift", "--help"]);
    asked
        .err()
        .unwrap_or_else(|| Error::new(ErrorKind::DisplayHelp))
}

/// The processor models, one a line.
fn processor_table() -> String {
    let mut text = String::from("Processor models (option --cpu):\n\n");
    for model in CpuModel::ALL {
        let default = if model == CpuModel::default() {
            " (default)"
        } else {
            ""
        };
        let _ = writeln!(text, "  {model:<10} {}{default}", model.description());
    }
    text.push_str("\nEach has what the ones above it have, but for PSE-36.\n");
    text
}

/// The value of `--cpus`: a machine has one processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct OneCpu;

impl TypedValueParser for OneCpu {
    type Value = u32;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<u32, Error> {
        let parse = |text: &str| match text.parse::<u32>() {
            Ok(1) => Ok(1),
            Ok(_) => Err("a machine has one processor for now"),
            Err(_) => Err("a number is needed"),
        };
        parse.parse_ref(cmd, arg, value)
    }
}

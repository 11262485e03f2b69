//! The `ringshift` command.

pub mod args;
mod control;
mod demo;
mod host;
mod parsers;
mod profile;
mod run;
mod trace;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use decision::{EngineCosts, PolicySpec, RuleError, Rules};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::console::RawTerminal;
use crate::control::CommandError;
use crate::control::monitor::MonitorTarget;
use crate::control::script::{ReadError, StepError};
use crate::demo::DemoError;
use crate::disk::FloppyError;
use crate::exits::{Ending, RunError};
use crate::firmware::{FindError, ImageError};
use crate::guest::GuestError;
use crate::helper::{Emergency, StopReason};
use crate::machine::MachineError;
use crate::machine::{Machine, MachineConfig};
use crate::report::Report;
use crate::trace::{ExportError, SymbolError, TraceError};
use args::{Cli, Command, CommonArgs, PolicyArg};

/// The exit statuses of the command. They are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Done = 0,
    /// Runtime error.
    Error = 1,
    /// Wrong usage. clap's own errors have the same status.
    Usage = 2,
    /// The guest died of a triple fault.
    TripleFault = 3,
    /// The guest ended before the text that was waited for came.
    NotMatched = 4,
    /// The time allowed for the run is over.
    Timeout = 124,
    /// A signal, or the escape key.
    Interrupted = 130,
}

impl Status {
    /// The status for the way a run ended. `waiting` tells that a text was waited for.
    fn of(ending: Ending, waiting: bool) -> Status {
        match ending {
            Ending::Matched => Status::Done,
            Ending::PowerOff | Ending::Reset if waiting => Status::NotMatched,
            Ending::PowerOff | Ending::Reset => Status::Done,
            Ending::Stopped(reason) => Status::of_stop(reason),
        }
    }

    fn of_stop(reason: StopReason) -> Status {
        match reason {
            StopReason::Timeout => Status::Timeout,
            StopReason::Signal(_) | StopReason::Quit => Status::Interrupted,
            StopReason::ScriptDone => Status::Done,
            StopReason::ScriptFailed => Status::NotMatched,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

/// What ends a subcommand early.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// a file cannot be read
    #[error("cannot read {what} {}", path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// a kernel or initrd that cannot be loaded
    #[error("cannot boot {}", path.display())]
    Guest {
        path: PathBuf,
        #[source]
        source: GuestError,
    },
    /// a file that cannot be booted
    #[error(
        "cannot boot {}: it is neither a Linux kernel nor a raw image of a floppy disk; hard disks and CDs are not there yet",
        path.display()
    )]
    UnknownImage { path: PathBuf },
    /// a floppy disk that cannot be used
    #[error(transparent)]
    Floppy(#[from] FloppyError),
    /// a third floppy disk
    #[error("there are {0} floppy disks and two drives")]
    TooManyFloppies(usize),
    /// no firmware
    #[error(transparent)]
    NoFirmware(#[from] FindError),
    /// a firmware image that is none
    #[error("cannot start the firmware {}", path.display())]
    Firmware {
        path: PathBuf,
        #[source]
        source: ImageError,
    },
    /// no machine
    #[error("cannot set up the machine")]
    Machine(#[source] MachineError),
    /// the run went wrong
    #[error(transparent)]
    Run(#[from] RunError),
    /// a file cannot be written
    #[error("cannot write the statistics to {}", path.display())]
    Stats {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// a profile that cannot be written
    #[error("cannot write the profile to {}", path.display())]
    Profile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// the host refuses something
    #[error("cannot {what}")]
    Host {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// the shadow tables are wrong
    #[error("the shadow tables disagree with the guest's")]
    Audit(#[source] shadow_mmu::AuditError),
    /// the demo left no results
    #[error("the demo did not come to its end")]
    NoResults(#[source] DemoError),
    /// the demo's results are wrong
    #[error("{wrong} of {all} results of the demo are wrong")]
    WrongResults { wrong: usize, all: usize },
    /// a policy file that is none
    #[error("{} is no policy", path.display())]
    Policy {
        path: PathBuf,
        #[source]
        source: RuleError,
    },
    /// a file of costs that is none
    #[error("{} does not hold the costs of a host, as 'ringshift host --json' prints them", path.display())]
    Costs {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// a trace that cannot be read
    #[error("cannot read the trace {}", path.display())]
    Trace {
        path: PathBuf,
        #[source]
        source: TraceError,
    },
    /// a symbol file that is none
    #[error("{} holds no symbols", path.display())]
    Symbols {
        path: PathBuf,
        #[source]
        source: SymbolError,
    },
    /// an export that cannot be written
    #[error("cannot export the trace")]
    Export(#[source] ExportError),
    /// a script that is none
    #[error(transparent)]
    Script(#[from] ReadError),
    /// a text that cannot be typed
    #[error("--type cannot type this")]
    Typed(#[source] CommandError),
    /// a step of the script failed
    #[error(transparent)]
    Step(StepError),
    /// no monitor
    #[error("the monitor cannot be at {target}")]
    Monitor {
        target: MonitorTarget,
        #[source]
        source: io::Error,
    },
    /// two want standard input
    #[error("standard input can be only one of the serial port's, the monitor's and the display's")]
    TwoInputs,
    /// nothing to look at
    #[error(
        "a kernel that is started without firmware has no display, so there is no screen to wait for or to save"
    )]
    NoDisplay,
    /// no picture
    #[error("cannot write the picture to {}", path.display())]
    Screenshot {
        path: PathBuf,
        #[source]
        source: png::EncodingError,
    },
    /// the log filter is malformed
    #[error("'{filter}' is no log filter: {reason}; an example is 'info,ringshift::switch=trace'")]
    LogFilter { filter: String, reason: String },
    /// standard output cannot be written
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
}

impl CliError {
    fn status(&self) -> Status {
        match self {
            CliError::Run(RunError::TripleFault { .. }) => Status::TripleFault,
            CliError::LogFilter { .. }
            | CliError::TooManyFloppies(_)
            | CliError::Policy { .. }
            | CliError::Costs { .. } => Status::Usage,
            CliError::Step(_) => Status::NotMatched,
            CliError::Script(_)
            | CliError::Typed(_)
            | CliError::TwoInputs
            | CliError::NoDisplay => Status::Usage,
            _ => Status::Error,
        }
    }
}

/// The whole command: parses the command line, does what it asks, tells errors.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Demo(args) => demo::main(args),
        Command::Run(args) => run::main(args),
        Command::Host(args) => host::main(args),
        Command::Trace(args) => trace::main(&args.command),
    };
    match result {
        Ok(status) => status.into(),
        Err(error) => {
            tell(&error);
            error.status().into()
        }
    }
}

/// Prints an error with its causes, one line for all.
fn tell(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Transparent wrappers repeat their cause.
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    complain(format_args!("error: {text}"));
}

/// A line for the user on standard error. Where that is closed, nobody is there to be told.
fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "ringshift: {text}");
}

/// Starts the log on standard error.
fn start_log(filter: &str) -> Result<(), CliError> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| CliError::LogFilter {
            filter: filter.to_owned(),
            reason: error.to_string(),
        })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .without_time()
        .init();
    Ok(())
}

/// Takes the signals that end a run off the threads, so that the helper thread can read them.
fn take_signals() -> Result<SignalFd, CliError> {
    let host = |what| {
        move |error: nix::Error| CliError::Host {
            what,
            source: error.into(),
        }
    };
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals.thread_block().map_err(host("block signals"))?;
    // A file that reaches the limit of `ulimit -f` fails to be written, like one on a full disk, and
    // does not kill the machine.
    let file_limit: SigSet = [Signal::SIGXFSZ].into_iter().collect();
    file_limit.thread_block().map_err(host("block signals"))?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(host("watch for signals"))
}

/// Ends the process where the vCPU thread does not: with the terminal restored and the status that
/// the run would have had.
fn emergency(terminal: Option<Arc<RawTerminal>>, displayed: bool) -> Emergency {
    Box::new(move |reason| {
        if let Some(terminal) = terminal {
            terminal.restore();
        }
        if displayed {
            crate::control::display::restore();
        }
        complain("the vCPU does not respond; giving up");
        std::process::exit(i32::from(Status::of_stop(reason) as u8));
    })
}

/// A machine with what the options say that every run has.
fn common_config(args: &CommonArgs) -> Result<MachineConfig, CliError> {
    Ok(MachineConfig {
        policy: args.policy.as_ref().map(policy).transpose()?,
        direct: args.direct.0,
        host_costs: args.host_costs.as_deref().map(costs).transpose()?,
        trace: args.trace.clone(),
        cpu: args.cpu,
        ..MachineConfig::default()
    })
}

fn policy(policy: &PolicyArg) -> Result<PolicySpec, CliError> {
    match policy {
        PolicyArg::Spec(spec) => Ok(spec.clone()),
        PolicyArg::File(path) => {
            let text = read_text("the policy", path)?;
            let rules = Rules::parse(&text).map_err(|source| CliError::Policy {
                path: path.clone(),
                source,
            })?;
            Ok(PolicySpec::Rules(rules))
        }
    }
}

/// The costs in a file: alone, or in a whole report of a host.
fn costs(path: &Path) -> Result<EngineCosts, CliError> {
    let text = read_text("the costs of the host", path)?;
    let parse = || {
        let mut json: serde_json::Value = serde_json::from_str(&text)?;
        let costs = json.get_mut("costs").map(serde_json::Value::take);
        serde_json::from_value(costs.unwrap_or(json))
    };
    parse().map_err(|source| CliError::Costs {
        path: path.to_owned(),
        source,
    })
}

fn read_text(what: &'static str, path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Ends the trace, and tells what is missing in it.
fn finish_trace(machine: &mut Machine, ending: &str) {
    let Some(losses) = machine.finish_trace(ending) else {
        return;
    };
    if let Some(error) = losses.error {
        complain(format_args!(
            "the trace is not whole: {error}; {} switches are in it, {} are not",
            losses.written, losses.lost
        ));
    } else if losses.lost > 0 {
        complain(format_args!(
            "{} of {} switches came too fast to be recorded",
            losses.lost,
            losses.lost + losses.written
        ));
    }
}

/// The statistics file, made before the run: a path that cannot be written is found at once.
#[derive(Debug)]
struct StatsFile(Option<(PathBuf, File)>);

impl StatsFile {
    fn create(path: Option<&Path>) -> Result<StatsFile, CliError> {
        let Some(path) = path else {
            return Ok(StatsFile(None));
        };
        let file = File::create(path).map_err(|source| CliError::Stats {
            path: path.to_owned(),
            source,
        })?;
        Ok(StatsFile(Some((path.to_owned(), file))))
    }

    fn write(self, report: &Report) -> Result<(), CliError> {
        let Some((path, mut file)) = self.0 else {
            return Ok(());
        };
        serde_json::to_string_pretty(report)
            .map_err(io::Error::from)
            .and_then(|text| writeln!(file, "{text}"))
            .map_err(|source| CliError::Stats { path, source })
    }
}

/// The way a run ended, for people and for the statistics.
fn describe(result: &Result<Ending, RunError>) -> String {
    match result {
        Ok(Ending::PowerOff) => "the guest switched itself off".to_owned(),
        Ok(Ending::Reset) => "the guest reset the machine".to_owned(),
        Ok(Ending::Matched) => "the text that was waited for has come".to_owned(),
        Ok(Ending::Stopped(StopReason::Timeout)) => "the time allowed is over".to_owned(),
        Ok(Ending::Stopped(StopReason::Signal(number))) => format!("signal {number}"),
        Ok(Ending::Stopped(StopReason::Quit)) => "the user quit".to_owned(),
        Ok(Ending::Stopped(StopReason::ScriptDone)) => "the script came to its end".to_owned(),
        Ok(Ending::Stopped(StopReason::ScriptFailed)) => "a step of the script failed".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::Place;

    #[test]
    fn every_ending_has_the_status_of_the_contract() {
        for (ending, waiting, status) in [
            (Ending::PowerOff, false, 0),
            (Ending::PowerOff, true, 4),
            (Ending::Reset, false, 0),
            (Ending::Reset, true, 4),
            (Ending::Matched, true, 0),
            (Ending::Stopped(StopReason::Timeout), false, 124),
            (Ending::Stopped(StopReason::Timeout), true, 124),
            (Ending::Stopped(StopReason::Signal(15)), true, 130),
            (Ending::Stopped(StopReason::Quit), false, 130),
            (Ending::Stopped(StopReason::ScriptDone), false, 0),
            (Ending::Stopped(StopReason::ScriptFailed), true, 4),
        ] {
            assert_eq!(Status::of(ending, waiting) as u8, status, "{ending:?}");
        }
        let at = Place::default();
        let status = |error: RunError| CliError::from(error).status() as u8;
        assert_eq!(status(RunError::TripleFault { at }), 3);
        assert_eq!(status(RunError::HaltedForever { at }), 1);
        assert_eq!(
            status(RunError::Output(io::ErrorKind::BrokenPipe.into())),
            1
        );
    }
}

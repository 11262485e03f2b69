//! `ringshift demo`: boots the embedded guest, checks its results, shows how it ran.

use std::io::{self, Write};

use super::args::DemoArgs;
use super::{
    CliError, StatsFile, Status, common_config, complain, describe, emergency, finish_trace,
    start_log, take_signals,
};
use decision::PolicySpec;

use crate::demo::{self, DemoParams};
use crate::exits::Ending;
use crate::guest::Guest;
use crate::helper::Watch;
use crate::machine::{DirectMode, Machine, MachineConfig};
use crate::memory_size::MemorySize;
use crate::serial::SerialTarget;

/// Part of the demo's work that is left for a host whose KVM interprets instructions: enough for
/// thousands of switches.
const SLOW_SCALE: f64 = 1e-4;

/// Runs the subcommand.
pub(super) fn main(args: &DemoArgs) -> Result<Status, CliError> {
    start_log(&args.common.log)?;
    let stats = StatsFile::create(args.common.stats.as_deref())?;
    let params = DemoParams {
        seed: args.seed,
        scale: args.scale,
    };
    let config = || common_config(&args.common);
    let (status, passed_over) = run(&params, config()?, Some(stats))?;
    if status != Status::Done || !passed_over {
        return Ok(status);
    }
    writeln!(
        io::stdout(),
        "\nThe same under the policy vmware, with a small part of the work as direct execution is slow here:\n"
    )
    .map_err(CliError::Stdout)?;
    let params = DemoParams {
        scale: args.scale * SLOW_SCALE,
        ..params
    };
    // This is the run that has switches to record: it takes the trace over.
    let config = MachineConfig {
        policy: Some(PolicySpec::Vmware),
        direct: DirectMode::Forced,
        ..config()?
    };
    let (status, _) = run(&params, config, None)?;
    Ok(status)
}

/// Boots the guest once, checks its results, prints how it ran. Also tells whether direct execution
/// would have been possible but slow.
fn run(
    params: &DemoParams,
    config: MachineConfig,
    stats: Option<StatsFile>,
) -> Result<(Status, bool), CliError> {
    let image = demo::image(params);
    let (cs, ip) = image.entry;
    let guest = Guest::RealMode {
        bytes: image.bytes,
        address: image.load_address,
        cs,
        ip,
    };
    let config = MachineConfig {
        memory: MemorySize::DEMO,
        strict: true,
        count_instructions: true,
        end_at_reset: true,
        serial: SerialTarget::Stdio,
        watch: Watch {
            signals: Some(take_signals()?),
            emergency: Some(emergency(None, false)),
            ..Watch::default()
        },
        ..config
    };
    let mut machine = Machine::new(config, guest).map_err(CliError::Machine)?;

    if let Some(note) = machine.note() {
        complain(note);
    }
    let result = machine.run();
    finish_trace(&mut machine, &describe(&result));
    let report = machine.report(&describe(&result));
    if let Some(stats) = stats {
        stats.write(&report)?;
    }
    let ending = result?;
    writeln!(io::stdout(), "{}", report.summary()).map_err(CliError::Stdout)?;
    let status = match ending {
        Ending::PowerOff => check(params, &machine)?,
        other => Status::of(other, false),
    };
    Ok((status, machine.direct_passed_over()))
}

/// Compares what the guest left in memory with the host's own computation.
fn check(params: &DemoParams, machine: &Machine) -> Result<Status, CliError> {
    let results = demo::read_results(|address, bytes| {
        if machine.memory().read_phys(address, bytes).is_err() {
            bytes.fill(0xFF);
        }
    })
    .map_err(CliError::NoResults)?;
    let checks = demo::check(params, &results);
    let wrong = checks.iter().filter(|check| !check.ok).count();
    for check in checks.iter().filter(|check| !check.ok) {
        complain(format_args!(
            "{}: the guest computed {}, the host {}",
            check.name, check.got, check.expected
        ));
    }
    if wrong > 0 {
        return Err(CliError::WrongResults {
            wrong,
            all: checks.len(),
        });
    }
    writeln!(
        io::stdout(),
        "results        all {} agree with the host's own computation (seed {})",
        checks.len(),
        params.seed
    )
    .map_err(CliError::Stdout)?;
    Ok(Status::Done)
}

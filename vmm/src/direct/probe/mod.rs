//! Finds out what this host's KVM is good for, by running small guests on it.

mod checks;
mod extras;
pub(in crate::direct) mod lab;
mod measure;
mod native;
mod watchdog;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::kvm::SetupError;
pub use checks::{Check, Needed, Outcome};
pub use extras::Extras;
use lab::Lab;
pub use measure::Speed;
use watchdog::Watchdog;

/// What the probe found out about 32-bit code in compatibility mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compat32 {
    /// Everything that is needed in any case is right: the mode is used.
    pub usable: bool,
    /// IOPL other than 0 is kept; if not, states with it do not run directly.
    pub iopl: bool,
    /// Segment limits are checked; if not, segments with a limit do not run directly.
    pub limits: bool,
    /// The checks.
    pub checks: Vec<Check>,
    /// The speed; `None` if nothing could be measured.
    pub speed: Option<Speed>,
    /// What else is good to know.
    pub extras: Option<Extras>,
    /// How long the probe took, microseconds.
    pub probe_us: u64,
}

/// The probe as a whole is interrupted after this; on a useful host it takes a few milliseconds.
const LIMIT: Duration = Duration::from_millis(600);

/// Probes 32-bit code in compatibility mode.
pub(super) fn compat32() -> Result<Compat32, SetupError> {
    let start = Instant::now();
    let mut lab = Lab::new()?;
    let watchdog = Watchdog::start(lab.world.kicker().clone(), LIMIT);
    let checks = match lab.map() {
        Ok(()) => checks::all(&mut lab),
        Err(error) => vec![Check {
            name: "page tables",
            needed: Needed::Always,
            outcome: Outcome::Wrong(error.to_string()),
        }],
    };
    let right = |needed: Needed| {
        let mut checks = checks.iter().filter(|check| check.needed == needed);
        checks.all(|check| !matches!(check.outcome, Outcome::Wrong(_)))
    };
    let usable = right(Needed::Always);
    let mut probe = Compat32 {
        usable,
        iopl: right(Needed::Iopl),
        limits: right(Needed::Limits),
        speed: None,
        extras: None,
        checks,
        probe_us: 0,
    };
    if usable {
        probe.speed = measure::speed(&mut lab).ok();
        probe.extras = extras::look(&mut lab).ok();
    }
    drop(watchdog);
    probe.probe_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(probe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direct::layout::GDT;
    use lab::selector;

    #[test]
    fn the_probe_ends_in_time_and_runs_everything() {
        let probe = match compat32() {
            Ok(probe) => probe,
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return;
            }
        };
        assert!(probe.probe_us < 2_000_000, "{} us", probe.probe_us);
        assert_eq!(probe.checks.len(), checks::COUNT);
        assert_eq!(probe.usable, probe.speed.is_some());
        if let Some(speed) = probe.speed {
            assert!(
                speed.round_trip_ns > 100,
                "no world switch is that fast: {speed:?}"
            );
            assert!(speed.native_instruction_ps > 10, "{speed:?}");
        }
    }

    #[test]
    fn a_broken_host_is_found_out() {
        let Ok(mut lab) = Lab::new() else {
            eprintln!("SKIPPED: no KVM");
            return;
        };
        lab.map().expect("the lab's tables");
        // As if the host ignored segment bases: all data is a page further.
        let at = GDT + u64::from(selector::DATA & !7);
        let memory = lab.world.monitor_memory();
        let data: u64 = memory.read(at);
        memory.write(at, data | 0x1000 << 16);
        let wrong = checks::all(&mut lab)
            .into_iter()
            .filter(|check| matches!(check.outcome, Outcome::Wrong(_)))
            .map(|check| check.name)
            .collect::<Vec<_>>();
        for name in [
            "integer arithmetic and flags",
            "page faults, CR2 and error codes",
        ] {
            assert!(wrong.contains(&name), "{wrong:?}");
        }
    }
}

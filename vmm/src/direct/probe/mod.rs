//! Finds out what this host's KVM is good for, by running small guests on it.

mod checks;
mod checks16;
mod extras;
pub(in crate::direct) mod lab;
mod legacy;
mod measure;
mod native;
mod watchdog;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::kvm::SetupError;
use super::world::WorldError;
pub use checks::{Check, Needed, Outcome};
pub use extras::Extras;
use lab::Lab;
pub use legacy::Legacy;
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

/// What the probe found out about 16-bit code in compatibility mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compat16 {
    /// Everything that is needed in any case is right: the mode is used.
    pub usable: bool,
    /// A 16-bit stack keeps the upper half of ESP; if not, states with one do not run directly.
    pub stack16: bool,
    /// The checks.
    pub checks: Vec<Check>,
    /// One instruction of a short loop, picoseconds; `None` if it could not be measured.
    pub instruction_ps: Option<u64>,
}

/// What the probe found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// 32-bit code in compatibility mode.
    pub compat32: Compat32,
    /// 16-bit code in it; `None` where there is no point in looking.
    pub compat16: Option<Compat16>,
}

/// Looks at 32-bit ring 3 in legacy protected mode, which direct execution does not use.
pub(super) fn legacy32() -> Legacy {
    legacy::legacy32()
}

/// Looks at virtual-8086 mode, which direct execution does not use.
pub(super) fn v86() -> Legacy {
    legacy::v86()
}

/// The probe as a whole is interrupted after this; on a useful host it takes a few milliseconds, on a busy
/// one that emulates its processor a second.
const LIMIT: Duration = Duration::from_secs(3);

/// A probe that has begun.
#[derive(Debug)]
pub(super) struct Started {
    start: Instant,
    lab: Lab,
    /// Ends programs that take too long.
    watchdog: Watchdog,
    mapped: Result<(), WorldError>,
    /// The speed, once it was measured.
    speed: Option<Option<Speed>>,
}

/// Begins.
pub(super) fn start() -> Result<Started, SetupError> {
    let start = Instant::now();
    let mut lab = Lab::new()?;
    Ok(Started {
        start,
        watchdog: Watchdog::start(lab.world.kicker().clone(), LIMIT),
        mapped: lab.map(),
        lab,
        speed: None,
    })
}

impl Started {
    /// The speed. It can be asked for before anything is known to be right; a host on which the
    /// loops that are measured go wrong has none.
    pub(super) fn speed(&mut self) -> Option<Speed> {
        let lab = &mut self.lab;
        let measured = &self.mapped;
        *self.speed.get_or_insert_with(|| {
            measured
                .as_ref()
                .ok()
                .and_then(|()| measure::speed(lab).ok())
        })
    }

    /// Checks everything.
    pub(super) fn finish(mut self) -> Probe {
        let (checks, dead) = match &self.mapped {
            Ok(()) => checks::all(&mut self.lab),
            Err(error) => {
                let check = Check {
                    name: "page tables",
                    needed: Needed::Always,
                    outcome: Outcome::Wrong(error.to_string()),
                };
                (vec![check], Some(error.clone()))
            }
        };
        let usable = right(&checks, Needed::Always);
        // Whoever forces direct execution wants the rest to be known as well.
        let alive = dead.is_none();
        let speed = if alive { self.speed() } else { None };
        let lab = &mut self.lab;
        let compat16 = alive.then(|| {
            let (checks, _) = checks16::all(lab);
            Compat16 {
                usable: right(&checks, Needed::Always),
                stack16: right(&checks, Needed::Stack16),
                instruction_ps: measure::speed16(lab, speed).ok(),
                checks,
            }
        });
        let extras = if alive { extras::look(lab).ok() } else { None };
        drop(self.watchdog);
        let compat32 = Compat32 {
            usable,
            iopl: right(&checks, Needed::Iopl),
            limits: right(&checks, Needed::Limits),
            checks,
            speed,
            extras,
            probe_us: u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        Probe { compat32, compat16 }
    }
}

/// Nothing that is needed for this is wrong.
fn right(checks: &[Check], needed: Needed) -> bool {
    let mut checks = checks.iter().filter(|check| check.needed == needed);
    checks.all(|check| !matches!(check.outcome, Outcome::Wrong(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direct::layout::GDT;
    use lab::selector;

    #[test]
    fn the_probe_ends_and_runs_everything() {
        let probe = match start() {
            Ok(started) => started.finish().compat32,
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return;
            }
        };
        assert_eq!(probe.checks.len(), checks::COUNT);
        assert!(!probe.usable || probe.speed.is_some());
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
        let (checks, _) = checks::all(&mut lab);
        let wrong = checks
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

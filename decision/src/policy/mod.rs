//! Should a state that may run directly do so?

mod adaptive;
mod fixed;
mod random;
mod rules;
mod spec;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::inputs::{Engine, Inputs};
use crate::legality::Legal;
use crate::record::ExitKind;

pub use adaptive::AdaptiveParams;
pub use random::RandomParams;
pub use rules::{RuleError, Rules};
pub use spec::{PolicyError, PolicySpec};

/// What the engines cost on this host, as measured by the probe. `None` where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineCosts {
    /// From the translator to direct execution and back, nanoseconds.
    pub round_trip_ns: Option<u64>,
    /// Direct execution, picoseconds for an instruction.
    pub direct_ps: Option<u64>,
    /// Translated code, picoseconds for an instruction.
    pub translated_ps: Option<u64>,
}

impl EngineCosts {
    /// How many times longer translated code takes than direct execution, if both are known. Above
    /// 1, direct execution saves time.
    #[must_use]
    pub fn speed_ratio(&self) -> Option<f64> {
        let direct = self.direct_ps.filter(|&ps| ps > 0)?;
        Some(self.translated_ps? as f64 / direct as f64)
    }
}

/// A run of an engine that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The engine.
    pub engine: Engine,
    /// Its length, nanoseconds.
    pub ns: u64,
    /// World switches in it: entries into direct execution, those after page faults that the shadow
    /// tables caused included. 0 for the translator.
    pub crossings: u64,
    /// What ended it.
    pub exit: ExitKind,
    /// The vCPU is at ring 3 now.
    pub at_ring_3: bool,
}

/// What happened on this vCPU before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The engine that ran last; `None` before the first run.
    pub last_engine: Option<Engine>,
    /// Runs that the translator has finished.
    pub translated_runs: u64,
    /// Their length, nanoseconds.
    pub translated_ns: u64,
    /// Runs that direct execution has finished.
    pub direct_runs: u64,
    /// Their length, nanoseconds.
    pub direct_ns: u64,
    /// Length of the last direct run, nanoseconds.
    pub last_direct_ns: u64,
}

impl History {
    /// Adds a run of `engine` that took `ns` nanoseconds.
    pub fn add_run(&mut self, engine: Engine, ns: u64) {
        self.last_engine = Some(engine);
        let (runs, total) = match engine {
            Engine::Translator => (&mut self.translated_runs, &mut self.translated_ns),
            Engine::Direct => {
                self.last_direct_ns = ns;
                (&mut self.direct_runs, &mut self.direct_ns)
            }
        };
        *runs = runs.saturating_add(1);
        *total = total.saturating_add(ns);
    }
}

/// What a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The state of the vCPU.
    pub inputs: &'a Inputs,
    /// The cost of each engine.
    pub costs: &'a EngineCosts,
    /// The past.
    pub history: &'a History,
}

/// For how long the translator runs before the next decision. An exit that the run loop has to
/// handle ends each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stretch {
    /// Until the guest arrives in a state that may be legal.
    Arrival,
    /// Until something else ends the run: arrivals at ring 3 pass unnoticed, and cost nothing.
    Exit,
    /// For one instruction.
    Instruction,
}

/// What a policy answers. Direct execution takes the witness, so that no policy can choose it for a
/// state that is not legal.
#[derive(Debug)]
pub enum Choice<'a> {
    /// Run the state that the witness is for on KVM.
    Direct(Legal<'a>),
    /// Run it translated, for as long as that.
    Translate(Stretch),
}

/// A rule that chooses between the engines.
pub trait Policy: fmt::Debug + Send {
    /// The name that selects it.
    fn name(&self) -> &str;

    /// Chooses for a legal state. `legal` is the only way to answer [`Choice::Direct`]; illegal
    /// states are translated without asking.
    fn choose<'a>(&mut self, legal: Legal<'a>, view: &View<'_>) -> Choice<'a>;

    /// For how long a state that is not legal is translated before the next decision.
    fn stretch(&mut self, _view: &View<'_>) -> Stretch {
        Stretch::Arrival
    }

    /// Tells how the run went that began with [`Policy::choose`] on `view`.
    fn ran(&mut self, _view: &View<'_>, _run: &Run) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_keeps_the_engines_apart() {
        let mut history = History::default();
        history.add_run(Engine::Translator, 5);
        history.add_run(Engine::Direct, 7);
        history.add_run(Engine::Direct, 11);
        assert_eq!(
            history,
            History {
                last_engine: Some(Engine::Direct),
                translated_runs: 1,
                translated_ns: 5,
                direct_runs: 2,
                direct_ns: 18,
                last_direct_ns: 11,
            }
        );
    }

    #[test]
    fn the_speed_ratio_needs_both_speeds() {
        let costs = EngineCosts {
            direct_ps: Some(400),
            translated_ps: Some(600),
            ..EngineCosts::default()
        };
        assert_eq!(costs.speed_ratio(), Some(1.5));
        for unknown in [
            EngineCosts {
                direct_ps: None,
                ..costs
            },
            EngineCosts {
                direct_ps: Some(0),
                ..costs
            },
            EngineCosts {
                translated_ps: None,
                ..costs
            },
        ] {
            assert_eq!(unknown.speed_ratio(), None);
        }
    }
}

//! Should a state that may run directly do so?

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::inputs::{Engine, Inputs};
use crate::legality::Legal;

/// What the engines cost on this host, as measured by the probe and the run loop. `None` where it
/// is not known (yet).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineCosts {
    /// From the translator to direct execution and back, nanoseconds.
    pub round_trip_ns: Option<u64>,
    /// Direct execution, picoseconds for an instruction.
    pub direct_ps: Option<u64>,
    /// Translated code, picoseconds for an instruction.
    pub translated_ps: Option<u64>,
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

/// What a policy answers. Direct execution takes the witness, so that no policy can choose it for a
/// state that is not legal.
#[derive(Debug)]
pub enum Choice<'a> {
    /// Run the state that the witness is for on KVM.
    Direct(Legal<'a>),
    /// Run it translated.
    Translate,
}

/// A rule that chooses between the engines.
pub trait Policy: fmt::Debug + Send {
    /// The name that selects it.
    fn name(&self) -> &str;

    /// Chooses for a legal state. `legal` is the only way to answer [`Choice::Direct`]; illegal
    /// states are translated without asking.
    fn choose<'a>(&mut self, legal: Legal<'a>, view: &View<'_>) -> Choice<'a>;
}

/// The policies that have a name of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Direct whenever legal.
    Vmware,
    /// Never direct.
    Translate,
    /// Every legal state of protected mode at CPL 3.
    Ring,
}

impl PolicyName {
    /// All of them, in the order in which help texts list them.
    pub const ALL: [Self; 3] = [Self::Vmware, Self::Translate, Self::Ring];

    /// What the command line calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vmware => "vmware",
            Self::Translate => "translate",
            Self::Ring => "ring",
        }
    }

    /// One line of help.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Vmware => "direct whenever it is legal (VMware's Algorithm 1)",
            Self::Translate => "never direct: everything is translated",
            Self::Ring => "direct in every legal CPL 3 state but virtual-8086 mode (kqemu's rule)",
        }
    }

    /// A policy of this name, without any history.
    #[must_use]
    pub fn build(self) -> Box<dyn Policy> {
        match self {
            Self::Vmware => Box::new(Vmware),
            Self::Translate => Box::new(Translate),
            Self::Ring => Box::new(Ring),
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Unknown policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy '{name}'; there are: {known}", known = PolicyName::ALL.map(PolicyName::name).join(", "))]
pub struct UnknownPolicy {
    /// What was asked for.
    pub name: String,
}

impl FromStr for PolicyName {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| UnknownPolicy {
                name: text.to_owned(),
            })
    }
}

/// Algorithm 1: what may run directly does.
#[derive(Debug)]
struct Vmware;

impl Policy for Vmware {
    fn name(&self) -> &str {
        PolicyName::Vmware.name()
    }

    fn choose<'a>(&mut self, legal: Legal<'a>, _: &View<'_>) -> Choice<'a> {
        Choice::Direct(legal)
    }
}

/// The translator alone.
#[derive(Debug)]
struct Translate;

impl Policy for Translate {
    fn name(&self) -> &str {
        PolicyName::Translate.name()
    }

    fn choose<'a>(&mut self, _: Legal<'a>, _: &View<'_>) -> Choice<'a> {
        Choice::Translate
    }
}

/// The rule of kqemu's user-code mode (`kqemu_is_ok` in QEMU 0.9): protected mode, CPL 3, not
/// virtual-8086 mode.
#[derive(Debug)]
struct Ring;

impl Policy for Ring {
    fn name(&self) -> &str {
        PolicyName::Ring.name()
    }

    fn choose<'a>(&mut self, legal: Legal<'a>, _: &View<'_>) -> Choice<'a> {
        let inputs = legal.inputs();
        if inputs.protected_mode && inputs.cpl == 3 && !inputs.virtual_8086 {
            Choice::Direct(legal)
        } else {
            Choice::Translate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_an_unknown_one_lists_them() {
        for policy in PolicyName::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            assert_eq!(policy.build().name(), policy.name());
        }
        for wrong in ["", "VMware", "vmware ", "adaptiv"] {
            let message = PolicyName::from_str(wrong).unwrap_err().to_string();
            assert_eq!(
                message,
                format!("unknown policy '{wrong}'; there are: vmware, translate, ring")
            );
        }
    }

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
}

//! The two questions together.

use serde::{Deserialize, Serialize};

use crate::inputs::{Engine, HostSupport, Inputs};
use crate::legality::{Legal, Reasons};
use crate::policy::{Choice, EngineCosts, History, Policy, View};
use crate::statistics::Statistics;

/// Which engine runs next, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decision {
    /// The engine.
    pub engine: Engine,
    /// Why it is not direct execution; empty exactly when it is.
    pub reasons: Reasons,
    /// The part of the reasons that no policy can overrule.
    pub legality: Reasons,
}

/// Decides once: the policy is asked where direct execution is legal, and nowhere else.
pub fn decide(
    inputs: &Inputs,
    host: &HostSupport,
    policy: &mut dyn Policy,
    costs: &EngineCosts,
    history: &History,
) -> Decision {
    let translate = |reasons, legality| Decision {
        engine: Engine::Translator,
        reasons,
        legality,
    };
    let view = View {
        inputs,
        costs,
        history,
    };
    match Legal::check(inputs, host).map(|legal| policy.choose(legal, &view)) {
        Ok(Choice::Direct(_)) => Decision {
            engine: Engine::Direct,
            reasons: Reasons::empty(),
            legality: Reasons::empty(),
        },
        Ok(Choice::Translate) => translate(Reasons::POLICY, Reasons::empty()),
        Err(reasons) => translate(reasons, reasons),
    }
}

/// Decides for one vCPU, again and again: the policy with its history, and the counters.
#[derive(Debug)]
pub struct Decider {
    policy: Box<dyn Policy>,
    host: HostSupport,
    costs: EngineCosts,
    history: History,
    statistics: Statistics,
}

impl Decider {
    /// A decider without any history.
    #[must_use]
    pub fn new(policy: Box<dyn Policy>, host: HostSupport, costs: EngineCosts) -> Self {
        Self {
            policy,
            host,
            costs,
            history: History::default(),
            statistics: Statistics::default(),
        }
    }

    /// Decides which engine runs `inputs`, and counts the decision. It is a switch when the engine
    /// is not [`Decider::last_engine`].
    pub fn decide(&mut self, inputs: &Inputs) -> Decision {
        let decision = decide(
            inputs,
            &self.host,
            self.policy.as_mut(),
            &self.costs,
            &self.history,
        );
        self.statistics.add(self.history.last_engine, &decision);
        decision
    }

    /// Tells that `engine` ran for `ns` nanoseconds.
    pub fn ran(&mut self, engine: Engine, ns: u64) {
        self.history.add_run(engine, ns);
    }

    /// Replaces the costs by newer measurements.
    pub fn set_costs(&mut self, costs: EngineCosts) {
        self.costs = costs;
    }

    /// The engine that ran last.
    #[must_use]
    pub const fn last_engine(&self) -> Option<Engine> {
        self.history.last_engine
    }

    /// What the host was found to run.
    #[must_use]
    pub const fn host(&self) -> &HostSupport {
        &self.host
    }

    /// Name of the policy.
    #[must_use]
    pub fn policy_name(&self) -> &str {
        self.policy.name()
    }

    /// The past, as policies are told it.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// The counters.
    #[must_use]
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }
}

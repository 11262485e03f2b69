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
    /// The decision that the next run follows from.
    pending: Option<(Inputs, Decision)>,
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
            pending: None,
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
        self.pending = Some((*inputs, decision));
        decision
    }

    /// Tells that `engine` ran for `ns` nanoseconds, after the last decision.
    pub fn ran(&mut self, engine: Engine, ns: u64) {
        if let Some((inputs, decision)) = self.pending.take() {
            self.statistics.ring3.add(&inputs, &decision, ns);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::{CodeSize, Segments};
    use crate::policy::PolicyName;
    use crate::statistics::Runs;

    const RING_3: Inputs = Inputs {
        protected_mode: true,
        virtual_8086: false,
        cpl: 3,
        iopl: 0,
        interrupt_flag: true,
        trap_flag: false,
        interrupt_shadow: false,
        debug_registers_enabled: false,
        reversible: Segments::all(),
        code_size: CodeSize::Bits32,
        stack_16: false,
        paging: true,
        long_mode_visible: false,
        replay_pending: false,
        cs: 0x23,
        eip: 0,
        eflags: 0x202,
        cr3: 0,
    };

    #[test]
    fn the_work_of_ring_3_is_attributed_to_who_did_it() {
        let host = HostSupport {
            compat32: true,
            ..HostSupport::NONE
        };
        let policy = PolicyName::Vmware.build();
        let mut decider = Decider::new(policy, host, EngineCosts::default());
        let kernel = Inputs { cpl: 0, ..RING_3 };
        let replay = Inputs {
            replay_pending: true,
            ..RING_3
        };
        let stepping = Inputs {
            trap_flag: true,
            ..RING_3
        };
        let masked = Inputs {
            interrupt_flag: false,
            ..RING_3
        };
        for (inputs, engine, ns) in [
            (kernel, Engine::Translator, 1),
            (RING_3, Engine::Direct, 10),
            (replay, Engine::Translator, 100),
            (RING_3, Engine::Direct, 20),
            (stepping, Engine::Translator, 1_000),
            (masked, Engine::Translator, 10_000),
        ] {
            assert_eq!(decider.decide(&inputs).engine, engine);
            decider.ran(engine, ns);
        }
        // A run that no decision led to is nobody's.
        decider.ran(Engine::Translator, 100_000);
        let ring3 = decider.statistics().ring3;
        assert_eq!(ring3.direct, Runs { runs: 2, ns: 30 });
        assert_eq!(ring3.replayed, Runs { runs: 1, ns: 100 });
        assert_eq!(ring3.translated, Runs { runs: 1, ns: 1_000 });
        assert_eq!(decider.statistics().switches_to_direct, 2);
        assert_eq!(decider.statistics().switches_to_translator, 2);
    }
}

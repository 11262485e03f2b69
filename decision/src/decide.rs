//! The two questions together.

use serde::{Deserialize, Serialize};

use crate::inputs::{Engine, HostSupport, Inputs};
use crate::legality::{Legal, Reasons};
use crate::policy::{Choice, EngineCosts, History, Policy, Run, Stretch, View};
use crate::record::{ExitKind, Stay, SwitchRecord};
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
    /// For how long, if it is the translator.
    pub stretch: Stretch,
}

/// Decides once: the policy is asked where direct execution is legal, and nowhere else.
pub fn decide(
    inputs: &Inputs,
    host: &HostSupport,
    policy: &mut dyn Policy,
    costs: &EngineCosts,
    history: &History,
) -> Decision {
    let view = View {
        inputs,
        costs,
        history,
    };
    let translate = |reasons, legality, stretch| Decision {
        engine: Engine::Translator,
        reasons,
        legality,
        stretch,
    };
    match Legal::check(inputs, host) {
        Ok(legal) => match policy.choose(legal, &view) {
            Choice::Direct(_) => Decision {
                engine: Engine::Direct,
                reasons: Reasons::empty(),
                legality: Reasons::empty(),
                stretch: Stretch::Arrival,
            },
            Choice::Translate(stretch) => translate(Reasons::POLICY, Reasons::empty(), stretch),
        },
        Err(reasons) => translate(reasons, reasons, policy.stretch(&view)),
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
    /// The stay that goes on, and what ended its last run.
    stay: Stay,
    exit: ExitKind,
    /// The switch that the last decision was.
    switch: Option<SwitchRecord>,
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
            stay: Stay::default(),
            exit: ExitKind::None,
            switch: None,
        }
    }

    /// Tells what the direct engine can do from now on.
    pub const fn set_support(&mut self, host: HostSupport) {
        self.host = host;
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
        let last = self.history.last_engine;
        self.statistics.add(last, &decision);
        self.switch = None;
        if last == Some(decision.engine.other()) {
            let stay = std::mem::take(&mut self.stay);
            let (engine, reasons) = (decision.engine, decision.reasons);
            let record = SwitchRecord::new(inputs, engine, reasons, stay, self.exit);
            self.switch = Some(record);
        }
        self.pending = Some((*inputs, decision));
        decision
    }

    /// The record of the last decision, if it was a switch. The caller adds vCPU and time.
    #[must_use]
    pub const fn switch(&self) -> Option<&SwitchRecord> {
        self.switch.as_ref()
    }

    /// Tells how the run went that followed the last decision, and how many guest instructions were
    /// counted in it.
    pub fn ran(&mut self, run: Run, instructions: Option<u64>) {
        let pending = self.pending.take();
        let reasons = pending.map_or(Reasons::empty(), |(_, decision)| decision.reasons);
        self.stay.add(run.ns, instructions, reasons);
        self.exit = run.exit;
        if let Some((inputs, decision)) = pending {
            self.statistics.ring3.add(&inputs, &decision, run.ns);
            // Only what the policy chose, and watched to its end, teaches it something.
            if decision.legality.is_empty() && decision.stretch == Stretch::Arrival {
                let view = View {
                    inputs: &inputs,
                    costs: &self.costs,
                    history: &self.history,
                };
                self.policy.ran(&view, &run);
            }
        }
        self.history.add_run(run.engine, run.ns);
    }

    /// Tells that the vCPU slept in HLT.
    pub fn slept(&mut self, ns: u64) {
        self.stay.halted_ns = self.stay.halted_ns.saturating_add(ns);
    }

    /// The stay that goes on.
    #[must_use]
    pub const fn stay(&self) -> &Stay {
        &self.stay
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
    use crate::policy::PolicySpec;
    use crate::statistics::Runs;
    use crate::testing::{HOST, RING_3};

    const fn run(engine: Engine, ns: u64) -> Run {
        Run {
            engine,
            ns,
            crossings: 0,
            exit: ExitKind::StateChanged,
            at_ring_3: true,
        }
    }

    #[test]
    fn the_work_of_ring_3_is_attributed_to_who_did_it() {
        let policy = PolicySpec::Vmware.build();
        let mut decider = Decider::new(policy, HOST, EngineCosts::default());
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
        let virtual_8086 = Inputs {
            virtual_8086: true,
            ..RING_3
        };
        for (inputs, engine, ns) in [
            (kernel, Engine::Translator, 1),
            (RING_3, Engine::Direct, 10),
            (replay, Engine::Translator, 100),
            (RING_3, Engine::Direct, 20),
            (stepping, Engine::Translator, 1_000),
            (masked, Engine::Translator, 10_000),
            (virtual_8086, Engine::Translator, 2_000),
        ] {
            assert_eq!(decider.decide(&inputs).engine, engine);
            decider.ran(run(engine, ns), None);
        }
        // A run that no decision led to is nobody's.
        decider.ran(run(Engine::Translator, 100_000), None);
        let ring3 = &decider.statistics().ring3;
        assert_eq!(ring3.direct, Runs { runs: 2, ns: 30 });
        assert_eq!(ring3.replayed, Runs { runs: 1, ns: 100 });
        assert_eq!(ring3.translated, Runs { runs: 2, ns: 3_000 });
        let against = |reason| ring3.against.get(reason);
        assert_eq!(against(Reasons::REPLAY), 1);
        assert_eq!(against(Reasons::TRAP_FLAG), 1);
        assert_eq!(against(Reasons::V86_UNSUPPORTED), 1);
        assert_eq!(against(Reasons::all()), 3, "nothing else");
        assert_eq!(decider.statistics().switches_to_direct, 2);
        assert_eq!(decider.statistics().switches_to_translator, 2);
    }

    #[test]
    fn a_switch_is_recorded_with_the_stay_that_it_ends() {
        let policy = PolicySpec::Vmware.build();
        let mut decider = Decider::new(policy, HOST, EngineCosts::default());
        let kernel = Inputs { cpl: 0, ..RING_3 };
        let masked = Inputs {
            interrupt_flag: false,
            ..kernel
        };
        for (inputs, ns) in [(masked, 5), (kernel, 7)] {
            decider.decide(&inputs);
            assert_eq!(decider.switch(), None);
            decider.ran(run(Engine::Translator, ns), Some(ns));
        }
        decider.slept(1_000);
        decider.decide(&RING_3);
        let record = decider.switch().expect("a switch").at(1, 99);
        assert_eq!((record.vcpu, record.time_ns), (1, 99));
        assert_eq!(
            (record.from, record.to),
            (Engine::Translator, Engine::Direct)
        );
        assert_eq!(record.exit, ExitKind::StateChanged);
        assert_eq!(record.reasons, Reasons::empty());
        assert_eq!(
            record.stay,
            Stay {
                runs: 2,
                run_ns: 12,
                halted_ns: 1_000,
                instructions: Some(12),
                reasons: Reasons::INTERRUPTS_OFF | Reasons::NOT_RING_3 | Reasons::IOPL,
            }
        );
        decider.ran(run(Engine::Direct, 3), None);
        decider.decide(&kernel);
        let record = decider.switch().expect("a switch back");
        assert_eq!(record.reasons, Reasons::NOT_RING_3 | Reasons::IOPL);
        assert_eq!((record.stay.runs, record.stay.run_ns), (1, 3));
        assert_eq!(record.stay.reasons, Reasons::empty());
        assert_eq!(decider.stay().runs, 0);
    }
}

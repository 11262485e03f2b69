//! Counters over all decisions of a vCPU.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::decide::Decision;
use crate::inputs::{Engine, Inputs};
use crate::legality::Reasons;

/// One counter for each reason. Serialized as a map from name to count, without the zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByReason([u64; Reasons::COUNT]);

impl ByReason {
    /// Counts every reason of the set once.
    pub fn add(&mut self, reasons: Reasons) {
        for (index, (_, reason)) in Reasons::all().iter_names().enumerate() {
            if reasons.intersects(reason)
                && let Some(count) = self.0.get_mut(index)
            {
                *count = count.saturating_add(1);
            }
        }
    }

    /// The count of one reason; of several, their sum.
    #[must_use]
    pub fn get(&self, reasons: Reasons) -> u64 {
        self.iter()
            .filter(|(_, reason, _)| reasons.intersects(*reason))
            .map(|(_, _, count)| count)
            .sum()
    }

    /// Name, reason and count, in the order of the reasons.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Reasons, u64)> {
        Reasons::all()
            .iter_names()
            .zip(self.0)
            .map(|((name, reason), count)| (name, reason, count))
    }
}

impl Serialize for ByReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, _, count) in self.iter().filter(|(_, _, count)| *count > 0) {
            map.serialize_entry(name, &count)?;
        }
        map.end()
    }
}

/// Runs and their length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Runs {
    /// How many.
    pub runs: u64,
    /// How long together, nanoseconds.
    pub ns: u64,
}

impl Runs {
    fn add(&mut self, ns: u64) {
        self.runs = self.runs.saturating_add(1);
        self.ns = self.ns.saturating_add(ns);
    }
}

/// Who did the work of ring 3: the runs that began in protected mode at CPL 3, IF = 1 and IOPL < 3,
/// virtual-8086 mode included: the states that Algorithm 1 is meant to run directly.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ring3 {
    /// Direct execution.
    pub direct: Runs,
    /// The translator, for one instruction that direct execution left at.
    pub replayed: Runs,
    /// The translator, for any other reason.
    pub translated: Runs,
    /// What spoke against direct execution in the runs of the translator, by each of the reasons.
    pub against: ByReason,
}

impl Ring3 {
    /// Counts a run of `ns` nanoseconds that began with `decision` on `inputs`.
    pub(crate) fn add(&mut self, inputs: &Inputs, decision: &Decision, ns: u64) {
        if !is_ring_3(inputs) {
            return;
        }
        self.against.add(decision.reasons);
        match decision.engine {
            Engine::Direct => self.direct.add(ns),
            Engine::Translator if decision.legality.contains(Reasons::REPLAY) => {
                self.replayed.add(ns);
            }
            Engine::Translator => self.translated.add(ns),
        }
    }
}

fn is_ring_3(inputs: &Inputs) -> bool {
    inputs.protected_mode && inputs.cpl == 3 && inputs.iopl < 3 && inputs.interrupt_flag
}

/// What the decisions of a vCPU came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    /// Decisions made.
    pub evaluations: u64,
    /// Those in which direct execution was legal.
    pub legal: u64,
    /// Every reason that made direct execution illegal, for each evaluation.
    pub legality_by_reason: ByReason,
    /// Switches to direct execution.
    pub switches_to_direct: u64,
    /// Switches to the translator.
    pub switches_to_translator: u64,
    /// Switches to the translator by each of their reasons.
    pub switches_by_reason: ByReason,
    /// Evaluations that found the translator running and left it so.
    pub refusals: u64,
    /// Those by each of their reasons.
    pub refusals_by_reason: ByReason,
    /// Who did the work of ring 3.
    pub ring3: Ring3,
}

impl Statistics {
    /// Counts a decision that was made while (or after) `last` ran; `None` before the first run,
    /// which is no switch.
    pub fn add(&mut self, last: Option<Engine>, decision: &Decision) {
        self.evaluations += 1;
        if decision.legality.is_empty() {
            self.legal += 1;
        }
        self.legality_by_reason.add(decision.legality);
        match (last, decision.engine) {
            (Some(Engine::Translator), Engine::Direct) => self.switches_to_direct += 1,
            (Some(Engine::Direct), Engine::Translator) => {
                self.switches_to_translator += 1;
                self.switches_by_reason.add(decision.reasons);
            }
            (None | Some(Engine::Translator), Engine::Translator) => {
                self.refusals += 1;
                self.refusals_by_reason.add(decision.reasons);
            }
            (None | Some(Engine::Direct), Engine::Direct) => {}
        }
    }

    /// Switches in both directions.
    #[must_use]
    pub const fn switches(&self) -> u64 {
        self.switches_to_direct + self.switches_to_translator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_decision_is_counted_where_it_belongs() {
        let decision = |engine, reasons: Reasons| Decision {
            engine,
            reasons,
            legality: reasons & Reasons::ILLEGAL,
            stretch: crate::policy::Stretch::Arrival,
        };
        let (direct, translator) = (Some(Engine::Direct), Some(Engine::Translator));
        let mut statistics = Statistics::default();
        statistics.add(None, &decision(Engine::Translator, Reasons::REAL_MODE));
        statistics.add(translator, &decision(Engine::Direct, Reasons::empty()));
        statistics.add(direct, &decision(Engine::Direct, Reasons::empty()));
        let both = Reasons::IOPL | Reasons::NOT_RING_3;
        statistics.add(direct, &decision(Engine::Translator, both));
        statistics.add(translator, &decision(Engine::Translator, Reasons::POLICY));

        assert_eq!(
            serde_json::to_value(&statistics).unwrap(),
            serde_json::json!({
                "evaluations": 5,
                "legal": 3,
                "legality_by_reason": { "REAL_MODE": 1, "IOPL": 1, "NOT_RING_3": 1 },
                "switches_to_direct": 1,
                "switches_to_translator": 1,
                "switches_by_reason": { "IOPL": 1, "NOT_RING_3": 1 },
                "refusals": 2,
                "refusals_by_reason": { "REAL_MODE": 1, "POLICY": 1 },
                "ring3": {
                    "direct": { "runs": 0, "ns": 0 },
                    "replayed": { "runs": 0, "ns": 0 },
                    "translated": { "runs": 0, "ns": 0 },
                    "against": {},
                },
            })
        );
        assert_eq!(statistics.switches(), 2);
        assert_eq!(statistics.legality_by_reason.get(both), 2);
    }
}

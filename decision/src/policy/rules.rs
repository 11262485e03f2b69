//! A policy that somebody wrote into a file: rules, of which the first that matches decides.
//!
//! ```text
//! # Comments run to the end of the line.
//! name libraries-translated
//! translate eip=0xb7000000..0xbfffffff
//! translate code=16
//! direct    last-direct>20us
//! ask       adaptive:hysteresis=2
//! ```
//!
//! A rule is an answer and its conditions, all of which must hold. The answers are `direct`,
//! `translate`, `step` (one instruction translated) and `ask POLICY`, which hands the question to
//! another policy. Rules are asked in legal states only; where none matches, the state is translated.

use super::{Choice, Policy, PolicySpec, Run, Stretch, View};
use crate::inputs::{CodeSize, Engine};
use crate::legality::Legal;

/// A list of rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    name: String,
    rules: Vec<Rule>,
}

/// A line that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct RuleError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    answer: Answer,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Direct,
    Translate,
    Step,
    Ask(Box<PolicySpec>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Condition {
    subject: Subject,
    low: u64,
    high: u64,
}

/// What a condition is about: always a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Eip,
    Cr3,
    Cs,
    Iopl,
    Code,
    Last,
    LastDirect,
    DirectRuns,
    RoundTrip,
    Slowness,
}

/// Names of the subjects, with what help and errors say of them.
const SUBJECTS: [(&str, Subject); 10] = [
    ("eip", Subject::Eip),
    ("cr3", Subject::Cr3),
    ("cs", Subject::Cs),
    ("iopl", Subject::Iopl),
    ("code", Subject::Code),
    ("last", Subject::Last),
    ("last-direct", Subject::LastDirect),
    ("direct-runs", Subject::DirectRuns),
    ("round-trip", Subject::RoundTrip),
    ("direct-percent", Subject::Slowness),
];

impl Subject {
    /// Its value; `None` where it is not known, which no condition matches.
    fn value(self, view: &View<'_>) -> Option<u64> {
        let View {
            inputs,
            costs,
            history,
        } = view;
        Some(match self {
            Self::Eip => inputs.eip.into(),
            Self::Cr3 => inputs.cr3.into(),
            Self::Cs => inputs.cs.into(),
            Self::Iopl => inputs.iopl.into(),
            Self::Code => match inputs.code_size {
                CodeSize::Bits16 => 16,
                CodeSize::Bits32 => 32,
            },
            Self::Last => u64::from(history.last_engine == Some(Engine::Direct)),
            Self::LastDirect => (history.direct_runs > 0).then_some(history.last_direct_ns)?,
            Self::DirectRuns => history.direct_runs,
            Self::RoundTrip => costs.round_trip_ns?,
            // As a percentage of translated code: below 100, direct execution is faster.
            Self::Slowness => (100.0 / costs.speed_ratio()?) as u64,
        })
    }

    /// A number, in the notation of the subject.
    fn parse(self, text: &str) -> Option<u64> {
        match (self, text) {
            (Self::Last, "direct") => return Some(1),
            (Self::Last, "translator") => return Some(0),
            (Self::Last, _) => return None,
            _ => {}
        }
        let time = matches!(self, Self::LastDirect | Self::RoundTrip);
        let (digits, unit) = match text {
            _ if !time => (text, 1),
            text => [("ns", 1), ("us", 1_000), ("ms", 1_000_000)]
                .iter()
                .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?,
        };
        let number = match digits.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok()?,
            None => digits.parse().ok()?,
        };
        number.checked_mul(unit)
    }
}

impl Condition {
    fn parse(word: &str) -> Result<Self, String> {
        let at = word
            .find(['=', '<', '>'])
            .ok_or_else(|| format!("'{word}' is no condition such as eip=0x8048000..0x8050000"))?;
        let (name, rest) = word.split_at(at);
        let (operator, value) = rest.split_at(1);
        let subject = SUBJECTS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, subject)| *subject)
            .ok_or_else(|| {
                let known = SUBJECTS.map(|(name, _)| name).join(", ");
                format!("nothing is called '{name}'; there are: {known}")
            })?;
        let number = |text: &str| {
            let number = subject.parse(text);
            number.ok_or_else(|| format!("'{text}' is no value for {name}"))
        };
        let (low, high) = match operator {
            "<" => (
                0,
                number(value)?
                    .checked_sub(1)
                    .ok_or_else(|| format!("nothing is below {value}"))?,
            ),
            ">" => (number(value)?.saturating_add(1), u64::MAX),
            _ => match value.split_once("..") {
                Some((low, high)) => (number(low)?, number(high)?),
                None => (number(value)?, number(value)?),
            },
        };
        if low > high {
            return Err(format!("'{word}' can never hold"));
        }
        Ok(Self { subject, low, high })
    }

    fn holds(&self, view: &View<'_>) -> bool {
        let value = self.subject.value(view);
        value.is_some_and(|value| (self.low..=self.high).contains(&value))
    }
}

impl Rules {
    /// Reads the contents of a file.
    ///
    /// # Errors
    ///
    /// The first line that is no rule.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let mut rules = Self {
            name: "rules".to_owned(),
            rules: Vec::new(),
        };
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split_once('#').map_or(text, |(text, _)| text);
            let mut words = text.split_whitespace();
            let Some(first) = words.next() else {
                continue;
            };
            rules
                .add(first, words)
                .map_err(|what| RuleError { line, what })?;
        }
        if rules.rules.is_empty() {
            return Err(RuleError {
                line: text.lines().count().max(1),
                what: "the file has no rule".to_owned(),
            });
        }
        Ok(rules)
    }

    fn add<'a>(
        &mut self,
        first: &str,
        mut words: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let answer = match first {
            "name" => {
                let name = words.next().ok_or("a name is missing")?;
                name.clone_into(&mut self.name);
                return match words.next() {
                    None => Ok(()),
                    Some(word) => Err(format!("'{word}' is too much: a name is one word")),
                };
            }
            "direct" => Answer::Direct,
            "translate" => Answer::Translate,
            "step" => Answer::Step,
            "ask" => {
                let policy = words.next().ok_or("a policy to ask is missing")?;
                let spec = policy.parse::<PolicySpec>();
                Answer::Ask(Box::new(spec.map_err(|error| error.to_string())?))
            }
            word => {
                return Err(format!(
                    "'{word}' is no answer; there are: direct, translate, step, ask, and name"
                ));
            }
        };
        let conditions = words.map(Condition::parse).collect::<Result<_, _>>()?;
        self.rules.push(Rule { answer, conditions });
        Ok(())
    }

    /// The name that the file gives, else `rules`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn build(&self) -> Box<dyn Policy> {
        let answers = self.rules.iter().map(|rule| match &rule.answer {
            Answer::Ask(spec) => Some(spec.build()),
            Answer::Direct | Answer::Translate | Answer::Step => None,
        });
        Box::new(ByRules {
            asked: answers.collect(),
            rules: self.clone(),
        })
    }
}

/// The policy.
#[derive(Debug)]
struct ByRules {
    rules: Rules,
    /// For each rule, the policy that it asks.
    asked: Vec<Option<Box<dyn Policy>>>,
}

impl ByRules {
    fn matching(&self, view: &View<'_>) -> Option<usize> {
        let mut rules = self.rules.rules.iter();
        rules.position(|rule| {
            rule.conditions
                .iter()
                .all(|condition| condition.holds(view))
        })
    }
}

impl Policy for ByRules {
    fn name(&self) -> &str {
        self.rules.name()
    }

    fn choose<'a>(&mut self, legal: Legal<'a>, view: &View<'_>) -> Choice<'a> {
        let Some(index) = self.matching(view) else {
            return Choice::Translate(Stretch::Arrival);
        };
        match self.rules.rules.get(index).map(|rule| &rule.answer) {
            Some(Answer::Direct) => Choice::Direct(legal),
            Some(Answer::Step) => Choice::Translate(Stretch::Instruction),
            Some(Answer::Ask(_)) => match self.asked.get_mut(index) {
                Some(Some(policy)) => match policy.choose(legal, view) {
                    // Another rule may match what arrives next.
                    Choice::Translate(Stretch::Exit) => Choice::Translate(Stretch::Arrival),
                    choice => choice,
                },
                _ => Choice::Translate(Stretch::Arrival),
            },
            Some(Answer::Translate) | None => Choice::Translate(Stretch::Arrival),
        }
    }

    fn ran(&mut self, view: &View<'_>, run: &Run) {
        // The history that conditions are about has moved on; what was asked is told of all runs.
        for policy in self.asked.iter_mut().flatten() {
            policy.ran(view, run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::policy::{EngineCosts, History};
    use crate::testing::{HOST, RING_3};

    const FILE: &str = "
        # An experiment.
        name mixed
        translate eip=0xb7000000..0xbfffffff  # libraries
        step      cr3=0x5000 last=direct
        direct    last-direct>20us round-trip<5us
        ask       vmware code=32 direct-percent=1..99
    ";

    fn answer(file: &str, inputs: &Inputs, costs: &EngineCosts, history: &History) -> String {
        let mut policy = Rules::parse(file).expect("rules").build();
        let legal = Legal::check(inputs, &HOST).expect("a legal state");
        let view = View {
            inputs,
            costs,
            history,
        };
        match policy.choose(legal, &view) {
            Choice::Direct(_) => "direct".to_owned(),
            Choice::Translate(stretch) => format!("{stretch:?}"),
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let unknown = EngineCosts::default();
        let fast = EngineCosts {
            round_trip_ns: Some(3_000),
            direct_ps: Some(300),
            translated_ps: Some(500),
        };
        let none = History::default();
        let mut after = History::default();
        after.add_run(Engine::Direct, 25_000);
        let at = |eip| Inputs { eip, ..RING_3 };
        for (inputs, costs, history, expected) in [
            (at(0xB700_0000), &fast, &after, "Arrival"),
            (at(0xB6FF_FFFF), &fast, &after, "direct"),
            (
                Inputs {
                    cr3: 0x5000,
                    ..RING_3
                },
                &fast,
                &after,
                "Instruction",
            ),
            (
                Inputs {
                    cr3: 0x5000,
                    ..RING_3
                },
                &fast,
                &none,
                "direct",
            ),
            (RING_3, &unknown, &after, "Arrival"),
            (RING_3, &unknown, &none, "Arrival"),
            (RING_3, &fast, &none, "direct"),
        ] {
            assert_eq!(
                answer(FILE, &inputs, costs, history),
                expected,
                "{inputs:?}"
            );
        }
        assert_eq!(Rules::parse(FILE).expect("rules").name(), "mixed");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (file, line, part) in [
            ("", 1, "no rule"),
            ("# nothing\n\n", 2, "no rule"),
            ("direct\nsometimes", 2, "'sometimes' is no answer"),
            ("direct eip", 1, "'eip' is no condition"),
            ("direct eax=1", 1, "nothing is called 'eax'"),
            ("direct eip=main", 1, "'main' is no value for eip"),
            ("direct eip=2..1", 1, "can never hold"),
            ("direct iopl<0", 1, "nothing is below"),
            ("direct last-direct>20", 1, "'20' is no value"),
            ("direct last=kvm", 1, "'kvm' is no value"),
            ("ask", 1, "policy to ask is missing"),
            ("ask best", 1, "unknown policy 'best'"),
            ("name a b\ndirect", 1, "one word"),
        ] {
            let error = Rules::parse(file).expect_err(file);
            assert_eq!(error.line, line, "{file:?}: {error}");
            assert!(error.to_string().contains(part), "{file:?}: {error}");
        }
    }
}

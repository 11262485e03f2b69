//! Policies by name, with their parameters, as a command line gives them.

use std::fmt;
use std::str::FromStr;

use super::Policy;
use super::adaptive::{Adaptive, AdaptiveParams};
use super::fixed::{Ring, Translate, Vmware};
use super::random::{Random, RandomParams};
use super::rules::Rules;

/// A policy and its parameters: `NAME` or `NAME:PARAMETER=VALUE,...`.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicySpec {
    /// Direct where it saves more than it costs.
    Adaptive(AdaptiveParams),
    /// Direct whenever legal.
    Vmware,
    /// Every legal state of protected mode at CPL 3.
    Ring,
    /// Never direct.
    Translate,
    /// Chance.
    Random(RandomParams),
    /// Rules that somebody wrote down; made by [`Rules::parse`], not by parsing a name.
    Rules(Rules),
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self::Adaptive(AdaptiveParams::default())
    }
}

/// A policy that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// unknown name
    #[error("unknown policy '{name}'; there are: {known}", known = known())]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// unknown parameter
    #[error("policy {policy} has no parameter '{name}'; it has: {known}")]
    Parameter {
        /// The policy.
        policy: &'static str,
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// value out of range
    #[error("{policy}: '{value}' is no value for {parameter}, which is {range}")]
    Value {
        /// The policy.
        policy: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// What is possible.
        range: &'static str,
    },
}

fn known() -> String {
    POLICIES.map(|policy| policy.name).join(", ")
}

/// One parameter.
struct Parameter {
    name: &'static str,
    range: &'static str,
    description: &'static str,
}

/// What help says of a policy.
struct Known {
    name: &'static str,
    description: &'static str,
    parameters: &'static [Parameter],
}

const POLICIES: [Known; 6] = [
    Known {
        name: "adaptive",
        description: "direct where it saves more time than the switch costs on this host; the default",
        parameters: &[
            Parameter {
                name: "hysteresis",
                range: "a number from 1 to 1000",
                description: "times its cost that a switch must save for direct execution to begin, and times less for it to end",
            },
            Parameter {
                name: "window",
                range: "a number from 1 to 1000",
                description: "stays at ring 3 that the estimate of a region reaches back over",
            },
            Parameter {
                name: "retry",
                range: "a whole number from 1 to 1000000",
                description: "translated runs between two trials of direct execution where it did not pay",
            },
            Parameter {
                name: "region",
                range: "a whole number from 12 to 32",
                description: "log2 of the size of a code region, which has its own history in each address space",
            },
            Parameter {
                name: "overhead",
                range: "a whole number of nanoseconds up to 1000000000",
                description: "what a switch costs beside the world switch, nanoseconds",
            },
            Parameter {
                name: "sample",
                range: "a whole number from 1 to 1000000",
                description: "arrivals at ring 3 not worth a switch, after which the others pass unnoticed until the next exit",
            },
        ],
    },
    Known {
        name: "vmware",
        description: "direct whenever it is legal (VMware's Algorithm 1)",
        parameters: &[],
    },
    Known {
        name: "ring",
        description: "direct in every legal CPL 3 state but virtual-8086 mode (kqemu's rule)",
        parameters: &[],
    },
    Known {
        name: "translate",
        description: "never direct: everything is translated",
        parameters: &[],
    },
    Known {
        name: "random",
        description: "chance decides at every legal point, for tests",
        parameters: &[
            Parameter {
                name: "seed",
                range: "a whole number",
                description: "the same seed gives the same choices",
            },
            Parameter {
                name: "direct",
                range: "a number from 0 to 1",
                description: "probability of direct execution",
            },
            Parameter {
                name: "step",
                range: "a number from 0 to 1",
                description: "probability of one instruction only, where the translator was chosen",
            },
        ],
    },
    Known {
        name: "file",
        description: "file:PATH: rules read from a file, described in docs/decision.md",
        parameters: &[],
    },
];

impl PolicySpec {
    /// The name without parameters.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Adaptive(_) => "adaptive",
            Self::Vmware => "vmware",
            Self::Ring => "ring",
            Self::Translate => "translate",
            Self::Random(_) => "random",
            Self::Rules(rules) => rules.name(),
        }
    }

    /// A policy of this kind, without any history.
    #[must_use]
    pub fn build(&self) -> Box<dyn Policy> {
        match self {
            Self::Adaptive(params) => Box::new(Adaptive::new(*params)),
            Self::Vmware => Box::new(Vmware),
            Self::Ring => Box::new(Ring),
            Self::Translate => Box::new(Translate),
            Self::Random(params) => Box::new(Random::new(*params)),
            Self::Rules(rules) => rules.build(),
        }
    }

    /// All policies with their parameters and defaults, for people.
    #[must_use]
    pub fn help() -> String {
        let mut text =
            String::from("Policies: NAME, or NAME:PARAMETER=VALUE,PARAMETER=VALUE,...\n");
        for policy in &POLICIES {
            text += &format!("\n  {:<10} {}\n", policy.name, policy.description);
            let default = policy.name.parse::<PolicySpec>();
            for parameter in policy.parameters {
                let value = default
                    .as_ref()
                    .ok()
                    .and_then(|spec| spec.get(parameter.name));
                let value = value.unwrap_or_default();
                text += &format!(
                    "    {:<12} {}\n                 {}; default {value}\n",
                    parameter.name, parameter.description, parameter.range
                );
            }
        }
        text
    }

    /// The value of a parameter, as it is written.
    fn get(&self, parameter: &str) -> Option<String> {
        Some(match (self, parameter) {
            (Self::Adaptive(params), "hysteresis") => params.hysteresis.to_string(),
            (Self::Adaptive(params), "window") => params.window.to_string(),
            (Self::Adaptive(params), "retry") => params.retry.to_string(),
            (Self::Adaptive(params), "region") => params.region.to_string(),
            (Self::Adaptive(params), "overhead") => params.overhead.to_string(),
            (Self::Adaptive(params), "sample") => params.sample.to_string(),
            (Self::Random(params), "seed") => params.seed.to_string(),
            (Self::Random(params), "direct") => params.direct.to_string(),
            (Self::Random(params), "step") => params.step.to_string(),
            _ => return None,
        })
    }

    /// Sets a parameter that the table has; `false` if the value is not possible.
    fn set(&mut self, parameter: &str, value: &str) -> bool {
        fn put<T: FromStr + PartialOrd>(
            place: &mut T,
            value: &str,
            range: std::ops::RangeInclusive<T>,
        ) -> bool {
            match value.parse() {
                Ok(value) if range.contains(&value) => {
                    *place = value;
                    true
                }
                _ => false,
            }
        }
        match (self, parameter) {
            (Self::Adaptive(params), "hysteresis") => {
                put(&mut params.hysteresis, value, 1.0..=1000.0)
            }
            (Self::Adaptive(params), "window") => put(&mut params.window, value, 1.0..=1000.0),
            (Self::Adaptive(params), "retry") => put(&mut params.retry, value, 1..=1_000_000),
            (Self::Adaptive(params), "region") => put(&mut params.region, value, 12..=32),
            (Self::Adaptive(params), "overhead") => {
                put(&mut params.overhead, value, 0..=1_000_000_000)
            }
            (Self::Adaptive(params), "sample") => put(&mut params.sample, value, 1..=1_000_000),
            (Self::Random(params), "seed") => put(&mut params.seed, value, 0..=u64::MAX),
            (Self::Random(params), "direct") => put(&mut params.direct, value, 0.0..=1.0),
            (Self::Random(params), "step") => put(&mut params.step, value, 0.0..=1.0),
            _ => false,
        }
    }
}

impl fmt::Display for PolicySpec {
    /// In the form that parses back, with all parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let known = POLICIES.iter().find(|known| known.name == self.name());
        let parameters = known.map_or(&[][..], |known| known.parameters);
        for (index, parameter) in parameters.iter().enumerate() {
            let value = self.get(parameter.name).unwrap_or_default();
            let separator = if index == 0 { ':' } else { ',' };
            write!(f, "{separator}{}={value}", parameter.name)?;
        }
        Ok(())
    }
}

impl FromStr for PolicySpec {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (name, parameters) = match text.split_once(':') {
            Some((name, parameters)) => (name, Some(parameters)),
            None => (text, None),
        };
        let unknown = || PolicyError::Unknown {
            name: name.to_owned(),
        };
        let mut spec = match name {
            "adaptive" => Self::Adaptive(AdaptiveParams::default()),
            "vmware" => Self::Vmware,
            "ring" => Self::Ring,
            "translate" => Self::Translate,
            "random" => Self::Random(RandomParams::default()),
            _ => return Err(unknown()),
        };
        let known = POLICIES.iter().find(|known| known.name == name);
        let known = known.ok_or_else(unknown)?;
        for pair in parameters.into_iter().flat_map(|list| list.split(',')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let parameter = known
                .parameters
                .iter()
                .find(|parameter| parameter.name == key)
                .ok_or_else(|| PolicyError::Parameter {
                    policy: known.name,
                    name: key.to_owned(),
                    known: match known.parameters {
                        [] => "none".to_owned(),
                        some => some.iter().map(|p| p.name).collect::<Vec<_>>().join(", "),
                    },
                })?;
            if !spec.set(parameter.name, value) {
                return Err(PolicyError::Value {
                    policy: known.name,
                    parameter: parameter.name,
                    value: value.to_owned(),
                    range: parameter.range,
                });
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_parses_back_with_its_parameters() {
        for text in [
            "adaptive",
            "adaptive:hysteresis=2.5,retry=8",
            "adaptive:window=4,region=20,overhead=0,sample=3",
            "vmware",
            "ring",
            "translate",
            "random",
            "random:seed=7,direct=0.25,step=1",
        ] {
            let spec: PolicySpec = text.parse().unwrap();
            assert_eq!(spec.to_string().parse(), Ok(spec.clone()), "{text}");
            assert_eq!(spec.build().name(), text.split(':').next().unwrap());
        }
        assert_eq!(
            "adaptive:hysteresis=2".parse::<PolicySpec>().unwrap(),
            PolicySpec::Adaptive(AdaptiveParams {
                hysteresis: 2.0,
                ..AdaptiveParams::default()
            })
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, parts) in [
            (
                "adaptiv",
                &[
                    "'adaptiv'",
                    "adaptive, vmware, ring, translate, random, file",
                ][..],
            ),
            ("", &["''"]),
            ("VMware", &["'VMware'"]),
            ("vmware:", &["vmware has no parameter ''", "none"]),
            ("vmware:x=1", &["no parameter 'x'"]),
            (
                "adaptive:histeresis=2",
                &["'histeresis'", "hysteresis, window"],
            ),
            ("adaptive:hysteresis=0.5", &["'0.5'", "from 1 to 1000"]),
            ("adaptive:hysteresis=NaN", &["'NaN'"]),
            ("adaptive:retry", &["''", "retry"]),
            ("random:direct=1.5", &["from 0 to 1"]),
            ("random:seed=-1", &["whole number"]),
        ] {
            let error = text.parse::<PolicySpec>().unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }

    #[test]
    fn help_names_every_parameter_with_its_default() {
        let help = PolicySpec::help();
        for policy in &POLICIES {
            assert!(help.contains(policy.name), "{help}");
            for parameter in policy.parameters {
                let spec: PolicySpec = policy.name.parse().unwrap();
                let value = spec.get(parameter.name).expect("it can be read");
                assert!(spec.clone().set(parameter.name, &value), "and set");
                assert!(help.contains(&format!("default {value}")), "{help}");
            }
        }
    }
}

//! Direct execution only where it saves more than the switch costs.
//!
//! The unit of account is the *stay*: the time at ring 3 until something ends it that direct
//! execution would have to leave for. With `t` and `d` the time for an instruction in the translator
//! and in direct execution, a stay that takes `s` translated is worth `s * (1 - d / t)`, and costs
//! one round trip of the world switch and what goes with it. So the policy estimates `s`, for each
//! address space and code region apart, from what it sees:
//!
//! - A direct run is a stay; less its world switches, and scaled by `t / d`, it is a sample of `s`.
//! - A translated run that begins at ring 3 and is interrupted there is a sample as well.
//! - One that went through the kernel is only an upper bound: how long the kernel took is not known.
//!   A bound that is not worth a switch settles the matter (a storm of system calls); with any other
//!   the region gets a trial in direct execution now and then, the more seldom the oftener it fails.
//!
//! A region that is new starts with the estimate of all regions together, so that a system that
//! makes many short processes does not pay a trial for each.
//!
//! Hysteresis: direct execution begins where a stay is worth more than `hysteresis` times the cost,
//! and ends where it is worth less than the cost divided by it.

use serde::{Deserialize, Serialize};

use super::{Choice, EngineCosts, Policy, Run, Stretch, View};
use crate::inputs::{Engine, Inputs};
use crate::legality::Legal;
use crate::record::ExitKind;

/// Parameters of the policy `adaptive`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveParams {
    /// How many times its cost a switch must save before a region goes direct, and how many times
    /// less before it goes back. At least 1.
    pub hysteresis: f64,
    /// Stays that the estimate of a region reaches back over. At least 1.
    pub window: f64,
    /// Runs in the translator between two trials of direct execution in a region in which it did not
    /// pay; doubles with each failure up to 64 times as much.
    pub retry: u32,
    /// log2 of the size of a code region, bytes.
    pub region: u32,
    /// What a switch costs beside the world switch, nanoseconds: the decision, and the instruction
    /// that is run alone after an exit.
    pub overhead: u64,
    /// Arrivals at ring 3 in a row that were not worth a switch, after which the others pass
    /// unnoticed until the next exit (such as a timer interrupt).
    pub sample: u32,
}

impl Default for AdaptiveParams {
    fn default() -> Self {
        Self {
            hysteresis: 1.5,
            window: 8.0,
            retry: 32,
            region: 16,
            overhead: 1_500,
            sample: 16,
        }
    }
}

/// Slots of the table of regions. Two regions with one slot take turns; the one that comes starts
/// without a history.
const SLOTS: usize = 1024;

/// Doublings of the time between trials, at most.
const MOST_DOUBLINGS: u32 = 6;

/// An address space and a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Key {
    cr3: u32,
    part: u32,
}

impl Key {
    fn slot(self) -> usize {
        let mixed =
            (u64::from(self.cr3) << 32 | u64::from(self.part)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The high bits depend on all of the key.
        (mixed >> 48) as usize % SLOTS
    }
}

/// What is known of a region.
#[derive(Clone, Copy, Debug, Default)]
struct Region {
    key: Key,
    /// Estimate of a stay, nanoseconds of translated time; `None` before the first sample.
    stay: Option<f64>,
    /// It runs directly at present.
    direct: bool,
    /// Translated runs since the last trial that told nothing but an upper bound.
    waited: u32,
    /// Trials in a row that did not pay.
    failures: u32,
}

/// The costs of this host, in the form that the rule needs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Balance {
    /// `t / d`, above 1.
    ratio: f64,
    /// Of a round trip and what goes with it, nanoseconds.
    cost: f64,
    /// Of the world switch alone, nanoseconds.
    crossing: f64,
}

impl Balance {
    /// `None` where no stay can ever pay, or nothing is known.
    fn of(costs: &EngineCosts, overhead: u64) -> Option<Self> {
        let ratio = costs.speed_ratio().filter(|&ratio| ratio > 1.0)?;
        let crossing = costs.round_trip_ns? as f64;
        Some(Self {
            ratio,
            cost: crossing + overhead as f64,
            crossing,
        })
    }

    /// What direct execution saves of a stay that takes `stay` nanoseconds translated.
    fn saving(&self, stay: f64) -> f64 {
        stay * (1.0 - 1.0 / self.ratio)
    }
}

/// The policy.
#[derive(Debug)]
pub(super) struct Adaptive {
    params: AdaptiveParams,
    regions: Vec<Region>,
    /// The estimate of all regions together.
    overall: Option<f64>,
    /// Arrivals in a row that were not worth a switch.
    unprofitable: u32,
}

impl Adaptive {
    pub(super) fn new(params: AdaptiveParams) -> Self {
        Self {
            params,
            regions: vec![Region::default(); SLOTS],
            overall: None,
            unprofitable: 0,
        }
    }

    fn region(&mut self, inputs: &Inputs) -> Option<&mut Region> {
        let key = Key {
            cr3: inputs.cr3,
            part: inputs.eip.checked_shr(self.params.region).unwrap_or(0),
        };
        let region = self.regions.get_mut(key.slot())?;
        if region.key != key {
            *region = Region {
                key,
                ..Region::default()
            };
        }
        Some(region)
    }

    /// Is direct execution worth it in this region now?
    fn worth_it(&mut self, inputs: &Inputs, balance: &Balance) -> bool {
        let AdaptiveParams {
            hysteresis, retry, ..
        } = self.params;
        let overall = self.overall;
        let Some(region) = self.region(inputs) else {
            return false;
        };
        let Some(stay) = region.stay.or(overall) else {
            return true; // the very first trial
        };
        let threshold = if region.direct {
            balance.cost / hysteresis
        } else {
            balance.cost * hysteresis
        };
        let wait = retry.saturating_mul(1 << region.failures.min(MOST_DOUBLINGS));
        if balance.saving(stay) > threshold {
            return true;
        }
        region.direct = false;
        region.waited > wait
    }

    fn learn(&mut self, inputs: &Inputs, balance: &Balance, run: &Run) {
        let AdaptiveParams {
            hysteresis, window, ..
        } = self.params;
        let ns = run.ns as f64;
        let mix = |old: Option<f64>, sample: f64| match old {
            None => sample,
            Some(old) => old + (sample - old) / window,
        };
        let pays = |stay: f64| balance.saving(stay) > balance.cost * hysteresis;
        let Some(region) = self.region(inputs) else {
            return;
        };
        let sample = match run.engine {
            Engine::Direct => {
                let inside = (ns - run.crossings.max(1) as f64 * balance.crossing).max(0.0);
                let sample = inside * balance.ratio;
                let trial = !region.direct;
                // What a trial finds counts more than what was believed before.
                let old = region.stay.filter(|_| !trial);
                region.stay = Some(mix(old, sample));
                region.waited = 0;
                if trial && !pays(sample) {
                    region.failures = region.failures.saturating_add(1);
                } else {
                    region.failures = 0;
                    region.direct = true;
                }
                sample
            }
            Engine::Translator => {
                let interrupted = run.at_ring_3 && run.exit != ExitKind::StateChanged;
                if !interrupted && pays(ns) {
                    region.waited = region.waited.saturating_add(1);
                    self.unprofitable = 0;
                    return;
                }
                region.stay = Some(mix(region.stay, ns));
                if pays(ns) {
                    self.unprofitable = 0;
                }
                ns
            }
        };
        self.overall = Some(mix(self.overall, sample));
    }

    /// For how long to translate: see [`AdaptiveParams::sample`].
    fn translate(&mut self) -> Stretch {
        if self.unprofitable < self.params.sample {
            return Stretch::Arrival;
        }
        self.unprofitable = 0;
        Stretch::Exit
    }
}

impl Policy for Adaptive {
    fn name(&self) -> &str {
        "adaptive"
    }

    fn choose<'a>(&mut self, legal: Legal<'a>, view: &View<'_>) -> Choice<'a> {
        let Some(balance) = Balance::of(view.costs, self.params.overhead) else {
            return Choice::Translate(Stretch::Exit);
        };
        if self.worth_it(view.inputs, &balance) {
            self.unprofitable = 0;
            return Choice::Direct(legal);
        }
        self.unprofitable = self.unprofitable.saturating_add(1);
        Choice::Translate(self.translate())
    }

    fn stretch(&mut self, view: &View<'_>) -> Stretch {
        match Balance::of(view.costs, self.params.overhead) {
            Some(_) => self.translate(),
            None => Stretch::Exit,
        }
    }

    fn ran(&mut self, view: &View<'_>, run: &Run) {
        if let Some(balance) = Balance::of(view.costs, self.params.overhead) {
            self.learn(view.inputs, &balance, run);
        }
    }
}

//! The run loop of a vCPU.
//!
//! Build the decision's inputs from the vCPU; decide; run the chosen engine until it comes back
//! with an exit; handle the exit; record the switch if there was one. Both engines come back as
//! soon as the answer could change.

use std::collections::BTreeMap;

use decision::{Decision, Engine, ExitKind, Run, Stretch, SwitchRecord};
use translator::{Exit, Platform, RunLimits};

use crate::exits::{Action, Ending, Place, RunError, Situation, handle};
use crate::machine::Machine;
use crate::report::Counters;

/// What the run loop counts.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) halted_ns: u64,
    pub(crate) resets: u64,
    exits: BTreeMap<&'static str, u64>,
    /// Direct execution left at an instruction that the translator has to run.
    replay: bool,
    /// It failed: the translator has to run more than that instruction, or the same would come again
    /// at once.
    rescued: bool,
}

impl Account {
    pub(crate) fn exits(&self) -> Counters {
        self.exits
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }
}

impl Machine {
    /// Runs the guest until it, the user or an error ends the run.
    pub fn run(&mut self) -> Result<Ending, RunError> {
        let result = self.run_to_the_end();
        self.board.flush_output();
        result
    }

    fn run_to_the_end(&mut self) -> Result<Ending, RunError> {
        loop {
            self.board.catch_up();
            self.serve();
            // Both engines: direct execution does not look for it.
            if self.vcpu.state().accepts_nmi() {
                let exit = self.vcpu.take_nmi(&mut self.mmu, &mut self.board);
                if let Some(ending) = self.handle(exit)? {
                    return Ok(ending);
                }
            }
            let replay = self.account.replay;
            let inputs = self.tables.inputs(self.vcpu.state(), &self.mmu, replay);
            let decision = self.decider.decide(&inputs);
            if let Some(record) = self.decider.switch() {
                self.record_switch(record);
            }
            let exit = self.run_engine(&decision)?;
            self.follow_board();
            if let Some(ending) = self.handle(exit)? {
                return Ok(ending);
            }
        }
    }

    /// Runs one engine, and notes for how long and how it ended.
    fn run_engine(&mut self, decision: &Decision) -> Result<Exit, RunError> {
        let engine = decision.engine;
        let start = self.board.now();
        let before = self.counts();
        let replay = std::mem::take(&mut self.account.replay);
        let rescued = std::mem::take(&mut self.account.rescued);
        let single = replay && !rescued || decision.stretch == Stretch::Instruction;
        let (exit, kind) = match (engine, &mut self.direct) {
            (Engine::Direct, Some(direct)) => {
                let state = self.vcpu.state_mut();
                let left = direct.run(state, &mut self.mmu, &self.tables, &mut self.board);
                let left = left.map_err(|why| RunError::RegistersLost {
                    at: Place::of(self.vcpu.state()),
                    why,
                })?;
                if left.kind == ExitKind::Internal {
                    self.decider.set_support(direct.support());
                }
                self.account.rescued = left.rescued;
                (left.exit, left.kind)
            }
            (Engine::Translator, _) if single => {
                let exit = self.vcpu.step(&mut self.mmu, &mut self.board);
                let kind = kind_of(&exit);
                (exit, kind)
            }
            // Without a direct engine nothing is legal, so the decision cannot have been Direct.
            (Engine::Translator | Engine::Direct, direct) => {
                let limits = RunLimits {
                    stop_to_decide: direct.is_some() && decision.stretch == Stretch::Arrival,
                };
                let exit = self.vcpu.run(&mut self.mmu, &mut self.board, limits);
                let kind = kind_of(&exit);
                (exit, kind)
            }
        };
        let ns = self.board.now().since(start);
        let after = self.counts();
        let run = Run {
            engine,
            ns,
            crossings: after.crossings - before.crossings,
            exit: kind,
            at_ring_3: self.vcpu.state().cpl == 3,
        };
        let instructions = after.instructions.zip(before.instructions.or(Some(0)));
        let instructions = instructions.filter(|_| engine == Engine::Translator);
        self.decider
            .ran(run, instructions.map(|(after, before)| after - before));
        *self.account.exits.entry(exit.name()).or_default() += 1;
        Ok(exit)
    }

    /// Carries out what an exit leads to; `Some` ends the run.
    fn handle(&mut self, mut exit: Exit) -> Result<Option<Ending>, RunError> {
        loop {
            let requests = self.board.take_requests();
            if self.board.take_nmi() {
                self.vcpu.raise_nmi();
            }
            match handle(exit, requests, &self.situation())? {
                Action::Resume => {}
                Action::TakeInterrupt => {
                    exit = self.vcpu.take_interrupt(&mut self.mmu, &mut self.board);
                    continue;
                }
                Action::Replay => self.account.replay = true,
                Action::Sleep => {
                    self.sleep();
                    self.follow_board();
                    self.serve();
                    // What ended the sleep may be the end of the run, or nothing that wakes a vCPU up.
                    exit = if self.wakes_up() {
                        Exit::Kicked
                    } else {
                        Exit::Halted
                    };
                    continue;
                }
                Action::Reset(kind) => self.reset(kind).map_err(RunError::Reload)?,
                Action::End(ending) => return Ok(Some(ending)),
            }
            return Ok(None);
        }
    }

    /// There is an interrupt that the halted vCPU takes. An NMI is found when the exit is handled again.
    fn wakes_up(&mut self) -> bool {
        self.vcpu.state().interrupt_flag() && self.board.interrupt_pending()
    }

    fn sleep(&mut self) {
        let start = self.board.now();
        self.board.sleep(self.vcpu.state().interrupt_flag());
        let ns = self.board.now().since(start);
        self.account.halted_ns += ns;
        self.decider.slept(ns);
    }

    fn situation(&self) -> Situation {
        let state = self.vcpu.state();
        Situation {
            at: Place::of(state),
            interrupts_enabled: state.interrupt_flag(),
            nmi: state.accepts_nmi(),
            end_at_reset: self.end_at_reset,
            firmware: self.has_firmware(),
        }
    }

    /// What both engines have counted so far.
    fn counts(&self) -> Counts {
        let direct = self.direct.as_ref();
        Counts {
            crossings: direct.map_or(0, |direct| direct.statistics().entries),
            instructions: self.vcpu.stats().instructions,
        }
    }

    fn record_switch(&self, record: &SwitchRecord) {
        let record = record.at(0, self.board.now().0);
        if let Some(recorder) = &self.recorder {
            recorder.record(&record);
        }
        tracing::event!(
            target: "ringshift::switch",
            tracing::Level::TRACE,
            time_ns = record.time_ns,
            from = record.from.name(),
            to = record.to.name(),
            reasons = %record.reasons,
            cs = format_args!("{:#06x}", record.cs),
            eip = format_args!("{:#010x}", record.eip),
            cpl = record.cpl,
            eflags = format_args!("{:#010x}", record.eflags),
            cr3 = format_args!("{:#010x}", record.cr3),
            exit = record.exit.name(),
            run_ns = record.stay.run_ns,
            stay_reasons = %record.stay.reasons,
        );
    }
}

/// Counters before and after a run.
struct Counts {
    crossings: u64,
    instructions: Option<u64>,
}

/// The translator's exits in the words of the record.
fn kind_of(exit: &Exit) -> ExitKind {
    match exit {
        Exit::Kicked | Exit::Attention => ExitKind::Kick,
        Exit::InterruptReady => ExitKind::Interrupt,
        Exit::Halted => ExitKind::Halt,
        Exit::Shutdown => ExitKind::Shutdown,
        Exit::Decide => ExitKind::StateChanged,
        Exit::Budget => ExitKind::Replayed,
        Exit::Replay => ExitKind::Exception,
        Exit::Untranslated { .. } | Exit::Internal(_) => ExitKind::Internal,
    }
}

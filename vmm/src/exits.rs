//! What an exit of an engine means for the machine: one function for both engines.

use std::io;

use devices::ResetKind;
use translator::state::seg;
use translator::{CpuState, Exit};

use crate::engine::RegistersLost;
use crate::guest::GuestError;
use crate::helper::StopReason;

/// How a run ended as the guest or the user wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest reset the machine, and a reset was to end the run.
    Reset,
    /// The text that was waited for came out of the serial port.
    Matched,
    /// Somebody outside ended the run.
    Stopped(StopReason),
}

/// How a run ended otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// triple fault
    #[error(
        "triple fault at {at}: the guest could not handle an exception while it handled another one"
    )]
    TripleFault {
        /// Where the vCPU was.
        at: Place,
    },
    /// halted for good
    #[error("the guest halted at {at} with interrupts off: nothing can wake it")]
    HaltedForever {
        /// Where the vCPU was.
        at: Place,
    },
    /// strict mode met a gap
    #[error("at {at}: {exit}")]
    Untranslated {
        /// Where the vCPU was.
        at: Place,
        /// The exit, with bytes and reason.
        exit: Exit,
    },
    /// an engine failed
    #[error("at {at}: {what}; this is a defect of Ringshift")]
    Internal {
        /// Where the vCPU was.
        at: Place,
        /// What the engine told.
        what: String,
    },
    /// direct execution failed and nobody knows where the guest is
    #[error(
        "direct execution failed, in a run that began at {at}: {why}. \
         The guest's registers are lost with it; `--direct none` runs the guest without direct execution"
    )]
    RegistersLost {
        /// Where the vCPU was when the run began.
        at: Place,
        /// What happened.
        why: RegistersLost,
    },
    /// the guest could not be loaded again
    #[error("the guest cannot be loaded again after a reset")]
    Reload(#[source] GuestError),
    /// the serial output was lost
    #[error("the guest's serial output cannot be written")]
    Output(#[source] io::Error),
}

/// Where a vCPU was, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// CS selector.
    pub cs: u16,
    /// Instruction pointer.
    pub eip: u32,
    /// Current privilege level.
    pub cpl: u8,
}

impl Place {
    /// Where a vCPU in this state is.
    #[must_use]
    pub fn of(state: &CpuState) -> Self {
        Self {
            cs: state.seg[seg::CS].selector,
            eip: state.eip,
            cpl: state.cpl,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{:08x} (CPL {})", self.cs, self.eip, self.cpl)
    }
}

/// What the machine around the vCPU wants, beside the exit.
#[derive(Debug, Default)]
pub struct Requests {
    /// A device switched the machine off.
    pub power_off: bool,
    /// A device pulled a reset line.
    pub reset: Option<ResetKind>,
    /// The text that was waited for has come.
    pub matched: bool,
    /// The serial output cannot be written any more.
    pub output_error: Option<io::Error>,
    /// Somebody outside ends the run.
    pub stop: Option<StopReason>,
}

/// The state of the vCPU, as far as exits depend on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Situation {
    /// Where it is.
    pub at: Place,
    /// EFLAGS.IF.
    pub interrupts_enabled: bool,
    /// An NMI is pending that the vCPU can take.
    pub nmi: bool,
    /// A reset ends the run.
    pub end_at_reset: bool,
    /// The machine has firmware, which goes on after a reset of the processor.
    pub firmware: bool,
}

/// What the run loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Decide and run again.
    Resume,
    /// Deliver the pending interrupt first.
    TakeInterrupt,
    /// Have the translator run the one instruction that direct execution left at.
    Replay,
    /// Sleep until something happens.
    Sleep,
    /// Put the machine back to its start.
    Reset(ResetKind),
    /// The run is over.
    End(Ending),
}

/// Decides what an exit leads to. What the machine asks for goes before what the engine tells; an
/// error of the engine goes before both.
pub fn handle(exit: Exit, requests: Requests, situation: &Situation) -> Result<Action, RunError> {
    let at = situation.at;
    match exit {
        Exit::Internal(what) => return Err(RunError::Internal { at, what }),
        Exit::Untranslated { .. } => return Err(RunError::Untranslated { at, exit }),
        _ => {}
    }
    if let Some(action) = requested(requests, situation)? {
        return Ok(action);
    }
    match exit {
        // The board answers the processor's shutdown cycle with a reset.
        Exit::Shutdown if situation.firmware && !situation.end_at_reset => {
            tracing::debug!(%at, "triple fault: the processor is reset");
            Ok(Action::Reset(ResetKind::Processor))
        }
        Exit::Shutdown => Err(RunError::TripleFault { at }),
        Exit::Halted if situation.nmi => Ok(Action::Resume),
        // With firmware there are a screen to read and a button to press.
        Exit::Halted if !situation.interrupts_enabled && !situation.firmware => {
            Err(RunError::HaltedForever { at })
        }
        Exit::Halted => Ok(Action::Sleep),
        Exit::InterruptReady => Ok(Action::TakeInterrupt),
        Exit::Replay => Ok(Action::Replay),
        _ => Ok(Action::Resume),
    }
}

fn requested(requests: Requests, situation: &Situation) -> Result<Option<Action>, RunError> {
    if requests.matched {
        return Ok(Some(Action::End(Ending::Matched)));
    }
    if requests.power_off {
        return Ok(Some(Action::End(Ending::PowerOff)));
    }
    if let Some(reason) = requests.stop {
        return Ok(Some(Action::End(Ending::Stopped(reason))));
    }
    if let Some(error) = requests.output_error {
        return Err(RunError::Output(error));
    }
    if let Some(kind) = requests.reset {
        // A program for the 286 resets the processor to get back to real mode: no end.
        let start_again = situation.firmware && kind == ResetKind::Processor;
        return Ok(Some(if situation.end_at_reset && !start_again {
            Action::End(Ending::Reset)
        } else {
            Action::Reset(kind)
        }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Situation = Situation {
        at: Place {
            cs: 0x60,
            eip: 0xC010_0000,
            cpl: 0,
        },
        interrupts_enabled: true,
        nmi: false,
        end_at_reset: false,
        firmware: false,
    };

    fn plain(exit: Exit) -> Result<Action, RunError> {
        handle(exit, Requests::default(), &RUNNING)
    }

    #[test]
    fn each_exit_has_its_action() {
        for (exit, action) in [
            (Exit::Kicked, Action::Resume),
            (Exit::Attention, Action::Resume),
            (Exit::Decide, Action::Resume),
            (Exit::Budget, Action::Resume),
            (Exit::InterruptReady, Action::TakeInterrupt),
            (Exit::Replay, Action::Replay),
            (Exit::Halted, Action::Sleep),
        ] {
            assert_eq!(plain(exit.clone()).expect("no error"), action, "{exit}");
        }
        assert!(matches!(
            plain(Exit::Shutdown),
            Err(RunError::TripleFault { .. })
        ));
    }

    #[test]
    fn a_halt_with_interrupts_off_ends_the_run_unless_power_goes_off() {
        let off = Situation {
            interrupts_enabled: false,
            ..RUNNING
        };
        let error = handle(Exit::Halted, Requests::default(), &off).expect_err("nothing wakes it");
        assert!(error.to_string().contains("0060:c0100000"), "{error}");
        let nmi = Situation { nmi: true, ..off };
        let action = handle(Exit::Halted, Requests::default(), &nmi).expect("an NMI wakes it");
        assert_eq!(action, Action::Resume);
        let power_off = Requests {
            power_off: true,
            ..Requests::default()
        };
        let action = handle(Exit::Halted, power_off, &off).expect("power-off");
        assert_eq!(action, Action::End(Ending::PowerOff));
    }

    #[test]
    fn a_reset_restarts_or_ends() {
        let reset = || Requests {
            reset: Some(ResetKind::System),
            ..Requests::default()
        };
        let action = handle(Exit::Attention, reset(), &RUNNING).expect("reset");
        assert_eq!(action, Action::Reset(ResetKind::System));
        // Linux resets by a triple fault when nothing else has worked: a reset under way wins.
        let action = handle(Exit::Shutdown, reset(), &RUNNING).expect("reset");
        assert_eq!(action, Action::Reset(ResetKind::System));
        let ending = Situation {
            end_at_reset: true,
            ..RUNNING
        };
        let action = handle(Exit::Attention, reset(), &ending).expect("reset");
        assert_eq!(action, Action::End(Ending::Reset));
    }

    #[test]
    fn with_firmware_a_triple_fault_resets_the_processor() {
        let firmware = Situation {
            firmware: true,
            interrupts_enabled: false,
            ..RUNNING
        };
        let action = |exit, requests, situation| handle(exit, requests, &situation);
        let processor = Action::Reset(ResetKind::Processor);
        let none = Requests::default;
        let shutdown = action(Exit::Shutdown, none(), firmware);
        assert_eq!(shutdown.expect("a reset"), processor);
        let halted = action(Exit::Halted, none(), firmware);
        assert_eq!(halted.expect("somebody may come"), Action::Sleep);
        // --no-reboot is about the system, not about a way to real mode.
        let ending = Situation {
            end_at_reset: true,
            ..firmware
        };
        let asked = |kind| Requests {
            reset: Some(kind),
            ..Requests::default()
        };
        let reset = action(Exit::Attention, asked(ResetKind::Processor), ending);
        assert_eq!(reset.expect("a reset"), processor);
        let reset = action(Exit::Attention, asked(ResetKind::System), ending);
        assert_eq!(reset.expect("an end"), Action::End(Ending::Reset));
        let error = action(Exit::Shutdown, none(), ending);
        assert!(matches!(error, Err(RunError::TripleFault { .. })));
    }

    #[test]
    fn a_match_wins_over_everything_but_an_error_of_the_engine() {
        let all = || Requests {
            power_off: true,
            reset: Some(ResetKind::System),
            matched: true,
            output_error: Some(io::ErrorKind::BrokenPipe.into()),
            stop: Some(StopReason::Timeout),
        };
        let action = handle(Exit::Kicked, all(), &RUNNING).expect("a match");
        assert_eq!(action, Action::End(Ending::Matched));
        let error = handle(Exit::Internal("cache".into()), all(), &RUNNING);
        assert!(matches!(error, Err(RunError::Internal { .. })));
        let untranslated = Exit::Untranslated {
            bytes: vec![0x0F, 0xAA],
            what: "rsm".into(),
        };
        let error = handle(untranslated, all(), &RUNNING).expect_err("strict");
        let text = error.to_string();
        assert!(text.contains("0f aa") && text.contains("rsm"), "{text}");
    }

    #[test]
    fn a_lost_output_ends_the_run_with_its_cause() {
        let lost = Requests {
            output_error: Some(io::ErrorKind::BrokenPipe.into()),
            ..Requests::default()
        };
        let error = handle(Exit::Kicked, lost, &RUNNING).expect_err("no output");
        assert!(std::error::Error::source(&error).is_some());
    }
}

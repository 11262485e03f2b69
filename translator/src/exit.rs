//! Why an engine came back to the run loop. One closed set for both engines.

use std::fmt;

/// The reason why a run of an engine ended. The vCPU state is at an instruction boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Somebody kicked the vCPU: look at timers, input and requests, then go on.
    Kicked,
    /// An external interrupt is pending and the guest can take it now (IF = 1, no interrupt
    /// shadow).
    InterruptReady,
    /// The guest executed HLT; EIP is after it.
    Halted,
    /// A fault while delivering a double fault: the processor shuts down (Intel SDM vol. 3A,
    /// section 6.15, "Interrupt 8").
    Shutdown,
    /// [`Platform::attention`](crate::Platform::attention) asked for the run loop.
    Attention,
    /// The inputs of the decision changed in a way that could make direct execution legal.
    Decide,
    /// The number of instructions or units asked for has been executed.
    Budget,
    /// Direct execution met an exception, or anything else that it does not decide itself: the
    /// translator must run the instruction at CS:EIP and find out.
    Replay,
    /// Strict mode: the instruction at CS:EIP is not translated.
    Untranslated {
        /// Bytes of the instruction, as far as they could be read.
        bytes: Vec<u8>,
        /// What is missing.
        what: String,
    },
    /// The engine itself failed; the machine cannot go on.
    Internal(String),
}

impl Exit {
    /// A stable short name, used in statistics and traces.
    pub fn name(&self) -> &'static str {
        match self {
            Exit::Kicked => "kicked",
            Exit::InterruptReady => "interrupt",
            Exit::Halted => "halt",
            Exit::Shutdown => "shutdown",
            Exit::Attention => "attention",
            Exit::Decide => "decide",
            Exit::Budget => "budget",
            Exit::Replay => "replay",
            Exit::Untranslated { .. } => "untranslated",
            Exit::Internal(_) => "internal",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Untranslated { bytes, what } => {
                write!(f, "instruction not translated ({what}):")?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
            }
            Exit::Internal(what) => write!(f, "internal error: {what}"),
            other => f.write_str(other.name()),
        }
    }
}

//! What a switch leaves behind.

use serde::{Deserialize, Serialize};

use crate::inputs::{Engine, Inputs};
use crate::legality::Reasons;

/// Why a run of an engine ended, in the words of the record; the engines' own exits carry more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ExitKind {
    /// There was no run before.
    None = 0,
    /// Something the decision depends on may have changed (CPL, IF, IOPL, a segment, CR0).
    StateChanged = 1,
    /// A fault or trap of the guest, or one that the shadow tables caused.
    Exception = 2,
    /// `int n`, `int3`, `into`, `sysenter`.
    SystemCall = 3,
    /// A real or virtual interrupt wants the processor.
    Interrupt = 4,
    /// Another thread asked the vCPU to stop.
    Kick = 5,
    /// A port was read or written.
    Port = 6,
    /// A device's memory was read or written.
    DeviceMemory = 7,
    /// `hlt`.
    Halt = 8,
    /// The one instruction that was asked for is done.
    Replayed = 9,
    /// The virtual clock reached its limit.
    Budget = 10,
    /// Triple fault.
    Shutdown = 11,
    /// The engine could not go on for a reason of its own.
    Internal = 12,
}

/// What an engine did between two switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// Runs: exits to the run loop that led back to the same engine divide a stay.
    pub runs: u32,
    /// Their length together, nanoseconds.
    pub run_ns: u64,
    /// The vCPU slept in HLT, nanoseconds.
    pub halted_ns: u64,
    /// Guest instructions, where they were counted.
    pub instructions: Option<u64>,
    /// What spoke against direct execution, in any of the decisions that led to a run.
    pub reasons: Reasons,
}

impl Stay {
    /// Adds a run that `reasons` led to.
    pub fn add(&mut self, ns: u64, instructions: Option<u64>, reasons: Reasons) {
        self.runs = self.runs.saturating_add(1);
        self.run_ns = self.run_ns.saturating_add(ns);
        if let Some(count) = instructions {
            let all = self.instructions.unwrap_or(0);
            self.instructions = Some(all.saturating_add(count));
        }
        self.reasons |= reasons;
    }
}

/// One switch between the engines. The size is fixed, so that a ring of them needs no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRecord {
    /// Host time since the machine started, nanoseconds.
    pub time_ns: u64,
    /// The stay that ended with this switch, of the engine `from`.
    pub stay: Stay,
    /// What speaks against direct execution now; empty for a switch to it.
    pub reasons: Reasons,
    /// Instruction pointer.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// CR3.
    pub cr3: u32,
    /// CS selector.
    pub cs: u16,
    /// Number of the vCPU.
    pub vcpu: u16,
    /// Current privilege level.
    pub cpl: u8,
    /// The engine that ran.
    pub from: Engine,
    /// The engine that runs next.
    pub to: Engine,
    /// What ended the last run.
    pub exit: ExitKind,
}

impl SwitchRecord {
    /// The record of a switch that `inputs` led to, to `to` from the other engine, when `exit` had
    /// ended a stay.
    #[must_use]
    pub const fn new(
        inputs: &Inputs,
        to: Engine,
        reasons: Reasons,
        stay: Stay,
        exit: ExitKind,
    ) -> Self {
        Self {
            time_ns: 0,
            stay,
            reasons,
            eip: inputs.eip,
            eflags: inputs.eflags,
            cr3: inputs.cr3,
            cs: inputs.cs,
            vcpu: 0,
            cpl: inputs.cpl,
            from: to.other(),
            to,
            exit,
        }
    }

    /// Adds when and on which vCPU the switch was.
    #[must_use]
    pub const fn at(mut self, vcpu: u16, time_ns: u64) -> Self {
        self.vcpu = vcpu;
        self.time_ns = time_ns;
        self
    }
}

impl ExitKind {
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::StateChanged,
        Self::Exception,
        Self::SystemCall,
        Self::Interrupt,
        Self::Kick,
        Self::Port,
        Self::DeviceMemory,
        Self::Halt,
        Self::Replayed,
        Self::Budget,
        Self::Shutdown,
        Self::Internal,
    ];

    /// The name used in logs, statistics and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::StateChanged => "state_changed",
            Self::Exception => "exception",
            Self::SystemCall => "system_call",
            Self::Interrupt => "interrupt",
            Self::Kick => "kick",
            Self::Port => "port",
            Self::DeviceMemory => "device_memory",
            Self::Halt => "halt",
            Self::Replayed => "replayed",
            Self::Budget => "budget",
            Self::Shutdown => "shutdown",
            Self::Internal => "internal",
        }
    }

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_json() {
        let record = SwitchRecord {
            time_ns: 1 << 40,
            stay: Stay {
                runs: 2,
                run_ns: 12_345,
                halted_ns: 0,
                instructions: Some(99),
                reasons: Reasons::empty(),
            },
            reasons: Reasons::IOPL | Reasons::NOT_RING_3,
            eip: 0xc010_0000,
            eflags: 0x246,
            cr3: 0x1000,
            cs: 0x60,
            vcpu: 0,
            cpl: 0,
            from: Engine::Direct,
            to: Engine::Translator,
            exit: ExitKind::SystemCall,
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains(r#""reasons":"IOPL | NOT_RING_3""#), "{text}");
        assert!(text.contains(r#""exit":"system_call""#), "{text}");
        assert_eq!(serde_json::from_str::<SwitchRecord>(&text).unwrap(), record);
    }

    #[test]
    fn exits_are_numbered_as_they_are_listed() {
        for (number, kind) in (0..).zip(ExitKind::ALL) {
            assert_eq!(kind as u8, number);
            assert_eq!(ExitKind::from_number(number), Some(kind));
            let name = serde_json::to_value(kind).unwrap();
            assert_eq!(name, kind.name());
        }
        assert_eq!(ExitKind::from_number(13), None);
    }

    #[test]
    fn a_stay_adds_its_runs_up() {
        let mut stay = Stay::default();
        stay.add(10, None, Reasons::REPLAY);
        stay.add(20, Some(3), Reasons::NOT_RING_3 | Reasons::IOPL);
        stay.add(30, Some(4), Reasons::NOT_RING_3);
        assert_eq!(
            stay,
            Stay {
                runs: 3,
                run_ns: 60,
                halted_ns: 0,
                instructions: Some(7),
                reasons: Reasons::REPLAY | Reasons::NOT_RING_3 | Reasons::IOPL,
            }
        );
    }
}

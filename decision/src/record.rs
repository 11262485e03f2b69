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

/// One switch between the engines. The size is fixed, so that a ring of them needs no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SwitchRecord {
    /// Host time since the machine started, nanoseconds.
    pub time_ns: u64,
    /// Length of the run that ended with this switch, nanoseconds.
    pub run_ns: u64,
    /// Guest instructions in that run, where they were counted.
    pub instructions: Option<u64>,
    /// What spoke against direct execution; empty for a switch to it.
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
    /// What ended the run.
    pub exit: ExitKind,
}

impl SwitchRecord {
    /// The record of a switch that `inputs` led to, to `to` from the other engine.
    #[must_use]
    pub const fn new(vcpu: u16, inputs: &Inputs, to: Engine, reasons: Reasons) -> Self {
        Self {
            time_ns: 0,
            run_ns: 0,
            instructions: None,
            reasons,
            eip: inputs.eip,
            eflags: inputs.eflags,
            cr3: inputs.cr3,
            cs: inputs.cs,
            vcpu,
            cpl: inputs.cpl,
            from: match to {
                Engine::Direct => Engine::Translator,
                Engine::Translator => Engine::Direct,
            },
            to,
            exit: ExitKind::None,
        }
    }

    /// Adds when the switch was and what the run before it was like.
    #[must_use]
    pub const fn after_run(
        mut self,
        time_ns: u64,
        run_ns: u64,
        instructions: Option<u64>,
        exit: ExitKind,
    ) -> Self {
        self.time_ns = time_ns;
        self.run_ns = run_ns;
        self.instructions = instructions;
        self.exit = exit;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_json_and_stays_small() {
        let record = SwitchRecord {
            time_ns: 1 << 40,
            run_ns: 12_345,
            instructions: Some(99),
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
        assert!(size_of::<SwitchRecord>() <= 64, "one cache line");
    }
}

//! Runs of the guest, and what they leave in their traces.

use std::path::PathBuf;
use std::time::Duration;

use decision::{Engine, Reasons, SwitchRecord};
use ringshift::exits::Ending;
use ringshift::helper::Watch;
use ringshift::machine::{DirectMode, Machine, MachineConfig, MachineError};
use ringshift::memory_size::MemorySize;
use ringshift::trace::{End, Header, Item, TraceReader};

use super::Program;

/// What a run left in its trace.
pub(crate) struct Traced {
    pub(crate) header: Header,
    pub(crate) switches: Vec<SwitchRecord>,
    pub(crate) end: End,
}

impl Traced {
    /// Every reason that is in the trace, wherever.
    pub(crate) fn reasons(&self) -> Reasons {
        let mut all = Reasons::empty();
        for record in &self.switches {
            all |= record.reasons | record.stay.reasons;
        }
        for name in self.end.refusals_by_reason.keys() {
            all |= Reasons::from_name(name).unwrap_or_else(|| panic!("no reason {name}"));
        }
        all
    }

    /// Switches to direct execution at these addresses.
    pub(crate) fn to_direct(&self, from: u32, to: u32) -> usize {
        let there = |record: &&SwitchRecord| {
            record.to == Engine::Direct && (from..to).contains(&record.eip)
        };
        self.switches.iter().filter(there).count()
    }
}

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.trace"))
}

pub(crate) fn config(policy: &str) -> MachineConfig {
    MachineConfig {
        memory: MemorySize::MIN,
        policy: Some(policy.parse().expect("a policy")),
        direct: DirectMode::Forced,
        watch: Watch {
            timeout: Some(Duration::from_secs(60)),
            ..Watch::default()
        },
        ..MachineConfig::default()
    }
}

/// A machine with the program that will trace; `None` without direct execution, with a word about it.
pub(crate) fn machine(name: &str, config: MachineConfig, program: &Program) -> Option<Machine> {
    let config = MachineConfig {
        trace: Some(path(name)),
        ..config
    };
    match Machine::new(config, program.guest()) {
        Ok(machine) => Some(machine),
        Err(MachineError::Direct(error)) => {
            eprintln!("SKIPPED: no direct execution on this host: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs a program to its end; `None` as for [`machine`].
pub(crate) fn run(name: &str, config: MachineConfig, program: &Program) -> Option<Traced> {
    let mut machine = machine(name, config, program)?;
    Some(run_machine(name, &mut machine))
}

/// Runs the machine to its end, and reads its trace, which has the same name.
pub(crate) fn run_machine(name: &str, machine: &mut Machine) -> Traced {
    let ending = machine
        .run()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(ending, Ending::PowerOff, "{name}");
    let losses = machine.finish_trace("power off").expect("there is a trace");
    assert_eq!(losses.lost, 0, "{name}: {losses:?}");
    let mut reader = TraceReader::open(&path(name)).expect("a trace");
    let switches = (&mut reader)
        .map(|item| match item {
            Item::Switch(record) => record,
            Item::Loss { .. } => panic!("{name}: a loss"),
        })
        .collect::<Vec<_>>();
    assert_eq!(reader.warning(), None, "{name}");
    assert_eq!(switches.len() as u64, losses.written, "{name}");
    Traced {
        header: reader.header().clone(),
        switches,
        end: reader.end().expect("an end").clone(),
    }
}

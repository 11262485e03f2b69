//! The policies without parameters and without memory.

use super::{Choice, Policy, Stretch, View};
use crate::legality::Legal;

/// Algorithm 1: what may run directly does.
#[derive(Debug)]
pub(super) struct Vmware;

impl Policy for Vmware {
    fn name(&self) -> &str {
        "vmware"
    }

    fn choose<'a>(&mut self, legal: Legal<'a>, _: &View<'_>) -> Choice<'a> {
        Choice::Direct(legal)
    }
}

/// The translator alone.
#[derive(Debug)]
pub(super) struct Translate;

impl Policy for Translate {
    fn name(&self) -> &str {
        "translate"
    }

    fn choose<'a>(&mut self, _: Legal<'a>, _: &View<'_>) -> Choice<'a> {
        Choice::Translate(Stretch::Exit)
    }

    fn stretch(&mut self, _: &View<'_>) -> Stretch {
        Stretch::Exit
    }
}

/// The rule of kqemu's user-code mode (`kqemu_is_ok` in QEMU 0.9): protected mode, CPL 3, not
/// virtual-8086 mode.
#[derive(Debug)]
pub(super) struct Ring;

impl Policy for Ring {
    fn name(&self) -> &str {
        "ring"
    }

    fn choose<'a>(&mut self, legal: Legal<'a>, _: &View<'_>) -> Choice<'a> {
        let inputs = legal.inputs();
        if inputs.protected_mode && inputs.cpl == 3 && !inputs.virtual_8086 {
            Choice::Direct(legal)
        } else {
            Choice::Translate(Stretch::Arrival)
        }
    }
}

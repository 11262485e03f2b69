//! States that the unit tests share.

use crate::inputs::{CodeSize, HostSupport, Inputs, Segments};

/// A state that may run directly on [`HOST`].
pub(crate) const RING_3: Inputs = Inputs {
    protected_mode: true,
    virtual_8086: false,
    cpl: 3,
    iopl: 0,
    interrupt_flag: true,
    trap_flag: false,
    interrupt_shadow: false,
    debug_registers_enabled: false,
    reversible: Segments::all(),
    limited: false,
    code_size: CodeSize::Bits32,
    stack_16: false,
    paging: true,
    long_mode_visible: false,
    replay_pending: false,
    cs: 0x23,
    eip: 0,
    eflags: 0x202,
    cr3: 0,
};

/// A host that runs 32-bit code and nothing else.
pub(crate) const HOST: HostSupport = HostSupport {
    compat32: true,
    ..HostSupport::NONE
};

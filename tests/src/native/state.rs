//! Register files and outcomes, in the form that both sides of a comparison produce.

/// The registers that unprivileged code sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(16))]
pub struct MachineState {
    /// x87, MMX and SSE state as a 64-bit FXSAVE image (Intel SDM vol. 1, section 10.5.1).
    pub fx: [u8; 512],
    /// General registers in encoding order.
    pub gpr: [u32; 8],
    /// Offset of the next instruction in CS.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// Selectors: ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
}

impl MachineState {
    /// All zero but for the FPU, which is as FNINIT and a reset of MXCSR leave it.
    pub fn new() -> Self {
        let mut fx = [0; 512];
        fx[0..2].copy_from_slice(&0x037Fu16.to_le_bytes());
        fx[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
        MachineState {
            fx,
            gpr: [0; 8],
            eip: 0,
            eflags: 2,
            selectors: [0; 6],
        }
    }
}

impl Default for MachineState {
    fn default() -> Self {
        Self::new()
    }
}

/// The exception that ended a case; INT3 (vector 3) where the instruction itself raised none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Trap {
    /// Exception vector.
    pub vector: u32,
    /// Error code; 0 for exceptions that push none.
    pub error: u32,
    /// CR2 for a page fault, 0 otherwise.
    pub cr2: u32,
}

impl Trap {
    /// Vector of the page fault.
    pub const PAGE_FAULT: u32 = 14;
    /// What a trapped system call counts as.
    pub const SYSTEM_CALL: u32 = 0x80;
    /// Vector of INT3.
    pub const BREAKPOINT: u32 = 3;

    /// True for exceptions that push an error code (Intel SDM vol. 3A, table 6-1).
    pub fn pushes_error(vector: u32) -> bool {
        matches!(vector, 8 | 10..=14 | 17)
    }
}

/// What a case left behind, but for memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Outcome {
    /// Registers, as the exception's handler finds them.
    pub state: MachineState,
    /// The exception.
    pub trap: Trap,
}

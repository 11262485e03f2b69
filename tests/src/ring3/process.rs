//! Programs as a process of the host runs them: the native child stands for ring 3, and what the kernel
//! of these tests does (`kernel.s`) is done here once more.

use super::Line;
use super::layout::{self, CODE_IN_IMAGE, DATA_BYTES, is_supervisors, selector, user};
use super::program::{MOST_EVENTS, Page};
use crate::native::{MachineState, NativeError, NativeRunner, Outcome, Trap};

const ES: usize = 0;
const CS: usize = 1;
const SS: usize = 2;
const DS: usize = 3;
const FS: usize = 4;
const GS: usize = 5;
const ESP: usize = 4;

const TF: u32 = 1 << 8;
const RF: u32 = 1 << 16;

/// The vector that ends a program.
const END: u32 = 0x81;
/// What sums start from, and their multiplier (the 32-bit FNV parameters).
const BASIS: u32 = 0x811C_9DC5;
const PRIME: u32 = 0x0100_0193;

/// Runs programs of the character [`Process`](super::Character::Process) on the host's processor.
#[derive(Debug)]
pub struct ProcessRunner {
    native: NativeRunner,
    /// What the last program did, as the kernel prints it with [`Detail::Events`](super::Detail).
    events: Vec<String>,
}

impl ProcessRunner {
    /// Starts the process.
    ///
    /// # Errors
    ///
    /// When the host does not allow it.
    pub fn new() -> Result<Self, NativeError> {
        Ok(Self {
            native: NativeRunner::with(layout::scene())?,
            events: Vec::new(),
        })
    }

    /// Address below which the host lets no page be mapped. Programs need page 0.
    #[must_use]
    pub fn lowest(&self) -> u32 {
        self.native.lowest()
    }

    /// The events of the last program: `!` and what the registers were, as the kernel prints it.
    #[must_use]
    pub fn events(&self) -> &[String] {
        &self.events
    }

    /// Runs a program over `data` and says what the kernel would.
    ///
    /// # Errors
    ///
    /// When the process was lost.
    pub fn run(&mut self, number: u32, program: &Page, data: &[u8]) -> Result<Line, NativeError> {
        let image = self.native.image_mut();
        let (memory, code) = image.split_at_mut((CODE_IN_IMAGE << 12) as usize);
        memory.copy_from_slice(data);
        code.copy_from_slice(program);
        self.events.clear();
        let mut kernel = Kernel::default();
        let mut state = start(program);
        let hung = loop {
            let outcome = match self.native.run(&state) {
                Ok(outcome) => outcome,
                Err(NativeError::Hung(_)) => break true,
                Err(error) => return Err(error),
            };
            state = outcome.state;
            if kernel.event(&outcome, &mut state, &mut self.events) {
                break false;
            }
        };
        let fpu = fpu_image(&state.fx);
        let memory = &self.native.image()[..DATA_BYTES as usize];
        Ok(Line {
            number,
            events: kernel.events,
            sums: [kernel.sum, sum_of(&fpu), sum_of(memory)],
            hung,
        })
    }
}

/// The registers that a program starts with, from the end of its page.
fn start(program: &Page) -> MachineState {
    let parameter = |offset: usize| {
        program[offset..]
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let mut state = MachineState::new();
    for (index, register) in [0, 1, 2, 3, 5, 6, 7].into_iter().enumerate() {
        state.gpr[register] = parameter(0xFD0 + index * 4);
    }
    state.gpr[ESP] = user::START_ESP;
    state.eip = user::CODE;
    state.eflags = parameter(0xFF0);
    for (index, value) in [
        (ES, selector::DATA),
        (CS, selector::CODE),
        (SS, selector::DATA),
        (DS, selector::DATA),
        (FS, selector::LDT_DATA),
        (GS, selector::LDT_DATA),
    ] {
        state.selectors[index] = value;
    }
    state
}

/// What the kernel keeps of a program.
struct Kernel {
    events: u32,
    sum: u32,
    last_slot: u32,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            events: 0,
            sum: BASIS,
            last_slot: user::CODE,
        }
    }
}

impl Kernel {
    /// Deals with an exception: sums it up and makes `state` that to go on with. True at the end of
    /// the program.
    fn event(
        &mut self,
        outcome: &Outcome,
        state: &mut MachineState,
        events: &mut Vec<String>,
    ) -> bool {
        let trap = as_in_the_guest(outcome, state);
        self.events += 1;
        let small_stack = state.selectors[SS] == selector::STACK16;
        if small_stack {
            state.gpr[ESP] &= 0xFFFF;
        }
        if trap.vector == 1 {
            state.eflags &= 0xFFFF_F72A; // undefined flags may show
        }
        let frame = frame(trap, state);
        if trap.vector == Trap::PAGE_FAULT {
            self.sum = (self.sum ^ trap.cr2).wrapping_mul(PRIME);
        }
        for word in frame {
            self.sum = (self.sum ^ word).wrapping_mul(PRIME).rotate_left(5);
        }
        let words = frame.iter().chain([&trap.cr2]);
        let text: String = words.map(|word| format!(" {word:08x}")).collect();
        events.push(format!("!{text}"));
        if trap.vector == END || self.events == MOST_EVENTS {
            return true;
        }
        if small_stack {
            // What IRET to a 16-bit stack leaves there, without Linux's way around it.
            state.gpr[ESP] |= user::KERNEL_ESP_HIGH;
        }
        if trap.vector != Trap::SYSTEM_CALL {
            self.recover(trap.vector, state);
        }
        false
    }

    /// On with the next slot.
    fn recover(&mut self, vector: u32, state: &mut MachineState) {
        if vector == 1 && state.eflags & TF != 0 {
            state.eflags &= !TF;
            return;
        }
        let traps = matches!(vector, 3 | 4);
        let at = state.eip.wrapping_sub(u32::from(traps));
        let inside = state.selectors[CS] == selector::CODE
            && at.wrapping_sub(user::CODE) < 0x1000
            && at >= self.last_slot;
        let slot = if inside { at } else { self.last_slot };
        self.last_slot = (slot & !(user::SLOT - 1)) + user::SLOT;
        state.eip = self.last_slot;
        state.gpr[ESP] = user::START_ESP;
        state.eflags = state.eflags & 0x0020_0CD5 | 0x202;
        for (index, value) in [
            (CS, selector::CODE),
            (SS, selector::DATA),
            (DS, selector::DATA),
            (ES, selector::DATA),
            (FS, selector::LDT_DATA),
            (GS, selector::LDT_DATA),
        ] {
            state.selectors[index] = value;
        }
        if vector == 16 {
            // FNCLEX (Intel SDM vol. 1, section 8.1.3.3).
            state.fx[2] = 0;
            state.fx[3] &= 0x7F;
        }
    }
}

/// The exception as the guest's kernel gets it, where a process gets it otherwise.
fn as_in_the_guest(outcome: &Outcome, state: &mut MachineState) -> Trap {
    const PRESENT: u32 = 1;
    const WRITE: u32 = 2;
    const FETCH: u32 = 16;
    /// The error code of `int 81h` without a gate.
    const NO_GATE: u32 = END * 8 + 2;
    let mut trap = outcome.trap;
    if (trap.vector, trap.error) == (13, NO_GATE) {
        state.eip = state.eip.wrapping_add(2);
        state.eflags &= !RF;
        return Trap {
            vector: END,
            ..Trap::default()
        };
    }
    if trap.vector == Trap::PAGE_FAULT {
        trap.error &= !(FETCH | WRITE); // there is no NX; the kernel leaves W out
        if is_supervisors(trap.cr2) {
            trap.error |= PRESENT;
        }
    }
    trap
}

/// The words on the kernel's stack that it sums up: all but its own ESP.
fn frame(trap: Trap, state: &MachineState) -> [u32; 18] {
    let selector = |index: usize| u32::from(state.selectors[index]);
    let [eax, ecx, edx, ebx, esp, ebp, esi, edi] = state.gpr;
    [
        selector(GS),
        selector(FS),
        selector(ES),
        selector(DS),
        edi,
        esi,
        ebp,
        ebx,
        edx,
        ecx,
        eax,
        trap.vector,
        trap.error,
        state.eip,
        selector(CS),
        state.eflags,
        esp,
        selector(SS),
    ]
}

/// What the kernel sums up of an FXSAVE image: registers, and of the rest what processors agree on.
fn fpu_image(fx: &[u8; 512]) -> [u8; 288] {
    let mut image = [0; 288];
    image.copy_from_slice(&fx[..288]);
    image[6..24].fill(0);
    image[28..32].fill(0);
    image
}

fn sum_of(bytes: &[u8]) -> u32 {
    let words = bytes.as_chunks::<4>().0.iter();
    words.fold(BASIS, |sum, word| {
        let word = u32::from_le_bytes(*word);
        (sum ^ word).wrapping_mul(PRIME).rotate_left(7)
    })
}

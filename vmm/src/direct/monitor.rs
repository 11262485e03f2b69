//! The monitor: the ring-0 code that stands between KVM and the guest's ring-3 code.
//!
//! It is position-independent 64-bit code that is copied to the first pages of the monitor's
//! memory; the communication page, the stacks and the edit queue follow at fixed distances. It
//! starts, and goes on after each `hlt`, at [`Image::resume`]:
//!
//! 1. store the queued edits of page tables and load CR3, CR4, CR0 as told;
//! 2. load LDTR, the data segments and the FPU as told;
//! 3. load the general registers and `iretq` to the guest.
//!
//! Any exception or interrupt comes back through one of 256 stubs, which leave everything in the
//! communication page and `hlt`. The one event that is dealt with here is #NM while the guest may
//! use the FPU: its state is loaded at first use and saved at the next exit.
//!
//! The monitor leaves by `hlt`, which leaves nothing to complete afterwards; `out` was measured to
//! cost the same.
//!
//! Guest code is 32-bit code, so r8 to r15 are the monitor's to use.
#![allow(unsafe_code)] // assembly, and its bytes

use std::arch::global_asm;

use super::layout::{self, comm};

global_asm!(
    ".pushsection .text.ringshift_monitor, \"ax\", @progbits",
    ".balign 64",
    ".globl ringshift_monitor_start",
    ".hidden ringshift_monitor_start",
    "ringshift_monitor_start:",
    // 256 stubs of 16 bytes: an error code where the processor pushes none, then the vector.
    ".set ringshift_vector, 0",
    ".rept 256",
    ".balign 16",
    // Vectors with an error code: #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX (Intel SDM vol. 3A,
    // table 6-1; AMD APM vol. 2, table 8-1).
    ".if (ringshift_vector == 8) || ((ringshift_vector >= 10) && (ringshift_vector <= 14)) || (ringshift_vector == 17) || (ringshift_vector == 21) || (ringshift_vector == 29) || (ringshift_vector == 30)",
    ".else",
    "push 0",
    ".endif",
    ".byte 0x68", // push imm32
    ".long ringshift_vector",
    "jmp 20f",
    ".set ringshift_vector, ringshift_vector + 1",
    ".endr",
    ".balign 16",
    // An exception or interrupt: vector, error code and interrupt frame are on the stack.
    "20:",
    "lea r15, [rip + ringshift_monitor_start + {COMM}]",
    "mov [r15 + {GPR}], rax",
    "pop rax",
    "mov [r15 + {VECTOR}], rax",
    "cmp al, 7",
    "je 40f",
    "21:",
    "mov [r15 + {GPR} + 8], rcx",
    "mov [r15 + {GPR} + 16], rdx",
    "mov [r15 + {GPR} + 24], rbx",
    "mov [r15 + {GPR} + 40], rbp",
    "mov [r15 + {GPR} + 48], rsi",
    "mov [r15 + {GPR} + 56], rdi",
    "pop qword ptr [r15 + {ERROR}]",
    "pop qword ptr [r15 + {RIP}]",
    "pop qword ptr [r15 + {CS}]",
    "pop qword ptr [r15 + {RFLAGS}]",
    "pop qword ptr [r15 + {GPR} + 32]",
    "pop qword ptr [r15 + {SS}]",
    "mov rcx, cr2",
    "mov [r15 + {CR2}], rcx",
    "mov word ptr [r15 + {DATA_SEGMENTS}], ds",
    "mov word ptr [r15 + {DATA_SEGMENTS} + 2], es",
    "mov word ptr [r15 + {DATA_SEGMENTS} + 4], fs",
    "mov word ptr [r15 + {DATA_SEGMENTS} + 6], gs",
    "cmp al, 1",
    "jne 22f",
    "mov rcx, dr6",
    "mov [r15 + {DR6}], rcx",
    "mov ecx, 0xFFFF0FF0", // the reset value: the processor only ever sets bits
    "mov dr6, rcx",
    "22:",
    "cmp dword ptr [r15 + {FPU_LIVE}], 0",
    "je 23f",
    "fxsave64 [r15 + {FPU}]",
    "23:",
    "hlt",
    // The VMM wants something.
    ".globl ringshift_monitor_resume",
    ".hidden ringshift_monitor_resume",
    "ringshift_monitor_resume:",
    "lea r15, [rip + ringshift_monitor_start + {COMM}]",
    "mov ecx, [r15 + {EDIT_COUNT}]",
    "jrcxz 31f",
    "lea rsi, [rip + ringshift_monitor_start + {EDITS}]",
    "30:",
    "mov rdi, [rsi]",
    "mov rax, [rsi + 8]",
    "mov [rdi], rax",
    "add rsi, 16",
    "dec ecx",
    "jnz 30b",
    "mov [r15 + {EDIT_COUNT}], ecx",
    "31:",
    "mov ebx, [r15 + {COMMAND}]",
    "test ebx, {RELOAD_CR3}",
    "jz 32f",
    "mov rax, [r15 + {CR3}]",
    "mov cr3, rax",
    "32:",
    "test ebx, {LOAD_CONTROL}",
    "jz 33f",
    "mov rax, [r15 + {CR4}]",
    "mov cr4, rax",
    "mov rax, [r15 + {CR0}]",
    "mov cr0, rax",
    "33:",
    "test ebx, {PARK}",
    "jnz 23b",
    "test ebx, {LOAD_FPU}",
    "jz 34f",
    "fxrstor64 [r15 + {FPU}]",
    "mov dword ptr [r15 + {FPU_LIVE}], 1",
    "34:",
    "test ebx, {LOAD_SEGMENTS}",
    "jz 35f",
    "lldt word ptr [r15 + {LDTR}]",
    "mov ds, word ptr [r15 + {DATA_SEGMENTS}]",
    "mov es, word ptr [r15 + {DATA_SEGMENTS} + 2]",
    "mov fs, word ptr [r15 + {DATA_SEGMENTS} + 4]",
    "mov gs, word ptr [r15 + {DATA_SEGMENTS} + 6]",
    "35:",
    "lea rsp, [rip + ringshift_monitor_start + {ENTRY_STACK_TOP}]",
    "push qword ptr [r15 + {SS}]",
    "push qword ptr [r15 + {GPR} + 32]",
    "push qword ptr [r15 + {RFLAGS}]",
    "push qword ptr [r15 + {CS}]",
    "push qword ptr [r15 + {RIP}]",
    "mov rax, [r15 + {GPR}]",
    "mov rcx, [r15 + {GPR} + 8]",
    "mov rdx, [r15 + {GPR} + 16]",
    "mov rbx, [r15 + {GPR} + 24]",
    "mov rbp, [r15 + {GPR} + 40]",
    "mov rsi, [r15 + {GPR} + 48]",
    "mov rdi, [r15 + {GPR} + 56]",
    "iretq",
    ".globl ringshift_monitor_entered",
    ".hidden ringshift_monitor_entered",
    "ringshift_monitor_entered:",
    // #NM: error code and interrupt frame are on the stack.
    "40:",
    "test byte ptr [rsp + 16], 3",
    "jz 21b",
    "cmp dword ptr [r15 + {FPU_ALLOWED}], 0",
    "je 21b",
    "clts",
    "fxrstor64 [r15 + {FPU}]",
    "mov dword ptr [r15 + {FPU_LIVE}], 1",
    "mov rax, [r15 + {GPR}]",
    "add rsp, 8",
    "iretq",
    ".globl ringshift_monitor_end",
    ".hidden ringshift_monitor_end",
    "ringshift_monitor_end:",
    ".popsection",
    COMM = const layout::COMM,
    EDITS = const layout::EDITS,
    ENTRY_STACK_TOP = const layout::ENTRY_STACK_TOP,
    GPR = const comm::GPR,
    RIP = const comm::RIP,
    RFLAGS = const comm::RFLAGS,
    CS = const comm::CS,
    SS = const comm::SS,
    DATA_SEGMENTS = const comm::DATA_SEGMENTS,
    LDTR = const comm::LDTR,
    VECTOR = const comm::VECTOR,
    ERROR = const comm::ERROR,
    CR2 = const comm::CR2,
    DR6 = const comm::DR6,
    CR3 = const comm::CR3,
    CR0 = const comm::CR0,
    CR4 = const comm::CR4,
    COMMAND = const comm::COMMAND,
    EDIT_COUNT = const comm::EDIT_COUNT,
    FPU_LIVE = const comm::FPU_LIVE,
    FPU_ALLOWED = const comm::FPU_ALLOWED,
    FPU = const comm::FPU,
    RELOAD_CR3 = const comm::RELOAD_CR3,
    LOAD_CONTROL = const comm::LOAD_CONTROL,
    PARK = const comm::PARK,
    LOAD_FPU = const comm::LOAD_FPU,
    LOAD_SEGMENTS = const comm::LOAD_SEGMENTS,
);

unsafe extern "C" {
    static ringshift_monitor_start: u8;
    static ringshift_monitor_resume: u8;
    static ringshift_monitor_entered: u8;
    static ringshift_monitor_end: u8;
}

/// Bytes between the stubs of two vectors.
pub(super) const STUB_BYTES: u64 = 16;

/// The monitor's code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Image {
    /// Its bytes; the stub of vector *n* is at `n * STUB_BYTES`.
    pub(super) bytes: &'static [u8],
    /// Offset at which it starts.
    pub(super) resume: u64,
    /// Offset behind the `iretq` that enters guest code. From `resume` to here guest code has not run
    /// since the last exit, and what that left in the communication page is untouched.
    pub(super) entered: u64,
}

/// The monitor's code, as it stands in this program.
pub(super) fn image() -> Image {
    // SAFETY: the four symbols lie in one section in this order, with nothing but code and padding
    // between them, which is never written.
    unsafe {
        let start = &raw const ringshift_monitor_start;
        let length = (&raw const ringshift_monitor_end).offset_from_unsigned(start);
        let resume = (&raw const ringshift_monitor_resume).offset_from_unsigned(start);
        let entered = (&raw const ringshift_monitor_entered).offset_from_unsigned(start);
        Image {
            bytes: std::slice::from_raw_parts(start, length),
            resume: resume as u64,
            entered: entered as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stub_pushes_its_vector_and_jumps_to_the_same_place() {
        let Image {
            bytes,
            resume,
            entered,
        } = image();
        assert!(bytes.len() as u64 <= layout::CODE_BYTES);
        assert!((256 * STUB_BYTES..entered).contains(&resume));
        assert_eq!(bytes[entered as usize - 2..][..2], [0x48, 0xCF], "iretq");
        let with_error_code = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];
        for vector in 0..256usize {
            let stub = &bytes[vector * STUB_BYTES as usize..][..STUB_BYTES as usize];
            let mut at = 0;
            if !with_error_code.contains(&vector) {
                assert_eq!(stub[..2], [0x6A, 0], "vector {vector}: push 0");
                at = 2;
            }
            assert_eq!(stub[at], 0x68, "vector {vector}: push imm32");
            assert_eq!(stub[at + 1..at + 5], (vector as u32).to_le_bytes());
            let (size, distance) = match stub[at + 5] {
                0xEB => (2, i64::from(stub[at + 6] as i8)),
                0xE9 => (
                    5,
                    i64::from(i32::from_le_bytes(
                        stub[at + 6..at + 10].try_into().unwrap(),
                    )),
                ),
                other => panic!("vector {vector}: {other:#x} is no jump"),
            };
            let target = (vector as i64) * STUB_BYTES as i64 + (at as i64 + 5) + size + distance;
            assert_eq!(target, 256 * STUB_BYTES as i64, "vector {vector}");
        }
    }
}

//! The assembly of the shortcuts.
#![allow(unsafe_code)] // assembly

use super::{Destination, Shortcuts};
use crate::codegen::layout::CODE_OFFSET;
use crate::runtime::context::{Context, Reason};
use crate::runtime::store_table::{SIZES, VALUES};
use crate::state::{CpuState, Msrs, Segment, TableRegister, eflags, seg};
use std::arch::naked_asm;
use std::mem::offset_of;

const fn segment(index: usize) -> usize {
    offset_of!(Context, cpu) + offset_of!(CpuState, seg) + index * size_of::<Segment>()
}

/// Flags that have to stay as they are: the rest of the system behaves differently with them.
const KEPT: u32 = eflags::TF | eflags::NT | eflags::AC | eflags::ID;
/// IRET loads these as well. RF lasts for one instruction and matters to breakpoints only, with which
/// IRET is Rust's.
const KEPT_BY_IRET: u32 = KEPT | eflags::VM | eflags::VIF | eflags::VIP;

/// RAX and the status flags to the context. Flags are LAHF's and OF: DF stays where it is.
macro_rules! save {
    () => {
        "mov [r15 + {rax}], rax
         lahf
         seto al
         mov [r15 + {flags}], ax"
    };
}

/// The opposite of `save`.
macro_rules! restore {
    () => {
        "movzx eax, word ptr [r15 + {flags}]
         add al, 0x7f
         sahf
         mov rax, [r15 + {rax}]"
    };
}

/// EAX becomes the offset in the GDT of the selector in EAX, which is not null, if it is inside.
macro_rules! in_gdt {
    () => {
        "test al, 4
         jnz 90f
         or eax, 7
         cmp ax, [r15 + {gdtr} + {limit}]
         ja 90f
         sub eax, 7
         add eax, [r15 + {gdtr} + {base}]"
    };
}

/// R10 holds new flags: IOPL and IF to the context, status flags to where `restore` finds them.
/// Uses R9 and R11.
macro_rules! load_flags {
    () => {
        "mov r9d, [r15 + {rest}]
         and r9d, ~{IOPL}
         mov r11d, r10d
         and r11d, {IOPL}
         or r9d, r11d
         mov [r15 + {rest}], r9d
         mov r9d, r10d
         shr r9d, 9
         and r9d, 1
         mov [r15 + {interrupt_flag}], r9b
         mov r9d, r10d
         shl r9d, 8
         shr r10d, 11
         and r10d, 1
         movzx r9d, r9w
         or r9d, r10d
         mov [r15 + {flags}], r9w"
    };
}

/// The shortcuts. Never called: see [`super::code`].
///
/// # Safety
///
/// R12 to R15 are as in a unit with a flat code and stack segment of 32 bits, without TF; R8 to R11
/// as the table in [`super`] says.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn shortcuts() {
    naked_asm!(
        "2:",
        ".long 20f - 2b, 30f - 2b, 40f - 2b, 45f - 2b, 50f - 2b, 60f - 2b, 70f - 2b, 99f - 2b",
        //
        // Segment load at CPL 0: DS and ES with a flat segment, FS and GS with any base.
        "20:",
        "mov r9, [rsp]",
        "mov [r15 + {site}], r9",
        save!(),
        "test r11d, 0xfffc",
        "jz 25f",
        "mov eax, r11d",
        in_gdt!(),
        "mov rax, [r14 + rax]",
        // 4 GiB, present, writable expand-up data, accessed.
        "cmp ax, -1",
        "jne 90f",
        "mov r9, rax",
        "shr r9, 32",
        "and r9d, 0x8f9f00",
        "cmp r9d, 0x8f9300",
        "jne 90f",
        // RPL 0, or RPL 3 and DPL 3.
        "test r11d, 3",
        "jz 21f",
        "mov r9d, r11d",
        "not r9d",
        "test r9d, 3",
        "jnz 90f",
        "mov r9, rax",
        "shr r9, 45",
        "not r9d",
        "test r9d, 3",
        "jnz 90f",
        "21:",
        "cmp r8d, {FS}",
        "jae 22f",
        "mov r9, 0xff0000ffffff0000",
        "test rax, r9",
        "jnz 90f",
        "shl r8d, 4",
        "mov [r15 + r8 + {segs} + {selector}], r11w",
        "mov dword ptr [r15 + r8 + {segs} + {segment_base}], 0",
        "mov dword ptr [r15 + r8 + {segs} + {segment_limit}], -1",
        "shr rax, 40",
        "and eax, 0xd0ff",
        "mov [r15 + r8 + {segs} + {rights}], eax",
        "29:",
        "lea r12, [r12 + r10]",
        restore!(),
        "ret",
        "22:",
        "mov r9, rax",
        "shr r9, 16",
        "and r9d, 0xffffff",
        "shr rax, 32",
        "shl r8d, 4",
        "mov [r15 + r8 + {segs} + {selector}], r11w",
        "mov r11d, eax",
        "and r11d, 0xff000000",
        "or r9d, r11d",
        "mov [r15 + r8 + {segs} + {segment_base}], r9d",
        "mov dword ptr [r15 + r8 + {segs} + {segment_limit}], -1",
        "shr eax, 8",
        "and eax, 0xd0ff",
        "mov [r15 + r8 + {segs} + {rights}], eax",
        "add r9, r14",
        "mov rax, [r15 + {quiet_poll}]",
        "23:",
        "shr r8d, 1",
        "mov [r15 + r8 + {host_base}], r9",
        "mov [r15 + r8 + {checked_base}], r9",
        "mov [r15 + r8 + {segment_check}], rax",
        "jmp 29b",
        // A null selector, which DS and ES hold seldom.
        "25:",
        "cmp r8d, {FS}",
        "jb 90f",
        "shl r8d, 4",
        "mov [r15 + r8 + {segs} + {selector}], r11w",
        "mov dword ptr [r15 + r8 + {segs} + {segment_base}], 0",
        "mov dword ptr [r15 + r8 + {segs} + {segment_limit}], 0",
        "mov dword ptr [r15 + r8 + {segs} + {rights}], 0x10000",
        "mov r9, {UNUSABLE}",
        "mov rax, r9",
        "jmp 23b",
        //
        // POPFD at CPL 0.
        "30:",
        "mov r9, [rsp]",
        "mov [r15 + {site}], r9",
        save!(),
        "mov r10d, [r12]",
        "mov eax, r10d",
        "xor eax, [r15 + {rest}]",
        "test eax, {KEPT}",
        "jnz 90f",
        "test r10d, {DF}",
        "jnz 90f",
        "cmp dword ptr [r15 + {direction}], 1",
        "jne 90f",
        "test r10d, {IF}",
        "jz 31f",
        "cmp dword ptr [r15 + {pending}], 0",
        "jne 90f",
        "31:",
        load_flags!(),
        "lea r12, [r12 + 4]",
        restore!(),
        "ret",
        //
        // SYSENTER.
        "40:",
        "mov [r15 + {site}], r9",
        save!(),
        "cmp qword ptr [r15 + {kernel}], 0",
        "je 90f",
        "mov eax, [r15 + {sysenter}]",
        "test eax, eax",
        "jz 90f",
        "mov [r15 + {cs} + {selector}], ax",
        "add eax, 8",
        "mov [r15 + {ss} + {selector}], ax",
        "mov byte ptr [r15 + {interrupt_flag}], 0",
        "mov r8d, [r15 + {sysenter_eip}]",
        "mov eax, [r15 + {sysenter_esp}]",
        // To CPL 0: EIP in R8, ESP in RAX.
        "43:",
        "mov dword ptr [r15 + {cs} + {segment_base}], 0",
        "mov dword ptr [r15 + {cs} + {segment_limit}], -1",
        "mov dword ptr [r15 + {cs} + {rights}], 0xc09b",
        "mov dword ptr [r15 + {ss} + {segment_base}], 0",
        "mov dword ptr [r15 + {ss} + {segment_limit}], -1",
        "mov dword ptr [r15 + {ss} + {rights}], 0xc093",
        "mov byte ptr [r15 + {cpl}], 0",
        "mov dword ptr [r15 + {crossed}], 1",
        "lea r11, [r15 + {kernel}]",
        "jmp 80f",
        //
        // SYSEXIT at CPL 0.
        "45:",
        "mov [r15 + {site}], r9",
        save!(),
        "cmp qword ptr [r15 + {user}], 0",
        "je 90f",
        "mov eax, [r15 + {sysenter}]",
        "test eax, eax",
        "jz 90f",
        "cmp byte ptr [r15 + {interrupt_flag}], 0",
        "je 46f",
        "cmp dword ptr [r15 + {pending}], 0",
        "jne 90f",
        "46:",
        "add eax, 19",
        "mov [r15 + {cs} + {selector}], ax",
        "add eax, 8",
        "mov [r15 + {ss} + {selector}], ax",
        "mov r8d, edx",
        "mov eax, ecx",
        // To CPL 3: EIP in R8, ESP in RAX.
        "47:",
        "mov dword ptr [r15 + {cs} + {segment_base}], 0",
        "mov dword ptr [r15 + {cs} + {segment_limit}], -1",
        "mov dword ptr [r15 + {cs} + {rights}], 0xc0fb",
        "mov dword ptr [r15 + {ss} + {segment_base}], 0",
        "mov dword ptr [r15 + {ss} + {segment_limit}], -1",
        "mov dword ptr [r15 + {ss} + {rights}], 0xc0f3",
        "mov byte ptr [r15 + {cpl}], 3",
        "mov dword ptr [r15 + {crossed}], 4",
        "lea r11, [r15 + {user}]",
        "jmp 80f",
        //
        // IRETD at CPL 0, to CPL 0 or 3.
        "50:",
        "mov [r15 + {site}], r9",
        save!(),
        "cmp dword ptr [r15 + {iret}], 0",
        "je 90f",
        "mov r8d, [r12]",
        "movzx r9d, word ptr [r12 + 4]",
        "mov r10d, [r12 + 8]",
        "mov eax, r10d",
        "xor eax, [r15 + {rest}]",
        "test eax, {KEPT_BY_IRET}",
        "jnz 90f",
        "test r10d, {NT} + {AC} + {DF}",
        "jnz 90f",
        "cmp dword ptr [r15 + {direction}], 1",
        "jne 90f",
        "test r10d, {IF}",
        "jz 51f",
        "cmp dword ptr [r15 + {pending}], 0",
        "jne 90f",
        "51:",
        "test r9d, 0xfffc",
        "jz 90f",
        "mov eax, r9d",
        in_gdt!(),
        "mov rax, [r14 + rax]",
        "test r9d, 3",
        "jz 55f",
        // Flat code with DPL 3, through a selector with RPL 3.
        "mov r11, 0x00cffb000000ffff",
        "cmp rax, r11",
        "jne 90f",
        "mov eax, r9d",
        "not eax",
        "test eax, 3",
        "jnz 90f",
        "cmp qword ptr [r15 + {user}], 0",
        "je 90f",
        // Flat data with DPL 3 for the stack, the same.
        "movzx r11d, word ptr [r12 + 16]",
        "test r11d, 0xfffc",
        "jz 90f",
        "mov eax, r11d",
        "not eax",
        "test eax, 3",
        "jnz 90f",
        "mov eax, r11d",
        in_gdt!(),
        "mov rax, [r14 + rax]",
        "cmp eax, 0xffff",
        "jne 90f",
        "shr rax, 32",
        "cmp eax, 0xcff300",
        "jne 90f",
        // What CPL 3 may not use would become null.
        "mov eax, [r15 + {segs} + 16 * 0 + {rights}]",
        "not eax",
        "test eax, 0x60",
        "jz 52f",
        "test eax, 0x10000",
        "jnz 90f",
        "52:",
        "mov eax, [r15 + {segs} + 16 * 3 + {rights}]",
        "not eax",
        "test eax, 0x60",
        "jz 53f",
        "test eax, 0x10000",
        "jnz 90f",
        "53:",
        "mov eax, [r15 + {segs} + 16 * 4 + {rights}]",
        "not eax",
        "test eax, 0x60",
        "jz 54f",
        "test eax, 0x10000",
        "jnz 90f",
        "54:",
        "mov eax, [r15 + {segs} + 16 * 5 + {rights}]",
        "not eax",
        "test eax, 0x60",
        "jz 56f",
        "test eax, 0x10000",
        "jnz 90f",
        "56:",
        "mov eax, [r12 + 12]",
        "mov [r15 + {cs} + {selector}], r9w",
        "mov [r15 + {ss} + {selector}], r11w",
        load_flags!(),
        "jmp 47b",
        // To CPL 0: flat code with DPL 0.
        "55:",
        "mov r11, 0x00cf9b000000ffff",
        "cmp rax, r11",
        "jne 90f",
        "mov [r15 + {cs} + {selector}], r9w",
        "mov dword ptr [r15 + {cs} + {rights}], 0xc09b",
        load_flags!(),
        "lea r12, [r12 + 12]",
        "mov r10, [r15 + {jump_table}]",
        "jmp 84f",
        //
        // INT n at CPL 3, through a 32-bit gate to flat code at CPL 0.
        "60:",
        "mov [r15 + {site}], r9",
        save!(),
        "mov r11, [r15 + {kernel}]",
        "test r11, r11",
        "jz 90f",
        "lea eax, [r8 * 8 + 7]",
        "cmp ax, [r15 + {idtr} + {limit}]",
        "ja 90f",
        "sub eax, 7",
        "add eax, [r15 + {idtr} + {base}]",
        "mov r9, [r11 + rax]",
        // Present, DPL 3, interrupt or trap gate of 32 bits.
        "mov rax, r9",
        "shr rax, 40",
        "and eax, 0xfe",
        "cmp eax, 0xee",
        "jne 90f",
        "mov rax, r9",
        "shr rax, 16",
        "movzx eax, ax",
        "test eax, 0xfffc",
        "jz 90f",
        in_gdt!(),
        "cmp dword ptr [r11 + rax], 0xffff",
        "jne 90f",
        "cmp dword ptr [r11 + rax + 4], 0xcf9b00",
        "jne 90f",
        // The stack, from a 32-bit TSS.
        "test byte ptr [r15 + {tr} + {rights}], 8",
        "jz 90f",
        "cmp dword ptr [r15 + {tr} + {segment_limit}], 9",
        "jb 90f",
        "mov eax, [r15 + {tr} + {segment_base}]",
        "movzx r8d, word ptr [r11 + rax + 8]",
        "test r8d, 3",
        "jnz 90f",
        "test r8d, r8d",
        "jz 90f",
        "mov eax, r8d",
        in_gdt!(),
        "cmp dword ptr [r11 + rax], 0xffff",
        "jne 90f",
        "cmp dword ptr [r11 + rax + 4], 0xcf9300",
        "jne 90f",
        "mov [r15 + {scratch}], r8d",
        "mov eax, [r15 + {tr} + {segment_base}]",
        "mov eax, [r11 + rax + 4]",
        "cmp eax, 20",
        "jb 90f",
        "sub eax, 20",
        // The frame.
        "add r11, rax",
        "movzx r8d, word ptr [r15 + {ss} + {selector}]",
        "mov [r11 + 16], r8d",
        "mov [r11 + 12], r12d",
        "mov [r11], r10d",
        "movzx r8d, word ptr [r15 + {cs} + {selector}]",
        "mov [r11 + 4], r8d",
        "mov r10d, [r15 + {rest}]",
        "movzx r8d, byte ptr [r15 + {flags} + 1]",
        "or r10d, r8d",
        "movzx r8d, byte ptr [r15 + {flags}]",
        "shl r8d, 11",
        "or r10d, r8d",
        "movzx r8d, byte ptr [r15 + {interrupt_flag}]",
        "shl r8d, 9",
        "or r10d, r8d",
        "mov r8d, [r15 + {direction}]",
        "and r8d, {DF}",
        "or r10d, r8d",
        "mov [r11 + 8], r10d",
        // Nothing can fail from here on.
        "mov r8d, [r15 + {scratch}]",
        "mov [r15 + {ss} + {selector}], r8w",
        "mov r8, r9",
        "shr r8, 16",
        "and r8d, 0xfffc",
        "mov [r15 + {cs} + {selector}], r8w",
        "and dword ptr [r15 + {rest}], ~{NT}",
        "bt r9, 40",
        "jc 61f",
        "mov byte ptr [r15 + {interrupt_flag}], 0",
        "61:",
        "mov r8, r9",
        "shr r8, 48",
        "shl r8d, 16",
        "movzx r9d, r9w",
        "or r8d, r9d",
        "jmp 43b",
        //
        // VERW at CPL 0 of a segment that can be written: kernels use it for what else it does on
        // newer processors.
        "70:",
        "mov r9, [rsp]",
        "mov [r15 + {site}], r9",
        save!(),
        "test r11d, 0xfffc",
        "jz 90f",
        "mov eax, r11d",
        in_gdt!(),
        "mov eax, [r14 + rax + 4]",
        "mov r9d, eax",
        "and r9d, 0x1a00",
        "cmp r9d, 0x1200",
        "jne 90f",
        // RPL against DPL.
        "shr eax, 13",
        "and eax, 3",
        "and r11d, 3",
        "cmp r11d, eax",
        "ja 90f",
        "or byte ptr [r15 + {flags} + 1], {ZF}",
        restore!(),
        "ret",
        //
        // The other side: EIP in R8, ESP in RAX, R11 points at its `Destination`.
        "80:",
        "mov r9, r14",
        "mov r14, [r11]",
        // A base that cannot be used stays far from canonical.
        "sub r9, r14",
        "sub [r15 + {host_base} + 8 * {FS}], r9",
        "sub [r15 + {host_base} + 8 * {GS}], r9",
        "sub [r15 + {checked_base} + 8 * {FS}], r9",
        "sub [r15 + {checked_base} + 8 * {GS}], r9",
        "wrgsbase r14",
        "mov [r15 + {window}], r14",
        "mov [r15 + {gs_base}], r14",
        "mov [r15 + {store_bases}], r14",
        "mov [r15 + {store_bases} + {ROW}], r14",
        "mov [r15 + {store_bases} + 2 * {ROW}], r14",
        "mov [r15 + {store_bases} + 3 * {ROW}], r14",
        "mov [r15 + {store_bases} + 4 * {ROW}], r14",
        "mov r9, [r11 + {to_store_table}]",
        "mov [r15 + {store_table}], r9",
        "lea r12, [r14 + rax]",
        "mov r13d, 1",
        "shl r13, 32",
        "add r13, r14",
        "inc qword ptr [r15 + {count}]",
        "mov r10, [r11 + {to_jump_table}]",
        "mov r9, r10",
        "cmp dword ptr [r15 + {pending}], 0",
        "cmovne r9, [r15 + {empty_table}]",
        "mov [r15 + {sti_jump_table}], r9",
        // A kick that came before the exchange is seen in the poll pointer, which it writes first; one
        // that comes later replaces the table again.
        "mov r9, r10",
        "xchg [r15 + {jump_table}], r9",
        "mov r9, [r15 + {poll}]",
        "cmp r9, [r15 + {quiet_poll}]",
        "jne 85f",
        "84:",
        "mov r10d, [r10 + r8 * 4]",
        "lea r10, [r15 + r10 + {CODE}]",
        restore!(),
        "jmp r10",
        "85:",
        "mov r10, [r15 + {empty_table}]",
        "mov [r15 + {jump_table}], r10",
        "jmp 84b",
        //
        // To Rust, with everything as it was in front of the instruction.
        "90:",
        restore!(),
        "mov r9, [r15 + {site}]",
        "mov [r15 + {exit_site}], r9",
        "mov dword ptr [r15 + {reason}], {CALLOUT}",
        "jmp [r15 + {leave}]",
        "99:",
        rax = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, rax),
        flags = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, flags),
        site = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, site),
        user = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, user),
        kernel = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, kernel),
        empty_table = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, empty_table),
        quiet_poll = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, quiet_poll),
        leave = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, leave),
        count = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, count),
        pending = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, pending),
        iret = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, iret),
        sysenter = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, sysenter),
        crossed = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, crossed),
        scratch = const offset_of!(Context, shortcuts) + offset_of!(Shortcuts, scratch),
        to_jump_table = const offset_of!(Destination, jump_table),
        to_store_table = const offset_of!(Destination, store_table),
        segs = const segment(0),
        cs = const segment(seg::CS),
        ss = const segment(seg::SS),
        selector = const offset_of!(Segment, selector),
        segment_base = const offset_of!(Segment, base),
        segment_limit = const offset_of!(Segment, limit),
        rights = const offset_of!(Segment, rights),
        tr = const offset_of!(Context, cpu) + offset_of!(CpuState, tr),
        gdtr = const offset_of!(Context, cpu) + offset_of!(CpuState, gdtr),
        idtr = const offset_of!(Context, cpu) + offset_of!(CpuState, idtr),
        base = const offset_of!(TableRegister, base),
        limit = const offset_of!(TableRegister, limit),
        cpl = const offset_of!(Context, cpu) + offset_of!(CpuState, cpl),
        sysenter_eip = const offset_of!(Context, cpu) + offset_of!(CpuState, msrs) + offset_of!(Msrs, sysenter_eip),
        sysenter_esp = const offset_of!(Context, cpu) + offset_of!(CpuState, msrs) + offset_of!(Msrs, sysenter_esp),
        rest = const offset_of!(Context, eflags_rest),
        interrupt_flag = const offset_of!(Context, interrupt_flag),
        direction = const offset_of!(Context, direction),
        window = const offset_of!(Context, window),
        gs_base = const offset_of!(Context, gs_base),
        store_table = const offset_of!(Context, store_table),
        store_bases = const offset_of!(Context, store_bases),
        host_base = const offset_of!(Context, segment_base),
        checked_base = const offset_of!(Context, checked_base),
        segment_check = const offset_of!(Context, segment_check),
        poll = const offset_of!(Context, poll),
        jump_table = const offset_of!(Context, jump_table),
        sti_jump_table = const offset_of!(Context, sti_jump_table),
        exit_site = const offset_of!(Context, site),
        reason = const offset_of!(Context, reason),
        CALLOUT = const Reason::Callout as u32,
        CODE = const CODE_OFFSET,
        ROW = const VALUES * 8,
        UNUSABLE = const crate::runtime::engine::UNUSABLE_BASE,
        FS = const seg::FS,
        GS = const seg::GS,
        KEPT = const KEPT,
        KEPT_BY_IRET = const KEPT_BY_IRET,
        IOPL = const eflags::IOPL,
        IF = const eflags::IF,
        DF = const eflags::DF,
        NT = const eflags::NT,
        ZF = const eflags::ZF,
        AC = const eflags::AC,
    )
}

/// The rows of [`Context::store_bases`] that the code above writes.
const _: () = assert!(SIZES == 5);
/// How it multiplies by the size of a segment.
const _: () = assert!(size_of::<Segment>() == 16);

//! Pieces of assembly that several shortcuts have in common.

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

/// R9 becomes the address of the `Paragraph` for the selector in R11, if it is known. Uses RAX.
macro_rules! find_paragraph {
    () => {
        "mov eax, r11d
         shr eax, 6
         xor eax, r11d
         and eax, {LAST_PARAGRAPH}
         shl eax, 5
         lea r9, [r15 + rax + {paragraphs}]
         lea eax, [r11 + 1]
         cmp rax, [r9]
         je 58f
         add r9, {to_second}
         cmp rax, [r9]
         jne 90f
         58:"
    };
}

/// CS becomes the paragraph R11, and SP the low half of R10. Uses RAX.
macro_rules! load_paragraph {
    () => {
        "mov r12w, r10w
         mov [r15 + {cs} + {selector}], r11w
         mov eax, r11d
         shl eax, 4
         mov [r15 + {cs} + {segment_base}], eax
         add rax, r14
         mov [r15 + {host_base} + 8 * {CS}], rax
         mov [r15 + {checked_base} + 8 * {CS}], rax
         mov dword ptr [r15 + {far}], 1"
    };
}

/// Segment register `$index` stays what it is at CPL 3: a DPL of 3, or null already. Uses EAX.
macro_rules! keeps_segment {
    ($index:literal) => {
        concat!(
            "mov eax, [r15 + {segs} + 16 * ",
            $index,
            " + {rights}]
             not eax
             test eax, 0x60
             jz 59f
             test eax, 0x10000
             jnz 90f
             59:"
        )
    };
}

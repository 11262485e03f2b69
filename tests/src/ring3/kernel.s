# The kernel of the ring-3 tests: starts each program at ring 3 and mixes everything that reaches the
# kernel - vector, error code, CR2, registers, flags, selectors - into a sum. What it prints is the
# same whichever engine ran the program, or one of them is wrong.
#
# Tables and programs are laid out by layout.rs, which also defines the symbols in capitals.

.code32
ring3_entry:
    cli
    cld
    mov esp, KERNEL_STACK
    lgdt [GDT_POINTER]
    lidt [IDT_POINTER]
    .byte 0xEA                      # jmp KERNEL_CODE:1f
    .long 1f - ring3_start + LOAD
    .word KERNEL_CODE
1:  mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov eax, TSS_SELECTOR
    ltr ax
    mov eax, LDT_SELECTOR
    lldt ax
    mov eax, cr4
    or eax, CR4_BITS
    mov cr4, eax
    mov eax, PAGE_DIRECTORY
    mov cr3, eax
    mov eax, cr0
    and eax, 0xFFFFFFF3             # not TS, not EM
    or eax, CR0_BITS
    mov cr0, eax

    # 8259 pair at vectors 20h and 28h, all but the timer masked; 8254 channel 0 at about 200 Hz: on a
    # busy host more than that would be most of the work.
    mov al, 0x11
    out 0x20, al
    out 0xA0, al
    mov al, 0x20
    out 0x21, al
    mov al, 0x28
    out 0xA1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xA1, al
    mov al, 1
    out 0x21, al
    out 0xA1, al
    mov al, 0xFE
    out 0x21, al
    mov al, 0xFF
    out 0xA1, al
    mov al, 0x34
    out 0x43, al
    mov al, 0x4E
    out 0x40, al
    mov al, 0x17
    out 0x40, al

# The next program: memory and tables as at the start, registers from the program's parameters.
next_program:
    mov edx, [PROGRAM]
    cmp edx, [PROGRAM_COUNT]
    jae finish
    mov esi, INITIAL_TABLES
    mov edi, PAGE_TABLES
    mov ecx, PAGE_TABLES_BYTES / 4
    rep movsd
    mov esi, INITIAL_DESCRIPTORS
    mov edi, DESCRIPTORS
    mov ecx, DESCRIPTORS_BYTES / 4
    rep movsd
    mov eax, cr3
    mov cr3, eax
    mov esi, INITIAL_DATA
    mov edi, DATA_PAGES
    mov ecx, DATA_BYTES / 4
    rep movsd
    mov esi, [PROGRAM]
    shl esi, 12
    add esi, PROGRAMS
    mov edi, CODE_PAGE
    mov ecx, 1024
    rep movsd
    mov dword ptr [SUM], 0x811C9DC5
    mov dword ptr [EVENTS], 0
    mov dword ptr [TICKS], 0
    mov eax, [CODE_PAGE + 0xFF8]
    mov [BUDGET], eax
    mov eax, [CODE_PAGE + 0xFF4]
    mov [HANDLER], eax
    mov dword ptr [LAST_SLOT], USER_CODE
    # The parameters are the last 48 bytes of the program's page: registers, EFLAGS, handler, budget.
    clts
    fxrstor [INITIAL_FPU]
    mov eax, [USER_FS]
    mov fs, eax
    mov eax, USER_LDT_DATA
    mov gs, eax
    mov esp, KERNEL_STACK
    push USER_DATA
    push USER_STACK
    push dword ptr [CODE_PAGE + 0xFF0]
    push USER_CODE_SELECTOR
    push USER_CODE
    mov eax, USER_DATA
    mov ds, eax
    mov es, eax
    mov eax, ss:[CODE_PAGE + 0xFD0]
    mov ecx, ss:[CODE_PAGE + 0xFD4]
    mov edx, ss:[CODE_PAGE + 0xFD8]
    mov ebx, ss:[CODE_PAGE + 0xFDC]
    mov ebp, ss:[CODE_PAGE + 0xFE0]
    mov esi, ss:[CODE_PAGE + 0xFE4]
    mov edi, ss:[CODE_PAGE + 0xFE8]
    iretd

.balign 16
ring3_stubs:
.set VECTOR, 0
.rept 256
    .balign 16
    .if (VECTOR == 8) || ((VECTOR >= 10) && (VECTOR <= 14)) || (VECTOR == 17) || (VECTOR == 21)
    .else
    push 0
    .endif
    .byte 0x68
    .long VECTOR
    jmp event
    .set VECTOR, VECTOR + 1
.endr

# A call gate leads here: back at once.
.balign 16
ring3_call_gate:
    retf

# Stack from here: gs fs es ds, pushad, vector, error, eip, cs, eflags, esp, ss.
.balign 16
event:
    pushad
    .byte 0x1E, 0x06, 0x0F, 0xA0, 0x0F, 0xA8 # push ds es fs gs, as doublewords
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    cld
    mov eax, [esp + F_VECTOR]
    cmp eax, 0x20
    je timer
    test byte ptr [esp + F_CS], 3
    jz kernel_event
    inc dword ptr [EVENTS]
    cmp dword ptr [HANDLER], 0
    je 1f
    mov dword ptr [TICKS], 0        # a program with a handler goes on for as long as it likes
1:  # Whatever does not belong to the instruction set's promises is left out: the upper halves of
    # pushed selectors.
    movzx ecx, word ptr [esp + F_CS]
    mov [esp + F_CS], ecx
    movzx ecx, word ptr [esp + F_SS]
    mov [esp + F_SS], ecx
    cmp ecx, USER_STACK16           # IRET leaves the kernel's upper half of ESP there: an interrupt
    jne 1f                          # may have come before, or not
    and dword ptr [esp + F_ESP], 0xFFFF
1:  mov ecx, 0
1:  movzx edx, word ptr [esp + ecx * 4]
    mov [esp + ecx * 4], edx
    inc ecx
    cmp ecx, 4
    jb 1b
    cmp eax, 1                      # a single step may show flags that an instruction leaves undefined
    jne 6f
    and dword ptr [esp + F_EFLAGS], 0xFFFFF72A
6:  mov edx, [SUM]
    cmp eax, 14
    jne 2f
    and dword ptr [esp + F_ERROR], 0xFFFFFFFD # QEMU's processors read before they write
    mov ecx, cr2
    xor edx, ecx
    imul edx, edx, 0x01000193
2:  mov ecx, 0
3:  cmp ecx, 7                      # ESP of the kernel, as PUSHAD stores it
    je 4f
    xor edx, [esp + ecx * 4]
    imul edx, edx, 0x01000193
    rol edx, 5
4:  inc ecx
    cmp ecx, F_WORDS
    jb 3b
    mov [SUM], edx
    cmp dword ptr [VERBOSE], 0
    je 5f
    call print_event
5:  mov eax, [esp + F_VECTOR]
    cmp eax, 0x81
    je end_of_program
    dec dword ptr [BUDGET]
    jz end_of_program
    cmp eax, 0x80
    je plain_return
    cmp eax, 0x82
    je change_tables
    cmp eax, 14
    je page_fault
recover:
    mov edx, [HANDLER]
    test edx, edx
    jnz 4f
    # On with the slot behind the one that was interrupted. Traps point behind their instruction.
    mov edx, [esp + F_EIP]
    cmp eax, 1
    je trap_flag
    cmp eax, 3
    je 1f
    cmp eax, 4
    jne 2f
1:  dec edx
2:  cmp word ptr [esp + F_CS], USER_CODE_SELECTOR
    jne wild
    mov ecx, edx
    sub ecx, USER_CODE
    cmp ecx, 0x1000
    jae wild
    cmp edx, [LAST_SLOT]
    jb wild
    jmp 3f
wild:
    mov edx, [LAST_SLOT]
3:  and edx, -SLOT
    add edx, SLOT
    mov [LAST_SLOT], edx
4:  mov [esp + F_EIP], edx
    mov dword ptr [esp + F_CS], USER_CODE_SELECTOR
    mov dword ptr [esp + F_SS], USER_DATA
    mov dword ptr [esp + F_ESP], USER_STACK
    mov ecx, [esp + F_EFLAGS]
    and ecx, 0x00200CD5             # not TF, NT, RF, AC
    or ecx, 0x202
    mov [esp + F_EFLAGS], ecx
    cmp eax, 16
    jne 4f
    fnclex
4:  # Segments that cannot be used would fault in every slot from here on; and where the host's KVM
    # does not check limits, a segment that has one would keep the program in translation.
    mov dword ptr [esp + F_DS], USER_DATA
    mov dword ptr [esp + F_ES], USER_DATA
    mov ecx, [USER_FS]
    mov [esp + F_FS], ecx
    mov dword ptr [esp + F_GS], USER_LDT_DATA
plain_return:
    .byte 0x0F, 0xA9, 0x0F, 0xA1, 0x07, 0x1F # pop gs fs es ds
    popad
    add esp, 8
    iretd

# A single step: on without it.
trap_flag:
    test dword ptr [esp + F_EFLAGS], 0x100
    jz 2b
    and dword ptr [esp + F_EFLAGS], 0xFFFFFEFF
    jmp plain_return

# One page is mapped when it is first used.
page_fault:
    mov ecx, cr2
    and ecx, 0xFFFFF000
    cmp ecx, LAZY_PAGE
    jne recover
    test byte ptr [esp + F_ERROR], 1
    jnz recover
    cmp dword ptr [MAPS_LAZY_PAGE], 0
    je recover
    or dword ptr [LAZY_ENTRY], 1
    jmp plain_return

# System call 82h: the kernel changes what the program's memory and segments are, as a kernel may.
change_tables:
    mov ecx, [esp + F_EAX]
    and ecx, 15
    cmp ecx, 0
    jne 1f
    and dword ptr [LAZY_ENTRY], 0xFFFFFFFE
    jmp flush
1:  cmp ecx, 1
    jne 2f
    xor dword ptr [FLIP_ENTRY], FLIP_BITS # another page
    jmp flush
2:  cmp ecx, 2
    jne 3f
    xor dword ptr [FLIP_ENTRY], 2   # read-only, writable
    jmp flush
3:  cmp ecx, 3
    jne 4f
    xor dword ptr [LDT_DATA_BASE], 0x100 # a descriptor that is loaded
    jmp plain_return
4:  cmp ecx, 4
    jne 5f
    xor dword ptr [TLS_BASE], 0x200
    jmp plain_return
5:  cmp ecx, 5
    jne 6f
    xor dword ptr [CODE_ENTRY], 2   # the code page writable, read-only
    jmp flush
6:  cmp ecx, 6
    jne 7f
    mov eax, cr0                    # the next FPU instruction faults
    or eax, 8
    mov cr0, eax
    jmp plain_return
7:  cmp ecx, 7
    jne 8f
    mov eax, cr0
    and eax, 0xFFFFFFF7
    mov cr0, eax
    jmp plain_return
8:  cmp ecx, 8
    jne plain_return
    xor dword ptr [LONG_RIGHTS], LONG_BITS # a code segment with L comes and goes
    jmp plain_return
flush:
    mov eax, cr3
    mov cr3, eax
    jmp plain_return

timer:
    mov al, 0x20
    out 0x20, al
    # A program that never comes to the kernel by itself is given up; time decides that, so its line
    # says so and is not compared.
    inc dword ptr [TICKS]
    cmp dword ptr [TICKS], MOST_TICKS
    jb plain_return
    test byte ptr [esp + F_CS], 3
    jz plain_return
    mov al, 'H'
    call print_character

# Sums of the program's memory and of its FPU, and the line of the program.
end_of_program:
    clts
    fxsave [FPU_AREA]
    xor eax, eax
    mov [FPU_AREA + 6], ax          # FOP, FIP, FDP differ between processors
    mov [FPU_AREA + 8], eax
    mov [FPU_AREA + 12], eax
    mov [FPU_AREA + 16], eax
    mov [FPU_AREA + 20], eax
    mov [FPU_AREA + 28], eax        # nor do the bits that MXCSR has
    mov esi, FPU_AREA
    mov ecx, 288 / 4
    call sum_of
    mov [FPU_SUM], edx
    mov esi, DATA_PAGES
    mov ecx, DATA_BYTES / 4
    call sum_of
    mov [MEMORY_SUM], edx
    cmp dword ptr [VERBOSE], 2
    jb 2f
    mov ebx, FPU_AREA
    mov esi, FPU_AREA + 288
    call print_memory
    mov ebx, DATA_PAGES
    mov esi, DATA_PAGES + DATA_BYTES
    call print_memory
2:
    mov eax, [PROGRAM]
    call print_number
    mov eax, [EVENTS]
    call print_number
    mov eax, [SUM]
    call print_number
    mov eax, [FPU_SUM]
    call print_number
    mov eax, [MEMORY_SUM]
    call print_number
    call print_line_end
    inc dword ptr [PROGRAM]
    mov esp, KERNEL_STACK
    jmp next_program

sum_of:
    mov edx, 0x811C9DC5
1:  lodsd
    xor edx, eax
    imul edx, edx, 0x01000193
    rol edx, 7
    dec ecx
    jnz 1b
    ret

# A single step that began at ring 3 may end behind a call gate. Any other exception of the kernel
# itself: what and where, and the end.
kernel_event:
    and dword ptr [esp + F_EFLAGS], 0xFFFFFEFF
    cmp eax, 1
    je plain_return
    mov al, 'K'
    call print_character
    mov eax, [esp + F_VECTOR]
    call print_number
    mov eax, [esp + F_ERROR]
    call print_number
    mov eax, [esp + F_EIP]
    call print_number
    mov eax, cr2
    call print_number
    call print_line_end
finish:
    mov al, 'E'
    call print_character
    mov al, 'N'
    call print_character
    mov al, 'D'
    call print_character
    call print_line_end
    mov dx, POWER_PORT
    mov ax, POWER_OFF
    out dx, ax
1:  cli
    hlt
    jmp 1b

# Everything of an event in one line. The frame begins behind the return address.
print_event:
    mov al, '!'
    call print_character
    mov ebx, 0
1:  cmp ebx, 7
    je 2f
    mov eax, [esp + 4 + ebx * 4]
    call print_number
2:  inc ebx
    cmp ebx, F_WORDS
    jb 1b
    mov eax, cr2
    call print_number
    call print_line_end
    ret

# What is from EBX to ESI, a line for four bytes.
print_memory:
    mov al, '@'
    call print_character
    mov eax, ebx
    call print_number
    mov eax, [ebx]
    call print_number
    call print_line_end
    add ebx, 4
    cmp ebx, esi
    jb print_memory
    ret

print_line_end:
    mov al, 10
print_character:
    push edx
    mov ah, al
    mov dx, 0x3FD
1:  in al, dx
    test al, 0x20
    jz 1b
    mov al, ah
    mov dx, 0x3F8
    out dx, al
    pop edx
    ret

# EAX in hexadecimal, behind a blank.
print_number:
    push ebx
    push ecx
    mov ebx, eax
    mov al, ' '
    call print_character
    mov ecx, 8
1:  rol ebx, 4
    mov al, bl
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 2f
    add al, 39
2:  call print_character
    loop 1b
    pop ecx
    pop ebx
    ret
.code64

# Entry to and return from the kernel; exceptions other than page faults; interrupts.

.code32
.balign 16
label trap_stubs
.set VECTOR, 0
.rept 0x30
    .balign 16
    .if (VECTOR == 8) || ((VECTOR >= 10) && (VECTOR <= 14)) || (VECTOR == 17)
    .else
    push 0                          # where the processor pushes no error code
    .endif
    push VECTOR
    jmp trap_common
    .set VECTOR, VECTOR + 1
.endr
.balign 16
label syscall_stub
    push 0
    push 0x80
    # fall through

trap_common:
    pushad
    push_segments
    mov eax, KDATA
    mov ds, eax
    mov es, eax
    cld
    mov ebp, esp
    mov eax, dword ptr [ebp + F_VECTOR]
    cmp eax, 0x80
    je 1f
    call dword ptr [v_trap_handlers + eax * 4]
    jmp trap_return
1:  call system_call

# A new task starts here. Ticks that came while the kernel ran are honoured now: only ring 3 is
# preempted.
label trap_return
    cli
    test byte ptr [esp + F_CS], 3
    jz 1f
    cmp dword ptr [NEED_RESCHED], 0
    je 1f
    mov edx, 1
    call schedule
1:  pop_segments
    popad
    add esp, 8
    iretd

.balign 4
label trap_handlers
    .long v_divide_error, v_unexpected, v_unexpected, v_breakpoint      # 0: #DE, 3: #BP
    .long v_unexpected, v_unexpected, v_unexpected, v_device_not_available  # 7: #NM
    .long v_unexpected, v_unexpected, v_unexpected, v_unexpected
    .long v_unexpected, v_general_protection, v_page_fault, v_unexpected    # 13: #GP, 14: #PF
    .rept 16
    .long v_unexpected
    .endr
    .long v_timer                                                       # 20h: IRQ 0
    .rept 6
    .long v_unexpected
    .endr
    .long v_spurious_master                                             # 27h: IRQ 7
    .rept 7
    .long v_unexpected
    .endr
    .long v_spurious_slave                                              # 2Fh: IRQ 15

# ---- Exceptions ----------------------------------------------------------------------------------

# Count an event of the running task: `count TR_FAULTS`. Changes ECX.
.macro count field
    mov ecx, dword ptr [CURRENT]
    mov ecx, dword ptr [ecx + T_RES]
    inc dword ptr [ecx + \field]
.endm

# A task may divide by zero with DIV ECX: the instruction is skipped.
label divide_error
    test byte ptr [ebp + F_CS], 3
    jz unexpected
    mov eax, dword ptr [ebp + F_EIP]
    cmp word ptr [eax], 0xF1F7
    jne unexpected
    add dword ptr [ebp + F_EIP], 2
    count TR_DIVIDES
    ret

label breakpoint
    test byte ptr [ebp + F_CS], 3
    jz unexpected
    count TR_BREAKPOINTS
    ret

# A task may try CLI: IOPL is 0, so it cannot mask interrupts; the instruction is skipped.
label general_protection
    test byte ptr [ebp + F_CS], 3
    jz unexpected
    mov eax, dword ptr [ebp + F_EIP]
    cmp byte ptr [eax], 0xFA
    jne unexpected
    cmp dword ptr [ebp + F_ERROR], 0
    jne unexpected
    inc dword ptr [ebp + F_EIP]
    count TR_PROTECTION
    ret

# The x87 registers move between tasks only when a task uses them: CR0.TS is set at each switch, and
# the first x87 instruction after it arrives here.
label device_not_available
    test byte ptr [ebp + F_CS], 3
    jz unexpected
    clts
    inc dword ptr [RES + RES_FPU_TRAPS]
    mov eax, dword ptr [CURRENT]
    mov ecx, dword ptr [FPU_OWNER]
    cmp eax, ecx
    je 3f
    inc dword ptr [RES + RES_FPU_MOVES]
    test ecx, ecx
    jz 1f
    fnsave [ecx + T_FPU]
1:  mov dword ptr [FPU_OWNER], eax
    cmp dword ptr [eax + T_FPU_USED], 0
    je 2f
    frstor [eax + T_FPU]
    ret
2:  mov dword ptr [eax + T_FPU_USED], 1
    fninit
3:  ret

# ---- Interrupts ----------------------------------------------------------------------------------

label timer
    mov al, PIC_EOI
    out PIC1_CMD, al
    inc dword ptr [RES + RES_TICKS]
    mov eax, dword ptr [P_TICKS + KERNEL]
    inc eax
    mov dword ptr [P_TICKS + KERNEL], eax
    mov edx, TCB + TCB_SIZE
1:  cmp dword ptr [edx + T_STATE], SLEEPING
    jne 2f
    mov ecx, eax
    sub ecx, dword ptr [edx + T_WAKE]       # signed, so that the counter may wrap
    js 2f
    mov dword ptr [edx + T_STATE], READY
2:  add edx, TCB_SIZE
    cmp edx, TCB_END
    jb 1b
    mov dword ptr [NEED_RESCHED], 1
    test byte ptr [ebp + F_CS], 3
    jz 3f
    count TR_TICKS
3:  ret

# IRQ 7 and IRQ 15 are masked, so what arrives there is spurious: the in-service bit is clear and no
# EOI is due, except at the master for a spurious interrupt of the slave.
label spurious_master
    mov al, PIC_READ_ISR
    out PIC1_CMD, al
    in al, PIC1_CMD
    test al, 0x80
    jnz unexpected
    inc dword ptr [RES + RES_SPURIOUS]
    ret

label spurious_slave
    mov al, PIC_READ_ISR
    out PIC2_CMD, al
    in al, PIC2_CMD
    test al, 0x80
    jnz unexpected
    inc dword ptr [RES + RES_SPURIOUS]
    mov al, PIC_EOI
    out PIC1_CMD, al
    ret

# ---- The end of a kernel that met what it did not expect -----------------------------------------

label unexpected
    cli
    mov eax, dword ptr [ebp + F_VECTOR]
    add eax, 0x100
    mov dword ptr [RES + RES_STATUS], eax
    mov esi, offset v_text_unexpected
    call put_text
    mov eax, dword ptr [ebp + F_VECTOR]
    call put_hex
    mov eax, dword ptr [ebp + F_ERROR]
    call put_hex
    mov eax, dword ptr [ebp + F_EIP]
    call put_hex
    mov eax, cr2
    call put_hex
    mov al, 10
    call put_char
    mov dword ptr [RES + RES_MAGIC], MAGIC
    mov edx, PM1A_CNT
    mov eax, PM1A_S5
    out dx, ax
1:  cli
    hlt
    jmp 1b

label text_unexpected
    .asciz "\r\nringshift demo: unexpected trap; vector, error code, EIP, CR2:"

put_text:
    lodsb
    test al, al
    jz 1f
    call put_char
    jmp put_text
1:  ret

put_hex:
    mov ecx, 8
    mov ebx, eax
    mov al, 32
    call put_char
1:  rol ebx, 4
    mov al, bl
    and al, 15
    cmp al, 10
    sbb al, 0x69                    # with DAS: 0-9 and A-F without a branch
    das
    call put_char
    loop 1b
    ret

# Print AL. Keeps all other registers.
put_char:
    push edx
    push ecx
    push eax
    mov edx, COM1_LSR
    mov ecx, 0x10000
1:  in al, dx
    test al, LSR_THRE
    jnz 2f
    loop 1b
2:  mov edx, COM1
    pop eax
    out dx, al
    pop ecx
    pop edx
    ret

# The way back: paging off, protected mode off, interrupts in real mode, the report, power-off.

.code32
# All tasks have ended; this is the idle context, on the boot directory, with IF = 0.
all_done:
    mov al, 0xFF
    out PIC1_DATA, al
    mov eax, dword ptr [FREE_COUNT]
    mov dword ptr [RES + RES_FRAMES_AFTER], eax
    mov eax, offset p_leave_paging          # continue where linear and physical addresses agree
    jmp eax

label leave_paging
    sub esp, KERNEL
    mov eax, cr0
    and eax, ~(CR0_PG + CR0_WP + CR0_NE + CR0_TS + CR0_MP)
    mov cr0, eax
    xor eax, eax
    mov cr3, eax
    test dword ptr [RESULT + RES_FEATURES], 1
    jz 1f
    mov cr4, eax
1:  lgdt [p_gdtr_low]                       # the table by its physical address
    .byte 0xEA                              # jmp far CODE16:r_protected16
    .long r_protected16
    .word CODE16

.code16
# 16-bit protected mode: the segment registers take limits and types that real mode expects (SDM
# vol. 3, 10.9.2).
label protected16
    mov ax, DATA16
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov eax, cr0
    and eax, ~CR0_PE
    mov cr0, eax
    .byte 0xEA                              # jmp far LOAD>>4:r_real_again
    .word r_real_again, LOAD >> 4

label real_again
    mov ax, cs
    mov ds, ax
    xor ax, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov sp, REAL_STACK_TOP
    lidt [r_idtr_real]

    # The interrupt controllers as a BIOS sets them: vectors 8 and 70h. Then five ticks through a
    # real-mode handler.
    mov al, 0x11
    out PIC1_CMD, al
    out PIC2_CMD, al
    mov al, 8
    out PIC1_DATA, al
    mov al, 0x70
    out PIC2_DATA, al
    mov al, 4
    out PIC1_DATA, al
    mov al, 2
    out PIC2_DATA, al
    mov al, 1
    out PIC1_DATA, al
    out PIC2_DATA, al
    mov al, 0xFF
    out PIC2_DATA, al
    mov word ptr es:[8 * 4], offset r_tick16
    mov word ptr es:[8 * 4 + 2], cs
    mov word ptr es:[15 * 4], offset r_spurious16
    mov word ptr es:[15 * 4 + 2], cs
    mov al, 0xFE
    out PIC1_DATA, al
1:  cli
    cmp dword ptr es:[RESULT + RES_REAL_TICKS], 5
    jae 2f
    sti
    hlt
    jmp 1b
2:  mov al, 0xFF
    out PIC1_DATA, al

    call16 image_sum
    mov dword ptr es:[RESULT + RES_SUM_AFTER], eax
    mov dword ptr es:[RESULT + RES_STATUS], 1
    mov dword ptr es:[RESULT + RES_MAGIC], MAGIC
    call16 report
    jmp power_off

label tick16
    push ax
    push ds
    xor ax, ax
    mov ds, ax
    inc dword ptr [RESULT + RES_REAL_TICKS]
    mov al, PIC_EOI
    out PIC1_CMD, al
    pop ds
    pop ax
label spurious16
    iret

# ---- The report: a table of texts and fields of the result block ---------------------------------

report:
    mov si, offset r_report_table
1:  lodsb                                   # kind
    test al, al
    jz 4f
    mov bl, al
    lodsw                                   # offset of the field
    mov di, ax
    call16 puts16
    mov eax, dword ptr es:[RESULT + di]
    cmp bl, 1
    je 2f
    call16 put_decimal16
    jmp 1b
2:  call16 put_hex16
    jmp 1b
4:  mov si, offset r_text_end
    call16 puts16
    ret16

# EAX in hexadecimal, eight digits.
put_hex16:
    mov cx, 8
    mov edx, eax
1:  rol edx, 4
    mov al, dl
    and al, 15
    add al, 0x90                            # the old trick with DAA: 0-9, A-F
    daa
    adc al, 0x40
    daa
    call16 putc16
    loop 1b
    ret16

# EAX in decimal: the digits go to the stack first.
put_decimal16:
    mov ebx, 10
    xor cx, cx
1:  xor edx, edx
    div ebx
    push dx
    inc cx
    test eax, eax
    jnz 1b
2:  pop ax
    add al, 0x30
    call16 putc16
    loop 2b
    ret16

.set HEX, 1
.set DECIMAL, 2
.macro report_line kind, field, text
    .byte \kind
    .word \field
    .asciz "\text"
.endm
.macro report_task index, name
    .set TASK_FIELDS, RES_TASKS + RES_TASK_SIZE * (\index - 1)
    report_line HEX, TASK_FIELDS + TR_VALUES, "\r\ntask \index (\name): "
    report_line HEX, TASK_FIELDS + TR_VALUES + 4, " "
    report_line HEX, TASK_FIELDS + TR_VALUES + 8, " "
    report_line HEX, TASK_FIELDS + TR_VALUES + 12, " "
    report_line DECIMAL, TASK_FIELDS + TR_FAULTS, "\r\n  page faults "
    report_line DECIMAL, TASK_FIELDS + TR_KERNEL_FAULTS, " (in the kernel "
    report_line DECIMAL, TASK_FIELDS + TR_SYSCALLS, "), system calls "
    report_line DECIMAL, TASK_FIELDS + TR_DIVIDES, ", divide errors "
    report_line DECIMAL, TASK_FIELDS + TR_PROTECTION, ", protection faults "
    report_line DECIMAL, TASK_FIELDS + TR_BREAKPOINTS, ", breakpoints "
    report_line DECIMAL, TASK_FIELDS + TR_TICKS, ", ticks "
.endm

label report_table
    report_line DECIMAL, RES_TICKS, "ringshift demo: real mode again\r\nticks "
    report_line DECIMAL, RES_REAL_TICKS, " + "
    report_line DECIMAL, RES_SWITCHES, " in real mode, context switches "
    report_line DECIMAL, RES_PREEMPTIONS, ", preemptions "
    report_line DECIMAL, RES_HALTS, ", halts "
    report_line DECIMAL, RES_FPU_TRAPS, "\r\nx87 traps "
    report_line DECIMAL, RES_FPU_MOVES, ", state moves "
    report_line DECIMAL, RES_FRAMES_BEFORE, ", free frames "
    report_line DECIMAL, RES_FRAMES_AFTER, " -> "
    report_line HEX, RES_SUM_BEFORE, ", image sum "
    report_line HEX, RES_SUM_AFTER, " -> "
    report_task 1, "integer"
    report_task 2, "x87"
    report_task 3, "pager"
    report_line DECIMAL, TASK_FIELDS + TR_EVICTIONS, "\r\n  evictions "
    report_line DECIMAL, TASK_FIELDS + TR_WRITEBACKS, ", written back "
    report_line DECIMAL, TASK_FIELDS + TR_SWAP_INS, ", read back "
    report_line DECIMAL, TASK_FIELDS + TR_COPIES, ", pages of zeros written "
    .byte 0
label text_end
    .asciz "\r\nringshift demo: power off\r\n"

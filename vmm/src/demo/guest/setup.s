# Protected mode: page tables, paging, the interrupt table, the interrupt controllers and the timer,
# the tasks.

.code32
# Entered with paging off: addresses are physical, hence the `- KERNEL`.
label start32
    mov eax, KDATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov esp, P_STACKS + 0x1000

    # Variables, tables, stacks and page tables start as zeros; the descriptor table is already
    # there.
    xor eax, eax
    mov edi, P_VARS
    mov ecx, 0x1000 / 4
    rep stosd
    mov edi, P_IDT
    mov ecx, (P_KMAP_PT + 0x1000 - P_IDT) / 4
    rep stosd

    # EBX = directory entry for the first 4 MiB: a large page, or a page table.
    call has_pse
    jz 1f
    mov eax, cr4
    or eax, CR4_PSE
    mov cr4, eax
    or dword ptr [RESULT + RES_FEATURES], 1
    mov ebx, PTE_P + PTE_W + PDE_PS
    jmp 3f
1:  mov ebx, P_LOW_PT + PTE_P + PTE_W
    mov edi, P_LOW_PT
    mov eax, PTE_P + PTE_W
2:  stosd
    add eax, 0x1000
    cmp eax, 0x400000
    jb 2b

    # The same 4 MiB twice: at 0, for the instructions around the change of CR0.PG, and at KERNEL.
3:  mov dword ptr [P_BOOT_PD], ebx
    mov dword ptr [P_BOOT_PD + (KERNEL >> 22) * 4], ebx
    mov dword ptr [P_BOOT_PD + (KMAP >> 22) * 4], P_KMAP_PT + PTE_P + PTE_W
    mov eax, P_BOOT_PD
    mov cr3, eax
    mov eax, cr0
    or eax, CR0_PG + CR0_WP + CR0_NE + CR0_TS + CR0_MP
    mov cr0, eax
    mov eax, offset v_start_high
    jmp eax

# ZF = 0 if CPUID exists (EFLAGS.ID can be changed) and reports PSE. Changes EAX, EBX, ECX, EDX.
has_pse:
    pushfd
    pop eax
    mov ecx, eax
    xor eax, EFLAGS_ID
    push eax
    popfd
    pushfd
    pop eax
    push ecx
    popfd
    xor eax, ecx
    test eax, EFLAGS_ID
    jz 1f
    mov eax, 1
    cpuid
    test edx, CPUID_PSE
1:  ret

label start_high
    add esp, KERNEL
    lgdt [v_gdtr_high]
    call build_idt
    lidt [v_idtr]
    mov dword ptr [TSS + 8], KDATA          # SS0; ESP0 is written at each task switch
    mov dword ptr [TSS + 0x64], 0x680000    # I/O map base beyond the limit: no port for ring 3
    mov eax, TSSSEL
    ltr ax
    call init_pic_pit
    call frames_init
    call create_tasks
    mov al, 0xFE                            # only IRQ 0
    out PIC1_DATA, al
    jmp idle

# Vectors 0 to 2Fh lead to equally spaced stubs, 80h to the system call stub. All are interrupt
# gates; INT3, INTO and INT 80h may be used from ring 3.
build_idt:
    mov edi, IDT
    mov eax, offset v_trap_stubs
    mov ecx, 0x30
1:  mov edx, 0x8E00
    call write_gate
    add eax, 16
    loop 1b
    or dword ptr [IDT + 3 * 8 + 4], 0x6000
    or dword ptr [IDT + 4 * 8 + 4], 0x6000
    mov edi, IDT + 0x80 * 8
    mov eax, offset v_syscall_stub
    mov edx, 0xEE00
    # fall through

# Write a gate at EDI for the handler EAX with the type and DPL in DX; EDI moves to the next.
write_gate:
    push eax
    mov word ptr [edi], ax
    mov word ptr [edi + 2], KCODE
    mov word ptr [edi + 4], dx
    shr eax, 16
    mov word ptr [edi + 6], ax
    add edi, 8
    pop eax
    ret

# Both 8259s: edge triggered, cascaded, vectors 20h to 2Fh, everything masked. Channel 0 of the
# 8254: mode 2.
init_pic_pit:
    mov al, 0x11
    out PIC1_CMD, al
    out PIC2_CMD, al
    mov al, IRQ_BASE
    out PIC1_DATA, al
    mov al, IRQ_BASE + 8
    out PIC2_DATA, al
    mov al, 4                               # the slave is at IR2
    out PIC1_DATA, al
    mov al, 2
    out PIC2_DATA, al
    mov al, 1                               # 8086 mode, ordinary EOI
    out PIC1_DATA, al
    out PIC2_DATA, al
    mov al, 0xFF
    out PIC1_DATA, al
    out PIC2_DATA, al
    mov al, 0x34
    out PIT_CTRL, al
    mov al, PIT_DIVISOR & 0xFF
    out PIT_CH0, al
    mov al, PIT_DIVISOR >> 8
    out PIT_CH0, al
    ret

# The idle context becomes control block 0; tasks 1 to 3 get an address space, a kernel stack and a
# first trap frame.
create_tasks:
    mov dword ptr [CURRENT], TCB
    mov dword ptr [TCB + T_CR3], P_BOOT_PD
    mov dword ptr [TCB + T_RES], RES + RES_TASKS + RES_TASK_SIZE * TASKS     # nobody reads it
    mov dword ptr [LIVE_TASKS], TASKS
    xor edi, edi                            # EDI = index of the task, from 0
1:  call create_task
    inc edi
    cmp edi, TASKS
    jb 1b
    ret

create_task:
    mov esi, edi
    shl esi, 8
    add esi, TCB + TCB_SIZE                 # ESI = control block
    call frame_alloc                        # the directory, with the kernel's half
    mov dword ptr [esi + T_CR3], eax
    push esi
    push edi
    lea edi, [eax + KERNEL + (KERNEL >> 20)]
    mov esi, P_BOOT_PD + KERNEL + (KERNEL >> 20)
    mov ecx, 256
    rep movsd
    pop edi
    pop esi

    mov edx, dword ptr [esi + T_CR3]        # the tick page; everything else is mapped on demand
    mov eax, TICK_PAGE
    call pte_of
    mov dword ptr [eax], P_TICKS + PTE_P + PTE_U

    mov eax, dword ptr [v_task_text + edi * 4]
    mov dword ptr [esi + T_TEXT], eax
    mov eax, edi
    shl eax, 6
    lea ecx, [eax + USER_TLS]
    mov dword ptr [esi + T_TLS], ecx
    add eax, RES + RES_TASKS
    mov dword ptr [esi + T_RES], eax
    mov eax, edi
    shl eax, 10
    add eax, P_FIFO + KERNEL
    mov dword ptr [esi + T_FIFO], eax
    mov eax, dword ptr [v_param_seed]       # odd, so never zero
    or eax, 1
    mov dword ptr [esi + T_PRNG], eax
    mov dword ptr [esi + T_STATE], READY

    # The kernel stack: what an interrupt in ring 3 would have left there, under it what switch_to
    # pops.
    mov eax, edi
    shl eax, 12
    add eax, P_STACKS + KERNEL + 0x2000
    mov dword ptr [esi + T_ESP0], eax
    mov dword ptr [eax - 4], UDATA          # SS
    mov dword ptr [eax - 8], USER_TOP       # ESP
    mov dword ptr [eax - 12], 0x202         # EFLAGS: IF, IOPL 0
    mov dword ptr [eax - 16], UCODE         # CS
    mov dword ptr [eax - 20], USER_TEXT     # EIP
    sub eax, FRAME_SIZE
    mov dword ptr [eax + F_DS], UDATA
    mov dword ptr [eax + F_ES], UDATA
    mov dword ptr [eax + F_GS], UTLS
    mov ecx, dword ptr [v_param_seed]       # a task starts with EBX, ECX = seed, EDX = rounds
    mov dword ptr [eax + F_EBX], ecx
    mov ecx, dword ptr [v_param_seed + 4]
    mov dword ptr [eax + F_ECX], ecx
    mov ecx, dword ptr [v_param_rounds + edi * 4]
    mov dword ptr [eax + F_EDX], ecx
    mov dword ptr [eax - 4], offset v_trap_return
    sub eax, 20                             # EDI, ESI, EBX, EBP, return address
    mov dword ptr [esi + T_ESP], eax
    ret

.balign 4
label task_text
    .long p_task_integer, p_task_float, p_task_pager

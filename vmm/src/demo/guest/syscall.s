# System calls: int 0x80, number in EAX, arguments in EBX and ECX, result in EAX.

.code32
system_call:
    count TR_SYSCALLS
    mov eax, dword ptr [ebp + F_EAX]
    cmp eax, SYSCALLS
    jae 1f
    call dword ptr [v_syscall_table + eax * 4]
    mov dword ptr [ebp + F_EAX], eax
    ret
1:  mov dword ptr [ebp + F_EAX], ENOSYS
    ret

.balign 4
label syscall_table
    .long v_sys_exit, v_sys_write, v_sys_sleep, v_sys_fill, v_sys_yield, v_sys_wait_others

label sys_exit
    mov esi, dword ptr [CURRENT]
    mov edi, dword ptr [esi + T_RES]
    mov eax, dword ptr [ebp + F_EBX]
    mov dword ptr [edi], eax
    mov eax, dword ptr [ebp + F_ECX]
    mov dword ptr [edi + 4], eax
    mov eax, dword ptr [ebp + F_EDX]
    mov dword ptr [edi + 8], eax
    mov eax, dword ptr [ebp + F_ESI]
    mov dword ptr [edi + 12], eax

    cmp dword ptr [FPU_OWNER], esi          # the x87 registers belong to nobody now
    jne 1f
    mov dword ptr [FPU_OWNER], 0
1:  mov edx, dword ptr [esi + T_CR3]        # leave the address space, then free it
    mov eax, P_BOOT_PD
    mov cr3, eax
    mov dword ptr [esi + T_CR3], eax
    call free_space

    mov dword ptr [esi + T_STATE], DEAD
    dec dword ptr [LIVE_TASKS]
    cmp dword ptr [LIVE_TASKS], 1
    jne 3f
    mov eax, TCB + TCB_SIZE                 # the last one may be waiting for this
2:  cmp dword ptr [eax + T_STATE], WAITING
    jne 4f
    mov dword ptr [eax + T_STATE], READY
4:  add eax, TCB_SIZE
    cmp eax, TCB_END
    jb 2b
3:  xor edx, edx
    call schedule                           # does not return: the state is DEAD
    ud2

# Interrupts are on while the text goes out: a tick is counted and acted on when the call returns.
# Reading the text may fault, which is ordinary.
label sys_write
    mov ecx, dword ptr [ebp + F_ECX]
    call user_range
    jc 2f
    mov ecx, dword ptr [ebp + F_ECX]
    mov esi, dword ptr [ebp + F_EBX]
    sti
    jecxz 1f
3:  lodsb
    call put_char
    loop 3b
1:  mov eax, dword ptr [ebp + F_ECX]
2:  ret

label sys_sleep
    mov esi, dword ptr [CURRENT]
    mov eax, dword ptr [P_TICKS + KERNEL]
    add eax, dword ptr [ebp + F_EBX]
    mov dword ptr [esi + T_WAKE], eax
    mov dword ptr [esi + T_STATE], SLEEPING
    jmp sys_yield

# The kernel writes to the task's memory, so it takes the page faults.
label sys_fill
    mov ecx, dword ptr [ebp + F_ECX]
    shl ecx, 2
    call user_range
    jc 2f
    mov ecx, dword ptr [ebp + F_ECX]
    mov edi, dword ptr [ebp + F_EBX]
    mov esi, dword ptr [CURRENT]
    mov ebx, dword ptr [esi + T_PRNG]
    jecxz 1f
3:  xorshift ebx, eax
    mov eax, ebx
    stosd
    loop 3b
1:  mov dword ptr [esi + T_PRNG], ebx
    mov eax, dword ptr [ebp + F_ECX]
2:  ret

label sys_yield
    xor edx, edx
    call schedule
    xor eax, eax
    ret

label sys_wait_others
    cmp dword ptr [LIVE_TASKS], 1
    je sys_yield
    mov esi, dword ptr [CURRENT]
    mov dword ptr [esi + T_STATE], WAITING
    jmp sys_yield

# CF = 1 and EAX = EFAULT unless ECX bytes (at most 1,024) at the caller's EBX lie below the kernel.
user_range:
    mov eax, EFAULT
    cmp ecx, 1024
    ja 1f
    add ecx, dword ptr [ebp + F_EBX]
    jc 2f
    cmp ecx, KERNEL
    ja 1f
    clc
    ret
1:  stc
2:  ret

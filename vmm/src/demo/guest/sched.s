# The scheduler: round robin at every tick, idle when nobody can run.

.code32
# The idle context. STI takes effect after the instruction that follows it, so no tick can slip in
# before HLT.
idle:
    cli
    cmp dword ptr [LIVE_TASKS], 0
    je all_done
    xor edx, edx
    call schedule                           # comes back when no task is ready
    cmp dword ptr [LIVE_TASKS], 0
    je all_done
    inc dword ptr [RES + RES_HALTS]
    sti
    hlt
    jmp idle

# Switch to the next ready task, or to the idle context if there is none. IF must be 0. EDX = 1 if
# the running task is being preempted, 0 if it gave up the processor. Returns when the caller's task
# runs again. Keeps EBX, ESI, EDI, EBP.
schedule:
    push ebp
    push ebx
    push esi
    push edi
    mov dword ptr [NEED_RESCHED], 0
    mov esi, dword ptr [CURRENT]
    mov edi, esi
    mov ecx, TASKS
1:  add edi, TCB_SIZE
    cmp edi, TCB_END
    jb 2f
    mov edi, TCB + TCB_SIZE
2:  cmp dword ptr [edi + T_STATE], READY
    je 3f
    loop 1b
    mov edi, TCB
3:  cmp edi, esi
    je 4f

    inc dword ptr [RES + RES_SWITCHES]
    add dword ptr [RES + RES_PREEMPTIONS], edx
    mov dword ptr [esi + T_ESP], esp
    mov dword ptr [CURRENT], edi
    mov esp, dword ptr [edi + T_ESP]
    mov eax, dword ptr [edi + T_CR3]
    mov cr3, eax
    mov eax, dword ptr [edi + T_ESP0]
    mov dword ptr [TSS + 4], eax
    mov eax, dword ptr [edi + T_TLS]        # the base of GS, which is reloaded on the way out
    mov word ptr [GDT + (UTLS & ~7) + 2], ax
    shr eax, 16
    mov byte ptr [GDT + (UTLS & ~7) + 4], al
    mov byte ptr [GDT + (UTLS & ~7) + 7], ah
    mov eax, cr0
    or eax, CR0_TS
    mov cr0, eax
4:  pop edi
    pop esi
    pop ebx
    pop ebp
    ret

# Memory: page frames, page tables, demand paging with a quota, swapping.

.code32
frames_init:
    mov dword ptr [FREE_HEAD], 0
    mov dword ptr [FREE_BUMP], P_POOL
    mov dword ptr [FREE_COUNT], (P_POOL_END - P_POOL) / 0x1000
    mov dword ptr [SWAP_NEXT], 1
    mov dword ptr [RES + RES_FRAMES_BEFORE], (P_POOL_END - P_POOL) / 0x1000
    ret

# A frame of zeros: its physical address in EAX. The pool is larger than three tasks with their
# quotas, so that it cannot run dry unless the kernel leaks, and then the trap handler reports it.
frame_alloc:
    push ecx
    push edi
    mov eax, dword ptr [FREE_HEAD]
    test eax, eax
    jz 1f
    mov ecx, dword ptr [eax + KERNEL]
    mov dword ptr [FREE_HEAD], ecx
    jmp 2f
1:  mov eax, dword ptr [FREE_BUMP]
    add dword ptr [FREE_BUMP], 0x1000
2:  dec dword ptr [FREE_COUNT]
    push eax
    lea edi, [eax + KERNEL]
    xor eax, eax
    mov ecx, 1024
    rep stosd
    pop eax
    pop edi
    pop ecx
    ret

# Give back the frame EAX.
frame_free:
    push ecx
    mov ecx, dword ptr [FREE_HEAD]
    mov dword ptr [eax + KERNEL], ecx
    mov dword ptr [FREE_HEAD], eax
    inc dword ptr [FREE_COUNT]
    pop ecx
    ret

# EAX = kernel's address of the page-table entry for the linear address EAX in the directory EDX;
# the page table is made if there is none.
pte_of:
    push ebx
    push ecx
    mov ebx, eax
    shr eax, 22
    lea ecx, [edx + eax * 4 + KERNEL]
    mov eax, dword ptr [ecx]
    test al, PTE_P
    jnz 1f
    call frame_alloc
    or eax, PTE_P + PTE_W + PTE_U
    mov dword ptr [ecx], eax
1:  and eax, 0xFFFFF000
    shr ebx, 10
    and ebx, 0xFFC
    lea eax, [eax + ebx + KERNEL]
    pop ecx
    pop ebx
    ret

# Free the user half of the directory EDX, and the directory, which must not be in use. Frames that
# are not of the pool (text, tick page, page of zeros) stay.
free_space:
    push esi
    push edi
    push ebx
    xor esi, esi                            # ESI = directory index
1:  mov ebx, dword ptr [edx + esi * 4 + KERNEL]
    test bl, PTE_P
    jz 4f
    and ebx, 0xFFFFF000                     # EBX = page table
    xor edi, edi
2:  mov eax, dword ptr [ebx + edi * 4 + KERNEL]
    test al, PTE_P
    jz 3f
    and eax, 0xFFFFF000
    cmp eax, P_POOL
    jb 3f
    call frame_free
3:  inc edi
    cmp edi, 1024
    jb 2b
    mov eax, ebx
    call frame_free
4:  inc esi
    cmp esi, KERNEL >> 22
    jb 1b
    mov eax, edx
    call frame_free
    pop ebx
    pop edi
    pop esi
    ret

# ---- Page faults ---------------------------------------------------------------------------------

.set PF_PRESENT, 1                          # error code: the page was there, the right was not
.set PF_WRITE, 2
.set PF_USER, 4

# The kernel itself may fault here on a user address, in a system call (CR0.WP is set, so also on a
# read-only page).
label page_fault
    mov ebx, cr2
    mov esi, dword ptr [CURRENT]
    cmp esi, TCB
    je unexpected
    count TR_FAULTS
    mov edx, dword ptr [esi + T_CR3]
    test dword ptr [ebp + F_ERROR], PF_USER
    jnz 1f
    count TR_KERNEL_FAULTS

1:  cmp ebx, SPARSE
    jb 2f
    cmp ebx, SPARSE_END
    jb sparse_fault
2:  mov eax, ebx                            # all other areas: nothing may be present yet
    test dword ptr [ebp + F_ERROR], PF_PRESENT
    jnz unexpected
    cmp ebx, USER_TEXT
    jb unexpected
    cmp ebx, USER_TEXT + 0x1000
    jb text_fault
    cmp ebx, HEAP
    jb unexpected
    cmp ebx, HEAP_END
    jb 3f
    cmp ebx, USER_TLS
    jb unexpected
    cmp ebx, KERNEL
    jae unexpected

3:  call pte_of                             # heap, stack, GS: a page of zeros of its own
    mov ecx, eax
    call frame_alloc
    or eax, PTE_P + PTE_W + PTE_U
    mov dword ptr [ecx], eax
    ret

text_fault:                                 # the task's code, read-only, straight from the image
    test dword ptr [ebp + F_ERROR], PF_WRITE
    jnz unexpected
    call pte_of
    mov ecx, dword ptr [esi + T_TEXT]
    or ecx, PTE_P + PTE_U
    mov dword ptr [eax], ecx
    ret

# A page of SPARSE is in one of four states, told by its entry:
#   0                     never touched
#   present, P_ZERO       only read so far: the shared page of zeros, read-only
#   present, own frame    resident, counted against the quota
#   not present, slot     swapped out
# EBX = address, ESI = control block, EDX = directory.
sparse_fault:
    and ebx, 0xFFFFF000
    mov eax, ebx
    call pte_of
    mov edi, eax                            # EDI = entry
    mov eax, dword ptr [edi]
    test dword ptr [ebp + F_ERROR], PF_PRESENT
    jnz 2f
    test al, PTE_P
    jnz unexpected                          # "not present" for a present page
    test eax, eax
    jnz 3f
    test dword ptr [ebp + F_ERROR], PF_WRITE
    jnz 1f
    mov dword ptr [edi], P_ZERO + PTE_P + PTE_U
    count TR_ZERO_MAPS
    ret
1:  xor eax, eax                            # first access, a write
    call resident_page
    or eax, PTE_P + PTE_W + PTE_U
    mov dword ptr [edi], eax
    ret

2:  and eax, 0xFFFFF000                     # write to a present page: must be the page of zeros
    cmp eax, P_ZERO
    jne unexpected
    test dword ptr [ebp + F_ERROR], PF_WRITE
    jz unexpected
    count TR_COPIES
    xor eax, eax
    call resident_page
    or eax, PTE_P + PTE_W + PTE_U
    mov dword ptr [edi], eax
    invlpg [ebx]                            # the read-only translation may be cached
    ret

3:  shr eax, 12                             # swapped out
    push eax
    call resident_page
    pop ecx
    or eax, PTE_P + PTE_W + PTE_U
    mov dword ptr [edi], eax
    and eax, 0xFFFFF000
    lea edi, [eax + KERNEL]
    mov eax, ecx
    call map_slot
    mov esi, KMAP
    mov ecx, 1024
    rep movsd
    count TR_SWAP_INS
    ret

# A frame for the page EBX, whose content has the swap slot EAX (0 = none): the newest entry of the
# FIFO. If the quota is used up the oldest page goes first. Result in EAX; keeps the rest.
resident_page:
    push eax
    push ecx
    cmp dword ptr [esi + T_FIFO_COUNT], SPARSE_QUOTA
    jb 1f
    call evict
1:  mov ecx, dword ptr [esi + T_FIFO_HEAD]
    add ecx, dword ptr [esi + T_FIFO_COUNT]
    cmp ecx, SPARSE_QUOTA
    jb 2f
    sub ecx, SPARSE_QUOTA
2:  shl ecx, 3
    add ecx, dword ptr [esi + T_FIFO]
    mov dword ptr [ecx], ebx
    mov eax, dword ptr [esp + 4]
    mov dword ptr [ecx + 4], eax
    inc dword ptr [esi + T_FIFO_COUNT]
    call frame_alloc
    pop ecx
    add esp, 4
    ret

# Evict the oldest resident page of the task ESI, whose directory is EDX. The entry goes first, then
# the cached translation, then the content, if the dirty bit says that it changed.
evict:
    pushad
    mov ecx, dword ptr [esi + T_FIFO_HEAD]
    lea edi, [ecx + 1]
    cmp edi, SPARSE_QUOTA
    jb 1f
    xor edi, edi
1:  mov dword ptr [esi + T_FIFO_HEAD], edi
    dec dword ptr [esi + T_FIFO_COUNT]
    shl ecx, 3
    add ecx, dword ptr [esi + T_FIFO]
    mov ebx, dword ptr [ecx]                # EBX = address
    mov edi, dword ptr [ecx + 4]            # EDI = slot
    mov eax, ebx
    call pte_of
    mov ebp, dword ptr [eax]                # EBP = old entry
    test ebp, PTE_A
    jnz 2f
    inc dword ptr [RES + RES_LOST_ACCESSED]
2:  test edi, edi
    jnz 3f
    mov edi, dword ptr [SWAP_NEXT]          # never been outside: it got its frame to be written
    inc dword ptr [SWAP_NEXT]
    test ebp, PTE_D
    jnz 3f
    inc dword ptr [RES + RES_LOST_DIRTY]
3:  mov ecx, edi
    shl ecx, 12
    mov dword ptr [eax], ecx
    invlpg [ebx]
    count TR_EVICTIONS
    mov eax, ebp
    and eax, 0xFFFFF000
    test ebp, PTE_D
    jz 4f
    push eax
    lea esi, [eax + KERNEL]
    mov eax, edi
    call map_slot
    mov edi, KMAP
    mov ecx, 1024
    rep movsd
    count TR_WRITEBACKS
    pop eax
4:  call frame_free
    popad
    ret

# Map swap slot EAX at KMAP. The swap area lies beyond the memory that the kernel has mapped for
# good.
map_slot:
    shl eax, 12
    add eax, P_SWAP - 0x1000 + PTE_P + PTE_W
    mov dword ptr [P_KMAP_PT + KERNEL], eax
    invlpg [KMAP]
    ret

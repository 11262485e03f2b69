# Task 3, ring 3: reads and writes in a sparse region of SPARSE_PAGES pages, of which the kernel
# keeps SPARSE_QUOTA in memory; system calls; a little x87 with another rounding mode than task 2's;
# text. The same computation in Rust, with a model of the kernel's paging, is ../expected/pager.rs.

.code32
.balign 4096
.set PGR_SALT,   0x85EBCA6B
.set PGR_X,      HEAP + 0x00
.set PGR_ROUND,  HEAP + 0x04
.set PGR_ROUNDS, HEAP + 0x08
.set PGR_TMP,    HEAP + 0x0C
.set PGR_CW,     HEAP + 0x10
.set PGR_SUM,    HEAP + 0x14
.set PGR_LINE,   HEAP + 0x20

# EDI = hash, EBX = generator, EBP = page, ESI = address of the doubleword.
label task_pager
    seed_generator PGR_SALT
    mov dword ptr [PGR_ROUNDS], edx
    mov dword ptr gs:[0], 0
    xor edi, edi
    xor ebp, ebp
    await_tick
    mov word ptr [PGR_CW], 0xE7F    # truncate, 53 bits
    fldcw word ptr [PGR_CW]

pager_round:
    xorshift ebx, eax

    # One round in four goes to any page, the others to one of the eight that follow the last.
    mov eax, ebx
    shr eax, 24
    test byte ptr [PGR_ROUND], 3
    jz 1f
    shr eax, 5
    add eax, ebp
1:  and eax, SPARSE_PAGES - 1
    mov ebp, eax
    imul esi, eax, SPARSE_STRIDE
    mov eax, ebx
    shr eax, 2
    and eax, 0xFFC
    lea esi, [esi + eax + SPARSE]

    # x & 3: 0 reads, 1 and 2 change, 3 overwrites. Every 16th page is only read here.
    mov eax, ebp
    not eax
    test al, 15
    jz 3f
    mov eax, ebx
    and eax, 3
    jz 3f
    cmp eax, 3
    je 2f
    imul eax, dword ptr [esi], 0x01000193
    add eax, ebx
    mov dword ptr [esi], eax
    mix
    jmp 4f
2:  mov eax, ebx
    xor eax, edi
    mov dword ptr [esi], eax
    jmp 4f
3:  mov eax, dword ptr [esi]
    mix

4:  inc dword ptr [PGR_ROUND]
    inc dword ptr gs:[0]
    mov edx, dword ptr [PGR_ROUND]
    test edx, 15
    jnz 5f
    call pager_divide
    test edx, 63
    jnz 5f
    call pager_fill
    test edx, 127
    jnz 5f
    cli                             # skipped by the kernel
    mov eax, SYS_YIELD
    int 0x80
    mix
    mov eax, 1000                   # no such call
    int 0x80
    mix
    test edx, 1023
    jnz 5f
    call pager_line
5:  mov edx, dword ptr [PGR_ROUND]
    cmp edx, dword ptr [PGR_ROUNDS]
    jb pager_round

    # The sum of one doubleword of each page.
    xor ebp, ebp
6:  imul esi, ebp, SPARSE_STRIDE
    mov eax, dword ptr [esi + ebp * 4 + SPARSE]
    add dword ptr [PGR_SUM], eax
    inc ebp
    cmp ebp, SPARSE_PAGES
    jb 6b

    mov eax, SYS_WAIT_OTHERS
    int 0x80
    mov eax, SYS_SLEEP              # alone now: the kernel must halt until the tick
    push ebx
    mov ebx, 3
    int 0x80
    mov eax, SYS_WRITE
    mov ebx, offset u_text_pager
    mov ecx, offset l_text_pager
    int 0x80
    pop ecx                         # the generator
    mov eax, SYS_EXIT
    mov ebx, edi
    mov edx, dword ptr [PGR_SUM]
    mov esi, dword ptr [USER_TLS + 0x80]
    int 0x80

# A seventh of the doubleword, truncated by FISTP: wrong at once if another task's control word were
# in force.
pager_divide:
    mov eax, dword ptr [esi]
    and eax, 0x7FFFFFFF
    mov dword ptr [PGR_TMP], eax
    fild dword ptr [PGR_TMP]
    fidiv dword ptr [u_pgr_seven]
    fistp dword ptr [PGR_TMP]
    mov eax, dword ptr [PGR_TMP]
    mix
    ret

# Let the kernel write eight doublewords into a page some way off; take the first and the last.
pager_fill:
    lea eax, [ebp + 37]
    and eax, SPARSE_PAGES - 1
    imul esi, eax, SPARSE_STRIDE
    add esi, SPARSE + 0x100
    push ebx
    mov ebx, esi
    mov ecx, 8
    mov eax, SYS_FILL
    int 0x80
    pop ebx
    mov eax, dword ptr [esi]
    mix
    mov eax, dword ptr [esi + 28]
    mix
    ret

# Print the number of rounds so far, then sleep a tick.
pager_line:
    push edi
    push esi
    push ebx
    mov esi, offset u_text_rounds
    mov edi, PGR_LINE
    mov ecx, offset l_text_rounds
    rep movsb
    mov eax, dword ptr [PGR_ROUND]
    mov ebx, 10
    mov edi, PGR_LINE + 8 + 7       # the last digit
1:  xor edx, edx
    div ebx
    add dl, 0x30
    mov byte ptr [edi], dl
    dec edi
    test eax, eax
    jnz 1b
    mov eax, SYS_WRITE
    mov ebx, PGR_LINE
    mov ecx, offset l_text_rounds
    int 0x80
    mov eax, SYS_SLEEP
    mov ebx, 1
    int 0x80
    pop ebx
    pop esi
    pop edi
    ret

.balign 4
user_label pgr_seven, task_pager
    .long 7

user_text text_rounds, task_pager, "task 3:          rounds\r\n"
user_text text_pager, task_pager, "task 3: paging done\r\n"
    .balign 4096
ringshift_demo_end:

# Other assembly of the crate may follow in the same file.
.code64
.purgem label
.purgem call16
.purgem ret16
.purgem push_segments
.purgem pop_segments
.purgem xorshift
.purgem mix
.purgem count
.purgem report_line
.purgem report_task
.purgem user_label
.purgem user_text
.purgem await_tick
.purgem seed_generator

# Task 1, ring 3: integer work. Each round fills, copies and sorts an array, takes its CRC, sieves
# primes, divides (by zero now and then), calls through a table and recurses; everything is folded
# into one hash. The same computation in Rust is ../expected/integer.rs.

.code32
.balign 4096
.set INT_SALT,   0x1B873593
.set INT_X,      HEAP + 0x000       # generator
.set INT_HASH,   HEAP + 0x004
.set INT_ROUND,  HEAP + 0x008
.set INT_ROUNDS, HEAP + 0x00C
.set INT_PRIMES, HEAP + 0x010
.set INT_CRC,    HEAP + 0x400       # table, 256 doublewords
.set INT_A,      HEAP + 0x1000      # 1,024 doublewords
.set INT_B,      HEAP + 0x2000      # copy of A before it was sorted
.set INT_SIEVE,  HEAP + 0x4000      # 8,192 bytes
.set INT_N, 1024

# A label in a task's page, with its address u_NAME in that task's address space.
.macro user_label name, task
\name:
    .set u_\name, \name - \task + USER_TEXT
.endm

# The same for a text; l_NAME is its length.
.macro user_text name, task, text
user_label \name, \task
    .ascii "\text"
    .set l_\name, . - \name
.endm

# Wait in ring 3 for the next tick, so that each task is interrupted there at least once however
# short its work is.
.macro await_tick
    mov eax, dword ptr [TICK_PAGE]
991:
    cmp eax, dword ptr [TICK_PAGE]
    je 991b
.endm

# First generator state in EBX from the seed in EBX, ECX and the task's salt; never zero.
.macro seed_generator salt
    rol ecx, 7
    xor ebx, ecx
    xor ebx, \salt
    jnz 992f
    mov ebx, \salt
992:
.endm

label task_integer
    seed_generator INT_SALT
    mov dword ptr [INT_X], ebx
    mov dword ptr [INT_ROUNDS], edx
    mov dword ptr gs:[0], 0
    await_tick

    xor esi, esi                    # CRC-32 table, reflected polynomial EDB88320h
1:  mov eax, esi
    mov ecx, 8
2:  shr eax, 1
    jnc 3f
    xor eax, 0xEDB88320
3:  loop 2b
    mov dword ptr [INT_CRC + esi * 4], eax
    inc esi
    cmp esi, 256
    jb 1b

integer_round:
    test byte ptr [INT_ROUND], 15
    jnz 1f
    int3                            # the kernel counts it
    cli                             # and skips this one
1:  call integer_fill
    call integer_sort
    call integer_crc
    call integer_sieve
    call integer_divide
    call integer_indirect
    mov ecx, dword ptr [INT_X]
    and ecx, 3
    add ecx, 10
    call integer_fibonacci
    mov edi, dword ptr [INT_HASH]
    mix
    mov dword ptr [INT_HASH], edi
    inc dword ptr gs:[0]
    inc dword ptr [INT_ROUND]
    mov eax, dword ptr [INT_ROUND]
    cmp eax, dword ptr [INT_ROUNDS]
    jb integer_round

    mov eax, SYS_WRITE
    mov ebx, offset u_text_integer
    mov ecx, offset l_text_integer
    int 0x80
    mov eax, SYS_EXIT
    mov ebx, dword ptr [INT_HASH]
    mov ecx, dword ptr [INT_X]
    mov edx, dword ptr [INT_PRIMES]
    mov esi, dword ptr [USER_TLS]   # what GS:0 reached
    int 0x80

integer_fill:
    mov ebx, dword ptr [INT_X]
    mov edi, INT_A
    mov ecx, INT_N
1:  xorshift ebx, eax
    mov eax, ebx
    stosd
    loop 1b
    mov dword ptr [INT_X], ebx
    mov esi, INT_A
    mov edi, INT_B
    mov ecx, INT_N
    rep movsd
    ret

# Shell's sort, unsigned, ascending.
integer_sort:
    mov ebp, offset u_sort_gaps
1:  mov edx, dword ptr [ebp]        # EDX = gap
    test edx, edx
    jz 5f
    mov esi, edx                    # ESI = element to insert
2:  mov eax, dword ptr [INT_A + esi * 4]
    mov edi, esi                    # EDI = where it may go
3:  mov ecx, edi
    sub ecx, edx
    jb 4f
    mov ebx, dword ptr [INT_A + ecx * 4]
    cmp ebx, eax
    jbe 4f
    mov dword ptr [INT_A + edi * 4], ebx
    mov edi, ecx
    jmp 3b
4:  mov dword ptr [INT_A + edi * 4], eax
    inc esi
    cmp esi, INT_N
    jb 2b
    add ebp, 4
    jmp 1b
5:  ret

.balign 4
user_label sort_gaps, task_integer
    .long 301, 132, 57, 23, 10, 4, 1, 0

# CRC-32 of the sorted array, into the hash.
integer_crc:
    mov edx, -1
    mov esi, INT_A
    mov ecx, INT_N * 4
1:  movzx eax, dl
    xor al, byte ptr [esi]
    shr edx, 8
    xor edx, dword ptr [INT_CRC + eax * 4]
    inc esi
    dec ecx
    jnz 1b
    not edx
    mov eax, edx
    mov edi, dword ptr [INT_HASH]
    mix
    mov dword ptr [INT_HASH], edi
    ret

# The number of primes below 4,096 + (x & 4095).
integer_sieve:
    mov edi, INT_SIEVE
    xor eax, eax
    mov ecx, 8192 / 4
    rep stosd
    mov ebx, dword ptr [INT_X]
    and ebx, 4095
    add ebx, 4096                   # EBX = limit
    mov esi, 2
1:  mov eax, esi
    imul eax, esi
    cmp eax, ebx
    jae 4f
    cmp byte ptr [INT_SIEVE + esi], 0
    jne 3f
2:  mov byte ptr [INT_SIEVE + eax], 1
    add eax, esi
    cmp eax, ebx
    jb 2b
3:  inc esi
    jmp 1b
4:  xor eax, eax
    mov ecx, 2
5:  cmp byte ptr [INT_SIEVE + ecx], 1
    adc eax, 0
    inc ecx
    cmp ecx, ebx
    jb 5b
    add dword ptr [INT_PRIMES], eax
    ret

# Quotients and remainders; where the divisor is zero the kernel skips DIV, and EDX:EAX stays as it
# was.
integer_divide:
    mov edi, dword ptr [INT_HASH]
    xor esi, esi
1:  mov eax, dword ptr [INT_B + esi * 4]
    xor edx, edx
    mov ecx, dword ptr [INT_B + esi * 4 + 256]
    and ecx, 63
    div ecx
    lea eax, [eax + edx * 2 + 1]
    mix
    inc esi
    cmp esi, 64
    jb 1b
    mov dword ptr [INT_HASH], edi
    ret

# Four small functions in an order that the data choose.
integer_indirect:
    mov edi, dword ptr [INT_HASH]
    xor esi, esi
1:  mov eax, dword ptr [INT_B + esi * 4]
    mov ecx, dword ptr [INT_B + esi * 4 + 4]
    and eax, 3
    call dword ptr [u_functions + eax * 4]
    inc esi
    cmp esi, 256
    jb 1b
    mov dword ptr [INT_HASH], edi
    ret

.balign 4
user_label functions, task_integer
    .long u_add_carry, u_rotate, u_multiply, u_bytes

user_label add_carry, task_integer                # h += v, with the carry added again
    add edi, ecx
    adc edi, 0
    ret
user_label rotate, task_integer
    rol edi, cl
    xor edi, ecx
    ret
user_label multiply, task_integer                 # both halves of the product
    mov eax, edi
    mul ecx
    mov edi, eax
    xor edi, edx
    ret
user_label bytes, task_integer                    # double shift, then the low bytes change places
    shld edi, ecx, 7
    mov eax, edi
    xchg al, ah
    add ah, cl
    mov edi, eax
    bswap edi
    ret

# EAX = Fibonacci number ECX, by plain recursion.
integer_fibonacci:
    cmp ecx, 2
    jb 1f
    push ecx
    dec ecx
    call integer_fibonacci
    pop ecx
    push eax
    sub ecx, 2
    call integer_fibonacci
    pop edx
    add eax, edx
    ret
1:  mov eax, ecx
    ret

user_text text_integer, task_integer, "task 1: integer work done\r\n"

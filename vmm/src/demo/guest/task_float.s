# Task 2, ring 3: x87 work with the precision control set to double, so that every operation rounds
# as the same operation on IEEE doubles does and the host can compare bits. Each round sums a series
# for exp(t), takes a square root, evaluates a continued fraction and feeds two running values. The
# same computation in Rust is ../expected/float.rs.

.code32
.balign 4096
.set FLT_SALT,   0xCC9E2D51
.set FLT_X,      HEAP + 0x00
.set FLT_HASH,   HEAP + 0x04
.set FLT_ROUNDS, HEAP + 0x08
.set FLT_I,      HEAP + 0x0C        # integer operand
.set FLT_T,      HEAP + 0x10        # double: the argument of the round, in [0.5, 1.5)
.set FLT_ACC,    HEAP + 0x18        # 80 bits: running value
.set FLT_FRAC,   HEAP + 0x28        # double: running value
.set FLT_OUT,    HEAP + 0x30        # where results are taken apart
.set FLT_CW,     HEAP + 0x38

label task_float
    seed_generator FLT_SALT
    mov dword ptr [FLT_X], ebx
    mov dword ptr [FLT_ROUNDS], edx
    mov dword ptr gs:[0], 0
    await_tick
    mov word ptr [FLT_CW], 0x27F    # round to nearest, 53 bits, all exceptions masked
    fldcw word ptr [FLT_CW]
    fld1
    fld st(0)
    fstp tbyte ptr [FLT_ACC]
    fstp qword ptr [FLT_FRAC]

float_round:
    mov ebx, dword ptr [FLT_X]
    xorshift ebx, eax
    mov dword ptr [FLT_X], ebx
    and ebx, 0xFFFFFF               # t = x / 2^24 + 1/2
    mov dword ptr [FLT_I], ebx
    fild dword ptr [FLT_I]
    fmul dword ptr [u_flt_2m24]
    fadd dword ptr [u_flt_half]
    fst qword ptr [FLT_T]

    # exp(t) = 1 + t + t*t/2 + ...: ST0 = term, ST1 = sum, ST2 = t
    fld1
    fld1
    mov ecx, 1
1:  fmul st, st(2)
    mov dword ptr [FLT_I], ecx
    fidiv dword ptr [FLT_I]
    fadd st(1), st
    inc ecx
    cmp ecx, 16
    jbe 1b
    fstp st(0)
    fsqrt                           # ST0 = y = sqrt(sum), ST1 = t

    # acc = acc * 0.625 + y; above 4 it loses 1.75
    fst dword ptr [FLT_OUT]
    mov eax, dword ptr [FLT_OUT]
    mov edi, dword ptr [FLT_HASH]
    mix                             # y as a single
    fld tbyte ptr [FLT_ACC]
    fmul dword ptr [u_flt_5_8]
    faddp st(1), st
    fcom dword ptr [u_flt_four]
    fnstsw ax
    sahf
    jbe 2f
    fsub dword ptr [u_flt_7_4]
2:  fld st(0)
    fstp tbyte ptr [FLT_ACC]
    fld st(0)
    fimul dword ptr [u_flt_1000]
    fistp dword ptr [FLT_OUT]       # acc * 1000, to nearest
    mov eax, dword ptr [FLT_OUT]
    mix
    fstp qword ptr [FLT_OUT]        # acc, all its bits
    mov eax, dword ptr [FLT_OUT]
    mix
    mov eax, dword ptr [FLT_OUT + 4]
    mix

    # z = 1 + t / (8 + z), ..., 1 + t / (1 + z), from z = 1: ST0 = z, ST1 = t
    fld1
    mov ecx, 8
3:  mov dword ptr [FLT_I], ecx
    fiadd dword ptr [FLT_I]
    fdivr st, st(1)
    fld1
    faddp st(1), st
    loop 3b
    fxch st(1)
    fstp st(0)
    fld qword ptr [FLT_FRAC]        # frac = |z - frac / 2|
    fmul dword ptr [u_flt_half]
    fsubp st(1), st
    fchs
    fabs
    fst qword ptr [FLT_FRAC]
    fstp qword ptr [FLT_OUT]
    mov eax, dword ptr [FLT_OUT]
    mix
    mov dword ptr [FLT_HASH], edi

    inc dword ptr gs:[0]
    dec dword ptr [FLT_ROUNDS]
    jnz float_round

    mov eax, SYS_WRITE
    mov ebx, offset u_text_float
    mov ecx, offset l_text_float
    int 0x80
    mov eax, SYS_EXIT
    mov ebx, dword ptr [FLT_HASH]
    mov ecx, dword ptr [FLT_FRAC]
    mov edx, dword ptr [FLT_FRAC + 4]
    mov esi, dword ptr [USER_TLS + 0x40]
    int 0x80

.balign 4
user_label flt_2m24, task_float
    .float 5.9604644775390625e-8
user_label flt_half, task_float
    .float 0.5
user_label flt_5_8, task_float
    .float 0.625
user_label flt_four, task_float
    .float 4.0
user_label flt_7_4, task_float
    .float 1.75
user_label flt_1000, task_float
    .long 1000

user_text text_float, task_float, "task 2: x87 work done\r\n"

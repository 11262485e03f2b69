# The demo guest: memory map, register layouts and macros.
#
# Everything here is assembled by LLVM inside the Rust compiler (see ../image.rs), in Intel syntax,
# into a read-only section of the VMM. The image must hold no relocation, so an absolute address is
# always a difference of two labels plus a constant. The macro `label` defines a label together with
# its three addresses:
#
#   r_NAME   offset in the image: with CS or DS = LOAD >> 4 it is the real-mode offset
#   p_NAME   guest-physical address
#   v_NAME   guest-linear address in the kernel's half (physical + KERNEL)
#
# Jumps and calls are relative and use the bare name.

# A label must not have the name of a function of the C library: the assembler would take the label
# for it in host code that lands in the same object file.
.macro label name
\name:
    .set r_\name, \name - ringshift_demo_start
    .set p_\name, \name - ringshift_demo_start + LOAD
    .set v_\name, \name - ringshift_demo_start + LOAD + KERNEL
.endm

# LLVM's Intel syntax has no mnemonic for a 16-bit near call, nor for a 32-bit push or pop of a
# segment register.
.macro call16 target
    .byte 0xE8
    .word \target - . - 2
.endm
.macro ret16
    .byte 0xC3
.endm
.macro push_segments        # ds es fs gs
    .byte 0x1E, 0x06, 0x0F, 0xA0, 0x0F, 0xA8
.endm
.macro pop_segments         # gs fs es ds
    .byte 0x0F, 0xA9, 0x0F, 0xA1, 0x07, 0x1F
.endm

# ---- Guest-physical memory -----------------------------------------------------------------------
#
#   00000-003FF  real-mode interrupt vectors
#   06000-06FFF  real-mode stack
#   RESULT       the result block, one page (see ../results.rs)
#   LOAD         this image; never written by the guest
#   20000-2FFFF  the kernel's variables, tables and stacks, each kind on pages of its own
#   30000-32FFF  the boot page directory and the kernel's page tables
#   100000-3FFFFF  page frames for tasks and their page tables (needs the A20 gate open)
#   400000-4FFFFF  the swap area of the pager

.set REAL_STACK_TOP, 0x7000
.set P_VARS,    0x20000
.set P_GDT,     0x21000
.set P_IDT,     0x22000
.set P_TSS,     0x23000
.set P_FIFO,    0x24000
.set P_TICKS,   0x25000     # mapped read-only into every task: the tick counter
.set P_ZERO,    0x26000     # mapped read-only for pages that were only read so far
.set P_STACKS,  0x28000     # one page for each of idle, task 1, 2, 3
.set P_BOOT_PD, 0x30000
.set P_LOW_PT,  0x31000     # the first 4 MiB, when the CPU has no 4 MiB pages
.set P_KMAP_PT, 0x32000     # page table of the kernel's temporary mappings
.set P_POOL,    0x100000
.set P_POOL_END, 0x400000
.set P_SWAP,    0x400000
.set SWAP_SLOTS, 256

# ---- Guest-linear memory -------------------------------------------------------------------------
#
#   08048000  the task's code (read-only)            0FFFF000  the tick page (read-only)
#   HEAP      zero-filled on demand, 64 KiB          SPARSE    paged on demand within a quota
#   BFFFE000  thread-local storage, reached by GS    BFFFF000  stack
#   KERNEL    the kernel: physical memory from 0, 4 MiB; KMAP: one page at a time of the rest

.set KERNEL,    0xC0000000
.set KMAP,      0xC0400000
.set USER_TEXT, 0x08048000
.set TICK_PAGE, 0x0FFFF000
.set HEAP,      0x10000000
.set HEAP_END,  0x10010000
.set USER_TLS,  0xBFFFE000
.set USER_TOP,  0xC0000000

.set VARS,      P_VARS + KERNEL
.set GDT,       P_GDT + KERNEL
.set IDT,       P_IDT + KERNEL
.set TSS,       P_TSS + KERNEL
.set RES,       RESULT + KERNEL

# ---- Kernel variables ----------------------------------------------------------------------------

.set CURRENT,       VARS + 0x00     # control block of the running task
.set NEED_RESCHED,  VARS + 0x04     # set by a tick, honoured on the way back to ring 3
.set LIVE_TASKS,    VARS + 0x08
.set FPU_OWNER,     VARS + 0x0C     # whose state is in the x87 registers; 0 = nobody's
.set FREE_HEAD,     VARS + 0x10     # list of freed frames, linked through their first doubleword
.set FREE_BUMP,     VARS + 0x14     # first frame never handed out
.set FREE_COUNT,    VARS + 0x18
.set SWAP_NEXT,     VARS + 0x1C     # next unused slot; slot 0 means "none"

# Task control blocks: 0 is the idle context, 1 to 3 the tasks.
.set TCB,           VARS + 0x400
.set TCB_SIZE,      0x100
.set TASKS,         3
.set TCB_END,       TCB + TCB_SIZE * (TASKS + 1)
.set T_ESP,         0x00            # kernel stack pointer while switched out
.set T_CR3,         0x04
.set T_ESP0,        0x08            # top of the kernel stack
.set T_STATE,       0x0C
.set T_WAKE,        0x10            # tick at which a sleeper becomes ready
.set T_TLS,         0x14            # base of the GS segment
.set T_FPU_USED,    0x18
.set T_RES,         0x1C            # the task's part of the result block
.set T_PRNG,        0x20            # state of the generator behind SYS_FILL
.set T_FIFO,        0x24            # resident pages of SPARSE, oldest first: (address, swap slot)
.set T_FIFO_HEAD,   0x28
.set T_FIFO_COUNT,  0x2C
.set T_TEXT,        0x30            # guest-physical page of the task's code
.set T_FPU,         0x40            # FNSAVE image, 108 bytes

.set DEAD, 0
.set READY, 1
.set SLEEPING, 2
.set WAITING, 3                     # until it is the last task

# ---- Result block: the same fields in the same order as ../results.rs ----------------------------

.set RES_MAGIC,         0x00        # written last
.set RES_VERSION,       0x04
.set RES_STATUS,        0x08        # 1 = complete; 0x100 + vector = stopped at an exception
.set RES_SUM_BEFORE,    0x0C
.set RES_SUM_AFTER,     0x10
.set RES_FEATURES,      0x14        # bit 0: 4 MiB pages in use
.set RES_TICKS,         0x18
.set RES_SWITCHES,      0x1C
.set RES_PREEMPTIONS,   0x20
.set RES_HALTS,         0x24
.set RES_SPURIOUS,      0x28
.set RES_REAL_TICKS,    0x2C
.set RES_FRAMES_BEFORE, 0x30
.set RES_FRAMES_AFTER,  0x34
.set RES_FPU_TRAPS,     0x38
.set RES_FPU_MOVES,     0x3C
.set RES_LOST_ACCESSED, 0x40        # evicted pages whose accessed bit was clear
.set RES_LOST_DIRTY,    0x44        # evicted pages that were written but had the dirty bit clear

.set RES_TASKS,         0x80
.set RES_TASK_SIZE,     0x40
.set TR_VALUES,         0x00        # four doublewords the task handed to SYS_EXIT
.set TR_FAULTS,         0x10        # page faults
.set TR_KERNEL_FAULTS,  0x14        # of these, in ring 0
.set TR_SYSCALLS,       0x18
.set TR_DIVIDES,        0x1C        # divide errors
.set TR_PROTECTION,     0x20        # general-protection faults
.set TR_BREAKPOINTS,    0x24
.set TR_ZERO_MAPS,      0x28        # first reads, given the page of zeros
.set TR_COPIES,         0x2C        # first writes to a page of zeros
.set TR_EVICTIONS,      0x30
.set TR_WRITEBACKS,     0x34
.set TR_SWAP_INS,       0x38
.set TR_TICKS,          0x3C        # ticks that found the task in ring 3

# ---- Selectors -----------------------------------------------------------------------------------

.set KCODE,  0x08
.set KDATA,  0x10
.set UCODE,  0x18 + 3
.set UDATA,  0x20 + 3
.set UTLS,   0x28 + 3
.set TSSSEL, 0x30
.set CODE16, 0x38
.set DATA16, 0x40
.set GDT_BYTES, 9 * 8

# ---- Processor and board -------------------------------------------------------------------------

.set CR0_PE, 1 << 0
.set CR0_MP, 1 << 1
.set CR0_TS, 1 << 3
.set CR0_NE, 1 << 5
.set CR0_WP, 1 << 16
.set CR0_PG, 1 << 31
.set CR4_PSE, 1 << 4
.set EFLAGS_ID, 1 << 21
.set CPUID_PSE, 1 << 3

.set PTE_P, 1
.set PTE_W, 2
.set PTE_U, 4
.set PTE_A, 0x20
.set PTE_D, 0x40
.set PDE_PS, 0x80

.set PIC1_CMD, 0x20
.set PIC1_DATA, 0x21
.set PIC2_CMD, 0xA0
.set PIC2_DATA, 0xA1
.set PIC_EOI, 0x20
.set PIC_READ_ISR, 0x0B
.set IRQ_BASE, 0x20                 # vectors 20h to 2Fh
.set PIT_CH0, 0x40
.set PIT_CTRL, 0x43
.set PIT_DIVISOR, 1193182 / 250     # 250 Hz
.set PORT_92H, 0x92
.set COM1, 0x3F8
.set COM1_LSR, 0x3FD
.set LSR_THRE, 0x20

# ---- A trap frame, from its lowest address; the handlers find it through EBP ---------------------

.set F_GS, 0
.set F_FS, 4
.set F_ES, 8
.set F_DS, 12
.set F_EDI, 16
.set F_ESI, 20
.set F_EBP, 24
.set F_EBX, 32
.set F_EDX, 36
.set F_ECX, 40
.set F_EAX, 44
.set F_VECTOR, 48
.set F_ERROR, 52
.set F_EIP, 56
.set F_CS, 60
.set F_EFLAGS, 64
.set FRAME_SIZE, 76                 # with ESP and SS, which a trap from ring 3 leaves

# ---- System calls: number in EAX, arguments in EBX, ECX; result in EAX ---------------------------

.set SYS_EXIT, 0                    # EBX, ECX, EDX, ESI: the task's results
.set SYS_WRITE, 1                   # EBX: text, ECX: length (up to 256)
.set SYS_SLEEP, 2                   # EBX: ticks
.set SYS_FILL, 3                    # EBX: buffer, ECX: random doublewords to store there (up to 256)
.set SYS_YIELD, 4
.set SYS_WAIT_OTHERS, 5             # returns when no other task is left
.set SYSCALLS, 6
.set ENOSYS, -38
.set EFAULT, -14

# ---- Arithmetic shared by kernel and tasks (and by ../expected) ----------------------------------

# One step of Marsaglia's xorshift32 in \x; changes \t.
.macro xorshift x, t
    mov \t, \x
    shl \t, 13
    xor \x, \t
    mov \t, \x
    shr \t, 17
    xor \x, \t
    mov \t, \x
    shl \t, 5
    xor \x, \t
.endm

# Fold EAX into the hash in EDI.
.macro mix
    rol edi, 5
    xor edi, eax
    imul edi, edi, 0x9E3779B1
.endm

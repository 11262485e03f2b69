# Real mode: the image header, the first checks, the A20 gate, and the way into protected mode.

.code16
ringshift_demo_start:
header:
    jmp start16
    .balign 16
label params                        # offset 16; filled in by ../image.rs
    .ascii "RSDEMOPB"
label param_seed
    .quad 0
label param_rounds                  # of tasks 1, 2, 3
    .long 0, 0, 0
label param_size                    # bytes of the image
    .long 0

start16:
    cli
    cld
    mov ax, cs
    mov ds, ax                      # DS = the image
    xor ax, ax
    mov es, ax                      # ES = low memory
    mov ss, ax
    mov sp, REAL_STACK_TOP

    mov di, RESULT
    xor eax, eax
    mov cx, 1024
    rep stosd

    call16 uart_init
    mov si, offset r_text_hello
    call16 puts16
    call16 image_sum
    mov dword ptr es:[RESULT + RES_SUM_BEFORE], eax

    # Open the A20 gate through port 92h and see that it is open: 0:RESULT+4 and FFFF:RESULT+14h
    # must differ.
    in al, PORT_92H
    test al, 2
    jnz 1f
    or al, 2
    and al, 0xFE                    # bit 0 would reset the processor
    out PORT_92H, al
1:  mov ax, 0xFFFF
    mov fs, ax
    mov dword ptr es:[RESULT + RES_VERSION], 1
    mov eax, dword ptr fs:[RESULT + RES_VERSION + 0x10]
    inc dword ptr es:[RESULT + RES_VERSION]
    cmp eax, dword ptr fs:[RESULT + RES_VERSION + 0x10]
    mov dword ptr es:[RESULT + RES_VERSION], 1
    je 2f
    mov si, offset r_text_a20
    call16 puts16
    jmp power_off

    # The descriptor table is copied out of the image: the processor sets accessed and busy bits in
    # it.
2:  mov si, offset r_gdt_template
    mov ax, P_GDT >> 4
    mov es, ax
    xor di, di
    mov cx, GDT_BYTES / 4
    rep movsd

    lgdt [r_gdtr_low]
    mov eax, cr0
    or eax, CR0_PE
    mov cr0, eax
    .byte 0x66, 0xEA                # jmp far KCODE:p_start32, with a 32-bit offset
    .long p_start32
    .word KCODE

# The 16-bit sum of the image, rotated left by one after each word, in EAX. Covers code, tables and
# parameters: the guest runs it first and last, and the VMM compares both with the bytes it loaded.
image_sum:
    push si
    mov ecx, dword ptr [r_param_size]
    shr ecx, 1
    xor si, si
    xor edx, edx
    xor eax, eax
1:  lodsw
    add dx, ax
    rol dx, 1
    dec ecx
    jnz 1b
    mov eax, edx
    pop si
    ret16

# ---- The serial port, polled ---------------------------------------------------------------------

uart_init:
    mov si, offset r_uart_table
    mov cx, 7
1:  lodsw                           # AL = register, AH = value
    mov dx, COM1
    add dl, al
    mov al, ah
    out dx, al
    loop 1b
    ret16

label uart_table
    .byte 1, 0x00                   # IER: no interrupts
    .byte 3, 0x80                   # LCR: divisor latch
    .byte 0, 0x01                   # 115,200 baud
    .byte 1, 0x00
    .byte 3, 0x03                   # LCR: 8 data bits, no parity, one stop bit
    .byte 2, 0x07                   # FCR: FIFOs on and cleared
    .byte 4, 0x03                   # MCR: DTR, RTS

# Print DS:SI up to a zero byte; SI ends behind it.
puts16:
    lodsb
    test al, al
    jz 1f
    call16 putc16
    jmp puts16
1:  ret16

# Print AL; a transmitter that is never ready costs the character, not the guest.
putc16:
    push dx
    push cx
    push ax
    mov dx, COM1_LSR
    xor cx, cx
1:  in al, dx
    test al, LSR_THRE
    jnz 2f
    loop 1b
2:  pop ax
    mov dx, COM1
    out dx, al
    pop cx
    pop dx
    ret16

# ACPI S5 through the PM1a control register. It does not come back; if the board has no such
# register, halt for good.
power_off:
    mov dx, PM1A_CNT
    mov ax, PM1A_S5
    out dx, ax
1:  cli
    hlt
    jmp 1b

label text_hello
    .asciz "ringshift demo: real mode\r\n"
label text_a20
    .asciz "ringshift demo: the A20 gate does not open\r\n"

# ---- Descriptors ---------------------------------------------------------------------------------

.balign 8
label gdt_template
    .quad 0
    .quad 0x00CF9A000000FFFF        # KCODE: flat
    .quad 0x00CF92000000FFFF        # KDATA
    .quad 0x00CFFA000000FFFF        # UCODE, DPL 3
    .quad 0x00CFF2000000FFFF        # UDATA
    .quad 0x00CFF2000000FFFF        # UTLS: up to 4 GiB as in Linux; the base is written at each task switch
    .word 0x67, P_TSS & 0xFFFF      # TSS: 104 bytes, no I/O permission map
    .byte (TSS >> 16) & 0xFF, 0x89, 0, TSS >> 24
    .quad 0x00009A010000FFFF        # CODE16: base LOAD, 64 KiB
    .quad 0x000092000000FFFF        # DATA16: base 0, 64 KiB

label gdtr_low                      # paging off; in real mode LGDT takes 24 bits of base
    .word GDT_BYTES - 1
    .long P_GDT
label gdtr_high
    .word GDT_BYTES - 1
    .long GDT
label idtr
    .word 0x81 * 8 - 1
    .long IDT
label idtr_real
    .word 0x3FF
    .long 0

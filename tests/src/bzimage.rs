//! Kernels of a few bytes, in the Linux boot protocol's format (Linux,
//! `Documentation/arch/x86/boot.rst`), for what a real kernel never does.

/// Where the 32-bit code is loaded and entered.
pub const LOAD_ADDRESS: u32 = 0x10_0000;

const SECTOR: usize = 512;

/// Offset of the real-mode code; the header ends here.
const SETUP: usize = 0x268;

/// Offset of the operand of `lgdt` in the real-mode code.
const GDTR: u16 = 0x2b8;

/// Offset of the descriptors: code at selector 10h, data at 18h, both flat, as the protocol asks
/// for.
const GDT: u16 = 0x2c0;

/// The real-mode setup code, for loaders that enter there (QEMU's): to protected mode and to the
/// 32-bit entry point. DS is the segment that the boot sector is at.
fn setup_code() -> Vec<u8> {
    let [gdtr_low, gdtr_high] = GDTR.to_le_bytes();
    let [base_low, base_high] = (GDTR + 2).to_le_bytes();
    let mut code = vec![
        0xfa, // cli
        0x66, 0x31, 0xc0, // xor eax, eax
        0x8c, 0xd8, // mov ax, ds
        0x66, 0xc1, 0xe0, 0x04, // shl eax, 4
        0x66, 0x05, // add eax, GDT
    ];
    code.extend_from_slice(&u32::from(GDT).to_le_bytes());
    code.extend_from_slice(&[
        0x66, 0xa3, base_low, base_high, // mov [GDTR + 2], eax
        0x66, 0x0f, 0x01, 0x16, gdtr_low, gdtr_high, // lgdt [GDTR], 32-bit base
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x0c, 0x01, // or al, 1
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0xb8, 0x18, 0x00, // mov ax, 18h
        0x8e, 0xd8, // mov ds, ax
        0x8e, 0xc0, // mov es, ax
        0x8e, 0xd0, // mov ss, ax
        0x66, 0xea, // jmp 10h:LOAD_ADDRESS
    ]);
    code.extend_from_slice(&LOAD_ADDRESS.to_le_bytes());
    code.extend_from_slice(&[0x10, 0x00]);
    code
}

/// A bzImage with one setup sector after the boot sector; its 32-bit entry point is the first byte
/// of `code`.
#[must_use]
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 2 * SECTOR];
    let paragraphs = code.len().div_ceil(16);
    let size = u32::try_from(paragraphs).unwrap_or(u32::MAX);
    for (offset, bytes) in [
        (0x1f1, &[1u8][..]),                                 // setup_sects
        (0x1f4, &size.to_le_bytes()[..]),                    // syssize, in paragraphs
        (0x1fe, &[0x55, 0xaa][..]),                          // boot_flag
        (0x200, &[0xeb, 0x66][..]),                          // jmp SETUP
        (0x202, &b"HdrS"[..]),                               // header
        (0x206, &0x020c_u16.to_le_bytes()[..]),              // version 2.12
        (0x211, &[0x01][..]),                                // loadflags: LOADED_HIGH
        (0x214, &LOAD_ADDRESS.to_le_bytes()[..]),            // code32_start
        (0x22c, &0x37ff_ffff_u32.to_le_bytes()[..]),         // initrd_addr_max
        (0x230, &0x1000_u32.to_le_bytes()[..]),              // kernel_alignment
        (0x234, &[1][..]),                                   // relocatable_kernel
        (0x238, &255_u32.to_le_bytes()[..]),                 // cmdline_size
        (0x258, &u64::from(LOAD_ADDRESS).to_le_bytes()[..]), // pref_address
        (0x260, &0x1_0000_u32.to_le_bytes()[..]),            // init_size
        (SETUP, &setup_code()[..]),
        (usize::from(GDTR), &0x1f_u16.to_le_bytes()[..]), // limit
        (
            usize::from(GDT) + 0x10,
            &[0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0][..],
        ),
        (
            usize::from(GDT) + 0x18,
            &[0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0][..],
        ),
    ] {
        if let Some(field) = image.get_mut(offset..offset + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }
    image.extend_from_slice(code);
    image.resize(2 * SECTOR + paragraphs * 16, 0);
    image
}

/// Code that prints `text` on the first serial port without waiting for it.
#[must_use]
pub fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 3f8h
    for byte in text.bytes() {
        code.extend_from_slice(&[0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

/// `lidt` of an empty table, then an invalid instruction: a triple fault.
#[must_use]
pub fn triple_fault() -> Vec<u8> {
    vec![
        0xbc, 0x00, 0x80, 0x00, 0x00, // mov esp, 8000h (the protocol gives no stack)
        0x6a, 0x00, 0x6a, 0x00, // push 0; push 0
        0x0f, 0x01, 0x1c, 0x24, // lidt [esp]
        0x0f, 0x0b, // ud2
    ]
}

/// `cli; hlt`, for ever: nothing can wake it.
#[must_use]
pub fn halt_for_ever() -> Vec<u8> {
    vec![0xfa, 0xf4, 0xeb, 0xfc]
}

/// A jump to `address`.
#[must_use]
pub fn jump_to(address: u32) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, address
    code.extend_from_slice(&address.to_le_bytes());
    code.extend_from_slice(&[0xff, 0xe0]); // jmp eax
    code
}

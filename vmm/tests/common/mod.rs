//! A guest of a few hundred bytes: from real mode to one program at ring 3, with what goes wrong on
//! the way chosen by the test.
#![allow(dead_code)] // each test uses a part

pub(crate) mod traced;

use ringshift::guest::Guest;

/// Where the image is loaded.
const BASE: u32 = 0x1_0000;
/// Where its parts are.
pub(crate) const GDT: u32 = BASE + 0x1000;
const IDT: u32 = BASE + 0x2000;
const DIRECTORY: u32 = BASE + 0x3000;
const TABLE: u32 = BASE + 0x4000;
const TSS: u32 = BASE + 0x5000;
const KERNEL: u32 = BASE + 0x6000;
const HANDLERS: u32 = KERNEL + 0x800;
/// Of the handlers that a test adds.
const OWN_HANDLERS: u32 = HANDLERS + 0x400;
/// The program.
pub(crate) const USER: u32 = BASE + 0x8000;
const USER_STACK: u32 = BASE + 0xBFF0;
const KERNEL_STACK: u32 = BASE + 0xDFF0;
const IMAGE_BYTES: usize = 0xE000;

/// Selectors of the program: each register has a descriptor of its own.
pub(crate) const CS: u16 = 0x1B;
pub(crate) const DS: u16 = 0x23;
pub(crate) const ES: u16 = 0x2B;
pub(crate) const FS: u16 = 0x33;
pub(crate) const GS: u16 = 0x3B;
pub(crate) const SS: u16 = 0x43;
const TSS_SELECTOR: u16 = 0x48;
/// 16-bit code that starts at [`USER`], without a limit that an offset could be beyond.
pub(crate) const CS16: u16 = 0x53;
/// A flat stack with a 16-bit stack pointer.
pub(crate) const SS16: u16 = 0x5B;
/// Data with a limit.
pub(crate) const LIMITED: u16 = 0x63;
/// See [`Program::extra_descriptor`].
const EXTRA: u16 = 0x68;

/// `int 80h`: a system call that comes back at once.
pub(crate) const SYSTEM_CALL: [u8; 2] = [0xCD, 0x80];
/// `int 81h`: the end.
pub(crate) const END: [u8; 2] = [0xCD, 0x81];
/// `int 82h`: the kernel takes back whatever [`Program`] can set up, and starts the program at
/// [`SECOND`], which makes a system call and ends.
pub(crate) const AGAIN: [u8; 2] = [0xCD, 0x82];
/// See [`AGAIN`].
pub(crate) const SECOND: u32 = USER + 0x800;

const PE: u32 = 1;
const PG: u32 = 1 << 31;
const VM: u32 = 1 << 17;

/// What runs, and how it is entered.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The instructions; [`END`] follows.
    pub(crate) code: Vec<u8>,
    /// EFLAGS at the entry.
    pub(crate) eflags: u32,
    /// CS and EIP.
    pub(crate) entry: (u16, u32),
    /// SS.
    pub(crate) ss: u16,
    /// FS.
    pub(crate) fs: u16,
    /// Instructions of the kernel before the entry.
    pub(crate) kernel: Vec<u8>,
    /// With paging.
    pub(crate) paging: bool,
    /// One more descriptor in the GDT.
    pub(crate) extra_descriptor: u64,
    /// CS and EIP after [`AGAIN`].
    pub(crate) second: (u16, u32),
    /// Handlers of vectors.
    pub(crate) handlers: Vec<(u8, Vec<u8>)>,
}

impl Program {
    /// A program of these instructions in a state that may run directly.
    pub(crate) fn new(code: &[u8]) -> Self {
        Self {
            code: code.to_vec(),
            eflags: 0x202,
            entry: (CS, USER),
            ss: SS,
            fs: FS,
            kernel: Vec::new(),
            paging: true,
            extra_descriptor: 0,
            second: (CS, SECOND),
            handlers: Vec::new(),
        }
    }

    /// The guest that runs it.
    pub(crate) fn guest(&self) -> Guest {
        let mut image = Image(vec![0; IMAGE_BYTES]);
        image.put(BASE, &self.real_mode());
        image.tables(self.extra_descriptor);
        image.handlers(&self.again());
        for (number, (vector, code)) in (0..).zip(&self.handlers) {
            let address = OWN_HANDLERS + number * 0x40;
            assert!(code.len() <= 0x40);
            image.put(address, code);
            image.gate(*vector, address);
        }
        image.put(KERNEL, &self.kernel());
        image.put(USER, &[&self.code[..], &END].concat());
        image.put(SECOND, &[SYSTEM_CALL, END].concat());
        Guest::RealMode {
            bytes: image.0,
            address: BASE,
            cs: (BASE >> 4) as u16,
            ip: 0,
        }
    }

    fn real_mode(&self) -> Vec<u8> {
        let bits = if self.paging { PE | PG } else { PE };
        let mut code = [
            &[0xFA][..],                                 // cli
            &[0x66, 0x2E, 0x0F, 0x01, 0x16, 0x80, 0x00], // lgdt cs:[80h]
            &[0x66, 0x2E, 0x0F, 0x01, 0x1E, 0x88, 0x00], // lidt cs:[88h]
            &op(&[0x66, 0xB8], DIRECTORY),               // mov eax, DIRECTORY
            &[0x0F, 0x22, 0xD8],                         // mov cr3, eax
            &[0x0F, 0x20, 0xC0],                         // mov eax, cr0
            &op(&[0x66, 0x0D], bits),                    // or eax, bits
            &[0x0F, 0x22, 0xC0],                         // mov cr0, eax
            &op(&[0x66, 0xEA], KERNEL),                  // jmp far 8:KERNEL
            &[0x08, 0x00],
        ]
        .concat();
        code.resize(0x80, 0x90);
        for (limit, base) in [(0x6F, GDT), (0x7FF, IDT)] {
            code.extend(u16::to_le_bytes(limit));
            code.extend(base.to_le_bytes());
            code.extend([0; 2]);
        }
        code
    }

    fn kernel(&self) -> Vec<u8> {
        let mut code = [
            &[0x66, 0xB8, 0x10, 0x00][..],         // mov ax, 10h
            &[0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0], // mov ds, ax; mov es, ax; mov ss, ax
            &op(&[0xBC], KERNEL_STACK),            // mov esp, KERNEL_STACK
            &op(&[0xB8], TSS_SELECTOR.into()),     // mov eax, TSS_SELECTOR
            &[0x0F, 0x00, 0xD8],                   // ltr ax
            &self.kernel,
        ]
        .concat();
        if self.eflags & VM != 0 {
            let segment = USER >> 4;
            for value in [segment, segment, segment, segment, USER_STACK >> 4, 0x100] {
                code.extend(op(&[0x68], value));
            }
            for value in [self.eflags, segment, 0] {
                code.extend(op(&[0x68], value));
            }
        } else {
            code.extend(enter_user(self.fs, self.ss, self.eflags, self.entry));
        }
        code.push(0xCF); // iretd
        assert!(code.len() <= (HANDLERS - KERNEL) as usize);
        code
    }

    /// What [`AGAIN`] leads to.
    fn again(&self) -> Vec<u8> {
        [
            &[0x66, 0xB8, 0x10, 0x00][..],            // mov ax, 10h
            &[0x8E, 0xD8],                            // mov ds, ax
            &op(&[0xBC], KERNEL_STACK),               // mov esp, KERNEL_STACK
            &[0x31, 0xC0, 0x0F, 0x23, 0xF8],          // xor eax, eax; mov dr7, eax
            &op(&[0xA3], GDT + u32::from(EXTRA)),     // mov [EXTRA], eax
            &op(&[0xA3], GDT + u32::from(EXTRA) + 4), // mov [EXTRA + 4], eax
            &[0x0F, 0x20, 0xC0],                      // mov eax, cr0
            &op(&[0x0D], PG),                         // or eax, PG
            &[0x0F, 0x22, 0xC0, 0xEB, 0x00],          // mov cr0, eax; jmp $+2
            &enter_user(FS, SS, 0x202, self.second),
            &[0xCF], // iretd
        ]
        .concat()
    }
}

/// Loads the data segments and pushes what `iretd` takes.
fn enter_user(fs: u16, ss: u16, eflags: u32, (cs, eip): (u16, u32)) -> Vec<u8> {
    let mut code = Vec::new();
    for (register, selector) in [(0xD8, DS), (0xC0, ES), (0xE0, fs), (0xE8, GS)] {
        code.extend(op(&[0xB8], selector.into())); // mov eax, selector
        code.extend([0x8E, register]); // mov seg, ax
    }
    for value in [ss.into(), USER_STACK, eflags, cs.into(), eip] {
        code.extend(op(&[0x68], value)); // push value
    }
    code
}

/// An opcode and its immediate.
pub(crate) fn op(opcode: &[u8], value: u32) -> Vec<u8> {
    [opcode, &value.to_le_bytes()].concat()
}

struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, address: u32, bytes: &[u8]) {
        let at = (address - BASE) as usize;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn tables(&mut self, extra: u64) {
        const USER_DATA: u64 = 0x00CF_F300_0000_FFFF;
        let tss = 0x0000_8900_0000_0067 | u64::from(TSS) << 16;
        for (selector, descriptor) in [
            (0x08, 0x00CF_9B00_0000_FFFF),
            (0x10, 0x00CF_9300_0000_FFFF),
            (CS, 0x00CF_FB00_0000_FFFF),
            (DS, USER_DATA),
            (ES, USER_DATA),
            (FS, USER_DATA),
            (GS, USER_DATA),
            (SS, USER_DATA),
            (TSS_SELECTOR, tss),
            (CS16, 0x008F_FB00_0000_FFFF | u64::from(USER) << 16),
            (SS16, 0x008F_F300_0000_FFFF),
            (LIMITED, 0x0040_F300_0000_FFFF),
            (EXTRA, extra),
        ] {
            self.put(GDT + u32::from(selector & !7), &descriptor.to_le_bytes());
        }
        // 4 MiB, each page where it is, for everybody.
        self.put(DIRECTORY, &(TABLE | 7).to_le_bytes());
        for page in 0..1024 {
            self.put(TABLE + page * 4, &(page << 12 | 7).to_le_bytes());
        }
        self.put(TSS + 4, &KERNEL_STACK.to_le_bytes());
        self.put(TSS + 8, &0x10u32.to_le_bytes());
    }

    fn handlers(&mut self, again: &[u8]) {
        // cli; hlt: an exception that no test expects ends the run with an error.
        let fault: &[u8] = &[0xFA, 0xF4];
        // and dword [esp+8], ~TF; iretd
        let debug: &[u8] = &[0x81, 0x64, 0x24, 0x08, 0xFF, 0xFE, 0xFF, 0xFF, 0xCF];
        let system_call: &[u8] = &[0xCF];
        // mov dx, 604h; mov ax, 2000h; out dx, ax: soft off
        let end: &[u8] = &[
            0x66, 0xBA, 0x04, 0x06, 0x66, 0xB8, 0x00, 0x20, 0x66, 0xEF, 0xEB, 0xFE,
        ];
        let codes = [fault, debug, system_call, end, again];
        for (number, code) in (0..).zip(codes) {
            self.put(HANDLERS + number * 16, code);
        }
        for vector in 0..=255 {
            let handler = match vector {
                1 => 1,
                0x80 => 2,
                0x81 => 3,
                0x82 => 4,
                _ => 0,
            };
            self.gate(vector, HANDLERS + 16 * handler);
        }
    }

    /// An interrupt gate that ring 3 may use.
    fn gate(&mut self, vector: u8, handler: u32) {
        let gate = u64::from(handler & 0xFFFF)
            | 0x08 << 16
            | 0xEE00 << 32
            | u64::from(handler >> 16) << 48;
        self.put(IDT + u32::from(vector) * 8, &gate.to_le_bytes());
    }
}

//! A minimal guest: a few pages of memory and ring-3 code in them, without a machine around it.

use std::fs::File;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::direct::descriptors::Descriptor;
use crate::direct::kvm::SetupError;
use crate::direct::layout::{GDT, PAGE, TABLE_POOL_BASE};
use crate::direct::tables::entry::{ACCESSED, DIRTY, NO_EXECUTE, PRESENT, USER, WRITE};
use crate::direct::world::{Context, FpuUse, Leave, World, WorldError};

/// Linear address of the page the programs are in.
pub(in crate::direct) const CODE: u32 = 0x0804_8000;
/// Linear address of three pages of data: [`DATA_PAGES`].
pub(in crate::direct) const DATA: u32 = 0x0804_9000;
/// Linear address that is not mapped.
pub(in crate::direct) const UNMAPPED: u32 = 0x0804_F000;
/// Stack pointer at the start of a program.
pub(in crate::direct) const STACK: u32 = 0x0804_DFF0;

/// Selectors of the lab's descriptors.
pub(in crate::direct) mod selector {
    /// Flat 32-bit code.
    pub(in crate::direct) const CODE: u16 = 0x1B;
    /// Flat data.
    pub(in crate::direct) const DATA: u16 = 0x23;
    /// Data with base [`super::SEGMENT_BASE`] and limit [`super::SEGMENT_LIMIT`].
    pub(in crate::direct) const BASED: u16 = 0x2B;
    /// Data with base [`super::WRAP_BASE`] and no limit.
    pub(in crate::direct) const WRAPPING: u16 = 0x33;
    /// 16-bit code with base [`super::CODE`] and a limit of 64 KiB.
    pub(in crate::direct) const CODE16: u16 = 0x3B;
    /// Data with a 16-bit stack pointer and no limit.
    pub(in crate::direct) const STACK16: u16 = 0x43;
}
/// Base of the segment that is not flat.
pub(in crate::direct) const SEGMENT_BASE: u32 = DATA + 0x100;
/// Its last byte.
pub(in crate::direct) const SEGMENT_LIMIT: u32 = 0x3F;

/// Base of a segment in which every useful offset goes past 4 GiB.
pub(in crate::direct) const WRAP_BASE: u32 = 0xFFFF_F000;

/// D/B and the executable bit of a descriptor.
const SIZE_32: u64 = 1 << 54;
const EXECUTABLE: u64 = 1 << 43;

/// Bytes of guest memory.
const RAM_BYTES: u64 = 64 << 10;
/// Frames behind the code page, the data pages and the stack page.
const CODE_FRAME: u64 = 1;
const DATA_FRAMES: [u64; 3] = [2, 3, 4];
const STACK_FRAME: u64 = 5;

const PDPT: u64 = TABLE_POOL_BASE;
const DIRECTORY: u64 = TABLE_POOL_BASE + PAGE;
const TABLE: u64 = TABLE_POOL_BASE + 2 * PAGE;
/// A page of the table pool that the lab does not use.
pub(in crate::direct) const UNUSED_TABLE: u64 = TABLE_POOL_BASE + 3 * PAGE;

/// Rights of a user page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::direct) enum Rights {
    /// Read and execute.
    Execute,
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

/// The guest.
#[derive(Debug)]
pub(in crate::direct) struct Lab {
    /// What it runs in.
    pub(in crate::direct) world: World,
}

impl Lab {
    /// A guest with its pages mapped and nothing in them.
    pub(in crate::direct) fn new() -> Result<Self, SetupError> {
        let file = File::from(memfd_create(c"ringshift-probe", MFdFlags::MFD_CLOEXEC)?);
        nix::unistd::ftruncate(&file, RAM_BYTES as i64)?;
        let mut world = World::new()?;
        world.attach(&file, RAM_BYTES)?;
        let gdt = |selector: u16, descriptor: Descriptor| {
            let at = GDT + u64::from(selector & !7);
            world.monitor_memory().write(at, descriptor.0);
        };
        gdt(selector::CODE, Descriptor(0x00CF_FB00_0000_FFFF));
        gdt(selector::DATA, Descriptor(0x00CF_F300_0000_FFFF));
        gdt(selector::BASED, data(SEGMENT_BASE, SEGMENT_LIMIT, false));
        gdt(selector::WRAPPING, data(WRAP_BASE, 0xF_FFFF, true));
        let code16 = data(CODE, 0xFFFF, false).0 & !SIZE_32 | EXECUTABLE;
        gdt(selector::CODE16, Descriptor(code16));
        let stack16 = data(STACK & !0xFFFF, 0xF_FFFF, true).0 & !SIZE_32;
        gdt(selector::STACK16, Descriptor(stack16));
        Ok(Self { world })
    }

    /// Maps the pages.
    pub(in crate::direct) fn map(&mut self) -> Result<(), WorldError> {
        const TABLE_RIGHTS: u64 = PRESENT | WRITE | USER | ACCESSED;
        let index = |shift: u32| u64::from(CODE >> shift & 0x1FF) * 8;
        self.world.set_space(PDPT | TABLE_RIGHTS)?;
        self.world
            .edit(PDPT + index(30), DIRECTORY | TABLE_RIGHTS)?;
        self.world
            .edit(DIRECTORY + index(21), TABLE | TABLE_RIGHTS)?;
        self.map_page(CODE, CODE_FRAME, Rights::Execute)?;
        for (number, frame) in (0..).zip(DATA_FRAMES) {
            self.map_page(DATA + number * PAGE as u32, frame, Rights::Write)?;
        }
        self.map_page(STACK, STACK_FRAME, Rights::Write)
    }

    /// Maps one linear page to a frame of the guest's memory.
    pub(in crate::direct) fn map_page(
        &mut self,
        linear: u32,
        frame: u64,
        rights: Rights,
    ) -> Result<(), WorldError> {
        let value = (frame * PAGE) | Self::rights(rights);
        self.world.edit(Self::entry_address(linear), value)
    }

    /// Where the page-table entry of a linear page is.
    pub(in crate::direct) fn entry_address(linear: u32) -> u64 {
        TABLE + u64::from(linear >> 12 & 0x1FF) * 8
    }

    /// The bits of a page-table entry below and above the address.
    pub(in crate::direct) fn rights(rights: Rights) -> u64 {
        PRESENT
            | USER
            | ACCESSED
            | match rights {
                Rights::Execute => 0,
                Rights::Read => NO_EXECUTE,
                Rights::Write => WRITE | DIRTY | NO_EXECUTE,
            }
    }

    /// The frame behind data page `number`, 0 to 2.
    pub(in crate::direct) fn data_frame(number: usize) -> u64 {
        DATA_FRAMES[number]
    }

    /// Writes guest memory at a linear address of the code or data pages.
    pub(in crate::direct) fn write(&self, linear: u32, bytes: &[u8]) {
        if let Some(ram) = self.world.ram() {
            ram.write_bytes(Self::physical(linear), bytes);
        }
    }

    /// Reads guest memory at a linear address of the code or data pages.
    pub(in crate::direct) fn read_u64(&self, linear: u32) -> u64 {
        let ram = self.world.ram();
        ram.map_or(0, |ram| ram.read(Self::physical(linear)))
    }

    /// As mapped by [`Lab::map`]: frames 1 to 4 in order.
    fn physical(linear: u32) -> u64 {
        u64::from(linear - CODE) + CODE_FRAME * PAGE
    }

    /// Puts a program at [`CODE`].
    pub(in crate::direct) fn program(&self, code: &[u8]) {
        self.write(CODE, code);
    }

    /// The registers a program starts with.
    pub(in crate::direct) fn start() -> Context {
        let mut context = Context {
            eip: CODE,
            eflags: 0x202,
            cs: selector::CODE,
            ss: selector::DATA,
            data: [selector::DATA; 4],
            ..Context::default()
        };
        context.gpr[4] = STACK;
        context
    }

    /// Runs from `context` to the next exit.
    pub(in crate::direct) fn run(&mut self, context: &mut Context) -> Result<Leave, WorldError> {
        self.world.load(context, 0);
        self.world.run(context)
    }

    /// Runs from `context` with an FPU state.
    pub(in crate::direct) fn run_with_fpu(
        &mut self,
        context: &mut Context,
        fpu: &[u8; 512],
        fpu_use: FpuUse,
    ) -> Result<Leave, WorldError> {
        self.world.load_fpu(fpu, fpu_use);
        self.run(context)
    }
}

/// A writable 32-bit data segment of ring 3. The limit is in bytes or pages.
fn data(base: u32, limit: u32, pages: bool) -> Descriptor {
    let base = u64::from(base);
    let limit = u64::from(limit);
    Descriptor(
        0x0040_F300_0000_0000
            | u64::from(pages) << 55
            | (limit & 0xFFFF)
            | (limit & 0xF_0000) << 32
            | (base & 0xFF_FFFF) << 16
            | (base >> 24) << 56,
    )
}

//! The guest of these tests: page tables, descriptor tables, a page of code and pages of data.

use decision::ExitKind;
use ringshift::direct::{self, DirectExecution, TABLE_POOL_BASE};
use ringshift::engine::{DirectEngine, DirectExit, RegistersLost};
use ringshift::inputs::DescriptorTables;
use shadow_mmu::{Mmu, MmuConfig, PagingRegs};
use translator::state::{Segment, TableRegister, cr0, cr4, eflags, reg, seg};
use translator::{CpuState, Exit, Platform};

/// Guest-physical addresses of the guest's own tables and pages.
pub(crate) const DIRECTORY: u32 = 0x1000;
pub(crate) const TABLE: u32 = 0x2000;
pub(crate) const OTHER_DIRECTORY: u32 = 0x3000;
pub(crate) const OTHER_TABLE: u32 = 0x4000;
pub(crate) const GDT: u32 = 0x5000;
pub(crate) const LDT: u32 = 0x5800;
pub(crate) const CODE_PAGE: u32 = 0x1_0000;
pub(crate) const DATA_PAGES: u32 = 0x1_1000;

/// Linear addresses.
pub(crate) const CODE: u32 = 0x0804_8000;
pub(crate) const DATA: u32 = 0x0804_9000;
pub(crate) const KERNEL: u32 = 0xC000_0000;
/// Linear data pages, from [`DATA`] on.
pub(crate) const PAGES: u32 = 32;
pub(crate) const STACK: u32 = DATA + PAGES * 0x1000 - 16;

pub(crate) const P: u32 = 1;
pub(crate) const RW: u32 = 2;
pub(crate) const US: u32 = 4;
pub(crate) const PS: u32 = 0x80;

pub(crate) const USER_CS: u16 = 0x73;
pub(crate) const USER_DS: u16 = 0x7B;
pub(crate) const TLS: u16 = 0x33;
pub(crate) const CODE16: u16 = 0x83;
/// The first descriptor of the local table, which is no null descriptor.
pub(crate) const LDT_DATA: u16 = 0x07;

/// A platform with an interrupt line.
#[derive(Default)]
pub(crate) struct Pins {
    pub(crate) interrupt: bool,
}

impl Platform for Pins {
    fn port_read(&mut self, _: u16, _: u8) -> u32 {
        unreachable!("direct execution touches no port")
    }
    fn port_write(&mut self, _: u16, _: u8, _: u32) {
        unreachable!("direct execution touches no port")
    }
    fn mmio_read(&mut self, _: u64, _: &mut [u8]) {
        unreachable!("direct execution touches no device")
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {
        unreachable!("direct execution touches no device")
    }
    fn interrupt_pending(&mut self) -> bool {
        self.interrupt
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        unreachable!("direct execution delivers no interrupt")
    }
    fn attention(&mut self) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        0
    }
}

pub(crate) struct Guest {
    pub(crate) engine: DirectExecution,
    pub(crate) mmu: Mmu,
    pub(crate) state: CpuState,
    pub(crate) tables: DescriptorTables,
    pub(crate) pins: Pins,
}

/// What the probe finds wrong is not in these programs.
pub(crate) const FORCE: direct::Purpose = direct::Purpose {
    force: true,
    must_pay: false,
    without: decision::HostSupport::NONE,
};

/// A guest on this host's KVM, or `None` with a word about why not.
pub(crate) fn guest() -> Option<Guest> {
    let engine = match direct::open(FORCE) {
        Ok(engine) => engine,
        Err(error) => {
            eprintln!("SKIPPED: no direct execution on this host: {error}");
            return None;
        }
    };
    let mmu = Mmu::new(MmuConfig {
        ram_bytes: 8 << 20,
        mirror_edits: true,
        table_pool_base: TABLE_POOL_BASE,
        ..MmuConfig::default()
    });
    let mut guest = Guest {
        engine,
        mmu: mmu.expect("a shadow MMU"),
        state: CpuState::reset(0x653),
        tables: DescriptorTables::default(),
        pins: Pins::default(),
    };
    guest.set_up();
    Some(guest)
}

pub(crate) fn segment(selector: u16, raw: u64) -> Segment {
    use translator::state::Rights;
    let rights = Rights::from_bits_retain((raw >> 40) as u32 & 0xF0FF);
    let limit = (raw & 0xFFFF) as u32 | (raw >> 32) as u32 & 0xF_0000;
    Segment {
        selector,
        base: (raw >> 16) as u32 & 0xFF_FFFF | (raw >> 32) as u32 & 0xFF00_0000,
        limit: if rights.contains(Rights::GRANULARITY) {
            limit << 12 | 0xFFF
        } else {
            limit
        },
        rights,
    }
}

pub(crate) const RAW_CODE: u64 = 0x00CF_FB00_0000_FFFF;
pub(crate) const RAW_DATA: u64 = 0x00CF_F300_0000_FFFF;
/// Data with base `DATA + 0x100`, the whole address space, not accessed yet.
pub(crate) const RAW_TLS: u64 = 0x08CF_F204_9100_FFFF;

impl Guest {
    pub(crate) fn set_up(&mut self) {
        for directory in [DIRECTORY, OTHER_DIRECTORY] {
            self.write(directory + (KERNEL >> 22) * 4, P | RW | PS);
        }
        self.write(DIRECTORY + (CODE >> 22) * 4, TABLE | P | RW | US);
        self.write(
            OTHER_DIRECTORY + (CODE >> 22) * 4,
            OTHER_TABLE | P | RW | US,
        );
        self.map(CODE, CODE_PAGE | P | US);
        for page in 0..PAGES {
            self.map(
                DATA + page * 0x1000,
                (DATA_PAGES + page * 0x1000) | P | RW | US,
            );
        }
        for (selector, raw) in [
            (USER_CS, RAW_CODE),
            (USER_DS, RAW_DATA),
            (TLS, RAW_TLS),
            (CODE16, 0x000F_FB00_0000_FFFF),
            (0x60, 0x00CF_9B00_0000_FFFF),
            (0x68, 0x00CF_9300_0000_FFFF),
        ] {
            self.descriptor(GDT + u32::from(selector & !7), raw);
        }
        self.descriptor(LDT + u32::from(LDT_DATA & !7), RAW_TLS | 1 << 40);

        let state = &mut self.state;
        state.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE;
        state.cr3 = DIRECTORY;
        state.cr4 = cr4::PSE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        state.cpl = 3;
        state.gdtr = TableRegister {
            base: KERNEL + GDT,
            limit: 0xFF,
        };
        state.seg = [segment(USER_DS, RAW_DATA); 6];
        state.seg[seg::CS] = segment(USER_CS, RAW_CODE);
        self.mmu.set_paging(PagingRegs {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: 0,
        });
        self.restart();
    }

    /// The registers at the start of a program.
    pub(crate) fn restart(&mut self) {
        self.state.gpr = [0; 8];
        self.state.gpr[reg::ESP] = STACK;
        self.state.eip = CODE;
        self.state.eflags = eflags::FIXED | eflags::IF;
    }

    pub(crate) fn write(&mut self, gpa: u32, value: u32) {
        let bytes = value.to_le_bytes();
        self.mmu.write_phys(gpa.into(), &bytes).expect("RAM");
    }

    pub(crate) fn descriptor(&mut self, gpa: u32, raw: u64) {
        let bytes = raw.to_le_bytes();
        self.mmu.write_phys(gpa.into(), &bytes).expect("RAM");
    }

    pub(crate) fn read(&self, gpa: u32) -> u32 {
        let mut bytes = [0; 4];
        self.mmu.read_phys(gpa.into(), &mut bytes).expect("RAM");
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn entry(linear: u32) -> u32 {
        TABLE + (linear >> 12 & 0x3FF) * 4
    }

    /// Stores a page-table entry as a guest kernel does.
    pub(crate) fn map(&mut self, linear: u32, entry: u32) {
        self.write(Self::entry(linear), entry);
    }

    pub(crate) fn program(&mut self, code: &[u8]) {
        self.mmu.write_phys(CODE_PAGE.into(), code).expect("RAM");
        self.restart();
    }

    pub(crate) fn run(&mut self) -> DirectExit {
        self.try_run().expect("no registers are lost")
    }

    pub(crate) fn try_run(&mut self) -> Result<DirectExit, RegistersLost> {
        self.tables.inputs(&self.state, &self.mmu, false);
        let Self { state, mmu, .. } = self;
        self.engine.run(state, mmu, &self.tables, &mut self.pins)
    }

    /// Runs to an exit with [`Exit::Replay`] at `offset` of the program.
    #[track_caller]
    pub(crate) fn run_to(&mut self, offset: usize) -> ExitKind {
        let DirectExit {
            exit,
            kind,
            rescued,
        } = self.run();
        assert!(!rescued);
        assert_eq!(exit, Exit::Replay, "{:x?}", self.state);
        assert_eq!(self.state.eip, CODE + offset as u32, "EIP");
        kind
    }

    pub(crate) fn register(&self, number: usize) -> u32 {
        self.state.gpr[number]
    }
}

pub(crate) fn op(opcode: &[u8], value: u32) -> Vec<u8> {
    [opcode, &value.to_le_bytes()].concat()
}

pub(crate) const INT80: [u8; 2] = [0xCD, 0x80];

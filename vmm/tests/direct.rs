//! Direct execution over the machine's own shadow MMU: guest page tables and descriptor tables in
//! guest memory, ring-3 programs, every kind of exit. Without a usable `/dev/kvm` each test says so
//! and does nothing.

use std::thread;
use std::time::Duration;

use decision::ExitKind;
use ringshift::direct::{self, DirectExecution, TABLE_POOL_BASE};
use ringshift::engine::{DirectEngine, DirectExit};
use ringshift::inputs::DescriptorTables;
use shadow_mmu::{Mmu, MmuConfig, PagingRegs, PhysTarget};
use translator::state::{FxState, Segment, TableRegister, cr0, cr4, eflags, reg, seg};
use translator::{CpuState, Exit, Platform};

/// Guest-physical addresses of the guest's own tables and pages.
const DIRECTORY: u32 = 0x1000;
const TABLE: u32 = 0x2000;
const OTHER_DIRECTORY: u32 = 0x3000;
const OTHER_TABLE: u32 = 0x4000;
const GDT: u32 = 0x5000;
const LDT: u32 = 0x5800;
const CODE_PAGE: u32 = 0x1_0000;
const DATA_PAGES: u32 = 0x1_1000;

/// Linear addresses.
const CODE: u32 = 0x0804_8000;
const DATA: u32 = 0x0804_9000;
const KERNEL: u32 = 0xC000_0000;
/// Linear data pages, from [`DATA`] on.
const PAGES: u32 = 32;
const STACK: u32 = DATA + PAGES * 0x1000 - 16;

const P: u32 = 1;
const RW: u32 = 2;
const US: u32 = 4;
const PS: u32 = 0x80;

const USER_CS: u16 = 0x73;
const USER_DS: u16 = 0x7B;
const TLS: u16 = 0x33;
const CODE16: u16 = 0x83;
/// The first descriptor of the local table, which is no null descriptor.
const LDT_DATA: u16 = 0x07;

/// A platform with an interrupt line.
#[derive(Default)]
struct Pins {
    interrupt: bool,
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

struct Guest {
    engine: DirectExecution,
    mmu: Mmu,
    state: CpuState,
    tables: DescriptorTables,
    pins: Pins,
}

/// What the probe finds wrong is not in these programs.
const FORCE: direct::Purpose = direct::Purpose {
    force: true,
    must_pay: false,
    without: decision::HostSupport::NONE,
};

/// A guest on this host's KVM, or `None` with a word about why not.
fn guest() -> Option<Guest> {
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

fn segment(selector: u16, raw: u64) -> Segment {
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

const RAW_CODE: u64 = 0x00CF_FB00_0000_FFFF;
const RAW_DATA: u64 = 0x00CF_F300_0000_FFFF;
/// Data with base `DATA + 0x100`, the whole address space, not accessed yet.
const RAW_TLS: u64 = 0x08CF_F204_9100_FFFF;

impl Guest {
    fn set_up(&mut self) {
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
    fn restart(&mut self) {
        self.state.gpr = [0; 8];
        self.state.gpr[reg::ESP] = STACK;
        self.state.eip = CODE;
        self.state.eflags = eflags::FIXED | eflags::IF;
    }

    fn write(&mut self, gpa: u32, value: u32) {
        let bytes = value.to_le_bytes();
        self.mmu.write_phys(gpa.into(), &bytes).expect("RAM");
    }

    fn descriptor(&mut self, gpa: u32, raw: u64) {
        let bytes = raw.to_le_bytes();
        self.mmu.write_phys(gpa.into(), &bytes).expect("RAM");
    }

    fn read(&self, gpa: u32) -> u32 {
        let mut bytes = [0; 4];
        self.mmu.read_phys(gpa.into(), &mut bytes).expect("RAM");
        u32::from_le_bytes(bytes)
    }

    fn entry(linear: u32) -> u32 {
        TABLE + (linear >> 12 & 0x3FF) * 4
    }

    /// Stores a page-table entry as a guest kernel does.
    fn map(&mut self, linear: u32, entry: u32) {
        self.write(Self::entry(linear), entry);
    }

    fn program(&mut self, code: &[u8]) {
        self.mmu.write_phys(CODE_PAGE.into(), code).expect("RAM");
        self.restart();
    }

    fn run(&mut self) -> DirectExit {
        self.tables.inputs(&self.state, &self.mmu, false);
        let Self { state, mmu, .. } = self;
        self.engine.run(state, mmu, &self.tables, &mut self.pins)
    }

    /// Runs to an exit with [`Exit::Replay`] at `offset` of the program.
    #[track_caller]
    fn run_to(&mut self, offset: usize) -> ExitKind {
        let DirectExit { exit, kind, lost } = self.run();
        assert!(!lost);
        assert_eq!(exit, Exit::Replay, "{:x?}", self.state);
        assert_eq!(self.state.eip, CODE + offset as u32, "EIP");
        kind
    }

    fn register(&self, number: usize) -> u32 {
        self.state.gpr[number]
    }
}

fn op(opcode: &[u8], value: u32) -> Vec<u8> {
    [opcode, &value.to_le_bytes()].concat()
}

const INT80: [u8; 2] = [0xCD, 0x80];

#[test]
fn a_program_runs_to_its_system_call() {
    let Some(mut guest) = guest() else { return };
    let code = [
        op(&[0xB8], 7),                        // mov eax, 7
        op(&[0x6B, 0xC0, 6], 0)[..3].to_vec(), // imul eax, eax, 6
        op(&[0xA3], DATA),                     // mov [DATA], eax
        vec![0x50, 0x5B],                      // push eax; pop ebx
        vec![0x39, 0xC3],                      // cmp ebx, eax
    ]
    .concat();
    guest.program(&[&code[..], &INT80].concat());
    assert_eq!(guest.run_to(code.len()), ExitKind::SystemCall);
    assert_eq!(
        (guest.register(reg::EAX), guest.register(reg::EBX)),
        (42, 42)
    );
    assert_eq!(guest.register(reg::ESP), STACK);
    assert_eq!(guest.read(DATA_PAGES), 42);
    let wanted = eflags::FIXED | eflags::IF | eflags::ZF | eflags::PF;
    assert_eq!(guest.state.eflags, wanted);
    // The guest's own entries: code accessed, data and stack accessed and dirty, others untouched.
    let bits = |guest: &Guest, linear| guest.read(Guest::entry(linear)) & 0x60;
    assert_eq!(bits(&guest, CODE), 0x20);
    assert_eq!(bits(&guest, DATA), 0x60);
    assert_eq!(bits(&guest, STACK), 0x60);
    assert_eq!(bits(&guest, DATA + 0x1000), 0);
    assert!(guest.engine.statistics().hidden_faults >= 3);
}

#[test]
fn a_true_page_fault_leaves_and_the_repaired_program_goes_on() {
    let Some(mut guest) = guest() else { return };
    let hole = DATA + 5 * 0x1000;
    guest.map(hole, 0);
    let read = op(&[0xA1], hole + 8); // mov eax, [hole + 8]
    let write = op(&[0xA3], hole + 12); // mov [hole + 12], eax
    let code = [&read[..], &write, &INT80].concat();
    guest.program(&code);
    assert_eq!(guest.run_to(0), ExitKind::Exception);
    assert_eq!(guest.run_to(0), ExitKind::Exception, "still there");
    // Read-only first.
    guest.write(DATA_PAGES + 5 * 0x1000 + 8, 1234);
    guest.map(hole, (DATA_PAGES + 5 * 0x1000) | P | US);
    assert_eq!(guest.run_to(5), ExitKind::Exception);
    assert_eq!(guest.register(reg::EAX), 1234);
    guest.map(hole, (DATA_PAGES + 5 * 0x1000) | P | US | RW);
    assert_eq!(guest.run_to(10), ExitKind::SystemCall);
    assert_eq!(guest.read(DATA_PAGES + 5 * 0x1000 + 12), 1234);
}

#[test]
fn a_supervisor_page_is_out_of_reach() {
    let Some(mut guest) = guest() else { return };
    guest.program(&[&op(&[0xA1], KERNEL)[..], &INT80].concat());
    assert_eq!(guest.run_to(0), ExitKind::Exception);
    assert_eq!(guest.register(reg::EAX), 0);
}

#[test]
fn edits_of_the_guest_tables_are_followed_without_a_flush() {
    let Some(mut guest) = guest() else { return };
    for page in 0..4 {
        guest.write(DATA_PAGES + page * 0x1000, 0x1111 * (page + 1));
    }
    let code = [&op(&[0xA1], DATA)[..], &INT80].concat();
    for round in 0..3 {
        for page in [1, 3, 2, 0] {
            guest.map(DATA, (DATA_PAGES + page * 0x1000) | P | US | RW);
            guest.program(&code);
            guest.run_to(5);
            let found = guest.register(reg::EAX);
            assert_eq!(found, 0x1111 * (page + 1), "round {round}");
        }
    }
}

#[test]
fn address_spaces_are_kept_apart() {
    let Some(mut guest) = guest() else { return };
    let page = |number: u32| DATA_PAGES + number * 0x1000;
    for (number, value) in [(0, 111), (1, 222)] {
        guest.write(page(number), value);
    }
    for (linear, entry) in [(CODE, CODE_PAGE | P | US), (DATA, page(1) | P | US | RW)] {
        guest.write(OTHER_TABLE + (linear >> 12 & 0x3FF) * 4, entry);
    }
    for (root, value) in [(DIRECTORY, 111), (OTHER_DIRECTORY, 222)].repeat(3) {
        guest.mmu.load_cr3(root);
        guest.state.cr3 = root;
        guest.program(&[&op(&[0xA1], DATA)[..], &INT80].concat());
        guest.run_to(5);
        assert_eq!(guest.register(reg::EAX), value);
    }
    // What only the first space has mapped.
    guest.program(&[&op(&[0xA1], DATA + 0x1000)[..], &INT80].concat());
    guest.run_to(0);
}

#[test]
fn device_memory_and_traced_pages_leave() {
    let Some(mut guest) = guest() else { return };
    const DEVICE: u32 = 0x30_0000;
    let kind = PhysTarget::Device;
    guest
        .mmu
        .set_range(DEVICE.into(), 0x1000, kind)
        .expect("a range");
    guest.map(DATA, DEVICE | P | US | RW);
    guest.program(&[&op(&[0xA1], DATA + 4)[..], &INT80].concat());
    assert_eq!(guest.run_to(0), ExitKind::DeviceMemory);

    // A page with translated code: readable, and a write must be seen.
    let page = DATA + 0x1000;
    guest.mmu.trace_code((DATA_PAGES + 0x1000) >> 12);
    guest.program(&[&op(&[0xA1], page)[..], &op(&[0xA3], page), &INT80].concat());
    assert_eq!(guest.run_to(5), ExitKind::DeviceMemory);
    guest.mmu.untrace_code((DATA_PAGES + 0x1000) >> 12);
    assert_eq!(guest.run_to(10), ExitKind::SystemCall);
    // A page that becomes traced while it is mapped writable.
    guest.mmu.trace_code((DATA_PAGES + 0x1000) >> 12);
    guest.restart();
    guest.run_to(5);
}

#[test]
fn a_string_instruction_survives_hidden_faults() {
    let Some(mut guest) = guest() else { return };
    let bytes = 0x2800;
    for word in 0..bytes / 4 {
        guest.write(
            DATA_PAGES + 0x1800 + word * 4,
            word.wrapping_mul(0x9E37_79B9),
        );
    }
    let code = [
        op(&[0xBE], DATA + 0x1800), // mov esi
        op(&[0xBF], DATA + 0x8400), // mov edi
        op(&[0xB9], bytes / 4),     // mov ecx
        vec![0xFC, 0xF3, 0xA5],     // cld; rep movsd
    ]
    .concat();
    guest.program(&[&code[..], &INT80].concat());
    guest.run_to(code.len());
    assert_eq!(guest.register(reg::ECX), 0);
    assert_eq!(guest.register(reg::EDI), DATA + 0x8400 + bytes);
    for word in 0..bytes / 4 {
        let found = guest.read(DATA_PAGES + 0x8400 + word * 4);
        assert_eq!(found, word.wrapping_mul(0x9E37_79B9), "word {word}");
    }
}

#[test]
fn segments_that_the_guest_loads_are_known_afterwards() {
    let Some(mut guest) = guest() else { return };
    guest.state.ldtr = Segment {
        selector: 0x88,
        base: KERNEL + LDT,
        limit: 0xFF,
        rights: translator::state::Rights::from_bits_retain(0x82),
    };
    guest.write(DATA_PAGES + 0x110, 77);
    guest.write(DATA_PAGES + 0x114, 88);
    let code = [
        op(&[0xB8], TLS.into()),       // mov eax, TLS
        vec![0x8E, 0xE8],              // mov gs, ax
        op(&[0x65, 0x8B, 0x1D], 0x10), // mov ebx, gs:[10h]
        op(&[0xB8], LDT_DATA.into()),  // mov eax, LDT_DATA
        vec![0x8E, 0xE0],              // mov fs, ax
        op(&[0x64, 0x8B, 0x0D], 0x14), // mov ecx, fs:[14h]
        vec![0x31, 0xC0, 0x8E, 0xC0],  // xor eax, eax; mov es, ax
    ]
    .concat();
    guest.program(&[&code[..], &INT80].concat());
    guest.run_to(code.len());
    assert_eq!(
        (guest.register(reg::EBX), guest.register(reg::ECX)),
        (77, 88)
    );
    assert_eq!(guest.state.seg[seg::GS], segment(TLS, RAW_TLS | 1 << 40));
    assert_eq!(
        guest.state.seg[seg::FS],
        segment(LDT_DATA, RAW_TLS | 1 << 40)
    );
    assert_eq!(guest.state.seg[seg::ES].selector, 0);
    let unusable = translator::state::Rights::UNUSABLE;
    assert!(guest.state.seg[seg::ES].rights.contains(unusable));
    // The load set the accessed bit in the guest's table.
    let high = guest.read(GDT + u32::from(TLS & !7) + 4);
    assert_eq!(high, ((RAW_TLS | 1 << 40) >> 32) as u32);
    // And the registers that stay loaded work after re-entry.
    guest.state.eip = CODE + 7;
    guest.state.gpr[reg::EBX] = 0;
    guest.run_to(code.len());
    assert_eq!(guest.register(reg::EBX), 77);

    // A descriptor that the kernel changes: the next run sees the new one.
    let moved = (RAW_TLS + (4 << 16)) | (1 << 40);
    guest.descriptor(GDT + u32::from(TLS & !7), moved);
    guest.state.seg[seg::GS] = segment(TLS, moved);
    guest.state.eip = CODE + 7;
    guest.run_to(code.len());
    assert_eq!(guest.register(reg::EBX), 88);
}

#[test]
fn what_ring_3_may_not_load_or_the_host_not_run_leaves() {
    let Some(mut guest) = guest() else { return };
    let ss = op(&[0xB8], 0x6B); // mov eax, kernel data | 3
    guest.program(&[&ss[..], &[0x8E, 0xD0], &INT80].concat()); // mov ss, ax
    assert_eq!(guest.run_to(5), ExitKind::Exception);
    assert_eq!(guest.state.seg[seg::SS].selector, USER_DS);
    if !guest.engine.support().compat16 {
        let mut jump = op(&[0xEA], CODE); // ljmp CODE16:CODE
        jump.extend(CODE16.to_le_bytes());
        guest.program(&jump);
        guest.run_to(0);
        assert_eq!(guest.state.seg[seg::CS], segment(USER_CS, RAW_CODE));
    }
}

#[test]
fn fpu_state_goes_in_and_comes_out() {
    let Some(mut guest) = guest() else { return };
    let code = [
        op(&[0xDD, 0x05], DATA),     // fld qword [DATA]
        vec![0xD8, 0xC8],            // fmul st(0), st(0)
        op(&[0xDD, 0x15], DATA + 8), // fst qword [DATA + 8]
    ]
    .concat();
    let program = [&code[..], &INT80].concat();
    guest
        .mmu
        .write_phys(DATA_PAGES.into(), &1.5f64.to_le_bytes())
        .expect("RAM");
    for _ in 0..40 {
        // Lazy first, then eager, then lazy again.
        guest.program(&program);
        guest.state.fpu = FxState::initial();
        guest.state.fpu.0[160..164].copy_from_slice(&[1, 2, 3, 4]); // XMM0
        let mxcsr = 0x1FC0 & translator::host_mxcsr_mask(); // denormals are zeros
        guest.state.fpu.0[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        let exit = guest.run();
        if guest.state.eip == CODE {
            eprintln!("SKIPPED: this host's KVM does not run x87 instructions");
            return;
        }
        assert_eq!(
            (exit.exit, guest.state.eip),
            (Exit::Replay, CODE + code.len() as u32)
        );
        let mut result = [0; 8];
        guest
            .mmu
            .read_phys(u64::from(DATA_PAGES) + 8, &mut result)
            .expect("RAM");
        assert_eq!(f64::from_le_bytes(result), 2.25);
        let fpu = &guest.state.fpu.0;
        assert_eq!(fpu[4], 0x80, "one register in use");
        assert_eq!(fpu[32..42], [0, 0, 0, 0, 0, 0, 0, 0x90, 0, 0x40], "2.25");
        assert_eq!(fpu[160..164], [1, 2, 3, 4], "XMM0");
        assert_eq!(fpu[24..28], mxcsr.to_le_bytes(), "MXCSR");
    }
    // With CR0.TS of the guest set, every use is the guest's business.
    guest.state.cr0 |= cr0::TS;
    guest.program(&program);
    guest.run_to(0);
}

#[test]
fn kicks_and_interrupts_come_through() {
    let Some(mut guest) = guest() else { return };
    guest.program(&[0x43, 0xEB, 0xFD]); // 1: inc ebx; jmp 1b
    let kicker = guest.engine.kicker();
    for round in 0..20 {
        let kicker = kicker.clone();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_micros(300 * round));
            kicker.kick();
        });
        let before = guest.register(reg::EBX);
        let left = guest.run();
        assert_eq!((left.exit, left.kind), (Exit::Kicked, ExitKind::Kick));
        assert!(guest.state.eip.wrapping_sub(CODE) < 3);
        assert!(round < 10 || guest.register(reg::EBX) != before);
        thread.join().expect("the kicker's thread");
    }
    // A kick that comes before the run ends it; one is enough for one.
    kicker.kick();
    assert_eq!(guest.run().exit, Exit::Kicked);
    guest.pins.interrupt = true;
    let left = guest.run();
    assert_eq!(
        (left.exit, left.kind),
        (Exit::InterruptReady, ExitKind::Interrupt)
    );
    guest.pins.interrupt = false;
    // No kick is left over.
    guest.program(&INT80);
    assert_eq!(guest.run_to(0), ExitKind::SystemCall);
}

#[test]
fn privileged_instructions_leave_in_place() {
    let Some(mut guest) = guest() else { return };
    for (instruction, kind) in [
        (&[0xFA][..], ExitKind::Exception),                     // cli
        (&[0xF4], ExitKind::Exception),                         // hlt
        (&[0xE4, 0x60], ExitKind::Port),                        // in al, 60h
        (&[0x0F, 0x34], ExitKind::SystemCall),                  // sysenter
        (&[0xCC], ExitKind::SystemCall),                        // int3
        (&[0xF1], ExitKind::Exception),                         // icebp
        (&[0x0F, 0x01, 0x05, 0, 0, 0, 0], ExitKind::Exception), // sgdt [0]
        (&[0x0F, 0xA2], ExitKind::Exception),                   // cpuid
    ] {
        guest.program(&[&[0x90, 0x90], instruction, &INT80].concat());
        assert_eq!(guest.run_to(2), kind, "{instruction:02x?}");
        assert_eq!(guest.register(reg::EAX), 0);
    }
}

#[test]
fn two_guests_do_not_see_each_other() {
    let (Some(mut one), Some(mut two)) = (guest(), guest()) else {
        return;
    };
    one.write(DATA_PAGES, 1);
    two.write(DATA_PAGES, 2);
    let code = [&op(&[0xA1], DATA)[..], &INT80].concat();
    for _ in 0..3 {
        for (guest, value) in [(&mut one, 1), (&mut two, 2)] {
            guest.program(&code);
            guest.run_to(5);
            assert_eq!(guest.register(reg::EAX), value);
        }
    }
}

/// Where the host's processor is right this is an ordinary far return; where it goes to virtual-8086
/// mode (QEMU's do) the run is lost, and nothing else.
#[test]
fn iret_with_vm_in_the_image_stops_nothing() {
    let Some(mut guest) = guest() else { return };
    let frame = STACK - 64;
    let code = [
        op(&[0x68], eflags::VM | eflags::IF | eflags::FIXED), // push flags
        op(&[0x68], USER_CS.into()),                          // push CS
        op(&[0x68], CODE + 17),                               // push CODE + 17
        vec![0x43, 0xCF],                                     // inc ebx; iretd
    ]
    .concat();
    for round in 0..300 {
        guest.program(&[&code[..], &INT80].concat());
        guest.state.gpr[reg::ESP] = frame;
        let before = guest.state.clone();
        let left = guest.run();
        assert_eq!(left.exit, Exit::Replay, "round {round}: {:x?}", guest.state);
        if left.lost {
            assert_eq!((left.kind, &guest.state), (ExitKind::Internal, &before));
        } else {
            assert!([CODE + 16, CODE + 17].contains(&guest.state.eip));
            assert_eq!(guest.register(reg::EBX), 1);
        }
        // The engine gives itself up after a few hundred of these; until then it is good for more.
        if guest.engine.support().compat32 {
            guest.program(&[&[0x43], &INT80[..]].concat()); // inc ebx
            assert_eq!(guest.run_to(1), ExitKind::SystemCall, "round {round}");
            assert_eq!(guest.register(reg::EBX), 1);
        } else {
            assert!(round > 200, "given up after {round} rounds");
        }
    }
    let lost = guest.engine.statistics().lost_runs;
    assert!(lost == 0 || !guest.engine.support().compat32, "{lost} lost");
}

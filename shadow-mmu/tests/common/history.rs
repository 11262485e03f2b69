//! Histories of table writes, accesses, CR3 loads and the rest, against the model. What happens is up to a generator of
//! choices: random numbers, or the bytes that a fuzzer makes up.

use super::model::Model;
use super::*;
use shadow_mmu::*;

/// Where tables are: any of them can be used as directory, page table or data.
const TABLES: [u32; 10] = [
    0x10_0000, 0x10_1000, 0x10_2000, 0x10_3000, 0x10_4000, 0x10_5000, 0x10_6000, 0x10_7000,
    0x20_0000, 0x20_1000,
];
const ROOTS: usize = 3;
const FRAMES: u32 = 24;

fn frame(rng: &mut impl Choices) -> u32 {
    match rng.below(10) {
        0 => TABLES[rng.below(10) as usize],
        1 => 0xb_8000,
        2 => 0xf_0000,
        3 => 0x700_0000,
        _ => 0x40_0000 + rng.below(FRAMES) * 0x1000,
    }
}

/// Linear addresses: few pages, in regions that share and do not share.
fn linear(rng: &mut impl Choices) -> u32 {
    let region = [
        0x0800_0000u32,
        0x0840_0000,
        0x4000_0000,
        0xc000_0000,
        0xc040_0000,
        0xfffc_0000,
    ][rng.below(6) as usize];
    let page = if rng.one_in(12) {
        rng.below(1024)
    } else {
        rng.below(8)
    };
    (region & !0x3f_ffff) + page * 0x1000 + rng.below(1024) * 4
}

fn flags(rng: &mut impl Choices) -> u32 {
    let mut bits = 0;
    for (bit, of) in [(P, 8), (W, 3), (U, 2), (A, 2), (D, 2)] {
        if !rng.one_in(of) {
            bits |= bit;
        }
    }
    bits
}

/// An entry of a directory, or of a page table.
fn entry(rng: &mut impl Choices, pae: bool, directory: bool) -> u64 {
    let mut e = u64::from(flags(rng));
    if directory && rng.one_in(8) {
        e |= u64::from(PS | U);
        e |= u64::from(if rng.one_in(3) { 0u32 } else { 0x40_0000 });
        if rng.one_in(10) {
            e |= 1 << 20;
        }
    } else if directory {
        e |= u64::from(TABLES[rng.below(10) as usize]);
    } else {
        e |= u64::from(frame(rng));
    }
    if pae && rng.one_in(30) {
        e |= 1 << [63, 40][rng.below(2) as usize];
    }
    e
}

/// A guest, its model, and what has happened to them.
pub(crate) struct History<C> {
    m: Mmu,
    model: Model,
    rng: C,
    pae: bool,
    log: Vec<String>,
}

impl<C: Choices> History<C> {
    /// An empty guest whose history `rng` will choose.
    pub(crate) fn new(rng: C, pae: bool) -> History<C> {
        let config = MmuConfig {
            ram_bytes: 32 << 20,
            max_spaces: 6,
            mapping_budget: 300,
            ..MmuConfig::default()
        };
        let mut m = Mmu::new(config).unwrap();
        m.set_range(0xf_0000, 0x1_0000, RangeKind::Rom).unwrap();
        for i in 0..FRAMES {
            let words = (0..1024u32).flat_map(|k| (0xf000_0000 | i << 16 | k).to_le_bytes());
            let at = 0x40_0000 + u64::from(i) * 0x1000;
            m.write_phys(at, &words.collect::<Vec<u8>>()).unwrap();
        }
        let regs = PagingRegs::default();
        History {
            m,
            model: Model {
                regs,
                a20: true,
                pdptes: [0; 4],
            },
            rng,
            pae,
            log: Vec::new(),
        }
    }

    /// Tables with something in them to start from.
    fn populate(&mut self, rng: &mut impl Choices) {
        let (size, shift, entries) = if self.pae {
            (8u32, 21, 512)
        } else {
            (4, 22, 1024)
        };
        for directory in &TABLES[..5] {
            for region in [
                0x0800_0000u32,
                0x0840_0000,
                0x4000_0000,
                0xc000_0000,
                0xc040_0000,
                0xffc0_0000,
            ] {
                let value = entry(rng, self.pae, true) | u64::from(P);
                let at = directory + (region >> shift & (entries - 1)) * size;
                self.m
                    .write_phys(u64::from(at), &value.to_le_bytes()[..size as usize])
                    .unwrap();
            }
            for k in 0..8u64 {
                let pdpte = 1 | u64::from(TABLES[rng.below(5) as usize]);
                if self.pae {
                    self.m
                        .write_phys(u64::from(*directory) + 0xe00 + k * 8, &pdpte.to_le_bytes())
                        .unwrap();
                }
            }
        }
        for table in &TABLES[3..] {
            for index in 0..8 {
                let value = entry(rng, self.pae, false);
                self.m
                    .write_phys(
                        u64::from(table + index * size),
                        &value.to_le_bytes()[..size as usize],
                    )
                    .unwrap();
            }
        }
    }

    fn write_table(&mut self) {
        let l = linear(&mut self.rng);
        let directory = self.rng.one_in(4);
        let table = TABLES[if directory {
            self.rng.below(5)
        } else {
            3 + self.rng.below(7)
        } as usize];
        let value = entry(&mut self.rng, self.pae, directory);
        let (index, size) = match (self.pae, directory) {
            (false, true) => (l >> 22, 4),
            (false, false) => (l >> 12 & 1023, 4),
            (true, true) => (l >> 21 & 511, 8),
            (true, false) => (l >> 12 & 511, 8),
        };
        // Now and then only a part is written: half of a PAE entry, or one byte.
        let (from, to) = match self.rng.below(8) {
            0 => (0, 1),
            1 => (1, 3),
            2 => (size / 2, size),
            _ => (0, size),
        };
        let at = u64::from(table + index * size as u32 + from as u32);
        self.log
            .push(format!("table {at:#x} = {:#x} bytes {from}..{to}", value));
        self.m
            .write_phys(at, &value.to_le_bytes()[from..to])
            .unwrap();
    }

    fn set_regs(&mut self) {
        let root = TABLES[self.rng.below(ROOTS as u32) as usize];
        let mut cr0 = 1 | CR0_PG | CR0_WP;
        if self.rng.one_in(6) {
            cr0 &= !CR0_WP;
        }
        if self.rng.one_in(12) {
            cr0 &= !CR0_PG;
        }
        let cr4 = if self.pae {
            CR4_PAE
        } else if self.rng.one_in(8) {
            0
        } else {
            CR4_PSE
        };
        let efer = if self.rng.one_in(8) { 0 } else { 0x800 };
        let cr3 = if self.pae {
            root + 0x20 * self.rng.below(2) + 0xe00
        } else {
            root
        };
        self.model.regs = PagingRegs {
            cr0,
            cr3,
            cr4,
            efer,
        };
        self.log.push(format!("{:?}", self.model.regs));
        self.m.set_paging(self.model.regs);
        self.model.load_pdptes(&self.m);
        // Registers that stay the same load nothing; a load of CR3 always does.
        self.m.load_cr3(cr3);
    }

    fn load_cr3(&mut self) {
        let root = TABLES[self.rng.below(ROOTS as u32) as usize];
        let cr3 = if self.pae {
            root + 0x20 * self.rng.below(2) + 0xe00
        } else {
            root
        };
        if self.pae && self.rng.one_in(4) {
            // The pointer tables change too; the processor looks only now.
            for i in 0..4u64 {
                let pdpte = if self.rng.one_in(8) {
                    0
                } else {
                    1 | u64::from(TABLES[self.rng.below(5) as usize])
                };
                self.m
                    .write_phys(u64::from(cr3) + i * 8, &pdpte.to_le_bytes())
                    .unwrap();
            }
        }
        self.log.push(format!("CR3 {cr3:#x}"));
        self.model.regs.cr3 = cr3;
        self.m.load_cr3(cr3);
        if self.model.regs.cr0 & CR0_PG != 0 {
            self.model.load_pdptes(&self.m);
        }
    }

    fn access(&mut self) {
        let l = linear(&mut self.rng);
        let privilege = if self.rng.one_in(2) {
            Privilege::User
        } else {
            Privilege::Supervisor
        };
        let kind =
            [AccessKind::Read, AccessKind::Write, AccessKind::Execute][self.rng.below(3) as usize];
        let access = Access { kind, privilege };
        let value = self.rng.next() as u32;
        let expected = self.model.access(&self.m, l, access);
        let before = expected.result.ok().map(|gpa| (gpa, self.m.phys_kind(gpa)));
        self.log.push(format!(
            "{access:?} {l:#x} {value:#x} -> {:?}",
            expected.result
        ));
        let mut now = [0; 4];
        if let Some((gpa, PhysTarget::Ram | PhysTarget::Rom)) = before {
            self.m.read_phys(gpa, &mut now).unwrap();
        }
        // Only half of the accesses go through windows; the others are the VMM's.
        let done = if kind == AccessKind::Execute || self.rng.one_in(3) {
            match self.m.resolve(l, access) {
                Err(fault) => Done::Fault(fault.code),
                Ok(r) if matches!(r.target, PhysTarget::Device | PhysTarget::Hole) => {
                    Done::NotMemory(r.gpa)
                }
                Ok(r) if kind == AccessKind::Write => {
                    self.meet(l, access);
                    self.m.write_phys(r.gpa, &value.to_le_bytes()).unwrap();
                    Done::Value(value)
                }
                Ok(r) => {
                    if kind == AccessKind::Read {
                        self.meet(l, access);
                    }
                    let mut raw = [0; 4];
                    self.m.read_phys(r.gpa, &mut raw).unwrap();
                    Done::Value(u32::from_le_bytes(raw))
                }
            }
        } else {
            engine(&mut self.m, l, access, value)
        };
        match (expected.result, before) {
            (Err(code), _) => assert_eq!(done, Done::Fault(code)),
            (Ok(gpa), Some((_, PhysTarget::Device | PhysTarget::Hole))) => {
                assert_eq!(done, Done::NotMemory(gpa))
            }
            (Ok(gpa), Some((_, target))) if kind == AccessKind::Write => {
                assert_eq!(done, Done::Value(value));
                self.m.read_phys(gpa, &mut now).unwrap();
                assert_eq!(
                    u32::from_le_bytes(now) == value,
                    target == PhysTarget::Ram,
                    "write to {target:?} at {gpa:#x}"
                );
            }
            (Ok(gpa), _) => {
                // Setting accessed bits may have changed what is read, if it is a table.
                if !expected.entries.iter().any(|&(at, ..)| at & !7 == gpa & !7) {
                    assert_eq!(
                        done,
                        Done::Value(u32::from_le_bytes(now)),
                        "read at {gpa:#x}"
                    );
                }
            }
        }
        let overwritten = kind == AccessKind::Write
            && expected
                .entries
                .iter()
                .any(|&(at, ..)| expected.result.is_ok_and(|gpa| at & !7 == gpa & !7));
        if !overwritten {
            self.model.check_entries(&self.m, &expected).unwrap();
        }
        if kind == AccessKind::Execute && expected.result.is_ok() {
            let space = self.m.view(privilege).space;
            self.m.mark_code(space, l >> 12);
        }
    }

    /// What the translator does in front of an access that it expects to fault.
    fn meet(&mut self, l: u32, access: Access) {
        let met = self.m.is_within_reach(l, access);
        let base = |m: &mut Mmu, p| m.clean_view(p).base;
        let reads = peek(base(&mut self.m, access.privilege), l).is_some()
            || peek(base(&mut self.m, Privilege::User), l).is_some();
        assert!(!met || reads, "{l:#x} is not mapped");
    }

    fn step(&mut self) {
        match self.rng.below(40) {
            0..8 => self.write_table(),
            8..10 => self.load_cr3(),
            14 if self.rng.one_in(3) => self.set_regs(),
            15 => self.m.invlpg(linear(&mut self.rng)),
            16 => {
                let gfn = frame(&mut self.rng) >> 12;
                self.log.push(format!("trace {gfn:#x}"));
                self.m.trace_code(gfn);
            }
            17 => self.m.untrace_code(frame(&mut self.rng) >> 12),
            18 => {
                let at = u64::from(0x40_0000 + self.rng.below(FRAMES * 1024) * 4);
                self.m
                    .write_phys(at, &self.rng.next().to_le_bytes())
                    .unwrap();
            }
            19 if self.rng.one_in(20) => {
                self.model.a20 = !self.model.a20;
                self.log.push(format!("A20 {}", self.model.a20));
                self.m.set_a20(self.model.a20);
                self.model.load_pdptes(&self.m);
            }
            20 if self.rng.one_in(60) => {
                let kind =
                    [RangeKind::Ram, RangeKind::Rom, RangeKind::Device][self.rng.below(3) as usize];
                self.log.push(format!("C8000h {kind:?}"));
                self.m.set_range(0xf_0000, 0x4000, kind).unwrap();
            }
            _ => self.access(),
        }
    }

    /// Fills the tables as `start` says, and goes on until `steps` are done or there are no more choices.
    pub(crate) fn run(mut self, start: &mut impl Choices, steps: u32) -> MmuStats {
        let mut events = Vec::new();
        self.populate(start);
        self.set_regs();
        for step in 0..steps {
            if self.rng.is_done() {
                break;
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.step();
                if step % 16 == 0 {
                    self.m.audit().unwrap();
                }
            }));
            if let Err(panic) = result {
                let from = self.log.len().saturating_sub(60);
                eprintln!("step {step}\n{}", self.log[from..].join("\n"));
                std::panic::resume_unwind(panic);
            }
            events.clear();
            self.m.take_events(&mut events);
            assert!(
                self.m.snapshot().vmas <= 310,
                "{} mappings",
                self.m.stats().vmas
            );
        }
        self.m.audit().unwrap();
        self.m.snapshot()
    }
}

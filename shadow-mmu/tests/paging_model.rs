//! Every combination of paging bits against the model: outcome, error code, accessed and dirty bits, shadow entry, window.

mod common;

use common::model::Model;
use common::*;
use shadow_mmu::*;

const LINEAR: u32 = 0x1234_5000;
const LARGE: u32 = 0x80_0000;

const ALL: [Access; 6] = [
    Access::read(Privilege::User),
    Access::write(Privilege::User),
    Access::execute(Privilege::User),
    Access::read(Privilege::Supervisor),
    Access::write(Privilege::Supervisor),
    Access::execute(Privilege::Supervisor),
];

/// The leaf of a shadow tree for a linear address, read as a processor would.
fn shadow_leaf(m: &mut Mmu, p: Privilege, linear: u32) -> Option<u64> {
    let mut table = m.shadow_root(p).address;
    for shift in [39, 30, 21, 12] {
        let e = m.read_table(table)?[(u64::from(linear) >> shift & 511) as usize];
        if e & 1 == 0 {
            return None;
        }
        if shift == 12 {
            return Some(e);
        }
        if e & 0x80 != 0 {
            return Some((e & !0x80) + u64::from(linear & 0x1f_f000));
        }
        table = e & 0xf_ffff_ffff_f000;
    }
    None
}

/// One case: the state of the tables is set up afresh, so that leftovers of the case before would show.
fn case(m: &mut Mmu, model: &Model, pde: u64, pte: u64, access: Access) {
    let size = if model.regs.cr4 & CR4_PAE != 0 {
        8u64
    } else {
        4
    };
    let (shift, index) = if size == 8 {
        (21, LINEAR >> 12 & 511)
    } else {
        (22, LINEAR >> 12 & 1023)
    };
    let directory = if size == 8 {
        model.pdptes[0] & !0xfff
    } else {
        u64::from(ROOT)
    };
    let pde_at = directory + u64::from(LINEAR >> shift) * size;
    let pte_at = u64::from(TABLE) + u64::from(index) * size;
    let bytes = size as usize;
    m.write_phys(pde_at, &[0; 8][..bytes]).unwrap();
    // No page is mapped in advance because of the fault of the case before.
    m.clean_view(Privilege::User);
    m.write_phys(pde_at, &pde.to_le_bytes()[..bytes]).unwrap();
    m.write_phys(pte_at, &pte.to_le_bytes()[..bytes]).unwrap();
    let what = format!("PDE {pde:#x} PTE {pte:#x} {access:?} {:?}", model.regs);
    let expected = model.access(m, LINEAR, access);
    let value = 0x5eed_0000 | (pde as u32 & 0xff) << 8 | (pte as u32 & 0xff);
    // A fetch never maps anything; it is tested through the outcome alone.
    let outcome = m.handle_fault(LINEAR, access);
    model
        .check_entries(m, &expected)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let wp = model.regs.cr0 & CR0_WP != 0;
    let bases = [
        m.clean_view(Privilege::User).base,
        m.clean_view(Privilege::Supervisor).base,
    ];
    match expected.result {
        Err(code) => {
            assert_eq!(
                outcome,
                FaultOutcome::PageFault(PageFault {
                    linear: LINEAR,
                    code
                }),
                "{what}"
            );
            for (base, p) in bases
                .into_iter()
                .zip([Privilege::User, Privilege::Supervisor])
            {
                assert_eq!(peek(base, LINEAR), None, "{what}: mapped");
                assert_eq!(shadow_leaf(m, p, LINEAR), None, "{what}: shadow entry");
            }
        }
        Ok(gpa) => {
            let (user, write, dirty) = expected.rights.unwrap();
            let in_user = access.privilege == Privilege::User || user && wp;
            let redirected = in_user && access.privilege == Privilege::Supervisor;
            let want = if redirected {
                FaultOutcome::UserPage
            } else {
                FaultOutcome::Filled
            };
            assert_eq!(outcome, want, "{what}");
            let (here, there) = if in_user {
                (bases[0], bases[1])
            } else {
                (bases[1], bases[0])
            };
            assert_eq!(peek(there, LINEAR), None, "{what}: in the wrong window");
            let p = if in_user {
                Privilege::User
            } else {
                Privilege::Supervisor
            };
            let may_write = (write || !in_user && !wp) && dirty;
            let leaf =
                shadow_leaf(m, p, LINEAR).unwrap_or_else(|| panic!("{what}: no shadow entry"));
            assert_eq!(
                leaf & 0xf_ffff_ffff_f000,
                gpa & !0xfff,
                "{what}: shadow entry {leaf:#x}"
            );
            assert_eq!(leaf & 2 != 0, may_write, "{what}: shadow entry {leaf:#x}");
            assert_eq!(leaf & 4 != 0, in_user, "{what}: shadow entry {leaf:#x}");
            put32(m, gpa as u32, !value);
            if access.kind == AccessKind::Execute {
                assert_eq!(peek(here, LINEAR), None, "{what}: a fetch mapped it");
            } else {
                assert_eq!(peek(here, LINEAR), Some(!value), "{what}: window");
                assert_eq!(poke(here, LINEAR, value), may_write, "{what}: window");
                assert_eq!(
                    get32(m, gpa as u32),
                    if may_write { value } else { !value },
                    "{what}"
                );
            }
        }
    }
    let probe = m.probe(LINEAR, access).map(|r| r.gpa).map_err(|f| f.code);
    assert_eq!(probe, expected.result, "{what}: probe");
    let resolve = m.resolve(LINEAR, access).map(|r| r.gpa).map_err(|f| f.code);
    assert_eq!(resolve, expected.result, "{what}: resolve");
}

fn combinations(bits: &[u32]) -> Vec<u64> {
    (0..1u32 << bits.len())
        .map(|set| {
            (0..bits.len())
                .filter(|&i| set >> i & 1 != 0)
                .map(|i| u64::from(bits[i]))
                .sum()
        })
        .collect()
}

#[test]
fn every_combination_of_32_bit_paging() {
    let mut m = mmu(16);
    let ptes = combinations(&[P, W, U, A, D]);
    let mut cases = 0;
    for cr4 in [0, CR4_PSE] {
        for cr0 in [CR0_PG | 1, CR0_PG | CR0_WP | 1] {
            let model = Model {
                regs: PagingRegs {
                    cr0,
                    cr3: ROOT,
                    cr4,
                    efer: 0,
                },
                a20: true,
                pdptes: [0; 4],
            };
            m.set_paging(model.regs);
            for pde in combinations(&[P, W, U, A, D, PS]) {
                let large = pde & u64::from(PS) != 0 && cr4 != 0;
                // Bit 21 is reserved in a large entry.
                let frames = if large {
                    vec![LARGE, LARGE | 1 << 21]
                } else {
                    vec![TABLE]
                };
                for frame in frames {
                    // Where the page table is not read, its entry does not matter.
                    for &pte in if large { &ptes[..1] } else { &ptes[..] } {
                        for access in ALL {
                            case(
                                &mut m,
                                &model,
                                pde | u64::from(frame),
                                pte | u64::from(DATA),
                                access,
                            );
                            cases += 1;
                        }
                    }
                }
            }
            m.audit().unwrap();
        }
    }
    assert_eq!(cases, 6 * 2 * (64 * 32 + 32 * 32 + 32 * 2));
}

#[test]
fn every_combination_of_pae_paging() {
    let mut m = mmu(16);
    let directory = 0x10_2000u64;
    m.write_phys(u64::from(ROOT), &(directory | 1).to_le_bytes())
        .unwrap();
    let ptes = combinations(&[P, W, U, A, D]);
    const XD: u64 = 1 << 63;
    for efer in [0, 0x800] {
        for cr0 in [CR0_PG | 1, CR0_PG | CR0_WP | 1] {
            let regs = PagingRegs {
                cr0,
                cr3: ROOT,
                cr4: CR4_PAE,
                efer,
            };
            let mut model = Model {
                regs,
                a20: true,
                pdptes: [0; 4],
            };
            model.load_pdptes(&m);
            m.set_paging(model.regs);
            for pde in combinations(&[P, W, U, A, D, PS]) {
                let large = pde & u64::from(PS) != 0;
                let frames = if large {
                    vec![LARGE, LARGE | 1 << 20]
                } else {
                    vec![TABLE]
                };
                for frame in frames {
                    for pde_xd in [0, XD] {
                        for &pte in if large { &ptes[..1] } else { &ptes[..] } {
                            for pte_high in [0, XD, 1 << 32, 1 << 40] {
                                // Every third case in full: the bits of the two levels were tested above.
                                let pte = pte | u64::from(DATA) | pte_high;
                                let pde = pde | u64::from(frame) | pde_xd;
                                for access in ALL {
                                    case(&mut m, &model, pde, pte, access);
                                }
                            }
                        }
                    }
                }
            }
            m.audit().unwrap();
        }
    }
}

#[test]
fn pse36_takes_address_bits_from_the_low_half() {
    let config = MmuConfig {
        ram_bytes: 16 << 20,
        physical_bits: 36,
        ..MmuConfig::default()
    };
    let mut m = Mmu::new(config).unwrap();
    put32(
        &mut m,
        ROOT + (LINEAR >> 22) * 4,
        LARGE | 3 << 13 | P | W | PS,
    );
    m.set_paging(paging(ROOT));
    let r = m.resolve(LINEAR, READ).unwrap();
    assert_eq!(
        r,
        Resolved {
            gpa: 3 << 32 | u64::from(LARGE | LINEAR & 0x3f_ffff),
            target: PhysTarget::Hole,
            traced: false
        }
    );
    put32(
        &mut m,
        ROOT + (LINEAR >> 22) * 4,
        LARGE | 1 << 17 | P | W | PS,
    );
    let fault = m.resolve(LINEAR, READ).unwrap_err();
    assert_eq!(fault.code, FaultCode::PRESENT | FaultCode::RESERVED);
    m.audit().unwrap();
}

/// Bits of a PAE entry above the processor's address width are reserved: 32 on a Core Duo, 36 on a Pentium III.
#[test]
fn pae_entries_have_as_many_address_bits_as_the_processor() {
    for (physical_bits, bit) in [(32, 32), (32, 51), (36, 36), (36, 51)] {
        let mut m = Mmu::new(MmuConfig {
            ram_bytes: 16 << 20,
            physical_bits,
            ..MmuConfig::default()
        })
        .unwrap();
        let directory = 0x10_2000u32;
        put32(&mut m, ROOT, directory | P);
        let pde = directory + (LINEAR >> 21) * 8;
        put32(&mut m, pde, TABLE | P | W);
        let pte = TABLE + (LINEAR >> 12 & 511) * 8;
        put32(&mut m, pte, DATA | P | W);
        m.set_paging(PagingRegs {
            cr4: CR4_PAE,
            ..paging(ROOT)
        });
        let gpa = |m: &mut Mmu| m.resolve(LINEAR, READ).map(|r| r.gpa);
        assert_eq!(gpa(&mut m), Ok(u64::from(DATA)));
        let reserved = FaultCode::PRESENT | FaultCode::RESERVED;
        for entry in [pde, pte] {
            put32(&mut m, entry + 4, 1 << (bit - 32));
            assert_eq!(gpa(&mut m).unwrap_err().code, reserved, "bit {bit}");
            // The bit below is the last of the address.
            if bit == 36 && entry == pte {
                put32(&mut m, entry + 4, 1 << (bit - 33));
                assert_eq!(gpa(&mut m), Ok(1 << (bit - 1) | u64::from(DATA)));
            }
            put32(&mut m, entry + 4, 0);
        }
        m.audit().unwrap();
    }
}

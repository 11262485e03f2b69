//! LAR, LSL, VERR, VERW, ARPL: every descriptor type, DPL and RPL at every CPL.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::selector;
use super::super::op::Op;
use super::{all_kinds, any, levels, protected, sized};

fn instructions(mode: Mode, size: u32) -> [(&'static str, Vec<u8>, Op); 4] {
    [
        (
            "LAR",
            sized(mode, size, &[0x0F, 0x02, 0xC1]),
            Op::Lar { size },
        ),
        (
            "LSL",
            sized(mode, size, &[0x0F, 0x03, 0xC1]),
            Op::Lsl { size },
        ),
        ("VERR", vec![0x0F, 0x00, 0xE1], Op::Verr),
        ("VERW", vec![0x0F, 0x00, 0xE9], Op::Verw),
    ]
}

pub(super) fn add(cases: &mut Vec<Case>) {
    for mode in levels() {
        for (to, from) in [(0, 0), (0, 3), (3, 0), (1, 2), (2, 1), (3, 3)] {
            let case = Case::new(
                "ARPL",
                format!("{to} to {from}"),
                mode,
                [0x63, 0xC8],
                Op::Arpl,
            );
            let case = case.with(Field::Eax, 0xABCD_1230 | to);
            cases.push(case.with(Field::Ecx, from).with_bits(Field::Eflags, 0x40));
        }
        for value in [
            0,
            3,
            4,
            0x44,
            selector::BEYOND,
            selector::BEYOND + 3,
            0xFFFF,
        ] {
            for size in [2, 4] {
                for (instruction, code, op) in instructions(mode, size) {
                    let case =
                        Case::new(instruction, format!("selector {value:x}"), mode, code, op);
                    cases.push(case.with(Field::Ecx, value.into()));
                }
            }
        }
    }
    for cpl in 0..4 {
        let mode = protected(cpl, true);
        for kind in all_kinds() {
            for dpl in 0..4 {
                for rpl in [0, 2, 3] {
                    let name = format!("type {kind:x} dpl {dpl} rpl {rpl}");
                    for (instruction, code, op) in instructions(mode, 4) {
                        let case = Case::new(instruction, name.clone(), mode, code, op)
                            .with(Field::Ecx, u32::from(selector::VICTIM) + rpl)
                            .descriptor(selector::VICTIM, any(kind, dpl, rpl != 2 || dpl == 3))
                            .with_bits(Field::Eflags, if dpl & 1 == 0 { 0x40 } else { 0 });
                        cases.push(case);
                    }
                }
            }
        }
    }
}

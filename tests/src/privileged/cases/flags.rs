//! CLI, STI, PUSHF, POPF and IRET within a level.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout as at;
use super::super::op::Op;
use super::{modes, sized};

pub(super) fn add(cases: &mut Vec<Case>) {
    for mode in modes() {
        for interrupts in [false, true] {
            let flags = if interrupts { 0x200 } else { 0 };
            let name = format!("IF={}", u32::from(interrupts));
            for (instruction, code, op) in [("CLI", 0xFA, Op::Cli), ("STI", 0xFB, Op::Sti)] {
                cases.push(
                    Case::new(instruction, name.clone(), mode, [code], op)
                        .with_bits(Field::Eflags, flags),
                );
            }
        }
        for size in [2, 4] {
            push_pop(cases, mode, size);
        }
    }
}

fn push_pop(cases: &mut Vec<Case>, mode: Mode, size: u32) {
    for flags in [0, 0x24_4ED5] {
        let case = Case::new(
            "PUSHF",
            format!("{}-bit {flags:x}", size * 8),
            mode,
            sized(mode, size, &[0x9C]),
            Op::Pushf { size },
        );
        cases.push(case.with_bits(Field::Eflags, flags));
    }
    // All flags but TF (and RF and VM, which POPF does not change), and none.
    for image in [0x0027_7ED7, 0, 0x0003_FED7] {
        for flags in [0, 0x24_4ED5] {
            let case = Case::new(
                "POPF",
                format!("{}-bit {image:x} over {flags:x}", size * 8),
                mode,
                sized(mode, size, &[0x9D]),
                Op::Popf { size },
            );
            let case = case
                .memory(at::STACK, size, image)
                .with_bits(Field::Eflags, flags);
            cases.push(case);
        }
    }
}

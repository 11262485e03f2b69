//! Kernel files: whole, damaged, cut short, and anything else.

use super::bytes::Bytes;
use crate::generate::Rng;
use ringshift::guest::Guest;
use ringshift::loader::{self, LinuxImage, LoaderError};
use shadow_mmu::{Mmu, MmuConfig};
use std::cell::RefCell;
use translator::CpuState;

/// Memory of the machines that loads are carried out in.
const SMALL: u64 = 8 << 20;
const MEMORIES: [u64; 6] = [2 << 20, SMALL, 16 << 20, 64 << 20, 1 << 30, 3 << 30];
/// Offsets where a header's fields begin.
const HEADER: usize = 0x1F0;

/// Bytes 0 to 3: memory, sizes of initrd and command line, number of edits of a good kernel's header (0: the rest of
/// the input is the file). Then edits of four bytes each, the length that is cut off, and code.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let memory = bytes.pick(&MEMORIES);
    let initrd = bytes.u8();
    let initrd = vec![0xA5; usize::from(initrd >> 2) << ((initrd & 3) * 6)];
    let command_line = "x".repeat(usize::from(bytes.u8()) * 16);
    let edits = bytes.u8() & 15;
    let file = if edits == 0 {
        bytes.rest().to_vec()
    } else {
        damaged(&mut bytes, edits)
    };
    let image = LinuxImage {
        kernel: &file,
        initrd: (!initrd.is_empty()).then_some(&initrd),
        command_line: &command_line,
        rsdp: Some(0xF_0000),
    };
    let result = loader::plan(&image, memory);
    match &result {
        Ok(plan) => {
            let mut ranges = Vec::new();
            for piece in &plan.pieces {
                let start = u64::from(piece.address);
                ranges.push(start..start + piece.bytes.len() as u64);
            }
            ranges.sort_by_key(|range| range.start);
            for pair in ranges.windows(2) {
                assert!(pair[0].end <= pair[1].start, "pieces overlap: {ranges:x?}");
            }
            let hole =
                |range: &std::ops::Range<u64>| range.start < 0x10_0000 && range.end > 0xA_0000;
            assert!(
                !ranges.iter().any(hole),
                "in the firmware's place: {ranges:x?}"
            );
            assert!(
                ranges.iter().all(|range| range.end <= memory),
                "{ranges:x?}"
            );
            let entry = u64::from(plan.entry);
            assert!(ranges.iter().any(|range| range.contains(&entry)));
        }
        Err(LoaderError::Truncated { have, need }) => {
            assert!(*have == file.len() as u64 && need > have, "{have}, {need}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if memory == SMALL {
        let error = result.err();
        boot(file, initrd, command_line, error);
    }
}

/// Carries the load out: it must end as the plan did.
fn boot(kernel: Vec<u8>, initrd: Vec<u8>, command_line: String, planned: Option<LoaderError>) {
    thread_local! {
        static MACHINE: RefCell<Option<Mmu>> = const { RefCell::new(None) };
    }
    MACHINE.with_borrow_mut(|machine| {
        let mmu = machine.get_or_insert_with(|| {
            let config = MmuConfig {
                ram_bytes: SMALL,
                ..MmuConfig::default()
            };
            Mmu::new(config).expect("memory for a machine")
        });
        let guest = Guest::Linux {
            kernel,
            initrd: (!initrd.is_empty()).then_some(initrd),
            command_line,
        };
        let mut state = CpuState::reset(0);
        let booted = guest.boot(mmu, &mut state, Some(0xF_0000));
        assert_eq!(booted.is_ok(), planned.is_none(), "{booted:?}, {planned:?}");
    });
}

/// A good kernel with `edits` changes in its header, cut short by up to 64 KiB.
fn damaged(bytes: &mut Bytes<'_>, edits: u8) -> Vec<u8> {
    let changes: Vec<(u8, u8, u8, u8)> = (0..edits)
        .map(|_| (bytes.u8(), bytes.u8(), bytes.u8(), bytes.u8()))
        .collect();
    let cut = usize::from(bytes.u16());
    let mut file = crate::bzimage::bzimage(bytes.rest());
    for (at, len, low, high) in changes {
        // Fields are 1 to 8 bytes long; the last byte matters most.
        let end = usize::from(len & 7);
        let at = HEADER + usize::from(at);
        let range = at.min(file.len())..(at + end + 1).min(file.len());
        if let Some((last, rest)) = file[range].split_last_mut() {
            rest.fill(low);
            *last = high;
        }
    }
    file.truncate(file.len().saturating_sub(cut));
    file
}

/// A damaged kernel, seldom anything else.
pub fn make(random: &mut Rng) -> Vec<u8> {
    let mut input = vec![0; 8 + random.below(400) as usize];
    random.fill(&mut input);
    input[3] = if random.one_in(8) {
        0
    } else {
        1 + random.below(4) as u8
    };
    let cut = 4 + usize::from(input[3]) * 4;
    if !random.one_in(3) {
        // Not cut, or by little.
        for (index, byte) in input.iter_mut().skip(cut).take(2).enumerate() {
            *byte = if index == 0 {
                random.below(20) as u8
            } else {
                0
            };
        }
    }
    input
}

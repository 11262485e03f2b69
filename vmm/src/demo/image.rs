//! The guest's image: assembled with the VMM, patched with the parameters of a run.

#![allow(unsafe_code)] // `global_asm!`, and the two symbols between which the image lies

use core::arch::global_asm;

use super::layout::{
    LOAD_ADDRESS, MAGIC, PM1A_CNT, PM1A_S5, RESULT_ADDRESS, SPARSE, SPARSE_PAGES, SPARSE_QUOTA,
    SPARSE_STRIDE,
};
use super::params::DemoParams;

global_asm!(
    ".pushsection .rodata.ringshift_demo, \"a\", @progbits",
    ".balign 4096",
    ".globl ringshift_demo_start",
    ".globl ringshift_demo_end",
    ".hidden ringshift_demo_start",
    ".hidden ringshift_demo_end",
    ".set LOAD, {load}",
    ".set RESULT, {result}",
    ".set MAGIC, {magic}",
    ".set SPARSE, {sparse}",
    ".set SPARSE_END, {sparse} + {pages} * {stride}",
    ".set SPARSE_PAGES, {pages}",
    ".set SPARSE_QUOTA, {quota}",
    ".set SPARSE_STRIDE, {stride}",
    ".set PM1A_CNT, {pm1a_cnt}",
    ".set PM1A_S5, {pm1a_s5}",
    include_str!("guest/layout.s"),
    include_str!("guest/boot16.s"),
    include_str!("guest/setup.s"),
    include_str!("guest/trap.s"),
    include_str!("guest/sched.s"),
    include_str!("guest/memory.s"),
    include_str!("guest/syscall.s"),
    include_str!("guest/report.s"),
    include_str!("guest/task_integer.s"),
    include_str!("guest/task_float.s"),
    include_str!("guest/task_pager.s"),
    ".popsection",
    load = const LOAD_ADDRESS,
    result = const RESULT_ADDRESS,
    magic = const MAGIC,
    sparse = const SPARSE,
    pages = const SPARSE_PAGES,
    quota = const SPARSE_QUOTA,
    stride = const SPARSE_STRIDE,
    pm1a_cnt = const PM1A_CNT,
    pm1a_s5 = const PM1A_S5,
);

unsafe extern "C" {
    /// First byte of the image.
    static ringshift_demo_start: u8;
    /// First byte behind it.
    static ringshift_demo_end: u8;
}

/// Offset of the parameter block, and the text at its start.
const PARAMS: usize = 16;
const PARAMS_MAGIC: &[u8; 8] = b"RSDEMOPB";

/// A demo guest, ready to be loaded.
#[derive(Debug, Clone)]
pub struct DemoImage {
    /// What goes into guest memory.
    pub bytes: Vec<u8>,
    /// Guest-physical address of the first byte.
    pub load_address: u32,
    /// Where the vCPU starts in real mode: CS (with base CS × 16) and IP. Interrupts may be on or
    /// off; no other register matters.
    pub entry: (u16, u16),
}

/// The guest that does the work of `params`.
pub fn image(params: &DemoParams) -> DemoImage {
    let mut bytes = template().to_vec();
    let [integer, float, pager] = params.rounds();
    let mut block = Vec::with_capacity(32);
    block.extend_from_slice(PARAMS_MAGIC);
    block.extend_from_slice(&params.seed.to_le_bytes());
    // The image is a few pages long.
    for value in [integer, float, pager, bytes.len() as u32] {
        block.extend_from_slice(&value.to_le_bytes());
    }
    let place = &mut bytes[PARAMS..PARAMS + block.len()];
    debug_assert_eq!(&place[..8], PARAMS_MAGIC);
    place.copy_from_slice(&block);
    DemoImage {
        bytes,
        load_address: LOAD_ADDRESS,
        entry: ((LOAD_ADDRESS >> 4) as u16, 0),
    }
}

/// The image as it was assembled.
fn template() -> &'static [u8] {
    let start = &raw const ringshift_demo_start;
    let len = (&raw const ringshift_demo_end).addr() - start.addr();
    // SAFETY: the symbols delimit initialized bytes of one read-only section of this program, which
    // nothing writes.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// The checksum that the guest computes of its own image: 16-bit words are added, and the sum is
/// rotated left by one after each.
pub(super) fn image_sum(bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    words
        .fold(0u16, |sum, word| sum.wrapping_add(word).rotate_left(1))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_fits_its_place_and_carries_its_parameters() {
        let image = image(&DemoParams {
            seed: 0x1122_3344_5566_7788,
            scale: 0.5,
        });
        assert!(
            image.bytes.len() <= 0x1_0000,
            "one real-mode segment, and below the kernel's variables"
        );
        assert_eq!(image.bytes.len() % 4096, 0);
        assert_eq!(image.bytes[24..32], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(image.bytes[32..36], 1500u32.to_le_bytes());
    }

    #[test]
    fn one_seed_changes_only_its_own_bytes() {
        let a = image(&DemoParams {
            seed: 0,
            scale: 1.0,
        })
        .bytes;
        let b = image(&DemoParams {
            seed: u64::MAX,
            scale: 1.0,
        })
        .bytes;
        let differ: Vec<usize> = (0..a.len()).filter(|&i| a[i] != b[i]).collect();
        assert_eq!(differ, (24..32).collect::<Vec<_>>());
    }
}

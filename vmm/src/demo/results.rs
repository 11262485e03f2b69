//! The result block that the guest leaves in its memory.

use super::layout::{MAGIC, RESULT_ADDRESS, RESULT_VERSION};

/// Why there are no results.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DemoError {
    /// The magic number is missing: the guest did not get as far as its end.
    #[error("the guest left no result block at {RESULT_ADDRESS:#x} (found {found:#010x})")]
    Missing {
        /// What is there instead of the magic number.
        found: u32,
    },
    /// The block has another layout.
    #[error("the guest's result block has version {found}, not {RESULT_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The guest's kernel met an exception or interrupt that it does not expect, and gave up.
    #[error("the guest's kernel stopped at vector {vector:#04x}")]
    Stopped {
        /// The vector.
        vector: u32,
    },
    /// The status field holds none of its values.
    #[error("the guest's result block has the status {found:#x}")]
    Status {
        /// The status found.
        found: u32,
    },
}

/// What a run of the demo guest left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoResults {
    /// What depends on the parameters only.
    pub outcome: Outcome,
    /// What depends on time as well.
    pub counts: Counts,
}

/// The results that depend on nothing but the parameters: [`expected`](super::expected) computes
/// the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Checksum of the image, computed in real mode before and after everything else.
    pub image_sums: [u32; 2],
    /// Free page frames before the first task started and after the last ended.
    pub free_frames: [u32; 2],
    /// Evicted pages whose accessed bit was clear although the page had been accessed.
    pub lost_accessed: u32,
    /// Evicted pages whose dirty bit was clear although the page had been written.
    pub lost_dirty: u32,
    /// The tasks: integer, x87, pager.
    pub tasks: [TaskOutcome; 3],
}

/// The part of [`Outcome`] that belongs to one task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskOutcome {
    /// The four values the task computed. The last is its count of rounds, kept behind the GS
    /// segment.
    pub values: [u32; 4],
    /// Page faults.
    pub faults: u32,
    /// Of these, faults of the kernel on the task's memory.
    pub kernel_faults: u32,
    /// System calls.
    pub syscalls: u32,
    /// Divide errors (#DE).
    pub divide_errors: u32,
    /// General-protection faults (#GP): CLI in ring 3.
    pub protection_faults: u32,
    /// Breakpoints (#BP).
    pub breakpoints: u32,
    /// Sparse pages whose first access was a read; they share a page of zeros.
    pub zero_maps: u32,
    /// Of these, pages that were written later.
    pub copies: u32,
    /// Pages evicted to stay within the quota.
    pub evictions: u32,
    /// Of these, pages whose content was saved because the dirty bit was set.
    pub writebacks: u32,
    /// Pages that were brought back.
    pub swap_ins: u32,
}

/// Counts that depend on time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Whether the kernel was mapped by a 4 MiB page.
    pub large_pages: bool,
    /// Timer interrupts in protected mode.
    pub ticks: u32,
    /// Timer interrupts in real mode, at the end.
    pub real_mode_ticks: u32,
    /// Context switches, to and from the idle context included.
    pub switches: u32,
    /// Of these, switches forced by a tick.
    pub preemptions: u32,
    /// HLT executed because no task was ready.
    pub halts: u32,
    /// Spurious interrupts of the 8259s.
    pub spurious: u32,
    /// #NM: first uses of the x87 after a switch.
    pub fpu_traps: u32,
    /// Of these, traps that had to move state.
    pub fpu_moves: u32,
    /// Ticks that found each task in ring 3.
    pub task_ticks: [u32; 3],
}

/// Size of the block in doublewords: the common part and three tasks. The fields are those of
/// `guest/layout.s`.
const WORDS: usize = 0x20 + 3 * TASK_WORDS;
const TASK_WORDS: usize = 0x10;

const STATUS_COMPLETE: u32 = 1;
const STATUS_STOPPED: u32 = 0x100;

/// Read the result block. `read` fills its buffer from the given guest-physical address.
///
/// # Errors
/// The guest did not finish, or what lies there is not a result block.
pub fn read_results(mut read: impl FnMut(u64, &mut [u8])) -> Result<DemoResults, DemoError> {
    let mut bytes = [0u8; WORDS * 4];
    read(RESULT_ADDRESS.into(), &mut bytes);
    let mut words = [0u32; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*chunk);
    }
    let (common, tasks) = words.split_at(0x20);
    if common[0] != MAGIC {
        return Err(DemoError::Missing { found: common[0] });
    }
    if common[1] != RESULT_VERSION {
        return Err(DemoError::Version { found: common[1] });
    }
    match common[2] {
        STATUS_COMPLETE => {}
        found @ STATUS_STOPPED..0x200 => {
            return Err(DemoError::Stopped {
                vector: found - STATUS_STOPPED,
            });
        }
        found => return Err(DemoError::Status { found }),
    }
    let task = |index: usize| &tasks[index * TASK_WORDS..][..TASK_WORDS];
    Ok(DemoResults {
        outcome: Outcome {
            image_sums: [common[3], common[4]],
            free_frames: [common[12], common[13]],
            lost_accessed: common[16],
            lost_dirty: common[17],
            tasks: [0, 1, 2].map(|index| task_outcome(task(index))),
        },
        counts: Counts {
            large_pages: common[5] & 1 != 0,
            ticks: common[6],
            switches: common[7],
            preemptions: common[8],
            halts: common[9],
            spurious: common[10],
            real_mode_ticks: common[11],
            fpu_traps: common[14],
            fpu_moves: common[15],
            task_ticks: [0, 1, 2].map(|index| task(index)[15]),
        },
    })
}

fn task_outcome(words: &[u32]) -> TaskOutcome {
    TaskOutcome {
        values: [words[0], words[1], words[2], words[3]],
        faults: words[4],
        kernel_faults: words[5],
        syscalls: words[6],
        divide_errors: words[7],
        protection_faults: words[8],
        breakpoints: words[9],
        zero_maps: words[10],
        copies: words[11],
        evictions: words[12],
        writebacks: words[13],
        swap_ins: words[14],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(words: &[u32]) -> impl FnMut(u64, &mut [u8]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        move |address, buffer| {
            assert_eq!(address, u64::from(RESULT_ADDRESS));
            buffer.fill(0);
            buffer[..bytes.len()].copy_from_slice(&bytes);
        }
    }

    #[test]
    fn an_unfinished_guest_is_told_from_a_stopped_one() {
        assert_eq!(
            read_results(block(&[])),
            Err(DemoError::Missing { found: 0 })
        );
        assert_eq!(
            read_results(block(&[MAGIC, 9, 1])),
            Err(DemoError::Version { found: 9 })
        );
        assert_eq!(
            read_results(block(&[MAGIC, 1, 0])),
            Err(DemoError::Status { found: 0 })
        );
        assert_eq!(
            read_results(block(&[MAGIC, 1, 0x10D])),
            Err(DemoError::Stopped { vector: 13 })
        );
    }

    #[test]
    fn fields_come_from_their_places() {
        let words: Vec<u32> = [MAGIC, 1, 1].into_iter().chain(3..WORDS as u32).collect();
        let results = read_results(block(&words)).unwrap();
        assert_eq!(results.outcome.image_sums, [3, 4]);
        assert_eq!(results.outcome.lost_dirty, 17);
        assert_eq!(results.outcome.tasks[2].values, [0x40, 0x41, 0x42, 0x43]);
        assert_eq!(results.outcome.tasks[0].swap_ins, 0x2E);
        assert_eq!(results.counts.task_ticks, [0x2F, 0x3F, 0x4F]);
        assert_eq!(results.counts.real_mode_ticks, 11);
    }
}

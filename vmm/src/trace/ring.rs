//! A ring of records between two threads, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{WORDS, Words};

/// Single producer, single consumer. The words of a slot are written before `written` says so, and
/// read before `read` says so; nothing else orders them.
#[derive(Debug)]
pub(super) struct Ring {
    slots: Box<[[AtomicU64; WORDS]]>,
    /// Records ever written, by the producer.
    written: AtomicU64,
    /// Records ever read, by the consumer.
    read: AtomicU64,
    /// Records that found the ring full, by the producer.
    lost: AtomicU64,
}

impl Ring {
    /// A ring of `capacity` records.
    pub(super) fn new(capacity: usize) -> Ring {
        let slots = (0..capacity.max(1)).map(|_| [const { AtomicU64::new(0) }; WORDS]);
        Ring {
            slots: slots.collect(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// Puts a record in, or counts it as lost. Returns how many are waiting. Only the producer calls
    /// it.
    pub(super) fn push(&self, words: Words) -> u64 {
        let written = self.written.load(Ordering::Relaxed);
        let waiting = written - self.read.load(Ordering::Acquire);
        let capacity = self.slots.len() as u64;
        let slot = self.slots.get((written % capacity) as usize);
        let Some(slot) = slot.filter(|_| waiting < capacity) else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return waiting;
        };
        for (place, word) in slot.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.written.store(written + 1, Ordering::Release);
        waiting + 1
    }

    /// Takes the oldest record out. Only the consumer calls it.
    pub(super) fn pop(&self) -> Option<Words> {
        let read = self.read.load(Ordering::Relaxed);
        if read == self.written.load(Ordering::Acquire) {
            return None;
        }
        let slot = self.slots.get((read % self.slots.len() as u64) as usize)?;
        let words = std::array::from_fn(|index| slot[index].load(Ordering::Relaxed));
        self.read.store(read + 1, Ordering::Release);
        Some(words)
    }

    /// Records that found the ring full.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// How many records fit.
    pub(super) fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_full_ring_loses_the_newest_and_counts() {
        let ring = Ring::new(4);
        for number in 0..6 {
            ring.push([number; WORDS]);
        }
        assert_eq!(ring.lost(), 2);
        let taken: Vec<u64> = std::iter::from_fn(|| ring.pop())
            .map(|words| words[0])
            .collect();
        assert_eq!(taken, [0, 1, 2, 3]);
        assert_eq!(ring.push([9; WORDS]), 1);
        assert_eq!(ring.pop(), Some([9; WORDS]));
    }

    #[test]
    fn records_stay_whole_and_in_order_between_two_threads() {
        const COUNT: u64 = 100_000;
        let ring = Ring::new(64);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..COUNT {
                    ring.push([number; WORDS]);
                }
            });
            let mut next = 0;
            let mut taken = 0;
            while taken + ring.lost() < COUNT {
                if let Some(words) = ring.pop() {
                    assert_eq!(words, [words[0]; WORDS], "a torn record");
                    assert!(words[0] >= next, "out of order");
                    next = words[0] + 1;
                    taken += 1;
                }
            }
        });
    }
}

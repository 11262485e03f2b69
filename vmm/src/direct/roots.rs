//! Which of the monitor's top-level page tables shows which guest space.
//!
//! A shadow tree of the MMU has a top-level table of its own, but that has no place for the
//! monitor. So the monitor has a few top-level tables, whose first entry leads to the guest's tree
//! and whose second is its own, and a table keeps its tree until the oldest is needed for another:
//! a KVM that shadows our tables keeps what it has derived from them.

/// A least-recently-used cache of top-level entries.
#[derive(Debug)]
pub(super) struct RootCache {
    /// The guest's entry in each table, and when it was last used.
    slots: Vec<(u64, u64)>,
    clock: u64,
}

impl RootCache {
    /// `count` tables, all empty.
    pub(super) fn new(count: usize) -> Self {
        Self {
            slots: vec![(0, 0); count.max(1)],
            clock: 0,
        }
    }

    /// The table for a top-level entry, and whether the entry still has to be stored there.
    pub(super) fn find(&mut self, entry: u64) -> (usize, bool) {
        self.clock += 1;
        let known = self.slots.iter().position(|slot| slot.0 == entry);
        let index = known.unwrap_or_else(|| {
            let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.1);
            oldest.map_or(0, |(index, _)| index)
        });
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = (entry, self.clock);
        }
        (index, known.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_table_is_taken() {
        let mut cache = RootCache::new(2);
        assert_eq!(cache.find(0x1027), (0, true));
        assert_eq!(cache.find(0x2027), (1, true));
        assert_eq!(cache.find(0x1027), (0, false));
        assert_eq!(cache.find(0x3027), (1, true));
        assert_eq!(cache.find(0x1027), (0, false));
        assert_eq!(cache.find(0x2027), (1, true));
    }
}

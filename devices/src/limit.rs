//! A limit on what a guest can make the log grow by.

/// Lets the first few messages of a kind through.
#[derive(Clone, Debug)]
pub(crate) struct LogLimit {
    left: u32,
}

impl LogLimit {
    /// A limit of `count` messages.
    pub(crate) const fn new(count: u32) -> Self {
        Self { left: count }
    }

    /// Whether one more message may be written.
    pub(crate) fn allow(&mut self) -> bool {
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// Messages that one device may write about one kind of odd guest behaviour.
impl Default for LogLimit {
    fn default() -> Self {
        Self::new(10)
    }
}

//! Keys on their way to the guest, at the pace of a quick typist: a BIOS remembers 15 keys and drops
//! the next.

use std::collections::VecDeque;

use devices::Nanos;

use super::keys::Combination;

/// Time between two keys.
const PACE_MS: u64 = 20;
/// How long a key that is sent by itself is held.
const HOLD_MS: u64 = 40;
/// Steps that may wait; a guest that does not read its keyboard must not fill the memory.
const LIMIT: usize = 1 << 16;

/// A scan code, and how long nothing follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    codes: Vec<u8>,
    then_ms: u64,
}

/// Keys that the keyboard has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Typing {
    steps: VecDeque<Step>,
    next: Nanos,
}

impl Typing {
    /// Presses and releases `keys`, held for `hold_ms` or for a moment. False if too much is waiting.
    pub(crate) fn send(&mut self, keys: &Combination, hold_ms: Option<u64>) -> bool {
        if self.steps.len() >= LIMIT {
            return false;
        }
        let step = |codes, then_ms| Step { codes, then_ms };
        self.steps.extend(keys.press().map(|codes| step(codes, 0)));
        if let Some(last) = self.steps.back_mut() {
            last.then_ms = hold_ms.unwrap_or(HOLD_MS);
        }
        self.steps
            .extend(keys.release().map(|codes| step(codes, 0)));
        if let Some(last) = self.steps.back_mut() {
            last.then_ms = PACE_MS;
        }
        true
    }

    /// What is to be sent at `now`. It is gone once [`sent`](Self::sent) was told.
    pub(crate) fn due(&self, now: Nanos) -> Option<&[u8]> {
        let step = self.steps.front()?;
        (self.next <= now).then_some(step.codes.as_slice())
    }

    /// The keyboard took the codes, or will take them at the next attempt.
    pub(crate) fn sent(&mut self, now: Nanos, taken: bool) {
        let wait = if taken {
            self.steps.pop_front().map_or(0, |step| step.then_ms)
        } else {
            PACE_MS
        };
        self.next = now.after(wait * 1_000_000);
    }

    /// When there is something to be sent.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.steps.front().map(|_| self.next)
    }

    /// Steps that are waiting.
    pub(crate) fn waiting(&self) -> usize {
        self.steps.len()
    }

    /// Forgets what is waiting.
    pub(crate) fn clear(&mut self) {
        self.steps.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_one_by_one_and_wait_for_the_keyboard() {
        let mut typing = Typing::default();
        assert_eq!(typing.deadline(), None);
        assert!(typing.send(&"ctrl-c".parse().expect("keys"), None));
        let start = Nanos::from_secs(1);
        let mut seen = Vec::new();
        while let Some(codes) = typing.due(start) {
            seen.push(codes.to_vec());
            typing.sent(start, true);
        }
        assert_eq!(seen, [vec![0x14], vec![0x21]], "held");
        let up = typing.deadline().expect("the release");
        assert_eq!(up, start.after(HOLD_MS * 1_000_000));
        assert_eq!(typing.due(up), Some(&[0xF0, 0x21][..]));
        typing.sent(up, false);
        assert_eq!(typing.due(up), None);
        let again = typing.deadline().expect("another attempt");
        assert_eq!(typing.due(again), Some(&[0xF0, 0x21][..]));
        typing.clear();
        assert_eq!(typing.waiting(), 0);
    }

    #[test]
    fn a_guest_that_does_not_read_does_not_fill_the_memory() {
        let mut typing = Typing::default();
        let key: Combination = "a".parse().expect("a key");
        let taken = (0..LIMIT).filter(|_| typing.send(&key, None)).count();
        assert!(taken < LIMIT && typing.waiting() < LIMIT + 8);
    }
}

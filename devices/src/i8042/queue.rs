//! The bytes that a device has for the controller.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes that a device can hold back while its clock is low.
const CAPACITY: usize = 16;

/// A device's output: answers to commands, and data (scan codes, movements).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ByteQueue {
    bytes: VecDeque<u8>,
    last: u8,
}

impl ByteQueue {
    /// Queues an answer. Answers have priority: they replace data that is still waiting if there
    /// is no room.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        if !self.has_room(bytes.len()) {
            self.bytes.clear();
        }
        self.bytes.extend(bytes);
    }

    /// Queues data, all of it or, if there is no room, nothing.
    pub(super) fn data(&mut self, bytes: &[u8]) -> bool {
        let fits = self.has_room(bytes.len());
        if fits {
            self.bytes.extend(bytes);
        }
        fits
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.bytes.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether `bytes` more have room.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.bytes.len() + bytes <= CAPACITY
    }

    /// Brings a damaged snapshot into range.
    pub(super) fn sanitize(&mut self) {
        self.bytes.truncate(CAPACITY);
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The byte that was sent last, for a resend.
    pub(super) fn last(&self) -> u8 {
        self.last
    }
}

//! The NMI button: from any thread, while the machine runs.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::engine::Kick;
use crate::helper::Event;

/// Sends the processor an NMI, whatever the board's ports 61h and 70h say. Outlives its machine
/// without harm.
#[derive(Debug, Clone)]
pub struct NmiButton {
    outbox: Sender<Event>,
    kickers: Vec<Arc<dyn Kick>>,
}

impl NmiButton {
    pub(crate) fn new(outbox: Sender<Event>, kickers: Vec<Arc<dyn Kick>>) -> NmiButton {
        NmiButton { outbox, kickers }
    }

    /// Presses it. An NMI that comes before the processor has taken the last one is lost.
    pub fn press(&self) {
        // Without a receiver the machine is gone.
        let _ = self.outbox.send(Event::Nmi);
        for kicker in &self.kickers {
            kicker.kick();
        }
    }
}

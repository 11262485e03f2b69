//! Kicks a vCPU that takes too long.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::direct::kick::Kicker;
use crate::engine::Kick;

/// Kicks after a time limit, and again every few milliseconds, until it is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the clock. Without a thread to be had there is no limit.
    pub(super) fn start(kicker: Kicker, limit: Duration) -> Self {
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("kvm probe watchdog".into())
            .spawn(move || watch(&kicker, limit, &stopped))
            .ok();
        Self {
            stop: Some(stop),
            thread,
        }
    }
}

fn watch(kicker: &Kicker, limit: Duration, stopped: &Receiver<()>) {
    const AGAIN: Duration = Duration::from_millis(5);
    let mut wait = limit;
    while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        kicker.kick();
        wait = AGAIN;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic; and if it did, the probe is over anyway.
            let _ = thread.join();
        }
    }
}

//! The way into a machine for other threads.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use serde_json::Value;

use super::Command;
use crate::engine::Kick;
use crate::helper::{Event, StopReason};

/// What a command led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// For people; empty when there is nothing to tell.
    pub text: String,
    /// The same for programs.
    pub value: Value,
}

impl Reply {
    /// Done, and nothing to tell.
    pub(super) fn done() -> Reply {
        Reply {
            text: String::new(),
            value: Value::Null,
        }
    }
}

/// A command on its way to the machine.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Where the answer goes.
    pub answer: Sender<Result<Reply, String>>,
}

/// The machine is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine has ended")]
pub struct Gone;

/// Controls a machine from any thread. Outlives it without harm.
#[derive(Debug, Clone)]
pub struct Remote {
    outbox: Sender<Event>,
    kickers: Vec<Arc<dyn Kick>>,
}

impl Remote {
    pub(crate) fn new(outbox: Sender<Event>, kickers: Vec<Arc<dyn Kick>>) -> Remote {
        Remote { outbox, kickers }
    }

    /// Has the machine carry out a command, and waits until it has. The inner error is the machine's.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn ask(&self, command: Command) -> Result<Result<Reply, String>, Gone> {
        let (answer, reply) = channel();
        self.send(Event::Request(Box::new(Request { command, answer })))?;
        reply.recv().map_err(|_| Gone)
    }

    /// The text on the screen; `None` in graphics modes.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn screen(&self) -> Result<Option<String>, Gone> {
        let reply = self.ask(Command::Text(None))?;
        Ok(reply.ok().map(|reply| reply.text))
    }

    /// Ends the run.
    ///
    /// # Errors
    /// It has ended already.
    pub(crate) fn stop(&self, reason: StopReason) -> Result<(), Gone> {
        self.send(Event::Stop(reason))
    }

    fn send(&self, event: Event) -> Result<(), Gone> {
        self.outbox.send(event).map_err(|_| Gone)?;
        for kicker in &self.kickers {
            kicker.kick();
        }
        Ok(())
    }
}

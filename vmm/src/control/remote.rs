//! The way into a machine for other threads.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use devices::{Picture, TextScreen};
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

/// What is on the screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// In a text mode.
    pub text: Option<TextScreen>,
    /// In a graphics mode.
    pub picture: Option<Picture>,
}

/// Something on its way to the machine.
#[derive(Debug, Clone)]
pub enum Request {
    /// Carry out a command, and tell how that went.
    Command(Command, Sender<Result<Reply, String>>),
    /// Tell what is on the screen.
    Look(Sender<Look>),
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
        self.request(Request::Command(command, answer))?;
        reply.recv().map_err(|_| Gone)
    }

    /// What is on the screen.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn look(&self) -> Result<Look, Gone> {
        let (answer, look) = channel();
        self.request(Request::Look(answer))?;
        look.recv().map_err(|_| Gone)
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

    fn request(&self, request: Request) -> Result<(), Gone> {
        self.send(Event::Request(Box::new(request)))
    }

    fn send(&self, event: Event) -> Result<(), Gone> {
        self.outbox.send(event).map_err(|_| Gone)?;
        for kicker in &self.kickers {
            kicker.kick();
        }
        Ok(())
    }
}

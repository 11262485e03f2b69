//! The machine's helper thread: it waits for what the vCPU thread cannot wait for while it runs
//! guest code - the next timer, input, signals - and kicks the vCPU.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::Nanos;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::console::{EscapeKey, HELP, KeyCommand};
use crate::control::{Remote, Request};
use crate::engine::Kick;
use crate::nmi::NmiButton;

/// Why somebody outside the guest ends the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The time allowed for the run is over.
    Timeout,
    /// A signal came; its number.
    Signal(u32),
    /// The user typed the escape key's quit, or the monitor's.
    Quit,
    /// The script has come to its end.
    ScriptDone,
    /// A step of the script failed.
    ScriptFailed,
}

/// What the helper tells the vCPU thread.
#[derive(Debug, Clone)]
pub enum Event {
    /// Bytes for the serial port.
    Input(Vec<u8>),
    /// End the run.
    Stop(StopReason),
    /// Somebody pressed the NMI button.
    Nmi,
    /// Somebody wants something of the machine.
    Request(Box<Request>),
}

/// Where the serial port's input comes from.
#[derive(Debug)]
pub struct Input {
    /// What is read. Its end ends the input and nothing else.
    pub source: OwnedFd,
    /// Set for a raw terminal: the escape key is looked for.
    pub escape: Option<EscapeKey>,
}

/// Called when the vCPU thread does not end the run within [`GRACE`].
pub type Emergency = Box<dyn FnOnce(StopReason) + Send>;

/// What the helper watches besides the next timer.
#[derive(Default)]
pub struct Watch {
    /// Serial input.
    pub input: Option<Input>,
    /// Signals that end the run; they must be blocked in all threads.
    pub signals: Option<SignalFd>,
    /// Time allowed for the run.
    pub timeout: Option<Duration>,
    /// The last resort for ending the process.
    pub emergency: Option<Emergency>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("input", &self.input)
            .field("signals", &self.signals)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// How long the vCPU thread has to end the run once it was told to: well above the two seconds that a
/// kick of direct execution may take, on a host that is busy as well.
pub const GRACE: Duration = Duration::from_secs(8);
/// Input that may wait for the guest; beyond it, standard input is left alone.
const INPUT_LIMIT: usize = 64 << 10;

#[derive(Debug)]
struct Shared {
    /// Fires at the next event of the devices.
    timer: TimerFd,
    /// Makes the helper look at `quit` and `waiting` again.
    wake: EventFd,
    quit: AtomicBool,
    /// See [`Helper::stop_flag`].
    stop: Arc<AtomicBool>,
    /// Bytes of input sent and not yet taken.
    waiting: AtomicUsize,
}

/// The vCPU thread's end of the helper. Dropping it ends the thread.
#[derive(Debug)]
pub struct Helper {
    shared: Arc<Shared>,
    inbox: Receiver<Event>,
    button: NmiButton,
    remote: Remote,
    thread: Option<JoinHandle<()>>,
    armed: Option<Nanos>,
}

impl Helper {
    /// Starts the thread. `stop` is set as soon as the run is to end, before the vCPU thread hears
    /// of it.
    pub fn start(
        watch: Watch,
        kickers: Vec<Arc<dyn Kick>>,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Helper> {
        let shared = Arc::new(Shared {
            timer: timer()?,
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            quit: AtomicBool::new(false),
            stop,
            waiting: AtomicUsize::new(0),
        });
        let (outbox, inbox) = channel();
        let button = NmiButton::new(outbox.clone(), kickers.clone());
        let remote = Remote::new(outbox.clone(), kickers.clone());
        let worker = Worker::new(watch, kickers, Arc::clone(&shared), outbox)?;
        let thread = std::thread::Builder::new()
            .name("helper".to_owned())
            .spawn(move || worker.run())?;
        Ok(Helper {
            shared,
            inbox,
            button,
            remote,
            thread: Some(thread),
            armed: None,
        })
    }

    /// The NMI button, for other threads.
    pub fn nmi_button(&self) -> NmiButton {
        self.button.clone()
    }

    /// The way in for other threads.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Asks for a kick at `deadline`, in place of the one asked for before.
    pub fn arm(&mut self, deadline: Option<Nanos>, now: Nanos) {
        if self.armed == deadline {
            return;
        }
        self.armed = deadline;
        let armed = match deadline {
            Some(at) => {
                // Zero would disarm the timer.
                let after = Duration::from_nanos(at.since(now).max(1));
                self.shared.timer.set(
                    Expiration::OneShot(TimeSpec::from_duration(after)),
                    TimerSetTimeFlags::empty(),
                )
            }
            None => self.shared.timer.unset(),
        };
        if let Err(error) = armed {
            tracing::warn!(%error, "the timer could not be set");
        }
    }

    /// The next event, if one is there.
    pub fn poll(&mut self) -> Option<Event> {
        let event = self.inbox.try_recv().ok()?;
        self.took(&event);
        Some(event)
    }

    /// Sleeps until an event comes, or until `deadline`.
    pub fn wait(&mut self, deadline: Option<Nanos>, now: Nanos) -> Option<Event> {
        let event = match deadline {
            Some(at) => {
                let after = Duration::from_nanos(at.since(now));
                self.inbox.recv_timeout(after).ok()
            }
            None => self.inbox.recv().ok(),
        };
        if let Some(event) = &event {
            self.took(event);
        }
        event
    }

    fn took(&self, event: &Event) {
        if let Event::Input(bytes) = event {
            let before = self.shared.waiting.fetch_sub(bytes.len(), Ordering::AcqRel);
            if before >= INPUT_LIMIT {
                wake(&self.shared.wake);
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Release);
        wake(&self.shared.wake);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the helper thread panicked");
        }
    }
}

fn timer() -> nix::Result<TimerFd> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
}

fn wake(event: &EventFd) {
    // The counter can only be full if the thread has been woken already.
    let _ = event.write(1);
}

/// The thread's own state.
struct Worker {
    input: Option<Input>,
    signals: Option<SignalFd>,
    limit: Option<TimerFd>,
    emergency: Option<Emergency>,
    kickers: Vec<Arc<dyn Kick>>,
    shared: Arc<Shared>,
    outbox: Sender<Event>,
    /// When the run was told to end, and why.
    stopping: Option<(Instant, StopReason)>,
}

/// What a poll found ready.
#[derive(Debug, Default, Clone, Copy)]
struct Ready {
    timer: bool,
    input: bool,
    signals: bool,
    limit: bool,
}

impl Worker {
    fn new(
        watch: Watch,
        kickers: Vec<Arc<dyn Kick>>,
        shared: Arc<Shared>,
        outbox: Sender<Event>,
    ) -> io::Result<Worker> {
        let limit = match watch.timeout {
            Some(after) => {
                let timer = timer()?;
                let after = after.max(Duration::from_nanos(1));
                timer.set(
                    Expiration::OneShot(TimeSpec::from_duration(after)),
                    TimerSetTimeFlags::empty(),
                )?;
                Some(timer)
            }
            None => None,
        };
        Ok(Worker {
            input: watch.input,
            signals: watch.signals,
            limit,
            emergency: watch.emergency,
            kickers,
            shared,
            outbox,
            stopping: None,
        })
    }

    fn run(mut self) {
        while !self.shared.quit.load(Ordering::Acquire) {
            let ready = match self.poll() {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the helper thread cannot wait for events");
                    return;
                }
            };
            if ready.timer {
                let _ = self.shared.timer.wait();
                self.kick();
            }
            if ready.signals {
                self.take_signal();
            }
            if ready.limit {
                self.limit = None;
                self.stop(StopReason::Timeout);
            }
            if ready.input {
                self.take_input();
            }
            if let Some((since, reason)) = self.stopping
                && since.elapsed() >= GRACE
                && let Some(emergency) = self.emergency.take()
            {
                emergency(reason);
            }
        }
    }

    fn poll(&self) -> nix::Result<Ready> {
        let room = self.shared.waiting.load(Ordering::Acquire) < INPUT_LIMIT;
        let input = self.input.as_ref().filter(|_| room);
        let mut fds = vec![
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.timer.as_fd(), PollFlags::POLLIN),
        ];
        let mut add = |fd: Option<_>| {
            fd.map(|fd| {
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
                fds.len() - 1
            })
        };
        let input = add(input.map(|input| input.source.as_fd()));
        let signals = add(self.signals.as_ref().map(AsFd::as_fd));
        let limit = add(self.limit.as_ref().map(AsFd::as_fd));
        let timeout = match self.stopping {
            Some(_) => PollTimeout::from(100u16),
            None => PollTimeout::NONE,
        };
        poll(&mut fds, timeout)?;
        let ready = |index: Option<usize>| {
            index
                .and_then(|index| fds.get(index))
                .and_then(PollFd::any)
                .unwrap_or(false)
        };
        if ready(Some(0)) {
            let _ = self.shared.wake.read();
        }
        Ok(Ready {
            timer: ready(Some(1)),
            input: ready(input),
            signals: ready(signals),
            limit: ready(limit),
        })
    }

    fn kick(&self) {
        for kicker in &self.kickers {
            kicker.kick();
        }
    }

    fn send(&self, event: Event) {
        if let Event::Input(bytes) = &event {
            self.shared.waiting.fetch_add(bytes.len(), Ordering::AcqRel);
        }
        // The receiver is only gone when this thread is about to be ended.
        let _ = self.outbox.send(event);
        self.kick();
    }

    fn stop(&mut self, reason: StopReason) {
        self.shared.stop.store(true, Ordering::Release);
        // The first reason counts.
        self.stopping.get_or_insert((Instant::now(), reason));
        self.send(Event::Stop(reason));
    }

    fn take_signal(&mut self) {
        let signal = self
            .signals
            .as_ref()
            .and_then(|signals| signals.read_signal().ok().flatten());
        if let Some(info) = signal {
            let reason = StopReason::Signal(info.ssi_signo);
            if let Some((_, first)) = self.stopping
                && let Some(emergency) = self.emergency.take()
            {
                // The user insists.
                emergency(first);
            }
            self.stop(reason);
        }
    }

    fn take_input(&mut self) {
        let Some(input) = &mut self.input else {
            return;
        };
        let mut buffer = [0; 1024];
        let typed = match nix::unistd::read(&input.source, &mut buffer) {
            Ok(0) => &[][..],
            Ok(count) => buffer.get(..count).unwrap_or(&[]),
            Err(Errno::EINTR | Errno::EAGAIN) => return,
            Err(error) => {
                tracing::debug!(%error, "standard input cannot be read any more");
                &[]
            }
        };
        if typed.is_empty() {
            self.input = None;
            return;
        }
        let mut guest = Vec::with_capacity(typed.len());
        let commands = match &mut input.escape {
            Some(escape) => escape.filter(typed, &mut guest),
            None => {
                guest.extend_from_slice(typed);
                Vec::new()
            }
        };
        if !guest.is_empty() {
            self.send(Event::Input(guest));
        }
        for command in commands {
            match command {
                KeyCommand::Quit => self.stop(StopReason::Quit),
                KeyCommand::Help => {
                    let _ = io::stderr().write_all(HELP.as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct CountingKick(AtomicUsize);

    impl Kick for CountingKick {
        fn kick(&self) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn start(watch: Watch) -> (Helper, Arc<CountingKick>, Arc<AtomicBool>) {
        let kick = Arc::new(CountingKick::default());
        let stop = Arc::new(AtomicBool::new(false));
        let kickers: Vec<Arc<dyn Kick>> = vec![Arc::clone(&kick) as Arc<dyn Kick>];
        let helper = Helper::start(watch, kickers, Arc::clone(&stop)).expect("a helper");
        (helper, kick, stop)
    }

    fn until(condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(10), "timed out");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_timer_kicks_at_its_deadline_and_a_new_one_replaces_it() {
        let (mut helper, kick, _) = start(Watch::default());
        let now = Nanos(0);
        helper.arm(Some(Nanos::from_secs(3600)), now);
        helper.arm(Some(Nanos::from_millis(1)), now);
        until(|| kick.0.load(Ordering::Acquire) == 1);
        // A deadline that is over already kicks as well.
        helper.arm(Some(Nanos(0)), Nanos::from_millis(2));
        until(|| kick.0.load(Ordering::Acquire) == 2);
        assert!(helper.poll().is_none());
    }

    #[test]
    fn input_arrives_with_a_kick_and_its_end_is_silent() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let (mut helper, kick, _) = start(Watch {
            input: Some(Input {
                source: reader.into(),
                escape: None,
            }),
            ..Watch::default()
        });
        writer.write_all(b"ls\n").expect("room");
        let event = helper.wait(Some(Nanos::from_secs(10)), Nanos(0));
        assert!(matches!(event, Some(Event::Input(bytes)) if bytes == b"ls\n"));
        until(|| kick.0.load(Ordering::Acquire) >= 1);
        drop(writer);
        let later = Some(Nanos::from_millis(50));
        assert!(helper.wait(later, Nanos(0)).is_none());
    }

    #[test]
    fn a_guest_that_does_not_read_leaves_input_where_it_is() {
        let endless = std::fs::File::open("/dev/zero").expect("it exists");
        let (mut helper, _, _) = start(Watch {
            input: Some(Input {
                source: endless.into(),
                escape: None,
            }),
            ..Watch::default()
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(helper.shared.waiting.load(Ordering::Acquire) <= INPUT_LIMIT);
        // Once the guest reads, it goes on.
        let mut taken = 0;
        while taken < 4 * INPUT_LIMIT {
            match helper.wait(Some(Nanos::from_secs(10)), Nanos(0)) {
                Some(Event::Input(bytes)) => taken += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_escape_key_and_the_time_limit_stop_the_run() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let (mut helper, _, stop) = start(Watch {
            input: Some(Input {
                source: reader.into(),
                escape: Some(EscapeKey::default()),
            }),
            ..Watch::default()
        });
        writer.write_all(b"\x01x").expect("room");
        let event = helper.wait(Some(Nanos::from_secs(10)), Nanos(0));
        assert!(matches!(event, Some(Event::Stop(StopReason::Quit))));
        assert!(stop.load(Ordering::Acquire));

        let (mut helper, _, _) = start(Watch {
            timeout: Some(Duration::from_millis(5)),
            ..Watch::default()
        });
        let event = helper.wait(Some(Nanos::from_secs(10)), Nanos(0));
        assert!(matches!(event, Some(Event::Stop(StopReason::Timeout))));
    }

    #[test]
    fn a_vcpu_that_does_not_listen_meets_the_last_resort() {
        let (told, tells) = std::sync::mpsc::channel();
        let (_helper, _, _) = start(Watch {
            timeout: Some(Duration::from_millis(1)),
            emergency: Some(Box::new(move |reason| {
                let _ = told.send(reason);
            })),
            ..Watch::default()
        });
        let reason = tells.recv_timeout(GRACE * 3);
        assert_eq!(reason, Ok(StopReason::Timeout));
    }
}

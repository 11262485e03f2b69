//! What people do with the board: keys, mouse, buttons, and standing still.

use std::time::Instant;

use devices::{Nanos, ResetKind};

use super::Board;
use crate::control::command::Mouse;
use crate::control::keys::Combination;
use crate::control::{Remote, Request};
use crate::helper::StopReason;

impl Board {
    /// The way in for other threads.
    pub fn remote(&self) -> Remote {
        self.helper.remote()
    }

    /// The next thing that somebody wants.
    pub(crate) fn take_request(&mut self) -> Option<Request> {
        self.take_events();
        self.requests.pop_front()
    }

    /// Stands still: machine time does not go on.
    pub(crate) fn pause(&mut self) {
        if self.paused.is_none() {
            self.paused = Some(Instant::now());
        }
    }

    /// Goes on.
    pub(crate) fn resume(&mut self) {
        if let Some(since) = self.paused.take() {
            self.clock.leave_out(since.elapsed());
            // The timer is on the host's time, of which the machine has left some out.
            let now = self.clock.now();
            self.helper.arm(None, now);
            self.arm(now);
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The run is to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Waits until something comes from outside.
    pub(crate) fn wait_paused(&mut self) {
        let now = self.clock.now();
        self.helper.arm(None, now);
        if let Some(event) = self.helper.wait(None, now) {
            self.take(event);
        }
    }

    /// Ends the run.
    pub(crate) fn stop(&mut self, reason: StopReason) {
        self.stop.get_or_insert(reason);
    }

    /// The reset button.
    pub(crate) fn ask_for_reset(&mut self, kind: ResetKind) {
        self.reset = Some(kind);
        self.typing.clear();
    }

    /// The power button.
    pub(crate) fn press_power_button(&mut self) {
        self.chipset.press_power_button();
    }

    /// The NMI button.
    pub(crate) fn press_nmi(&mut self) {
        self.nmi = true;
    }

    /// Presses and releases keys. False if too many are waiting.
    pub(crate) fn send_keys(&mut self, keys: &Combination, hold_ms: Option<u64>) -> bool {
        let sent = self.typing.send(keys, hold_ms);
        let now = self.clock.now();
        self.type_on(now);
        self.arm(now);
        sent
    }

    /// Key movements that the guest has not seen yet.
    pub(crate) fn keys_waiting(&self) -> usize {
        self.typing.waiting()
    }

    /// Moves the mouse.
    pub(crate) fn move_mouse(&mut self, mouse: &Mouse) {
        if let Some(buttons) = mouse.buttons {
            self.mouse_buttons = buttons;
        }
        let now = self.clock.now();
        let up = mouse.dy.saturating_neg();
        self.chipset
            .mouse_input(mouse.dx, up, mouse.dz, self.mouse_buttons, now);
        self.arm(now);
    }

    /// Gives the keyboard the keys that are due.
    pub(super) fn type_on(&mut self, now: Nanos) {
        while let Some(codes) = self.typing.due(now) {
            let taken = self.chipset.keyboard_input(codes, now);
            self.typing.sent(now, taken);
        }
    }

    /// Machine time for an access of the guest. Devices are brought up to it, so that keys that are due
    /// go before: the access may come late, and a key whose release is still here would repeat.
    #[inline]
    pub(super) fn access_time(&mut self) -> Nanos {
        let now = self.clock.now();
        if self.typing.due(now).is_some() {
            self.type_on(now);
        }
        now
    }

    /// When something is to be done next.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let devices = self.chipset.next_event();
        devices.into_iter().chain(self.typing.deadline()).min()
    }

    /// Has the helper kick the vCPU then.
    pub(super) fn arm(&mut self, now: Nanos) {
        let deadline = self.deadline();
        self.helper.arm(deadline, now);
    }
}

#[cfg(test)]
mod tests {
    use std::iter;
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use devices::{Chipset, ChipsetConfig};
    use translator::Platform as _;

    use super::*;
    use crate::clock::Clock;
    use crate::helper::{Helper, Watch};
    use crate::serial::{SerialOutput, SharedOutput};

    fn board() -> Board {
        let stop = Arc::default();
        let helper = Helper::start(Watch::default(), Vec::new(), Arc::clone(&stop)).unwrap();
        let output = SharedOutput::new(SerialOutput::new(None, None, stop));
        let chipset = Chipset::new(ChipsetConfig::new()).unwrap();
        Board::new(chipset, Clock::start(), helper, output)
    }

    /// What the guest reads from the keyboard controller until it has nothing more.
    fn read_keys(board: &mut Board) -> Vec<u32> {
        let mut read = Vec::new();
        for _ in 0..20 {
            if board.port_read(0x64, 1) & 1 != 0 {
                read.push(board.port_read(0x60, 1));
            }
            thread::sleep(Duration::from_millis(1));
        }
        read
    }

    /// A board with a key down for so many milliseconds that the guest has read; `None` if the key
    /// was up again by then, because other processes had the processor.
    fn key_down(hold_ms: u64) -> Option<Board> {
        let start = Instant::now();
        let mut board = board();
        assert!(board.send_keys(&"a".parse().unwrap(), Some(hold_ms)));
        let read = read_keys(&mut board);
        if start.elapsed() >= Duration::from_millis(hold_ms) {
            return None;
        }
        assert_eq!(read, [0x1e]);
        Some(board)
    }

    /// A busy host: nobody looks at the board for longer than the delay of the typematic. Then its
    /// timers come first, or an access of the guest.
    #[test]
    fn a_key_that_is_released_late_does_not_repeat() {
        for timers_first in [true, false] {
            let mut board = iter::repeat_with(|| key_down(100))
                .find_map(|board| board)
                .unwrap();
            thread::sleep(Duration::from_millis(700));
            if timers_first {
                board.catch_up();
            }
            assert_eq!(read_keys(&mut board), [0x9e], "{timers_first}");
        }
    }
}

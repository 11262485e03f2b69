//! How fast is direct execution on this host?

use std::time::{Duration, Instant};

use serde::Serialize;
use translator::state::reg;

use super::lab::{CODE, DATA, Lab, Rights, selector};
use super::native::count_down;
use crate::direct::world::{Leave, WorldError};

/// What the probe measured. Times are the best of several tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Speed {
    /// One instruction of a short loop in the guest, picoseconds.
    pub instruction_ps: u64,
    /// One instruction of the same loop natively, picoseconds.
    pub native_instruction_ps: u64,
    /// Into the guest and out by an exception, with all registers but the FPU's, nanoseconds.
    pub round_trip_ns: u64,
    /// The same after one edit of a page table, as for a hidden page fault, nanoseconds.
    pub round_trip_with_edit_ns: u64,
}

/// How long one measurement may take.
const SLICE: Duration = Duration::from_millis(4);
/// Tries of each, at most and at least.
const TRIES: u32 = 50;
const FEWEST_TRIES: u32 = 3;

/// Measures.
pub(super) fn speed(lab: &mut Lab) -> Result<Speed, WorldError> {
    lab.program(&[0x0F, 0x0B]); // ud2
    let round_trip = best(|| {
        let mut context = Lab::start();
        lab.run(&mut context).map(|_| ())
    })?;
    let mut writable = false;
    let with_edit = best(|| {
        writable = !writable;
        let rights = if writable {
            Rights::Write
        } else {
            Rights::Read
        };
        lab.map_page(DATA, Lab::data_frame(0), rights)?;
        let mut context = Lab::start();
        lab.run(&mut context).map(|_| ())
    })?;
    let mut speed = Speed {
        instruction_ps: u64::MAX,
        native_instruction_ps: u64::MAX,
        round_trip_ns: nanoseconds(round_trip),
        round_trip_with_edit_ns: nanoseconds(with_edit),
    };
    // In turn, as the two are compared, and the host may be busy with something else for a while.
    for _ in 0..ROUNDS {
        let guest = loop_speed(|count| guest_loop(lab, count), round_trip)?;
        let native = loop_speed(
            |count| {
                count_down(count);
                Ok(())
            },
            Duration::ZERO,
        )?;
        speed.instruction_ps = speed.instruction_ps.min(guest);
        speed.native_instruction_ps = speed.native_instruction_ps.min(native);
    }
    Ok(speed)
}

/// The same for 16-bit code: picoseconds for an instruction. `speed` is that of 32-bit code.
pub(super) fn speed16(lab: &mut Lab, speed: Option<Speed>) -> Result<u64, WorldError> {
    lab.program(&[0x66, 0x49, 0x75, 0xFC, 0x0F, 0x0B]); // 1: dec ecx; jnz 1b; ud2
    let overhead = Duration::from_nanos(speed.map_or(0, |speed| speed.round_trip_ns));
    let run = |count| {
        let mut context = Lab::start();
        context.cs = selector::CODE16;
        context.eip = 0;
        context.gpr[reg::ECX] = count;
        match lab.run(&mut context)? {
            Leave::Exception { .. } if context.gpr[reg::ECX] == 0 && context.eip == 4 => Ok(()),
            other => Err(WorldError::Exit(format!("{other:?} in a counting loop"))),
        }
    };
    loop_speed(run, overhead)
}

/// `count` rounds of `dec ecx; jnz`.
fn guest_loop(lab: &mut Lab, count: u32) -> Result<(), WorldError> {
    lab.program(&[0x49, 0x75, 0xFD, 0x0F, 0x0B]); // 1: dec ecx; jnz 1b; ud2
    let mut context = Lab::start();
    context.gpr[reg::ECX] = count;
    match lab.run(&mut context)? {
        Leave::Exception { .. } if context.gpr[reg::ECX] == 0 && context.eip == CODE + 3 => Ok(()),
        other => Err(WorldError::Exit(format!("{other:?} in a counting loop"))),
    }
}

/// Measurements of the speed of each, of which the best counts.
const ROUNDS: u32 = 2;
/// Runs of one length, of which the shortest counts: the host may interrupt one.
const REPEATS: u32 = 2;

/// Picoseconds for an instruction of a loop of two, at least 1. `overhead` is what a run of no rounds takes.
fn loop_speed(
    mut run: impl FnMut(u32) -> Result<(), WorldError>,
    overhead: Duration,
) -> Result<u64, WorldError> {
    speed_by(
        |count| {
            let start = Instant::now();
            run(count)?;
            Ok(start.elapsed())
        },
        overhead,
    )
}

/// The same with the clock left to `time`.
fn speed_by(
    mut time: impl FnMut(u32) -> Result<Duration, WorldError>,
    overhead: Duration,
) -> Result<u64, WorldError> {
    const FEWEST: u32 = 1 << 11;
    const MOST: u32 = 1 << 24;
    let mut count = FEWEST;
    loop {
        let mut shortest = Duration::MAX;
        for _ in 0..REPEATS {
            shortest = shortest.min(time(count)?);
            if shortest < SLICE / 2 {
                break;
            }
        }
        // The first length that takes long enough counts; shorter ones have warmed the host up.
        if shortest >= SLICE / 2 || count >= MOST {
            let picoseconds = nanoseconds(shortest.saturating_sub(overhead)).saturating_mul(1000);
            return Ok((picoseconds / (2 * u64::from(count))).max(1));
        }
        count *= 4;
    }
}

/// The shortest of several tries.
fn best(mut run: impl FnMut() -> Result<(), WorldError>) -> Result<Duration, WorldError> {
    let start = Instant::now();
    let mut best = Duration::MAX;
    for tried in 1..=TRIES {
        let begin = Instant::now();
        run()?;
        best = best.min(begin.elapsed());
        if start.elapsed() > SLICE && tried >= FEWEST_TRIES {
            break;
        }
    }
    Ok(best)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3 ns for a round of two instructions, and 90 us for the way in and out.
    fn undisturbed(count: u32) -> Duration {
        Duration::from_nanos(u64::from(count) * 3 + 90_000)
    }

    #[test]
    fn a_run_that_the_host_interrupts_does_not_count() {
        let overhead = Duration::from_micros(90);
        let speed = speed_by(|count| Ok(undisturbed(count)), overhead).unwrap();
        assert_eq!(speed, 1500);
        for interrupted in 0..8 {
            let mut runs = 0..;
            let time = |count| {
                let more = match runs.next() {
                    Some(run) if run == interrupted => Duration::from_millis(9),
                    _ => Duration::ZERO,
                };
                Ok(undisturbed(count) + more)
            };
            assert_eq!(speed_by(time, overhead).unwrap(), 1500, "{interrupted}");
        }
    }

    #[test]
    fn no_speed_is_zero() {
        // A round trip that was interrupted each time takes longer than the loop.
        let overhead = Duration::from_millis(50);
        let speed = speed_by(|count| Ok(undisturbed(count)), overhead).unwrap();
        assert!(speed >= 1);
    }
}

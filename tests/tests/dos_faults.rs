//! Code and data share pages everywhere in DOS. Once a program is warm, that costs next to no host
//! faults: counted here while FreeDOS runs a game and lists its disk again and again. Nor does real mode need
//! Rust for much: what is carried out there is counted while FreeDOS waits at its prompt.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ringshift::control::{Command, Remote};
use ringshift::disk::{FloppyImage, FloppySlot, ImageSpec};
use ringshift::firmware::{Firmware, find};
use ringshift::guest::Guest;
use ringshift::helper::Watch;
use ringshift::machine::{Machine, MachineConfig};
use ringshift_tests::paths;

/// Seconds of the guest's time that are looked at.
const SECONDS: u64 = 5;

/// Faults that the host delivers to the monitor in a second, at most. Five of a game and a hundred of
/// a list of files were counted on a busy host; a storm has some hundred thousand.
const MOST: u64 = 2_000;

/// Callouts in 1,000 instructions at the prompt, at most. One in 10,000 was counted: reads of ports, and interrupts,
/// of which a slow host has more for each instruction. With near returns of 32 bits or loads of SS in Rust it is 45.
const MOST_CALLOUTS: u64 = 3;

/// Counters of a machine that runs.
#[derive(Clone, Copy, Debug)]
struct Sample {
    machine_ns: u64,
    host_faults: u64,
    entries: u64,
    instructions: u64,
    callouts: u64,
}

fn sample(remote: &Remote) -> Sample {
    let reply = remote.ask(Command::Statistics).unwrap().unwrap();
    let number = |group: &str, name: &str| reply.value[group][name].as_u64().unwrap();
    let callouts = reply.value["translator"]["callouts"].as_object().unwrap();
    Sample {
        machine_ns: number("time", "total_ns"),
        host_faults: number("translator", "host_faults"),
        entries: number("translator", "entries_supervisor"),
        instructions: number("translator", "instructions"),
        callouts: callouts.values().filter_map(|kind| kind.as_u64()).sum(),
    }
}

fn wait_for(remote: &Remote, text: &str) {
    for _ in 0..1200 {
        let screen = remote.screen().unwrap().unwrap_or_default();
        if screen.contains(text) {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("no {text:?}: {:?}", remote.screen());
}

fn type_text(remote: &Remote, text: &str) {
    let typed = remote.ask(Command::Type(text.to_owned())).unwrap();
    typed.unwrap();
}

/// Starts FreeDOS from disk `image`, types a command at the prompt behind `greeting`, lets it run for a while to get
/// warm, and takes two samples.
fn run_warm(image: &str, greeting: &str, command: &str) -> Option<(Sample, Sample)> {
    let image = paths::shared(&format!("guests/{image}"))?;
    let files = find(None, None, true).map_err(|error| eprintln!("SKIPPED: {error}"));
    let files = files.ok()?;
    let read = |path: &Path| fs::read(path).unwrap();
    let vga_bios = files.vga_bios.as_deref().map(read);
    let firmware = Firmware::new(read(&files.bios), vga_bios).unwrap();
    let disk = FloppyImage::open(&ImageSpec {
        snapshot: true,
        ..ImageSpec::new(image)
    });
    let config = MachineConfig {
        floppies: [FloppySlot::with_disk(disk.unwrap()), FloppySlot::default()],
        watch: Watch {
            timeout: Some(Duration::from_secs(200)),
            ..Watch::default()
        },
        count_instructions: true,
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(config, Guest::Firmware(firmware)).unwrap();
    let remote = machine.remote();
    let (greeting, command) = (greeting.to_owned(), command.to_owned());
    let driver = thread::spawn(move || {
        wait_for(&remote, &greeting);
        wait_for(&remote, "A:\\>");
        type_text(&remote, &command);
        thread::sleep(Duration::from_secs(SECONDS));
        let before = sample(&remote);
        let mut after = before;
        while after.machine_ns < before.machine_ns + SECONDS * 1_000_000_000 {
            thread::sleep(Duration::from_millis(200));
            after = sample(&remote);
        }
        let _ = remote.ask(Command::Quit);
        (before, after)
    });
    machine.run().unwrap();
    let (before, after) = driver.join().unwrap();
    assert!(after.entries > before.entries, "the guest ran: {after:?}");
    Some((before, after))
}

/// Host faults in a second of a command.
fn faults_per_second(command: &str) -> Option<u64> {
    let (before, after) = run_warm("freedos-720k.img", "for fun.", command)?;
    let milliseconds = (after.machine_ns - before.machine_ns) / 1_000_000;
    let faults = after.host_faults - before.host_faults;
    println!("{faults} host faults in {milliseconds} ms");
    Some(faults * 1000 / milliseconds)
}

#[test]
fn a_game_runs_without_a_fault_storm() {
    if let Some(rate) = faults_per_second("tetris\n") {
        assert!(rate <= MOST, "{rate} host faults in a second");
    }
}

#[test]
fn commands_run_again_and_again_without_a_fault_storm() {
    let list = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20";
    if let Some(rate) = faults_per_second(&format!("for %a in ({list}) do dir\n")) {
        assert!(rate <= MOST, "{rate} host faults in a second");
    }
}

#[test]
fn the_prompt_stays_in_translated_code() {
    let Some((before, after)) = run_warm("freedos-1440k.img", "A:\\>", "") else {
        return;
    };
    let instructions = after.instructions - before.instructions;
    let callouts = after.callouts - before.callouts;
    println!("{callouts} callouts in {instructions} instructions");
    let most = instructions / 1000 * MOST_CALLOUTS;
    assert!(
        callouts <= most,
        "{callouts} in {instructions} instructions"
    );
}

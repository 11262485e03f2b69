//! Scripts, the monitor console and screenshots, with SeaBIOS as the guest.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ringshift::firmware::find;
use ringshift_tests::console::{self, Finished};
use ringshift_tests::programs;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);
/// What SeaBIOS shows in the end on a machine without disks.
const NOTHING: &str = "No bootable device.";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn file(name: &str, contents: &str) -> String {
    let path = path(name);
    fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

fn bios() -> Option<String> {
    match find(None, None, true) {
        Ok(files) => Some(files.bios.to_str().unwrap().to_owned()),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

fn run(arguments: &[&str]) -> Finished {
    let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
    command
        .args(["run", "--policy", "translate", "--serial", "null"])
        .args(arguments);
    console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"))
}

fn assert_end(end: &Finished, code: i32, words: &[&str]) {
    assert_eq!(end.code(), Some(code), "{}", end.stderr);
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
    for word in words {
        assert!(end.stderr.contains(word), "{word:?}: {}", end.stderr);
    }
}

#[test]
fn scripts_that_are_none_are_refused_before_anything_runs() {
    for (text, words) in [
        ("wait x\nfly\n", &[":2: ", "'fly'"][..]),
        ("# nothing\n\nwait\n", &[":3: ", "wait TEXT"]),
        ("sleep soon\n", &[":1: ", "'soon'"]),
        ("sendkey ctrl-alt-any\n", &[":1: ", "'any'"]),
        ("type \"open\n", &[":1: ", "closing quote"]),
    ] {
        let script = file("wrong.script", text);
        let end = run(&["--firmware", "/nonexistent", "--script", &script]);
        assert_end(&end, 2, words);
        assert_end(&end, 2, &[&script]);
    }
    let end = run(&["--firmware", "/nonexistent", "--script", "/nonexistent/s"]);
    assert_end(&end, 2, &["/nonexistent/s", "No such file"]);
    let end = run(&["--firmware", "/nonexistent", "--type", "dir\\q"]);
    assert_end(&end, 2, &["backslash"]);
}

#[test]
fn a_script_waits_types_and_takes_pictures() {
    let Some(bios) = bios() else { return };
    let picture = path("seabios.png");
    let text = path("seabios.txt");
    let script = format!(
        "# SeaBIOS\nwait SeaBIOS\nwait \"{NOTHING}\"\nidle 0.2\nscreenshot {}\ntext {}\n\
         sendkey ctrl-alt-delete\nwait-gone \"{NOTHING}\"\nwait \"{NOTHING}\"\n",
        picture.display(),
        text.display(),
    );
    let script = file("seabios.script", &script);
    let end = run(&["--firmware", &bios, "--script", &script]);
    assert_end(&end, 0, &[]);
    assert!(fs::read_to_string(text).unwrap().contains(NOTHING));
    let picture = fs::read(picture).unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n"));
    assert_eq!(picture[16..24], [0, 0, 2, 0xd0, 0, 0, 1, 0x90], "720x400");
}

#[test]
fn a_step_that_fails_is_named_with_the_screen() {
    let Some(bios) = bios() else { return };
    let script = file(
        "late.script",
        &format!("wait {NOTHING}\ntimeout 0.3\nwait A:\\\\>\n"),
    );
    let end = run(&["--firmware", &bios, "--script", &script]);
    let line = format!("{script}:3: 'wait A:\\\\>' timed out after 0.3 s");
    assert_end(&end, 4, &[&line, "the screen shows", NOTHING]);
    let script = file(
        "unwritable.script",
        &format!("wait {NOTHING}\nscreenshot /nonexistent/a.png\n"),
    );
    let end = run(&["--firmware", &bios, "--script", &script]);
    assert_end(&end, 4, &[":2: ", "/nonexistent/a.png", "No such file"]);
}

#[test]
fn options_wait_for_the_screen_and_save_it() {
    let Some(bios) = bios() else { return };
    let picture = path("option.png");
    let _ = fs::remove_file(&picture);
    let end = run(&[
        "--firmware",
        &bios,
        "--until-screen",
        NOTHING,
        "--screenshot",
        picture.to_str().unwrap(),
    ]);
    assert_end(&end, 0, &[]);
    assert!(fs::read(picture).unwrap().starts_with(b"\x89PNG\r\n"));
    let end = run(&[
        "--firmware",
        &bios,
        "--until-screen",
        "never",
        "--timeout",
        "1",
    ]);
    assert_end(&end, 124, &[]);
}

/// A machine with its monitor at a socket; killed when it is not needed any more.
struct Monitored {
    child: Child,
    input: UnixStream,
    output: BufReader<UnixStream>,
    socket: PathBuf,
}

impl Monitored {
    fn start(bios: &str, name: &str) -> Monitored {
        let socket = path(name);
        let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
        let child = command
            .args(["run", "--policy", "translate", "--serial", "null"])
            .args(["--firmware", bios, "--timeout", "100", "--monitor"])
            .arg(format!("unix:{}", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let input = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        input.set_read_timeout(Some(LIMIT)).unwrap();
        let output = BufReader::new(input.try_clone().unwrap());
        Monitored {
            child,
            input,
            output,
            socket,
        }
    }

    /// Sends a line of JSON; the answer's `result` or `error`.
    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.input, "{request}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        // The prompt that greeted is in front of the first answer.
        let json = line.find('{').map_or("", |start| &line[start..]);
        let answer: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(answer["id"], request["id"]);
        match answer["ok"].as_bool() {
            Some(true) => Ok(answer["result"].clone()),
            _ => Err(answer["error"].as_str().unwrap().to_owned()),
        }
    }

    fn words(&mut self, command: &str) -> Result<Value, String> {
        self.ask(&json!({ "command": command, "id": command }))
    }

    fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            let screen = self.words("text").map_or(String::new(), |t| t.to_string());
            if screen.contains(text) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Monitored {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_monitor_answers_in_json() {
    let Some(bios) = bios() else { return };
    let mut machine = Monitored::start(&bios, "json.socket");
    machine.wait_for(NOTHING);
    let status = machine.words("status").unwrap();
    assert_eq!(status["paused"], json!(false));
    assert_eq!(status["screen"], json!("text 80x25"));
    machine.words("stop").unwrap();
    assert_eq!(machine.words("info status").unwrap()["paused"], json!(true));
    // A machine that stands still can be looked at, and stays where it is.
    let before = machine.words("registers").unwrap();
    assert_eq!(machine.words("info registers").unwrap(), before);
    assert!(before["eip"].is_u64() && before["cs"]["base"].is_u64());
    // The reset vector.
    let memory = json!({ "command": "memory", "arguments": [0xf_fff0, 2], "id": 7 });
    assert_eq!(machine.ask(&memory).unwrap()["bytes"][0], json!(0xea));
    machine.words("cont").unwrap();
    let statistics = machine.words("statistics").unwrap();
    assert!(statistics["devices"]["port_writes"].as_u64() > Some(100));
    for (wrong, word) in [
        ("fly", "'fly'"),
        ("sendkey hyper", "'hyper'"),
        ("change floppy0 /nonexistent.img", "/nonexistent.img"),
        ("screendump /nonexistent/a.png", "No such file"),
        ("memory nowhere", "'nowhere'"),
    ] {
        let error = machine.words(wrong).unwrap_err();
        assert!(error.contains(word), "{wrong}: {error}");
    }
    let typed = json!({ "command": "type", "arguments": ["a\n"], "id": null });
    machine.ask(&typed).unwrap();
    machine.words("mouse 5 5").unwrap();
    machine.words("system_reset").unwrap();
    machine.wait_for(NOTHING);
    machine.words("quit").unwrap();
    assert_eq!(machine.child.wait().unwrap().code(), Some(130));
    assert!(!machine.socket.exists(), "the socket is gone");
}

#[test]
fn a_monitor_needs_a_place_of_its_own() {
    let Some(bios) = bios() else { return };
    let taken = file("taken.socket", "somebody's file");
    let target = format!("unix:{taken}");
    let end = run(&["--firmware", &bios, "--monitor", &target]);
    assert_end(&end, 1, &[&taken, "file of this name"]);
    assert_eq!(fs::read_to_string(&taken).unwrap(), "somebody's file");
    let mut machine = Monitored::start(&bios, "used.socket");
    machine.words("status").unwrap();
    let target = format!("unix:{}", machine.socket.display());
    let end = run(&["--firmware", &bios, "--monitor", &target]);
    assert_end(&end, 1, &["another machine"]);
    machine.words("status").unwrap();
}

//! `run --profile` and `--perf-map`: a guest whose hot function is known is found to be hot, with its
//! name; files that cannot be used are told before the run.

use ringshift_tests::console::{self, Finished};
use ringshift_tests::{bzimage, paths, programs};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// Address of the loop: the jump that leads there is the first instruction.
const HOT: u32 = bzimage::LOAD_ADDRESS + 0x40;

fn directory() -> PathBuf {
    let dir = paths::profile_dir().unwrap().join("profile-test");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A kernel that spends its time in a loop at [`HOT`], reads a port 1,000 times behind it and writes a
/// word.
fn kernel() -> &'static Path {
    // Made once: tests that run at the same time share it.
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    KERNEL.get_or_init(make_kernel)
}

fn make_kernel() -> PathBuf {
    let mut code = bzimage::jump_to(HOT);
    code.resize((HOT - bzimage::LOAD_ADDRESS) as usize, 0x90);
    code.extend([0xb9, 0x00, 0x94, 0x35, 0x77]); // mov ecx, 2,000,000,000
    code.extend([0x49, 0x75, 0xfd]); // dec ecx; jnz
    code.extend([0xb9, 0xe8, 0x03, 0x00, 0x00]); // mov ecx, 1000
    code.extend([0xe4, 0x21, 0xe2, 0xfc]); // in al, 21h; loop
    code.extend(bzimage::print("done\n"));
    code.extend(bzimage::halt_for_ever());
    let path = directory().join("kernel");
    std::fs::write(&path, bzimage::bzimage(&code)).unwrap();
    path
}

fn run(arguments: &[&str]) -> Finished {
    let kernel = kernel();
    let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
    command.args(["run", "--kernel"]).arg(kernel);
    command.args(["--policy", "translate", "--until", "done"]);
    command.args(arguments);
    console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"))
}

fn symbols() -> PathBuf {
    let path = directory().join("System.map");
    let text = format!(
        "{:08x} T start\n{HOT:08x} t hot_loop\n{:08x} T after\n",
        bzimage::LOAD_ADDRESS,
        HOT + 8
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_hot_function_is_found_and_named() {
    let symbols = symbols();
    let profile = directory().join("profile.json");
    let map = directory().join("perf.map");
    let end = run(&[
        "--profile",
        profile.to_str().unwrap(),
        "--symbols",
        symbols.to_str().unwrap(),
        &format!("--perf-map={}", map.display()),
    ]);
    assert_eq!(end.code(), Some(0), "{}", end.stderr);
    let json: Value = serde_json::from_str(&text(&profile)).unwrap();
    let count = |value: &Value| value.as_u64().unwrap();
    // Two thousand million iterations take a tenth of a second on any processor.
    let samples = count(&json["samples"]);
    assert!(samples >= 5, "{json:#}");
    assert_eq!(json["symbols"][0][0], "hot_loop", "{json:#}");
    assert_eq!(json["units"][0]["cpl"], 0);
    let hot = count(&json["symbols"][0][1]);
    assert!(hot * 2 > samples, "{hot} of {samples}");
    assert_eq!(count(&json["callouts"]["port-io"]) / 1000, 1, "{json:#}");
    let place = &json["callouts_by_place"][0];
    assert_eq!(
        (count(&place["count"]), &place["kind"]),
        (1000, &Value::from("port-io"))
    );
    assert_eq!(place["symbol"], "after+0x5");
    let hot_unit = text(&map)
        .lines()
        .filter_map(|line| {
            {
                let mut words = line.splitn(3, ' ');
                let number = |word: Option<&str>| u64::from_str_radix(word.unwrap(), 16).unwrap();
                let (start, size) = (number(words.next()), number(words.next()));
                assert!(start > 0 && size > 0, "{line}");
                words
                    .next()
                    .filter(|name| name.starts_with("guest:hot_loop"))
            }
            .map(str::to_owned)
        })
        .count();
    assert!(hot_unit > 0, "{}", text(&map));
}

#[test]
fn the_text_form_and_no_symbols() {
    let profile = directory().join("profile.txt");
    let end = run(&["--profile", profile.to_str().unwrap()]);
    assert_eq!(end.code(), Some(0), "{}", end.stderr);
    let said = text(&profile);
    assert!(said.contains("samples of the vCPU's thread"), "{said}");
    assert!(said.contains("port-io"), "{said}");
    assert!(said.contains(&format!("{:08x} ring 0", HOT + 5)), "{said}");
}

#[test]
fn files_that_cannot_be_used() {
    let garbage = directory().join("garbage.map");
    std::fs::write(&garbage, "this is no symbol\n").unwrap();
    let garbage = garbage.to_str().unwrap();
    let profile = directory().join("unused.profile");
    let profile = profile.to_str().unwrap();
    for (arguments, word) in [
        (&["--profile", "/nonexistent/p"][..], "/nonexistent/p"),
        (&["--perf-map=/nonexistent/m"], "/nonexistent/m"),
        (
            &["--profile", profile, "--symbols", "/nonexistent/s"],
            "/nonexistent/s",
        ),
        (&["--profile", profile, "--symbols", garbage], "garbage.map"),
    ] {
        let end = run(arguments);
        assert_eq!(end.code(), Some(1), "{arguments:?}: {}", end.stderr);
        assert_eq!(end.stderr.matches("error:").count(), 1, "{}", end.stderr);
        assert!(end.stderr.contains(word), "{}", end.stderr);
        assert_eq!(end.stdout, "", "nothing has run");
    }
}

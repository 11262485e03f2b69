//! OpenBSD's installer from its floppy disk on a real KVM, in the machine of suite `hwvirt`, which is
//! forced to be used.
//!
//! Its segments for ring 3 end below 4 GB. The processor that QEMU emulates
//! checks no limits, so that no state of ring 3 may run directly there, and each is refused for that
//! reason alone. Where limits are checked its programs run directly: suite
//! `floppy_guests`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ringshift::firmware::find;
use ringshift_tests::hwvirt::{self, Payload, Step, StepResult};
use ringshift_tests::scripted::shared_image;
use ringshift_tests::{paths, programs};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(1500);

const SCRIPT: &str = r"
timeout 1000
wait (I)nstall, (U)pgrade or (S)hell?
wait fd0 at fdc0 drive 0: 1.44MB
type s\n
wait #
type ls /bin\n
wait chmod
";

#[test]
fn openbsd_does_not_run_directly_where_limits_are_not_checked() {
    if !programs::installed("qemu-system-x86_64") || shared_image("openbsd-floppy.img").is_none() {
        return;
    }
    let files = match find(None, None, true) {
        Ok(files) => files,
        Err(error) => return eprintln!("SKIPPED: {error}"),
    };
    let Some(image) = paths::shared("guests/openbsd-floppy.img") else {
        return;
    };
    let program = programs::ringshift_path().unwrap_or_else(|error| panic!("{error}"));
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openbsd-hwvirt.script");
    fs::write(&script, SCRIPT).unwrap();
    let mut payloads = vec![
        Payload::Program(program.to_path_buf()),
        Payload::File("openbsd.img".to_owned(), image),
        Payload::File("script".to_owned(), script),
        Payload::File("bios.bin".to_owned(), files.bios),
    ];
    let vga = files
        .vga_bios
        .map(|path| Payload::File("vga.bin".to_owned(), path));
    payloads.extend(vga);
    let run = "/payload/ringshift run /payload/openbsd.img,snapshot=on --memory 64 --serial null \
               --firmware /payload/bios.bin --vga-bios /payload/vga.bin \
               --direct kvm=force --policy vmware --audit --script /payload/script \
               --stats stats.json --trace openbsd.trace";
    let steps = [
        ("openbsd", run),
        ("stats", "cat stats.json"),
        (
            "trace",
            "/payload/ringshift trace summary openbsd.trace --json",
        ),
    ]
    .map(|(name, command)| Step {
        name: name.to_owned(),
        command: command.to_owned(),
    });
    let results =
        hwvirt::run(true, &payloads, &steps, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    for StepResult {
        name,
        status,
        stdout,
        stderr,
    } in &results
    {
        assert_eq!(*status, 0, "{name}:\n{stdout}\n{stderr}");
    }
    let [openbsd, stats, trace] = results.as_slice() else {
        panic!("{results:?}");
    };
    assert!(
        openbsd.stderr.contains("the shadow tables agree"),
        "{}",
        openbsd.stderr
    );
    let [stats, trace] =
        [stats, trace].map(|step| serde_json::from_str::<Value>(&step.stdout).unwrap());
    let count = |path: &str| stats.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    assert_eq!(stats["direct_available"], true, "{stats:#}");
    assert_eq!(stats["policy"], "vmware", "{stats:#}");
    let translated = count("/decisions/ring3/translated/runs");
    assert!(translated > 100, "{stats:#}");
    let against = stats["decisions"]["ring3"]["against"].as_object().unwrap();
    let against: Vec<_> = against.iter().collect();
    assert_eq!(
        against,
        [(&"LIMITS_UNCHECKED".to_owned(), &Value::from(translated))]
    );
    assert_eq!(count("/decisions/legal"), 0, "{stats:#}");
    assert_eq!(count("/runs/direct"), 0, "{stats:#}");
    // What was traced agrees with what was counted.
    assert_eq!(trace["complete"], true, "{trace:#}");
    assert_eq!(trace["lost"], 0, "{trace:#}");
    assert_eq!(trace["switches"], 0, "{trace:#}");
    let refusals = &stats["decisions"]["refusals_by_reason"];
    assert_eq!(&trace["refusals_by_reason"], refusals, "{trace:#}");
}

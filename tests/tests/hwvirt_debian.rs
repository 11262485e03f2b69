//! Debian's unmodified 32-bit kernels on a real KVM, ring 3 in direct execution: the checks that they
//! pass translated pass there as well, and next to nothing of ring 3 is translated.

use std::time::Duration;

use ringshift_tests::guests::{self, Guest, GuestError, Session};
use ringshift_tests::hwvirt::{self, Payload, Step};
use ringshift_tests::programs;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(590);

#[test]
fn debian_686_on_a_kvm_that_shadows() {
    debian(false, guests::debian_686(Session::Scripted));
}

#[test]
fn debian_686_pae_with_nested_paging() {
    debian(true, guests::debian_686_pae(Session::Scripted));
}

fn debian(nested_paging: bool, guest: Result<Guest, GuestError>) {
    if !programs::installed("qemu-system-x86_64") {
        return;
    }
    let guest = guest.unwrap_or_else(|error| panic!("{error}"));
    let program = programs::ringshift_path().unwrap_or_else(|error| panic!("{error}"));
    let payloads = [
        Payload::Program(program.to_path_buf()),
        Payload::File("vmlinuz".to_owned(), guest.kernel.clone()),
        Payload::File("initrd".to_owned(), guest.initrd.clone()),
    ];
    let run = format!(
        "/payload/ringshift run --kernel /payload/vmlinuz --initrd /payload/initrd --append '{}' \
         --memory {} --policy vmware --audit --stats stats.json --timeout 500",
        guest.append, guest.memory
    );
    let steps =
        [("debian", run.as_str()), ("stats", "cat stats.json")].map(|(name, command)| Step {
            name: name.to_owned(),
            command: command.to_owned(),
        });
    let results = hwvirt::run(nested_paging, &payloads, &steps, LIMIT)
        .unwrap_or_else(|error| panic!("{error}"));
    let [debian, stats] = results.as_slice() else {
        panic!("{results:?}");
    };
    assert!(
        debian.status == 0 && debian.stdout.contains(guests::PASSED),
        "status {}\n{}\n{}",
        debian.status,
        debian.stdout,
        debian.stderr
    );
    let stats: Value = serde_json::from_str(&stats.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stats.stdout));
    let runs = |who: &str| {
        stats
            .pointer(&format!("/decisions/ring3/{who}/runs"))
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no runs of {who} in\n{stats:#}"))
    };
    let (direct, replayed, translated) = (runs("direct"), runs("replayed"), runs("translated"));
    eprintln!("ring 3: {direct} direct, {replayed} replayed, {translated} translated");
    assert!(direct > 1000, "{stats:#}");
    assert!(
        translated * 20 < direct + replayed + translated,
        "{stats:#}"
    );
}

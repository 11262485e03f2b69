//! Hosts without a KVM, with one that may not be opened, and with one that fails: everything runs
//! translated and that is said once; who insists on direct execution gets an error. The hosts are
//! mount namespaces.

use std::process::Command;
use std::time::Duration;

use ringshift_tests::console::{self, Finished};
use ringshift_tests::{paths, programs};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// Shell commands that make the host, and what it is; `$1` is a directory.
const HOSTS: [(&str, &str); 3] = [
    ("missing", "mount -t tmpfs tmpfs /dev"),
    // A device cannot be opened on a file system that is mounted without devices.
    (
        "permission_denied",
        "touch \"$1/null\" && mount --bind /dev/null \"$1/null\" && mount -t tmpfs tmpfs /dev && \
         touch /dev/kvm && mount --bind \"$1/null\" /dev/kvm && \
         mount -o remount,bind,nodev /dev/kvm",
    ),
    ("unusable", "mount -t tmpfs tmpfs /dev && touch /dev/kvm"),
];

/// Runs ringshift on a host that `commands` make; `None` where there are no mount namespaces.
fn run(commands: &str, arguments: &[&str]) -> Option<Finished> {
    let dir = paths::guests_dir().unwrap_or_else(|error| panic!("{error}"));
    let script =
        format!("{{ {commands}; }} || {{ echo '@@ no mount'; exit 0; }}; shift; exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .args([&script, "sh"])
        .arg(dir)
        .arg(programs::ringshift_path().unwrap_or_else(|error| panic!("{error}")))
        .args(arguments);
    let end = console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    if end.stdout.contains("@@ no mount") || end.stderr.contains("unshare") {
        eprintln!("SKIPPED: no mount namespace here: {}", end.stderr);
        return None;
    }
    Some(end)
}

#[test]
fn a_host_without_a_usable_kvm_translates_everything_and_says_so_once() {
    for (status, commands) in HOSTS {
        let Some(host) = run(commands, &["host", "--json"]) else {
            return;
        };
        let report: Value = serde_json::from_str(&host.stdout)
            .unwrap_or_else(|error| panic!("{status}: {error}: {}", host.stdout));
        assert_eq!(report["kvm"]["status"], status, "{report:#}");
        assert_eq!(report["support"]["compat32"], false, "{report:#}");

        let demo = ["demo", "--scale", "0.0001", "--policy", "vmware"];
        let end = run(commands, &demo).expect("as before");
        assert_eq!(end.code(), Some(0), "{status}: {}", end.stderr);
        assert!(
            end.stdout.contains("agree with the host's own"),
            "{status}: {}",
            end.stdout
        );
        assert_eq!(end.stderr.lines().count(), 1, "{status}: {}", end.stderr);
        assert!(
            end.stderr.contains("everything runs translated"),
            "{status}: {}",
            end.stderr
        );

        for insisting in ["kvm", "kvm=force"] {
            let end = run(commands, &[&demo[..], &["--direct", insisting]].concat());
            let end = end.expect("as before");
            assert_eq!(end.code(), Some(1), "{status}: {}", end.stderr);
            assert_eq!(end.stdout, "", "{status}: no run");
        }
    }
}

//! What `ringshift host` says.

use std::fmt;

use decision::{EngineCosts, HostSupport};
use nix::errno::Errno;
use serde::Serialize;

use super::Abilities;
use super::host_cpu::{HostCpu, host_cpu};
use super::kvm::{self, SetupError};
use super::probe::{self, Compat32, Needed, Outcome};

/// Version of the JSON form of [`HostReport`].
const SCHEMA: u32 = 1;

/// What this host offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// Version of this structure.
    pub schema: u32,
    /// The processor.
    pub cpu: HostCpu,
    /// The kernel's limit on mappings of a process, which bounds the shadow windows.
    pub max_map_count: Option<u64>,
    /// The host's KVM.
    pub kvm: Kvm,
    /// Every mode that direct execution could use.
    pub modes: Vec<Mode>,
    /// Details of the mode `compat32`, if it could be probed.
    pub compat32: Option<Compat32>,
}

/// The host's KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kvm {
    /// Is it there?
    pub status: KvmStatus,
    /// Version of its interface.
    pub api_version: Option<i32>,
    /// Why it cannot be used.
    pub error: Option<String>,
}

/// Is KVM there?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmStatus {
    /// It can be used.
    Ready,
    /// There is no `/dev/kvm`.
    Missing,
    /// This user may not open it.
    PermissionDenied,
    /// It is there and cannot be used.
    Unusable,
}

/// A mode of guest code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mode {
    /// Its name.
    pub name: &'static str,
    /// What the code is.
    pub description: &'static str,
    /// Does it run?
    pub verdict: Verdict,
}

/// Does a mode run on this host?
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "result", content = "detail")]
pub enum Verdict {
    /// Correctly.
    Works,
    /// Not correctly, and is not used. With what went wrong.
    Fails(String),
    /// There is no KVM to ask.
    Unavailable,
    /// Nothing has looked yet; it is not used.
    NotProbed,
}

/// Looks at this host; runs the probe.
pub fn host_report() -> HostReport {
    let (kvm, compat32) = look_at_kvm();
    let verdict = match &compat32 {
        None => Verdict::Unavailable,
        Some(probe) => first_wrong(probe).map_or(Verdict::Works, Verdict::Fails),
    };
    let later = |name, description| Mode {
        name,
        description,
        verdict: Verdict::NotProbed,
    };
    HostReport {
        schema: SCHEMA,
        cpu: host_cpu(),
        max_map_count: std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        kvm,
        modes: vec![
            Mode {
                name: "compat32",
                description: "32-bit ring 3 in compatibility mode",
                verdict,
            },
            later("compat16", "16-bit ring 3 in compatibility mode"),
            later("legacy32", "32-bit ring 3 in legacy protected mode"),
            later("v86", "virtual-8086 mode"),
        ],
        compat32,
    }
}

fn look_at_kvm() -> (Kvm, Option<Compat32>) {
    let opened = kvm::open();
    let api_version = match &opened {
        Ok(kvm) => Some(kvm.get_api_version()),
        Err(SetupError::ApiVersion(version)) => Some(*version),
        Err(_) => None,
    };
    let probed = opened.and_then(|_| probe::compat32());
    let (status, error, compat32) = match probed {
        Ok(probe) => (KvmStatus::Ready, None, Some(probe)),
        Err(error) => (status_of(&error), Some(error.to_string()), None),
    };
    let kvm = Kvm {
        status,
        api_version,
        error,
    };
    (kvm, compat32)
}

fn status_of(error: &SetupError) -> KvmStatus {
    match error {
        SetupError::Kvm {
            what: kvm::DEVICE,
            errno,
        } => match errno {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => KvmStatus::Missing,
            Errno::EACCES | Errno::EPERM => KvmStatus::PermissionDenied,
            _ => KvmStatus::Unusable,
        },
        _ => KvmStatus::Unusable,
    }
}

/// The first check that the mode cannot do without and that went wrong, in words.
pub(super) fn first_wrong(probe: &Compat32) -> Option<String> {
    let mut checks = probe.checks.iter();
    checks.find_map(|check| match &check.outcome {
        Outcome::Wrong(what) if check.needed == Needed::Always => {
            Some(format!("{}: {what}", check.name))
        }
        _ => None,
    })
}

/// What the engine can do after this probe.
pub(super) fn abilities(probe: &Compat32) -> Abilities {
    Abilities {
        support: HostSupport {
            compat32: probe.usable,
            ..HostSupport::NONE
        },
        iopl: probe.iopl,
        limits: probe.limits,
    }
}

/// What policies are told.
pub(super) fn costs(probe: &Compat32) -> EngineCosts {
    EngineCosts {
        round_trip_ns: probe.speed.map(|speed| speed.round_trip_ns),
        direct_ps: probe.speed.map(|speed| speed.instruction_ps),
        translated_ps: None,
    }
}

impl HostReport {
    /// The modes that direct execution uses on this host.
    pub fn support(&self) -> HostSupport {
        let probe = self.compat32.as_ref();
        probe.map_or(HostSupport::NONE, |probe| abilities(probe).support)
    }
}

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostReport { cpu, kvm, .. } = self;
        let yes = |value| if value { "yes" } else { "no" };
        writeln!(
            f,
            "processor   {} ({}), {} threads",
            cpu.name, cpu.vendor, cpu.threads
        )?;
        writeln!(f, "            fsgsbase {}", yes(cpu.fsgsbase))?;
        let virtualization = yes(cpu.hardware_virtualization);
        writeln!(f, "            VT-x or AMD-V {virtualization}")?;
        writeln!(
            f,
            "            itself a virtual machine {}",
            yes(cpu.hypervisor)
        )?;
        if let Some(count) = self.max_map_count {
            writeln!(f, "kernel      {count} mappings for a process")?;
        }
        let status = match kvm.status {
            KvmStatus::Ready => "ready",
            KvmStatus::Missing => "not there",
            KvmStatus::PermissionDenied => "permission denied",
            KvmStatus::Unusable => "not usable",
        };
        write!(f, "KVM         {status}")?;
        if let Some(version) = kvm.api_version {
            write!(f, ", API version {version}")?;
        }
        match &kvm.error {
            Some(error) => writeln!(f, " ({error})")?,
            None => writeln!(f)?,
        }
        writeln!(f, "direct execution by mode")?;
        for mode in &self.modes {
            let verdict = match &mode.verdict {
                Verdict::Works => "works",
                Verdict::Fails(_) => "fails, not used",
                Verdict::Unavailable => "no KVM",
                Verdict::NotProbed => "not probed yet, not used",
            };
            writeln!(f, "  {:<9} {:<40} {verdict}", mode.name, mode.description)?;
        }
        match &self.compat32 {
            Some(probe) => write_compat32(f, probe),
            None => Ok(()),
        }
    }
}

fn write_compat32(f: &mut fmt::Formatter<'_>, probe: &Compat32) -> fmt::Result {
    writeln!(f, "compat32, {} ms of probing", probe.probe_us / 1000)?;
    for check in &probe.checks {
        let outcome = match &check.outcome {
            Outcome::Right => "right".to_owned(),
            Outcome::LeftToTranslator => "not run by KVM, left to the translator".to_owned(),
            Outcome::Wrong(what) => {
                let consequence = match check.needed {
                    Needed::Always => "",
                    Needed::Iopl => "; IOPL 1 and 2 do not run directly",
                    Needed::Limits => "; segments with a limit do not run directly",
                };
                format!("WRONG: {what}{consequence}")
            }
        };
        writeln!(f, "  {:<46} {outcome}", check.name)?;
    }
    if let Some(speed) = probe.speed {
        let ns = |ps: u64| ps as f64 / 1000.0;
        let (guest, native) = (speed.instruction_ps, speed.native_instruction_ps);
        writeln!(
            f,
            "  an instruction   {:.2} ns (natively {:.2} ns, {:.1} times)",
            ns(guest),
            ns(native),
            guest as f64 / native.max(1) as f64,
        )?;
        writeln!(
            f,
            "  in and out       {:.1} us; with an edit of a page table {:.1} us",
            ns(speed.round_trip_ns),
            ns(speed.round_trip_with_edit_ns),
        )?;
    }
    if let Some(extras) = probe.extras {
        let leaves = |leaves| if leaves { "leaves" } else { "shows the host" };
        writeln!(f, "  cpuid            {}", leaves(extras.cpuid_leaves))?;
        writeln!(f, "  sgdt, sidt, str  {}", leaves(extras.sgdt_leaves))?;
        let rdtsc = if extras.host_tsc {
            "runs directly"
        } else {
            "leaves"
        };
        writeln!(f, "  rdtsc            {rdtsc}")?;
        let outside = if extras.outside_edits_noticed {
            "noticed here"
        } else {
            "missed here"
        };
        writeln!(
            f,
            "  table edits from outside the VM are {outside} (not used)"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direct::probe::Check;

    fn probe(needed: Needed, outcome: Outcome) -> Compat32 {
        Compat32 {
            usable: needed != Needed::Always || outcome == Outcome::Right,
            iopl: needed != Needed::Iopl || outcome == Outcome::Right,
            limits: true,
            checks: vec![Check {
                name: "something",
                needed,
                outcome,
            }],
            speed: None,
            extras: None,
            probe_us: 1000,
        }
    }

    #[test]
    fn only_what_is_always_needed_makes_a_mode_fail() {
        let wrong = || Outcome::Wrong("odd".into());
        let fatal = probe(Needed::Always, wrong());
        assert_eq!(first_wrong(&fatal), Some("something: odd".into()));
        assert_eq!(abilities(&fatal).support, HostSupport::NONE);
        let limited = probe(Needed::Iopl, wrong());
        assert_eq!(first_wrong(&limited), None);
        assert!(abilities(&limited).support.compat32);
        assert!(!abilities(&limited).iopl);
        let mut text = String::new();
        let mut report = host_report();
        report.compat32 = Some(limited);
        fmt::write(&mut text, format_args!("{report}")).expect("a string takes everything");
        assert!(text.contains("IOPL 1 and 2 do not run directly"), "{text}");
    }

    #[test]
    fn errors_of_the_device_are_told_apart() {
        let status = |what, errno| status_of(&SetupError::Kvm { what, errno });
        assert_eq!(status(kvm::DEVICE, Errno::ENOENT), KvmStatus::Missing);
        assert_eq!(
            status(kvm::DEVICE, Errno::EACCES),
            KvmStatus::PermissionDenied
        );
        assert_eq!(status(kvm::DEVICE, Errno::EMFILE), KvmStatus::Unusable);
        assert_eq!(status("KVM_CREATE_VM", Errno::ENOENT), KvmStatus::Unusable);
        assert_eq!(status_of(&SetupError::ApiVersion(11)), KvmStatus::Unusable);
    }

    #[test]
    fn the_json_form_says_what_scripts_ask_for() {
        let json = serde_json::to_value(host_report()).expect("plain data");
        assert_eq!(json["schema"], SCHEMA);
        assert!(json["cpu"]["fsgsbase"].is_boolean());
        assert!(json["kvm"]["status"].is_string());
        let modes = json["modes"].as_array().expect("a list");
        assert_eq!(modes[0]["name"], "compat32");
        assert!(
            modes
                .iter()
                .all(|mode| mode["verdict"]["result"].is_string())
        );
    }
}

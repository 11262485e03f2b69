//! What `ringshift host` says.

use std::fmt;

use decision::{EngineCosts, HostSupport};
use nix::errno::Errno;
use serde::Serialize;

use super::host_cpu::HostCpu;
use super::kvm::{self, SetupError};
use super::probe::{self, Check, Compat16, Compat32, Legacy, Needed, Outcome, Probe, Speed};

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
    /// What policies are told of the engines' costs. `--host-costs` takes this.
    pub costs: EngineCosts,
    /// What the decision is told of the modes.
    pub support: HostSupport,
    /// Details of the mode `compat32`, if it could be probed.
    pub compat32: Option<Compat32>,
    /// Details of the mode `compat16`, likewise.
    pub compat16: Option<Compat16>,
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
    /// One instruction of a short loop, picoseconds; `None` if it was not measured.
    pub instruction_ps: Option<u64>,
    /// Direct execution can use it.
    pub used: bool,
}

impl Mode {
    /// A mode that is only reported.
    fn reported(name: &'static str, description: &'static str, found: Option<Legacy>) -> Mode {
        let ps = found.as_ref().and_then(|found| found.instruction_ps);
        Mode {
            name,
            description,
            verdict: match found.map(|found| found.wrong) {
                None => Verdict::Unavailable,
                Some(None) => Verdict::Works,
                Some(Some(wrong)) => Verdict::Fails(wrong),
            },
            instruction_ps: ps,
            used: false,
        }
    }
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
    let (kvm, probe) = look_at_kvm();
    let verdict = |checks: Option<&[Check]>| match (checks, &probe) {
        (Some(checks), _) => first_wrong(checks).map_or(Verdict::Works, Verdict::Fails),
        (None, Some(_)) => Verdict::NotProbed,
        (None, None) => Verdict::Unavailable,
    };
    let mode = |name, description, checks, instruction_ps, used| Mode {
        name,
        description,
        verdict: verdict(checks),
        instruction_ps,
        used,
    };
    // Without the one the other is not used, either.
    let usable = probe.as_ref().is_none_or(|probe| probe.compat32.usable);
    let ready = probe.is_some();
    let compat32 = probe.as_ref().map(|probe| &probe.compat32.checks[..]);
    let compat16 = probe.as_ref().and_then(|probe| probe.compat16.as_ref());
    let ps16 = compat16.and_then(|probe| probe.instruction_ps);
    let compat16 = compat16.map(|probe| &probe.checks[..]);
    let speed = probe.as_ref().and_then(|probe| probe.compat32.speed);
    let ps32 = speed.map(|speed| speed.instruction_ps);
    HostReport {
        schema: SCHEMA,
        cpu: HostCpu::look(),
        max_map_count: std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        kvm,
        modes: vec![
            mode(
                "compat32",
                "32-bit ring 3 in compatibility mode",
                compat32,
                ps32,
                true,
            ),
            mode(
                "compat16",
                "16-bit ring 3 in compatibility mode",
                compat16,
                ps16,
                usable,
            ),
            Mode::reported(
                "legacy32",
                "32-bit ring 3 in legacy protected mode",
                ready.then(probe::legacy32),
            ),
            Mode::reported("v86", "virtual-8086 mode", ready.then(probe::v86)),
        ],
        costs: costs(speed),
        support: probe.as_ref().map_or(HostSupport::NONE, support),
        compat16: probe.as_ref().and_then(|probe| probe.compat16.clone()),
        compat32: probe.map(|probe| probe.compat32),
    }
}

fn look_at_kvm() -> (Kvm, Option<Probe>) {
    let opened = kvm::open();
    let api_version = match &opened {
        Ok(kvm) => Some(kvm.get_api_version()),
        Err(SetupError::ApiVersion(version)) => Some(*version),
        Err(_) => None,
    };
    let probed = opened.and_then(|_| probe::start());
    let probed = probed.map(probe::Started::finish);
    let (status, error, probe) = match probed {
        Ok(probe) => (KvmStatus::Ready, None, Some(probe)),
        Err(error) => (status_of(&error), Some(error.to_string()), None),
    };
    let kvm = Kvm {
        status,
        api_version,
        error,
    };
    (kvm, probe)
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
pub(super) fn first_wrong(checks: &[Check]) -> Option<String> {
    checks.iter().find_map(|check| match &check.outcome {
        Outcome::Wrong(what) if check.needed == Needed::Always => {
            Some(format!("{}: {what}", check.name))
        }
        _ => None,
    })
}

/// What the engine can do after this probe.
pub(super) fn support(probe: &Probe) -> HostSupport {
    let Probe { compat32, compat16 } = probe;
    HostSupport {
        compat32: compat32.usable,
        compat16: compat16.as_ref().is_some_and(|probe| probe.usable),
        stack16: compat16.as_ref().is_some_and(|probe| probe.stack16),
        limits: compat32.limits,
        iopl: compat32.iopl,
        ..HostSupport::NONE
    }
}

/// Translated code against native code, percent of time: a middle value of what was measured on
/// programs of many kinds. Direct execution is measured on each host; this is not.
const TRANSLATED_PERCENT: u64 = 125;

/// What policies are told.
pub(super) fn costs(speed: Option<Speed>) -> EngineCosts {
    EngineCosts {
        round_trip_ns: speed.map(|speed| speed.round_trip_ns),
        direct_ps: speed.map(|speed| speed.instruction_ps),
        translated_ps: speed.map(|speed| speed.native_instruction_ps * TRANSLATED_PERCENT / 100),
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
                Verdict::Works if mode.used => "works",
                Verdict::Works => "works, not used",
                Verdict::Fails(_) => "fails, not used",
                Verdict::Unavailable => "no KVM",
                Verdict::NotProbed => "not probed, not used",
            };
            write!(f, "  {:<9} {:<40} {verdict}", mode.name, mode.description)?;
            match (mode.instruction_ps, &mode.verdict) {
                (Some(ps), _) => writeln!(f, ", {:.2} ns an instruction", ps as f64 / 1000.0)?,
                (None, Verdict::Fails(wrong)) if !mode.used => writeln!(f, ": {wrong}")?,
                (None, _) => writeln!(f)?,
            }
        }
        if let Some(probe) = &self.compat32 {
            write_compat32(f, probe)?;
        }
        if let Some(probe) = &self.compat16 {
            write_compat16(f, probe)?;
        }
        if let Some(ratio) = self.costs.speed_ratio() {
            let verdict = if !self.support.compat32 {
                "but for --direct kvm=force everything is translated"
            } else if ratio > 1.0 {
                "the policy adaptive uses it where that pays"
            } else {
                "the policy adaptive translates everything"
            };
            writeln!(
                f,
                "direct execution takes {:.2} times as long as translated code: {verdict}",
                1.0 / ratio
            )?;
        }
        Ok(())
    }
}

fn write_checks(f: &mut fmt::Formatter<'_>, checks: &[Check]) -> fmt::Result {
    for check in checks {
        let outcome = match &check.outcome {
            Outcome::Right => "right".to_owned(),
            Outcome::LeftToTranslator => "not run by KVM, left to the translator".to_owned(),
            Outcome::Wrong(what) => {
                let consequence = match check.needed {
                    Needed::Always => "; nothing runs directly but with --direct kvm=force",
                    Needed::Iopl => "; IOPL 1 and 2 do not run directly",
                    Needed::Limits => "; segments with a limit do not run directly",
                    Needed::Stack16 => "; 16-bit stacks do not run directly",
                };
                format!("WRONG: {what}{consequence}")
            }
        };
        writeln!(f, "  {:<46} {outcome}", check.name)?;
    }
    Ok(())
}

fn write_compat16(f: &mut fmt::Formatter<'_>, probe: &Compat16) -> fmt::Result {
    writeln!(f, "compat16")?;
    write_checks(f, &probe.checks)
}

fn write_compat32(f: &mut fmt::Formatter<'_>, probe: &Compat32) -> fmt::Result {
    writeln!(f, "compat32, {} ms of probing", probe.probe_us / 1000)?;
    write_checks(f, &probe.checks)?;
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

    fn probe(needed: Needed, outcome: Outcome) -> Probe {
        let compat32 = Compat32 {
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
        };
        Probe {
            compat32,
            compat16: None,
        }
    }

    #[test]
    fn only_what_is_always_needed_makes_a_mode_fail() {
        let wrong = || Outcome::Wrong("odd".into());
        let fatal = probe(Needed::Always, wrong());
        assert_eq!(
            first_wrong(&fatal.compat32.checks),
            Some("something: odd".into())
        );
        assert!(!support(&fatal).compat32);
        let limited = probe(Needed::Iopl, wrong());
        assert_eq!(first_wrong(&limited.compat32.checks), None);
        assert!(support(&limited).compat32);
        assert!(!support(&limited).iopl);
        let mut text = String::new();
        let mut report = host_report();
        report.compat32 = Some(limited.compat32);
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
        assert!(json["costs"].is_object() && json["support"]["limits"].is_boolean());
        assert!(
            modes
                .iter()
                .all(|mode| mode["verdict"]["result"].is_string())
        );
    }
}

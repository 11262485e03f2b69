//! The command line. Names and exit statuses are a contract with scripts.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};
use decision::{PolicyError, PolicySpec};

use super::control::ControlArgs;
use super::parsers::{CpuParser, OneCpu, PolicyParser};
use crate::boot_order::BootOrder;
use crate::disk::ImageSpec;
use crate::machine::DirectMode;
use crate::memory_size::MemorySize;
use crate::serial::SerialTarget;
use crate::trace::Format;
use translator::system::CpuModel;

/// Runs 16- and 32-bit PC guests, switching between direct execution and binary translation.
#[derive(Debug, Parser)]
#[command(name = "ringshift", version, about, long_about = LONG_ABOUT, after_help = STATUSES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const LONG_ABOUT: &str = "\
Runs 16- and 32-bit PC guests the way the first VMware Workstation did. Guest code that is safe on \
the bare processor runs there (direct execution, on KVM); everything else runs as translated code. \
A policy picks the engine each time the guest's state changes.

No privileges are needed. Without a usable /dev/kvm everything runs translated.";

const STATUSES: &str = "\
Exit status:
  0    done: the guest switched itself off, what was waited for came, or the script came to its end
  1    runtime error (a file, the host, a guest that cannot go on)
  2    wrong usage
  3    the guest died of a triple fault
  4    what was waited for did not come, or a step of the script failed
  124  --timeout was reached
  130  interrupted: a signal, or the escape key

Standard output carries only the guest's serial port, or what was asked for. Messages go to
standard error.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot the embedded demo guest and show how it ran.
    Demo(DemoArgs),
    /// Boot a disk image with firmware, or a Linux kernel.
    Run(Box<RunArgs>),
    /// Show what this host offers for direct execution.
    Host(HostArgs),
    /// Look at a trace that a run has left.
    Trace(TraceArgs),
}

/// Options that every run has.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Who picks the engine: adaptive (the default), vmware, ring, translate, random or file:PATH
    ///
    /// A name can have parameters, as in adaptive:hysteresis=2,window=4. '--policy help' explains
    /// all policies and their parameters.
    #[arg(long, value_name = "NAME[:PARAMETERS]", value_parser = PolicyParser)]
    pub policy: Option<PolicyArg>,

    /// Direct execution: auto, none, kvm (it must be there), kvm=force (even where the probe finds
    /// it wrong, and under the policy vmware if none is given)
    #[arg(
        long,
        value_name = "HOW",
        default_value = "auto",
        hide_default_value = true
    )]
    pub direct: DirectArg,

    /// Take the costs of the engines from this file and not from the probe: JSON, as
    /// 'ringshift host --json' prints it
    #[arg(long, value_name = "FILE")]
    pub host_costs: Option<PathBuf>,

    /// Record every switch between the engines in this file, for 'ringshift trace'
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// The processor that the guest is shown: 486, pentium, pentium3 or coreduo
    ///
    /// '--cpu help' lists them with what they have. They are QEMU's models of the same names, less
    /// what docs/processors.md names.
    #[arg(long, value_name = "MODEL", default_value_t, value_parser = CpuParser)]
    pub cpu: CpuModel,

    /// Write statistics of the run to this file, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub stats: Option<PathBuf>,

    /// What to log to standard error, as tracing filters
    ///
    /// Levels are error, warn, info, debug and trace, alone or for a target:
    /// 'info', 'warn,devices=debug', 'ringshift::switch=trace' (every switch of engine).
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub log: String,
}

/// Arguments of `demo`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ringshift demo
  ringshift demo --seed 42 --policy translate")]
pub struct DemoArgs {
    /// Seed of the guest's computations; the results are checked against the host's own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Amount of work of the guest's tasks, 1 being the usual one; for machines that are emulated
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, hide = true)]
    pub scale: f64,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  A floppy disk, with firmware; what is written to it is dropped at the end:
    ringshift run freedos.img,snapshot=on

  A kernel with its first messages on this terminal (without console= the kernel is silent):
    ringshift run --kernel vmlinuz --append 'console=ttyS0'

  A shell in an initial RAM disk; Ctrl-C goes to the guest, Ctrl-A x quits:
    ringshift run --kernel vmlinuz --initrd initrd.gz --append 'console=ttyS0 rdinit=/bin/sh'

  In a script: wait for a text, give up after a minute, keep the output and the statistics:
    ringshift run --kernel vmlinuz --initrd initrd.gz --append 'console=ttyS0' \\
        --serial file:boot.log --until 'login:' --timeout 60 --stats boot.json

  Every switch between the engines, with its reason:
    ringshift run --kernel vmlinuz --log ringshift::switch=trace

  Where the time goes, with the kernel's own names:
    ringshift run --kernel vmlinuz --append 'console=ttyS0 nokaslr' \\
        --profile boot.profile --symbols System.map")]
#[command(group(ArgGroup::new("what").required(true).multiple(true)))]
pub struct RunArgs {
    /// What to boot: a floppy disk, or a Linux kernel; with options as --floppy has them
    #[arg(value_name = "IMAGE", group = "what", conflicts_with = "kernel")]
    pub image: Option<ImageSpec>,

    /// The kernel, a bzImage (vmlinuz) for i386; it is started without firmware
    #[arg(long, value_name = "FILE", group = "what")]
    pub kernel: Option<PathBuf>,

    /// The firmware, SeaBIOS; found where distributions put it
    #[arg(long, value_name = "FILE", group = "what", conflicts_with = "kernel")]
    pub firmware: Option<PathBuf>,

    /// The disk in floppy drive A; given again, in drive B: a raw image of 360K, 720K, 1.2M or 1.44M
    ///
    /// With snapshot=on, what the guest writes is dropped at the end. With readonly=on, the disk is
    /// write-protected.
    #[arg(long, value_name = "FILE[,snapshot=on][,readonly=on]", group = "what")]
    pub floppy: Vec<ImageSpec>,

    /// The BIOS of the VGA, an option ROM; found where distributions put it
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    pub vga_bios: Option<PathBuf>,

    /// The order in which to try drives: letters of a (floppy), c (hard disk) and d (CD)
    #[arg(long, value_name = "ORDER", default_value_t, conflicts_with = "kernel")]
    pub boot: BootOrder,

    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line, such as 'console=ttyS0'
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub append: String,

    /// Memory of the guest, 2M to 3G: a number of MiB, or with a suffix K, M or G
    #[arg(short, long, value_name = "SIZE", default_value_t = MemorySize::DEFAULT)]
    pub memory: MemorySize,

    /// Number of processors: 1
    #[arg(long, value_name = "N", default_value = "1", value_parser = OneCpu, hide = true)]
    pub cpus: u32,

    /// Where the serial port leads: stdio, null or file:PATH; null where monitor or display have
    /// standard input
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "stdio",
        default_value_ifs([("monitor", "stdio", "null"), ("display", "terminal", "null")])
    )]
    pub serial: SerialTarget,

    /// End the run, with status 0, once the guest has written this text to its serial port
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub until: Option<String>,

    /// End the run, with status 124, after this time in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub timeout: Option<Duration>,

    /// Stop at the first instruction that is not translated
    #[arg(long)]
    pub strict: bool,

    /// Count the guest instructions executed as translated code; the statistics then have callouts
    /// per 1,000 instructions
    #[arg(long)]
    pub count_instructions: bool,

    /// Compare guest page tables, shadow tables and windows when the run ends
    #[arg(long)]
    pub audit: bool,

    /// End the run when the guest resets the machine
    #[arg(long)]
    pub no_reboot: bool,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub profile: ProfileArgs,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub control: ControlArgs,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Options that tell where a run spends its time.
#[derive(Debug, Clone, Default, Args)]
pub struct ProfileArgs {
    /// Write a profile to this file when the run ends: JSON if its name ends in .json, else text
    ///
    /// Samples of the vCPU's thread by unit of translated code and by instruction, and of what else it
    /// did; instructions carried out in Rust by kind and place; host faults by cause, place and
    /// page.
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,

    /// Name the kernel's addresses in the profile and the map from this System.map, or from what nm
    /// prints (a Linux kernel needs 'nokaslr' in --append)
    #[arg(long, value_name = "FILE")]
    pub symbols: Option<PathBuf>,

    /// When the run ends, write what is in the translation cache to this file, or to
    /// /tmp/perf-PID.map, where 'perf report' looks for the names of code made at run time
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub perf_map: Option<Option<PathBuf>>,
}

/// Arguments of `host`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ringshift host
  ringshift host --json")]
pub struct HostArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `trace`.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TraceCommand,
}

/// What to do with a trace.
#[derive(Debug, Clone, Subcommand)]
pub enum TraceCommand {
    /// Show what it comes to: time and work of each engine, switches by reason, hottest addresses.
    Summary(SummaryArgs),
    /// Write it in the format of another program.
    Export(ExportArgs),
}

/// Arguments of `trace summary`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ringshift run --kernel vmlinuz --policy vmware --trace boot.trace
  ringshift trace summary boot.trace")]
pub struct SummaryArgs {
    /// The trace, written by 'run --trace' or 'demo --trace'
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Name addresses from this System.map, or from what nm prints
    #[arg(long, value_name = "FILE")]
    pub symbols: Option<PathBuf>,

    /// How many of the hottest addresses to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
}

/// Arguments of `trace export`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ringshift trace export boot.trace --format perfetto -o boot.json   # for ui.perfetto.dev
  ringshift trace export boot.trace --format csv | head")]
pub struct ExportArgs {
    /// The trace, written by 'run --trace' or 'demo --trace'
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The format
    #[arg(long, value_enum)]
    pub format: Format,

    /// Where to write it, if not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// A policy as the command line names it.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicyArg {
    /// By name and parameters.
    Spec(PolicySpec),
    /// Rules in a file.
    File(PathBuf),
}

impl FromStr for PolicyArg {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text.strip_prefix("file:") {
            Some(path) => Ok(Self::File(path.into())),
            None => text.parse().map(Self::Spec),
        }
    }
}

/// `--direct`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectArg(pub DirectMode);

impl FromStr for DirectArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        Ok(Self(match text {
            "auto" => DirectMode::Auto,
            "none" => DirectMode::None,
            "kvm" => DirectMode::Kvm,
            "kvm=force" => DirectMode::Forced,
            _ => return Err("there are: auto, none, kvm, kvm=force"),
        }))
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a number of seconds above 0 is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn run_args(args: &[&str]) -> RunArgs {
        let line = ["ringshift", "run", "--kernel", "k"];
        match Cli::try_parse_from(line.iter().chain(args)) {
            Ok(Cli {
                command: Command::Run(args),
            }) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn refused(args: &[&str]) -> clap::Error {
        let error = Cli::try_parse_from(["ringshift"].iter().chain(args)).expect_err("refused");
        assert_eq!(error.exit_code(), 2, "{error}");
        error
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let args = run_args(&[]);
        assert_eq!(args.memory.bytes(), 128 << 20);
        assert_eq!(args.serial, SerialTarget::Stdio);
        assert_eq!((args.common.cpu, args.cpus), (CpuModel::CoreDuo, 1));
        assert_eq!(args.common.policy, None);
        assert_eq!(args.common.direct.0, DirectMode::Auto);
        assert_eq!((args.common.trace, args.common.host_costs), (None, None));
        assert_eq!(
            (
                args.initrd,
                args.until,
                args.timeout,
                args.strict,
                args.no_reboot
            ),
            (None, None, None, false, false)
        );
    }

    #[test]
    fn every_option_is_understood() {
        let args = run_args(&[
            "--initrd",
            "i",
            "--append",
            "console=ttyS0",
            "-m",
            "64",
            "--cpu",
            "pentium",
            "--cpus",
            "1",
            "--policy",
            "ring",
            "--serial",
            "file:out",
            "--stats",
            "s.json",
            "--until",
            "login:",
            "--timeout",
            "1.5",
            "--strict",
            "--no-reboot",
            "--log",
            "debug",
        ]);
        assert_eq!(args.memory.bytes(), 64 << 20);
        assert_eq!(args.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(args.serial, SerialTarget::File("out".into()));
        assert!(args.strict && args.no_reboot);
        assert_eq!(args.common.cpu, CpuModel::Pentium);
        assert_eq!(args.common.policy, Some(PolicyArg::Spec(PolicySpec::Ring)));
        assert_eq!(args.common.log, "debug");
    }

    #[test]
    fn wrong_usage_is_refused_with_status_2() {
        for args in [
            &["run"][..],
            &["run", "image", "--kernel", "k"],
            &["run", "--kernel", "k", "--firmware", "f"],
            &["run", "image", "--boot", "x"],
            &["run", "image", "--boot", "aa"],
            &["run", "image", "--boot", ""],
            &["run", "--kernel", "k", "--policy", "best"],
            &["run", "--kernel", "k", "--policy", "vmware:x=1"],
            &["run", "--kernel", "k", "--direct", "xen"],
            &["run", "--kernel", "k", "--frobnicate"],
            &["run", "--kernel", "k", "--cpu", "z80"],
            &["run", "--kernel", "k", "--cpus", "2"],
            &["run", "--kernel", "k", "--cpus", "two"],
            &["trace"],
            &["trace", "summary"],
            &["trace", "export", "t"],
            &["trace", "export", "t", "--format", "xml"],
            &["run", "--kernel", "k", "-m", "0"],
            &["run", "--kernel", "k", "-m", "1M"],
            &["run", "--kernel", "k", "-m", "1T"],
            &["run", "--kernel", "k", "--timeout", "-1"],
            &["run", "--kernel", "k", "--timeout", "soon"],
            &["run", "--kernel", "k", "--until", ""],
            &["run", "--kernel", "k", "--serial", "com1"],
            &["demo", "--seed", "x"],
            &["dance"],
            &[],
        ] {
            refused(args);
        }
        let error = refused(&["run", "--kernel", "k", "--policy", "best"]).to_string();
        assert!(
            error.contains("adaptive, vmware, ring, translate"),
            "{error}"
        );
        let error = refused(&["run", "--kernel", "k", "-m", "1T"]).to_string();
        assert!(error.contains("2M to 3G"), "{error}");
        let error = refused(&["run", "--kernel", "k", "--cpu", "z80"]).to_string();
        assert!(error.contains("486, pentium, pentium3, coreduo"), "{error}");
        let error = refused(&["run", "--kernel", "k", "--cpus", "2"]).to_string();
        assert!(error.contains("one processor"), "{error}");
    }

    #[test]
    fn the_table_of_processors_needs_no_kernel() {
        for command in ["run", "demo"] {
            let line = ["ringshift", command, "--cpu", "help"];
            let table = Cli::try_parse_from(line).expect_err("the table");
            assert_eq!(
                (table.kind(), table.exit_code()),
                (ErrorKind::DisplayHelp, 0)
            );
            for model in CpuModel::ALL {
                assert!(table.to_string().contains(model.name()), "{table}");
            }
        }
    }

    #[test]
    fn policies_and_ways_to_direct_execution_have_their_forms() {
        let policy = |text| run_args(&["--policy", text]).common.policy;
        assert_eq!(policy("file:a b"), Some(PolicyArg::File("a b".into())));
        let spec = "adaptive:retry=4".parse().expect("a policy");
        assert_eq!(policy("adaptive:retry=4"), Some(PolicyArg::Spec(spec)));
        for (text, mode) in [
            ("auto", DirectMode::Auto),
            ("none", DirectMode::None),
            ("kvm", DirectMode::Kvm),
            ("kvm=force", DirectMode::Forced),
        ] {
            assert_eq!(run_args(&["--direct", text]).common.direct.0, mode);
        }
        let line = ["ringshift", "run", "--policy", "help"];
        let help = Cli::try_parse_from(line).expect_err("the policies");
        assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
        assert!(help.to_string().contains("hysteresis"), "{help}");
    }

    #[test]
    fn help_is_no_error() {
        let error = Cli::try_parse_from(["ringshift", "run", "--help"]).expect_err("help");
        assert_eq!(error.kind(), ErrorKind::DisplayHelp);
        assert!(error.to_string().contains("--until 'login:'"));
    }
}

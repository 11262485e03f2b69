//! `ringshift run`: boots a disk image with firmware, or a Linux kernel.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::args::RunArgs;
use super::control::{Control, Display};
use super::profile::ProfileFiles;
use super::{
    CliError, StatsFile, Status, common_config, complain, describe, emergency, finish_trace,
    start_log, take_signals,
};
use devices::fdc::{self, DriveKind};

use crate::console::{EscapeKey, NOTICE, RawTerminal};
use crate::control::monitor::MonitorTarget;
use crate::disk::{FloppyImage, FloppySlot, ImageSpec};
use crate::firmware::{Firmware, find};
use crate::guest::{Guest, GuestError};
use crate::helper::{Input, Watch};
use crate::image_kind::{self, ImageKind};
use crate::machine::{Machine, MachineConfig, MachineError};
use crate::serial::{SerialTarget, Until};

/// Runs the subcommand.
pub(super) fn main(args: &RunArgs) -> Result<Status, CliError> {
    start_log(&args.common.log)?;
    let stats = StatsFile::create(args.common.stats.as_deref())?;
    let profile = ProfileFiles::create(&args.profile)?;
    let script = args.control.script()?;
    let stdio = args.serial == SerialTarget::Stdio;
    let monitor = args.control.monitor == Some(MonitorTarget::Stdio);
    let display = args.control.display == Display::Terminal;
    if [stdio, monitor, display]
        .into_iter()
        .filter(|wants| *wants)
        .count()
        > 1
    {
        return Err(CliError::TwoInputs);
    }
    let guest = guest(args)?;
    let floppies = floppies(args, &guest)?;
    let linux_guest = matches!(guest, Guest::Linux { .. });

    let signals = take_signals()?;
    let (input, terminal) = input(&args.serial)?;
    let config = MachineConfig {
        memory: args.memory,
        boot: args.boot.clone(),
        floppies,
        strict: args.strict,
        count_instructions: args.count_instructions,
        end_at_reset: args.no_reboot,
        serial: args.serial.clone(),
        until: args.until.as_deref().and_then(Until::new),
        watch: Watch {
            input,
            signals: Some(signals),
            timeout: args.timeout,
            emergency: Some(emergency(terminal.clone(), display)),
        },
        ..common_config(&args.common)?
    };
    let mut machine = Machine::new(config, guest).map_err(|error| set_up_error(args, error))?;

    let mut control = Control::start(&args.control, script, &machine)?;
    if let Some(hint) = console_hint(args).filter(|_| linux_guest) {
        complain(hint);
    }
    if let Some(note) = machine.note() {
        complain(note);
    }
    profile.start(&mut machine);
    let result = machine.run();
    // Messages belong on a terminal that is itself again.
    control.hide();
    drop(terminal);
    finish_trace(&mut machine, &describe(&result));
    stats.write(&machine.report(&describe(&result)))?;
    profile.write(&mut machine)?;
    tracing::info!("{}", describe(&result));
    control.finish(&mut machine)?;
    if args.audit {
        machine.audit().map_err(CliError::Audit)?;
        complain("the shadow tables agree with the guest's");
    }
    let waiting = args.until.is_some() || control.is_waiting();
    let status = control.verdict(Status::of(result?, waiting))?;
    if status == Status::NotMatched {
        complain("the guest ended before what was waited for came");
    }
    Ok(status)
}

/// What the options say is to be booted.
fn guest(args: &RunArgs) -> Result<Guest, CliError> {
    if let Some(path) = &args.kernel {
        return linux(args, path);
    }
    let Some(image) = &args.image else {
        return firmware(args);
    };
    match kind(&image.path)? {
        ImageKind::Kernel => linux(args, &image.path),
        ImageKind::Floppy => firmware(args),
        ImageKind::Unknown => Err(CliError::UnknownImage {
            path: image.path.clone(),
        }),
    }
}

/// The floppy drives with their disks. Firmware finds at least one drive.
fn floppies(args: &RunArgs, guest: &Guest) -> Result<[FloppySlot; fdc::DRIVES], CliError> {
    let firmware = guest.firmware().is_some();
    let booted = args.image.iter().filter(|_| firmware);
    let specs: Vec<&ImageSpec> = booted.chain(&args.floppy).collect();
    if specs.len() > fdc::DRIVES {
        return Err(CliError::TooManyFloppies(specs.len()));
    }
    let mut slots: [FloppySlot; fdc::DRIVES] = Default::default();
    if let Some(first) = slots.first_mut().filter(|_| firmware) {
        *first = FloppySlot::empty(DriveKind::F1440);
    }
    for (slot, spec) in slots.iter_mut().zip(specs) {
        *slot = FloppySlot::with_disk(FloppyImage::open(spec)?);
    }
    Ok(slots)
}

fn linux(args: &RunArgs, kernel: &Path) -> Result<Guest, CliError> {
    Ok(Guest::Linux {
        kernel: read("the kernel", kernel)?,
        initrd: args
            .initrd
            .as_deref()
            .map(|path| read("the initrd", path))
            .transpose()?,
        command_line: args.append.clone(),
    })
}

fn firmware(args: &RunArgs) -> Result<Guest, CliError> {
    let files = find(args.firmware.as_deref(), args.vga_bios.as_deref(), true)?;
    let bios = read("the firmware", &files.bios)?;
    let vga_bios = files
        .vga_bios
        .as_deref()
        .map(|path| read("the VGA BIOS", path))
        .transpose()?;
    let firmware = Firmware::new(bios, vga_bios).map_err(|source| CliError::Firmware {
        path: match &files.vga_bios {
            Some(path) if source.is_vga_bios() => path.clone(),
            _ => files.bios,
        },
        source,
    })?;
    Ok(Guest::Firmware(firmware))
}

/// What kind of image a file is.
fn kind(path: &Path) -> Result<ImageKind, CliError> {
    let look = || {
        let mut file = File::open(path)?;
        // A block device has no size of its own, but an end.
        let size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let mut head = Vec::new();
        file.take(image_kind::HEAD as u64).read_to_end(&mut head)?;
        Ok(image_kind::guess(&head, size))
    };
    look().map_err(|source| CliError::Read {
        what: "the image",
        path: path.to_owned(),
        source,
    })
}

/// Names the file that is to blame.
fn set_up_error(args: &RunArgs, error: MachineError) -> CliError {
    match (error, &args.initrd) {
        (MachineError::Guest(GuestError::Loader(source)), Some(initrd)) if source.is_initrd() => {
            CliError::Guest {
                path: initrd.clone(),
                source: source.into(),
            }
        }
        (MachineError::Guest(source), _) => match args
            .kernel
            .as_ref()
            .or(args.image.as_ref().map(|image| &image.path))
        {
            Some(path) => CliError::Guest {
                path: path.clone(),
                source,
            },
            None => CliError::Machine(MachineError::Guest(source)),
        },
        (error, _) => CliError::Machine(error),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|source| CliError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Linux is silent on a machine without a display unless it is told to use the serial port.
fn console_hint(args: &RunArgs) -> Option<&'static str> {
    let told = args
        .append
        .split_whitespace()
        .any(|word| word.starts_with("console=") || word.starts_with("earlyprintk="));
    (!told && args.serial != SerialTarget::Null).then_some(
        "hint: without 'console=ttyS0' in --append the kernel writes nothing to the serial port",
    )
}

/// The serial port's input, and the terminal in raw mode if it comes from one.
fn input(target: &SerialTarget) -> Result<(Option<Input>, Option<Arc<RawTerminal>>), CliError> {
    if *target != SerialTarget::Stdio {
        return Ok((None, None));
    }
    let failed = |source| CliError::Host {
        what: "use standard input",
        source,
    };
    let stdin = io::stdin();
    let Ok(source) = stdin.as_fd().try_clone_to_owned() else {
        // It is closed: a guest without a keyboard.
        return Ok((None, None));
    };
    let terminal = RawTerminal::enter(&stdin).map_err(failed)?.map(Arc::new);
    if terminal.is_some() && io::stderr().is_terminal() {
        complain(NOTICE);
    }
    let input = Input {
        source,
        escape: terminal.as_ref().map(|_| EscapeKey::default()),
    };
    Ok((Some(input), terminal))
}

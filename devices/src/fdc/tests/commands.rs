//! Commands that move heads and tell of states.

use super::*;

#[test]
fn seeks_take_time_and_end_with_an_interrupt() {
    let (mut b, _) = Bench::with_disk();
    assert_eq!(b.command(&[0x0f, 0x04, 40]), []);
    assert_eq!(
        b.msr(),
        Msr::RQM | Msr::from_bits_retain(1),
        "drive 0 seeks"
    );
    assert!(!b.int());
    // Another drive may seek meanwhile, in as many steps as it is told to.
    b.command(&[0x0f, 0x01, 2]);
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0x21, 2]);
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0x24, 40]);
    assert_eq!(b.msr(), Msr::RQM);
    assert_eq!(b.command(&[0x04, 0]), [0x28], "not over track 0");
    // SRT: the first nibble of SPECIFY, 16 less it in milliseconds.
    let start = b.now;
    b.seek(0, 50);
    assert_eq!(b.now.since(start), 10 * 3 * spec::STEP_NANOS);
}

#[test]
fn recalibrate_goes_to_track_0_in_79_steps_or_fails() {
    let (mut b, _) = Bench::with_disk();
    b.seek(0, 82);
    b.command(&[0x07, 0]);
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0x70, 0], "track 3 was reached");
    b.command(&[0x07, 0]);
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0x20, 0]);
    assert_eq!(b.command(&[0x04, 0]), [0x38]);
    // No drive, no track 0.
    b.command(&[0x07, 1]);
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0x71, 0]);
    assert_eq!(b.command(&[0x04, 1]), [0x29]);
}

#[test]
fn a_seek_counts_from_where_the_controller_thinks_the_head_is() {
    let (mut b, _) = Bench::with_disk();
    b.seek(0, 10);
    // A reset forgets the cylinder; the head stays.
    b.out(DSR, 0x80);
    b.wait_for_int();
    for _ in 0..4 {
        b.command(&[0x08]);
    }
    b.seek(0, 2);
    let result = b.run(&[0x4a, 0]);
    assert_eq!(result[3], 12, "10 + 2");
}

#[test]
fn relative_seeks_add_and_subtract() {
    let (mut b, _) = Bench::with_disk();
    b.command(&[0xcf, 0, 7]);
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0x20, 7]);
    b.command(&[0x8f, 0, 3]);
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0x20, 4]);
    assert_eq!(b.run(&[0x4a, 0])[3], 4);
}

#[test]
fn what_is_no_command_is_invalid() {
    let mut b = Bench::new([None; DRIVES]);
    for byte in [
        0x00, 0x01, 0x0b, 0x11, 0x15, 0x18, 0x1f, 0x43, 0x48, 0x27, 0xff, 0x8a,
    ] {
        b.out(FIFO, byte);
        assert!(
            b.msr().contains(Msr::RQM | Msr::DIO | Msr::CMD_BUSY),
            "{byte:#x}"
        );
        assert_eq!(b.result(), [0x80], "{byte:#x}");
        assert_eq!(b.msr(), Msr::RQM);
        assert!(!b.int());
    }
}

#[test]
fn version_and_the_registers_that_dumpreg_shows() {
    let (mut b, _) = Bench::with_disk();
    assert_eq!(b.command(&[0x10]), [0x90]);
    b.command(&[0x03, 0xaf, 0x1e]);
    b.command(&[0x13, 0, 0x58, 0x10]);
    b.command(&[0x12, 0x84 | 2]);
    b.seek(0, 6);
    b.command(&[0x0f, 1, 9]);
    b.wait_for_int();
    b.command(&[0x08]);
    b.run(&[0x46, 0, 0, 0, 1, 2, 17, 0x1b, 0xff]);
    let dump = b.command(&[0x0e]);
    assert_eq!(
        dump,
        [0, 9, 0, 0, 0xaf, 0x1e, 17, 0x06, 0x58, 0x10],
        "implied seek to 0"
    );
    // Without OW the drives' bits stay.
    b.command(&[0x12, 0x3c]);
    assert_eq!(b.command(&[0x0e])[7], 0x04);
}

#[test]
fn accesses_at_the_wrong_time_change_nothing() {
    let (mut b, _) = Bench::with_disk();
    assert_eq!(b.inb(FIFO), 0, "nothing to read");
    assert_eq!(b.command(&[0x46, 0, 0]), []);
    assert_eq!(b.inb(FIFO), 0, "in the middle of a command");
    assert_eq!(b.msr(), Msr::RQM | Msr::CMD_BUSY);
    b.dma = Some(SECTOR);
    b.command(&[0, 1, 2, 18, 0x1b, 0xff]);
    assert_eq!(b.msr(), Msr::CMD_BUSY, "execution");
    b.out(FIFO, 0x08);
    assert_eq!(b.inb(FIFO), 0);
    b.wait_for_int();
    b.out(FIFO, 0x08);
    assert_eq!(b.result().len(), 7, "the result is not disturbed");
    for port in [SRA, SRB] {
        b.out(port, 0xff);
    }
    assert_eq!(b.msr(), Msr::RQM);
}

#[test]
fn drive_status_tells_of_write_protection() {
    let mut b = Bench::new([Some(DriveKind::F1440), None]);
    assert_eq!(b.command(&[0x04, 4]), [0x7c], "an empty drive");
    b.fdc.change(0, Some(Box::new(Disk::new(format(1440)))));
    assert_eq!(b.command(&[0x04, 0]), [0x38]);
    b.fdc
        .change(0, Some(Box::new(Disk::new(format(1440)).protected())));
    assert_eq!(b.command(&[0x04, 0]), [0x78]);
}

#[test]
fn read_id_tells_what_is_under_the_head() {
    let (mut b, _) = Bench::with_disk();
    b.seek(0, 33);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let result = b.run(&[0x4a, 4]);
        assert_eq!((&result[..5], result[6]), (&[4, 0, 0, 33, 1][..], 2));
        seen.insert(result[5]);
        b.now = b.now.after(ROTATION_NANOS / 18 * 6);
    }
    assert_eq!(seen.len(), 18, "sooner or later each");
    // FM, the wrong rate, or no disk: no address mark in two turns.
    let start = b.now;
    assert_eq!(b.run(&[0x0a, 0])[..3], [0x40, 0x01, 0]);
    assert_eq!(b.now.since(start), 2 * ROTATION_NANOS);
    b.out(CCR, 2);
    assert_eq!(b.run(&[0x4a, 0])[..3], [0x40, 0x01, 0]);
    b.out(CCR, 0);
    b.fdc.change(0, None);
    assert_eq!(b.run(&[0x4a, 0])[..3], [0x40, 0x01, 0]);
    assert_eq!(b.run(&[0x4a, 3])[..3], [0x43, 0x01, 0], "no drive");
}

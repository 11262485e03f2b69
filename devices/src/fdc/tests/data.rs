//! Commands that read and write.

use super::*;

const READ: u8 = 0x46;
const WRITE: u8 = 0x45;

#[test]
fn a_sector_is_read_by_dma() {
    let (mut b, _) = Bench::with_disk();
    let result = b.run_dma(&[READ, 0, 0, 0, 5, 2, 18, 0x1b, 0xff], SECTOR);
    assert_eq!(result, [0, 0, 0, 0, 0, 6, 2]);
    assert_eq!(b.data, [4; SECTOR]);
    assert_eq!(b.msr(), Msr::RQM);
}

#[test]
fn many_sectors_over_both_sides() {
    let (mut b, _) = Bench::with_disk();
    b.seek(0, 3);
    // MT: from sector 17 of side 0 to sector 2 of side 1.
    let result = b.run_dma(&[0xc6, 0, 3, 0, 17, 2, 18, 0x1b, 0xff], 4 * SECTOR);
    assert_eq!(result, [4, 0, 0, 3, 1, 3, 2]);
    let first = 3 * 36 + 16;
    let expected: Vec<u8> = (first..first + 4).flat_map(|n| [n as u8; SECTOR]).collect();
    assert_eq!(b.data, expected);
}

#[test]
fn result_addresses_follow_the_table() {
    // Data sheet, table 5-6: MT, head, sector; C, H, R afterwards.
    for (first, head, sector, after) in [
        (0x46, 0, 17, [0, 0, 18]),
        (0x46, 0, 18, [1, 0, 1]),
        (0x46, 1, 18, [1, 1, 1]),
        (0xc6, 0, 17, [0, 0, 18]),
        (0xc6, 0, 18, [0, 1, 1]),
        (0xc6, 1, 17, [0, 1, 18]),
        (0xc6, 1, 18, [1, 0, 1]),
    ] {
        let (mut b, _) = Bench::with_disk();
        let command = [first, head << 2, 0, head, sector, 2, 18, 0x1b, 0xff];
        let result = b.run_dma(&command, SECTOR);
        assert_eq!(result[1..3], [0, 0]);
        assert_eq!(result[3..6], after, "{first:#x} {head} {sector}");
    }
}

#[test]
fn without_terminal_count_the_end_of_the_cylinder_is_an_error() {
    let (mut b, _) = Bench::with_disk();
    let result = b.run_dma(&[READ, 0, 0, 0, 17, 2, 18, 0x1b, 0xff], 100 * SECTOR);
    assert_eq!(result, [0x40, 0x80, 0, 1, 0, 1, 2]);
    assert_eq!(b.data.len(), 2 * SECTOR);
}

#[test]
fn terminal_count_within_a_sector() {
    let (mut b, disk) = Bench::with_disk();
    let result = b.run_dma(&[READ, 0, 0, 0, 1, 2, 18, 0x1b, 0xff], SECTOR + 10);
    assert_eq!(result, [0, 0, 0, 0, 0, 3, 2]);
    assert_eq!((b.data.len(), b.data[SECTOR]), (SECTOR + 10, 1));
    // The rest of a sector that is written is zero.
    b.data = vec![0xaa; 10];
    let result = b.run_dma(&[WRITE, 0, 0, 0, 7, 2, 18, 0x1b, 0xff], 10);
    assert_eq!(result, [0, 0, 0, 0, 0, 8, 2]);
    assert_eq!(
        disk.sector(6),
        [vec![0xaa; 10], vec![0; SECTOR - 10]].concat()
    );
}

#[test]
fn sectors_are_written_by_dma() {
    let (mut b, disk) = Bench::with_disk();
    b.seek(0, 79);
    b.data = [[0x55; SECTOR], [0x66; SECTOR]].concat();
    let result = b.run_dma(&[0xc5, 0, 79, 0, 18, 2, 18, 0x1b, 0xff], 2 * SECTOR);
    assert_eq!(result, [4, 0, 0, 79, 1, 2, 2]);
    let first = 79 * 36 + 17;
    assert_eq!(disk.sector(first), [0x55; SECTOR]);
    assert_eq!(disk.sector(first + 1), [0x66; SECTOR]);
    assert_eq!(disk.sector(first + 2), [(first + 2) as u8; SECTOR]);
}

#[test]
fn sectors_that_are_not_there() {
    let (mut b, disk) = Bench::with_disk();
    let read = |b: &mut Bench, head: u8, c, h, r, n| {
        let start = b.now;
        let result = b.run_dma(&[READ, head << 2, c, h, r, n, 40, 0x1b, 0xff], 9 * SECTOR);
        assert_eq!(result[3..], [c, h, r, n]);
        assert_eq!(b.now.since(start), 2 * ROTATION_NANOS, "two turns");
        (result[0], result[1], result[2])
    };
    let no_data = (0x40, St1::ND.bits(), 0);
    assert_eq!(read(&mut b, 0, 0, 0, 0, 2), no_data);
    assert_eq!(read(&mut b, 0, 0, 0, 19, 2), no_data);
    assert_eq!(read(&mut b, 0, 0, 1, 1, 2), no_data, "H is not the head");
    assert_eq!(read(&mut b, 0, 0, 0, 1, 3), no_data, "of 1024 bytes");
    let wrong_cylinder = (0x40, St1::ND.bits(), St2::WC.bits());
    assert_eq!(read(&mut b, 0, 1, 0, 1, 2), wrong_cylinder);
    b.out(CCR, 2);
    let no_mark = (0x40, St1::MA.bits(), 0);
    assert_eq!(read(&mut b, 0, 0, 0, 1, 2), no_mark, "at another rate");
    b.out(CCR, 0);
    b.seek(0, 81);
    assert_eq!(
        read(&mut b, 0, 81, 0, 1, 2),
        no_mark,
        "beyond the last track"
    );
    b.fdc.change(0, None);
    assert_eq!(read(&mut b, 0, 0, 0, 1, 2), no_mark, "no disk");
    let single = DiskFormat {
        heads: 1,
        ..format(1440)
    };
    b.fdc.change(
        0,
        Some(Box::new(Disk {
            format: single,
            ..disk
        })),
    );
    b.seek(0, 0);
    let no_mark = (0x44, St1::MA.bits(), 0);
    assert_eq!(read(&mut b, 1, 0, 1, 1, 2), no_mark, "one side only");
}

#[test]
fn a_write_protected_disk_refuses_writes() {
    let (mut b, disk) = Bench::with_disk();
    b.fdc.change(0, Some(Box::new(disk.clone().protected())));
    b.data = vec![0; SECTOR];
    let result = b.run_dma(&[WRITE, 0, 0, 0, 2, 2, 18, 0x1b, 0xff], SECTOR);
    assert_eq!(result, [0x40, St1::NW.bits(), 0, 0, 0, 2, 2]);
    let result = b.run_dma(&[0x4d, 0, 2, 18, 0x54, 0xf6], 72);
    assert_eq!(result[..3], [0x40, St1::NW.bits(), 0]);
    assert_eq!(disk.sector(1), [1; SECTOR]);
}

#[test]
fn what_the_host_cannot_do_is_a_data_error() {
    let (mut b, disk) = Bench::with_disk();
    let failing = Disk {
        fails_from: 3,
        ..disk.clone()
    };
    b.fdc.change(0, Some(Box::new(failing)));
    let result = b.run_dma(&[READ, 0, 0, 0, 3, 2, 18, 0x1b, 0xff], 4 * SECTOR);
    assert_eq!(result, [0x40, St1::DE.bits(), St2::DD.bits(), 0, 0, 4, 2]);
    b.data = vec![9; 4 * SECTOR];
    let result = b.run_dma(&[WRITE, 0, 0, 0, 3, 2, 18, 0x1b, 0xff], 4 * SECTOR);
    assert_eq!(result, [0x40, St1::DE.bits(), St2::DD.bits(), 0, 0, 4, 2]);
    assert_eq!(disk.sector(2), [9; SECTOR]);
    assert_eq!(disk.sector(3), [3; SECTOR]);
}

#[test]
fn a_dma_channel_that_stays_masked_is_an_overrun() {
    let (mut b, _) = Bench::with_disk();
    b.dma = None;
    let result = b.run(&[READ, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]);
    assert_eq!(result, [0x40, St1::OR.bits(), 0, 0, 0, 1, 2]);
}

#[test]
fn implied_seeks() {
    let (mut b, _) = Bench::with_disk();
    b.command(&[0x13, 0, 0x40, 0]);
    let result = b.run_dma(&[READ, 0, 20, 0, 1, 2, 18, 0x1b, 0xff], SECTOR);
    assert_eq!(result, [0x20, 0, 0, 20, 0, 2, 2]);
    assert_eq!(b.data, [(20 * 36) as u8; SECTOR]);
    assert_eq!(b.command(&[0x0e])[0], 20, "PCN");
}

#[test]
fn the_processor_moves_data_where_dma_is_off() {
    let (mut b, disk) = Bench::with_disk();
    b.command(&[0x03, 0xdf, 0x03]);
    // The FIFO is off: an interrupt for each byte.
    b.command(&[0x13, 0, 0x20, 0]);
    assert_eq!(b.command(&[READ, 0, 0, 0, 18, 2, 18, 0x1b, 0xff]), []);
    assert_eq!(b.msr(), Msr::CMD_BUSY | Msr::NON_DMA);
    b.wait_for_int();
    for _ in 0..SECTOR {
        let ready = Msr::RQM | Msr::DIO | Msr::NON_DMA | Msr::CMD_BUSY;
        assert_eq!(b.msr(), ready);
        assert!(
            b.int() && b.bank.take_changes().is_some(),
            "an edge for each"
        );
        assert_eq!(b.inb(FIFO), 17);
    }
    // There is no TC: the end of the track ends the command.
    b.wait_for_int();
    assert_eq!(b.result(), [0x40, 0x80, 0, 1, 0, 1, 2]);

    b.command(&[0x13, 0, 0x0f, 0]);
    b.command(&[WRITE, 0, 0, 0, 18, 2, 18, 0x1b, 0xff]);
    b.wait_for_int();
    b.bank.take_changes();
    let mut edges = 0;
    for n in 0..SECTOR {
        assert_eq!(b.msr(), Msr::RQM | Msr::NON_DMA | Msr::CMD_BUSY);
        b.out(FIFO, n as u8);
        edges += b
            .bank
            .take_changes()
            .map_or(0, |changes| changes.rose >> 6 & 1);
    }
    assert_eq!(
        edges, 32,
        "one for sixteen bytes, the last that of the result"
    );
    assert_eq!(b.result()[..3], [0x40, 0x80, 0]);
    let expected: Vec<u8> = (0..SECTOR).map(|n| n as u8).collect();
    assert_eq!(disk.sector(17), expected);
}

#[test]
fn a_track_is_formatted() {
    let (mut b, disk) = Bench::with_disk();
    b.seek(0, 1);
    // Interleaved, as the host pleases.
    b.data = (0..18).flat_map(|n| [1, 0, (n * 5 % 18) + 1, 2]).collect();
    let result = b.run_dma(&[0x4d, 0, 2, 18, 0x54, 0xf6], 72);
    assert_eq!(result[..3], [0, 0, 0]);
    for sector in 36..54 {
        assert_eq!(disk.sector(sector), [0xf6; SECTOR]);
    }
    assert_eq!(disk.sector(54), [54; SECTOR], "the other side");
    assert_eq!(disk.sector(35), [35; SECTOR]);
    assert_eq!(b.command(&[0x0e])[6], 18, "SC");
    // Sectors that the image has no place for get lost, and nothing else.
    b.data = (0..20).flat_map(|n| [1, 0, n + 10, 2]).collect();
    let result = b.run_dma(&[0x4d, 0, 2, 20, 0x54, 0x00], 80);
    assert_eq!(result[..3], [0, 0, 0]);
    assert_eq!(
        (disk.sector(44), disk.sector(45)),
        (vec![0xf6; SECTOR], vec![0; SECTOR])
    );
    assert_eq!(disk.sector(54), [54; SECTOR]);
}

#[test]
fn verify_reads_without_data() {
    let (mut b, disk) = Bench::with_disk();
    // EC = 0: to EOT.
    assert_eq!(
        b.run(&[0x56, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]),
        [0, 0, 0, 1, 0, 1, 2]
    );
    assert_eq!(
        b.run(&[0x56, 0, 0, 0, 1, 2, 19, 0x1b, 0xff])[..3],
        [0x40, St1::ND.bits(), 0]
    );
    // EC = 1: SC sectors.
    assert_eq!(
        b.run(&[0xd6, 0x80, 0, 0, 1, 2, 18, 0x1b, 20]),
        [4, 0, 0, 0, 1, 3, 2]
    );
    assert_eq!(
        b.run(&[0xd6, 0x80, 0, 0, 1, 2, 18, 0x1b, 37])[..3],
        [0x40, St1::EN.bits(), 0]
    );
    let failing = Disk {
        fails_from: 9,
        ..disk
    };
    b.fdc.change(0, Some(Box::new(failing)));
    let result = b.run(&[0x56, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]);
    assert_eq!(result, [0x40, St1::DE.bits(), St2::DD.bits(), 0, 0, 10, 2]);
}

#[test]
fn a_whole_track_is_read_in_its_order() {
    let (mut b, _) = Bench::with_disk();
    let result = b.run_dma(&[0x42, 0, 0, 0, 1, 2, 18, 0x1b, 0xff], 18 * SECTOR);
    assert_eq!(result[..3], [0, 0, 0]);
    assert_eq!((b.data.len(), b.data[SECTOR * 17]), (18 * SECTOR, 17));
    b.data.clear();
    // An address that does not fit does not stop it.
    let result = b.run_dma(&[0x42, 0, 9, 0, 4, 2, 2, 0x1b, 0xff], 18 * SECTOR);
    assert_eq!(result[..3], [0, St1::ND.bits(), 0]);
    assert_eq!(b.data, [[0; SECTOR], [1; SECTOR]].concat());
}

#[test]
fn deleted_sectors_are_told_apart() {
    let (mut b, disk) = Bench::with_disk();
    b.data = vec![0xdd; SECTOR];
    assert_eq!(
        b.run_dma(&[0x49, 0, 0, 0, 2, 2, 18, 0x1b, 0xff], SECTOR)[..3],
        [0, 0, 0]
    );
    assert_eq!(disk.sector(1), [0xdd; SECTOR]);
    // READ DATA stops behind it, and marks it.
    let result = b.run_dma(&[READ, 0, 0, 0, 1, 2, 18, 0x1b, 0xff], 3 * SECTOR);
    assert_eq!(result, [0, 0, St2::CM.bits(), 0, 0, 2, 2]);
    assert_eq!(b.data.len(), 2 * SECTOR);
    // With SK it goes on as if it were not there.
    b.data.clear();
    let result = b.run_dma(&[0x66, 0, 0, 0, 1, 2, 18, 0x1b, 0xff], 2 * SECTOR);
    assert_eq!(result, [0, 0, 0, 0, 0, 4, 2]);
    assert_eq!(b.data, [[0; SECTOR], [2; SECTOR]].concat());
    // READ DELETED DATA: the other way round.
    b.data.clear();
    let result = b.run_dma(&[0x6c, 0, 0, 0, 1, 2, 18, 0x1b, 0xff], SECTOR);
    assert_eq!(
        (&result[..3], b.data.as_slice()),
        (&[0, 0, 0][..], &[0xdd; SECTOR][..])
    );
    // A normal write makes it normal again.
    b.data = vec![1; SECTOR];
    b.run_dma(&[WRITE, 0, 0, 0, 2, 2, 18, 0x1b, 0xff], SECTOR);
    assert_eq!(
        b.run_dma(&[READ, 0, 0, 0, 2, 2, 18, 0x1b, 0xff], SECTOR)[2],
        0
    );
}

#[test]
fn each_format_is_read_at_its_rate() {
    for (kind, kib, rate, step) in [
        (DriveKind::F360, 360, 2, 1),
        (DriveKind::F1200, 360, 1, 2),
        (DriveKind::F1200, 1200, 0, 1),
        (DriveKind::F720, 720, 2, 1),
        (DriveKind::F1440, 720, 2, 1),
        (DriveKind::F1440, 1440, 0, 1),
        (DriveKind::F2880, 1440, 0, 1),
        (DriveKind::F2880, 2880, 3, 1),
    ] {
        let format = format(kib);
        assert!(kind.accepts(format));
        let mut b = Bench::new([Some(kind), None]);
        let disk = Disk::new(format);
        b.fdc.change(0, Some(Box::new(disk)));
        let cylinder = format.cylinders - 1;
        b.seek(0, cylinder * step);
        for select in 0..4 {
            b.out(CCR, select);
            b.data.clear();
            let last = format.sectors;
            let result = b.run_dma(&[READ, 4, cylinder, 1, last, 2, last, 0x1b, 0xff], SECTOR);
            if select == rate {
                assert_eq!(result[..3], [4, 0, 0], "{kind:?} {kib}");
                assert_eq!(b.data, [(format.total_sectors() - 1) as u8; SECTOR]);
            } else {
                assert_eq!(result[..2], [0x44, St1::MA.bits()], "{kind:?} {kib}");
            }
        }
    }
    assert!(!DriveKind::F720.accepts(format(1440)));
    assert!(!DriveKind::F1440.accepts(format(360)), "5.25\" into 3.5\"");
}

#[test]
fn both_drives_have_their_disks() {
    let mut b = Bench::new([Some(DriveKind::F1440), Some(DriveKind::F1440)]);
    let (first, second) = (Disk::new(format(1440)), Disk::new(format(1440)));
    second.bytes.lock().unwrap().fill(0xbb);
    b.fdc.change(0, Some(Box::new(first)));
    b.fdc.change(1, Some(Box::new(second)));
    b.out(DOR, 0x2d);
    assert_eq!(
        b.run_dma(&[READ, 1, 0, 0, 1, 2, 18, 0x1b, 0xff], SECTOR)[0],
        1
    );
    assert_eq!(b.data, [0xbb; SECTOR]);
    b.fdc.change(1, None);
    assert_eq!(
        b.run_dma(&[READ, 1, 0, 0, 1, 2, 18, 0x1b, 0xff], SECTOR)[0],
        0x41
    );
    b.data.clear();
    assert_eq!(
        b.run_dma(&[READ, 0, 0, 0, 2, 2, 18, 0x1b, 0xff], SECTOR)[0],
        0
    );
    assert_eq!(b.data, [1; SECTOR]);
}

#[test]
fn a_disk_that_ends_early_has_sectors_missing() {
    struct Short(Disk);
    impl Medium for Short {
        fn format(&self) -> DiskFormat {
            self.0.format
        }
        fn is_write_protected(&self) -> bool {
            false
        }
        fn read(&mut self, sector: u32, data: &mut [u8; SECTOR]) -> Result<(), MediumError> {
            match sector {
                0..4 => self.0.read(sector, data),
                _ => Err(MediumError::NoSector(sector)),
            }
        }
        fn write(&mut self, sector: u32, _: &[u8; SECTOR]) -> Result<(), MediumError> {
            Err(MediumError::NoSector(sector))
        }
    }
    let (mut b, disk) = Bench::with_disk();
    b.fdc.change(0, Some(Box::new(Short(disk))));
    let result = b.run_dma(&[READ, 0, 0, 0, 4, 2, 18, 0x1b, 0xff], 3 * SECTOR);
    assert_eq!(result, [0x40, St1::ND.bits(), 0, 0, 0, 5, 2]);
    assert_eq!(b.data, [3; SECTOR]);
}

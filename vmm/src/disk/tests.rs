use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;

use devices::fdc::{DriveKind, Medium, MediumError};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

/// A file of a test, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Scratch {
        let pid = std::process::id();
        let path = std::env::temp_dir().join(format!("ringshift-disk-{pid}-{name}"));
        fs::write(&path, bytes).expect("a scratch file");
        Scratch(path)
    }

    fn sized(name: &str, bytes: u64) -> Scratch {
        let scratch = Scratch::new(name, &[]);
        let file = OpenOptions::new().write(true).open(&scratch.0);
        file.and_then(|file| file.set_len(bytes)).expect("a size");
        scratch
    }

    fn spec(&self) -> ImageSpec {
        ImageSpec::new(&self.0)
    }

    fn snapshot(&self) -> ImageSpec {
        ImageSpec {
            snapshot: true,
            ..self.spec()
        }
    }

    fn read_only(&self) -> ImageSpec {
        ImageSpec {
            read_only: true,
            ..self.spec()
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const DISK: u64 = 1_474_560;

#[test]
fn specs_are_read_from_the_end() {
    let spec = |text: &str| text.parse::<ImageSpec>();
    assert_eq!(spec("a.img"), Ok(ImageSpec::new("a.img")));
    let both = spec("a,b.img,snapshot=on,readonly=off").expect("a comma in the name");
    assert_eq!(both.path, PathBuf::from("a,b.img"));
    assert!(both.snapshot && !both.read_only);
    assert_eq!(both.to_string(), "a,b.img,snapshot=on");
    assert!(spec("a.img,readonly=on").expect("read-only").read_only);
    for wrong in ["a.img,snapshot=yes", "a.img,format=raw"] {
        let error = spec(wrong).expect_err("no such option");
        assert!(error.to_string().contains("readonly=on"), "{error}");
    }
    assert!(matches!(spec(""), Err(ImageSpecError::NoFile(_))));
    assert!(matches!(
        spec(",snapshot=on"),
        Err(ImageSpecError::NoFile(_))
    ));
}

#[test]
fn writes_go_into_the_file() {
    let scratch = Scratch::sized("writes", DISK);
    let mut disk = FloppyImage::open(&scratch.spec()).expect("a disk");
    assert_eq!(disk.format().drive, DriveKind::F1440);
    disk.write(2879, &[7; SECTOR]).expect("the last sector");
    let mut back = [0; SECTOR];
    disk.read(2879, &mut back).expect("the last sector");
    assert_eq!(back, [7; SECTOR]);
    drop(disk);
    let bytes = fs::read(&scratch.0).expect("the file");
    assert_eq!((bytes.len() as u64, bytes[bytes.len() - 512]), (DISK, 7));
}

#[test]
fn a_snapshot_keeps_writes_to_itself() {
    let scratch = Scratch::sized("snapshot", DISK);
    let mut first = FloppyImage::open(&scratch.snapshot()).expect("a disk");
    let mut second = FloppyImage::open(&scratch.snapshot()).expect("readers share");
    assert!(!first.is_write_protected());
    first.write(5, &[1; SECTOR]).expect("kept in memory");
    let mut back = [9; SECTOR];
    first.read(5, &mut back).expect("from memory");
    assert_eq!(back, [1; SECTOR]);
    second.read(5, &mut back).expect("from the file");
    assert_eq!(back, [0; SECTOR]);
    drop(first);
    let bytes = fs::read(&scratch.0).expect("the file");
    assert!(bytes.iter().all(|&byte| byte == 0));
}

#[test]
fn a_read_only_image_is_write_protected() {
    let scratch = Scratch::sized("protected", DISK);
    let mut disk = FloppyImage::open(&scratch.read_only()).expect("a disk");
    assert!(disk.is_write_protected());
    let error = disk.write(0, &[1; SECTOR]).expect_err("protected");
    assert!(matches!(error, MediumError::Host(_)));
}

#[test]
fn a_locked_image_names_its_holder() {
    let scratch = Scratch::sized("locked", DISK);
    let writer = RawImage::open(&scratch.spec()).expect("the first");
    for spec in [scratch.spec(), scratch.snapshot(), scratch.read_only()] {
        let error = RawImage::open(&spec).expect_err("in use");
        let ImageError::Locked { holder, .. } = &error else {
            panic!("{error}");
        };
        let name = fs::read_to_string("/proc/self/comm").expect("own name");
        let (pid, name) = (std::process::id(), name.trim_end().to_owned());
        assert_eq!(*holder, Holder::Process { pid, name });
        let message = error.to_string();
        assert!(message.contains(&format!("process {pid}")), "{message}");
    }
    drop(writer);
    let reader = RawImage::open(&scratch.snapshot()).expect("free again");
    assert!(
        RawImage::open(&scratch.read_only()).is_ok(),
        "readers share"
    );
    let error = RawImage::open(&scratch.spec()).expect_err("a reader keeps a writer out");
    assert!(matches!(error, ImageError::Locked { .. }));
    drop(reader);
}

#[test]
fn images_that_are_none() {
    let missing = ImageSpec::new("/nonexistent/floppy.img");
    let error = FloppyImage::open(&missing).expect_err("missing");
    assert!(
        error.to_string().contains("/nonexistent/floppy.img"),
        "{error}"
    );
    for directory in ["/", "/dev/null"] {
        let error = RawImage::open(&ImageSpec::new(directory)).expect_err("no file");
        assert!(matches!(error, ImageError::NoFile { .. }), "{error}");
    }
    let open = |name: &str, bytes| FloppyImage::open(&Scratch::sized(name, bytes).spec());
    assert!(matches!(open("empty", 0), Err(FloppyError::Empty { .. })));
    let odd = open("odd", DISK - 1).expect_err("odd");
    assert!(odd.to_string().contains("multiple of 512"), "{odd}");
    let large = open("large", 3 << 20).expect_err("no floppy");
    assert!(matches!(large, FloppyError::TooLarge { .. }), "{large}");
}

#[test]
fn formats_are_told_by_size() {
    for (kib, drive, cylinders, heads, sectors) in [
        (160, DriveKind::F360, 40, 1, 8),
        (360, DriveKind::F360, 40, 2, 9),
        (720, DriveKind::F720, 80, 2, 9),
        (1200, DriveKind::F1200, 80, 2, 15),
        (1440, DriveKind::F1440, 80, 2, 18),
        (1680, DriveKind::F1440, 80, 2, 21),
        (2880, DriveKind::F2880, 80, 2, 36),
        // Begun, and not told to be more.
        (64, DriveKind::F1440, 80, 2, 18),
        (1441, DriveKind::F1440, 82, 2, 18),
        (2000, DriveKind::F2880, 80, 2, 36),
    ] {
        let scratch = Scratch::sized(&format!("size-{kib}"), kib * 1024);
        let disk = FloppyImage::open(&scratch.spec()).expect("a disk");
        let format = disk.format();
        assert_eq!(format.drive, drive, "{kib}");
        let geometry = (format.cylinders, format.heads, format.sectors);
        assert_eq!(geometry, (cylinders, heads, sectors), "{kib}");
    }
}

/// The boot sector of a FAT file system with so many sectors.
fn boot_sector(sectors: u16) -> [u8; SECTOR] {
    let mut boot = [0; SECTOR];
    for (at, bytes) in [
        (0x00, &[0xeb, 0x3c, 0x90][..]),
        (0x0b, &[0x00, 0x02]),
        (0x10, &[2]),
        (0x13, &sectors.to_le_bytes()),
        (0x15, &[0xf0]),
        (0x18, &[18, 0, 2, 0]),
        (0x1fe, &[0x55, 0xaa]),
    ] {
        boot[at..at + bytes.len()].copy_from_slice(bytes);
    }
    boot
}

#[test]
fn truncated_images_are_found_out() {
    let scratch = Scratch::new("truncated", &boot_sector(2880));
    for sectors in [1, 1000, 1440, 2879] {
        let file = OpenOptions::new().write(true).open(&scratch.0);
        file.and_then(|file| file.set_len(sectors * 512))
            .expect("a size");
        let error = FloppyImage::open(&scratch.spec()).expect_err("truncated");
        assert!(error.to_string().contains("1474560"), "{error}");
    }
    let file = OpenOptions::new().write(true).open(&scratch.0);
    file.and_then(|file| file.set_len(DISK)).expect("a size");
    FloppyImage::open(&scratch.spec()).expect("complete");
}

#[test]
fn sectors_beyond_a_short_image_are_not_there() {
    let scratch = Scratch::sized("short", 10 * 512);
    let mut disk = FloppyImage::open(&scratch.spec()).expect("a disk");
    let mut data = [0; SECTOR];
    assert!(disk.read(9, &mut data).is_ok());
    assert!(matches!(
        disk.read(10, &mut data),
        Err(MediumError::NoSector(10))
    ));
    assert!(matches!(
        disk.write(10, &data),
        Err(MediumError::NoSector(10))
    ));
    let size = fs::metadata(&scratch.0).expect("the file").len();
    assert_eq!(size, 5120, "it does not grow");
}

#[test]
fn an_image_that_shrinks_is_an_error_and_not_the_end() {
    let scratch = Scratch::sized("shrinks", DISK);
    let mut disk = FloppyImage::open(&scratch.spec()).expect("a disk");
    let file = OpenOptions::new().write(true).open(&scratch.0);
    file.and_then(|file| file.set_len(512)).expect("a size");
    let error = disk.read(1, &mut [0; SECTOR]).expect_err("gone");
    assert!(matches!(error, MediumError::Host(_)));
}

#[test]
fn a_host_that_cannot_write_is_an_error() {
    // A sealed memory file refuses writes as a full disk does: not when it is opened, but later.
    let memory = memfd_create(c"sealed", MFdFlags::MFD_ALLOW_SEALING).expect("a memory file");
    let mut file = File::from(memory);
    file.write_all(&[3; 1440 * 1024]).expect("contents");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).expect("a seal");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut disk = FloppyImage::open(&ImageSpec::new(path)).expect("a disk");
    let error = disk.write(0, &[1; SECTOR]).expect_err("sealed");
    assert!(matches!(error, MediumError::Host(_)));
    let mut data = [0; SECTOR];
    disk.read(0, &mut data).expect("reads go on");
    assert_eq!(data, [3; SECTOR]);
}

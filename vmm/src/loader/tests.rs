//! Synthetic kernels, whole and damaged.

use super::*;

const SETUP_SECTS: usize = 3;
const CODE_SIZE: usize = 0x2345;

/// A bzImage with the header of a Linux 6.1 for i386 and a recognizable body.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; (SETUP_SECTS + 1) * 512];
    file[field::SETUP_SECTS] = SETUP_SECTS as u8;
    let paragraphs = CODE_SIZE.div_ceil(16) as u32;
    put(&mut file, field::SYSSIZE, &paragraphs.to_le_bytes());
    put(&mut file, field::BOOT_FLAG, &0xAA55u16.to_le_bytes());
    put(&mut file, 0x200, &[0xEB, 0x6A]);
    put(&mut file, field::MAGIC, b"HdrS");
    put(&mut file, field::VERSION, &0x20Fu16.to_le_bytes());
    put(&mut file, field::LOADFLAGS, &[1]);
    put(&mut file, field::CODE32_START, &0x10_0000u32.to_le_bytes());
    put(
        &mut file,
        field::INITRD_ADDR_MAX,
        &0x37FF_FFFFu32.to_le_bytes(),
    );
    put(&mut file, field::CMDLINE_SIZE, &2047u32.to_le_bytes());
    put(&mut file, field::PREF_ADDRESS, &0x100_0000u64.to_le_bytes());
    put(&mut file, field::INIT_SIZE, &0x80_0000u32.to_le_bytes());
    file.extend((0..CODE_SIZE).map(|i| (i % 251) as u8));
    file
}

fn image(kernel: &[u8]) -> LinuxImage<'_> {
    LinuxImage {
        kernel,
        initrd: None,
        command_line: "console=ttyS0",
        rsdp: Some(0xE_0000),
    }
}

const MEMORY: u64 = 64 << 20;

fn piece<'p>(plan: &'p Plan<'_>, address: u32) -> &'p [u8] {
    &plan
        .pieces
        .iter()
        .find(|piece| piece.address == address)
        .unwrap_or_else(|| panic!("nothing at {address:#x}"))
        .bytes
}

fn u32_in(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("4 bytes"))
}

#[test]
fn a_kernel_is_laid_out_by_the_protocol() {
    let kernel = kernel();
    let initrd = vec![0x5A; 10_000];
    let image = LinuxImage {
        initrd: Some(&initrd),
        ..image(&kernel)
    };
    let plan = plan(&image, MEMORY).expect("a good image");

    assert_eq!(piece(&plan, 0x10_0000), &kernel[(SETUP_SECTS + 1) * 512..]);
    let params = piece(&plan, plan.boot_params);
    assert_eq!(&params[field::MAGIC..field::MAGIC + 4], b"HdrS");
    assert_eq!(params[field::TYPE_OF_LOADER], 0xFF);
    let command_line = u32_in(params, field::CMD_LINE_PTR);
    assert_eq!(piece(&plan, command_line), b"console=ttyS0\0");
    let initrd_at = u32_in(params, field::RAMDISK_IMAGE);
    assert_eq!(u32_in(params, field::RAMDISK_SIZE), 10_000);
    assert_eq!(piece(&plan, initrd_at), initrd);
    assert_eq!(initrd_at % 4096, 0);
    assert_eq!(
        u64::from(initrd_at) + 10_000 + 4096 - 10_000 % 4096,
        MEMORY,
        "as high as it goes"
    );
    assert_eq!(u32_in(params, 0x70), 0xE_0000, "ACPI root pointer");
    assert_eq!(params[0x1E8], 4, "entries of the memory map");
    // The header's copy ends where the jump at 200h says; behind it the page is the loader's.
    assert_eq!(u32_in(params, field::INIT_SIZE), 0x80_0000);
}

#[test]
fn the_vcpu_starts_as_the_protocol_asks() {
    let kernel = kernel();
    let plan = plan(&image(&kernel), MEMORY).expect("a good image");
    let mut state = CpuState::reset(0x653);
    plan.start(&mut state);
    assert_eq!(state.eip, 0x10_0000);
    assert_eq!(state.gpr[reg::ESI], plan.boot_params);
    assert_eq!(
        (
            state.gpr[reg::EBX],
            state.gpr[reg::EBP],
            state.gpr[reg::EDI]
        ),
        (0, 0, 0)
    );
    assert!(state.protected_mode() && state.cr0 & cr0::PG == 0);
    assert!(!state.interrupt_flag());
    assert_eq!(state.seg[seg::CS].selector, 0x10);
    for index in [seg::DS, seg::ES, seg::SS] {
        assert_eq!(state.seg[index].selector, 0x18);
        assert!(state.seg[index].is_flat());
    }
    // The descriptors in memory agree with the hidden parts.
    let gdt = piece(&plan, state.gdtr.base);
    assert_eq!(usize::from(state.gdtr.limit) + 1, gdt.len());
    let code = u64::from_le_bytes(gdt[0x10..0x18].try_into().expect("8 bytes"));
    assert_eq!((code >> 40) & 0xF0FF, 0xC09B);
    let rights = u64::from(state.seg[seg::CS].rights.bits());
    assert_eq!(rights, (code >> 40) & 0xF0FF);
}

#[test]
fn no_two_pieces_overlap() {
    let kernel = kernel();
    let initrd = vec![1; 5 << 20];
    let image = LinuxImage {
        initrd: Some(&initrd),
        ..image(&kernel)
    };
    let mut plan = plan(&image, 32 << 20).expect("it fits");
    plan.pieces.sort_by_key(|piece| piece.address);
    for pair in plan.pieces.windows(2) {
        assert!(pair[0].address as usize + pair[0].bytes.len() <= pair[1].address as usize);
    }
}

#[test]
fn every_cut_of_a_kernel_is_an_error_and_no_panic() {
    let kernel = kernel();
    for length in 0..kernel.len() - 15 {
        let error = plan(&image(&kernel[..length]), MEMORY).expect_err("cut short");
        match length {
            0 => assert_eq!(error, LoaderError::Empty),
            _ => assert!(
                matches!(error, LoaderError::Truncated { have, need } if have == length as u64 && need > have),
                "{length}: {error}"
            ),
        }
    }
}

#[test]
fn other_files_are_named() {
    let mut wrong = vec![0; 4096];
    assert_eq!(
        plan(&image(&wrong), MEMORY),
        Err(LoaderError::NotAKernel),
        "zeros"
    );
    wrong[..4].copy_from_slice(b"\x7FELF");
    let error = plan(&image(&wrong), MEMORY).expect_err("ELF");
    assert!(error.to_string().contains("ELF"), "{error}");
    let error = plan(&image(b"070701000"), MEMORY).expect_err("cpio");
    assert!(error.to_string().contains("--initrd"), "{error}");
}

#[test]
fn headers_that_cannot_be_served_are_refused() {
    let with = |offset: usize, bytes: &[u8]| {
        let mut file = kernel();
        put(&mut file, offset, bytes);
        plan(&image(&file), MEMORY).expect_err("damaged header")
    };
    assert_eq!(
        with(field::VERSION, &[1, 2]),
        LoaderError::OldProtocol { version: 0x201 }
    );
    assert_eq!(with(field::LOADFLAGS, &[0]), LoaderError::ZImage);
    assert_eq!(with(field::XLOADFLAGS, &[1, 0]), LoaderError::Kernel64);
    assert_eq!(
        with(field::CODE32_START, &[0, 0x10, 0, 0]),
        LoaderError::BadLoadAddress { address: 0x1000 }
    );
    assert!(matches!(
        with(field::SYSSIZE, &[0xFF; 4]),
        LoaderError::Truncated { .. }
    ));
    assert!(matches!(
        with(field::CODE32_START, &[0, 0, 0, 0xFF]),
        LoaderError::KernelDoesNotFit { .. }
    ));
    assert!(matches!(
        with(field::PREF_ADDRESS, &[0xFF; 8]),
        LoaderError::KernelDoesNotFit { .. }
    ));
}

#[test]
fn what_does_not_fit_is_refused() {
    let kernel = kernel();
    assert_eq!(
        plan(&image(&kernel), 16 << 20),
        Err(LoaderError::KernelDoesNotFit {
            need: 0x180_0000,
            have: 16 << 20
        })
    );
    let initrd = vec![0; 9 << 20];
    let big = LinuxImage {
        initrd: Some(&initrd),
        ..image(&kernel)
    };
    assert_eq!(
        plan(&big, 32 << 20),
        Err(LoaderError::InitrdDoesNotFit {
            size: 9 << 20,
            lowest: 0x180_0000,
            highest: 32 << 20
        })
    );
    let empty = LinuxImage {
        initrd: Some(&[]),
        ..image(&kernel)
    };
    assert_eq!(plan(&empty, MEMORY), Err(LoaderError::EmptyInitrd));
}

#[test]
fn the_command_line_has_the_kernels_limit() {
    let kernel = kernel();
    let longest = "x".repeat(2047);
    let good = LinuxImage {
        command_line: &longest,
        ..image(&kernel)
    };
    assert!(plan(&good, MEMORY).is_ok());
    let longer = "x".repeat(2048);
    let bad = LinuxImage {
        command_line: &longer,
        ..image(&kernel)
    };
    assert_eq!(
        plan(&bad, MEMORY),
        Err(LoaderError::CommandLineTooLong {
            have: 2048,
            most: 2047
        })
    );
}

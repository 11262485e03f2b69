//! What the operations of the shadow MMU cost on this host: `cargo run --release -p shadow-mmu --example costs`.

use std::hint::black_box;
use std::time::Instant;

use shadow_mmu::*;

const ROOTS: [u32; 2] = [0x10_0000, 0x20_0000];
const USER: u32 = 0x0804_8000;
const KERNEL: u32 = 0xc000_0000;

fn time(what: &str, n: u32, mut f: impl FnMut(u32)) {
    let start = Instant::now();
    for i in 0..n {
        f(i);
    }
    println!(
        "{what:45} {:9.1} ns",
        start.elapsed().as_nanos() as f64 / f64::from(n)
    );
}

fn put(m: &mut Mmu, at: u32, value: u32) {
    m.write_phys(u64::from(at), &value.to_le_bytes())
        .expect("RAM");
}

fn main() -> Result<(), MmuError> {
    let mut m = Mmu::new(MmuConfig {
        ram_bytes: 256 << 20,
        fault_around: 1,
        ..MmuConfig::default()
    })?;
    for root in ROOTS {
        put(&mut m, root + (USER >> 22) * 4, (root + 0x1000) | 7);
        for page in 0..1024 {
            // Scattered frames, as a running system has them.
            put(
                &mut m,
                root + 0x1000 + page * 4,
                (0x100_0000 + (page * 7919 % 8192) * 0x1000) | 0x67,
            );
        }
        for i in 0..32 {
            put(&mut m, root + ((KERNEL >> 22) + i) * 4, i << 22 | 0xe3);
        }
    }
    let regs = |cr3| PagingRegs {
        cr0: 0x8001_0001,
        cr3,
        cr4: 0x10,
        efer: 0,
    };
    m.set_paging(regs(ROOTS[0]));
    let read = Access::read(Privilege::Supervisor);
    let user_write = Access::write(Privilege::User);
    m.view(Privilege::User);
    time("hidden fault, 4 KiB page", 1000, |i| {
        black_box(m.handle_fault((USER & !0x3f_ffff) + i * 0x1000, user_write));
    });
    time("hidden fault on what is mapped already", 100_000, |i| {
        black_box(m.handle_fault((USER & !0x3f_ffff) + (i & 511) * 0x1000, user_write));
    });
    time("hidden fault, 128 MiB of large pages", 1, |_| {
        black_box(m.handle_fault(KERNEL, read));
    });
    time("true fault", 100_000, |_| {
        black_box(m.handle_fault(0x4000_0000, read));
    });
    time("resolve, TLB hit", 10_000_000, |i| {
        black_box(m.resolve(KERNEL + (i & 0xff_ffff), read).ok());
    });
    time("plan, TLB hit", 10_000_000, |i| {
        black_box(m.plan(KERNEL + (i & 0xff_fff0), 4, read).ok());
    });
    time("probe (a walk)", 1_000_000, |i| {
        black_box(m.probe(KERNEL + (i << 12 & 0xff_ffff), read).ok());
    });
    m.load_cr3(ROOTS[1]);
    m.handle_fault(USER, user_write);
    time("load of a cached CR3, both views", 1_000_000, |i| {
        m.load_cr3(ROOTS[(i & 1) as usize]);
        black_box((m.view(Privilege::Supervisor), m.view(Privilege::User)));
    });
    m.view(Privilege::Supervisor);
    time("write of an untraced word", 10_000_000, |i| {
        put(&mut m, 0x30_0000 + (i & 0xfff) * 4, i)
    });
    time("write of a table entry, absent before", 1000, |i| {
        put(&mut m, ROOTS[1] + 0x1000 + (i & 511) * 4, 0);
    });
    let fork = |m: &mut Mmu, i: u32| {
        let at = ROOTS[1] + 0x1000 + i * 4;
        put(m, at, (0x100_0000 + (i * 7919 % 8192) * 0x1000) | 0x65);
    };
    for i in 0..512 {
        put(
            &mut m,
            ROOTS[1] + 0x1000 + i * 4,
            (0x100_0000 + (i * 7919 % 8192) * 0x1000) | 0x67,
        );
        m.handle_fault((USER & !0x3f_ffff) + i * 0x1000, user_write);
    }
    m.view(Privilege::User);
    m.view(Privilege::Supervisor);
    time("write-protection of a mapped page's entry", 512, |i| {
        fork(&mut m, i)
    });
    time("  and the call that follows up, for 512 pages", 1, |_| {
        black_box(m.view(Privilege::User));
    });
    println!("{:#?}", m.snapshot());
    Ok(())
}

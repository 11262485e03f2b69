//! The world with the probe's small guest in it. Without KVM each test says so and does nothing.

use super::*;
use crate::direct::probe::lab::{CODE, DATA, Lab, Rights};

/// KVM with emulation failures reported instead of turned into #UD (`KVM_CAP_EXIT_ON_
/// EMULATION_FAILURE`), where the host can do that.
fn strict_lab() -> Option<Lab> {
    let lab = Lab::new()
        .inspect_err(|error| eprintln!("SKIPPED: {error}"))
        .ok()?;
    let cap = kvm_bindings::kvm_enable_cap {
        cap: kvm_bindings::KVM_CAP_EXIT_ON_EMULATION_FAILURE,
        args: [1, 0, 0, 0],
        ..Default::default()
    };
    if let Err(error) = lab.world.vm.enable_cap(&cap) {
        eprintln!("SKIPPED: no KVM_CAP_EXIT_ON_EMULATION_FAILURE: {error}");
        return None;
    }
    Some(lab)
}

#[test]
fn the_state_survives_an_emulation_failure() {
    const NO_MEMORY: u64 = 0x8_0000;
    let Some(mut lab) = strict_lab() else { return };
    lab.map().unwrap();
    lab.map_page(DATA, NO_MEMORY, Rights::Execute).unwrap();
    // stc; inc ebx; jmp DATA
    let mut code = vec![0xF9, 0x43, 0xE9];
    code.extend(DATA.wrapping_sub(CODE + 7).to_le_bytes());
    lab.program(&code);
    let mut context = Lab::start();
    let leave = lab.run(&mut context).unwrap();
    if matches!(leave, Leave::Exception { vector: 6, .. }) {
        eprintln!("SKIPPED: this KVM makes it #UD all the same");
        return;
    }
    assert_eq!(leave, Leave::GaveUp);
    let mut wanted = Lab::start();
    (wanted.eip, wanted.gpr[3]) = (DATA, 1);
    context.eflags &= !(1 << 16); // RF is the run loop's to clear
    wanted.eflags |= 1;
    assert_eq!(context, wanted);
    // And the vCPU is good for more.
    for _ in 0..2 {
        lab.program(INC);
        let mut context = Lab::start();
        let leave = lab.run(&mut context).unwrap();
        assert!(matches!(leave, Leave::Exception { vector: 6, .. }));
        assert_eq!((context.eip, context.gpr[3]), (CODE + 1, 1));
    }
}

#[test]
fn a_descriptor_that_is_not_present_is_refused() {
    let Ok(mut lab) = Lab::new() else {
        eprintln!("SKIPPED: no KVM");
        return;
    };
    lab.map().unwrap();
    lab.program(&[0x0F, 0x0B]);
    let broken: [fn(&mut Context); 3] = [
        |context| context.data[1] = 0x4B,
        |context| context.cs = 0x4B,
        |context| context.ss = 0x4B,
    ];
    for breaking in broken {
        let mut context = Lab::start();
        breaking(&mut context);
        let before = context;
        let leave = lab.run(&mut context).unwrap();
        assert!(matches!(leave, Leave::Refused { .. }), "{leave:?}");
        assert_eq!(context, before);
        let leave = lab.run(&mut Lab::start()).unwrap();
        assert!(matches!(leave, Leave::Exception { vector: 6, .. }));
    }
}

#[test]
fn more_edits_than_the_queue_holds() {
    let Ok(mut lab) = Lab::new() else {
        eprintln!("SKIPPED: no KVM");
        return;
    };
    lab.map().unwrap();
    lab.program(&[0x0F, 0x0B]);
    let far = TABLE_POOL_BASE + 0x10_0000;
    for number in 0..EDIT_CAPACITY as u64 * 2 + 10 {
        lab.world.edit(far + number * 8, number << 12).unwrap();
    }
    lab.run(&mut Lab::start()).unwrap();
    let at = |number: u64| far - MONITOR_GPA + number * 8;
    for number in 0..EDIT_CAPACITY as u64 * 2 + 10 {
        assert_eq!(lab.world.monitor.read::<u64>(at(number)), number << 12);
    }
    assert_eq!(
        lab.world.edit(MONITOR_GPA, 0),
        Err(WorldError::Edit(MONITOR_GPA))
    );
    assert!(lab.world.edit(far + 4, 0).is_err());
}

/// `inc ebx; ud2`
const INC: &[u8] = &[0x43, 0x0F, 0x0B];

/// A lab that has run [`INC`] and can run it again; `None` without KVM.
fn warm_lab() -> Option<Lab> {
    let Ok(mut lab) = Lab::new() else {
        eprintln!("SKIPPED: no KVM");
        return None;
    };
    lab.map().unwrap();
    lab.program(INC);
    lab.run(&mut Lab::start()).unwrap();
    Some(lab)
}

#[test]
fn a_fault_in_the_monitor_is_survived() {
    let Some(mut lab) = warm_lab() else {
        return;
    };
    // A store of the monitor to where it has no memory, with a good one before it.
    let outside = MONITOR_GPA + MONITOR_BYTES + POOL_BYTES;
    let good = TABLE_POOL_BASE + 0x10_0000;
    lab.world.edit(good, 0x1234).unwrap();
    lab.world.queue(outside, 0).unwrap();
    let mut context = Lab::start();
    let error = lab.run(&mut context).unwrap_err();
    let cr2 = outside - MONITOR_GPA + MONITOR_LINEAR;
    assert!(
        matches!(error, WorldError::Monitor { vector: 14, cr2: found, .. } if found == cr2),
        "{error}"
    );
    // Guest code has not run.
    assert!(lab.world.rescue(&error, &mut context));
    assert_eq!(context, Lab::start());
    // Nothing that was queued is forgotten, and the vCPU is good for more.
    assert_eq!(lab.world.queued, 2);
    lab.world.queued = 1;
    for _ in 0..2 {
        lab.world.recover().unwrap();
        let mut context = Lab::start();
        let leave = lab.run(&mut context).unwrap();
        assert!(matches!(leave, Leave::Exception { vector: 6, .. }));
        assert_eq!((context.eip, context.gpr[3]), (CODE + 1, 1));
        assert_eq!(lab.world.queued, 0);
        assert_eq!(lab.world.monitor.read::<u64>(good - MONITOR_GPA), 0x1234);
    }
}

/// Runs a program with the monitor spinning at an offset of its code, until the world has enough of
/// it; `None` without KVM.
fn spin_at(offset: u64, program: &[u8]) -> Option<(Lab, Context, WorldError)> {
    use crate::engine::Kick as _;
    let mut lab = warm_lab()?;
    lab.program(program);
    let at = super::super::layout::CODE + offset;
    let before: u16 = lab.world.monitor.read(at);
    lab.world.monitor.write(at, 0xFEEB_u16); // jmp $
    let kicker = lab.world.kicker().clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        kicker.kick();
    });
    let mut context = Lab::start();
    let error = lab.run(&mut context).unwrap_err();
    thread.join().unwrap();
    lab.world.monitor.write(at, before);
    Some((lab, context, error))
}

/// As if the host's processor lost the monitor's memory: each exception leads to the next, and no
/// interrupt gets in between.
#[test]
fn a_monitor_that_spins_on_the_way_in_is_noticed_once_it_is_kicked() {
    let Some((mut lab, mut context, error)) = spin_at(monitor::image().resume, INC) else {
        return;
    };
    assert_eq!(error, WorldError::Stuck);
    assert!(lab.world.rescue(&error, &mut context));
    assert_eq!(context, Lab::start());
    lab.world.recover().unwrap();
    // The kick is still to be seen.
    assert!(lab.world.kicker().take());
    let mut context = Lab::start();
    let leave = lab.run(&mut context).unwrap();
    assert!(
        matches!(leave, Leave::Exception { vector: 6, .. }),
        "{leave:?}"
    );
    assert_eq!(context.gpr[3], 1);
}

#[test]
fn a_monitor_that_spins_on_the_way_out_has_lost_the_registers() {
    let way_out = 256 * monitor::STUB_BYTES;
    let Some((mut lab, mut context, error)) = spin_at(way_out, INC) else {
        return;
    };
    assert_eq!(error, WorldError::Stuck);
    assert!(!lab.world.rescue(&error, &mut context));
    let error = WorldError::Monitor {
        vector: 14,
        rip: MONITOR_LINEAR + way_out,
        error: 0,
        cr2: 0,
    };
    assert!(!lab.world.rescue(&error, &mut context));
}

/// Guest code takes interrupts, so that the kick becomes one at once; but nothing comes of that.
#[test]
fn a_kick_that_does_not_get_through_is_noticed() {
    let handler = u64::from(KICK_VECTOR) * monitor::STUB_BYTES;
    let Some((lab, _, error)) = spin_at(handler, &[0xEB, 0xFE]) else {
        return;
    };
    assert_eq!(error, WorldError::Stuck);
    assert!(lab.world.kicker().take(), "the kick is still to be seen");
}

#[test]
fn a_triple_fault_has_lost_the_registers() {
    use super::super::layout::IDT;
    let Some(mut lab) = warm_lab() else {
        return;
    };
    for vector in 0..32 {
        lab.world.monitor.write(IDT + vector * 16, 0_u64);
    }
    let mut context = Lab::start();
    let error = lab.run(&mut context).unwrap_err();
    assert_eq!(error, WorldError::TripleFault);
    assert!(!lab.world.rescue(&error, &mut context));
}

#[test]
fn a_store_to_where_there_is_nothing_has_lost_the_registers() {
    const NO_MEMORY: u64 = 0x8_0000;
    let Ok(mut lab) = Lab::new() else {
        eprintln!("SKIPPED: no KVM");
        return;
    };
    lab.map().unwrap();
    lab.map_page(DATA, NO_MEMORY, Rights::Write).unwrap();
    let mut code = vec![0x43, 0xA3]; // inc ebx; mov [DATA], eax
    code.extend(DATA.to_le_bytes());
    lab.program(&code);
    let mut context = Lab::start();
    let error = lab.run(&mut context).unwrap_err();
    assert!(matches!(error, WorldError::Unfinished(_)), "{error}");
    assert!(!lab.world.rescue(&error, &mut context));
}

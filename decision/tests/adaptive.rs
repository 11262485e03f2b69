//! The policy `adaptive` against simulated guests: programs that alternate between ring 3 and the
//! kernel, under a timer, on hosts of given costs.

use decision::{
    CodeSize, Decider, Engine, EngineCosts, ExitKind, HostSupport, Inputs, PolicySpec, Reasons,
    Run, Segments, Stretch,
};

const HOST: HostSupport = HostSupport {
    compat32: true,
    ..HostSupport::NONE
};

/// Direct execution at the processor's speed, translated code half as fast.
const FAST: EngineCosts = EngineCosts {
    round_trip_ns: Some(3_000),
    direct_ps: Some(300),
    translated_ps: Some(600),
};

/// A KVM that interprets.
const SLOW: EngineCosts = EngineCosts {
    round_trip_ns: Some(9_000),
    direct_ps: Some(600_000),
    translated_ps: Some(600),
};

/// Time between two timer interrupts, and what the kernel does about one, nanoseconds.
const TICK: u64 = 4_000_000;
const TICK_HANDLER: u64 = 3_000;
/// What a replay of the instruction that direct execution left at takes, nanoseconds.
const REPLAY: u64 = 1_000;

/// A program: so many instructions at ring 3, then a system call of so many nanoseconds.
#[derive(Clone, Copy)]
struct Program {
    cr3: u32,
    eip: u32,
    instructions: u64,
    kernel: u64,
}

const COMPUTE: Program = Program {
    cr3: 0x1000,
    eip: 0x0804_8000,
    instructions: 10_000_000,
    kernel: 2_000,
};
const STORM: Program = Program {
    cr3: 0x2000,
    eip: 0x0804_8000,
    instructions: 200,
    kernel: 500,
};
/// Little at ring 3, long system calls: the cycle is long all the same.
const KERNEL_BOUND: Program = Program {
    cr3: 0x3000,
    eip: 0x0804_8000,
    instructions: 500,
    kernel: 60_000,
};

/// Nanoseconds and switches.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    all: u64,
    direct: u64,
    switches: u64,
}

struct Simulation {
    decider: Decider,
    costs: EngineCosts,
    now: u64,
    next_tick: u64,
    /// Instructions that remain of the current burst at ring 3.
    remaining: u64,
    spent: Spent,
}

impl Simulation {
    fn new(policy: &str, costs: EngineCosts) -> Self {
        let spec: PolicySpec = policy.parse().expect("a policy");
        Self {
            decider: Decider::new(spec.build(), HOST, costs),
            costs,
            now: 0,
            next_tick: TICK,
            remaining: 0,
            spent: Spent::default(),
        }
    }

    fn ran(&mut self, engine: Engine, ns: u64, exit: ExitKind, at_ring_3: bool) {
        self.now += ns;
        self.spent.all += ns;
        if engine == Engine::Direct {
            self.spent.direct += ns;
        }
        let run = Run {
            engine,
            ns,
            crossings: u64::from(engine == Engine::Direct),
            exit,
            at_ring_3,
        };
        self.decider.ran(run, None);
    }

    fn decide(&mut self, inputs: &Inputs) -> (Engine, Stretch) {
        let decision = self.decider.decide(inputs);
        self.spent.switches += u64::from(self.decider.switch().is_some());
        (decision.engine, decision.stretch)
    }

    /// The kernel for `ns`, up to the return to ring 3.
    fn kernel(&mut self, inputs: &Inputs, ns: u64) {
        let kernel = Inputs { cpl: 0, ..*inputs };
        assert_eq!(self.decide(&kernel).0, Engine::Translator);
        self.ran(Engine::Translator, ns, ExitKind::StateChanged, true);
    }

    fn tick(&mut self, inputs: &Inputs) {
        self.next_tick = self.now + TICK;
        self.kernel(inputs, TICK_HANDLER);
    }

    /// Instructions of the current burst that fit before the timer, and how long they take.
    fn burst(&self, ps: u64) -> (u64, u64) {
        let room = self.next_tick.saturating_sub(self.now).max(1);
        let fit = (room * 1000 / ps).max(1).min(self.remaining);
        (fit, fit * ps / 1000)
    }

    /// Runs a program for `duration` nanoseconds.
    fn run(&mut self, program: Program, duration: u64) -> Spent {
        let inputs = inputs(program);
        self.spent = Spent::default();
        let end = self.now + duration;
        let translated_ps = self.costs.translated_ps.expect("known");
        let direct_ps = self.costs.direct_ps.expect("known");
        let round_trip = self.costs.round_trip_ns.expect("known");
        self.remaining = program.instructions;
        while self.now < end {
            match self.decide(&inputs) {
                (Engine::Direct, _) => {
                    let (fit, ns) = self.burst(direct_ps);
                    self.remaining -= fit;
                    if self.remaining > 0 {
                        self.ran(Engine::Direct, ns + round_trip, ExitKind::Interrupt, true);
                        self.tick(&inputs);
                        continue;
                    }
                    self.ran(Engine::Direct, ns + round_trip, ExitKind::SystemCall, true);
                    let replay = Inputs {
                        replay_pending: true,
                        ..inputs
                    };
                    assert_eq!(self.decide(&replay).0, Engine::Translator);
                    self.ran(Engine::Translator, REPLAY, ExitKind::Replayed, false);
                    self.remaining = program.instructions;
                    self.kernel(&inputs, program.kernel);
                }
                (Engine::Translator, Stretch::Arrival) => {
                    let (fit, ns) = self.burst(translated_ps);
                    self.remaining -= fit;
                    if self.remaining > 0 {
                        self.ran(Engine::Translator, ns, ExitKind::Interrupt, true);
                        self.tick(&inputs);
                        continue;
                    }
                    self.remaining = program.instructions;
                    let ns = ns + program.kernel;
                    self.ran(Engine::Translator, ns, ExitKind::StateChanged, true);
                }
                (Engine::Translator, Stretch::Exit) => {
                    let room = self.next_tick.saturating_sub(self.now).max(1);
                    self.ran(Engine::Translator, room, ExitKind::Interrupt, true);
                    self.tick(&inputs);
                }
                (Engine::Translator, Stretch::Instruction) => unreachable!("not of this policy"),
            }
        }
        self.spent
    }
}

fn inputs(program: Program) -> Inputs {
    Inputs {
        protected_mode: true,
        virtual_8086: false,
        cpl: 3,
        iopl: 0,
        interrupt_flag: true,
        trap_flag: false,
        interrupt_shadow: false,
        debug_registers_enabled: false,
        reversible: Segments::all(),
        limited: false,
        code_size: CodeSize::Bits32,
        stack_16: false,
        paging: true,
        long_mode_visible: false,
        replay_pending: false,
        cs: 0x23,
        eip: program.eip,
        eflags: 0x202,
        cr3: program.cr3,
    }
}

const SECOND: u64 = 1_000_000_000;

#[track_caller]
fn assert_direct(spent: Spent) {
    let percent = spent.direct * 100 / spent.all;
    assert!(percent > 95, "{percent} % direct: {spent:?}");
}

#[track_caller]
fn assert_translated(spent: Spent) {
    let permille = spent.direct * 1000 / spent.all;
    assert!(permille < 20, "{permille} of 1000 direct: {spent:?}");
}

#[test]
fn a_program_that_computes_runs_directly() {
    assert_direct(Simulation::new("adaptive", FAST).run(COMPUTE, SECOND));
}

#[test]
fn a_storm_of_system_calls_is_translated() {
    for program in [STORM, KERNEL_BOUND] {
        assert_translated(Simulation::new("adaptive", FAST).run(program, SECOND));
    }
}

#[test]
fn nothing_runs_directly_where_that_is_slower() {
    let mut simulation = Simulation::new("adaptive", SLOW);
    for program in [COMPUTE, STORM, COMPUTE] {
        let spent = simulation.run(program, SECOND / 4);
        assert_eq!((spent.direct, spent.switches), (0, 0));
    }
    let refusals = &simulation.decider.statistics().refusals_by_reason;
    assert!(refusals.get(Reasons::POLICY) > 0);
}

#[test]
fn nothing_runs_directly_where_the_costs_are_not_known() {
    for costs in [
        EngineCosts {
            round_trip_ns: None,
            ..FAST
        },
        EngineCosts {
            direct_ps: None,
            ..FAST
        },
        EngineCosts {
            translated_ps: None,
            ..FAST
        },
    ] {
        let mut simulation = Simulation::new("adaptive", FAST);
        simulation.decider.set_costs(costs);
        let spent = simulation.run(COMPUTE, SECOND / 10);
        assert_eq!(spent.direct, 0, "{costs:?}");
    }
}

#[test]
fn it_changes_its_mind_when_the_program_changes() {
    // The same address space and the same code region throughout: a program that changes its ways.
    let mut simulation = Simulation::new("adaptive", FAST);
    let storm = Program {
        cr3: COMPUTE.cr3,
        ..STORM
    };
    for round in 0..4 {
        let settle = SECOND / 20;
        simulation.run(COMPUTE, settle);
        assert_direct(simulation.run(COMPUTE, SECOND / 4));
        simulation.run(storm, settle);
        let spent = simulation.run(storm, SECOND / 4);
        assert_translated(spent);
        assert!(spent.switches < 100, "round {round}: {spent:?}");
    }
}

#[test]
fn address_spaces_have_their_own_histories() {
    // Two processes that take turns, a time slice each: each gets what suits it.
    let mut simulation = Simulation::new("adaptive", FAST);
    let (mut compute, mut storm) = (Spent::default(), Spent::default());
    for _ in 0..100 {
        for (program, total) in [(COMPUTE, &mut compute), (STORM, &mut storm)] {
            let spent = simulation.run(program, 3 * TICK);
            total.all += spent.all;
            total.direct += spent.direct;
        }
    }
    assert_direct(compute);
    assert_translated(storm);
}

#[test]
fn new_address_spaces_start_with_what_is_known_of_the_others() {
    // Many short processes: a trial for each would cost more than direct execution gains.
    let mut simulation = Simulation::new("adaptive", FAST);
    simulation.run(STORM, SECOND / 10);
    let before = simulation.decider.statistics().switches();
    for process in 0..1_000 {
        let program = Program {
            cr3: 0x10_0000 + process * 0x1000,
            ..STORM
        };
        simulation.run(program, 20_000);
    }
    let switches = simulation.decider.statistics().switches() - before;
    assert!(switches < 50, "{switches} switches");
}

#[test]
fn hysteresis_keeps_it_from_going_to_and_fro() {
    // Stays just below and just above the point where a switch pays: direct execution
    // saves 300 ps an instruction, and costs 4,500 ns.
    let switches = |policy: &str| {
        let mut simulation = Simulation::new(policy, FAST);
        simulation.run(COMPUTE, SECOND / 10);
        let mut directions = 0;
        let mut last = None;
        for round in 0..200 {
            let instructions = 15_000 + (round % 2) * 2_000 - 1_000;
            let program = Program {
                instructions,
                ..COMPUTE
            };
            let direct = simulation.cycles(program, 1).direct > 0;
            directions += u64::from(last.is_some_and(|last| last != direct));
            last = Some(direct);
        }
        directions
    };
    let with = switches("adaptive:hysteresis=1.5,window=2,retry=1");
    let without = switches("adaptive:hysteresis=1,window=2,retry=1");
    assert!(with < 2, "{with} changes of mind");
    assert!(
        without > 50,
        "{without} without hysteresis: the test shows nothing"
    );
}

#[test]
fn it_costs_little_against_the_better_engine_and_wins_on_a_mixture() {
    // The same work for each policy.
    let work = |policy: &str| {
        let mut simulation = Simulation::new(policy, FAST);
        let mut total = 0;
        for _ in 0..10 {
            for (program, cycles) in [(COMPUTE, 4), (STORM, 20_000)] {
                total += simulation.cycles(program, cycles).all;
            }
        }
        total
    };
    let [adaptive, vmware, translate] = ["adaptive", "vmware", "translate"].map(work);
    assert!(adaptive < vmware, "{adaptive} ns, vmware {vmware} ns");
    assert!(
        adaptive < translate,
        "{adaptive} ns, translate {translate} ns"
    );
}

impl Simulation {
    /// Runs a program for a number of system calls, with every arrival noticed.
    fn cycles(&mut self, program: Program, cycles: u64) -> Spent {
        let inputs = inputs(program);
        self.spent = Spent::default();
        let translated_ps = self.costs.translated_ps.expect("known");
        let direct_ps = self.costs.direct_ps.expect("known");
        let round_trip = self.costs.round_trip_ns.expect("known");
        for _ in 0..cycles {
            self.remaining = program.instructions;
            while self.remaining > 0 {
                let (engine, _) = self.decide(&inputs);
                let ps = match engine {
                    Engine::Direct => direct_ps,
                    Engine::Translator => translated_ps,
                };
                let (fit, ns) = self.burst(ps);
                self.remaining -= fit;
                let done = self.remaining == 0;
                match (engine, done) {
                    (Engine::Direct, true) => {
                        self.ran(engine, ns + round_trip, ExitKind::SystemCall, true);
                        self.ran(Engine::Translator, REPLAY, ExitKind::Replayed, false);
                        self.kernel(&inputs, program.kernel);
                    }
                    (Engine::Direct, false) => {
                        self.ran(engine, ns + round_trip, ExitKind::Interrupt, true);
                        self.tick(&inputs);
                    }
                    (Engine::Translator, true) => {
                        let ns = ns + program.kernel;
                        self.ran(engine, ns, ExitKind::StateChanged, true);
                    }
                    (Engine::Translator, false) => {
                        self.ran(engine, ns, ExitKind::Interrupt, true);
                        self.tick(&inputs);
                    }
                }
            }
        }
        self.spent
    }
}

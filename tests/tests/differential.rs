//! The translator against the real processor: every unprivileged instruction of the claimed processor,
//! natively and translated, from the same registers and memory.
//!
//! `RINGSHIFT_SEED`, `RINGSHIFT_CASES`, `RINGSHIFT_FORM`, `RINGSHIFT_CASE`, `RINGSHIFT_SEQUENCES`,
//! `RINGSHIFT_SEQUENCE`, `RINGSHIFT_SHOW` and `RINGSHIFT_TRACE` choose what runs and what is printed, see
//! [`Settings`]; a failure prints the ones that reproduce it.

use ringshift_tests::differential::{
    Failure, Manner, Open, Settings, TranslatedRunner, Unpredictable, World, compare, describe,
    describe_sequence, unpredictable,
};
use ringshift_tests::generate::{
    CORE_DUO, Case, Exclusion, Form, Patch, Rng, Sequence, exclusion, forms, generate,
    generate_sequence, sequence_forms,
};
use ringshift_tests::native::stage::Environment;
use ringshift_tests::native::{MachineState, NativeError, NativeRunner, Outcome, Trap, stage};
use std::collections::BTreeMap;

/// Everything that a run counts.
#[derive(Default)]
struct Tally {
    cases: usize,
    unpredictable: BTreeMap<Unpredictable, usize>,
    vectors: BTreeMap<u32, usize>,
    worlds: BTreeMap<World, usize>,
    failures: Vec<Failure>,
}

/// Code, and what it starts from.
struct Run<'a> {
    linear: u32,
    bytes: &'a [u8],
    start: &'a MachineState,
    image: Vec<u8>,
    manner: Manner,
    /// Linear addresses of the memory operands.
    operands: Vec<u32>,
}

impl Run<'_> {
    /// True when the code ran to its end without an exception.
    fn completes(&self, native: &Outcome) -> bool {
        let end = self.start.eip.wrapping_add(self.bytes.len() as u32 + 1);
        native.trap.vector == Trap::BREAKPOINT && native.state.eip == end
    }
}

/// Both sides, and the contents of memory that cases start from.
struct Bench {
    settings: Settings,
    native: NativeRunner,
    translated: TranslatedRunner,
    privileged: Vec<TranslatedRunner>,
    template: Vec<u8>,
    tally: Tally,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let mut template = vec![0; stage::data_len()];
        Rng::new(settings.seed).fill(&mut template);
        let native = NativeRunner::new().expect("the host runs 32-bit code");
        let guest = |world| TranslatedRunner::new(world, native.lowest()).expect("a guest");
        Bench {
            settings,
            translated: guest(World::Ring3),
            privileged: World::PRIVILEGED.map(guest).into(),
            native,
            template,
            tally: Tally::default(),
        }
    }

    fn image(&self, patches: &[Patch]) -> Vec<u8> {
        let mut image = self.template.clone();
        patches.iter().for_each(|patch| patch.apply(&mut image));
        image
    }

    /// Runs code on the processor; its memory is then in the runner's image. `None` if it did not end.
    fn run_native(&mut self, run: &Run<'_>, name: &str) -> Option<Outcome> {
        let code = stage::locate(run.linear).expect("the case is on the stage");
        let code = code..code + run.bytes.len();
        let memory = self.native.image_mut();
        memory[..run.image.len()].copy_from_slice(&run.image);
        memory[code.clone()].copy_from_slice(run.bytes);
        let outcome = self.native.run(run.start);
        self.native.image_mut()[code].fill(0xCC);
        self.tally.cases += 1;
        match outcome {
            Ok(outcome) => Some(outcome),
            Err(NativeError::Hung(_)) => {
                self.tally.skip(Unpredictable::Endless);
                None
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// Runs code in the guest and compares; `privileged` chooses another world for a second run.
    fn run_translated(
        &mut self,
        run: &Run<'_>,
        native: Outcome,
        open: &Open,
        privileged: Option<u32>,
        names: impl Fn() -> (String, String),
    ) {
        *self.tally.vectors.entry(native.trap.vector).or_default() += 1;
        let worlds = self.privileged.len();
        let other = privileged.and_then(|number| self.privileged.get_mut(number as usize % worlds));
        // The HLT behind the code is not what the processor finds there.
        let data = |at: u32| stage::locate(at).is_none_or(|place| place < stage::data_len());
        let other = other.filter(|runner| {
            let mut operands = run.operands.iter();
            operands.all(|at| runner.has(*at) && data(*at))
        });
        for runner in std::iter::once(&mut self.translated).chain(other) {
            let code = (run.linear, run.bytes);
            let translated = runner.run(code, run.start, &run.image, run.manner);
            let differences = match &translated {
                Ok(outcome) => compare(
                    open,
                    (&native, &self.native.image()[..run.image.len()]),
                    (outcome, runner.image()),
                ),
                Err(_) => Vec::new(),
            };
            *self.tally.worlds.entry(runner.world()).or_default() += 1;
            if translated.is_err() || !differences.is_empty() {
                let (name, description) = names();
                self.tally.failures.push(Failure {
                    name,
                    description,
                    world: runner.world(),
                    start: *run.start,
                    native,
                    translated: translated.map_err(|error| error.to_string()),
                    differences,
                    listing: runner.listing(run.linear),
                });
            }
        }
    }

    fn case(&mut self, form: &Form, number: u32) {
        let seed = self.settings.seed;
        let case = generate(seed, form, number)
            .unwrap_or_else(|| panic!("no bytes for {form}, case {number}, seed {seed:#x}"));
        if self.settings.trace {
            eprintln!("{} {:02x?}", case.reproduce(seed), case.bytes);
        }
        let run = Run {
            linear: case.linear,
            bytes: &case.bytes,
            start: &case.start,
            image: self.image(&case.patches),
            manner: manner(number),
            operands: case.operands.iter().map(|operand| operand.linear).collect(),
        };
        let Some(native) = self.run_native(&run, &case.reproduce(seed)) else {
            return;
        };
        if let Some(reason) = unpredictable(&case, &native) {
            self.tally.skip(reason);
            return;
        }
        let open = Open::of(&case, &native);
        let names = |case: &Case| (format!("{:?}", case.form.code), describe(case, seed));
        let completes = run.completes(&native) && !form.depends_on_mode();
        let privileged = completes.then_some(number);
        self.run_translated(&run, native, &open, privileged, || names(&case));
    }

    fn sequence(&mut self, forms: &[Form], number: u32) {
        let seed = self.settings.seed;
        let sequence = generate_sequence(seed, forms, number)
            .unwrap_or_else(|| panic!("no sequence {number}, seed {seed:#x}"));
        if self.settings.trace {
            eprintln!("{} {:02x?}", sequence.reproduce(seed), sequence.bytes);
        }
        let operands = sequence.parts.iter().flat_map(|part| &part.operands);
        let run = Run {
            linear: sequence.linear,
            bytes: &sequence.bytes,
            start: &sequence.start,
            image: self.image(&sequence.patches),
            manner: manner(number / 2),
            operands: operands.map(|operand| operand.linear).collect(),
        };
        let Some(native) = self.run_native(&run, &sequence.reproduce(seed)) else {
            return;
        };
        let names = |sequence: &Sequence| (sequence.name(), describe_sequence(sequence, seed));
        // Where one instruction could raise two faults, which one is not ours to say.
        let open = Open {
            fault: true,
            ..Open::default()
        };
        let privileged = run.completes(&native).then_some(number / 2);
        self.run_translated(&run, native, &open, privileged, || names(&sequence));
    }
}

/// The way in which a case runs in the guest.
fn manner(number: u32) -> Manner {
    match number % 4 {
        2 => Manner::Again,
        3 => Manner::Step,
        _ => Manner::Unit,
    }
}

impl Tally {
    fn skip(&mut self, reason: Unpredictable) {
        *self.unpredictable.entry(reason).or_default() += 1;
    }

    /// Prints what was done, a failure of each kind, and all of them by number; fails if there is one.
    fn conclude(&self, settings: &Settings) {
        eprintln!(
            "{} cases; exceptions by vector: {:?}",
            self.cases, self.vectors
        );
        eprintln!("  runs by world: {:?}", self.worlds);
        for (rule, count) in &self.unpredictable {
            eprintln!("  {count:6} cases not compared: {}", rule.reason());
        }
        let mut groups: BTreeMap<String, Vec<&Failure>> = BTreeMap::new();
        for failure in &self.failures {
            groups.entry(failure.signature()).or_default().push(failure);
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, failures)| std::cmp::Reverse(failures.len()));
        // One of each kind says more than many of the first.
        for (_, failures) in groups.iter().take(settings.show) {
            eprintln!("{}", failures[0]);
        }
        for (signature, failures) in &groups {
            eprintln!("{:6} failures: {signature}", failures.len());
            let mut names: BTreeMap<&str, usize> = BTreeMap::new();
            for failure in failures {
                *names.entry(&failure.name).or_default() += 1;
            }
            let text: Vec<String> = names.iter().map(|(c, n)| format!("{c} {n}")).collect();
            eprintln!("        {}", text.join(", "));
        }
        assert!(
            self.failures.is_empty(),
            "{} of {} cases differ; seed {:#x}",
            self.failures.len(),
            self.cases,
            settings.seed
        );
    }
}

#[test]
fn every_form_does_what_the_processor_does() {
    let settings = Settings::from_environment().expect("settings");
    if settings.sequence.is_some() {
        return;
    }
    let forms = forms(&CORE_DUO);
    let mut excluded: BTreeMap<Exclusion, usize> = BTreeMap::new();
    let mut bench = Bench::new(settings.clone());
    for form in &forms {
        if let Some(rule) = exclusion(form) {
            *excluded.entry(rule).or_default() += 1;
            continue;
        }
        let wanted = settings.form.as_ref();
        if wanted.is_some_and(|part| !form.to_string().contains(part.as_str())) {
            continue;
        }
        match settings.case {
            Some(number) => bench.case(form, number),
            None => (0..settings.cases).for_each(|number| bench.case(form, number)),
        }
    }
    eprintln!("{} forms of a {}", forms.len(), CORE_DUO.name);
    for (rule, count) in &excluded {
        eprintln!("  {count:6} excluded: {}", rule.reason());
    }
    assert!(bench.tally.cases > 0, "nothing was compared");
    bench.tally.conclude(&settings);
    let excluded: usize = excluded.values().sum();
    assert!(excluded * 50 <= forms.len(), "more than 2 % excluded");
}

#[test]
fn sequences_do_what_the_processor_does() {
    let settings = Settings::from_environment().expect("settings");
    if settings.form.is_some() {
        return;
    }
    let forms = forms(&CORE_DUO);
    let fitting = Environment::ALL.map(|environment| sequence_forms(&forms, environment));
    let mut bench = Bench::new(settings.clone());
    let mut run = |number: u32| bench.sequence(&fitting[number as usize % fitting.len()], number);
    match settings.sequence {
        Some(number) => run(number),
        None => (0..settings.sequences).for_each(run),
    }
    bench.tally.conclude(&settings);
}

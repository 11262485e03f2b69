//! The translator against the real processor: every unprivileged instruction of the claimed processor,
//! natively and translated, from the same registers and memory.
//!
//! `RINGSHIFT_SEED`, `RINGSHIFT_CASES`, `RINGSHIFT_FORM`, `RINGSHIFT_CASE`, `RINGSHIFT_SHOW` and `RINGSHIFT_TRACE` choose what
//! runs, see [`Settings`]; a failure prints the ones that reproduce it.

use ringshift_tests::differential::{
    Failure, Manner, Settings, TranslatedRunner, Unpredictable, compare, unpredictable,
};
use ringshift_tests::generate::{
    Case, Exclusion, Form, PENTIUM_III, Rng, exclusion, forms, generate,
};
use ringshift_tests::native::{NativeRunner, Outcome, stage};
use std::collections::BTreeMap;

/// Everything that a run counts.
#[derive(Default)]
struct Tally {
    cases: usize,
    excluded: BTreeMap<Exclusion, usize>,
    unpredictable: BTreeMap<Unpredictable, usize>,
    vectors: BTreeMap<u32, usize>,
    failures: Vec<Failure>,
}

/// Both sides, and the contents of memory that cases start from.
struct Bench {
    settings: Settings,
    native: NativeRunner,
    translated: TranslatedRunner,
    template: Vec<u8>,
    tally: Tally,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let mut template = vec![0; stage::data_len()];
        Rng::new(settings.seed).fill(&mut template);
        Bench {
            settings,
            native: NativeRunner::new().expect("the host runs 32-bit code"),
            translated: TranslatedRunner::new().expect("a guest"),
            template,
            tally: Tally::default(),
        }
    }

    /// Runs a case on the processor; its memory is then in the runner's image.
    fn run_native(&mut self, case: &Case, image: &[u8]) -> Outcome {
        let code = stage::locate(case.linear).expect("the case is on the stage");
        let code = code..code + case.bytes.len();
        let memory = self.native.image_mut();
        memory[..image.len()].copy_from_slice(image);
        memory[code.clone()].copy_from_slice(&case.bytes);
        let outcome = self.native.run(&case.start);
        self.native.image_mut()[code].fill(0xCC);
        outcome.unwrap_or_else(|error| panic!("{}: {error}", case.reproduce(self.settings.seed)))
    }

    fn run(&mut self, form: &Form, number: u32) {
        let seed = self.settings.seed;
        let case = generate(seed, form, number)
            .unwrap_or_else(|| panic!("no bytes for {form}, case {number}, seed {seed:#x}"));
        if self.settings.trace {
            eprintln!("{} {:02x?}", case.reproduce(seed), case.bytes);
        }
        let mut image = self.template.clone();
        case.patches
            .iter()
            .for_each(|patch| patch.apply(&mut image));
        let native = self.run_native(&case, &image);
        self.tally.cases += 1;
        if let Some(reason) = unpredictable(&case, &native) {
            *self.tally.unpredictable.entry(reason).or_default() += 1;
            return;
        }
        *self.tally.vectors.entry(native.trap.vector).or_default() += 1;
        let manner = match number % 4 {
            2 => Manner::Again,
            3 => Manner::Step,
            _ => Manner::Unit,
        };
        let code = (case.linear, case.bytes.as_slice());
        let translated = self.translated.run(code, &case.start, &image, manner);
        let differences = match &translated {
            Ok(outcome) => compare(
                &case,
                (&native, &self.native.image()[..image.len()]),
                (outcome, self.translated.image()),
            ),
            Err(_) => Vec::new(),
        };
        if translated.is_err() || !differences.is_empty() {
            let listing = self.translated.listing(case.linear);
            self.tally.failures.push(Failure {
                case: Box::new(case),
                seed,
                native,
                translated: translated.map_err(|error| error.to_string()),
                differences,
                listing,
            });
        }
    }
}

impl Tally {
    /// Prints what was done and, in full or by number, what failed.
    fn report(&self, forms: usize, show: usize) {
        let excluded: usize = self.excluded.values().sum();
        eprintln!("{forms} forms, {excluded} excluded; {} cases", self.cases);
        for (rule, count) in &self.excluded {
            eprintln!("  {count:6} forms excluded: {}", rule.reason());
        }
        for (rule, count) in &self.unpredictable {
            eprintln!("  {count:6} cases not compared: {}", rule.reason());
        }
        eprintln!("  exceptions by vector: {:?}", self.vectors);
        let mut groups: BTreeMap<String, Vec<&Failure>> = BTreeMap::new();
        for failure in &self.failures {
            groups.entry(failure.signature()).or_default().push(failure);
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, failures)| std::cmp::Reverse(failures.len()));
        // One of each kind says more than many of the first.
        for (_, failures) in groups.iter().take(show) {
            eprintln!("{}", failures[0]);
        }
        for (signature, failures) in &groups {
            eprintln!("{:6} failures: {signature}", failures.len());
            let mut codes: BTreeMap<String, usize> = BTreeMap::new();
            for failure in failures {
                let name = format!("{:?}", failure.case.form.code);
                *codes.entry(name).or_default() += 1;
            }
            let text: Vec<String> = codes.iter().map(|(c, n)| format!("{c} {n}")).collect();
            eprintln!("        {}", text.join(", "));
        }
    }
}

#[test]
fn translated_code_does_what_the_processor_does() {
    let settings = Settings::from_environment().expect("settings");
    let forms = forms(&PENTIUM_III);
    let mut bench = Bench::new(settings.clone());
    for form in &forms {
        if let Some(rule) = exclusion(form) {
            *bench.tally.excluded.entry(rule).or_default() += 1;
            continue;
        }
        let wanted = settings.form.as_ref();
        if wanted.is_some_and(|part| !form.to_string().contains(part.as_str())) {
            continue;
        }
        match settings.case {
            Some(number) => bench.run(form, number),
            None => (0..settings.cases).for_each(|number| bench.run(form, number)),
        }
    }
    let tally = &bench.tally;
    tally.report(forms.len(), settings.show);
    let excluded: usize = tally.excluded.values().sum();
    assert!(excluded * 50 <= forms.len(), "more than 2 % excluded");
    assert!(tally.cases > 0, "nothing was compared");
    assert!(
        tally.failures.is_empty(),
        "{} of {} cases differ; seed {:#x}",
        tally.failures.len(),
        tally.cases,
        settings.seed
    );
}

//! The whole input space, against a truth table that shares nothing with the implementation but the
//! names of the reasons.
//!
//! A state is a word of 29 bits. A row of the table is a reason with the patterns of the words it
//! holds for (`-`: either). Of the 64 sets of reversible segments eight are walked with everything
//! else: all, none, and all but one; a test of its own has the others. Apart from the table, the verdict is computed a third time, by the algorithm
//! as it was published, with its early returns.

use decision::{
    Choice, CodeSize, EngineCosts, HostSupport, Inputs, Legal, Policy, Reasons, Segments, View,
    decide, legality,
};

/// Columns of the patterns, most significant bit first: protected mode, virtual-8086, CPL, IOPL, IF,
/// then reversible C D E F G S, then 16-bit code, 16-bit stack, paging, LAR-visible, limited, then TF,
/// shadow, debug registers, replay, then the host's compat32, compat16, v86, stack16, unpaged, limits,
/// iopl.
const BITS: u32 = 29;

/// The bits of a word that are walked one by one: three stand for six segments.
const WALKED: u32 = BITS - 3;

/// Where the six segments are in a word.
const SEGMENT_BITS: u32 = 16;

/// The sets of reversible segments that are walked.
const SEGMENT_SETS: [u32; 8] = [
    0b111111, 0b000000, 0b011111, 0b101111, 0b110111, 0b111011, 0b111101, 0b111110,
];

/// The word with this number.
fn word(number: u32) -> u32 {
    let below = number & ((1 << SEGMENT_BITS) - 1);
    let set = SEGMENT_SETS[(number >> SEGMENT_BITS & 7) as usize];
    let above = number >> (SEGMENT_BITS + 3);
    above << (SEGMENT_BITS + 6) | set << SEGMENT_BITS | below
}

const TABLE: &[(Reasons, &[&str])] = &[
    (
        Reasons::REAL_MODE,
        &["0- -- -- - ------ ----- ---- -------"],
    ),
    (
        Reasons::V86_UNSUPPORTED,
        &["11 -- -- - ------ ----- ---- --0----"],
    ),
    (
        Reasons::IOPL,
        &[
            "10 00 -- - ------ ----- ---- -------",
            "10 01 01 - ------ ----- ---- -------",
            "10 01 1- - ------ ----- ---- -------",
            "10 10 1- - ------ ----- ---- -------",
            "10 11 11 - ------ ----- ---- -------",
        ],
    ),
    (
        Reasons::INTERRUPTS_OFF,
        &["10 -- -- 0 ------ ----- ---- -------"],
    ),
    (Reasons::CS, &["10 -- -- - 0----- ----- ---- -------"]),
    (Reasons::DS, &["10 -- -- - -0---- ----- ---- -------"]),
    (Reasons::ES, &["10 -- -- - --0--- ----- ---- -------"]),
    (Reasons::FS, &["10 -- -- - ---0-- ----- ---- -------"]),
    (Reasons::GS, &["10 -- -- - ----0- ----- ---- -------"]),
    (Reasons::SS, &["10 -- -- - -----0 ----- ---- -------"]),
    (
        Reasons::NOT_RING_3,
        &[
            "10 0- -- - ------ ----- ---- -------",
            "10 10 -- - ------ ----- ---- -------",
        ],
    ),
    (
        Reasons::CODE_32_UNSUPPORTED,
        &["10 -- -- - ------ 0---- ---- 0------"],
    ),
    (
        Reasons::CODE_16_UNSUPPORTED,
        &["10 -- -- - ------ 1---- ---- -0-----"],
    ),
    (
        Reasons::STACK_16_UNSUPPORTED,
        &["10 -- -- - ------ -1--- ---- ---0---"],
    ),
    (Reasons::UNPAGED, &["1- -- -- - ------ --0-- ---- ----0--"]),
    (
        Reasons::LONG_MODE_VISIBLE,
        &["10 -- -- - ------ ---1- ---- -------"],
    ),
    (
        Reasons::TRAP_FLAG,
        &["-- -- -- - ------ ----- 1--- -------"],
    ),
    (
        Reasons::INTERRUPT_SHADOW,
        &["-- -- -- - ------ ----- -1-- -------"],
    ),
    (
        Reasons::DEBUG_REGISTERS,
        &["-- -- -- - ------ ----- --1- -------"],
    ),
    (
        Reasons::LIMITS_UNCHECKED,
        &["10 -- -- - ------ ----1 ---- -----0-"],
    ),
    (
        Reasons::IOPL_UNSUPPORTED,
        &[
            "10 -- -1 - ------ ----- ---- ------0",
            "10 -- 1- - ------ ----- ---- ------0",
        ],
    ),
    (Reasons::REPLAY, &["-- -- -- - ------ ----- ---1 -------"]),
];

/// A pattern as (bits that matter, their values).
fn compile(pattern: &str) -> (u32, u32) {
    let mut care = 0;
    let mut value = 0;
    let mut columns = 0;
    for column in pattern.chars().filter(|c| *c != ' ') {
        care = care << 1 | u32::from(column != '-');
        value = value << 1 | u32::from(column == '1');
        columns += 1;
    }
    assert_eq!(columns, BITS, "columns of {pattern:?}");
    (care, value)
}

/// Takes columns off a state word from the right.
struct Columns(u32);

impl Columns {
    fn number(&mut self, bits: u32) -> u8 {
        let number = self.0 & ((1 << bits) - 1);
        self.0 >>= bits;
        number as u8
    }

    fn bit(&mut self) -> bool {
        self.number(1) != 0
    }
}

fn unpack(word: u32) -> (Inputs, HostSupport) {
    let mut columns = Columns(word);
    let iopl_kept = columns.bit();
    let limits = columns.bit();
    let unpaged = columns.bit();
    let stack16 = columns.bit();
    let v86 = columns.bit();
    let compat16 = columns.bit();
    let compat32 = columns.bit();
    let replay_pending = columns.bit();
    let debug_registers_enabled = columns.bit();
    let interrupt_shadow = columns.bit();
    let trap_flag = columns.bit();
    let limited = columns.bit();
    let long_mode_visible = columns.bit();
    let paging = columns.bit();
    let stack_16 = columns.bit();
    let code_16 = columns.bit();
    let mut reversible = Segments::empty();
    for segment in [
        Segments::SS,
        Segments::GS,
        Segments::FS,
        Segments::ES,
        Segments::DS,
        Segments::CS,
    ] {
        reversible.set(segment, columns.bit());
    }
    let interrupt_flag = columns.bit();
    let iopl = columns.number(2);
    let cpl = columns.number(2);
    let virtual_8086 = columns.bit();
    let protected_mode = columns.bit();
    let inputs = Inputs {
        protected_mode,
        virtual_8086,
        cpl,
        iopl,
        interrupt_flag,
        trap_flag,
        interrupt_shadow,
        debug_registers_enabled,
        reversible,
        limited,
        code_size: if code_16 {
            CodeSize::Bits16
        } else {
            CodeSize::Bits32
        },
        stack_16,
        paging,
        long_mode_visible,
        replay_pending,
        cs: 0x23,
        eip: word,
        eflags: 0,
        cr3: 0,
    };
    let host = HostSupport {
        compat32,
        compat16,
        v86,
        stack16,
        unpaged,
        limits,
        iopl: iopl_kept,
    };
    (inputs, host)
}

/// Algorithm 1 as printed.
fn algorithm_1(inputs: &Inputs) -> bool {
    if !inputs.protected_mode {
        return false;
    }
    if inputs.virtual_8086 {
        return true;
    }
    if inputs.iopl >= inputs.cpl || !inputs.interrupt_flag {
        return false;
    }
    inputs.reversible.is_all()
}

/// What this monitor asks for beyond it.
fn also_required(inputs: &Inputs, host: &HostSupport) -> bool {
    let quiet = !(inputs.trap_flag
        || inputs.interrupt_shadow
        || inputs.debug_registers_enabled
        || inputs.replay_pending);
    let mapped = inputs.paging || host.unpaged;
    let mode = match (inputs.virtual_8086, inputs.code_size) {
        (true, _) => host.v86,
        (false, CodeSize::Bits16) => host.compat16,
        (false, CodeSize::Bits32) => host.compat32,
    };
    let kept = (host.limits || !inputs.limited) && (host.iopl || inputs.iopl == 0);
    let tasks = inputs.virtual_8086
        || inputs.cpl == 3
            && !inputs.long_mode_visible
            && (!inputs.stack_16 || host.stack16)
            && kept;
    quiet && mapped && mode && tasks
}

fn policy(name: &str) -> Box<dyn Policy> {
    name.parse::<decision::PolicySpec>().unwrap().build()
}

#[test]
fn every_state_on_every_host() {
    let table: Vec<(Reasons, Vec<(u32, u32)>)> = TABLE
        .iter()
        .map(|(reason, rows)| (*reason, rows.iter().map(|row| compile(row)).collect()))
        .collect();
    let in_table: Reasons = table.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(in_table, Reasons::ILLEGAL, "every reason has a row");

    let mut vmware = policy("vmware");
    let mut translate = policy("translate");
    let mut ring = policy("ring");
    let costs = EngineCosts::default();
    let history = decision::History::default();
    let mut legal_states = 0u32;
    for number in 0..1u32 << WALKED {
        let word = word(number);
        let (inputs, host) = unpack(word);
        let mut expected = Reasons::empty();
        for (reason, rows) in &table {
            let holds = rows.iter().any(|(care, value)| word & care == *value);
            expected.set(*reason, holds);
        }
        let reasons = legality(&inputs, &host);
        if reasons != expected {
            panic!("{inputs:?} on {host:?}: got {reasons}, the table says {expected}");
        }
        let legal = algorithm_1(&inputs) && also_required(&inputs, &host);
        if reasons.is_empty() != legal {
            panic!("{inputs:?} on {host:?}: got {reasons}, the algorithm says {legal}");
        }
        // The policies see few states (one in thousands is legal), and a sample of the others.
        if !legal && number % 61 != 0 {
            continue;
        }
        legal_states += u32::from(legal);
        for (policy, direct) in [
            (&mut vmware, legal),
            (&mut translate, false),
            (&mut ring, legal && !inputs.virtual_8086),
        ] {
            let decision = decide(&inputs, &host, policy.as_mut(), &costs, &history);
            let name = policy.name();
            assert_eq!(
                decision.engine == decision::Engine::Direct,
                direct,
                "{name} on {inputs:?}"
            );
            assert_eq!(decision.legality, expected, "{name} on {inputs:?}");
            let reasons = match (legal, direct) {
                (true, true) => Reasons::empty(),
                (true, false) => Reasons::POLICY,
                (false, _) => expected,
            };
            assert_eq!(decision.reasons, reasons, "{name} on {inputs:?}");
        }
    }
    // Counted by hand. Protected mode: IOPL 0 on any host, 1 and 2 on one that keeps it; paged on
    // either host, or flat on one that can; 32- or 16-bit code, with the host's other size and its
    // v86 free; a 32-bit stack on either host, or a 16-bit one on one that can; limits likewise.
    let protected = (2 + 1 + 1) * 3 * (2 * 2 * 2) * 3 * 3;
    // Virtual-8086: CPL, IOPL, IF, segments, code, stack, LAR, limits free (2^12), paging as above,
    // and of the host all but v86 and unpaged free (2^5).
    let v86 = (1 << 12) * 3 * (1 << 5);
    assert_eq!(legal_states, protected + v86);
}

#[test]
fn each_segment_has_its_own_reason() {
    let (inputs, host) = unpack(word(0));
    let reasons = [
        (Segments::CS, Reasons::CS),
        (Segments::DS, Reasons::DS),
        (Segments::ES, Reasons::ES),
        (Segments::FS, Reasons::FS),
        (Segments::GS, Reasons::GS),
        (Segments::SS, Reasons::SS),
    ];
    for bits in 0..1 << 6 {
        let reversible = Segments::from_bits_truncate(bits);
        let inputs = Inputs {
            protected_mode: true,
            reversible,
            ..inputs
        };
        let segments: Reasons = reasons.iter().map(|(_, reason)| *reason).collect();
        let expected: Reasons = reasons
            .iter()
            .filter(|(segment, _)| !reversible.contains(*segment))
            .map(|(_, reason)| *reason)
            .collect();
        assert_eq!(legality(&inputs, &host) & segments, expected);
    }
}

/// A policy that goes direct whenever it is asked, and counts how often.
#[derive(Debug, Default)]
struct Eager(u32);

impl Policy for Eager {
    fn name(&self) -> &str {
        "eager"
    }

    fn choose<'a>(&mut self, legal: Legal<'a>, view: &View<'_>) -> Choice<'a> {
        assert_eq!(legal.inputs(), view.inputs);
        self.0 += 1;
        Choice::Direct(legal)
    }
}

#[test]
fn a_policy_is_not_asked_about_illegal_states() {
    let (costs, history) = (EngineCosts::default(), decision::History::default());
    let mut eager = Eager::default();
    let mut legal = 0;
    for number in (0..1u32 << WALKED).step_by(257) {
        let (inputs, host) = unpack(word(number));
        let reasons = legality(&inputs, &host);
        legal += u32::from(reasons.is_empty());
        let decision = decide(&inputs, &host, &mut eager, &costs, &history);
        assert_eq!(decision.legality, reasons);
        assert_eq!(
            Legal::check(&inputs, &host).err().unwrap_or_default(),
            reasons
        );
    }
    assert!(legal > 100, "the sample holds legal states");
    assert_eq!(eager.0, legal);
}

#[test]
fn the_first_reason_is_the_one_the_algorithm_stops_at() {
    let reasons = Reasons::NOT_RING_3 | Reasons::IOPL | Reasons::SS;
    assert_eq!(reasons.first(), Some(Reasons::IOPL));
    assert_eq!(Reasons::empty().first(), None);
    assert_eq!(reasons.to_string(), "IOPL|SS|NOT_RING_3");
    assert_eq!(Reasons::empty().to_string(), "-");
}

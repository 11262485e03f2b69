//! Where time goes: samples by unit and instruction, callouts and faults by place.

use super::context::Reason;
use super::engine::Engine;
use super::faults::At;
use super::sampler::{Place, Sampler};
use super::units::{FastMap, Unit};
use crate::codegen::CalloutKind;
use crate::system::vector;
use shadow_mmu::FaultOutcome;
use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// Most places of one kind that are told apart; a guest cannot make the profile grow without end.
const MOST_PLACES: usize = 1 << 16;

/// A unit, by the guest code that it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitPlace {
    /// Offset in CS of its first instruction.
    pub eip: u32,
    /// Privilege level that it was made for.
    pub cpl: u8,
}

/// What the thread of the vCPU did outside translated code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Carried an instruction out.
    Callout,
    /// Found or made the target of a jump: links, empty entries of jump tables, units that have died.
    Dispatch,
    /// Handled a host fault.
    Fault,
    /// Carried out a memory access.
    Access,
    /// Ran instructions one at a time.
    Step,
    /// Ran the machine: the run loop, devices, direct execution.
    Machine,
}

impl Work {
    /// All of it.
    pub const ALL: [Work; 6] = [
        Work::Callout,
        Work::Dispatch,
        Work::Fault,
        Work::Access,
        Work::Step,
        Work::Machine,
    ];

    /// A stable short name.
    pub const fn name(self) -> &'static str {
        match self {
            Work::Callout => "callout",
            Work::Dispatch => "dispatch",
            Work::Fault => "fault",
            Work::Access => "access",
            Work::Step => "step",
            Work::Machine => "machine",
        }
    }

    fn of(reason: Option<Reason>) -> Work {
        match reason {
            Some(Reason::Callout) => Work::Callout,
            Some(Reason::Link | Reason::Miss | Reason::Dead) => Work::Dispatch,
            Some(Reason::Fault) => Work::Fault,
            Some(Reason::Prepare | Reason::Commit) => Work::Access,
            Some(Reason::Stepped | Reason::SteppedTo) => Work::Step,
            None => Work::Machine,
        }
    }
}

/// Why translated code met a host fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultCause {
    /// The window had no mapping for a page that the guest may access.
    Hidden,
    /// The guest's page tables forbid the access: a page fault of the guest.
    True,
    /// A device, ROM, or a page that the monitor depends on.
    Trapped,
    /// Kernel code that met a user page.
    UserPage,
    /// A poll, a limit check, a guard region, a store beside code.
    Internal,
    /// #GP on the host: a segment or region that cannot be used as it is.
    Protection,
    /// An exception of the instruction: divide error, x87, SSE, undefined.
    Exception,
}

impl FaultCause {
    /// A stable short name.
    pub const fn name(self) -> &'static str {
        match self {
            FaultCause::Hidden => "hidden",
            FaultCause::True => "true",
            FaultCause::Trapped => "trapped",
            FaultCause::UserPage => "user-page",
            FaultCause::Internal => "internal",
            FaultCause::Protection => "protection",
            FaultCause::Exception => "exception",
        }
    }
}

/// Faults that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultPlace {
    /// Why.
    pub cause: FaultCause,
    /// Offset in CS of the instruction.
    pub eip: u32,
    /// Privilege level.
    pub cpl: u8,
    /// Guest-linear address of the page, if the access was to one.
    pub page: Option<u32>,
}

/// What a profile has found.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// Samples taken.
    pub samples: u64,
    /// Samples lost because there was no room for them.
    pub lost: u64,
    /// Samples in translated code, by unit and EIP of the instruction.
    pub units: BTreeMap<UnitPlace, BTreeMap<u32, u64>>,
    /// Samples in translated code that belong to no unit: stubs.
    pub stubs: u64,
    /// Samples elsewhere.
    pub work: BTreeMap<Work, u64>,
    /// Of these, the samples whose instruction is known, by what was done and EIP.
    pub work_places: BTreeMap<(Work, u32), u64>,
    /// Instructions carried out in Rust, by kind, EIP and privilege level.
    pub callouts: BTreeMap<(CalloutKind, u32, u8), u64>,
    /// Host faults.
    pub faults: BTreeMap<FaultPlace, u64>,
    /// Events at places beyond those that are told apart.
    pub elsewhere: u64,
}

/// The profile in the making.
#[derive(Debug)]
pub(crate) struct Profiler {
    sampler: Sampler,
    profile: Profile,
    /// Unsorted, because they are counted as they happen.
    callouts: FastMap<(CalloutKind, u32, u8), u64>,
    faults: FastMap<FaultPlace, u64>,
    /// The fault that is being handled, until its outcome is known.
    under_way: Option<FaultPlace>,
    attach_failed: bool,
}

/// Counts at `place`, or in `elsewhere` when there are too many places.
fn count<K: Hash + Eq>(map: &mut FastMap<K, u64>, elsewhere: &mut u64, place: K) {
    let room = map.len() < MOST_PLACES;
    match map.entry(place) {
        Entry::Occupied(mut entry) => *entry.get_mut() += 1,
        Entry::Vacant(entry) if room => {
            entry.insert(1);
        }
        Entry::Vacant(_) => *elsewhere += 1,
    }
}

impl Profiler {
    fn new() -> Profiler {
        Profiler {
            sampler: Sampler::new(),
            profile: Profile::default(),
            callouts: FastMap::default(),
            faults: FastMap::default(),
            under_way: None,
            attach_failed: false,
        }
    }

    /// Samples the calling thread from now on.
    pub(super) fn attach(&mut self) {
        if let Err(error) = self.sampler.attach()
            && !std::mem::replace(&mut self.attach_failed, true)
        {
            tracing::warn!(%error, "no timer: the profile will have no samples");
        }
    }

    pub(super) fn callout(&mut self, kind: CalloutKind, eip: u32, cpl: u8) {
        let place = (kind, eip, cpl);
        count(&mut self.callouts, &mut self.profile.elsewhere, place);
    }

    /// The shadow MMU has found out about the fault under way.
    pub(super) fn outcome(&mut self, outcome: &FaultOutcome) {
        if let Some(place) = &mut self.under_way {
            place.cause = match outcome {
                FaultOutcome::Filled => FaultCause::Hidden,
                FaultOutcome::UserPage => FaultCause::UserPage,
                FaultOutcome::Trapped(_) => FaultCause::Trapped,
                FaultOutcome::PageFault(_) => FaultCause::True,
            };
        }
    }

    /// Counts the fault that was under way: its outcome is known, or there is none.
    fn finish_fault(&mut self) {
        if let Some(place) = self.under_way.take() {
            count(&mut self.faults, &mut self.profile.elsewhere, place);
        }
    }
}

impl Engine {
    pub(crate) fn start_profile(&mut self) {
        self.profiler
            .get_or_insert_with(|| Box::new(Profiler::new()));
    }

    pub(crate) fn profile(&mut self) -> Option<&Profile> {
        self.read_samples();
        let profiler = self.profiler.as_mut()?;
        profiler.finish_fault();
        let profile = &mut profiler.profile;
        profile.lost = profiler.sampler.lost();
        profile.callouts = profiler.callouts.iter().map(|(k, v)| (*k, *v)).collect();
        profile.faults = profiler.faults.iter().map(|(k, v)| (*k, *v)).collect();
        Some(profile)
    }

    pub(crate) fn unit_places(&self) -> impl Iterator<Item = (u64, u32, UnitPlace)> {
        self.units
            .iter()
            .map(|unit| (unit.host, unit.host_bytes, place_of(unit)))
    }

    /// Takes the samples in while the units that they are of are still there.
    pub(super) fn read_samples(&mut self) {
        let Some(profiler) = &mut self.profiler else {
            return;
        };
        while let Some(place) = profiler.sampler.next() {
            let profile = &mut profiler.profile;
            profile.samples += 1;
            let unit_at = |address| self.units.get(self.units.at_host(address)?);
            match place {
                Place::Code(address) => {
                    let found = unit_at(address)
                        .and_then(|unit| Some((unit, unit.instruction_at(address)?.guest.ip32())));
                    match found {
                        Some((unit, _))
                            if profile.units.len() >= MOST_PLACES
                                && !profile.units.contains_key(&place_of(unit)) =>
                        {
                            profile.elsewhere += 1;
                        }
                        Some((unit, eip)) => {
                            let places = profile.units.entry(place_of(unit)).or_default();
                            *places.entry(eip).or_default() += 1;
                        }
                        None => profile.stubs += 1,
                    }
                }
                Place::Runtime(reason, site) => {
                    let work = Work::of(Reason::from_raw(reason));
                    *profile.work.entry(work).or_default() += 1;
                    // Only calls and faults say where they come from.
                    let known = matches!(work, Work::Callout | Work::Fault | Work::Access);
                    let address = site - u64::from(work != Work::Fault && site != 0);
                    let found = unit_at(address).and_then(|unit| unit.instruction_at(address));
                    if let Some(map) = found.filter(|_| known) {
                        let place = (work, map.guest.ip32());
                        *profile.work_places.entry(place).or_default() += 1;
                    }
                }
                Place::Machine => *profile.work.entry(Work::Machine).or_default() += 1,
            }
        }
    }

    /// Notes a host fault.
    pub(super) fn profile_fault(&mut self, at: &At, number: u8, address: u64) {
        let base = self.view.map_or(0, |view| view.base);
        let cpl = self.mode.cpl();
        let Some(profiler) = &mut self.profiler else {
            return;
        };
        profiler.finish_fault();
        let cause = match number {
            vector::PF => FaultCause::Internal,
            vector::GP | vector::SS => FaultCause::Protection,
            _ => FaultCause::Exception,
        };
        let offset = u32::try_from(address.wrapping_sub(base)).ok();
        profiler.under_way = Some(FaultPlace {
            cause,
            eip: at.insn.ip32(),
            cpl,
            page: offset
                .filter(|_| number == vector::PF)
                .map(|offset| offset & !0xFFF),
        });
    }
}

fn place_of(unit: &Unit) -> UnitPlace {
    UnitPlace {
        eip: unit.key.eip,
        cpl: unit.key.mode.cpl(),
    }
}

//! Where hot indirect jumps of programs go: what decides on the form that they are emitted in
//! (`codegen/cases.rs`).

use super::context::jump_slot;
use super::engine::{Engine, Step};
use super::units::{FastMap, Units};
use crate::Platform;
use crate::codegen::JumpForm;
use iced_x86::Instruction;
use shadow_mmu::Mmu;

/// Executions after which a jump is watched.
pub(super) const HOT_JUMP: u32 = 1 << 14;
/// Jumps that are watched before the form is decided on.
const WATCHED: usize = 1024;
/// So many that all go to one place are enough to see that it has one target.
const MONOTONOUS: usize = 64;
/// So many that leave the page are enough to see that it is no switch.
const OUTSIDE: u32 = 4;
/// Most targets to search among.
const MOST_CASES: usize = 32;
/// How many of the targets before decide on the next one, as far as a processor would know as well.
const HISTORY: usize = 4;

/// What is known of an indirect jump.
#[derive(Debug)]
pub(crate) enum LearnedJump {
    Watched(Watched),
    Decided(JumpForm),
}

/// The targets of a jump that is being watched, in turn, as offsets in its page.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    inside: Vec<u16>,
    outside: u32,
}

impl LearnedJump {
    /// The form that it is emitted in.
    pub(super) fn form(&self) -> JumpForm {
        match self {
            LearnedJump::Watched(_) => JumpForm::Watched,
            LearnedJump::Decided(form) => form.clone(),
        }
    }
}

impl Watched {
    /// Takes the next target, if it is in the page of the jump; returns the form when it is decided on.
    fn take(&mut self, target: Option<u16>) -> Option<JumpForm> {
        match target {
            Some(target) => self.inside.push(target),
            None => self.outside += 1,
        }
        let one_target = |inside: &[u16]| inside.windows(2).all(|pair| pair[0] == pair[1]);
        if self.outside >= OUTSIDE || (self.inside.len() == MONOTONOUS && one_target(&self.inside))
        {
            return Some(JumpForm::Plain);
        }
        (self.inside.len() >= WATCHED).then(|| self.decide())
    }

    fn decide(&self) -> JumpForm {
        let mut cases = self.inside.clone();
        cases.sort_unstable();
        cases.dedup();
        if cases.len() > MOST_CASES || self.is_regular() {
            JumpForm::Plain
        } else {
            JumpForm::Cases(cases.into_boxed_slice())
        }
    }

    /// Most targets in the second half follow from those just before.
    fn is_regular(&self) -> bool {
        let mut next: FastMap<[u16; HISTORY], u16> = FastMap::default();
        let (mut foreseen, mut seen) = (0, 0);
        for (place, window) in self.inside.windows(HISTORY + 1).enumerate() {
            let Some((&target, before)) = window.split_last() else {
                continue;
            };
            let Ok(before) = <[u16; HISTORY]>::try_from(before) else {
                continue;
            };
            let expected = next.insert(before, target);
            if place >= self.inside.len() / 2 {
                seen += 1;
                foreseen += u32::from(expected == Some(target));
            }
        }
        foreseen * 4 >= seen * 3
    }
}

impl Units {
    /// Code was written: nothing is known of the jumps there, nor of any in a page without units.
    pub(super) fn forget_jumps(&mut self, gfn: u32, first: u32, end: u32) {
        let empty = self.page_is_empty(gfn);
        if let Some(page) = self.pages.get_mut(&gfn) {
            page.jumps
                .retain(|&offset, _| !empty && !(first..end).contains(&offset));
        }
    }

    /// Notes that the jump at `gpa` went to `target`; true if it is to be emitted anew.
    fn note_jump(&mut self, gpa: u32, target: Option<u16>) -> bool {
        let jumps = &mut self.pages.entry(gpa >> 12).or_default().jumps;
        let mut fresh = false;
        let learned = jumps.entry(gpa & 0xFFF).or_insert_with(|| {
            fresh = true;
            LearnedJump::Watched(Watched::default())
        });
        if let LearnedJump::Watched(watched) = learned
            && let Some(form) = watched.take(target)
        {
            *learned = LearnedJump::Decided(form);
            return true;
        }
        fresh
    }
}

impl Engine {
    /// Carries out an indirect jump that is hot, and learns from it.
    pub(super) fn watched_jump(
        &mut self,
        index: u32,
        insn: &Instruction,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Step {
        let ip = insn.ip32();
        if let Some(count) = self
            .cache
            .context_mut()
            .jump_counts
            .get_mut(jump_slot(ip))
            .filter(|count| **count == 0)
        {
            *count = HOT_JUMP;
        }
        if let Err(exception) = self.limited_transfer(insn, mmu, platform) {
            self.single_steps += 1;
            return self.raise(mmu, platform, exception);
        }
        self.drain_events(mmu);
        let target = self.state().eip;
        let Some(unit) = self.units.get(index).filter(|unit| !unit.dead) else {
            return Step::Boundary;
        };
        let gpa = unit.gpa_of(insn);
        let offset = target.wrapping_sub(ip.wrapping_sub(gpa & 0xFFF));
        let inside = u16::try_from(offset).ok().filter(|&offset| offset < 4096);
        if self.units.note_jump(gpa, inside) {
            self.discard_copies(gpa);
        }
        Step::Boundary
    }
}

impl Engine {
    /// Unit `index` is another form of one that ended in a hot jump: links to that one, all in the same page,
    /// lead to this one, and no longer through the jump that the entry of the old one has become.
    pub(super) fn relink_learned(&mut self, index: u32) {
        let Some(unit) = self.units.get(index) else {
            return;
        };
        let (key, host) = (unit.key, unit.host);
        let page = self.units.pages.get(&(key.gpa >> 12));
        let learned = unit.instructions.last().is_some_and(|last| {
            let offset = unit.gpa_of(&last.guest) & 0xFFF;
            last.guest.is_jmp_near_indirect()
                && page.is_some_and(|page| page.jumps.contains_key(&offset))
        });
        if !learned || self.logging {
            return;
        }
        let links: Vec<u64> = page
            .into_iter()
            .flat_map(|page| &page.units)
            .filter_map(|&index| self.units.get(index).filter(|unit| !unit.dead))
            .flat_map(|unit| unit.links_to(&key))
            .collect();
        for at in links {
            self.set_link(at, host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(mut target: impl FnMut(usize) -> u16) -> JumpForm {
        let mut watched = Watched::default();
        (0..WATCHED)
            .find_map(|i| watched.take(Some(target(i))))
            .expect("a decision")
    }

    #[test]
    fn what_repeats_is_left_to_the_processor() {
        assert_eq!(form(|_| 7), JumpForm::Plain);
        assert_eq!(form(|i| (i % 2) as u16), JumpForm::Plain);
        assert_eq!(form(|i| (i * i % 100) as u16 % 16), JumpForm::Plain);
    }

    #[test]
    fn what_comes_in_no_order_is_searched_for() {
        let mut seed = 1u32;
        let mut random = move |most: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % most
        };
        let cases: Box<[u16]> = (0..5).map(|i| i * 16).collect();
        assert_eq!(form(|_| random(5) as u16 * 16), JumpForm::Cases(cases));
        assert_eq!(form(|_| random(4096) as u16), JumpForm::Plain, "too many");
    }

    #[test]
    fn what_leaves_the_page_is_no_switch() {
        let mut watched = Watched::default();
        let decided = (0..4).find_map(|_| watched.take(None));
        assert_eq!(decided, Some(JumpForm::Plain));
    }
}

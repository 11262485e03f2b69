//! What guest code can see of the host, and how much of the table edits KVM notices.

use serde::Serialize;
use translator::state::reg;

use super::lab::{self, CODE, DATA, Lab, Rights};
use crate::clock::host_tsc;
use crate::direct::layout::MONITOR_GPA;
use crate::direct::world::{Leave, WorldError};

/// Properties that make no mode wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extras {
    /// `cpuid` at ring 3 leaves, so that the guest sees the processor of its machine only.
    pub cpuid_leaves: bool,
    /// `sgdt` and the like at ring 3 leave (UMIP).
    pub sgdt_leaves: bool,
    /// `rdtsc` reads the host's counter without leaving.
    pub host_tsc: bool,
    /// An edit of a page table from outside, by the VMM's own mapping, is noticed after a load of
    /// CR3. Only for information: the VMM never edits so.
    pub outside_edits_noticed: bool,
}

/// Looks.
pub(super) fn look(lab: &mut Lab) -> Result<Extras, WorldError> {
    let cpuid_leaves = leaves(lab, &[0x0F, 0xA2])?;
    let [b0, b1, b2, b3] = DATA.to_le_bytes();
    let sgdt_leaves = leaves(lab, &[0x0F, 0x01, 0x05, b0, b1, b2, b3])?;
    Ok(Extras {
        cpuid_leaves,
        sgdt_leaves,
        host_tsc: host_tsc_visible(lab)?,
        outside_edits_noticed: outside_edits_noticed(lab)?,
    })
}

/// The instruction is not carried out.
fn leaves(lab: &mut Lab, instruction: &[u8]) -> Result<bool, WorldError> {
    lab.program(&[instruction, &[0x0F, 0x0B]].concat());
    let mut context = Lab::start();
    lab.run(&mut context)?;
    Ok(context.eip == CODE)
}

fn host_tsc_visible(lab: &mut Lab) -> Result<bool, WorldError> {
    if !lab.world.set_tsc_offset(0) {
        return Ok(false);
    }
    lab.program(&[0x0F, 0x31, 0x0F, 0x0B]); // rdtsc; ud2
    let mut context = Lab::start();
    let before = host_tsc();
    lab.run(&mut context)?;
    let after = host_tsc();
    let inside = u64::from(context.gpr[reg::EAX]) | u64::from(context.gpr[reg::EDX]) << 32;
    Ok(context.eip == CODE + 2 && (before..=after).contains(&inside))
}

/// Leaves the tables of the lab in doubt, so it comes last.
fn outside_edits_noticed(lab: &mut Lab) -> Result<bool, WorldError> {
    let mut reading = vec![0xA1]; // mov eax, [DATA]; ud2
    reading.extend(DATA.to_le_bytes());
    reading.extend([0x0F, 0x0B]);
    lab.program(&reading);
    lab.map_page(DATA, Lab::data_frame(0), Rights::Write)?;
    lab.map_page(DATA + 0x1000, Lab::data_frame(1), Rights::Write)?;
    lab.write(DATA, &[1; 4]);
    lab.write(DATA + 0x1000, &[2; 4]);
    let mut context = Lab::start();
    lab.run(&mut context)?;
    let entry = Lab::entry_address(DATA) - MONITOR_GPA;
    let page_1: u64 = lab.world.monitor_memory().read(entry + 8);
    lab.world.monitor_memory().write(entry, page_1);
    // An edit of a page that is no table, for the load of CR3 that goes with it.
    lab.world.edit(lab::UNUSED_TABLE, 1)?;
    let mut context = Lab::start();
    let leave = lab.run(&mut context)?;
    let ran = matches!(leave, Leave::Exception { vector: 6, .. });
    Ok(ran && context.gpr[reg::EAX] == 0x0202_0202)
}

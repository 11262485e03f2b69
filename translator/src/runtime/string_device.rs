//! Repeated MOVS and STOS that meet device memory, such as the planes of a display adapter: as many
//! iterations as stay within a page are one call of the machine.
#![allow(unsafe_code)] // copies guest memory

use super::engine::Engine;
use super::string::{Operation, StringOp};
use super::string_span::Span;
use crate::Platform;
use crate::state::reg;
use shadow_mmu::{Access, AccessPlan, Mmu, PhysTarget};

/// Where one side of a span is.
enum Place {
    /// Guest-physical address.
    Device(u64),
    /// Host address. Good until the shadow MMU is asked the next time.
    Memory(*mut u8),
}

impl Engine {
    /// Carries out iterations of a repeated string instruction one side of which is a device, upwards.
    pub(super) fn device_span(
        &mut self,
        op: &StringOp,
        most: u32,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Span {
        if !matches!(op.operation, Operation::Move | Operation::Store) {
            return Span::None;
        }
        let Some((count, [source, destination])) = self.span_sides(op, most) else {
            return Span::None;
        };
        if count < 2 || self.goes_down() {
            return Span::None;
        }
        let bytes = count as usize * op.size;
        let privilege = self.privilege();
        // What faults is left to the iteration that does.
        let mut place = |linear: u32, access: Access, platform: &mut dyn Platform| {
            if let AccessPlan::Direct(address) = mmu.plan(linear, bytes, access).ok()? {
                return Some(Place::Memory(address));
            }
            let resolved = mmu.resolve(linear, access).ok()?;
            let device = resolved.target == PhysTarget::Device
                && platform.stand_in(resolved.gpa, bytes).is_none();
            device.then_some(Place::Device(resolved.gpa))
        };
        let mut data = Vec::new();
        let mut from = None;
        if op.reads_source() {
            match place(source, Access::read(privilege), platform) {
                // SAFETY: the plan vouches for `bytes` bytes of guest memory there, within a page, and
                // nothing has happened since. Guest memory is never a Rust object: this is a copy.
                Some(Place::Memory(address)) => unsafe {
                    data.reserve_exact(bytes);
                    std::ptr::copy_nonoverlapping(address, data.as_mut_ptr(), bytes);
                    data.set_len(bytes);
                },
                Some(Place::Device(gpa)) => from = Some(gpa),
                None => return Span::None,
            }
        } else {
            let value = self.state().gpr[reg::EAX].to_le_bytes();
            let element = value.get(..op.size).unwrap_or_default();
            data = element.repeat(count as usize);
        }
        let to = place(destination, Access::write(privilege), platform);
        match (from, to) {
            (None, Some(Place::Device(to))) => platform.mmio_write_elements(to, op.size, &data),
            (Some(from), Some(Place::Device(to))) => {
                platform.mmio_copy_elements(from, to, op.size, count as usize);
            }
            (Some(from), Some(Place::Memory(address))) => {
                data.resize(bytes, 0);
                platform.mmio_read_elements(from, op.size, &mut data);
                // SAFETY: as above; the machine has not been given the shadow MMU in between.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), address, bytes) };
            }
            _ => return Span::None,
        }
        self.stats.device_spans += 1;
        self.string_direct = false;
        let cpu = &mut self.cache.context_mut().cpu;
        op.advance(cpu, bytes as u32, count);
        Span::Done {
            iterations: count,
            stop: false,
        }
    }
}

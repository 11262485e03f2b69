//! The narrow port between an engine and the machine around it.

/// What the vCPU's pins reach: ports, device memory and the interrupt wire.
///
/// Implemented by the machine (crate `vmm`) for both engines.
pub trait Platform {
    /// Reads `size` bytes (1, 2 or 4) from I/O port `port`.
    fn port_read(&mut self, port: u16, size: u8) -> u32;

    /// Writes the low `size` bytes (1, 2 or 4) of `value` to I/O port `port`.
    fn port_write(&mut self, port: u16, size: u8, value: u32);

    /// Reads device memory, or a hole, at guest-physical address `gpa`. `data` is at most 64 bytes
    /// and does not cross a page.
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]);

    /// Writes device memory, or a hole, at guest-physical address `gpa`.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]);

    /// Writes `data` from `gpa` on as accesses of `element` bytes (1, 2 or 4) in ascending order, at
    /// most a page and within it: iterations of a string instruction.
    fn mmio_write_elements(&mut self, gpa: u64, element: usize, data: &[u8]) {
        for (at, part) in (gpa..).step_by(element).zip(data.chunks_exact(element)) {
            self.mmio_write(at, part);
        }
    }

    /// Reads `data` as [`Platform::mmio_write_elements`] writes it.
    fn mmio_read_elements(&mut self, gpa: u64, element: usize, data: &mut [u8]) {
        for (at, part) in (gpa..).step_by(element).zip(data.chunks_exact_mut(element)) {
            self.mmio_read(at, part);
        }
    }

    /// Copies `count` elements in ascending order within device memory, each read before it is
    /// written.
    fn mmio_copy_elements(&mut self, from: u64, to: u64, element: usize, count: usize) {
        let mut buffer = [0; 4];
        let Some(part) = buffer.get_mut(..element) else {
            return;
        };
        for offset in (0..).step_by(element).take(count) {
            self.mmio_read(from.wrapping_add(offset), part);
            self.mmio_write(to.wrapping_add(offset), part);
        }
    }

    /// Where in RAM an access of `len` bytes to device memory at `gpa`, within a page, belongs, if the
    /// machine has RAM in place of it somewhere else. Asked for before each access to a device.
    fn stand_in(&mut self, gpa: u64, len: usize) -> Option<u64> {
        let _ = (gpa, len);
        None
    }

    /// The level of the INTR wire: an external interrupt waits for the vCPU.
    fn interrupt_pending(&mut self) -> bool;

    /// The interrupt acknowledge cycle: returns the vector and starts its service at the
    /// controller. Called only while [`Platform::interrupt_pending`] is true.
    fn acknowledge_interrupt(&mut self) -> u8;

    /// The FERR# wire: an x87 exception waits to be reported through IRQ 13, because CR0.NE is clear
    /// (Intel SDM vol. 1, appendix D). A platform without the latch behind it need not do anything.
    fn set_ferr(&mut self, asserted: bool) {
        let _ = asserted;
    }

    /// The IGNNE# wire: the processor is to go on in spite of what FERR# reports.
    fn ignne(&mut self) -> bool {
        false
    }

    /// True when the machine must act before the guest goes on (reset, power-off, A20, a stop
    /// request). The engine then leaves with [`Exit::Attention`](crate::Exit::Attention) at the
    /// next instruction boundary.
    fn attention(&mut self) -> bool;

    /// The time-stamp counter as the guest reads it.
    fn tsc(&mut self) -> u64;
}

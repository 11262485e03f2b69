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

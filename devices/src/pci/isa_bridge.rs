//! The ISA bridge: PCI function 0:1.0, an Intel PIIX3 (82371SB, data sheet 290550).
//!
//! It routes the four interrupt lines of the PCI bus, PIRQA# to PIRQD#, to inputs of the
//! interrupt controllers. Its other registers hold what is written: the chip selects, DMA modes
//! and SMI sources that they control are not emulated.

use super::PciDevice;
use super::config::ConfigSpace;
use super::spec::{COMMAND, HEADER_TYPE, REVISION, VENDOR_ID};
use crate::line::{Line, LineBank};
use crate::pic::Pic;

/// Vendor 8086h (Intel), device 7000h (82371SB function 0).
const ID: u32 = 0x7000_8086;
/// Command: I/O, memory, bus master and special cycles, all fixed.
const COMMAND_FIXED: u32 = 0x000f;
/// Status: medium DEVSEL#.
const STATUS_FIXED: u32 = 0x0200 << 16;
/// Status: error bits, cleared by writing 1.
const STATUS_CLEARABLE: u32 = 0x7800 << 16;
/// Class 06h (bridge), subclass 01h (ISA), revision 0.
const CLASS_REVISION: u32 = 0x0601_0000;
/// Header type 0, several functions.
const MULTIFUNCTION: u32 = 0x0080_0000;
/// Byte 4Ch: ISA I/O recovery; word 4Eh: X-bus chip select.
const IORT_XBCS: u8 = 0x4c;
/// Bytes 60h-63h: PIRQRCA to PIRQRCD.
const PIRQRC: u8 = 0x60;
/// Byte 69h: top of memory; word 6Ah: miscellaneous status.
const TOM: u8 = 0x68;
/// Bytes 70h-71h: routing of the IDE interrupts; bytes 76h-77h: DMA of the motherboard.
const MBIRQ: u8 = 0x70;
const MBDMA: u8 = 0x74;
/// Byte A0h: SMI control; words A2h, A4h, A8h, AAh: SMI enable, events, requests.
const SMICNTL: u8 = 0xa0;
/// PIRQRC: the line is not routed.
const NOT_ROUTED: u8 = 0x80;
/// Interrupts that a PIRQ# can be routed to.
const ROUTABLE: u16 = 0b1101_1110_1111_1000;
/// Inputs of the interrupt controllers.
const IRQS: u8 = 16;

/// The ISA bridge.
#[derive(Debug)]
pub struct IsaBridge {
    space: ConfigSpace,
    // Wiring.
    pirq: LineBank,
    irq: Vec<Line>,
}

impl IsaBridge {
    /// A bridge after reset, which drives inputs of `pic`.
    pub fn new(pic: &Pic) -> Self {
        Self {
            space: registers(),
            pirq: LineBank::new(),
            irq: (0..IRQS).map(|irq| pic.line(irq)).collect(),
        }
    }

    /// A line to the interrupt pin `pin` (0 for INTA#) of the slot of device `device`, wired as on
    /// the boards that firmware knows: INTA# of device 1 is PIRQA#, of device 2 PIRQB#.
    pub fn pin(&self, device: u8, pin: u8) -> Line {
        let number = device.wrapping_sub(1).wrapping_add(pin);
        self.pirq.line(number & 3)
    }

    /// Whether a PIRQ# line has changed since [`Self::drive`]. Cheap.
    #[inline]
    pub(crate) fn has_changes(&self) -> bool {
        self.pirq.has_changes()
    }

    /// Drives the interrupt controllers' inputs from the PIRQ# lines.
    pub(crate) fn drive(&mut self) {
        self.pirq.take_changes();
        let routes = self.space.read(PIRQRC).to_le_bytes();
        let mut levels = 0u16;
        for (wire, route) in (0u8..).zip(routes) {
            let irq = 1u16 << (route & 0xf);
            if route & NOT_ROUTED == 0 && irq & ROUTABLE != 0 && self.pirq.is_high(wire) {
                levels |= irq;
            }
        }
        for (irq, line) in self.irq.iter_mut().enumerate() {
            line.set(levels >> irq & 1 != 0);
        }
    }
}

fn registers() -> ConfigSpace {
    ConfigSpace::new()
        .with(VENDOR_ID, ID, 0, 0)
        .with(COMMAND, COMMAND_FIXED | STATUS_FIXED, 0, STATUS_CLEARABLE)
        .with(REVISION, CLASS_REVISION, 0, 0)
        .with(HEADER_TYPE, MULTIFUNCTION, 0, 0)
        .with(IORT_XBCS, 0x0003_004d, 0x01ff_00ff, 0)
        .with(PIRQRC, 0x8080_8080, 0x8f8f_8f8f, 0)
        .with(TOM, 0x0000_0200, 0x0001_fe00, 0)
        .with(MBIRQ, 0x0000_8080, 0x0000_efef, 0)
        .with(MBDMA, 0x0c0c_0000, 0x8787_0000, 0)
        .with(SMICNTL, 0x0000_0008, 0x00ff_001d, 0)
}

impl PciDevice for IsaBridge {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.space.read(offset)
    }

    fn config_write(&mut self, offset: u8, value: u32, mask: u32) {
        self.space.write(offset, value, mask);
        if offset == PIRQRC {
            self.drive();
        }
    }

    fn reset(&mut self) {
        self.space = registers();
        self.drive();
    }

    fn config_space(&self) -> Option<&ConfigSpace> {
        Some(&self.space)
    }

    fn restore_config_space(&mut self, space: ConfigSpace) {
        self.space = registers();
        self.space.restore_values(&space);
        self.drive();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pirq_lines_reach_the_interrupt_they_are_routed_to() {
        let pic = Pic::new();
        let mut bridge = IsaBridge::new(&pic);
        // INTA# of device 3 is PIRQC#, INTD# of device 4 comes around to the same.
        let (mut a, mut b) = (bridge.pin(3, 0), bridge.pin(4, 3));
        a.set(true);
        assert!(bridge.has_changes());
        bridge.drive();
        let high = |bridge: &IsaBridge| -> Vec<usize> {
            let lines = bridge.irq.iter().enumerate();
            lines.filter(|(_, l)| l.is_high()).map(|l| l.0).collect()
        };
        assert_eq!(high(&bridge), [0; 0], "not routed after reset");
        bridge.config_write(PIRQRC, 0x000b_0000, 0x00ff_0000);
        assert_eq!(high(&bridge), [11]);
        b.set(true);
        a.set(false);
        bridge.drive();
        assert_eq!(high(&bridge), [11], "shared");
        bridge.config_write(PIRQRC, 0x000a_0000, 0x00ff_0000);
        assert_eq!(high(&bridge), [10], "moved while it is asserted");
        // Reserved routes: 0, 1, 2, 8, 13.
        for route in [0u32, 1, 2, 8, 13, 0x8a] {
            bridge.config_write(PIRQRC, route << 16, 0x00ff_0000);
            assert_eq!(high(&bridge), [0; 0], "{route:#x}");
        }
        bridge.config_write(PIRQRC, 0x0005_0000, 0x00ff_0000);
        bridge.reset();
        assert_eq!(high(&bridge), [0; 0]);
    }

    #[test]
    fn registers_have_their_reset_values() {
        let mut bridge = IsaBridge::new(&Pic::new());
        assert_eq!(bridge.config_read(VENDOR_ID), 0x7000_8086);
        assert_eq!(bridge.config_read(COMMAND), 0x0200_000f);
        assert_eq!(bridge.config_read(REVISION) >> 8, 0x06_0100);
        assert_eq!(bridge.config_read(HEADER_TYPE) >> 16, 0x80);
        assert_eq!(bridge.config_read(IORT_XBCS), 0x0003_004d);
        assert_eq!(bridge.config_read(PIRQRC), 0x8080_8080);
        bridge.config_write(VENDOR_ID, !0, !0);
        bridge.config_write(COMMAND, 0, 0xffff);
        assert_eq!(bridge.config_read(VENDOR_ID), 0x7000_8086);
        assert_eq!(bridge.config_read(COMMAND), 0x0200_000f);
    }
}

//! The order in which firmware tries drives.

use std::fmt;
use std::str::FromStr;

use devices::rtc::spec::cmos;

/// A kind of drive, by the letter that DOS users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// a: the floppy drives.
    Floppy,
    /// c: the hard disks.
    HardDisk,
    /// d: the CD drives.
    Cd,
}

impl Drive {
    const fn letter(self) -> char {
        match self {
            Drive::Floppy => 'a',
            Drive::HardDisk => 'c',
            Drive::Cd => 'd',
        }
    }

    /// The number that the firmware reads from CMOS.
    const fn number(self) -> u8 {
        match self {
            Drive::Floppy => 1,
            Drive::HardDisk => 2,
            Drive::Cd => 3,
        }
    }
}

/// One to three kinds of drives, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOrder(Vec<Drive>);

impl BootOrder {
    /// Bytes of CMOS RAM that tell the firmware: index and value. Bit 0 of the second byte lets it boot
    /// a floppy without the signature AA55h, as DOS 1 had none.
    pub fn cmos(&self) -> [(u8, u8); 2] {
        const ANY_FLOPPY: u8 = 1;
        let at = |index: usize| self.0.get(index).map_or(0, |drive| drive.number());
        [
            (cmos::BOOT_ORDER, at(0) | at(1) << 4),
            (cmos::BOOT_ORDER_THIRD, at(2) << 4 | ANY_FLOPPY),
        ]
    }
}

impl Default for BootOrder {
    /// Floppy, hard disk, CD.
    fn default() -> Self {
        BootOrder(vec![Drive::Floppy, Drive::HardDisk, Drive::Cd])
    }
}

impl fmt::Display for BootOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters: String = self.0.iter().map(|drive| drive.letter()).collect();
        f.write_str(&letters)
    }
}

impl FromStr for BootOrder {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const HINT: &str = "letters of a (floppy), c (hard disk) and d (CD) are needed, each once";
        let mut order = Vec::new();
        for letter in text.chars() {
            let drive = match letter {
                'a' => Drive::Floppy,
                'c' => Drive::HardDisk,
                'd' => Drive::Cd,
                _ => return Err(HINT),
            };
            if order.contains(&drive) {
                return Err(HINT);
            }
            order.push(drive);
        }
        if order.is_empty() {
            return Err(HINT);
        }
        Ok(BootOrder(order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_letters_that_do_not_repeat() {
        for text in ["a", "c", "d", "ca", "dca"] {
            let order: BootOrder = text.parse().expect(text);
            assert_eq!(order.to_string(), text);
        }
        for text in ["", "b", "aa", "acda", "A"] {
            assert!(text.parse::<BootOrder>().is_err(), "{text:?}");
        }
        assert_eq!(BootOrder::default().to_string(), "acd");
    }

    #[test]
    fn the_firmware_finds_the_order_in_cmos() {
        let order: BootOrder = "cad".parse().expect("an order");
        assert_eq!(order.cmos(), [(0x3d, 0x12), (0x38, 0x31)]);
        let one: BootOrder = "d".parse().expect("an order");
        assert_eq!(one.cmos(), [(0x3d, 0x03), (0x38, 0x01)]);
    }
}

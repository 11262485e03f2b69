//! Registers and commands of the keyboard controller (Intel UPI-41/42 with the firmware of the
//! IBM PS/2; *PS/2 Hardware Interface Technical Reference*, "Keyboard and auxiliary device
//! controller"), and of the devices behind it.

use bitflags::bitflags;

/// Data port: output buffer (RO), input buffer (WO).
pub const DATA: u16 = 0x60;
/// Status register (RO), command (WO).
pub const COMMAND: u16 = 0x64;

bitflags! {
    /// Status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u8 {
        /// Output buffer full.
        const OBF = 0x01;
        /// Input buffer full. Never set: the controller takes bytes at once.
        const IBF = 0x02;
        /// System flag, a copy of [`Config::SYS`].
        const SYS = 0x04;
        /// The last write went to port 64h.
        const A2 = 0x08;
        /// The keyboard lock is open.
        const INH = 0x10;
        /// The output buffer holds a byte of the auxiliary device.
        const AUX_OBF = 0x20;
        /// Time-out.
        const TIMEOUT = 0x40;
        /// Parity error.
        const PARITY = 0x80;
    }

    /// Controller command byte: RAM location 0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Config: u8 {
        /// IRQ 1 for keyboard bytes.
        const KBD_INT = 0x01;
        /// IRQ 12 for auxiliary bytes.
        const AUX_INT = 0x02;
        /// System flag.
        const SYS = 0x04;
        /// Keyboard clock held low.
        const KBD_DISABLE = 0x10;
        /// Auxiliary clock held low.
        const AUX_DISABLE = 0x20;
        /// Scan codes are translated from set 2 to set 1.
        const TRANSLATE = 0x40;
    }

    /// Output port P2.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OutputPort: u8 {
        /// RESET# of the processor, active low.
        const RESET_N = 0x01;
        /// Gate A20.
        const A20 = 0x02;
        /// Auxiliary data.
        const AUX_DATA = 0x04;
        /// Auxiliary clock.
        const AUX_CLOCK = 0x08;
        /// Output buffer full: IRQ 1.
        const KBD_IRQ = 0x10;
        /// Auxiliary output buffer full: IRQ 12.
        const AUX_IRQ = 0x20;
        /// Keyboard clock.
        const KBD_CLOCK = 0x40;
        /// Keyboard data.
        const KBD_DATA = 0x80;
    }
}

/// Controller commands, written to port 64h.
pub mod command {
    /// 20h-3Fh: read RAM.
    pub const READ_RAM: u8 = 0x20;
    /// 60h-7Fh: write RAM.
    pub const WRITE_RAM: u8 = 0x60;
    /// Test password installed.
    pub const TEST_PASSWORD: u8 = 0xa4;
    /// Disable the auxiliary interface.
    pub const DISABLE_AUX: u8 = 0xa7;
    /// Enable the auxiliary interface.
    pub const ENABLE_AUX: u8 = 0xa8;
    /// Test the auxiliary interface.
    pub const TEST_AUX: u8 = 0xa9;
    /// Controller self-test.
    pub const SELF_TEST: u8 = 0xaa;
    /// Test the keyboard interface.
    pub const TEST_KBD: u8 = 0xab;
    /// Disable the keyboard interface.
    pub const DISABLE_KBD: u8 = 0xad;
    /// Enable the keyboard interface.
    pub const ENABLE_KBD: u8 = 0xae;
    /// Read the input port P1.
    pub const READ_INPUT: u8 = 0xc0;
    /// Read the output port P2.
    pub const READ_OUTPUT: u8 = 0xd0;
    /// Write the output port P2.
    pub const WRITE_OUTPUT: u8 = 0xd1;
    /// Write the output buffer as if from the keyboard.
    pub const WRITE_KBD_BUFFER: u8 = 0xd2;
    /// Write the output buffer as if from the auxiliary device (loop back).
    pub const WRITE_AUX_BUFFER: u8 = 0xd3;
    /// Send a byte to the auxiliary device.
    pub const WRITE_AUX: u8 = 0xd4;
    /// Gate A20 off (not IBM, but everywhere).
    pub const DISABLE_A20: u8 = 0xdd;
    /// Gate A20 on.
    pub const ENABLE_A20: u8 = 0xdf;
    /// Read the test inputs.
    pub const READ_TEST: u8 = 0xe0;
    /// F0h-FFh: pulse the bits of P2 that are 0.
    pub const PULSE: u8 = 0xf0;
}

/// Answer of [`command::SELF_TEST`]: passed.
pub const SELF_TEST_PASSED: u8 = 0x55;
/// Answer of the interface tests: no error.
pub const INTERFACE_OK: u8 = 0x00;
/// Answer of [`command::TEST_PASSWORD`]: none installed.
pub const NO_PASSWORD: u8 = 0xf1;
/// P1: the keyboard is not locked, the display is colour.
pub const INPUT_PORT: u8 = 0x80;

/// Time a device needs to send a byte (11 bits at 16.7 kHz take 0.66 ms; the controller passes
/// it on). Software that reads port 60h twice for one scan code relies on it.
pub const BYTE_NANOS: u64 = 600_000;

/// Bytes that keyboard and mouse have in common.
pub mod device {
    /// Acknowledge.
    pub const ACK: u8 = 0xfa;
    /// Resend (answer), or request to resend (command).
    pub const RESEND: u8 = 0xfe;
    /// The basic assurance test passed.
    pub const BAT_OK: u8 = 0xaa;
    /// Command: reset.
    pub const RESET: u8 = 0xff;
    /// Command: set defaults.
    pub const SET_DEFAULTS: u8 = 0xf6;
    /// Command: set defaults and disable.
    pub const DISABLE: u8 = 0xf5;
    /// Command: enable.
    pub const ENABLE: u8 = 0xf4;
    /// Command: set typematic rate (keyboard), set sampling rate (mouse).
    pub const SET_RATE: u8 = 0xf3;
    /// Command: read device type.
    pub const IDENTIFY: u8 = 0xf2;
}

/// Scan code set 2 to set 1, as the controller translates it.
pub const SET2_TO_SET1: [u8; 133] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
    0x80, 0x81, 0x82, 0x41, 0x54,
];

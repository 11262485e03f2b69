//! The devices of a PC: buses, interrupt controllers, timers, serial ports.

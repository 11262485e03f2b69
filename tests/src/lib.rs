//! Helpers shared by the test suites.

pub mod boot_disk;
pub mod bzimage;
pub mod compare;
pub mod console;
pub mod differential;
pub mod fuzz;
pub mod generate;
pub mod guest_programs;
pub mod guests;
pub mod hwvirt;
pub mod initrd;
pub mod modules;
pub mod monitor;
pub mod moo;
pub mod native;
pub mod open_bus;
pub mod packages;
pub mod paths;
pub mod privileged;
pub mod programs;
pub mod ring3;
pub mod scripted;
pub mod setting;
pub mod shell_session;
pub mod tiny_init;
pub mod trace_event;

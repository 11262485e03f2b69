//! Privileged and sensitive instructions, segment loads, control transfers through gates, exceptions.

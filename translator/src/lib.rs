//! Binary translation of 16- and 32-bit x86 code to x86-64.

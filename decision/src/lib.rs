//! Which engine may run a guest state, which one should, and why.

//! Guest-physical memory, guest page walks, shadow page tables, windows and traces.

//! Copies through the host addresses that the shadow MMU hands out for plain RAM.
#![allow(unsafe_code)] // the fast path of every small access: an `AccessPlan::Direct` is a raw pointer

/// Copies from guest memory. `from` is an `AccessPlan::Direct` just made for a read of `buf.len()` bytes.
#[inline]
pub(super) fn load(from: *const u8, buf: &mut [u8]) {
    // SAFETY: the shadow MMU vouches for `buf.len()` readable bytes at the address until it is next
    // called; guest memory is never a Rust object, so it cannot overlap `buf`.
    unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) }
}

/// Copies to guest memory. `to` is an `AccessPlan::Direct` just made for a write of `data.len()` bytes.
#[inline]
pub(super) fn store(to: *mut u8, data: &[u8]) {
    // SAFETY: as in `load`, and the page is neither traced nor read-only, or the plan were `Slow`.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) }
}

//! Pushes and pops of several values that happen together or not at all.

use super::memory::in_limit;
use super::{Exception, System};
use crate::state::{Rights, Segment, reg, seg};
use shadow_mmu::Privilege;

/// Most values in a frame: 31 parameters of a call gate, SS, ESP, CS, EIP.
const FRAME_VALUES: usize = 36;

/// Most bytes read from the stack at once: an IRET to virtual-8086 mode.
const PEEK_BYTES: usize = 9 * 4;

/// Values to be pushed, as the bytes that they become.
pub(super) struct Frame {
    bytes: [u8; FRAME_VALUES * 4],
    /// Index of the value pushed last.
    start: usize,
    width: usize,
}

impl Frame {
    /// An empty frame of 2- or 4-byte values.
    pub(super) fn new(width: usize) -> Frame {
        let bytes = [0; FRAME_VALUES * 4];
        Frame {
            start: bytes.len(),
            bytes,
            width,
        }
    }

    /// A frame with these values, the first one pushed first.
    pub(super) fn with<const N: usize>(width: usize, values: [u32; N]) -> Frame {
        let mut frame = Frame::new(width);
        for value in values {
            frame.push(value);
        }
        frame
    }

    /// Pushes one value; 2-byte frames take its low half.
    pub(super) fn push(&mut self, value: u32) {
        let start = self.start.saturating_sub(self.width);
        if let Some(place) = self.bytes.get_mut(start..start + self.width) {
            place.copy_from_slice(value.to_le_bytes().get(..self.width).unwrap_or_default());
        }
        self.start = start;
    }

    /// What it looks like in memory, from the lowest address up.
    pub(super) fn image(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// The bits of ESP that a stack in this segment uses.
pub(super) fn pointer_mask(stack: &Segment) -> u32 {
    if stack.is_big() { u32::MAX } else { 0xFFFF }
}

impl System<'_> {
    /// Checks that a frame fits the limit of `stack` below `sp`; `fault` otherwise.
    pub(super) fn check_frame(
        stack: &Segment,
        sp: u32,
        frame: &Frame,
        fault: Exception,
    ) -> Result<(), Exception> {
        // SS is always writable or unusable: nothing else can be loaded.
        if stack.rights.contains(Rights::UNUSABLE) {
            return Err(fault);
        }
        let mask = pointer_mask(stack);
        let len = frame.image().len() as u32;
        let start = sp.wrapping_sub(len) & mask;
        if len - 1 <= mask - start {
            return if in_limit(stack, start, len) {
                Ok(())
            } else {
                Err(fault)
            };
        }
        let width = frame.width as u32;
        (1..=len / width)
            .all(|n| in_limit(stack, sp.wrapping_sub(n * width) & mask, width))
            .then_some(())
            .ok_or(fault)
    }

    /// Writes a frame below `sp` of `stack`, all of it or nothing, and returns the new stack
    /// pointer (upper half of `sp` kept with a 16-bit stack). No register is changed. `fault` is
    /// raised for the limit; a page fault is that of the value that meets it first.
    pub(super) fn push_frame(
        &mut self,
        stack: &Segment,
        sp: u32,
        frame: &Frame,
        privilege: Privilege,
        fault: Exception,
    ) -> Result<u32, Exception> {
        Self::check_frame(stack, sp, frame, fault)?;
        let mask = pointer_mask(stack);
        let image = frame.image();
        let start = sp.wrapping_sub(image.len() as u32) & mask;
        let new = (sp & !mask) | start;
        let contiguous = image.len() as u32 - 1 <= mask - start;
        if privilege == Privilege::User {
            let linear = stack.base.wrapping_add(start);
            self.check_alignment(linear, frame.width, frame.width as u32, true)?;
        }
        if contiguous
            && self
                .write_linear(stack.base.wrapping_add(start), image, privilege)
                .is_ok()
        {
            return Ok(new);
        }
        let width = frame.width;
        let places = || {
            image.rchunks(width).zip(1u32..).map(|(value, n)| {
                let offset = sp.wrapping_sub(n * width as u32) & mask;
                (stack.base.wrapping_add(offset), value)
            })
        };
        for (linear, value) in places() {
            self.check_write(linear, value.len(), privilege)?;
        }
        for (linear, value) in places() {
            self.write_linear(linear, value, privilege)?;
        }
        Ok(new)
    }

    /// Pushes a frame on the current stack and moves ESP.
    pub(super) fn push(&mut self, frame: &Frame) -> Result<(), Exception> {
        let stack = self.cpu.seg[seg::SS];
        let esp = self.cpu.gpr[reg::ESP];
        let privilege = self.privilege();
        self.cpu.gpr[reg::ESP] =
            self.push_frame(&stack, esp, frame, privilege, Exception::stack_fault())?;
        Ok(())
    }

    /// Reads `N` values of `width` bytes from the top of the current stack, `skip` bytes into it.
    /// ESP is not moved.
    ///
    /// # Errors
    /// #SS(0) for the limit, #PF.
    pub(super) fn peek<const N: usize>(
        &mut self,
        skip: u32,
        width: usize,
    ) -> Result<[u32; N], Exception> {
        let mask = pointer_mask(&self.cpu.seg[seg::SS]);
        let sp = self.cpu.gpr[reg::ESP].wrapping_add(skip);
        let (start, len) = (sp & mask, (N * width) as u32);
        let mut values = [0; N];
        if len - 1 <= mask - start && len as usize <= PEEK_BYTES {
            let linear = self.segment_access(seg::SS, start, len, false)?;
            self.check_alignment(linear, len as usize, width as u32, false)?;
            let mut bytes = [0u8; PEEK_BYTES];
            let bytes = bytes.get_mut(..len as usize).unwrap_or_default();
            self.read_linear(linear, bytes, self.privilege())?;
            for (value, chunk) in values.iter_mut().zip(bytes.chunks(width)) {
                *value = chunk.iter().rev().fold(0, |v, &b| v << 8 | u32::from(b));
            }
            return Ok(values);
        }
        for (value, n) in values.iter_mut().zip(0u32..) {
            let offset = sp.wrapping_add(n * width as u32) & mask;
            *value = if width == 2 {
                u32::from(u16::from_le_bytes(self.read_segment(seg::SS, offset)?))
            } else {
                u32::from_le_bytes(self.read_segment(seg::SS, offset)?)
            };
        }
        Ok(values)
    }

    /// Sets ESP, or SP with a 16-bit stack segment in SS.
    pub(super) fn set_stack_pointer(&mut self, value: u32) {
        let mask = pointer_mask(&self.cpu.seg[seg::SS]);
        let esp = &mut self.cpu.gpr[reg::ESP];
        *esp = (*esp & !mask) | (value & mask);
    }

    /// Moves the stack pointer up by `bytes`.
    pub(super) fn pop(&mut self, bytes: u32) {
        self.set_stack_pointer(self.cpu.gpr[reg::ESP].wrapping_add(bytes));
    }
}

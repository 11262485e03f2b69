//! What is known of the processor before and after a case.

/// A value of the state of a case. The order is that of the guest's records: [`Field::Eip`] and
/// [`Field::Cs`], [`Field::Esp`] and [`Field::Ss`] are far pointers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
#[allow(missing_docs)] // the names are the registers
pub enum Field {
    /// Vector of the exception that ended the case; 0 before.
    Vector,
    /// Its error code, 0 if it has none.
    Error,
    Eip,
    Cs,
    Eflags,
    Esp,
    Ss,
    Es,
    Ds,
    Fs,
    Gs,
    Eax,
    Ecx,
    Edx,
    Ebx,
    Ebp,
    Esi,
    Edi,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Tr,
    Ldtr,
    GdtBase,
    GdtLimit,
    IdtBase,
    IdtLimit,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    /// The low half; the driver clears the other.
    Efer,
    Dr7,
    Dr6,
}

impl Field {
    /// All, in order.
    pub const ALL: [Field; 34] = [
        Field::Vector,
        Field::Error,
        Field::Eip,
        Field::Cs,
        Field::Eflags,
        Field::Esp,
        Field::Ss,
        Field::Es,
        Field::Ds,
        Field::Fs,
        Field::Gs,
        Field::Eax,
        Field::Ecx,
        Field::Edx,
        Field::Ebx,
        Field::Ebp,
        Field::Esi,
        Field::Edi,
        Field::Cr0,
        Field::Cr2,
        Field::Cr3,
        Field::Cr4,
        Field::Tr,
        Field::Ldtr,
        Field::GdtBase,
        Field::GdtLimit,
        Field::IdtBase,
        Field::IdtLimit,
        Field::SysenterCs,
        Field::SysenterEsp,
        Field::SysenterEip,
        Field::Efer,
        Field::Dr7,
        Field::Dr6,
    ];

    /// Number of fields.
    pub const COUNT: usize = Field::ALL.len();

    /// Offset in a record.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self as u32 * 4
    }
}

/// Values of all fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State(pub [u32; Field::COUNT]);

impl std::ops::Index<Field> for State {
    type Output = u32;
    fn index(&self, field: Field) -> &u32 {
        &self.0[field as usize]
    }
}

impl std::ops::IndexMut<Field> for State {
    fn index_mut(&mut self, field: Field) -> &mut u32 {
        &mut self.0[field as usize]
    }
}

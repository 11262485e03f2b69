//! What is not compared, and why. Every rule is counted; together they may not hide more than 2 % of
//! the forms.

use super::form::Form;
use iced_x86::Mnemonic;

/// A reason not to compare a form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Exclusion {
    /// CPUID, RDTSC, RDPMC: the answer is the machine's choice, not the processor's.
    MachineAnswers,
    /// SGDT, SIDT, SLDT, STR, SMSW: reads the host's own tables, or UMIP's made-up ones.
    Sensitive,
    /// INT1: hypervisors report it with EIP before or after it.
    Hypervisor,
    /// SYSENTER and SYSEXIT: would enter the host's kernel, or is #UD in compatibility mode on AMD.
    SystemCall,
}

impl Exclusion {
    /// Every rule.
    pub const ALL: [Exclusion; 4] = [
        Exclusion::MachineAnswers,
        Exclusion::Sensitive,
        Exclusion::Hypervisor,
        Exclusion::SystemCall,
    ];

    /// The reason in words.
    pub fn reason(self) -> &'static str {
        match self {
            Exclusion::MachineAnswers => "the answer is the machine's choice",
            Exclusion::Sensitive => "shows the host's descriptor tables (or UMIP's fictions)",
            Exclusion::Hypervisor => "the EIP of INT1 is the host's hypervisor's choice",
            Exclusion::SystemCall => "would enter the host's kernel",
        }
    }
}

/// The rule that excludes a form, if one does.
pub fn exclusion(form: &Form) -> Option<Exclusion> {
    match form.code.mnemonic() {
        Mnemonic::Cpuid | Mnemonic::Rdtsc | Mnemonic::Rdpmc => Some(Exclusion::MachineAnswers),
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => {
            Some(Exclusion::Sensitive)
        }
        Mnemonic::Int1 => Some(Exclusion::Hypervisor),
        Mnemonic::Sysenter | Mnemonic::Sysexit => Some(Exclusion::SystemCall),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::{CORE_DUO, forms};
    use super::*;

    #[test]
    fn exclusions_stay_under_two_per_cent() {
        let forms = forms(&CORE_DUO);
        let excluded = forms.iter().filter(|form| exclusion(form).is_some());
        let excluded = excluded.count();
        assert!(excluded > 0);
        assert!(
            excluded * 50 <= forms.len(),
            "{excluded} of {}",
            forms.len()
        );
    }
}

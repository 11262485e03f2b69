//! What little the engine looks at of the instruction it left at.

use decision::ExitKind;
use shadow_mmu::Mmu;

use super::descriptors::read_linear;

/// The kind of event that made an instruction fault, for the record of the switch. Only a name: the
/// translator finds out what the fault means.
pub(super) fn kind(mmu: &Mmu, linear: u32) -> ExitKind {
    let mut bytes = [0; 6];
    read_linear(mmu, linear, &mut bytes);
    kind_of(&bytes)
}

fn kind_of(bytes: &[u8]) -> ExitKind {
    // Segment overrides, operand and address size, LOCK, REP (Intel SDM vol. 2A, section 2.1.1).
    let is_prefix = |byte: &u8| {
        matches!(
            byte,
            0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3
        )
    };
    let mut rest = bytes.iter().copied().skip_while(is_prefix);
    match (rest.next(), rest.next()) {
        // int3, int n, into; sysenter, syscall
        (Some(0xCC..=0xCE), _) | (Some(0x0F), Some(0x05 | 0x34)) => ExitKind::SystemCall,
        // ins, outs; in, out with an immediate port; in, out with DX
        (Some(0x6C..=0x6F | 0xE4..=0xE7 | 0xEC..=0xEF), _) => ExitKind::Port,
        _ => ExitKind::Exception,
    }
}

/// How far behind the start of the instruction EIP is after a trap: `icebp` (vector 1), and `int3`,
/// `int 3`, `into` and `int 4` on a KVM that delivers them without a look at the gate's privilege.
/// `before` are the two bytes before EIP.
pub(super) fn trap_length(vector: u8, before: [u8; 2]) -> u32 {
    match (vector, before) {
        (3 | 4, [0xCD, number]) if number == vector => 2,
        (1, [_, 0xF1]) | (3, [_, 0xCC]) | (4, [_, 0xCE]) => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert_eq!(kind_of(&[0xCD, 0x80]), ExitKind::SystemCall);
        assert_eq!(kind_of(&[0x0F, 0x34]), ExitKind::SystemCall);
        assert_eq!(kind_of(&[0xF3, 0x66, 0x6D]), ExitKind::Port);
        assert_eq!(kind_of(&[0xE4, 0x80]), ExitKind::Port);
        assert_eq!(kind_of(&[0x0F, 0x0B]), ExitKind::Exception);
        assert_eq!(kind_of(&[0x66; 6]), ExitKind::Exception);
        assert_eq!(kind_of(&[0xFA]), ExitKind::Exception);
    }

    #[test]
    fn traps_are_taken_back_to_their_instruction() {
        assert_eq!(trap_length(1, [0x90, 0xF1]), 1);
        assert_eq!(trap_length(1, [0x90, 0x90]), 0, "a single step");
        assert_eq!(trap_length(3, [0xCD, 0x03]), 2);
        assert_eq!(trap_length(3, [0x90, 0xCC]), 1);
        assert_eq!(trap_length(4, [0xCD, 0x04]), 2);
        assert_eq!(trap_length(4, [0x90, 0xCE]), 1);
    }
}

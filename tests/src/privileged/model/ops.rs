//! The instructions.

use super::super::Field;
use super::super::op::{Op, Seg, Unit};
use super::super::units;
use super::super::world::kind;
use super::segment::{Descriptor, Hidden, is_null, rpl};
use super::{Cpu, Fault, Step, flag, vector};

/// Bits of CR0 (Intel SDM vol. 3A, section 2.5).
mod cr0 {
    pub(super) const PE: u32 = 1;
    pub(super) const MP: u32 = 1 << 1;
    pub(super) const EM: u32 = 1 << 2;
    pub(super) const TS: u32 = 1 << 3;
    pub(super) const ET: u32 = 1 << 4;
    pub(super) const NW: u32 = 1 << 29;
    pub(super) const CD: u32 = 1 << 30;
    pub(super) const PG: u32 = 1 << 31;
    /// Those that exist.
    pub(super) const ALL: u32 = 0xE005_003F;
}

/// Bits of CR4.
mod cr4 {
    pub(super) const TSD: u32 = 1 << 2;
    pub(super) const DE: u32 = 1 << 3;
    pub(super) const PCE: u32 = 1 << 8;
    pub(super) const OSFXSR: u32 = 1 << 9;
}

/// Bits of CR4 that Ringshift's processors with SSE have.
pub(crate) const CR4_BITS: u32 = 0x7BC;

/// IA32_EFER, and the bit of it that processors without Intel 64 have: execute disable.
pub(crate) const EFER: u32 = 0xC000_0080;
const EFER_NXE: u32 = 1 << 11;

/// DR7.GD and DR6.BD.
const GENERAL_DETECT: u32 = 1 << 13;

impl Cpu {
    pub(super) fn execute(&mut self, op: Op) -> Step {
        let ud = Err(Fault::new(vector::UD));
        let gp = Err(Fault::new(vector::GP));
        match op {
            Op::Undefined => ud,
            Op::Nothing => Ok(()),
            Op::Privileged => self.require_cpl0(),
            Op::Cli | Op::Sti => {
                let allowed = self.real() || self.cpl <= self.iopl();
                if !allowed {
                    return gp;
                }
                self.set_flag(flag::IF, op == Op::Sti);
                Ok(())
            }
            Op::Pushf { size } => {
                self.require_v86_iopl()?;
                let image = self.state[Field::Eflags] & 0xFC_FFFF;
                self.push(size, image)
            }
            Op::Popf { size } => {
                self.require_v86_iopl()?;
                let image = self.pop(size)?;
                self.load_flags(image, size, self.cpl, false);
                Ok(())
            }
            Op::Iret { size } => self.interrupt_return(size),
            Op::In { .. } | Op::Out { .. } | Op::Ins { .. } | Op::Outs { .. } => self.port(op),
            Op::RepIns { size } => self.repeat(Op::Ins { size }),
            Op::RepOuts { size } => self.repeat(Op::Outs { size }),
            Op::LoadTable { gdt, offset, wide } => self.load_table(gdt, offset, wide),
            Op::StoreTable { gdt, offset } => self.store_table(gdt, offset),
            Op::Lldt | Op::Ltr => self.load_system(op == Op::Ltr),
            Op::Sldt { size } | Op::Str { size } => {
                if self.real() || self.v86() {
                    return ud;
                }
                let field = if matches!(op, Op::Str { .. }) {
                    Field::Tr
                } else {
                    Field::Ldtr
                };
                let value = self.state[field];
                self.set_low(Field::Eax, size, value);
                Ok(())
            }
            Op::Smsw { size } => {
                let value = self.state[Field::Cr0];
                self.set_low(Field::Eax, size, value);
                Ok(())
            }
            Op::StoreWord { field, offset } => {
                if field != Field::Cr0 && (self.real() || self.v86()) {
                    return ud;
                }
                self.write_segment(Seg::Ds, offset, 2, self.state[field])
            }
            Op::Lmsw => {
                self.require_cpl0()?;
                self.load_status(self.state[Field::Eax]);
                Ok(())
            }
            Op::LmswMemory { offset } => {
                self.require_cpl0()?;
                let value = self.read_segment(Seg::Ds, offset, 2)?;
                self.load_status(value);
                Ok(())
            }
            Op::Clts => {
                self.require_cpl0()?;
                self.state[Field::Cr0] &= !cr0::TS;
                Ok(())
            }
            Op::ReadCr(n) => {
                let field = control(n).ok_or(Fault::new(vector::UD))?;
                self.require_cpl0()?;
                self.state[Field::Eax] = self.state[field];
                Ok(())
            }
            Op::WriteCr(n) => self.write_control(n),
            Op::ReadDr(_) | Op::WriteDr(_) => self.debug_register(op),
            Op::Rdmsr | Op::Wrmsr => self.msr(op == Op::Wrmsr),
            Op::Rdtsc => {
                if self.state[Field::Cr4] & cr4::TSD != 0 && self.cpl != 0 {
                    return gp;
                }
                Ok(())
            }
            Op::Rdpmc => {
                let allowed = self.state[Field::Cr4] & cr4::PCE != 0 || self.cpl == 0;
                if !allowed || self.state[Field::Ecx] > 1 {
                    return gp;
                }
                Ok(())
            }
            Op::Sysenter => {
                let cs = self.state[Field::SysenterCs] as u16;
                if self.real() || is_null(cs) {
                    return gp;
                }
                self.set_flag(flag::VM | flag::IF | flag::RF, false);
                let target = (
                    self.state[Field::SysenterEip],
                    self.state[Field::SysenterEsp],
                );
                self.fast_transfer(cs & 0xFFFC, 0, target);
                Ok(())
            }
            Op::Sysexit => {
                let cs = self.state[Field::SysenterCs] as u16;
                if self.real() || is_null(cs) || self.cpl != 0 {
                    return gp;
                }
                let target = (self.state[Field::Edx], self.state[Field::Ecx]);
                self.fast_transfer((cs + 16) | 3, 3, target);
                Ok(())
            }
            Op::Lar { .. } | Op::Lsl { .. } | Op::Verr | Op::Verw => self.ask(op),
            Op::Arpl => {
                if self.real() || self.v86() {
                    return ud;
                }
                let (to, from) = (self.state[Field::Eax], self.state[Field::Ecx]);
                let raised = to & 3 < from & 3;
                if raised {
                    self.set_low(Field::Eax, 2, to & !3 | from & 3);
                }
                self.set_flag(flag::ZF, raised);
                Ok(())
            }
            Op::Int(n) => {
                self.require_v86_iopl()?;
                self.software_interrupt(n)
            }
            Op::Int3 => self.software_interrupt(vector::BP),
            Op::Into if self.flags(flag::OF) => self.software_interrupt(vector::OF),
            Op::Into => Ok(()),
            Op::Bound { offset, size } => {
                let low = self.read_segment(Seg::Ds, offset, size)?;
                let high = self.read_segment(Seg::Ds, offset + size, size)?;
                let signed = |value: u32| {
                    if size == 2 {
                        i32::from(value as u16 as i16)
                    } else {
                        value as i32
                    }
                };
                let index = signed(self.state[Field::Eax]);
                if index < signed(low) || index > signed(high) {
                    return Err(Fault::new(vector::BR));
                }
                Ok(())
            }
            // DR6 stays as it is (newer editions, INT n).
            Op::Icebp => Err(Fault {
                trap: true,
                ..Fault::new(vector::DB)
            }),
            Op::MovSeg(Seg::Cs) => ud,
            Op::MovSeg(seg) => self.load(seg, self.state[Field::Eax] as u16),
            Op::PopSeg { seg, size } => {
                // The selector is checked before ESP moves.
                let value = self.read_segment(Seg::Ss, self.stack_offset(0), size)?;
                if seg == Seg::Ss {
                    // POP SS moves the old stack's pointer.
                    let mask = self.stack_mask();
                    let esp = self.state[Field::Esp];
                    self.load(seg, value as u16)?;
                    self.state[Field::Esp] = esp & !mask | esp.wrapping_add(size) & mask;
                    return Ok(());
                }
                self.load(seg, value as u16)?;
                self.move_stack(size);
                Ok(())
            }
            Op::LoadFar { seg, offset, size } => {
                let value = self.read_segment(Seg::Ds, offset, size)?;
                let selector = self.read_segment(Seg::Ds, offset + size, 2)? as u16;
                self.load(seg, selector)?;
                self.set_low(Field::Eax, size, value);
                Ok(())
            }
            Op::FarTo {
                how,
                selector,
                offset,
                size,
            } => self.far(how, selector, offset, size),
            Op::RetFar { size, release } => self.return_far(size, release.into()),
            Op::Access {
                seg,
                offset,
                size,
                write,
            } => {
                if write {
                    let value = self.state[Field::Eax];
                    return self.write_segment(seg, offset, size, value);
                }
                let value = self.read_segment(seg, offset, size)?;
                self.set_low(Field::Eax, size, value);
                Ok(())
            }
            Op::Push { size } => self.push(size, self.state[Field::Eax]),
            Op::Pop { size } => {
                let value = self.pop(size)?;
                self.set_low(Field::Eax, size, value);
                Ok(())
            }
            Op::Unit(unit) => self.unit(unit),
            Op::FxSave { offset } => self.save_units(offset),
            Op::FxRestore { offset } => {
                self.restore_units(offset)?;
                self.save_units(offset)
            }
        }
    }

    /// LMSW: PE can be set and not cleared.
    fn load_status(&mut self, value: u32) {
        let old = self.state[Field::Cr0];
        self.state[Field::Cr0] = old & !0xE | value & 0xF;
    }

    fn require_v86_iopl(&self) -> Step {
        if self.v86() && self.iopl() < 3 {
            Err(Fault::new(vector::GP))
        } else {
            Ok(())
        }
    }

    /// CS and SS of SYSENTER and SYSEXIT, which no descriptor is read for.
    fn fast_transfer(&mut self, cs: u16, cpl: u8, (eip, esp): (u32, u32)) {
        let flat = |kind: u8| Hidden {
            present: true,
            base: 0,
            limit: u32::MAX,
            kind,
            dpl: cpl,
            big: true,
        };
        self.cpl = cpl;
        self.set(Seg::Cs, cs, flat(kind::CODE));
        self.set(Seg::Ss, cs + 8, flat(kind::DATA));
        self.state[Field::Eip] = eip;
        self.state[Field::Esp] = esp;
    }

    /// The operand of FXSAVE and FXRSTOR, where it may be accessed.
    fn units_operand(&mut self, offset: u32, write: bool) -> Step<u32> {
        self.unit(Unit::Fxsave)?;
        let address = self.check_access(Seg::Ds, offset, units::SIZE as u32, write)?;
        if address % 16 != 0 {
            return Err(Fault::new(vector::GP));
        }
        Ok(address)
    }

    fn save_units(&mut self, offset: u32) -> Step {
        let address = self.units_operand(offset, true)?;
        let image = self.units;
        self.memory.put(address, &image[..units::WRITTEN]);
        Ok(())
    }

    fn restore_units(&mut self, offset: u32) -> Step {
        let address = self.units_operand(offset, false)?;
        let mxcsr = self.memory.read(address + units::offset::MXCSR as u32, 4);
        let sse = self.state[Field::Cr4] & cr4::OSFXSR != 0;
        if sse && mxcsr & !units::MXCSR_BITS != 0 {
            return Err(Fault::new(vector::GP));
        }
        for (byte, address) in self.units[..units::WRITTEN].iter_mut().zip(address..) {
            *byte = self.memory.byte(address);
        }
        Ok(())
    }

    fn load_table(&mut self, gdt: bool, offset: u32, wide: bool) -> Step {
        self.require_cpl0()?;
        let limit = self.read_segment(Seg::Ds, offset, 2)?;
        let base = self.read_segment(Seg::Ds, offset + 2, 4)?;
        let base = if wide { base } else { base & 0xFF_FFFF };
        let (b, l) = table(gdt);
        self.state[b] = base;
        self.state[l] = limit;
        Ok(())
    }

    fn store_table(&mut self, gdt: bool, offset: u32) -> Step {
        let (b, l) = table(gdt);
        let (base, limit) = (self.state[b], self.state[l]);
        self.check_access(Seg::Ds, offset, 6, true)?;
        self.write_segment(Seg::Ds, offset, 2, limit)?;
        self.write_segment(Seg::Ds, offset + 2, 4, base)
    }

    /// LLDT and LTR of AX.
    fn load_system(&mut self, task: bool) -> Step {
        if self.real() || self.v86() {
            return Err(Fault::new(vector::UD));
        }
        self.require_cpl0()?;
        let selector = self.state[Field::Eax] as u16;
        if is_null(selector) {
            if task {
                return Err(Fault::new(vector::GP));
            }
            self.state[Field::Ldtr] = selector.into();
            self.ldt = Hidden::default();
            return Ok(());
        }
        let bad = Fault::of(vector::GP, selector);
        if selector & 4 != 0 {
            return Err(bad);
        }
        let descriptor = self.require(selector, vector::GP)?;
        let fits = if task {
            matches!(descriptor.kind(), kind::TSS_16 | kind::TSS_32)
        } else {
            descriptor.kind() == kind::LDT
        };
        if !fits {
            return Err(bad);
        }
        if !descriptor.present() {
            return Err(Fault::of(vector::NP, selector));
        }
        if task {
            self.state[Field::Tr] = selector.into();
            self.tr = descriptor.hidden();
            if let Some(address) = self.descriptor_address(selector) {
                let byte = self.memory.read(address + 5, 1) | 2;
                self.memory.write(address + 5, 1, byte);
            }
        } else {
            self.state[Field::Ldtr] = selector.into();
            self.ldt = descriptor.hidden();
        }
        Ok(())
    }

    fn write_control(&mut self, n: u8) -> Step {
        let field = control(n).ok_or(Fault::new(vector::UD))?;
        self.require_cpl0()?;
        let value = self.state[Field::Eax];
        let gp = Err(Fault::new(vector::GP));
        let value = match n {
            0 => {
                let value = value & cr0::ALL | cr0::ET;
                if value & (cr0::PG | cr0::PE) == cr0::PG {
                    return gp;
                }
                if value & (cr0::NW | cr0::CD) == cr0::NW {
                    return gp;
                }
                value
            }
            4 if value & !CR4_BITS != 0 => return gp,
            _ => value,
        };
        self.state[field] = value;
        Ok(())
    }

    fn debug_register(&mut self, op: Op) -> Step {
        let (n, write) = match op {
            Op::WriteDr(n) => (n, true),
            Op::ReadDr(n) => (n, false),
            _ => (0, false),
        };
        if matches!(n, 4 | 5) && self.state[Field::Cr4] & cr4::DE != 0 {
            return Err(Fault::new(vector::UD));
        }
        self.require_cpl0()?;
        if self.state[Field::Dr7] & GENERAL_DETECT != 0 {
            self.state[Field::Dr7] &= !GENERAL_DETECT;
            self.state[Field::Dr6] |= GENERAL_DETECT;
            return Err(Fault::new(vector::DB));
        }
        let field = match n {
            4 | 6 => Field::Dr6,
            5 | 7 => Field::Dr7,
            _ => return Ok(()),
        };
        if !write {
            self.state[Field::Eax] = self.state[field];
            return Ok(());
        }
        let value = self.state[Field::Eax];
        self.state[field] = if field == Field::Dr6 {
            value & 0xE00F | 0xFFFF_0FF0
        } else {
            value & 0xFFFF_23FF | 0x400
        };
        Ok(())
    }

    fn msr(&mut self, write: bool) -> Step {
        self.require_cpl0()?;
        let field = match self.state[Field::Ecx] {
            0x174 => Field::SysenterCs,
            0x175 => Field::SysenterEsp,
            0x176 => Field::SysenterEip,
            EFER => {
                let value = (self.state[Field::Edx], self.state[Field::Eax]);
                if write && (value.0 != 0 || value.1 & !EFER_NXE != 0) {
                    return Err(Fault::new(vector::GP));
                }
                Field::Efer
            }
            // The time-stamp counter.
            0x10 => return Ok(()),
            _ => return Err(Fault::new(vector::GP)),
        };
        if write {
            self.state[field] = self.state[Field::Eax];
        } else {
            self.state[Field::Eax] = self.state[field];
            self.state[Field::Edx] = 0;
        }
        Ok(())
    }

    /// LAR, LSL, VERR, VERW of the selector in ECX; the result in EAX.
    fn ask(&mut self, op: Op) -> Step {
        if self.real() || self.v86() {
            return Err(Fault::new(vector::UD));
        }
        let selector = self.state[Field::Ecx] as u16;
        let found = if is_null(selector) {
            None
        } else {
            self.descriptor(selector)
        };
        let found = found.filter(|descriptor| {
            let visible = descriptor.is_conforming()
                || descriptor.dpl() >= self.cpl && descriptor.dpl() >= rpl(selector);
            let system = descriptor.kind();
            visible
                && match op {
                    Op::Lar { .. } => system & 0x10 != 0 || matches!(system, 1..=5 | 9 | 0xB | 0xC),
                    Op::Lsl { .. } => system & 0x10 != 0 || matches!(system, 1..=3 | 9 | 0xB),
                    Op::Verr => descriptor.is_readable(),
                    _ => descriptor.is_writable_data(),
                }
        });
        self.set_flag(flag::ZF, found.is_some());
        if let Some(descriptor) = found {
            let Descriptor(raw) = descriptor;
            match op {
                Op::Lar { size } => {
                    self.set_low(Field::Eax, size, (raw >> 32) as u32 & 0x00FF_FF00);
                }
                Op::Lsl { size } => self.set_low(Field::Eax, size, descriptor.limit()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Vol. 3A, table 2-2 and section 13.1.
    fn unit(&mut self, unit: Unit) -> Step {
        let cr0 = self.state[Field::Cr0];
        let (em, ts, mp) = (cr0 & cr0::EM != 0, cr0 & cr0::TS != 0, cr0 & cr0::MP != 0);
        let fxsr = self.state[Field::Cr4] & cr4::OSFXSR != 0;
        let undefined = match unit {
            Unit::Mmx => em,
            Unit::Sse => em || !fxsr,
            _ => false,
        };
        if undefined {
            return Err(Fault::new(vector::UD));
        }
        let unavailable = match unit {
            Unit::X87 | Unit::X87NoWait | Unit::Fxsave => em || ts,
            Unit::Wait => mp && ts,
            Unit::Mmx | Unit::Sse => ts,
        };
        if unavailable {
            return Err(Fault::new(vector::NM));
        }
        if self.pending_x87 && matches!(unit, Unit::X87 | Unit::Wait | Unit::Mmx) {
            return Err(Fault::new(vector::MF));
        }
        Ok(())
    }
}

fn control(n: u8) -> Option<Field> {
    match n {
        0 => Some(Field::Cr0),
        2 => Some(Field::Cr2),
        3 => Some(Field::Cr3),
        4 => Some(Field::Cr4),
        _ => None,
    }
}

fn table(gdt: bool) -> (Field, Field) {
    if gdt {
        (Field::GdtBase, Field::GdtLimit)
    } else {
        (Field::IdtBase, Field::IdtLimit)
    }
}

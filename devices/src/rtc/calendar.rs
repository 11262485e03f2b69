//! Dates and the forms in which the clock's registers hold them.

use super::spec::{HOURS_PM, RegB};

/// Seconds in a day.
pub(super) const DAY_SECONDS: i64 = 86_400;

/// A date and time of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: i64,
    pub(super) month: u8,
    pub(super) day: u8,
    /// Sunday = 1.
    pub(super) weekday: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

impl DateTime {
    /// The date `seconds` seconds after 1970-01-01.
    pub(super) fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY_SECONDS);
        let rest = seconds.rem_euclid(DAY_SECONDS);
        // Years start in March and eras have 400 years, so that the leap day comes last.
        let shifted = days.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Seconds since 1970-01-01. Fields out of range are brought into it; days carry over.
    pub(super) fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = self.year - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted_month = (month + 9) % 12;
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day.clamp(1, 31)) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * DAY_SECONDS
            + i64::from(self.hour.min(23)) * 3600
            + i64::from(self.minute.min(59)) * 60
            + i64::from(self.second.min(59))
    }
}

/// The data mode: BCD or binary, 12 or 24 hours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format(pub(super) RegB);

impl Format {
    /// A number below 100 as a register holds it.
    pub(super) fn encode(self, value: u8) -> u8 {
        if self.0.contains(RegB::DM) {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    /// The number that a register holds; BCD digits above 9 carry over.
    pub(super) fn decode(self, byte: u8) -> u8 {
        if self.0.contains(RegB::DM) {
            byte
        } else {
            (byte >> 4) * 10 + (byte & 0xf)
        }
    }

    pub(super) fn encode_hour(self, hour: u8) -> u8 {
        if self.0.contains(RegB::H24) {
            return self.encode(hour);
        }
        let half = match hour % 12 {
            0 => 12,
            other => other,
        };
        let pm = if hour >= 12 { HOURS_PM } else { 0 };
        self.encode(half) | pm
    }

    pub(super) fn decode_hour(self, byte: u8) -> u8 {
        if self.0.contains(RegB::H24) {
            return self.decode(byte);
        }
        let half = self.decode(byte & !HOURS_PM) % 12;
        if byte & HOURS_PM != 0 {
            half + 12
        } else {
            half
        }
    }
}

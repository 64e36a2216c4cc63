//! Byte sizes, as numbers or as text.

use std::fmt;

/// A number of bytes that reads and prints like `"64MiB"`.
///
/// ```
/// use esker::ByteSize;
///
/// assert_eq!("1.5 GiB".parse::<ByteSize>().unwrap().as_u64(), 3 << 29);
/// assert_eq!(ByteSize::new(4096).to_string(), "4KiB");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(u64);

impl ByteSize {
    /// That many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a number of bytes; write a number and a unit, such as \"512MiB\" or \"2GB\""
            )
        };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
        let unit = if unit.is_empty() { "B" } else { unit };
        let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1;
        if let Ok(whole) = number.parse::<u64>() {
            return whole
                .checked_mul(factor)
                .map(Self)
                .ok_or_else(|| format!("{text:?} is more than 2^64 bytes"));
        }
        let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
        if bytes.is_finite() && bytes >= 0.0 && bytes < u64::MAX as f64 {
            Ok(Self(bytes as u64))
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) =
            UNITS[..5].iter().rev().find(|(_, factor)| self.0 >= *factor).copied().unwrap_or(UNITS[0]);
        if self.0.is_multiple_of(factor) {
            write!(f, "{}{name}", self.0 / factor)
        } else {
            write!(f, "{:.1}{name}", self.0 as f64 / factor as f64)
        }
    }
}

/// What can be given where a number of bytes is wanted: an integer, a [`ByteSize`], or text such as `"64MiB"`.
pub trait IntoByteSize {
    /// The size, or what is wrong with the text.
    ///
    /// # Errors
    /// A sentence that tells how to write a size.
    fn into_byte_size(self) -> Result<ByteSize, String>;
}

impl IntoByteSize for ByteSize {
    fn into_byte_size(self) -> Result<ByteSize, String> {
        Ok(self)
    }
}

impl IntoByteSize for &str {
    fn into_byte_size(self) -> Result<ByteSize, String> {
        self.parse()
    }
}

impl IntoByteSize for &String {
    fn into_byte_size(self) -> Result<ByteSize, String> {
        self.parse()
    }
}

impl IntoByteSize for u64 {
    fn into_byte_size(self) -> Result<ByteSize, String> {
        Ok(ByteSize(self))
    }
}

impl IntoByteSize for usize {
    fn into_byte_size(self) -> Result<ByteSize, String> {
        Ok(ByteSize(self as u64))
    }
}

impl IntoByteSize for i32 {
    fn into_byte_size(self) -> Result<ByteSize, String> {
        u64::try_from(self).map(ByteSize).map_err(|_| format!("{self} bytes is less than nothing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("12", 12),
            ("4 KiB", 4096),
            ("4kib", 4096),
            ("2GB", 2_000_000_000),
            ("0.5MiB", 1 << 19),
        ] {
            assert_eq!(text.parse::<ByteSize>().map(ByteSize::as_u64), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1", "1..2MiB", "NaN", "inf", "12 parsecs", "99999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize::new(1536).to_string(), "1.5KiB");
    }
}

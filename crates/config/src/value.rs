//! What the value of a key may be, and how it is written: numbers, durations, sizes, addresses, keywords, secrets.
//!
//! It knows single values only. Which key wants which value, and how two keys must agree, is in `sections.rs`.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use crate::address::Address;
use crate::manager::Url;
use crate::problem;
use crate::secret::Secret;

/// Why a value was refused: half a sentence that follows the name of the key.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) nearest: Option<String>,
    /// Where in the text, when that is not where the key stands: an element of a list may have its own line.
    pub(crate) place: Option<Range<usize>>,
}

/// A type that a key can have.
pub(crate) trait Value: Sized {
    /// Whether it is nobody's business.
    const IS_SECRET: bool = false;

    /// Reads a value of the file.
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal>;
    /// Writes the value as it would stand in the file; a secret as `"***"`.
    fn show(&self) -> String;
}

/// A closed set of words, such as the pool modes.
pub(crate) trait Keyword: Sized + Copy + PartialEq + 'static {
    /// Each word with its meaning.
    const WORDS: &'static [(&'static str, Self)];
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) usize);

/// The permissions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileMode(pub(crate) u32);

impl<K: Keyword> Value for K {
    fn read(value: &DeValue<'_>) -> Result<K, Refusal> {
        let written = string(value, "a word in quotes")?;
        let words = || K::WORDS.iter().map(|(word, _)| *word);
        K::WORDS.iter().find(|(word, _)| *word == written).map(|(_, keyword)| *keyword).ok_or_else(|| Refusal {
            message: format!(
                "must be one of {}, not {written:?}",
                words().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
            ),
            nearest: problem::nearest(written, words()),
            place: None,
        })
    }

    fn show(&self) -> String {
        let (word, _) = K::WORDS.iter().find(|(_, keyword)| keyword == self).expect("every keyword has its word");
        format!("{word:?}")
    }
}

impl Value for bool {
    fn read(value: &DeValue<'_>) -> Result<bool, Refusal> {
        value.as_bool().ok_or_else(|| wrong_type("true or false", value))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    fn read(value: &DeValue<'_>) -> Result<u32, Refusal> {
        let number = integer(value, "a whole number")?;
        u32::try_from(number).map_err(|_| refuse(format!("must be from 0 to {}, not {number}", u32::MAX)))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u64 {
    fn read(value: &DeValue<'_>) -> Result<u64, Refusal> {
        let number = integer(value, "a whole number")?;
        u64::try_from(number).map_err(|_| refuse(format!("must not be negative, as {number} is")))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Duration {
    fn read(value: &DeValue<'_>) -> Result<Duration, Refusal> {
        if value.as_integer().is_some() || value.as_float().is_some() {
            return Err(refuse("needs a unit, such as \"500ms\", \"2s\", \"5min\" or \"1h\"".into()));
        }
        let written = string(value, "a duration such as \"500ms\"")?;
        let (number, unit) = measure(written, "\"500ms\", \"2s\", \"5min\" or \"1h\"")?;
        let micros = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, micros)| *micros)
            .ok_or_else(|| unknown_unit(unit, "us, ms, s, min, h and d"))?;
        number.checked_mul(micros).map(Duration::from_micros).ok_or_else(|| refuse(format!("is too long: {written:?}")))
    }

    fn show(&self) -> String {
        // No duration that is longer than the file can state reaches this, so the microseconds fit.
        let micros = u64::try_from(self.as_micros()).unwrap_or(u64::MAX);
        let (unit, size) = DURATION_UNITS
            .iter()
            .rev()
            .find(|(_, size)| micros >= *size && micros.is_multiple_of(*size))
            .unwrap_or(&("s", 1_000_000));
        format!("\"{}{unit}\"", micros / size)
    }
}

impl Value for Size {
    fn read(value: &DeValue<'_>) -> Result<Size, Refusal> {
        let examples = "\"64kB\" or \"1MB\"";
        let (number, unit, written) = match value {
            DeValue::Integer(_) => {
                let number = integer(value, "")?;
                let bytes = u64::try_from(number).map_err(|_| refuse(format!("must not be negative: {number}")))?;
                (bytes, "B", number.to_string())
            }
            value => {
                let written = string(value, "a number of bytes or a size such as \"1MB\"")?;
                let (number, unit) = measure(written, examples)?;
                (number, unit, written.to_owned())
            }
        };
        let bytes = SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, bytes)| *bytes)
            .ok_or_else(|| unknown_unit(unit, "B, kB, MB, GB and TB"))?;
        number
            .checked_mul(bytes)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map(Size)
            .ok_or_else(|| refuse(format!("is too large: {written}")))
    }

    fn show(&self) -> String {
        let bytes = self.0 as u64;
        let (unit, size) = SIZE_UNITS
            .iter()
            .rev()
            .find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size))
            .unwrap_or(&("B", 1));
        format!("\"{}{unit}\"", bytes / size)
    }
}

/// Octal digits in quotes: TOML refuses a number that begins with a zero, and without one it would look decimal.
impl Value for FileMode {
    fn read(value: &DeValue<'_>) -> Result<FileMode, Refusal> {
        let written = string(value, "octal digits in quotes, such as \"0770\"")?;
        let digits = |byte: u8| matches!(byte, b'0'..=b'7');
        match u32::from_str_radix(written, 8) {
            Ok(mode) if mode <= 0o777 && written.bytes().all(digits) => Ok(FileMode(mode)),
            Ok(_) | Err(_) => Err(refuse(format!("must be octal digits from \"0000\" to \"0777\", not {written:?}"))),
        }
    }

    fn show(&self) -> String {
        format!("\"{:04o}\"", self.0)
    }
}

impl Value for String {
    fn read(value: &DeValue<'_>) -> Result<String, Refusal> {
        string(value, "a text in quotes").map(str::to_owned)
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for Secret {
    const IS_SECRET: bool = true;

    fn read(value: &DeValue<'_>) -> Result<Secret, Refusal> {
        let written = string(value, "a text in quotes")?;
        match written {
            // PostgreSQL takes an empty password for none, so it would let nobody in.
            "" => Err(refuse("must not be empty".into())),
            _ if written.len() > PASSWORD_BYTES_MAX => Err(refuse(format!("has more than {PASSWORD_BYTES_MAX} bytes"))),
            _ if written.contains('\0') => Err(refuse("must not contain a zero byte".into())),
            _ => Ok(Secret::new(written)),
        }
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Value for Address {
    fn read(value: &DeValue<'_>) -> Result<Address, Refusal> {
        string(value, "an address such as \"10.0.0.1:5432\"")?
            .parse()
            .map_err(|reason| refuse(format!("is wrong: {reason}")))
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Value for Url {
    fn read(value: &DeValue<'_>) -> Result<Url, Refusal> {
        string(value, "an address such as \"http://10.0.0.1:8008\"")?
            .parse()
            .map_err(|reason| refuse(format!("is wrong: {reason}")))
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Value for SocketAddr {
    fn read(value: &DeValue<'_>) -> Result<SocketAddr, Refusal> {
        let written = string(value, "an address such as \"127.0.0.1:6432\"")?;
        written.parse().map_err(|_| match written.strip_prefix("*:") {
            Some(port) => {
                refuse(format!("{written:?} is written \"0.0.0.0:{port}\" for IPv4, \"[::]:{port}\" for IPv6"))
            }
            // A name may stand for several addresses, so it cannot say where to listen.
            None => refuse(format!("{written:?} is not an IP address with a port, such as \"127.0.0.1:6432\"")),
        })
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

/// An address, or the empty string for none.
impl Value for Option<SocketAddr> {
    fn read(value: &DeValue<'_>) -> Result<Option<SocketAddr>, Refusal> {
        match value.as_str() {
            Some("") => Ok(None),
            Some(_) | None => SocketAddr::read(value).map(Some),
        }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "\"\"".into(), Value::show)
    }
}

/// A list of names, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl Value for Names {
    fn read(value: &DeValue<'_>) -> Result<Names, Refusal> {
        match value.as_array() {
            Some(elements) if elements.is_empty() => Ok(Names(Vec::new())),
            _ => Vec::read(value).map(Names),
        }
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// A list whose elements all differ.
impl<T: Value + PartialEq> Value for Vec<T> {
    fn read(value: &DeValue<'_>) -> Result<Vec<T>, Refusal> {
        let elements = value.as_array().ok_or_else(|| wrong_type("a list in brackets", value))?;
        let mut list = Vec::with_capacity(elements.len());
        for written in elements.iter() {
            let place = Some(written.span());
            let element = T::read(written.get_ref()).map_err(|refusal| Refusal { place: place.clone(), ..refusal })?;
            if list.contains(&element) {
                return Err(Refusal { place, ..refuse(format!("states {} twice", element.show())) });
            }
            list.push(element);
        }
        match list.is_empty() {
            true => Err(refuse("must not be empty".into())),
            false => Ok(list),
        }
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(Value::show).collect::<Vec<_>>().join(", "))
    }
}

fn string<'v>(value: &'v DeValue<'_>, wanted: &str) -> Result<&'v str, Refusal> {
    value.as_str().ok_or_else(|| wrong_type(wanted, value))
}

pub(crate) fn integer(value: &DeValue<'_>, wanted: &str) -> Result<i64, Refusal> {
    let digits = value.as_integer().ok_or_else(|| wrong_type(wanted, value))?;
    i64::from_str_radix(digits.as_str(), digits.radix()).map_err(|_| refuse(format!("is out of range: {digits}")))
}

/// Splits `500ms` into the number and its unit. PostgreSQL lets spaces stand between the two.
fn measure<'w>(written: &'w str, examples: &str) -> Result<(u64, &'w str), Refusal> {
    let written = written.trim();
    let unit_at = written.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(written.len());
    let (number, unit) = (&written[..unit_at], written[unit_at..].trim_start());
    match (number, unit) {
        ("", unit) if unit.starts_with('-') => Err(refuse(format!("must not be negative: {written:?}"))),
        ("", _) => Err(refuse(format!("must start with a number, as in {examples}, not {written:?}"))),
        (_, "") => Err(refuse(format!("needs a unit, as in {examples}, not {written:?}"))),
        (_, unit) if unit.starts_with(['.', ',']) => Err(refuse(format!(
            "must be a whole number with a unit, not {written:?}: a smaller unit says it without a fraction"
        ))),
        (number, unit) => {
            number.parse().map(|number| (number, unit)).map_err(|_| refuse(format!("is too large: {written:?}")))
        }
    }
}

fn unknown_unit(unit: &str, units: &str) -> Refusal {
    refuse(format!("has the unknown unit {unit:?}: the units are {units}"))
}

pub(crate) fn wrong_type(wanted: &str, value: &DeValue<'_>) -> Refusal {
    let found = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    };
    refuse(format!("must be {wanted}, not {found}"))
}

pub(crate) fn refuse(message: String) -> Refusal {
    Refusal { message, nearest: None, place: None }
}

/// PostgreSQL's units of time, in microseconds, the smallest first.
const DURATION_UNITS: &[(&str, u64)] =
    &[("us", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// PostgreSQL's units of memory, in bytes, the smallest first; as there, a kB has 1024 bytes and case matters.
const SIZE_UNITS: &[(&str, u64)] = &[("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// The longest password or verifier.
const PASSWORD_BYTES_MAX: usize = 1024;

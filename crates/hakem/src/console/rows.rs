//! Result sets of the console: columns with their types, values in either format.
//!
//! Owns the encoding. What stands in them is `show`'s.

use std::borrow::Cow;

/// A column: its name and its type.
pub(crate) type Column = (&'static str, Kind);

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Int4,
    Int8,
    Numeric,
}

/// A value. A number goes into a column of numbers, a text into one of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Text(Cow<'static, str>),
    Number(u64),
}

/// One row.
pub(crate) type Row = Vec<Value>;

impl Kind {
    /// The type's number and its length.
    fn wire(self) -> (u32, i16) {
        match self {
            Kind::Text => (25, -1),
            Kind::Int4 => (23, 4),
            Kind::Int8 => (20, 8),
            Kind::Numeric => (1700, -1),
        }
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(Cow::Owned(text))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number as u64)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Number(u64::from(number))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Value {
        Value::Number(u64::from(number))
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Value {
        Value::Number(u64::from(is))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// Which columns are wanted in binary: by Bind's rule, none, all, or each for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Formats(pub(crate) Vec<bool>);

impl Formats {
    fn binary(&self, column: usize) -> bool {
        match self.0.as_slice() {
            [] => false,
            [all] => *all,
            each => each.get(column).copied().unwrap_or(false),
        }
    }

    /// Whether there is one for each of so many columns, by Bind's rule.
    pub(crate) fn suit(&self, columns: usize) -> bool {
        self.0.len() <= 1 || self.0.len() == columns
    }
}

/// Writes a RowDescription.
pub(crate) fn put_columns(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    put(out, b'T', |out| {
        out.extend(count(columns.len()).to_be_bytes());
        for (at, (name, kind)) in columns.iter().enumerate() {
            let (oid, length) = kind.wire();
            out.extend(name.as_bytes());
            out.extend([0; 7]); // the name's end, no table, no column of one
            out.extend(oid.to_be_bytes());
            out.extend(length.to_be_bytes());
            out.extend((-1i32).to_be_bytes());
            out.extend(i16::from(formats.binary(at)).to_be_bytes());
        }
    });
}

/// Writes a DataRow.
pub(crate) fn put_row(out: &mut Vec<u8>, columns: &[Column], formats: &Formats, row: &[Value]) {
    debug_assert_eq!(columns.len(), row.len());
    put(out, b'D', |out| {
        out.extend(count(row.len()).to_be_bytes());
        for (at, (value, (_, kind))) in row.iter().zip(columns).enumerate() {
            let bytes = match value {
                Value::Null => {
                    out.extend((-1i32).to_be_bytes());
                    continue;
                }
                Value::Text(text) => text.as_bytes().to_vec(),
                Value::Number(number) if formats.binary(at) => binary(*kind, *number),
                Value::Number(number) => clamp(*kind, *number).to_string().into_bytes(),
            };
            out.extend(u32::try_from(bytes.len()).expect("a value of ours is small").to_be_bytes());
            out.extend(bytes);
        }
    });
}

/// What fits into the column: a figure that has outgrown its type stays at the end of it.
fn clamp(kind: Kind, number: u64) -> u64 {
    match kind {
        Kind::Int4 => number.min(i32::MAX as u64),
        Kind::Int8 => number.min(i64::MAX as u64),
        Kind::Text | Kind::Numeric => number,
    }
}

fn binary(kind: Kind, number: u64) -> Vec<u8> {
    let number = clamp(kind, number);
    match kind {
        Kind::Text => number.to_string().into_bytes(),
        Kind::Int4 => (number as u32).to_be_bytes().to_vec(),
        Kind::Int8 => number.to_be_bytes().to_vec(),
        Kind::Numeric => numeric(number),
    }
}

/// `numeric_send`: the count of digits to the base 10000, the weight of the first, the sign, the scale, the digits.
fn numeric(mut number: u64) -> Vec<u8> {
    let mut digits: Vec<u16> = Vec::new();
    while number > 0 {
        digits.push((number % 10_000) as u16);
        number /= 10_000;
    }
    digits.reverse();
    let weight = count(digits.len().saturating_sub(1));
    let mut out = Vec::new();
    for part in [count(digits.len()), weight, 0, 0].into_iter().chain(digits.iter().copied()) {
        out.extend(part.to_be_bytes());
    }
    out
}

fn count(length: usize) -> u16 {
    u16::try_from(length).expect("a result set of ours has few columns")
}

/// Writes a message.
pub(crate) fn put(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).expect("a message of ours is small");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_binary() {
        let check = |kind, number, expected: &[u8]| assert_eq!(binary(kind, number), expected, "{number}");
        check(Kind::Int4, 7, &[0, 0, 0, 7]);
        check(Kind::Int4, u64::MAX, &[0x7f, 0xff, 0xff, 0xff]);
        check(Kind::Int8, 1 << 40, &[0, 0, 1, 0, 0, 0, 0, 0]);
        check(Kind::Numeric, 0, &[0, 0, 0, 0, 0, 0, 0, 0]);
        check(Kind::Numeric, 9999, &[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x0f]);
        check(Kind::Numeric, 10_001, &[0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn formats() {
        assert!(!Formats(vec![]).binary(3) && Formats(vec![true]).binary(3));
        assert!(Formats(vec![false, true]).binary(1) && !Formats(vec![false, true]).binary(0));
        assert!(Formats(vec![true]).suit(5) && !Formats(vec![true, true]).suit(5));
    }
}

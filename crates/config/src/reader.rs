//! Reads keys out of parsed TOML and collects every problem on the way, instead of stopping at the first.
//!
//! A section asks for its keys one by one. What the file holds and nobody asked for is unknown, and what was asked for is
//! what the file could have meant: so there is no second list of the valid keys that could go stale.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::{self, Position, Problem};
use crate::value::Value;

/// One key of the configuration with the value in force: what `SHOW CONFIG` lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The section as its header is written, such as `[pool]` or `[[users]] "app"`.
    pub section: String,
    /// The key.
    pub key: &'static str,
    /// The value in force, as TOML; `None` when nothing is stated and there is no default. Secrets are `"***"`.
    pub value: Option<String>,
    /// The default, as TOML; `None` when there is none.
    pub default: Option<String>,
    /// Whether the file states the key.
    pub stated: bool,
    /// Whether its values are secrets.
    pub is_secret: bool,
}

/// The text being read and what was found in it so far.
pub(crate) struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    problems: Vec<Problem>,
    settings: Vec<Setting>,
}

/// One table of the file, open for its keys to be asked for.
pub(crate) struct Section<'r, 't> {
    reader: &'r mut Reader<'t>,
    header: String,
    place: Place,
    table: Option<&'t DeTable<'t>>,
    asked: Vec<&'static str>,
}

/// Where something stands in the text, in bytes; `None` is the file as a whole.
pub(crate) type Place = Option<Range<usize>>;

/// A table that was found but not yet opened: its name in the file, its place, and its content.
pub(crate) struct Found<'t> {
    pub(crate) name: String,
    pub(crate) place: Place,
    table: &'t DeTable<'t>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Reader<'t> {
        Reader { file, text, problems: Vec::new(), settings: Vec::new() }
    }

    /// Notes a problem at a place.
    pub(crate) fn problem(&mut self, place: Place, message: impl Into<String>, nearest: Option<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            position: place.map(|place| Position::of(self.text, place.start)),
            message: message.into(),
            nearest,
        });
    }

    /// Opens the table at the root of the file, lets `read` ask for its sections, and reports what nobody asked for.
    pub(crate) fn root<T>(&mut self, table: &'t DeTable<'t>, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        self.open(String::new(), None, Some(table), read)
    }

    /// The settings read, or the problems met, in the order of the file.
    pub(crate) fn finish(self) -> Result<Vec<Setting>, Vec<Problem>> {
        let Reader { mut problems, settings, .. } = self;
        problems.sort_by_key(|problem| problem.position);
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    fn open<T>(
        &mut self,
        header: String,
        place: Place,
        table: Option<&'t DeTable<'t>>,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        let mut section = Section { reader: self, header, place, table, asked: Vec::new() };
        let value = read(&mut section);
        section.report_unknown();
        value
    }
}

impl<'t> Section<'_, 't> {
    /// The section `[name]`, read as empty when the file has none, so that its defaults apply.
    pub(crate) fn section<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let (place, table) = match self.entry(name) {
            None => (None, None),
            Some((place, DeValue::Table(table))) => (place, Some(table)),
            Some((place, _)) => {
                self.problem(place, format!("{name:?} must be a section: write [{name}]"));
                (None, None)
            }
        };
        self.reader.open(format!("[{name}]"), place, table, read)
    }

    /// The sections `[name.X]`, each with its X, in the order of the file.
    pub(crate) fn named(&mut self, name: &'static str) -> Vec<Found<'t>> {
        let Some((place, value)) = self.entry(name) else { return Vec::new() };
        let DeValue::Table(tables) = value else {
            self.problem(place, format!("{name:?} must be sections: write [{name}.NAME]"));
            return Vec::new();
        };
        let mut found = Vec::with_capacity(tables.len());
        for (key, value) in tables {
            let place = Some(key.span());
            match value.get_ref() {
                DeValue::Table(table) => found.push(Found { name: key.get_ref().to_string(), place, table }),
                _ => self
                    .problem(place, format!("unknown key {:?} in [{name}]: write [{name}.NAME] first", key.get_ref())),
            }
        }
        // The table is sorted by name; of two that collide, the later in the file is the one to complain about.
        found.sort_by_key(|found| found.place.as_ref().map(|place| place.start));
        found
    }

    /// The sections `[[name]]`, each under the name that its key `name` states.
    pub(crate) fn listed(&mut self, name: &'static str) -> Vec<Found<'t>> {
        let Some((place, value)) = self.entry(name) else { return Vec::new() };
        let DeValue::Array(tables) = value else {
            self.problem(place, format!("{name:?} must be a list of sections: write [[{name}]]"));
            return Vec::new();
        };
        let mut found = Vec::with_capacity(tables.len());
        for value in tables.iter() {
            let place = Some(value.span());
            match value.get_ref() {
                DeValue::Table(table) => {
                    let name = table.get("name").and_then(|name| name.get_ref().as_str()).unwrap_or_default();
                    found.push(Found { name: name.to_owned(), place, table });
                }
                _ => self.problem(place, format!("{name:?} must be a list of sections: write [[{name}]]")),
            }
        }
        found
    }

    /// Opens a table that was found under `header`.
    pub(crate) fn open<T>(
        &mut self,
        header: String,
        found: Found<'t>,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        self.reader.open(header, found.place, Some(found.table), read)
    }

    /// The value of a key, or its default.
    pub(crate) fn value<T: Value>(&mut self, key: &'static str, default: T) -> T {
        let stated = self.fetch(key, Some(&default), |_| Ok(()));
        stated.unwrap_or(default)
    }

    /// The value of a key, or its default; a value outside the limits is a problem.
    pub(crate) fn within<T: Value + PartialOrd>(
        &mut self,
        key: &'static str,
        default: T,
        limits: RangeInclusive<T>,
    ) -> T {
        let stated = self.fetch(key, Some(&default), |value| in_limits(value, &limits));
        stated.unwrap_or(default)
    }

    /// The value of a key that has no default.
    pub(crate) fn optional<T: Value>(&mut self, key: &'static str) -> Option<T> {
        self.fetch(key, None, |_| Ok(()))
    }

    /// The value of a key that has no default; a value outside the limits is a problem.
    pub(crate) fn optional_within<T: Value + PartialOrd>(
        &mut self,
        key: &'static str,
        limits: RangeInclusive<T>,
    ) -> Option<T> {
        self.fetch(key, None, |value| in_limits(value, &limits))
    }

    /// The value of a key that must be stated. `None` when it is not, or is wrong: the problem is noted.
    pub(crate) fn required<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let value = self.fetch(key, None, |_| Ok(()));
        if self.place_of(key).is_none() {
            self.problem(self.place.clone(), format!("{} must state {key:?}", self.header));
        }
        value
    }

    /// Where a key stands, or `None` when the file does not state it.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        self.table?.get_key_value(key).map(|(key, _)| key.span())
    }

    /// The header of the section as it is written.
    pub(crate) fn header(&self) -> &str {
        &self.header
    }

    /// Where the section starts.
    pub(crate) fn place(&self) -> Place {
        self.place.clone()
    }

    /// Notes a problem at a place.
    pub(crate) fn problem(&mut self, place: Place, message: impl Into<String>) {
        self.reader.problem(place, message, None);
    }

    /// Notes that a key names something unknown.
    pub(crate) fn problem_with_nearest(&mut self, place: Place, message: impl Into<String>, nearest: Option<String>) {
        self.reader.problem(place, message, nearest);
    }

    fn fetch<T: Value>(
        &mut self,
        key: &'static str,
        default: Option<&T>,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Option<T> {
        let entry = self.entry(key);
        let stated = entry.is_some();
        let value = entry.and_then(|(place, written)| match T::read(written) {
            Ok(value) => match check(&value) {
                Ok(()) => Some(value),
                Err(message) => {
                    self.problem(place, format!("{key:?} {message}"));
                    None
                }
            },
            Err(refusal) => {
                self.reader.problem(refusal.place.or(place), format!("{key:?} {}", refusal.message), refusal.nearest);
                None
            }
        });
        self.reader.settings.push(Setting {
            section: self.header.clone(),
            key,
            value: value.as_ref().or(default).map(Value::show),
            default: default.map(Value::show),
            stated,
            is_secret: T::IS_SECRET,
        });
        value
    }

    fn entry(&mut self, key: &'static str) -> Option<(Place, &'t DeValue<'t>)> {
        self.asked.push(key);
        let (key, value) = self.table?.get_key_value(key)?;
        Some((Some(key.span()), value.get_ref()))
    }

    fn report_unknown(self) {
        let Section { reader, header, table, asked, .. } = self;
        for (key, value) in table.into_iter().flatten() {
            let written: &str = key.get_ref();
            if asked.contains(&written) {
                continue;
            }
            let nearest = problem::nearest(written, asked.iter().copied());
            let message = match (header.as_str(), is_section(value)) {
                ("", true) => format!("unknown section {written:?}"),
                ("", false) => format!("key {written:?} stands outside of any section"),
                (header, true) => format!("unknown section {written:?} in {header}"),
                (header, false) => format!("unknown key {written:?} in {header}"),
            };
            reader.problem(Some(key.span()), message, nearest);
        }
    }
}

fn in_limits<T: Value + PartialOrd>(value: &T, limits: &RangeInclusive<T>) -> Result<(), String> {
    if limits.contains(value) {
        return Ok(());
    }
    Err(format!("must be from {} to {}, not {}", limits.start().show(), limits.end().show(), value.show()))
}

fn is_section(value: &Spanned<DeValue<'_>>) -> bool {
    match value.get_ref() {
        DeValue::Table(_) => true,
        DeValue::Array(elements) => elements.iter().any(|element| element.get_ref().is_table()),
        _ => false,
    }
}

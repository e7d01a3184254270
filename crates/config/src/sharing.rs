//! How reads are shared out, as it is written in the configuration: parts of a whole, and what is said of some of a cluster's servers.

use std::collections::BTreeMap;

use toml::de::DeValue;

use crate::address::Address;
use crate::problem;
use crate::reader::Section;
use crate::value::{Refusal, Value, integer, refuse, wrong_type};

/// A part of a whole, from 0.0 to 1.0, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Nothing.
    pub const NONE: Share = Share(0);
    /// The whole.
    pub const ALL: Share = Share(1000);

    /// As a number from 0 to 1.
    #[must_use]
    pub fn part(self) -> f32 {
        self.0 as f32 / 1000.0
    }
}

/// What is said of some servers: a table whose keys are their addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Map<T>(pub(crate) BTreeMap<Address, T>);

/// The weights of a cluster's servers.
pub(crate) fn weights(section: &mut Section<'_, '_>, servers: &[Address]) -> BTreeMap<Address, u32> {
    let weights = of_servers(section, "weights", servers);
    for (server, weight) in weights.iter().filter(|(_, weight)| **weight > WEIGHT_MAX) {
        let place = section.place_of("weights");
        let text = format!("\"weights\" of \"{server}\" must be from 0 to {WEIGHT_MAX}, not {weight}");
        section.problem(place, text);
    }
    weights
}

/// What a key states of some of the servers.
pub(crate) fn of_servers<T: Value>(
    section: &mut Section<'_, '_>,
    key: &'static str,
    servers: &[Address],
) -> BTreeMap<Address, T> {
    let Some(Map(map)) = section.optional::<Map<T>>(key) else { return BTreeMap::new() };
    for stranger in map.keys().filter(|server| !servers.contains(server)) {
        let names: Vec<String> = servers.iter().map(Address::to_string).collect();
        let nearest = problem::nearest(&stranger.to_string(), names.iter().map(String::as_str));
        let place = section.place_of(key);
        section.problem_with_nearest(
            place,
            format!("{key:?} names \"{stranger}\", which is not in \"servers\""),
            nearest,
        );
    }
    map
}

/// A fraction such as `0.3`; a whole number will do for none and all.
impl Value for Share {
    fn read(value: &DeValue<'_>) -> Result<Share, Refusal> {
        let wanted = "a fraction from 0.0 to 1.0";
        let number: f64 = match value {
            DeValue::Integer(_) => integer(value, wanted)? as f64,
            DeValue::Float(digits) => {
                digits.as_str().parse().map_err(|_| refuse(format!("must be {wanted}, not {digits}")))?
            }
            value => return Err(wrong_type(wanted, value)),
        };
        let thousandths = (number * 1000.0).round();
        match (0.0..=1.0).contains(&number) {
            true => Ok(Share(thousandths as u32)),
            false => Err(refuse(format!("must be from 0.0 to 1.0, not {number}"))),
        }
    }

    fn show(&self) -> String {
        format!("{:?}", f64::from(self.0) / 1000.0)
    }
}

impl<T: Value> Value for Map<T> {
    fn read(value: &DeValue<'_>) -> Result<Map<T>, Refusal> {
        let table = value.as_table().ok_or_else(|| wrong_type("a table such as { \"10.0.0.1:5432\" = ... }", value))?;
        let mut map = BTreeMap::new();
        for (key, written) in table {
            let address: Result<Address, String> = key.get_ref().parse();
            let place = Some(key.span());
            let address =
                address.map_err(|reason| Refusal { place: place.clone(), ..refuse(format!("is wrong: {reason}")) })?;
            let element = T::read(written.get_ref()).map_err(|refusal| Refusal {
                place: Some(written.span()),
                message: format!("of \"{address}\" {}", refusal.message),
                ..refusal
            })?;
            if map.insert(address.clone(), element).is_some() {
                return Err(Refusal { place, ..refuse(format!("states \"{address}\" twice")) });
            }
        }
        Ok(Map(map))
    }

    fn show(&self) -> String {
        let entries = self.0.iter().map(|(address, element)| format!("\"{address}\" = {}", element.show()));
        format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
    }
}

/// The largest weight.
const WEIGHT_MAX: u32 = 1000;

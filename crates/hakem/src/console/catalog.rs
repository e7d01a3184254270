//! SHOW CATALOG: what is known of each database's functions and relations, a row per database on the servers.

use super::rows::{Column, Kind, Row, Value};
use super::show::View;

pub(crate) const COLUMNS: [Column; 13] = [
    ("cluster", Kind::Text),
    ("database", Kind::Text),
    ("state", Kind::Text),
    ("version", Kind::Int8),
    ("functions", Kind::Int8),
    ("relations", Kind::Int8),
    ("primary_names", Kind::Int8),
    ("loaded_at", Kind::Text),
    ("checked_at", Kind::Text),
    ("load_time_us", Kind::Int8),
    ("loads", Kind::Int8),
    ("failures", Kind::Int8),
    ("problem", Kind::Text),
];

pub(crate) fn rows(view: &View<'_>) -> Vec<Row> {
    let rows = view.service.lores().into_iter().map(|lore| {
        let figures = lore.figures();
        let moment = |moment: Option<std::time::Instant>| moment.map(|moment| view.moment(moment));
        vec![
            lore.cluster.clone().into(),
            lore.dbname.clone().into(),
            lore.state(&figures).into(),
            lore.version().into(),
            figures.size.functions.into(),
            figures.size.relations.into(),
            figures.primary_names.into(),
            moment(figures.loaded).into(),
            moment(figures.checked).into(),
            Value::from(u64::try_from(figures.load_time.as_micros()).unwrap_or(u64::MAX)),
            figures.loads.into(),
            figures.failures.into(),
            figures.problem.into(),
        ]
    });
    rows.collect()
}

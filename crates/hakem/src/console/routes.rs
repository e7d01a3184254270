//! SHOW ROUTES: how many statements went where, and why. SHOW ROUTE FOR: where one would go, by the very code that sends it there.

use std::sync::Arc;
use std::time::Instant;

use classifier::{Access, Classifier};
use session::{Need, Session, Settings, Step};
use topology::{Choice, NodeId, WhyPrimary};
use wire::backend::Failure;
use wire::frontend;

use super::rows::{Column, Kind, Row, Value};
use crate::counters::{Place, WHY_ALL};
use crate::route;
use crate::service::{Service, Tenant};

pub(crate) const ROUTES: [Column; 3] = [("to", Kind::Text), ("why", Kind::Text), ("count", Kind::Int8)];

pub(crate) const ROUTE: [Column; 9] = [
    ("database", Kind::Text),
    ("user", Kind::Text),
    ("access", Kind::Text),
    ("effect", Kind::Text),
    ("why", Kind::Text),
    ("because", Kind::Text),
    ("to", Kind::Text),
    ("node", Kind::Text),
    ("reason", Kind::Text),
];

/// What has been sent where so far; nothing of what never was.
pub(crate) fn routes(service: &Service) -> Vec<Row> {
    let pairs = Place::ALL.into_iter().flat_map(|place| WHY_ALL.into_iter().map(move |why| (place, why)));
    let counted = pairs.map(|(place, why)| (place, why, service.crew.routed(place, why)));
    counted
        .filter(|(_, _, count)| *count > 0)
        .map(|(place, why, count)| vec![place.as_str().into(), why.as_str().into(), count.into()])
        .collect()
}

/// What one statement is, and where it would go now, in a session that has just begun.
///
/// # Errors
/// What the administrator is told: there is no such database.
pub(crate) fn route(service: &Service, sql: &str, database: Option<&str>) -> Result<Row, Failure> {
    let tenant = tenant(service, database)?;
    let classifier = tenant.lore().classifier();
    let (explanation, class) = (classifier.explain(sql), classifier.classify(sql));
    let (access, why) = class.place();
    let because: Vec<String> = explanation.statements.iter().filter_map(|one| one.because.clone()).collect();
    let (to, node, reason) = destination(&tenant, &classifier, sql, access == Access::Read);
    let (database, user) = tenant.key.as_ref().clone();
    let text = |text: String| if text.is_empty() { Value::Null } else { text.into() };
    Ok(vec![
        database.into(),
        user.into(),
        access.as_str().into(),
        class.effect().into(),
        why.as_str().into(),
        text(because.join("; ")),
        to.into(),
        text(node),
        reason.into(),
    ])
}

fn destination(tenant: &Tenant, classifier: &Classifier, sql: &str, is_read: bool) -> (&'static str, String, String) {
    let mut frame = Vec::new();
    frontend::put_query(&mut frame, sql);
    let mut session = Session::new(tenant.policy_of(""), Settings::default());
    let frame = wire::frame::Frame { tag: frontend::tag::QUERY, whole: &frame };
    let need = match session.on_client(frame, classifier) {
        Ok(Step::Request(intent)) => intent.need,
        Ok(_) => return ("proxy", String::new(), "the proxy answers it itself".to_owned()),
        Err(violation) => return ("nowhere", String::new(), violation.to_string()),
    };
    let address = |node: NodeId| {
        let snapshot = tenant.watcher.snapshot();
        snapshot.node(node).map_or_else(String::new, |node| format!("{}:{}", node.host, node.port))
    };
    match route::preview(tenant, need, classifier.version(), Instant::now()) {
        Choice::Replica(node) => ("replica", address(node), "this replica is fresh enough".to_owned()),
        Choice::Primary(node, why) => {
            let reason = match (why, need) {
                (WhyPrimary::Write, Need::Primary) if is_read => "route, affinity, pin or pool mode keep it there",
                (WhyPrimary::Write, _) => "it is the primary's business",
                (WhyPrimary::NoReplica, _) => "no replica can be had",
                (WhyPrimary::Stale, _) => "no replica is fresh enough",
                (WhyPrimary::Share, _) => "the primary takes its share of the reads",
            };
            ("primary", address(node), reason.to_owned())
        }
        Choice::Nowhere(none) => ("nowhere", String::new(), none.to_string()),
    }
}

/// The database that is named, as one of its users sees it: one who has been there, or the first in the configuration. Without a name,
/// the first that anybody has asked for.
fn tenant(service: &Service, database: Option<&str>) -> Result<Arc<Tenant>, Failure> {
    let tenants = service.tenants();
    if let Some(known) = tenants.iter().find(|tenant| database.is_none_or(|name| tenant.key.0 == name)) {
        return Ok(known.clone());
    }
    let config = service.config();
    let named = || config.databases.keys().map(String::as_str).find(|name| *name != "*");
    let Some(name) = database.or_else(named) else {
        return Err(
            Failure::error("3D000", "no database has been used yet").hint("Name one: SHOW ROUTE FOR '...' IN app.")
        );
    };
    let unknown = || Failure::error("3D000", format!("no such database: {name}"));
    let user = config.users.keys().next().ok_or_else(unknown)?;
    service.tenant(name, user).map_err(|_| unknown())
}

//! What the configuration's rules make of a session's policy.

use std::sync::Arc;

use config::{Rule, SynchronousCommit};
use session::{Charter, Consistency, DurabilityRule, Level, Policy};

/// The policy of a session of this application, by the rules for its database and user. The first that says something counts. Where
/// none fits the policy is shared.
pub(crate) fn applied(shared: &Arc<Charter>, rules: &[Rule], application_name: &str) -> Arc<Charter> {
    let fitting = || rules.iter().filter(|rule| rule.fits_application(application_name));
    if fitting().next().is_none() {
        return shared.clone();
    }
    let mut policy = Policy::clone(shared);
    if let Some(pin) = fitting().find_map(|rule| rule.pin) {
        policy.pin = pin;
    }
    if let Some(found) = fitting().find_map(|rule| rule.route) {
        policy.route = route(found);
    }
    if let Some(found) = fitting().find_map(|rule| rule.consistency) {
        policy.consistency = consistency(found);
    }
    if let Some(lag) = fitting().find_map(|rule| rule.max_lag) {
        policy.max_lag = Some(lag);
    }
    if let Some(found) = fitting().find_map(|rule| rule.affinity) {
        policy.affinity = affinity(found);
    }
    if let Some(resolves) = fitting().find_map(|rule| rule.commit_resolution) {
        policy.commit_resolution = resolves;
    }
    if let Some(replays) = fitting().find_map(|rule| rule.transaction_replay) {
        policy.transaction_replay = replays;
    }
    policy.durability = fitting().filter_map(durability).collect::<Arc<[DurabilityRule]>>();
    policy.into()
}

fn durability(rule: &Rule) -> Option<DurabilityRule> {
    let level = match rule.synchronous_commit? {
        SynchronousCommit::Off => Level::Off,
        SynchronousCommit::Local => Level::Local,
        SynchronousCommit::RemoteWrite => Level::RemoteWrite,
        SynchronousCommit::On => Level::On,
        SynchronousCommit::RemoteApply => Level::RemoteApply,
    };
    let named = |verb: &classifier::Verb| rule.statements.iter().any(|name| name == verb.as_str());
    let verbs = classifier::Verb::ALL.into_iter().filter(named).collect();
    Some(DurabilityRule { tables: rule.tables.clone().into(), verbs, level })
}

pub(crate) fn route(route: config::Route) -> session::Route {
    match route {
        config::Route::Auto => session::Route::Auto,
        config::Route::Primary => session::Route::Primary,
        config::Route::Replica => session::Route::Replica,
    }
}

pub(crate) fn consistency(consistency: config::Consistency) -> Consistency {
    match consistency {
        config::Consistency::Eventual => Consistency::Eventual,
        config::Consistency::Bounded => Consistency::Bounded,
        config::Consistency::Session => Consistency::Session,
        config::Consistency::Global => Consistency::Global,
    }
}

pub(crate) fn affinity(affinity: config::Affinity) -> session::Affinity {
    match affinity {
        config::Affinity::None => session::Affinity::None,
        config::Affinity::Node => session::Affinity::Node,
        config::Affinity::Primary => session::Affinity::Primary,
    }
}

//! The class of a text in whatever encoding the client has.

use std::sync::Arc;

use classifier::{Access, Class, Classifier, Effect, PinReason, Why};

pub(crate) fn classify(classifier: &Classifier, sql: &[u8]) -> Arc<Class> {
    std::str::from_utf8(sql)
        .map_or_else(|_| Arc::new(foreign_either_way(classifier, sql)), |sql| classifier.classify(sql))
}

/// The class of text in another encoding than UTF-8. What steers a session is ASCII in every client encoding that matters; what it
/// leaves there cannot be said again, and stays.
fn foreign(classifier: &Classifier, sql: &[u8]) -> Class {
    // Each byte as a character of its own: nothing is lost, and ASCII is what it was.
    let class = classifier.classify_uncached(&sql.iter().map(|byte| char::from(*byte)).collect::<String>());
    let settle = |effect: Effect| match effect {
        Effect::Prepare { name, types, body } if name.is_ascii() => {
            Effect::Prepare { name, types: as_sent(&types), body: as_sent(&body) }
        }
        Effect::Execute(execution) if execution.name.is_ascii() => {
            let (before, after) = (as_sent(&execution.before), as_sent(&execution.after));
            Effect::Execute(Box::new(classifier::Execution { before, after, ..*execution }))
        }
        // A name that is known by its bytes alone: it is on the server.
        Effect::Prepare { .. } | Effect::Execute(_) => Effect::Pin(PinReason::SqlPrepare),
        Effect::Deallocate(name) if !name.is_ascii() => Effect::Pin(PinReason::SqlPrepare),
        Effect::Set { scope: classifier::Scope::Session, .. } | Effect::SetUnseen(_) | Effect::Listen(_) => {
            Effect::Pin(PinReason::Other)
        }
        effect => effect,
    };
    let effects = class.effects.into_iter().map(settle).collect();
    Class { access: Access::Write, why: Why::UnknownStatement, unseen: true, effects, ..class }
}

/// The client's bytes again of a text whose characters stand for one each.
fn as_sent(text: &[u8]) -> Vec<u8> {
    let characters = std::str::from_utf8(text).map(str::chars).into_iter().flatten();
    characters.map(|character| u8::try_from(character).expect("it was made of a byte")).collect()
}

pub(crate) fn unknown() -> Class {
    Class {
        access: Access::Write,
        effects: Box::default(),
        why: Why::UnknownStatement,
        statements: 1,
        defines: false,
        unseen: true,
        hint: None,
        lesson: Default::default(),
        targets: Box::default(),
    }
}

/// The class of such a text whose characters may have a second byte that is ASCII, as in SJIS, BIG5 and GBK, or may not. Where what it
/// leaves depends on that, it may leave anything: `E'\x95\\'; select ...` is one string, or a string and a statement.
fn foreign_either_way(classifier: &Classifier, sql: &[u8]) -> Class {
    let class = foreign(classifier, sql);
    let mut paired = sql.to_vec();
    for at in 1..sql.len() {
        if sql[at - 1] >= 0x80 && b"@[\\]^`{|}~".contains(&sql[at]) {
            paired[at] = b'x';
        }
    }
    if paired == sql || foreign(classifier, &paired).effects == class.effects {
        return class;
    }
    Class { effects: Box::new([Effect::Pin(PinReason::Other)]), ..class }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_behind_characters_of_two_bytes() {
        let classifier = Classifier::new(classifier::Options::default());
        let check = |sql: &[u8], expected: &[Effect]| {
            let class = classify(&classifier, sql);
            assert_eq!((class.access, &*class.effects), (Access::Write, expected), "{}", sql.escape_ascii());
        };
        // SJIS: the string ends behind its character, or goes on.
        check(b"select E'\x95\\'; select pg_advisory_lock(1) --'", &[Effect::Pin(PinReason::Other)]);
        check(b"select $\x83|$ ' $\x83|$; select pg_advisory_lock(1) --'", &[Effect::Pin(PinReason::Other)]);
        // LATIN1
        check(b"select E'\xe9\\n', '\xe9|'", &[]);
        check(b"select '\xe9', pg_advisory_lock(1)", &[Effect::Pin(PinReason::AdvisoryLock)]);
    }
}

//! Statements of SQL's PREPARE under their own names on the server, for requests that look for them there: a query of
//! `pg_prepared_statements`, a text that a function or a DO block may execute, with EXECUTE in it, and EXECUTE or DEALLOCATE in a string
//! of several statements.
//!
//! Such a session is on the server by itself from then on: it gets nothing but its own statements, under the names and with the
//! texts that it gave them, and stays (a pin) until they are deallocated.

use std::sync::Arc;

use classifier::{Access, Class, Effect, Why};
use wire::frontend;

use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::session::Session;
use crate::sql::Rewrite;
use crate::statements::Prepared;
use crate::terms::Transaction;

impl Session {
    /// Whether a simple query that comes next looks for the session's own statements on its server; and which these are.
    pub(crate) fn reveals(&self, sql: &[u8], class: &Class) -> Option<Rewrite> {
        if class.access == Access::Read || self.is_behind() || self.names_are_real() {
            return None;
        }
        let shows = class.why == Why::NodeDependent && find(sql, b"pg_prepared_statement").is_some();
        let has_own = self.statements.of_sql().next().is_some();
        let looks = match class.statements {
            _ if !has_own => shows && self.statements.has_no_names() && self.transaction == Transaction::None,
            1 if crate::sql::concerns_statements(class) => false,
            2.. if class.effects.iter().any(|effect| self.names_own(effect)) => {
                !matches!(self.transaction, Transaction::Open { failed: true } | Transaction::Lost { .. })
            }
            // A transaction would fail with a statement that cannot be prepared any more, whether it is looked for or not.
            _ => (shows || executes_text(sql)) && self.transaction == Transaction::None,
        };
        looks.then(|| Rewrite::Reveal(self.statements.of_sql().cloned().collect()))
    }

    /// Whether an effect is on a statement that the session has prepared by SQL.
    fn names_own(&self, effect: &Effect) -> bool {
        let name = match effect {
            Effect::Execute(execution) => &execution.name,
            Effect::Prepare { name, .. } | Effect::Deallocate(name) => name,
            _ => return false,
        };
        self.statements.get(name.as_bytes()).is_some_and(|known| known.is_of_sql())
    }

    /// Writes what gives the server the session's own statements and no other.
    pub(crate) fn encode_reveal(&mut self, own: &[Arc<Prepared>], memory: &mut ServerMemory, out: &mut Vec<u8>) {
        memory.deallocate_all();
        frontend::put_query(out, "DEALLOCATE ALL");
        self.owe(Owed::HiddenQuery);
        for statement in own {
            frontend::put_query(out, statement.source());
            self.owe(Owed::HiddenQuery);
        }
        if !own.is_empty() {
            self.pin(classifier::PinReason::SqlPrepare);
        }
    }
}

/// Whether the word stands behind the beginning of a string.
fn executes_text(sql: &[u8]) -> bool {
    let begin = sql.iter().position(|byte| matches!(byte, b'\'' | b'$'));
    begin.is_some_and(|begin| find(&sql[begin..], b"execute").is_some())
}

/// Where a word in lower case stands in a text in any case.
fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_executes_text() {
        let check = |sql: &str, expected| assert_eq!(executes_text(sql.as_bytes()), expected, "{sql}");
        check("select f('Execute q')", true);
        check("do $$ begin execute 'execute q'; end $$", true);
        check("select f('nothing')", false);
        check("create trigger t before update on r execute function f()", false);
        check("execute", false);
    }
}

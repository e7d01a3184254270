//! What is learnt from a statement that a replica has refused though it looked like a read.
//!
//! The lesson is kept with the statement's class, which the classifier's caches and all who have prepared such a statement share: it
//! costs a load where the class is looked at anyway, is as bounded as the caches are, and is forgotten with the class.

use std::sync::Arc;

use classifier::Class;
use wire::frame::Frames;
use wire::frontend::Frontend;

use crate::owed::Owed;
use crate::request::Request;
use crate::session::Session;
use crate::statements::Prepared;
use crate::terms::Role;

impl Session {
    /// The statement of the first request that its server has just failed at; all of them, where that cannot be told.
    pub(crate) fn culprits(&self) -> Vec<Arc<Class>> {
        let Some(sent) = self.flight.front() else { return Vec::new() };
        if let Some(class) = &sent.request.simple {
            return vec![class.clone()];
        }
        let executed = self.executed(&sent.request, &sent.parsed);
        let is_execute = |owed: &&Owed| matches!(owed, Owed::Execute { .. } | Owed::SynthesizedExecute { .. });
        let left = self.owed.iter().take_while(|owed| !owed.is_end()).filter(is_execute).count();
        let at_fault = executed.len().checked_sub(left).and_then(|at| executed.get(at));
        match at_fault.filter(|_| matches!(self.owed.front(), Some(Owed::Execute { .. }))) {
            Some(class) => class.iter().cloned().collect(),
            None => executed.into_iter().flatten().collect(),
        }
    }

    /// A request has been answered. What a replica had refused of it, and the primary has done, is no read.
    pub(crate) fn conclude_lesson(&mut self, request: &Request, failed: bool) {
        let refused = std::mem::take(&mut self.refused);
        if !failed && request.attempts > 0 && self.lease.role == Some(Role::Primary) {
            refused.iter().for_each(|class| class.lesson.learn());
        }
    }

    /// The classes of what a request executes, in order; `None` for what is not known.
    fn executed(&self, request: &Request, parsed: &[Arc<Prepared>]) -> Vec<Option<Arc<Class>>> {
        let mut parsed = parsed.iter();
        let mut named: Vec<(&[u8], &Arc<Prepared>)> = Vec::new();
        let mut portals: Vec<(&[u8], Option<Arc<Class>>)> = Vec::new();
        let mut executed = Vec::new();
        for frame in Frames::new(&request.frames) {
            match Frontend::read(frame) {
                Ok(Frontend::Parse(parse)) => named.extend(parsed.next().map(|statement| (parse.name, statement))),
                Ok(Frontend::Bind(bind)) => {
                    let own = named.iter().rev().find(|(name, _)| *name == bind.statement).map(|(_, known)| *known);
                    let statement = own.or_else(|| self.statements.get(bind.statement));
                    portals.push((bind.portal, statement.map(|statement| statement.class.clone())));
                }
                Ok(Frontend::Execute) => {
                    let name = crate::encode::portal_name(frame);
                    let portal = portals.iter().rev().find(|(portal, _)| *portal == name);
                    executed.push(portal.and_then(|(_, class)| class.clone()));
                }
                _ => {}
            }
        }
        executed
    }
}

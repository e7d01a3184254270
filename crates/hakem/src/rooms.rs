//! Where requests are served: on the heap, in rooms that are used again.
//!
//! What serves a request takes more memory than all else that a client's task holds. An idle client has no room, and a warm worker
//! furnishes none.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use session::{Intent, Scratch, Session};

use crate::client::Guest;
use crate::outcome::Gone;
use crate::shelf::Shelf;

/// A worker's spare rooms, and what its sessions need only while they have a request.
#[derive(Default)]
pub(crate) struct Rooms {
    spare: Shelf<Room>,
    scratches: Shelf<Scratch>,
    /// Each room has a copy.
    furnished: Rc<()>,
}

/// A guest whose request has been served, and why it is gone, if it is.
pub(crate) type Served = (Box<Guest>, Option<Gone>);

struct Room {
    desk: Rc<Desk>,
    /// Serves one guest after the other, in one future: one for each request would have to be copied into its place.
    service: Pin<Box<dyn Future<Output = Infallible>>>,
    _furnished: Rc<()>,
}

/// How guests come and go.
#[derive(Default)]
struct Desk {
    arrived: Cell<Option<(Box<Guest>, Intent)>>,
    served: Cell<Option<Served>>,
}

impl Rooms {
    /// Serves a guest's request, in a room of its worker. Whoever stops waiting drops the guest, and the room with it.
    pub(crate) fn serve(guest: Box<Guest>, intent: Intent) -> impl Future<Output = Served> {
        let Rooms { spare, furnished, .. } = guest.rooms();
        let mut room = spare.take().unwrap_or_else(|| Room::furnish(furnished.clone()));
        // Not in the future, which would have room for them as long as it is awaited.
        room.desk.arrived.set(Some((guest, intent)));
        async move {
            let served = poll_fn(|context| {
                let Poll::Pending = room.service.as_mut().poll(context);
                room.desk.served.take().map_or(Poll::Pending, Poll::Ready)
            });
            let (guest, gone) = served.await;
            guest.rooms().spare.put(room);
            (guest, gone)
        }
    }

    /// How many requests are being served.
    pub(crate) fn occupied(&self) -> usize {
        Rc::strong_count(&self.furnished) - 1 - self.spare.len()
    }

    /// The session begins to say something.
    pub(crate) fn lend(&self, session: &mut Session) {
        if session.is_bare()
            && let Some(scratch) = self.scratches.take()
        {
            session.move_in(scratch);
        }
    }

    /// The session waits for its client.
    pub(crate) fn take_back(&self, session: &mut Session) {
        if let Some(scratch) = session.move_out() {
            self.scratches.put(scratch);
        }
    }
}

impl Room {
    fn furnish(furnished: Rc<()>) -> Room {
        let desk = Rc::new(Desk::default());
        Room { desk: desk.clone(), service: Box::pin(Desk::attend(desk)), _furnished: furnished }
    }
}

impl Desk {
    async fn attend(desk: Rc<Desk>) -> Infallible {
        loop {
            let (mut guest, intent) = poll_fn(|_| desk.arrived.take().map_or(Poll::Pending, Poll::Ready)).await;
            let gone = guest.request(&intent).await;
            desk.served.set(Some((guest, gone)));
        }
    }
}

//! One client that leases a server for each transaction.
//!
//! Simple protocol only: a request is whatever the client sends while it holds no server, and a lease ends at a ReadyForQuery
//! outside of a transaction. No state is reset between clients.

use std::io;
use std::task::Poll;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::frames::Frames;
use crate::pool::Pool;
use crate::relay::{BUFFER, Way};

/// Serves one client until it leaves.
pub(crate) async fn serve(mut client: TcpStream, pool: &Pool, core: usize) -> io::Result<()> {
    greet(&mut client, pool.greeting()).await?;
    let (mut up, mut down) = (Way::new(), Way::new());
    let mut request = vec![0; BUFFER];
    loop {
        let got = client.read(&mut request).await?;
        if got == 0 || request[0] == TERMINATE {
            return Ok(());
        }
        let mut server = pool.checkout(core).await?;
        up.fill(&request[..got]);
        transact(&mut client, &mut server, &mut up, &mut down).await?;
        pool.release(core, server);
    }
}

async fn transact(client: &mut TcpStream, server: &mut TcpStream, up: &mut Way, down: &mut Way) -> io::Result<()> {
    let mut frames = Frames::default();
    std::future::poll_fn(|cx| {
        if up.poll(cx, client, server, |_| ())?.is_ready() {
            return Poll::Ready(Err(io::Error::other("a client left in the middle of a transaction")));
        }
        if down.poll(cx, server, client, |bytes| frames.feed(bytes))?.is_ready() {
            return Poll::Ready(Err(io::Error::other("a server closed a leased connection")));
        }
        match frames.released() && down.is_empty() && up.is_empty() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    })
    .await
}

/// Answers the startup packet with the parameters that a server gave at its own login.
async fn greet(client: &mut TcpStream, greeting: &[u8]) -> io::Result<()> {
    loop {
        // Who only looks whether the port is open leaves here.
        let length = client.read_u32().await? as usize;
        if !(8..=BUFFER).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut packet = vec![0; length - 4];
        client.read_exact(&mut packet).await?;
        if packet[..4] == SSL_REQUEST || packet[..4] == GSS_REQUEST {
            client.write_all(b"N").await?;
        } else {
            return client.write_all(greeting).await;
        }
    }
}

const TERMINATE: u8 = b'X';
const SSL_REQUEST: [u8; 4] = 80877103u32.to_be_bytes();
const GSS_REQUEST: [u8; 4] = 80877104u32.to_be_bytes();

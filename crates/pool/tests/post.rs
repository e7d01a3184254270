//! What a thread's sockets send together: all of it arrives, in order, whoever reads slowly, leaves or moves.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::{Future, poll_fn};
use std::io::Read;
use std::pin::pin;
use std::time::Duration;

use pool::{Stream, post};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

/// Runs on a thread whose event loop delivers its post, as a worker's.
fn run<T>(work: impl Future<Output = T>) -> T {
    post::open().unwrap();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().on_thread_park(post::turn_over).build().unwrap().block_on(work)
}

async fn pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (stream.into(), listener.accept().await.unwrap().0)
}

/// Bytes that tell where they belong.
fn text(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|place| (place % 251) as u8).collect()
}

#[test]
fn every_byte_arrives_in_order() {
    run(async {
        let mut scene = JoinSet::new();
        for seed in 0..30 {
            let (mut stream, mut peer) = pair().await;
            let mut chance = StdRng::seed_from_u64(seed);
            let mut size = |_| {
                let range = if chance.random_bool(0.7) { 1..3000 } else { 3000..100_000 };
                chance.random_range(range)
            };
            let sizes: Vec<usize> = (0..60).map(&mut size).collect();
            let total = sizes.iter().sum();
            scene.spawn(async move {
                let mut sent = 0;
                for size in sizes {
                    stream.write_all(&text(sent, size)).await.unwrap();
                    sent += size;
                    if chance.random_bool(0.3) {
                        tokio::task::yield_now().await;
                    }
                }
                // Whoever is read from sends what is left.
                assert_eq!(stream.read_u8().await.unwrap(), b'!');
            });
            scene.spawn(async move {
                let mut received = Vec::new();
                while received.len() < total {
                    assert!(peer.read_buf(&mut received).await.unwrap() > 0);
                    tokio::task::yield_now().await;
                }
                assert!(received == text(0, total), "seed {seed}");
                peer.write_all(b"!").await.unwrap();
            });
        }
        while let Some(ended) = scene.join_next().await {
            ended.unwrap();
        }
    });
}

#[test]
fn a_full_socket_is_told_of_and_takes_the_rest_later() {
    run(async {
        let (mut stream, mut peer) = pair().await;
        let mut sent = 0;
        // One letter after the other, until one does not fit.
        while !stream.needs_flush() {
            let letter = text(sent, 4096);
            if poll_fn(|context| std::task::Poll::Ready(pin!(stream.write(&letter)).poll(context).is_pending())).await {
                break;
            }
            sent += letter.len();
            tokio::task::yield_now().await;
            stream.settle();
        }
        assert!(stream.needs_flush());
        let mut received = vec![0; sent];
        let (flushed, read) = tokio::join!(stream.flush(), peer.read_exact(&mut received));
        flushed.unwrap();
        read.unwrap();
        assert!(received == text(0, sent));
        assert!(!stream.needs_flush());
    });
}

#[test]
fn a_question_that_did_not_fit_is_sent_by_who_waits_for_its_answer() {
    run(async {
        let (mut stream, mut peer) = pair().await;
        let (mut other, _peer) = pair().await;
        let (mut filled, mut refused) = (0, 0);
        // What has left makes room, for a while.
        while refused < 20 {
            match stream.socket().tcp().unwrap().try_write(&[0; 100_000]) {
                Ok(length) => (filled, refused) = (filled + length, 0),
                Err(_) => refused += 1,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stream.write_all(&[1; 1000]).await.unwrap();
        other.write_all(b"not alone in the post").await.unwrap();
        // A task of its own: what happens to it wakes nobody else.
        let answer = tokio::spawn(async move {
            let mut received = vec![0; filled + 1000];
            // Not before the letter was found not to fit.
            tokio::task::yield_now().await;
            peer.read_exact(&mut received).await.unwrap();
            peer.write_all(b"!").await.unwrap();
        });
        let read = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("the rest was never sent");
        assert_eq!(read.unwrap(), b'!');
        answer.await.unwrap();
    });
}

#[test]
fn a_letter_does_not_wait_for_who_never_waits() {
    run(async {
        for writes in [true, false] {
            let (mut busy, mut busy_peer) = pair().await;
            let (mut stream, peer) = pair().await;
            if !writes {
                busy_peer.write_all(&[0; 50_000]).await.unwrap();
                // It has come, all of it.
                poll_fn(|context| busy.poll_read_ready(context)).await.unwrap();
            }
            stream.write_all(b"hello").await.unwrap();
            // Less than a socket takes, and has: the thread has always something else to do.
            for _ in 0..5 {
                match writes {
                    true => busy.write_all(&[0; 10_000]).await.unwrap(),
                    false => drop(busy.read_exact(&mut [0; 10_000]).await.unwrap()),
                }
                tokio::task::yield_now().await;
            }
            let mut received = [0; 10];
            assert_eq!(peer.into_std().unwrap().read(&mut received).unwrap(), 5, "writes: {writes}");
        }
    });
}

#[test]
fn a_letter_that_would_be_alone_goes_at_once() {
    run(async {
        let (mut stream, peer) = pair().await;
        let (mut other, _other_peer) = pair().await;
        let mut peer = peer.into_std().unwrap();
        // Whether it arrives before the turn is over.
        let mut is_sent_at_once = async |with_another: bool| {
            stream.write_all(b"!").await.unwrap();
            let mut byte = [0];
            let at_once = peer.read(&mut byte).is_ok();
            if with_another {
                other.write_all(b"!").await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            if !at_once {
                peer.read_exact(&mut byte).unwrap();
            }
            at_once
        };
        let mut alone = Vec::new();
        for _ in 0..6 {
            alone.push(is_sent_at_once(false).await);
        }
        assert_eq!(alone, [false, false, false, false, true, true]);
        assert!(is_sent_at_once(true).await);
        assert!(!is_sent_at_once(false).await);
    });
}

#[test]
fn what_was_written_before_the_end_arrives() {
    run(async {
        let (mut stream, mut peer) = pair().await;
        let (mut other, _peer) = pair().await;
        stream.write_all(b"goodbye").await.unwrap();
        other.write_all(b"hello").await.unwrap();
        drop(stream);
        // The number of its socket is another's now, who must not get the letter.
        let (mut next, mut stranger) = pair().await;
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"goodbye");
        next.write_all(b"hello").await.unwrap();
        received.clear();
        while received.len() < 5 {
            stranger.read_buf(&mut received).await.unwrap();
        }
        assert_eq!(received, b"hello");
        let (mut stream, mut peer) = pair().await;
        stream.write_all(b"the end").await.unwrap();
        stream.shutdown().await.unwrap();
        received.clear();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"the end");
    });
}

#[test]
fn who_waits_for_an_answer_hears_that_the_question_was_not_sent() {
    run(async {
        let (local, peer) = UnixStream::pair().unwrap();
        let mut stream = Stream::Plain(local.into());
        drop(peer);
        let (mut other, _peer) = pair().await;
        stream.write_all(b"anybody there?").await.unwrap();
        other.write_all(b"not alone in the post").await.unwrap();
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap_or(0), 0);
        let error = stream.write_all(b"?").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        assert!(stream.flush().await.is_err());
    });
}

#[test]
fn another_thread_takes_over_what_has_been_sent() {
    let (stream, mut peer) = run(async {
        let (mut stream, peer) = pair().await;
        stream.write_all(b"from here, ").await.unwrap();
        stream.settle();
        (stream, peer.into_std().unwrap())
    });
    let there = std::thread::spawn(|| {
        run(async {
            let mut stream = stream.move_here().unwrap();
            stream.write_all(b"and from there").await.unwrap();
        });
    });
    there.join().unwrap();
    peer.set_nonblocking(false).unwrap();
    let mut received = String::new();
    peer.read_to_string(&mut received).unwrap();
    assert_eq!(received, "from here, and from there");
}

/// For what would wait for ever.
const PATIENCE: Duration = Duration::from_secs(20);

//! The pool with a real server: who gets a connection, when, and what becomes of it.
//!
//! Every wait is for a condition. Workers are numbers here: all of them live on one runtime.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Authentication, Cluster};
use pool::{CheckoutError, Figures, Lease, Options, Pool, Target, Wallet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use wire::frame::Frames;

type Checkout = JoinHandle<Result<Lease<()>, CheckoutError>>;

/// A server, and pools to it.
struct Scene {
    cluster: Cluster,
}

impl Scene {
    async fn start() -> Scene {
        let options =
            cluster::Options { replicas: 0, authentication: Authentication::Trust, ..cluster::Options::default() };
        Scene { cluster: Cluster::start(options).await.unwrap() }
    }

    fn pool(&self, change: impl FnOnce(&mut Options)) -> Arc<Pool<()>> {
        let mut options = Options {
            size: 1,
            size_min: 0,
            queue_max: 100,
            wait_timeout: LONG,
            idle_timeout: LONG,
            lifetime: LONG,
            login_retry: Duration::ZERO,
            workers: 1,
        };
        change(&mut options);
        Pool::new(self.target(), options, |_| (), 0)
    }

    fn target(&self) -> Target {
        let node = &self.cluster.nodes()[0];
        Target {
            host: node.host().to_owned(),
            port: node.port(),
            user: "postgres".to_owned(),
            wallet: Wallet::default(),
            database: "postgres".to_owned(),
            timeout: LONG,
            keepalive: None,
            tls: None,
        }
    }

    async fn sql(&self, sql: &str) -> String {
        self.cluster.sql(0, sql).await.unwrap()
    }

    /// Waits until the server counts so many backends of pools.
    async fn backends(&self, expected: usize) {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND client_addr IS NOT NULL";
        while self.sql(sql).await != expected.to_string() {}
    }

    async fn end(self) {
        self.cluster.shutdown().await.unwrap();
    }
}

/// A test that hangs has failed; none of them waits for time.
const LONG: Duration = Duration::from_secs(20);

fn now() -> Instant {
    Instant::now()
}

fn start(pool: &Arc<Pool<()>>, worker: usize) -> Checkout {
    let pool = pool.clone();
    tokio::spawn(async move { pool.checkout(worker, now()).await })
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
}

async fn waiting(pool: &Arc<Pool<()>>, expected: usize) {
    until(|| pool.figures().waiting == expected).await;
}

/// The process that answers at the other end.
async fn process(lease: &mut Lease<()>) -> String {
    lease.stream.write_all(b"Q\0\0\0\x1dSELECT pg_backend_pid();\0").await.unwrap();
    let mut received = Vec::new();
    loop {
        lease.stream.read_buf(&mut received).await.unwrap();
        let frames: Vec<_> = Frames::new(&received).collect();
        if frames.iter().any(|frame| frame.tag == b'Z') {
            let row = frames.iter().find(|frame| frame.tag == b'D').unwrap();
            return String::from_utf8(row.body()[6..].to_vec()).unwrap();
        }
    }
}

fn check(pool: &Arc<Pool<()>>, idle: usize, leased: usize, waiting: usize) {
    assert_eq!(pool.figures(), Figures { idle, leased, dialing: 0, waiting });
}

fn run(test: impl AsyncFnOnce(&mut Scene)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bounded(async {
        let mut scene = Scene::start().await;
        test(&mut scene).await;
        scene.end().await;
    }));
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(2 * LONG, work).await.expect("it ends")
}

#[test]
fn connections_are_used_again_last_in_first_out() {
    run(async |scene| {
        let pool = scene.pool(|options| options.size = 2);
        let (mut a, mut b) = (pool.checkout(0, now()).await.unwrap(), pool.checkout(0, now()).await.unwrap());
        let (first, second) = (process(&mut a).await, process(&mut b).await);
        assert_ne!(first, second);
        check(&pool, 0, 2, 0);
        a.release(now());
        b.release(now());
        check(&pool, 2, 0, 0);
        let mut again = pool.checkout(0, now()).await.unwrap();
        assert_eq!(process(&mut again).await, second);
    });
}

#[test]
fn first_come_first_served() {
    run(async |scene| {
        let pool = scene.pool(|_| {});
        let mut lease = pool.checkout(0, now()).await.unwrap();
        let mut queue = Vec::new();
        for at in 1..=5 {
            queue.push(start(&pool, 0));
            waiting(&pool, at).await;
        }
        for (served, waiter) in queue.into_iter().enumerate() {
            lease.release(now());
            lease = waiter.await.unwrap().unwrap();
            check(&pool, 0, 1, 4 - served);
        }
    });
}

#[test]
fn who_gives_up_leaves_the_queue() {
    run(async |scene| {
        let pool = scene.pool(|options| {
            options.wait_timeout = Duration::from_millis(5);
            options.queue_max = 1;
        });
        // The first connection takes longer to make than anybody waits here.
        let lease = loop {
            match pool.checkout(0, now()).await {
                Ok(lease) => break lease,
                Err(error) => assert!(matches!(error, CheckoutError::Timeout), "{error:?}"),
            }
        };
        for _ in 0..3 {
            let refused = pool.checkout(0, now()).await;
            assert!(matches!(refused, Err(CheckoutError::Timeout)), "{refused:?}");
            check(&pool, 0, 1, 0);
        }
        lease.release(now());
        let pool = scene.pool(|_| {});
        let lease = pool.checkout(0, now()).await.unwrap();
        let (gone, stays) = (start(&pool, 0), start(&pool, 0));
        waiting(&pool, 2).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        check(&pool, 0, 1, 1);
        lease.release(now());
        stays.await.unwrap().unwrap();
    });
}

#[test]
fn the_queue_is_bounded() {
    run(async |scene| {
        let pool = scene.pool(|options| options.queue_max = 2);
        let lease = pool.checkout(0, now()).await.unwrap();
        let queue = [start(&pool, 0), start(&pool, 0)];
        waiting(&pool, 2).await;
        let refused = pool.checkout(0, now()).await;
        assert!(matches!(refused, Err(CheckoutError::QueueFull)), "{refused:?}");
        drop(lease);
        for waiter in queue {
            waiter.await.unwrap().unwrap().release(now());
        }
    });
}

#[test]
fn a_dead_idle_connection_is_replaced_unnoticed() {
    run(async |scene| {
        let pool = scene.pool(|options| options.size = 3);
        let mut leases = Vec::new();
        for _ in 0..3 {
            leases.push(pool.checkout(0, now()).await.unwrap());
        }
        leases.into_iter().for_each(|lease| lease.release(now()));
        scene.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_addr IS NOT NULL").await;
        scene.backends(0).await;
        let mut lease = pool.checkout(0, now()).await.unwrap();
        process(&mut lease).await;
        check(&pool, 0, 1, 0);
    });
}

#[test]
fn a_dropped_lease_is_closed_and_makes_room() {
    run(async |scene| {
        let pool = scene.pool(|_| {});
        let mut lease = pool.checkout(0, now()).await.unwrap();
        let first = process(&mut lease).await;
        let waiter = start(&pool, 0);
        waiting(&pool, 1).await;
        drop(lease);
        let mut second = waiter.await.unwrap().unwrap();
        assert_ne!(process(&mut second).await, first);
        scene.backends(1).await;
        drop(second);
        check(&pool, 0, 0, 0);
        scene.backends(0).await;
    });
}

#[test]
fn a_server_that_is_away_is_reported_to_all_who_wait() {
    run(async |scene| {
        let pool = scene.pool(|options| {
            options.size = 2;
            options.login_retry = LONG;
        });
        scene.cluster.stop(0, cluster::Mode::Fast).await.unwrap();
        let queue = [start(&pool, 0), start(&pool, 0), start(&pool, 0)];
        for waiter in queue {
            let refused = waiter.await.unwrap();
            assert!(matches!(&refused, Err(CheckoutError::Dial(error)) if error.is_transient()), "{refused:?}");
        }
        until(|| pool.figures().dialing == 0).await;
        check(&pool, 0, 0, 0);
        // For a while it is not even tried.
        scene.cluster.start_node(0).await.unwrap();
        assert!(matches!(pool.checkout(0, now()).await, Err(CheckoutError::Dial(_))));
        pool.checkout(0, now() + 2 * LONG).await.unwrap();
        // Once it has worked, the failure is history.
        pool.checkout(0, now()).await.unwrap();
    });
}

#[test]
fn retired_connections_do_not_come_back() {
    run(async |scene| {
        let pool = scene.pool(|options| options.size = 2);
        let (a, b) = (pool.checkout(0, now()).await.unwrap(), pool.checkout(0, now()).await.unwrap());
        a.release(now());
        pool.retire();
        assert!(b.is_retired());
        check(&pool, 0, 1, 0);
        scene.backends(1).await;
        b.release(now());
        check(&pool, 0, 0, 0);
        scene.backends(0).await;
        assert!(!pool.checkout(0, now()).await.unwrap().is_retired());
    });
}

#[test]
fn age_and_idleness_end_connections() {
    run(async |scene| {
        let hour = Duration::from_secs(3600);
        let pool = scene.pool(|options| {
            options.size = 3;
            options.size_min = 1;
            options.idle_timeout = hour;
            options.lifetime = 10 * hour;
        });
        let start = now();
        let mut leases = Vec::new();
        for _ in 0..3 {
            leases.push(pool.checkout(0, start).await.unwrap());
        }
        for (lease, since) in leases.into_iter().zip([start, start + hour / 2, start + hour / 2]) {
            lease.release(since);
        }
        for (moment, left) in [(start + hour / 4, 3), (start + hour, 2), (start + 2 * hour, 1), (start + 9 * hour, 1)] {
            pool.sweep(moment);
            check(&pool, left, 0, 0);
        }
        pool.sweep(start + 11 * hour);
        check(&pool, 0, 0, 0);
        scene.backends(0).await;
    });
}

#[test]
fn an_old_connection_is_neither_kept_nor_lent_nor_handed_on() {
    run(async |scene| {
        let hour = Duration::from_secs(3600);
        let pool = scene.pool(|options| {
            options.size = 2;
            options.idle_timeout = 1000 * hour;
            options.lifetime = 10 * hour;
        });
        let (old, young) = (pool.checkout(0, now()).await.unwrap(), pool.checkout(0, now()).await.unwrap());
        let (made, end) = (now(), young.since + 10 * hour);
        assert!(old.since < young.since);
        young.release(made);
        old.release(made + hour);
        pool.sweep(end - Duration::from_nanos(1));
        check(&pool, 1, 0, 0);
        let mut lease = pool.checkout(0, end - Duration::from_nanos(1)).await.unwrap();
        let first = process(&mut lease).await;
        lease.release(made);
        let mut lease = pool.checkout(0, end).await.unwrap();
        let second = process(&mut lease).await;
        assert_ne!(second, first);
        let _other = pool.checkout(0, now()).await.unwrap();
        let waiter = start(&pool, 0);
        waiting(&pool, 1).await;
        lease.release(end + hour);
        assert_ne!(process(&mut waiter.await.unwrap().unwrap()).await, second);
    });
}

#[test]
fn a_worker_without_connections_takes_over_anothers() {
    run(async |scene| {
        let pool = scene.pool(|options| options.workers = 2);
        let mut lease = pool.checkout(0, now()).await.unwrap();
        let first = process(&mut lease).await;
        lease.release(now());
        let mut taken = pool.checkout(1, now()).await.unwrap();
        assert_eq!(process(&mut taken).await, first);
        // And it is the other way round now.
        let waiter = start(&pool, 0);
        waiting(&pool, 1).await;
        taken.release(now());
        assert_eq!(process(&mut waiter.await.unwrap().unwrap()).await, first);
    });
}

#[test]
fn who_waits_long_enough_is_served_by_any_worker() {
    run(async |scene| {
        let pool = scene.pool(|options| (options.workers, options.size) = (2, 3));
        let lease = pool.checkout(0, now()).await.unwrap();
        // Worker 1 is not dry: it has more connections than clients that wait.
        let held = [pool.checkout(1, now()).await.unwrap(), pool.checkout(1, now()).await.unwrap()];
        let waiter = start(&pool, 1);
        waiting(&pool, 1).await;
        // Longer than anybody's patience: a whole query by a new process.
        scene.sql("SELECT 1").await;
        lease.release(now());
        waiter.await.unwrap().unwrap();
        drop(held);
    });
}

#[test]
fn all_connections_can_be_lent_at_once_and_no_more() {
    run(async |scene| {
        let pool = scene.pool(|options| (options.workers, options.size) = (2, 4));
        let queue: Vec<Checkout> = (0..40).map(|client| start(&pool, client % 2)).collect();
        let mut served = 0;
        for waiter in queue {
            let mut lease = waiter.await.unwrap().unwrap();
            let Figures { idle, leased, dialing, .. } = pool.figures();
            assert!(idle + leased + dialing <= 4);
            process(&mut lease).await;
            lease.release(now());
            served += 1;
        }
        assert_eq!(served, 40);
        until(|| pool.figures().dialing == 0).await;
        assert_eq!(pool.figures().leased, 0);
    });
}

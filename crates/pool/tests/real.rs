//! The pool with a real server: who gets a connection, when, and what becomes of it.
//!
//! Every wait is for a condition. Workers are numbers here: all of them live on one runtime.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Authentication, Cluster};
use pool::{CheckoutError, Figures, Lease, Logins, Options, Pool, Quota, Target, Wallet};
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
            reserve: 0,
            reserve_timeout: LONG,
            quota_max: [usize::MAX; 2],
            queue_max: 100,
            wait_timeout: LONG,
            idle_timeout: LONG,
            lifetime: LONG,
            login_retry: Duration::ZERO,
            workers: 1,
        };
        change(&mut options);
        Pool::new(self.target(), options, Default::default(), Default::default(), |_| (), 0)
    }

    /// A pool that shares its quotas with others.
    fn shared(&self, quotas: &[Arc<Quota>; 2], max: [usize; 2], size: usize) -> Arc<Pool<()>> {
        let mut options = None;
        self.pool(|made| {
            (made.quota_max, made.size, made.login_retry) = (max, size, LONG);
            options = Some(made.clone());
        });
        Pool::new(self.target(), options.unwrap(), quotas.clone(), Default::default(), |_| (), 0)
    }

    fn target(&self) -> Target {
        let node = &self.cluster.nodes()[0];
        Target {
            whereabouts: Default::default(),
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
fn who_has_waited_elsewhere_is_not_the_last() {
    run(async |scene| {
        let pool = scene.pool(|options| options.workers = 2);
        let held = pool.checkout(0, now()).await.unwrap();
        let moments: Vec<Instant> = (0..6).map(|place| now() + Duration::from_micros(place)).collect();
        let served = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut herd = Vec::new();
        for (number, place) in [(1, 3), (2, 0), (3, 5), (4, 2), (5, 1), (6, 4)] {
            let (lender, served, came) = (pool.clone(), served.clone(), moments[place]);
            herd.push(tokio::spawn(async move {
                let lease = lender.checkout_after(0, came, now(), || true).await.unwrap();
                served.lock().unwrap().push(place);
                lease.release(now());
            }));
            waiting(&pool, number).await;
        }
        // Who gives up leaves the others in their order.
        herd.remove(4).abort();
        waiting(&pool, 5).await;
        held.release(now());
        for one in herd {
            one.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), [0, 2, 3, 4, 5]);
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
        assert!(matches!(pool.checkout(0, now()).await, Err(CheckoutError::Cached(_))));
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
            pool.sweep(moment, false);
            check(&pool, left, 0, 0);
        }
        pool.sweep(start + 11 * hour, false);
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
        // Up to a tenth earlier they may be closed, then they must.
        let (first_end, last_end) = (old.since + 9 * hour, young.since + 10 * hour);
        young.release(now());
        old.release(now());
        pool.sweep(first_end - Duration::from_nanos(1), false);
        check(&pool, 2, 0, 0);
        pool.sweep(last_end, false);
        check(&pool, 0, 0, 0);
        let mut lease = pool.checkout(0, now()).await.unwrap();
        let (first, end) = (process(&mut lease).await, lease.since + 10 * hour);
        lease.release(now());
        let mut lease = pool.checkout(0, end).await.unwrap();
        let (second, end) = (process(&mut lease).await, lease.since + 10 * hour);
        assert_ne!(second, first);
        let _other = pool.checkout(0, now()).await.unwrap();
        let waiter = start(&pool, 0);
        waiting(&pool, 1).await;
        lease.release(end);
        assert_ne!(process(&mut waiter.await.unwrap().unwrap()).await, second);
    });
}

#[test]
fn a_lifetime_of_nothing_is_one_use() {
    run(async |scene| {
        let pool = scene.pool(|options| (options.size, options.lifetime) = (2, Duration::ZERO));
        let mut lease = pool.checkout(0, now()).await.unwrap();
        let first = process(&mut lease).await;
        lease.release(now());
        check(&pool, 0, 0, 0);
        assert_ne!(process(&mut pool.checkout(0, now()).await.unwrap()).await, first);
        // One that nobody has used is kept for who will.
        let pool = scene.pool(|options| (options.size_min, options.lifetime) = (1, Duration::ZERO));
        pool.sweep(now(), true);
        until(|| pool.figures().idle == 1).await;
        pool.sweep(now(), true);
        check(&pool, 1, 0, 0);
        pool.checkout(0, now()).await.unwrap().release(now());
        check(&pool, 0, 0, 0);
    });
}

#[test]
fn the_least_size_is_there_before_it_is_needed() {
    run(async |scene| {
        let pool = scene.pool(|options| (options.size, options.size_min, options.workers) = (5, 3, 2));
        pool.sweep(now(), false);
        assert_eq!(pool.figures(), Figures::default());
        pool.sweep(now(), true);
        until(|| pool.figures().idle == 3).await;
        scene.backends(3).await;
        // Whichever worker comes has them at once, and no more are made.
        let leases = [0, 1, 1].map(|worker| start(&pool, worker));
        for lease in leases {
            lease.await.unwrap().unwrap().release(now());
        }
        check(&pool, 3, 0, 0);
        pool.sweep(now() + 2 * LONG, true);
        until(|| pool.figures().idle == 3).await;
        // Not more than the pool may have.
        let pool = scene.pool(|options| (options.size, options.size_min) = (1, 3));
        pool.sweep(now(), true);
        until(|| pool.figures().idle == 1).await;
        assert_eq!(pool.figures().dialing, 0);
    });
}

#[test]
fn the_reserve_is_for_who_waits_long() {
    run(async |scene| {
        let pool = scene.pool(|options| (options.reserve, options.reserve_timeout) = (1, Duration::from_millis(20)));
        let first = pool.checkout(0, now()).await.unwrap();
        let second = pool.checkout(0, now()).await.unwrap();
        check(&pool, 0, 2, 0);
        // There is no more of it.
        let (third, fourth) = (start(&pool, 0), start(&pool, 0));
        waiting(&pool, 2).await;
        scene.sql("SELECT pg_sleep(0.1)").await;
        check(&pool, 0, 2, 2);
        // A connection that ends is replaced as long as somebody has waited so long.
        drop(first);
        let third = third.await.unwrap().unwrap();
        drop(second);
        let fourth = fourth.await.unwrap().unwrap();
        check(&pool, 0, 2, 0);
        third.release(now());
        fourth.release(now());
        check(&pool, 2, 0, 0);
    });
}

#[test]
fn a_login_that_hangs_keeps_nobody_else_out() {
    run(async |scene| {
        // A server that takes the first connection and says nothing, and is itself for all others.
        let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut target = scene.target();
        let server = (target.host.clone(), target.port);
        target.port = door.local_addr().unwrap().port();
        let relay = tokio::spawn(async move {
            let _silent = door.accept().await.unwrap();
            loop {
                let (mut inside, mut outside) =
                    (door.accept().await.unwrap().0, tokio::net::TcpStream::connect(&server).await.unwrap());
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut inside, &mut outside).await });
            }
        });
        let mut options = None;
        scene.pool(|made| {
            made.size = 2;
            options = Some(made.clone());
        });
        let pool = Pool::new(target, options.unwrap(), Default::default(), Default::default(), |_| (), 0);
        let mut lease = pool.checkout(0, now()).await.unwrap();
        process(&mut lease).await;
        assert_eq!(pool.figures(), Figures { idle: 0, leased: 1, dialing: 1, waiting: 0 });
        relay.abort();
    });
}

#[test]
fn a_failure_is_remembered_as_such() {
    run(async |scene| {
        let mut target = scene.target();
        target.database = "nowhere".to_owned();
        let mut options = None;
        scene.pool(|made| {
            made.login_retry = LONG;
            options = Some(made.clone());
        });
        let pool = Pool::new(target, options.unwrap(), Default::default(), Default::default(), |_| (), 0);
        let text = "database \"nowhere\" does not exist";
        assert_eq!(pool.checkout(0, now()).await.unwrap_err().to_string(), text);
        let cached = format!("server login has been failing, cached error: {text} (server_login_retry)");
        assert_eq!(pool.checkout(0, now()).await.unwrap_err().to_string(), cached);
        assert_eq!(pool.checkout(0, now() + 2 * LONG).await.unwrap_err().to_string(), text);
    });
}

#[test]
fn pools_share_a_quota() {
    run(async |scene| {
        let quotas: [Arc<Quota>; 2] = Default::default();
        let pools: Vec<_> = (0..3).map(|_| scene.shared(&quotas, [2, usize::MAX], 5)).collect();
        let first = pools[0].checkout(0, now()).await.unwrap();
        pools[0].checkout(0, now()).await.unwrap().release(now());
        let second = pools[0].checkout(0, now()).await.unwrap();
        let third = start(&pools[0], 0);
        waiting(&pools[0], 1).await;
        assert_eq!((quotas[0].open(), quotas[1].open()), (2, 2));
        // One that idles is given up for another pool at once; one that comes back, too, when that one has less.
        second.release(now());
        let third = third.await.unwrap().unwrap();
        third.release(now());
        check(&pools[0], 1, 1, 0);
        let other = pools[1].checkout(0, now()).await.unwrap();
        check(&pools[0], 0, 1, 0);
        check(&pools[1], 0, 1, 0);
        scene.backends(2).await;
        let waiter = start(&pools[2], 0);
        waiting(&pools[2], 1).await;
        other.release(now());
        let third = waiter.await.unwrap().unwrap();
        check(&pools[1], 0, 0, 0);
        assert_eq!(quotas[0].open(), 2);
        // Whoever gives up is not waited for.
        let gone = start(&pools[1], 0);
        waiting(&pools[1], 1).await;
        gone.abort();
        waiting(&pools[1], 0).await;
        first.release(now());
        third.release(now());
        drop(pools);
        assert_eq!(quotas[0].open(), 0);
        scene.backends(0).await;
    });
}

#[test]
fn a_quota_starves_nobody() {
    run(async |scene| {
        // As three users of one database, of fifteen clients each, none of whom ever rests.
        let quotas: [Arc<Quota>; 2] = Default::default();
        let pools: Vec<_> = (0..3).map(|_| scene.shared(&quotas, [4, usize::MAX], 15)).collect();
        let served: Vec<Arc<std::sync::atomic::AtomicUsize>> = (0..3).map(|_| Arc::default()).collect();
        let mut clients = Vec::new();
        for (pool, served) in pools.iter().zip(&served) {
            for _ in 0..15 {
                let (pool, served) = (pool.clone(), served.clone());
                clients.push(tokio::spawn(async move {
                    loop {
                        let mut lease = pool.checkout(0, now()).await.unwrap();
                        process(&mut lease).await;
                        lease.release(now());
                        served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }));
            }
        }
        let counts =
            || served.iter().map(|served| served.load(std::sync::atomic::Ordering::Relaxed)).collect::<Vec<_>>();
        until(|| counts().iter().all(|count| *count > 0)).await;
        let before = counts();
        let gained = || counts().iter().zip(&before).map(|(now, before)| now - before).collect::<Vec<_>>();
        // Many turns. How even they are depends on the machine's load; that nobody is left behind must not.
        until(|| gained().iter().sum::<usize>() > 8_000).await;
        let gained = gained();
        let (least, most) = (gained.iter().min().unwrap(), gained.iter().max().unwrap());
        assert!(*most <= 4 * *least, "{gained:?}");
        assert_eq!(quotas[0].open(), 4);
        clients.iter().for_each(JoinHandle::abort);
        for client in clients {
            let _ = client.await;
        }
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

#[test]
fn a_silent_peer_is_given_the_time_that_is_configured() {
    run(async |scene| {
        let mut target = scene.target();
        let seconds = Duration::from_secs;
        let keepalive =
            pool::Keepalive { idle: seconds(7), interval: seconds(3), count: 5, user_timeout: Some(seconds(11)) };
        target.keepalive = Some(keepalive);
        let made = pool::dial(&target.into(), (), 0).await.unwrap();
        let stream = made.stream.socket().tcp().unwrap();
        let socket = socket2::SockRef::from(stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(7));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), seconds(3));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(seconds(11)));
    });
}

#[test]
fn who_waits_for_a_server_that_is_given_up_looks_elsewhere() {
    run(async |scene| {
        let pool = scene.pool(|options| options.size = 2);
        let lease = pool.checkout(0, now()).await.unwrap();
        // It takes connections, and says nothing.
        scene.cluster.freeze(0).await.unwrap();
        let queue = [start(&pool, 0), start(&pool, 0)];
        waiting(&pool, 2).await;
        until(|| pool.figures().dialing == 1).await;
        pool.sever();
        for waiter in queue {
            let refused = waiter.await.unwrap();
            assert!(matches!(&refused, Err(CheckoutError::Severed)), "{refused:?}");
        }
        // Nor is its place taken by what will never be there.
        until(|| pool.figures().dialing == 0).await;
        drop(lease);
        check(&pool, 0, 0, 0);
        scene.cluster.thaw(0);
        process(&mut pool.checkout(0, now()).await.unwrap()).await;
    });
}

#[test]
fn who_is_not_to_wait_is_sent_away() {
    run(async |scene| {
        let pool = scene.pool(|_| {});
        let held = pool.checkout(0, now()).await.unwrap();
        let waiter = start(&pool, 0);
        waiting(&pool, 1).await;
        pool.recall();
        let refused = [waiter.await.unwrap(), pool.checkout_after(0, now(), now(), || false).await];
        assert!(refused.iter().all(|refused| matches!(refused, Err(CheckoutError::Recalled))), "{refused:?}");
        check(&pool, 0, 1, 0);
        // What need not be waited for is there for everybody.
        held.release(now());
        pool.checkout_after(0, now(), now(), || false).await.unwrap().release(now());
    });
}

#[test]
fn a_herd_logs_in_a_few_at_a_time_and_in_order() {
    const HERD: usize = 300;
    const LOGINS: usize = 3;
    const SIZE: usize = 20;
    const WORKERS: usize = 3;
    // How far the clients of one worker may get ahead of those of another.
    const OVERTAKEN: usize = 64;
    run(async |scene| {
        let port = scene.target().port;
        let mut options = None;
        scene.pool(|made| {
            (made.size, made.queue_max, made.workers) = (SIZE, HERD, WORKERS);
            options = Some(made.clone());
        });
        let logins = Arc::new(Logins::new(LOGINS));
        let pools = [(); 2].map(|()| {
            let (options, logins) = (options.clone().unwrap(), logins.clone());
            Pool::new(scene.target(), options, Default::default(), logins, |_| (), 0)
        });
        // As long as nobody answers, nobody's turn ends.
        scene.cluster.freeze(0).await.unwrap();
        let served = Arc::new(std::sync::Mutex::new([Vec::new(), Vec::new()]));
        let mut herd = Vec::new();
        for number in 0..HERD {
            let (pool, served) = (pools[number % 2].clone(), served.clone());
            herd.push(tokio::spawn(async move {
                let mut lease = pool.checkout(number / 2 % WORKERS, now()).await.unwrap();
                served.lock().unwrap()[number % 2].push(number / 2);
                process(&mut lease).await;
                lease.release(now());
            }));
        }
        let dialing = || pools.iter().map(|pool| pool.figures().dialing).sum::<usize>();
        until(|| dialing() == 2 * SIZE && connections(port) >= LOGINS).await;
        assert_eq!(connections(port), LOGINS);
        scene.cluster.thaw(0);
        for one in herd {
            one.await.unwrap();
        }
        let served = served.lock().unwrap().clone();
        for served in &served {
            let of_worker = |worker| served.iter().filter(move |number| *number % WORKERS == worker);
            assert!((0..WORKERS).all(|worker| of_worker(worker).is_sorted()), "{served:?}");
            let overtakers = |place: usize| served[..place].iter().filter(|number| **number > served[place]).count();
            assert!((0..served.len()).all(|place| overtakers(place) <= OVERTAKEN), "{served:?}");
        }
    });
}

/// How many TCP connections to a local port have been made and not been closed.
fn connections(port: u16) -> usize {
    let (table, remote) = (std::fs::read_to_string("/proc/self/net/tcp").unwrap(), format!("0100007F:{port:04X}"));
    // The columns: number, local address, remote address, state; 01 is ESTABLISHED.
    let established = |line: &&str| line.split_whitespace().skip(2).take(2).eq([remote.as_str(), "01"]);
    table.lines().filter(established).count()
}

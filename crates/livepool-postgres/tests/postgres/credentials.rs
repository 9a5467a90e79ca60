//! Credentials that are asked for at every dial: tokens that expire, passwords that rotate.

use std::sync::{Arc, Mutex};

use livepool_postgres::{Credentials, CredentialsError, Error};
use livepool_testkit::cut::{DROPS, cut};

use super::*;

/// What a Vault would give out, and what it was asked.
#[derive(Clone, Default)]
struct Vault(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    password: String,
    /// Whether each request came after a refusal.
    asked: Vec<bool>,
}

impl Vault {
    fn new(server: &Server, password: &str) -> Self {
        let vault = Self::default();
        vault.rotate(server, password);
        vault
    }

    /// As of now this password is the one.
    fn rotate(&self, server: &Server, password: &str) {
        server.psql(&format!("ALTER ROLE app PASSWORD '{password}'"));
        self.0.lock().unwrap().password = password.to_owned();
    }

    fn asked(&self) -> Vec<bool> {
        self.0.lock().unwrap().asked.clone()
    }

    fn ask(&self, was_refused: bool) -> Credentials {
        let mut inner = self.0.lock().unwrap();
        inner.asked.push(was_refused);
        Credentials::new("app", &inner.password)
    }
}

/// Whoever has no user and no password gets them from elsewhere.
fn anonymous(server: &Server) -> Postgres {
    Postgres::from_url(&format!("postgres://127.0.0.1:{}/app", server.port())).unwrap()
}

#[tokio::test]
async fn a_password_that_rotates_is_asked_for_at_every_dial_and_no_session_ends() {
    let server = Server::start();
    let (vault, at) = (Vault::new(&server, "first"), server.port());
    let asks = vault.clone();
    let postgres = anonymous(&server).with_credentials(move |request| {
        assert_eq!(request.peer().to_string(), format!("127.0.0.1:{at}"));
        assert_eq!(request.host(), None, "it was an address");
        let credentials = asks.ask(request.was_refused());
        async move {
            tokio::task::yield_now().await;
            std::io::Result::Ok(credentials)
        }
    });
    let (pool, events) = pool_of(postgres, |config| config.with_max_size(2));
    let first = pool.get().await.unwrap();
    vault.rotate(&server, "second");
    let second = pool.get().await.unwrap();
    assert_eq!(echo(&first, 1).await.unwrap(), 1, "a session stays logged in");
    assert_eq!(echo(&second, 2).await.unwrap(), 2);
    let user: String = second.query_one("SELECT current_user::text", &[]).await.unwrap().get(0);
    assert_eq!(user, "app");
    assert_eq!(vault.asked(), [false, false], "once for each dial");
    assert_eq!((events.opened(), events.closed()), (2, vec![]));
}

#[tokio::test]
async fn credentials_that_are_refused_are_asked_for_once_more_while_the_caller_waits() {
    let server = Server::start();
    let vault = Vault::new(&server, "right");
    let asks = vault.clone();
    // It has a token of yesterday, which was revoked.
    let postgres = anonymous(&server).with_credentials(move |request| {
        let fresh = asks.ask(request.was_refused());
        let stale = Credentials::new("app", "stale");
        let answer = if request.was_refused() { fresh } else { stale };
        std::future::ready(std::io::Result::Ok(answer))
    });
    let (pool, _) = pool_of(postgres, one);
    assert_eq!(echo(&pool.get().await.unwrap(), 1).await.unwrap(), 1);
    assert_eq!(vault.asked(), [false, true]);
}

#[tokio::test]
async fn credentials_that_are_refused_twice_are_told_at_once() {
    let server = Server::start();
    server.psql("ALTER ROLE app PASSWORD 'another'");
    let postgres = anonymous(&server).with_credentials(|_| {
        std::future::ready(std::io::Result::Ok(Credentials::new("app", "hunter2")))
    });
    let shown = format!("{postgres:?}");
    let (pool, _) = pool_of(postgres, one);
    // No caller has so much time.
    let error = pool.get_by(tokio::time::Instant::now() + 3600 * SECOND).await.unwrap_err();
    let code = error.find::<Error>().and_then(Error::code).map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("28P01"), "{error}");
    for text in [shown, error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_callback_that_fails_panics_or_hangs_is_named_and_shows_no_secret() {
    let server = Server::start();
    let vault = Vault::new(&server, "right");
    for (fault, expected, text) in [
        (0, None, "credentials failed: GET https://vault.example denied"),
        (1, Some(CredentialsError::Panicked), "credentials panicked"),
        (2, Some(CredentialsError::Panicked), "credentials panicked"),
        (3, Some(CredentialsError::TimedOut), "gave none within the time of the dial"),
    ] {
        let is_well = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (well, asks) = (Arc::clone(&is_well), vault.clone());
        let postgres = anonymous(&server).with_credentials(move |_| {
            let (is_well, asks) = (well.load(std::sync::atomic::Ordering::SeqCst), asks.clone());
            assert!(fault != 1 || is_well, "on purpose");
            async move {
                match fault {
                    _ if is_well => Ok(asks.ask(false)),
                    0 => Err("GET https://me:hunter2@vault.example/hunter2 denied"),
                    2 => panic!("on purpose"),
                    _ => std::future::pending().await,
                }
            }
        });
        let (pool, _) = pool_of(postgres, |config| {
            let limit = if fault == 3 { SECOND } else { 20 * SECOND };
            let timeouts = config.timeouts.with_connect(limit);
            one(config).with_timeouts(timeouts)
        });
        let error = pool.get_by(tokio::time::Instant::now() + 5 * SECOND / 2).await.unwrap_err();
        assert!(error.to_string().contains(text), "{fault}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{fault}: {error}");
        match (expected, error.find::<Error>()) {
            (None, Some(Error::Credentials(CredentialsError::Failed(_)))) => {}
            (Some(expected), Some(Error::Credentials(found))) => assert_eq!(*found, expected),
            (_, found) => panic!("{fault}: {found:?}"),
        }
        // It costs nobody more than that dial.
        is_well.store(true, std::sync::atomic::Ordering::SeqCst);
        pool.reconfigure(|config| config.timeouts.connect = Some(20 * SECOND)).unwrap();
        let deadline = tokio::time::Instant::now() + 20 * SECOND;
        let conn = pool.get_by(deadline).await.unwrap();
        assert_eq!(echo(&conn, 1).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_caller_or_a_dial_that_is_given_up_while_the_callback_works_leaves_nothing_behind() {
    let server = trusting_server(&[]);
    let vault = Vault::new(&server, "right");
    for drop_at in DROPS {
        for polls in 1..5 {
            for is_dial_dropped in [false, true] {
                let asks = vault.clone();
                let postgres = anonymous(&server).with_credentials(move |_| {
                    let credentials = asks.ask(false);
                    async move {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        std::io::Result::Ok(credentials)
                    }
                });
                let (pool, _) = pool_of(postgres, one);
                // A timer wakes it, or a result would never be waited for.
                let waits = async {
                    tokio::select! {
                        conn = pool.get() => conn.map(drop),
                        () = async { loop { tokio::time::sleep(Duration::from_millis(1)).await } } => Ok(()),
                    }
                };
                let between = |_| {
                    if is_dial_dropped {
                        pool.invalidate()
                    }
                };
                drop(cut(waits, polls, drop_at, between).await);
                let conn = pool.get().await.unwrap();
                assert_eq!(echo(&conn, 1).await.unwrap(), 1, "{drop_at:?} {polls}");
                drop(conn);
                assert!(pool.status().idle <= 1, "{}", pool.status());
            }
        }
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    livepool_testkit::until_seen(|| server.psql(sessions), |seen| seen == "0").await;
}

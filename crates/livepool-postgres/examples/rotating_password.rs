//! A password that is changed every half second, as a Vault does every hour, and a pool that asks for
//! the one of now at every dial: no query fails, and no session ends for it.
//!
//! ```sh
//! cargo run -p livepool-postgres --example rotating_password
//! ```
//!
//! It starts a server of its own (`postgres`, `initdb`) on a private port.

#[path = "support/server.rs"]
mod server;

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::Event;
use livepool_postgres::{Credentials, CredentialsRequest, Postgres, pool};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Gives out the password of now. A real one is asked over the network, and keeps what it was told for
/// as long as that is good.
#[derive(Clone, Default)]
struct Vault(Arc<Mutex<String>>);

impl Vault {
    fn set(&self, password: &str) {
        password.clone_into(&mut self.0.lock().expect("nobody panics with it"));
    }

    async fn credentials(&self, request: CredentialsRequest) -> std::io::Result<Credentials> {
        // What was kept was revoked before its time: a real one asks anew.
        if request.was_refused() {
            println!("  {} refused the last password", request.peer());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(Credentials::new("orders", self.0.lock().expect("nobody panics with it").clone()))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let server = server::start()?;
    let admin = pool(&server.url())?;
    let vault = Vault::default();
    admin.get().await?.batch_execute(&format!("CREATE ROLE orders LOGIN; {RULES}")).await?;
    rotate(&admin, &vault, 0).await?;

    let asks = vault.clone();
    let opened = |_: &str, event: &Event| {
        if let Event::Opened { conn, .. } = event {
            println!("  connection {conn} is logged in");
        }
    };
    // The URL has no password, and its user is replaced.
    let pool = Postgres::from_url(&server.url())?
        .with_credentials(move |request| {
            let asks = asks.clone();
            async move { asks.credentials(request).await }
        })
        // Half of the time that a password is good for, so that dials are seen.
        .with_config(|config| config.with_max_lifetime(Duration::from_millis(250)))
        .builder()?
        .observer(opened)
        .build()?;
    for number in 1..=4 {
        let conn = pool.get().await?;
        rotate(&admin, &vault, number).await?;
        println!("password number {number}: the session of the last one goes on");
        for _ in 0..5 {
            let user: String = conn.query_one("SELECT current_user::text", &[]).await?.get(0);
            assert_eq!(user, "orders");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    println!("the end: {}", pool.status());
    Ok(())
}

/// As of now another password is the one.
async fn rotate(admin: &livepool::Pool<Postgres>, vault: &Vault, number: usize) -> Result<()> {
    let password = format!("secret-{number}");
    let sql = format!("ALTER ROLE orders PASSWORD '{password}'");
    admin.get().await?.batch_execute(&sql).await?;
    vault.set(&password);
    Ok(())
}

/// The server asks this role for its password, and nobody else.
const RULES: &str = "
    DO $$ BEGIN EXECUTE format(
        'COPY (VALUES (''host all orders all scram-sha-256''), (''host all all all trust'')) TO %L',
        current_setting('hba_file'));
    END $$;
    SELECT pg_reload_conf();";

//! A pool for PostgreSQL, and what it does when things go wrong: queries that are given up,
//! transactions that are dropped, a backend that is killed, a change of role.
//!
//! ```sh
//! cargo run -p livepool-postgres --example postgres
//! cargo run -p livepool-postgres --example postgres -- --url postgres://me:secret@host/database
//! ```
//!
//! Without `--url` it starts a server of its own, where PostgreSQL is installed: in a directory that
//! is gone afterwards, as another user if you are root.

use std::time::{Duration, Instant};

use livepool::{Event, Pool};
use livepool_postgres::{Client, Postgres};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result {
    let mut args = std::env::args().skip(1);
    let (url, _server) = match (args.next().as_deref(), args.next()) {
        (None, _) => {
            let server = server::start()?;
            (server.url(), Some(server))
        }
        (Some("--url"), Some(url)) => (url, None),
        _ => return Err("usage: postgres [--url postgres://user:password@host/database]".into()),
    };
    let closed = |_: &str, event: &Event| match event {
        Event::Opened { conn, peer, .. } => say(&format!("[{conn} is opened to {peer}]")),
        Event::Closed { conn, reason, .. } => say(&format!("[{conn} is closed: {reason}]")),
        _ => {}
    };
    let pool = Postgres::from_url(&url)?
        .builder(|config| config.with_name("example").with_max_size(2))?
        .observer(closed)
        .build()?;

    title("a query");
    let conn = pool.get().await?;
    let statement = conn.prepare_cached("SELECT version(), $1::int8 * 2").await?;
    let row = conn.query_one(&statement, &[&21_i64]).await?;
    say(row.get(0));
    say(&format!("twice 21 is {}", row.get::<_, i64>(1)));
    drop((row, statement, conn));

    title("a query that its caller gives up after 100 ms");
    let (conn, other) = (pool.get().await?, pool.get().await?);
    let backend = pid(&conn).await?;
    let sleep = conn.batch_execute("SELECT pg_sleep(3600) /* for nobody */");
    let given_up = tokio::time::timeout(Duration::from_millis(100), sleep).await.is_err();
    say(if given_up { "given up; the connection goes back" } else { "it was quick" });
    drop(conn);
    let began = Instant::now();
    let conn = pool.get().await?;
    let next = pid(&conn).await?;
    say(&format!("the next user is served after {:.1?}", began.elapsed()));
    say(&format!("by the same backend: {}", backend == next));
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE $1 \
               AND pid <> pg_backend_pid()";
    let left: i64 = conn.query_one(sql, &[&"%for nobody%"]).await?.get(0);
    say(&format!("and {left} such queries run at the server"));
    drop((conn, other));

    title("a transaction that is dropped");
    let mut conn = pool.get().await?;
    conn.batch_execute("CREATE TEMP TABLE notes (text text)").await?;
    let transaction = conn.transaction().await?;
    transaction.execute("INSERT INTO notes VALUES ('never mind')", &[]).await?;
    drop(transaction);
    let rows: i64 = conn.query_one("SELECT count(*) FROM notes", &[]).await?.get(0);
    say(&format!("{rows} rows are left of it"));
    drop(conn);

    title("a backend that an administrator terminates while it is idle");
    let (a, b) = (pool.get().await?, pool.get().await?);
    let victim = pid(&a).await?;
    drop(a);
    b.execute("SELECT pg_terminate_backend($1)", &[&victim]).await?;
    drop(b);
    tokio::time::sleep(Duration::from_millis(100)).await;
    say(&format!("nobody had to find out: {}", pool.status()));
    let conn = pool.get().await?;
    say(&format!("and nobody fails: {} is {}", "1 + 1", one_plus_one(&conn).await?));
    drop(conn);

    title("a write where only reading is allowed");
    let conn = pool.get().await?;
    conn.batch_execute("SET default_transaction_read_only = on").await?;
    if let Err(error) = conn.batch_execute("CREATE TABLE notes (text text)").await {
        let why = error.as_db_error().map_or("", |error| error.message());
        say(&format!("the server says: {why}"));
    }
    say("so all connections go, as if the server had become a standby");
    drop(conn);
    tokio::time::sleep(Duration::from_millis(50)).await;

    title("a wrong database");
    wrong_database(&url).await;
    Ok(())
}

async fn wrong_database(url: &str) {
    let Ok(mut config) = url.parse::<livepool_postgres::tokio_postgres::Config>() else { return };
    config.dbname("no such database");
    let pool: std::result::Result<Pool<Postgres>, _> = Postgres::new(config).pool();
    let Ok(pool) = pool else { return };
    if let Err(error) = pool.get().await {
        let why = error.connect_error().map(ToString::to_string).unwrap_or_default();
        say(&format!("after {:.1?}, without a second try: {why}", error.waited()));
    }
}

async fn pid(client: &Client) -> Result<i32> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0))
}

async fn one_plus_one(client: &Client) -> Result<i32> {
    Ok(client.query_one("SELECT 1 + 1", &[]).await?.get(0))
}

fn title(text: &str) {
    println!("\n{text}");
}

fn say(text: &str) {
    println!("    {text}");
}

/// A server of our own.
#[cfg(unix)]
mod server {
    use std::net::TcpListener;
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use super::Result;

    pub(super) struct Server {
        process: Child,
        dir: PathBuf,
        port: u16,
    }

    impl Server {
        pub(super) fn url(&self) -> String {
            format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    pub(super) fn start() -> Result<Server> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let dir = std::env::temp_dir().join(format!("livepool-example-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        if let Some((user, group)) = unprivileged()? {
            std::os::unix::fs::chown(&dir, Some(user), Some(group))?;
        }
        println!("starting a server of our own on port {port}");
        let data = dir.join("data");
        let mut initdb = command("initdb")?;
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "--auth=trust", "--no-sync"]);
        let made = initdb.stdout(Stdio::null()).status();
        let mut postgres = command("postgres")?;
        postgres.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-F"]);
        postgres.args(["-c", "unix_socket_directories="]).stdout(Stdio::null());
        postgres.stderr(std::fs::File::create(dir.join("log"))?);
        if !made?.success() {
            let _ = std::fs::remove_dir_all(&dir);
            return Err("initdb failed".into());
        }
        let server = Server { process: postgres.spawn()?, dir, port };
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the server did not start".into())
    }

    fn command(name: &str) -> Result<Command> {
        let mut directories: Vec<PathBuf> =
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        for root in ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"] {
            let versions = std::fs::read_dir(Path::new(root)).into_iter().flatten().flatten();
            directories.extend(versions.map(|version| version.path().join("bin")));
        }
        let program = directories.into_iter().map(|directory| directory.join(name));
        let program = program.into_iter().find(|path| path.exists()).ok_or_else(|| {
            format!("{name} is not here: install PostgreSQL, or give --url postgres://...")
        })?;
        let mut command = Command::new(program);
        command.current_dir("/");
        if let Some((user, group)) = unprivileged()? {
            command.uid(user).gid(group);
        }
        Ok(command)
    }

    /// PostgreSQL refuses to run as root: whom to run it as, if that is who we are.
    fn unprivileged() -> Result<Option<(u32, u32)>> {
        let id = Command::new("id").arg("-u").output()?;
        if id.stdout.trim_ascii() != b"0" {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd")?;
        let user = ["postgres:", "nobody:"]
            .iter()
            .find_map(|name| users.lines().find(|line| line.starts_with(name)))
            .ok_or("there is no user to run a server as")?;
        let mut numbers = user.split(':').skip(2).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(user)), Some(Ok(group))) => Ok(Some((user, group))),
            _ => Err("there is no user to run a server as".into()),
        }
    }
}

#[cfg(not(unix))]
mod server {
    pub(super) struct Server;

    impl Server {
        pub(super) fn url(&self) -> String {
            String::new()
        }
    }

    pub(super) fn start() -> super::Result<Server> {
        Err("give --url postgres://user:password@host/database".into())
    }
}

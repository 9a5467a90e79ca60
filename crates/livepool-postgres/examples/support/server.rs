//! A server of our own: in a directory that is gone afterwards, as another user if you are root.

#[cfg(unix)]
pub(crate) use unix::start;

#[cfg(not(unix))]
pub(crate) use elsewhere::start;

#[cfg(unix)]
mod unix {
    use std::net::TcpListener;
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    pub(crate) struct Server {
        process: Child,
        dir: PathBuf,
        port: u16,
    }

    impl Server {
        pub(crate) fn url(&self) -> String {
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

    pub(crate) fn start() -> Result<Server> {
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
            // A port that takes connections is not enough: "the database system is starting up". The last
            // line of this file says more, as pg_ctl knows.
            let state = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if state.lines().last().is_some_and(|line| line.trim() == "ready") {
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
mod elsewhere {
    pub(crate) struct Server;

    impl Server {
        pub(crate) fn url(&self) -> String {
            String::new()
        }
    }

    pub(crate) fn start() -> Result<Server, Box<dyn std::error::Error>> {
        Err("give --url postgres://user:password@host/database".into())
    }
}

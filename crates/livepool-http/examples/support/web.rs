//! A web server to talk to: nginx where there is one, else a few lines in this process.
//!
//! Both close a connection that is idle for half a second, and send `/large` slowly.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const IDLE: Duration = Duration::from_millis(500);
const LARGE: usize = 1 << 20;

pub(crate) struct Server {
    url: String,
    name: &'static str,
    nginx: Option<(Child, PathBuf)>,
}

impl Server {
    /// The one of `--url`, or one that is started for the occasion.
    pub(crate) async fn start() -> io::Result<Self> {
        let mut arguments = std::env::args().skip(1);
        if arguments.next().as_deref() == Some("--url") {
            let url = arguments.next().ok_or_else(|| io::Error::other("--url needs a URL"))?;
            return Ok(Self { url, name: "your server", nginx: None });
        }
        let found = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
        match found.iter().map(Path::new).find(|path| path.exists()) {
            Some(program) => Self::nginx(program).await,
            None => Self::own().await,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn name(&self) -> &str {
        self.name
    }

    async fn nginx(program: &Path) -> io::Result<Self> {
        let root = std::env::temp_dir().join(format!("livepool-web-{}", std::process::id()));
        std::fs::create_dir_all(root.join("www"))?;
        std::fs::write(root.join("www/index.html"), "hello\n")?;
        std::fs::write(root.join("www/large"), vec![b'x'; LARGE])?;
        // Free a moment ago, and nobody else picks it on purpose.
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let dir = root.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\nerror_log {dir}/log;\npid {dir}/pid;\n\
             events {{}}\nhttp {{\naccess_log off;\n{temporary}\
             server {{\nlisten 127.0.0.1:{port};\nroot {dir}/www;\n\
             keepalive_timeout {}ms;\nkeepalive_requests 100000;\n\
             location /large {{ limit_rate 200k; }}\n}}\n}}\n",
            IDLE.as_millis()
        );
        std::fs::write(root.join("conf"), config)?;
        let child = Command::new(program)
            .args(["-e", "stderr", "-p"])
            .arg(&root)
            .arg("-c")
            .arg(root.join("conf"))
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self {
            url: format!("http://127.0.0.1:{port}"),
            name: "an nginx of its own",
            nginx: Some((child, root)),
        };
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(io::Error::other("nginx does not answer"))
    }

    async fn own() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Ok(Self { url, name: "a small server in this process", nginx: None })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((child, root)) = &mut self.nginx {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_dir_all(root);
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = tokio::time::timeout(IDLE, stream.read_u8()).await else {
                return Ok(());
            };
            head.push(byte?);
        }
        let is_large = head.starts_with(b"GET /large ");
        head.clear();
        let length = if is_large { LARGE } else { 6 };
        let start = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(start.as_bytes()).await?;
        if !is_large {
            stream.write_all(b"hello\n").await?;
            continue;
        }
        for _ in 0..LARGE / 8192 {
            stream.write_all(&[b'x'; 8192]).await?;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }
}

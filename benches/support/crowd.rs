//! An upstream in a process of its own: both ends of ten thousand connections do not fit into the
//! descriptors of one.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write, stdin};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Says to a re-run of this very program that it is the upstream, and at how many addresses.
const ROLE: &str = "LIVEPOOL_BENCH_CROWD";

/// Client and server of a connection. One port of a client serves several servers.
pub type Ends = (SocketAddr, SocketAddr);

/// The other process. Killed when dropped.
pub struct Crowd {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub addrs: Vec<SocketAddr>,
}

impl Crowd {
    /// Listens at so many addresses of the loopback interface.
    pub fn start(addrs: usize) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("a program"))
            .env(ROLE, addrs.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the same program again");
        let orders = process.stdin.take().expect("piped");
        let mut answers = BufReader::new(process.stdout.take().expect("piped"));
        let addrs = (0..addrs).map(|_| line(&mut answers).parse().expect("an address")).collect();
        Self { process, orders, answers, addrs }
    }

    /// Closes the connection between these two; returns when that was done.
    pub fn end(&mut self, (client, here): Ends) -> SystemTime {
        writeln!(self.orders, "{client} {here}").expect("it runs");
        let nanos = line(&mut self.answers).parse().expect("a number");
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
    }

    /// Ends the process, and with it all connections at once.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut text = String::new();
    from.read_line(&mut text).expect("it runs");
    text.trim().to_owned()
}

/// To be called first in `main`: does not return in the process that is the upstream.
pub fn serve_if_asked() {
    let Ok(addrs) = std::env::var(ROLE) else { return };
    let accepted = Arc::new(Mutex::new(HashMap::<Ends, TcpStream>::new()));
    for last in 1..=addrs.parse::<u8>().expect("a number") {
        let listener =
            TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, last), 0)).expect("loopback");
        let here = listener.local_addr().expect("bound");
        println!("{here}");
        let accepted = Arc::clone(&accepted);
        std::thread::spawn(move || {
            while let Ok((stream, client)) = listener.accept() {
                accepted.lock().expect("no panic").insert((client, here), stream);
            }
        });
    }
    for order in stdin().lines() {
        let order = order.expect("a pipe");
        let (client, here) = order.split_once(' ').expect("two addresses");
        let ends = (client.parse().expect("an address"), here.parse().expect("an address"));
        let stream = accepted.lock().expect("no panic").remove(&ends);
        let stream = stream.expect("one of them");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        drop(stream);
        println!("{}", now.as_nanos());
    }
    std::process::exit(0);
}

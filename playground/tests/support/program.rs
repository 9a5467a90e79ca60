//! The program under test: started, watched through `/events`, pressed through `/do`, and ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For what takes seconds when nobody else wants the machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Playground {
    child: Child,
    pub(crate) url: String,
    seen: Arc<Mutex<Seen>>,
}

/// What the program has sent.
#[derive(Default)]
pub(crate) struct Seen {
    /// What is, as of the last frame.
    pub(crate) now: Value,
    /// What has happened.
    pub(crate) lines: Vec<Value>,
    frames: u64,
    /// The first frame that was made after the last button was pressed.
    fresh: u64,
}

impl Seen {
    /// Whether the timeline has a line like this about upstream B.
    pub(crate) fn has(&self, what: &[&str], why: &[&str]) -> bool {
        let is = |line: &Value, name: &str, one_of: &[&str]| {
            one_of.contains(&line[name].as_str().unwrap_or_default())
        };
        self.lines
            .iter()
            .any(|line| line["peer"] == 1 && is(line, "what", what) && is(line, "why", why))
    }

    pub(crate) fn livepool(&self, name: &str) -> f64 {
        self.now["pools"]["livepool"][name].as_f64().unwrap_or(f64::NAN)
    }

    pub(crate) fn b(&self) -> &Value {
        &self.now["peers"][1]
    }

    pub(crate) fn dots(&self) -> &[Value] {
        self.now["dots"].as_array().map_or(&[], Vec::as_slice)
    }
}

impl Playground {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_livepool-playground"))
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        let mut line = String::new();
        let mut says = BufReader::new(child.stdout.take().expect("a pipe"));
        says.read_line(&mut line).expect("its address");
        let url = line.split_whitespace().last().expect("its address").to_owned();
        Self { child, url, seen: Arc::default() }
    }

    fn host(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its upstreams: their processes, each with its state (`T` is stopped).
    #[cfg(target_os = "linux")]
    pub(crate) fn upstreams(&self) -> Vec<(u32, char)> {
        let all = std::fs::read_dir("/proc").expect("proc(5)").flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of_us = numbers.filter_map(|process| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, parent) =
                (fields.next()?.chars().next()?, fields.next()?.parse::<u32>().ok()?);
            (parent == self.id()).then_some((process, state))
        });
        of_us.collect()
    }

    /// Reads `/events` from now on, in a thread that ends with the program.
    pub(crate) fn watch(&self) {
        let mut events = TcpStream::connect(self.host()).expect("it listens");
        write!(events, "GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", self.host()).expect("it reads");
        let seen = Arc::clone(&self.seen);
        std::thread::spawn(move || {
            for line in BufReader::new(events).lines() {
                let Ok(line) = line else { return };
                let Some(json) = line.strip_prefix("data: ") else { continue };
                let mut frame: Value = serde_json::from_str(json).expect("JSON");
                let mut seen = seen.lock().expect("no panic");
                seen.now = frame["now"].take();
                seen.frames += 1;
                seen.lines.extend(frame["lines"].as_array().into_iter().flatten().cloned());
            }
        });
        self.wait("the first frame", |seen| !seen.now.is_null());
    }

    /// Waits until this is so.
    pub(crate) fn wait(&self, what: &str, mut is_so: impl FnMut(&Seen) -> bool) {
        let began = Instant::now();
        loop {
            let seen = self.seen.lock().expect("no panic");
            if seen.frames >= seen.fresh && is_so(&seen) {
                return;
            }
            let late = began.elapsed() > LONG;
            assert!(!late, "{what}: not within {LONG:?}.\n{}\n{:#?}", seen.now, seen.lines);
            drop(seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses a button, and forgets the timeline until then.
    pub(crate) fn press(&self, button: &Value) {
        self.seen.lock().expect("no panic").lines.clear();
        let answer = self.send(&format!("Host: {}", self.host()), &button.to_string());
        assert!(answer.starts_with("HTTP/1.1 204"), "{button}: {answer}");
        let mut seen = self.seen.lock().expect("no panic");
        // The next one may have been on its way already.
        seen.fresh = seen.frames + 2;
    }

    /// Sends this to `/do`, with these headers, and returns the answer.
    pub(crate) fn send(&self, headers: &str, body: &str) -> String {
        let mut client = TcpStream::connect(self.host()).expect("it listens");
        let length = body.len();
        write!(
            client,
            "POST /do HTTP/1.1\r\n{headers}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .expect("it reads");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Ends the program as nobody can prepare for.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.kill();
    }
}

//! A Chromium without a window, driven through its DevTools protocol over a pair of pipes
//! (`--remote-debugging-pipe`): messages of JSON, each ended by a zero byte.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A browser that does not answer for so long is broken, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    profile: PathBuf,
    number: u64,
    session: Option<String>,
    /// What came beside answers: requests of the page, its errors.
    pub(crate) events: Vec<Value>,
}

impl Browser {
    /// Starts the system's Chromium, with a page of this size.
    pub(crate) fn start(width: u32, height: u32) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("livepool-browser-{}-{number}", std::process::id());
        let profile = std::env::temp_dir().join(name);
        let mut command = Command::new("sh");
        // Chromium reads at 3 and writes at 4. A sandbox needs privileges that root in a container
        // does not have, and the only page it gets is ours.
        let run = r#"exec chromium "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;
        command.args([
            "-c",
            run,
            "chromium",
            "--headless",
            "--remote-debugging-pipe",
            "--no-sandbox",
        ]);
        command.args([
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ]);
        command.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]);
        command.arg(format!("--user-data-dir={}", profile.display()));
        command.arg(format!("--window-size={width},{height}")).arg("about:blank");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell is there");
        let commands = child.stdin.take().expect("a pipe");
        let mut answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let (tell, messages) = mpsc::channel();
        // Ends with the browser.
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while matches!(answers.read_until(0, &mut message), Ok(1..)) {
                message.pop_if(|last| *last == 0);
                let Ok(parsed) = serde_json::from_slice(&message) else { return };
                if tell.send(parsed).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let (number, session, events) = (0, None, Vec::new());
        let mut browser = Self { child, commands, messages, profile, number, session, events };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Network.enable"] {
            browser.call(domain, json!({}));
        }
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", size);
        browser
    }

    /// Calls a method of the DevTools protocol.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let text = command.to_string() + "\0";
        self.commands.write_all(text.as_bytes()).expect("the browser runs");
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let message = message.unwrap_or_else(|_| panic!("no answer to {method}"));
            if message["id"] != json!(self.number) {
                self.events.push(message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {}", message["error"]);
            return message["result"].clone();
        }
    }

    pub(crate) fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert!(opened["errorText"].is_null(), "{opened}");
    }

    /// The value of an expression in the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let result = self.call(
            "Runtime.evaluate",
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true}),
        );
        let thrown = &result["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true, and says how long that took.
    pub(crate) fn comes(&mut self, expression: &str, limit: Duration) -> Option<Duration> {
        let began = Instant::now();
        while self.eval(expression) != json!(true) {
            if began.elapsed() > limit {
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(began.elapsed())
    }

    /// The same, and fails after `limit`, with what the page says then.
    pub(crate) fn wait(&mut self, what: &str, expression: &str, limit: Duration) -> Duration {
        self.comes(expression, limit).unwrap_or_else(|| {
            let page = self.eval("document.body?.innerText");
            panic!("{what}: not within {limit:?}. The page:\n{}", page.as_str().unwrap_or(""));
        })
    }

    /// Presses the mouse in the middle of an element. Of a page whose lines are still coming, that may have
    /// moved away by then: it is pressed again.
    pub(crate) fn click(&mut self, selector: &str) {
        for _ in 0..20 {
            let place = self.eval(&format!(
                "(() => {{ const element = document.querySelector('{selector}'); \
                 element.scrollIntoView({{block: 'nearest'}}); \
                 window.isPressed = false; \
                 element.addEventListener('click', () => {{ window.isPressed = true; }}, {{once: true}}); \
                 const box = element.getBoundingClientRect(); \
                 return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
            ));
            for kind in ["mousePressed", "mouseReleased"] {
                let press = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
                self.call("Input.dispatchMouseEvent", press);
            }
            if self.eval("window.isPressed") == json!(true) {
                return;
            }
        }
        panic!("{selector} is not pressed, wherever the mouse is");
    }

    /// Moves a slider to this value, as a hand does.
    pub(crate) fn slide(&mut self, id: &str, value: u32) {
        self.eval(&format!(
            "(() => {{ const slider = document.getElementById('{id}'); slider.value = {value}; \
             slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change')); }})()"
        ));
    }

    /// The page as it is drawn, as a PNG in base 64.
    pub(crate) fn screenshot(&mut self) -> String {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        shot["data"].as_str().expect("a picture").to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

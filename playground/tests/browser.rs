//! The playground in a real browser: what a visitor sees and presses, and what the pool does then.

#[path = "support/chromium.rs"]
mod chromium;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "the other tests press without a browser")]
mod program;

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use chromium::Browser;
use program::{LONG, Playground};
use serde_json::{Value, json};

/// Whether there is a browser. Says so if not, and fails where no test may be left out.
fn has_browser() -> bool {
    let has = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join("chromium").is_file())
    });
    if !has {
        livepool_testkit::not_run::not_run("the playground in a browser", "chromium is missing");
    }
    has
}

/// Lines of the timeline like this, about upstream B.
fn lines(what: &str, why: &str) -> String {
    format!(
        "[...document.querySelectorAll('#timeline li')].filter(line => line.dataset.peer === '1' && \
         /{what}/.test(line.dataset.what) && /{why}/.test(line.dataset.why)).length"
    )
}

#[test]
fn a_visitor_cuts_a_wire_sees_the_eviction_heals_it_and_sees_the_recovery() {
    if !has_browser() {
        return;
    }
    let playground = Playground::start();
    let mut browser = Browser::start(1280, 800);
    browser.open(&playground.url);
    let b = "window.playground.last.peers[1]";
    let has_begun = format!(
        "Boolean(window.playground?.last) && {b}.connections > 0 \
         && window.playground.last.pools.livepool.checkouts_per_s > 20"
    );
    browser.wait("callers are served over B as well", &has_begun, LONG);
    browser.click("#deadpool");
    browser.click("#bb8");
    browser.wait(
        "the others have the same load",
        "document.querySelectorAll('#pools tbody tr').length === 3",
        LONG,
    );
    let shows = |label| format!("document.getElementById('cut').textContent === '{label}'");
    // Some seconds of it, for the picture.
    browser.wait(
        "a thousand callers were served",
        "Object.values(window.playground.last.pools).every(pool => pool.checkouts > 1000)",
        LONG,
    );

    let silent = "probe_timeout|retransmit_timeout|peer_silent|peer_ejected";
    let is_told = format!("{} > 0", lines("evicted|closed", silent));
    // On a busy machine all connections to B may be in use when the wire is cut. Their callers give up, and
    // end them; nobody is left to find out that B is silent. Then it is cut once more.
    let mut cuts = 0;
    let took = loop {
        browser.click("#cut");
        browser.wait("the button is its opposite now", &shows("heal the wire"), LONG);
        if let Some(took) = browser.comes(&is_told, LONG / 3) {
            break took;
        }
        cuts += 1;
        if cuts == 5 {
            break browser.wait(
                "connections to B are evicted, and the timeline says why",
                &is_told,
                LONG,
            );
        }
        browser.click("#cut");
        browser.wait("it is as before", &shows("cut the wire"), LONG);
        browser.wait("callers are served over B again", &has_begun, LONG);
    };
    println!("evicted {took:.1?} after the cut");
    browser.wait("B is ejected", &format!("{} > 0", lines("peer", "→ ejected")), LONG);
    browser.wait("no connection to B is left", &format!("{b}.connections === 0"), LONG);
    assert_fits_and_asks_nobody_else(&mut browser, &playground.url);
    // For the picture: whoever asks another pool now waits for all the time that it has.
    let others = "['deadpool', 'bb8'].every(name => window.playground.last.pools[name].errors > 0)";
    for _ in 0..40 {
        if browser.eval(others) == json!(true) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    keep_screenshot(&mut browser);

    browser.click("#cut");
    let took = browser.wait(
        "B is trusted again, and used",
        &format!("{b}.judgement === 'healthy' && {b}.connections > 0 && !{b}.plight.cut"),
        LONG,
    );
    println!("recovered {took:.1?} after the wire was healed");
    browser.wait(
        "connections to B serve callers",
        "window.playground.last.dots.some(dot => dot.peer === 1 && dot.uses > 3)",
        LONG,
    );
    browser.wait("a connection is told in words", "(() => { const board = document.getElementById('dots'); \
        const box = board.getBoundingClientRect(); const [known] = [...window.playground.board.dots.values()]; \
        board.dispatchEvent(new MouseEvent('mousemove', {clientX: box.x + known.x, clientY: box.y + known.y})); \
        return /old, peer last heard|connecting for|closed .* ago/.test(document.getElementById('says').textContent); })()", LONG);
    assert_no_errors(&browser);
}

#[test]
fn what_a_visitor_pressed_last_holds_where_requests_overtake_each_other() {
    if !has_browser() {
        return;
    }
    let playground = Playground::start();
    let mut browser = Browser::start(1280, 800);
    browser.open(&playground.url);
    browser.wait("the first frame", "Boolean(window.playground?.last)", LONG);
    // The first request is as late as it would be on a connection that has to be made first.
    browser.eval(
        "(() => { const send = window.fetch; let sent = 0; window.answered = 0; \
         window.fetch = async (...request) => { \
             if (sent++ === 0) await new Promise(done => setTimeout(done, 1000)); \
             const answer = await send(...request); window.answered += 1; return answer; \
         }; })()",
    );
    browser.click("#deadpool");
    browser.click("#bb8");
    browser.wait("both are done", "window.answered === 2", LONG);
    let number = "window.playground.last.number";
    let later = format!("{number} > {} + 2", browser.eval(number));
    browser.wait("frames that were made since", &later, LONG);
    let others = "[window.playground.last.switches.deadpool, window.playground.last.switches.bb8]";
    assert_eq!(browser.eval(others), json!([true, true]));
    assert_no_errors(&browser);
}

#[test]
fn the_page_keeps_up_with_200_connections_and_5_000_checkouts_a_second() {
    if !has_browser() {
        return;
    }
    let playground = Playground::start();
    let mut browser = Browser::start(1280, 800);
    browser.open(&playground.url);
    browser.wait("the first frame", "Boolean(window.playground?.last)", LONG);
    browser.slide("size", 200);
    browser.slide("rate", 100);
    // So long that nearly all of them are in use: 36 ms.
    browser.slide("think", 27);
    browser.wait("200 connections", "window.playground.last.dots.length === 200", LONG);
    // A page that cannot keep up is later with every frame, and never in time again. One that is held up by
    // other work of the machine is in time again when that is done.
    let mut windows = Vec::new();
    for _ in 0..6 {
        let window = watch(&mut browser, Duration::from_secs(3));
        println!("{window}");
        let keeps_up = keeps_up(&window);
        windows.push(window);
        if keeps_up {
            assert_no_errors(&browser);
            return;
        }
    }
    panic!("the page does not keep up: {windows:#?}");
}

/// What the page has drawn within a time.
fn watch(browser: &mut Browser, time: Duration) -> Value {
    browser.eval(
        "Object.assign(window.playground, {frames: 0, drawn: 0, missed: 0, worst_behind_ms: 0})",
    );
    std::thread::sleep(time);
    browser.eval(
        "(({frames, drawn, missed, worst_behind_ms, behind_ms, last}) => ({frames, drawn, missed, \
         worst_behind_ms, behind_ms, made_in_us: last.made_in_us, dots: last.dots.length, \
         rate: last.pools.livepool.checkouts_per_s, p99_ms: last.pools.livepool.p99_ms, \
         bytes: JSON.stringify(last).length}))(window.playground)",
    )
}

fn keeps_up(window: &Value) -> bool {
    let number = |name: &str| window[name].as_f64().unwrap_or(f64::NAN);
    // What is drawn is now: frames may be left out, never queued.
    number("behind_ms") < 1000.0
        // Thirty are made; a machine with other work draws some.
        && number("drawn") > 6.0
        // 5 000 are asked for. A build without optimisation on a busy machine does not do them all, and
        // has still to show what it does.
        && number("rate") > 300.0
        // A frame has each connection once, whatever happens on it.
        && number("bytes") < 60_000.0
}

fn assert_fits_and_asks_nobody_else(browser: &mut Browser, url: &str) {
    let size = browser.eval(
        "[document.documentElement.scrollWidth, document.documentElement.scrollHeight, \
         document.getElementById('controls').scrollHeight - document.getElementById('controls').clientHeight]",
    );
    assert_eq!(size, json!([1280, 800, 0]), "the page does not fit into 1280 x 800");
    let sent = browser.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
    let sent: Vec<&str> =
        sent.filter_map(|event| event["params"]["request"]["url"].as_str()).collect();
    assert!(sent.len() >= 5, "the page and its parts: {sent:?}");
    let foreign: Vec<_> =
        sent.iter().filter(|to| !to.starts_with(url) && !to.starts_with("data:")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

fn assert_no_errors(browser: &Browser) {
    let thrown = browser.events.iter().filter(|event| {
        event["method"] == "Runtime.exceptionThrown"
            || (event["method"] == "Runtime.consoleAPICalled" && event["params"]["type"] == "error")
    });
    let thrown: Vec<_> = thrown.collect();
    assert!(thrown.is_empty(), "{thrown:?}");
}

/// `LIVEPOOL_SCREENSHOT=docs/playground.png` renews the one in the README.
fn keep_screenshot(browser: &mut Browser) {
    let shot =
        base64::engine::general_purpose::STANDARD.decode(browser.screenshot()).expect("a PNG");
    // The README shows it: a page that has to be short.
    assert!((20_000..300_000).contains(&shot.len()), "the screenshot has {} bytes", shot.len());
    if let Some(path) = std::env::var_os("LIVEPOOL_SCREENSHOT") {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        std::fs::write(root.join(path), shot).expect("it can be written");
    }
}

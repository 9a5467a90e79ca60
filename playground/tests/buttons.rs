//! Every button does what it says to real sockets and processes, and the pool answers as its timeline says.
#![cfg(target_os = "linux")]

#[path = "support/program.rs"]
mod program;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use program::{LONG, Playground};
use serde_json::{Value, json};

const SILENT: [&str; 4] = ["probe_timeout", "retransmit_timeout", "peer_silent", "peer_ejected"];

fn fault(fault: impl Into<Value>) -> Value {
    json!({"do": "fault", "peers": [1], "fault": fault.into()})
}

fn begun() -> Playground {
    let playground = Playground::start();
    playground.watch();
    playground.wait("callers are served", |seen| seen.livepool("checkouts") > 50.0);
    playground.wait("B is used", is_used());
    playground
}

/// Callers are served over B from now on. A dot of a connection that has ended stays until the pool knows; its
/// next use fails, and there is none after that.
fn is_used() -> impl FnMut(&program::Seen) -> bool {
    let mut before: Option<HashMap<u64, u64>> = None;
    move |seen| {
        let of_b = seen.dots().iter().filter(|dot| dot["peer"] == 1);
        let uses: HashMap<_, _> =
            of_b.filter_map(|dot| Some((dot["id"].as_u64()?, dot["uses"].as_u64()?))).collect();
        let before = before.get_or_insert_with(|| uses.clone());
        uses.iter().any(|(id, uses)| *uses > before.get(id).unwrap_or(&0) + 2)
    }
}

#[test]
fn what_is_done_to_an_upstream_is_what_the_pool_says_of_it() {
    let playground = begun();

    playground.press(&fault("close"));
    playground.wait("closed", |seen| seen.has(&["evicted"], &["peer_closed"]));
    playground.wait("B is used again", is_used());

    playground.press(&fault("reset"));
    playground.wait("reset", |seen| seen.has(&["evicted"], &["reset"]));
    playground.wait("B is used again", is_used());

    playground.press(&fault("forget"));
    playground.wait("silent", |seen| seen.has(&["evicted", "closed"], &SILENT));
    playground.wait("new connections to B work meanwhile", |seen| {
        let young = |dot: &&Value| dot["peer"] == 1 && dot["age_ms"].as_u64() < Some(3000);
        seen.b()["plight"]["forgot"] == true
            && seen.dots().iter().filter(young).any(|dot| dot["uses"].as_u64() > Some(1))
    });
    playground.press(&fault("heal"));

    let stopped = |playground: &Playground| {
        playground.upstreams().iter().filter(|(_, state)| *state == 'T').count()
    };
    playground.press(&fault("stop"));
    let until = Instant::now() + LONG;
    while stopped(&playground) != 1 {
        assert!(Instant::now() < until, "{:?}", playground.upstreams());
    }
    playground.wait("callers wait at B", |seen| {
        seen.dots().iter().any(|dot| {
            dot["peer"] == 1 && dot["place"] == "in_use" && dot["heard_ms"].as_u64() > Some(300)
        })
    });
    playground.press(&fault("continue"));
    while stopped(&playground) != 0 {
        assert!(Instant::now() < until, "{:?}", playground.upstreams());
    }
    playground.wait("B is used again", is_used());

    playground.press(&fault("refuse"));
    playground.wait("dials to B fail", |seen| {
        seen.lines.iter().any(|line| line["what"] == "dial failed" && line["why"] == "refused")
            || seen.b()["connections"] == 0
    });
    playground.press(&fault("accept"));
    playground.wait("B is used again", is_used());

    playground.press(&json!({"do": "zero"}));
    playground.press(&fault(json!({"delay": 400})));
    playground.wait("answers are late", |seen| seen.livepool("longest_ms") >= 400.0);
    playground.press(&fault(json!({"delay": 0})));

    playground.press(&fault("fail_over"));
    assert_eq!(playground.upstreams().len(), 2, "the process of B was killed");
    playground.wait("all connections are elsewhere", |seen| {
        seen.b()["plight"]["gone"] == true
            && !seen.dots().is_empty()
            && seen.dots().iter().all(|dot| dot["peer"] != 1)
    });
    playground.press(&fault("bring_back"));
    assert_eq!(playground.upstreams().len(), 3);
    playground.press(&json!({"do": "invalidate"}));
    playground.wait("B is used again", is_used());
}

#[test]
fn what_is_done_to_the_pool_is_what_its_connections_show() {
    let playground = begun();

    playground.press(&json!({"do": "invalidate"}));
    playground.wait("closed", |seen| seen.has(&["evicted"], &["invalidated"]));

    playground.press(&json!({"do": "resize", "size": 5}));
    playground.wait("five", |seen| {
        seen.now["status"]["max_size"] == 5 && (1..=5).contains(&seen.dots().len())
    });
    playground.press(&json!({"do": "resize", "size": 24}));

    playground.press(&json!({"do": "pause", "on": true}));
    playground.wait("none, and callers wait", |seen| {
        seen.now["status"]["paused"] == true
            && seen.dots().is_empty()
            && seen.now["status"]["waiting"].as_u64() > Some(0)
    });
    playground.press(&json!({"do": "pause", "on": false}));
    playground.wait("B is used again", is_used());

    playground.press(&json!({"do": "demand", "rate": 400, "think_ms": 100, "shared": true}));
    playground.wait("several share one", |seen| {
        seen.dots().iter().any(|dot| dot["place"] == "shared" && dot["users"].as_u64() > Some(1))
    });
    playground.press(&json!({"do": "cancel_a_third"}));
    playground.wait("they have gone", |seen| seen.livepool("cancelled") > 5.0);

    playground.press(&json!({"do": "demand", "rate": 400, "think_ms": 20, "shared": false}));
    playground.press(&json!({"do": "beside", "deadpool": true, "bb8": true, "check": "peek"}));
    playground.wait("the others have the same load", |seen| {
        let asked = |pool: &str| seen.now["pools"][pool]["checkouts"].as_u64() > Some(100);
        asked("deadpool") && asked("bb8")
    });
    for _ in 0..5 {
        playground.press(&json!({"do": "cancel_a_third"}));
    }
    playground.press(&json!({"do": "beside", "deadpool": false, "bb8": false, "check": "ping"}));
    playground.wait("they are gone", |seen| {
        seen.now["pools"].as_object().is_some_and(|pools| pools.len() == 1)
    });
    playground.wait("nobody got an error or another's answer", |seen| {
        assert!(seen.livepool("wrong") < 1.0, "{}", seen.now["pools"]);
        seen.livepool("checkouts") > 100.0
    });
}

#[test]
fn the_page_in_docs_is_what_the_program_writes_but_for_its_figures() {
    let written = include_str!("../../docs/playground.md");
    let texts = [
        include_str!("../text/playground.md"),
        include_str!("../text/method.md"),
        include_str!("../text/reading.md"),
    ];
    for line in texts.iter().flat_map(|text| text.lines()) {
        // What stands in braces is filled in.
        for piece in line.split(['{', '}']).step_by(2) {
            assert!(written.contains(piece), "docs/playground.md is to be written anew: {piece}");
        }
    }
}

#[test]
fn nobody_presses_a_button_from_another_site_or_with_nonsense() {
    let playground = Playground::start();
    let host = playground.url.trim_start_matches("http://").to_owned();
    let status = |headers: &str, body: &str| {
        let answer = playground.send(headers, body);
        answer.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    let good = r#"{"do":"zero"}"#;
    let ours = format!("Host: {host}");
    assert_eq!(status(&ours, good), "204");
    assert_eq!(status(&format!("{ours}\r\nOrigin: http://{host}"), good), "204");
    assert_eq!(status(&format!("{ours}\r\nOrigin: https://elsewhere.example"), good), "403");
    // A name of theirs that leads here.
    assert_eq!(status("Host: elsewhere.example", good), "403");
    assert_eq!(status(&ours, "{"), "400");
    assert_eq!(status(&ours, &"x".repeat(10_000)), "400");
    for bad in [
        r#"{"do":"resize","size":0}"#,
        r#"{"do":"resize","size":100000}"#,
        r#"{"do":"demand","rate":1000000,"think_ms":0,"shared":false}"#,
        r#"{"do":"fault","peers":[7],"fault":"close"}"#,
        r#"{"do":"fault","peers":[0],"fault":{"delay":60000}}"#,
    ] {
        assert_eq!(status(&ours, bad), "409", "{bad}");
    }
}

#[test]
fn the_upstreams_end_with_the_program_however_that_ends() {
    let mut playground = Playground::start();
    playground.watch();
    playground.press(&fault("stop"));
    let upstreams = playground.upstreams();
    assert_eq!(upstreams.len(), 3);
    playground.kill();
    let is_there = |process: u32| std::path::Path::new(&format!("/proc/{process}")).exists();
    let until = Instant::now() + LONG;
    while upstreams.iter().any(|(process, _)| is_there(*process)) {
        assert!(Instant::now() < until, "left behind: {upstreams:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

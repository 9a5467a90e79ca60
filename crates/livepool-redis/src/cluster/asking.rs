//! Asking the nodes who serves which slot.

use std::time::Duration;

use ::redis::RedisResult;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::nodes::{Inner, Node};
use super::topology::{self, Said, error, short};

/// So many nodes are asked at a time who serves which slot.
const ASKED_AT_ONCE: usize = 3;
/// So long they have, before others are asked.
const ANSWER: Duration = Duration::from_secs(1);
/// So long the others of them are waited for once one has given an answer that is of use.
const GRACE: Duration = Duration::from_millis(100);
/// So many nodes are named in an error.
const NAMED: usize = 8;
/// After so long in which all say something older, they are believed: the cluster was made anew. A node that
/// is cut off from the others knows it sooner, within its `cluster-node-timeout`, which is 15 s.
const TAKEN_BACK: Duration = Duration::from_secs(30);

impl Inner {
    /// Asks a few nodes at a time, until some have an answer that is of use: the newest of these counts.
    pub(super) async fn ask(&self) -> RedisResult<Said> {
        self.check_open()?;
        let (mut known, first, held) = {
            let mut state = self.state();
            let first = state.knows.take();
            let is_long = state.behind_since.is_some_and(|since| since.elapsed() >= TAKEN_BACK);
            let held = state.epoch.filter(|_| !is_long);
            (state.nodes.keys().cloned().collect::<Vec<_>>(), first, held)
        };
        fastrand::shuffle(&mut known);
        let mut seeds = self.seeds.clone();
        fastrand::shuffle(&mut seeds);
        let mut candidates: Vec<String> = Vec::new();
        for addr in known.into_iter().chain(seeds) {
            if !candidates.contains(&addr) && first.as_ref() != Some(&addr) {
                candidates.push(addr);
            }
        }
        let (mut all, mut failed) = (Vec::<Said>::new(), Vec::<String>::new());
        let first: Vec<String> = first.into_iter().collect();
        let rounds = std::iter::once(&first[..]).chain(candidates.chunks(ASKED_AT_ONCE));
        for round in rounds.filter(|round| !round.is_empty()) {
            let (tell, mut told) = mpsc::channel(ASKED_AT_ONCE);
            for addr in round {
                let node = match self.node_at(addr) {
                    Ok(node) => node,
                    Err(error) => {
                        failed.push(short(&format!("{addr}: {error}")));
                        continue;
                    }
                };
                let tell = tell.clone();
                // Tasks, so that one that is silent has its time to the end: that closes the connection.
                tokio::spawn(async move {
                    let said = question(&node).await;
                    let _ = tell.send((node, said)).await;
                });
            }
            drop(tell);
            let mut end: Option<Instant> = None;
            loop {
                let next = match end {
                    None => told.recv().await,
                    Some(end) => timeout_at(end, told.recv()).await.unwrap_or_default(),
                };
                match next {
                    None => break,
                    Some((node, Err(why))) => {
                        failed.push(short(&format!("{}: {why}", node.addr)));
                    }
                    Some((_, Ok(said))) => {
                        all.push(said);
                        if topology::newest(&all, held, false).is_some() {
                            end.get_or_insert(Instant::now() + GRACE);
                        }
                    }
                }
            }
            if let Some(newest) = topology::newest(&all, held, false) {
                return Ok(newest.clone());
            }
        }
        if let Some(newest) = topology::newest(&all, held, true) {
            return Ok(newest.clone());
        }
        if !all.is_empty() {
            self.state().behind_since.get_or_insert_with(Instant::now);
            let detail = format!("{} of them, and {} do not answer", all.len(), failed.len());
            return Err(error("the nodes that answer know less than is known already", detail));
        }
        let count = failed.len();
        failed.truncate(NAMED);
        let more = if count > NAMED { ", and others" } else { "" };
        Err(error("no node says who serves which slot", format!("{}{more}", failed.join("; "))))
    }
}

/// Asks one node who serves which slot, and what it knows this from.
async fn question(node: &Node) -> Result<Said, String> {
    let asked = async {
        let mut shared = node.pool.share().await.map_err(|error| short(&error.to_string()))?;
        let mut questions = ::redis::pipe();
        questions.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
        let answers = shared.send_all(&questions, 0, 2).await;
        let answers = answers.map_err(|error| short(&error.to_string()))?;
        let [slots, info] = &answers[..] else {
            return Err("it does not answer both questions".to_owned());
        };
        topology::parse(slots, info, node.host())
    };
    let silent = || format!("no answer within {ANSWER:?}");
    timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(silent()))
}

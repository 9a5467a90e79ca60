//! A real Redis Cluster on this host.

use super::port::free_port;
use super::process::wait_for;
use super::redis::Redis;

/// Masters and their replicas. The replica of master `n` is node `masters + n`.
pub struct RedisCluster {
    pub nodes: Vec<Redis>,
    masters: usize,
}

/// A node that does not answer within so many milliseconds has failed: as long as no machine stands still, and
/// half a second where a replica is to take its place, once the cluster is one.
const PATIENT: &str = "3000";
const QUICK: &str = "500";

impl RedisCluster {
    /// So many masters, each with a part of the slots, and a replica for each if `replicas` says so.
    pub fn start(masters: usize, replicas: bool) -> Self {
        let count = if replicas { 2 * masters } else { masters };
        let nodes: Vec<Redis> = (0..count).map(|_| node()).collect();
        let cluster = Self { nodes, masters };
        for (index, range) in ranges(masters).enumerate() {
            let [first, last] = range.map(|slot| slot.to_string());
            let said = cluster.nodes[index].cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            assert_eq!(said, "OK");
            // Epochs that differ, as redis-cli sets them: no two nodes then claim the same slots.
            let epoch = (index + 1).to_string();
            assert_eq!(cluster.nodes[index].cli(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]), "OK");
        }
        for node in &cluster.nodes[1..] {
            cluster.meet(node);
        }
        for (index, replica) in cluster.nodes[masters..].iter().enumerate() {
            let id = cluster.id(index);
            wait_for("a replica follows its master", || {
                replica.cli(&["CLUSTER", "REPLICATE", &id]) == "OK"
            });
        }
        cluster.wait();
        for node in cluster.nodes.iter().filter(|_| replicas) {
            assert_eq!(node.cli(&["CONFIG", "SET", "cluster-node-timeout", QUICK]), "OK");
        }
        cluster
    }

    fn meet(&self, node: &Redis) {
        let port = node.port().to_string();
        let bus = bus(node).to_string();
        assert_eq!(self.nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]), "OK");
    }

    /// Until every node knows of every slot, of every other node, and replicas are in step.
    fn wait(&self) {
        let known = self.nodes.len();
        for (index, node) in self.nodes.iter().enumerate() {
            wait_for("the cluster is one", || {
                let info = node.cli(&["CLUSTER", "INFO"]);
                let replicas = node.cli(&["CLUSTER", "SLOTS"]).matches("127.0.0.1").count();
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{known}"))
                    && replicas == known
                    && (index < self.masters
                        || node.cli(&["INFO", "replication"]).contains("master_link_status:up"))
            });
        }
    }

    /// The name by which the nodes know this one.
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].cli(&["CLUSTER", "MYID"])
    }

    pub fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::addr).collect()
    }

    /// The master that serves this slot when all is well.
    pub fn master_of(&self, slot: u16) -> usize {
        ranges(self.masters).position(|[first, last]| (first..=last).contains(&slot)).unwrap()
    }

    /// The first step of moving a slot: keys that are not at `from` any more are asked for at `to`.
    pub fn begin_to_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let said = self.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        assert_eq!(said, "OK");
        let said = self.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
        assert_eq!(said, "OK");
    }

    /// The second: moves up to so many keys, and returns how many there were.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, most: usize) -> usize {
        let (slot, most) = (slot.to_string(), most.to_string());
        let keys = self.nodes[from].cli(&["CLUSTER", "GETKEYSINSLOT", &slot, &most]);
        let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
        if !keys.is_empty() {
            let port = self.nodes[to].port().to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(&keys);
            let said = self.nodes[from].cli(&words);
            assert!(said == "OK" || said == "NOKEY", "{said}");
        }
        keys.len()
    }

    /// The last: from now on `to` serves it.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, id) = (slot.to_string(), self.id(to));
        for node in [to, from] {
            assert_eq!(self.nodes[node].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]), "OK");
        }
    }
}

fn ranges(masters: usize) -> impl Iterator<Item = [u16; 2]> {
    let share = 16_384 / masters;
    (0..masters).map(move |index| {
        let last = if index + 1 == masters { 16_383 } else { (index + 1) * share - 1 };
        [(index * share) as u16, last as u16]
    })
}

/// Its own port is below 32768, so that the usual one of the bus, 10000 above, may be taken.
fn node() -> Redis {
    let bus = free_port();
    Redis::start_with(&[
        "cluster-enabled yes",
        "cluster-config-file nodes.conf",
        &format!("cluster-node-timeout {PATIENT}"),
        "cluster-replica-validity-factor 0",
        "cluster-announce-ip 127.0.0.1",
        &format!("cluster-port {bus}"),
    ])
}

fn bus(node: &Redis) -> u16 {
    let said = node.cli(&["CONFIG", "GET", "cluster-port"]);
    said.lines().last().unwrap().parse().unwrap_or_else(|_| panic!("{said}"))
}

//! What the kernel says of this process and of the machine (proc(5)).

use std::fs::read_to_string;
use std::time::Duration;

/// What one tick of `/proc/stat` and `/proc/self/stat` is: `USER_HZ`, 100 on every Linux that Rust
/// runs on.
const TICK: Duration = Duration::from_millis(10);

/// Memory of this process that is in RAM, in bytes.
pub fn resident() -> u64 {
    let status = read_to_string("/proc/self/status").expect("proc");
    kilobytes(&status, "VmRSS:")
}

/// Memory of the kernel's own objects, sockets among them, in bytes.
pub fn slab() -> u64 {
    let meminfo = read_to_string("/proc/meminfo").expect("proc");
    kilobytes(&meminfo, "Slab:")
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).expect("a line of that name");
    let number = line.split_whitespace().nth(1).expect("a number");
    number.parse::<u64>().expect("a number") * 1024
}

/// CPU time of this process so far, its own and the kernel's for it.
pub fn cpu() -> (Duration, Duration) {
    let stat = read_to_string("/proc/self/stat").expect("proc");
    // The name may contain anything, but not after its closing bracket.
    let fields: Vec<&str> =
        stat[stat.rfind(')').expect("a name") + 1..].split_whitespace().collect();
    let ticks = |at: usize| TICK * fields[at].parse::<u32>().expect("a number");
    (ticks(11), ticks(12))
}

/// CPU time of the whole machine so far: what all processes used, and what the kernel used in
/// interrupts.
pub fn machine() -> (Duration, Duration) {
    let stat = read_to_string("/proc/stat").expect("proc");
    let line = stat.lines().next().expect("a line");
    let ticks: Vec<u32> =
        line.split_whitespace().skip(1).map(|number| number.parse().expect("a number")).collect();
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else { panic!("{line}") };
    (TICK * (user + nice + system), TICK * (irq + softirq))
}

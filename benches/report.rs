//! Writes `benches/REPORT.md` and its plots, from what the other benches have left in the target
//! folder. Run by `scripts/bench`, which runs those first.

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use plotters::prelude::*;
use serde_json::Value;
use support::results;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result {
    if !support::measures() {
        return Ok(());
    }
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(home.join("plots"))?;
    let mut report = Report { text: String::new(), home };
    report.head()?;
    report.goals()?;
    report.throughput()?;
    report.faults()?;
    report.why()?;
    report.scale()?;
    report.ladder()?;
    report.instructions()?;
    report.criterion()?;
    fs::write(report.home.join("REPORT.md"), &report.text)?;
    println!("report: {}", report.home.join("REPORT.md").display());
    Ok(())
}

/// A goal, if there is one, and whether it is met.
fn goal(sign: &str, goal: &Value, is_met: impl FnOnce(f64) -> bool) -> String {
    let Some(goal) = goal.as_f64() else { return String::new() };
    let met = if is_met(goal) { "met" } else { "**not met**" };
    format!("{sign} {goal:.2}, {met}")
}

struct Report {
    text: String,
    home: PathBuf,
}

impl Report {
    fn head(&mut self) -> Result {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
        let cores = std::thread::available_parallelism()?;
        let lock = fs::read_to_string(self.home.join("../Cargo.lock"))?;
        writeln!(
            self.text,
            "# Benchmarks\n\n\
             Made by `./scripts/bench` from one run of each bench; not edited by hand. The goals are \
             ratios (or differences) between contenders that took turns, slice by slice, in one \
             process: the median of all turns, and the quartiles. Ratios hold elsewhere better than \
             nanoseconds do.\n\n\
             | | |\n|---|---|\n\
             | machine | {}, {cores} cores, shared with others |\n\
             | kernel | {} |\n\
             | compiler | {} |\n\
             | commit | {} |",
            model.trim_start_matches(['\t', ':', ' ']),
            said("uname", &["-sr"])?,
            said("rustc", &["--version"])?,
            // Of the figures, not of this program.
            fs::read_to_string(results::folder().join("commit")).unwrap_or("unknown".into()).trim(),
        )?;
        let names =
            ["tokio", "deadpool", "bb8", "socket2", "metrics", "metrics-exporter-prometheus"];
        let versions: Vec<_> =
            names.iter().map(|name| format!("{name} {}", version(&lock, name))).collect();
        writeln!(self.text, "| libraries | {} |\n", versions.join(", "))?;
        writeln!(
            self.text,
            "*hand-written* is what a careful user writes on deadpool: the same peek in `recycle`, \
             and its three timeouts. A recorder (the Prometheus exporter's) is installed in all of \
             them: livepool's figures contain the counting of every checkout, check and return.\n"
        )?;
        Ok(())
    }

    fn goals(&mut self) -> Result {
        let Some(Value::Array(groups)) = results::load("goals") else { return Ok(()) };
        writeln!(self.text, "## Goals\n\n| where | what | found | quartiles | goal | |")?;
        writeln!(self.text, "|---|---|---:|---:|---:|---|")?;
        for group in &groups {
            for goal in array(&group["goals"]) {
                let [low, median, high] = spread(&goal["found"]);
                let most = number(&goal["goal"]);
                let met = if median <= most { "met" } else { "**not met**" };
                writeln!(
                    self.text,
                    "| {} | {} | {} | {} … {} | {most} | {met} |",
                    string(&group["title"]),
                    string(&goal["what"]),
                    short(median),
                    short(low),
                    short(high),
                )?;
            }
        }
        writeln!(self.text, "\n## Contenders\n")?;
        for group in &groups {
            let title = string(&group["title"]);
            writeln!(self.text, "### {title}\n\n| | ns | quartiles |\n|---|---:|---:|")?;
            let mut bars = Vec::new();
            for time in array(&group["times"]) {
                let [low, median, high] = spread(&time["nanos"]);
                let name = string(&time["name"]);
                writeln!(self.text, "| {name} | {median:.1} | {low:.1} … {high:.1} |")?;
                bars.push((name.to_owned(), median));
            }
            self.plot(title, "ns", &bars)?;
        }
        Ok(())
    }

    /// Whole requests, beside what users would pick instead.
    fn throughput(&mut self) -> Result {
        let Some(Value::Array(groups)) = results::load("throughput") else { return Ok(()) };
        writeln!(
            self.text,
            "## Whole requests\n\n\
             `cargo bench -p livepool-throughput`: real servers on loopback, contenders in turn, medians of \
             all rounds. Ratios are those of neighbours in one round: requests a second of livepool for \
             each of the other's, and its CPU for that of the other.\n\n\
             | what | callers | contender | requests/s | CPU each | livepool / this | goal | CPU | goal |\n\
             |---|---|---|---|---|---|---|---|---|"
        )?;
        for group in &groups {
            for one in array(&group["contenders"]) {
                writeln!(
                    self.text,
                    "| {} | {} | {} | {:.0} | {:.1} us | {:.2} | {} | {:.2} | {} |",
                    string(&group["what"]),
                    number(&group["callers"]),
                    string(&one["name"]),
                    number(&one["per_second"]),
                    number(&one["cpu_micros"]),
                    number(&one["ratio"]),
                    goal("≥", &one["goal"], |goal| number(&one["ratio"]) >= goal),
                    number(&one["cpu_ratio"]),
                    goal("≤", &one["cpu_goal"], |goal| number(&one["cpu_ratio"]) <= goal),
                )?;
            }
        }
        writeln!(self.text)?;
        Ok(())
    }

    /// The same requests while something goes wrong.
    fn faults(&mut self) -> Result {
        let Some(Value::Array(all)) = results::load("faults") else { return Ok(()) };
        writeln!(
            self.text,
            "## Under faults\n\n\
             `cargo bench -p livepool-throughput --bench faults`: 32 callers ask without a pause for 13 s, and \
             something happens after the first. Each contender as it comes. *Unanswered*: requests that \
             had neither an answer nor an error at the end. *Crossed*: answers to somebody else's \
             request.\n\n\
             | server | what happens | contender | answered | errors | unanswered | crossed | longest wait |\n\
             |---|---|---|---|---|---|---|---|"
        )?;
        for one in &all {
            let found = &one["found"];
            writeln!(
                self.text,
                "| {} | {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} s |",
                string(&one["server"]),
                string(&one["fault"]),
                string(&found["contender"]),
                number(&found["answered"]),
                number(&found["errors"]),
                number(&found["unanswered"]),
                number(&found["crossed"]),
                number(&found["longest"]),
            )?;
        }
        writeln!(self.text)?;
        Ok(())
    }

    /// What no program can find out.
    fn why(&mut self) -> Result {
        let why = fs::read_to_string(self.home.join("why.md"))?;
        writeln!(self.text, "## Why some goals are not met\n\n{}\n", why.trim_end())?;
        Ok(())
    }

    fn scale(&mut self) -> Result {
        let Some(figures) = results::load("scale") else { return Ok(()) };
        let idle = &figures["idle"];
        writeln!(
            self.text,
            "## {idle} idle connections\n\n| | goal | current_thread | multi_thread |"
        )?;
        writeln!(self.text, "|---|---:|---:|---:|")?;
        let milli = |value: &Value| format!("{:.2} ms", number(value) * 1e3);
        let both = |figure: &dyn Fn(&Value) -> String| {
            ["current_thread", "multi_thread"].map(|kind| figure(&figures[kind])).join(" | ")
        };
        type Row<'a> = (&'a str, &'a str, &'a dyn Fn(&Value) -> String);
        let rows: [Row<'_>; 11] = [
            ("memory of each beyond a bare tokio stream", "1024 B", &|of| {
                let memory = &of["memory"];
                format!("{:.0} B", number(&memory["livepool"]) - number(&memory["bare"]))
            }),
            ("a bare tokio stream", "", &|of| format!("{} B", of["memory"]["bare"])),
            ("the kernel's memory of each (both ends, halved)", "", &|of| {
                format!("{} B", of["memory"]["kernel"])
            }),
            ("at rest, of one core: user + system", "2 %", &|of| {
                let rest = &of["rest"];
                let (user, system) = (number(&rest["user"]), number(&rest["system"]));
                format!("{:.2} % ({user:.2} + {system:.2})", user + system)
            }),
            ("the same without `max_silence`: the kernel's keepalive alone", "", &|of| {
                let rest = &of["unchecked"];
                format!("{:.2} %", number(&rest["user"]) + number(&rest["system"]))
            }),
            ("the machine's interrupts meanwhile", "", &|of| {
                format!("{:.2} %", number(&of["rest"]["interrupts"]))
            }),
            ("one FIN to its eviction: p50", "", &|of| milli(&of["eviction"]["p50"])),
            ("one FIN to its eviction: p99", "1 ms", &|of| milli(&of["eviction"]["p99"])),
            ("all die: the last one evicted after", "", &|of| milli(&of["death"]["evicted"])),
            ("all die: p99 of an exchange elsewhere / normal", "10", &|of| {
                let (normal, during) = (&of["death"]["normal"], &of["death"]["during"]);
                format!(
                    "{:.1} ({} / {})",
                    number(&of["death"]["ratio"]),
                    milli(&during["exchange"]["p99"]),
                    milli(&normal["exchange"]["p99"])
                )
            }),
            ("all die: p99 of a checkout elsewhere (normal)", "", &|of| {
                let (normal, during) = (&of["death"]["normal"], &of["death"]["during"]);
                format!(
                    "{} ({})",
                    milli(&during["checkout"]["p99"]),
                    milli(&normal["checkout"]["p99"])
                )
            }),
        ];
        for (what, goal, figure) in rows {
            writeln!(self.text, "| {what} | {goal} | {} |", both(figure))?;
        }
        writeln!(self.text)?;
        Ok(())
    }

    fn ladder(&mut self) -> Result {
        let Some(Value::Object(rungs)) = results::load("ladder") else { return Ok(()) };
        writeln!(self.text, "## Rungs of the liveness ladder\n\nA checkout and return with\n")?;
        writeln!(self.text, "| | ns | quartiles |\n|---|---:|---:|")?;
        for (name, of) in rungs {
            let (low, median, high) =
                (number(&of["low"]), number(&of["median"]), number(&of["high"]));
            writeln!(self.text, "| {name} | {median:.0} | {low:.0} … {high:.0} |")?;
        }
        writeln!(self.text)?;
        Ok(())
    }

    fn instructions(&mut self) -> Result {
        let counts = fs::read_to_string(self.home.join("instructions/counts.txt"))?;
        writeln!(
            self.text,
            "## Instructions\n\nIn user space, of one get and return or one read, counted by \
             callgrind (`./scripts/instructions`); CI fails when one rises.\n\n```text\n{}\n```\n",
            counts.trim_end()
        )?;
        Ok(())
    }

    /// What criterion measured, one after the other.
    fn criterion(&mut self) -> Result {
        let folder = results::folder().with_file_name("criterion");
        let mut groups: BTreeMap<String, Vec<(String, [f64; 3])>> = BTreeMap::new();
        for (group, name, times) in estimates(&folder)? {
            groups.entry(group).or_default().push((name, times));
        }
        if groups.is_empty() {
            return Ok(());
        }
        writeln!(
            self.text,
            "## Everything else\n\nBy criterion, one after the other: beside each other only \
             roughly. Nanoseconds, with the 95 % confidence interval.\n"
        )?;
        for (group, mut rows) in groups {
            rows.sort_by(|a, b| a.1[1].total_cmp(&b.1[1]));
            writeln!(self.text, "### {group}\n\n| | ns | |\n|---|---:|---:|")?;
            for (name, [low, mean, high]) in rows {
                writeln!(self.text, "| {name} | {mean:.1} | {low:.1} … {high:.1} |")?;
            }
            writeln!(self.text)?;
        }
        Ok(())
    }

    /// Bars, the shortest being the best.
    fn plot(&mut self, title: &str, unit: &str, bars: &[(String, f64)]) -> Result {
        let file: String =
            title.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let file = format!("plots/{}.svg", file.replace("--", "-"));
        let path = self.home.join(&file);
        let height = 60 + 34 * bars.len() as u32;
        let area = SVGBackend::new(&path, (760, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
        area.draw(&Text::new(format!("{title} ({unit})"), (12, 12), text(16)))?;
        // Those that make a round trip would leave nothing to see of the others.
        let least = bars.iter().map(|bar| bar.1).fold(f64::INFINITY, f64::min);
        let longest = bars.iter().map(|bar| bar.1).filter(|bar| *bar < 20.0 * least);
        let longest = longest.fold(0.0, f64::max);
        for (index, (name, value)) in bars.iter().enumerate() {
            let top = 46 + 34 * index as i32;
            let width = (380.0 * (value / longest).min(1.1)) as i32;
            let color =
                if name == "livepool" { RGBColor(36, 99, 160) } else { RGBColor(150, 150, 150) };
            area.draw(&Text::new(name.clone(), (12, top + 4), text(14)))?;
            area.draw(&Rectangle::new([(230, top), (230 + width, top + 22)], color.filled()))?;
            let cut = if *value > longest { " (bar cut)" } else { "" };
            area.draw(&Text::new(format!("{value:.1}{cut}"), (238 + width, top + 4), text(14)))?;
        }
        area.present()?;
        drop(area);
        writeln!(self.text, "\n![{title}]({file})\n")?;
        Ok(())
    }
}

/// Group, name, and the bounds and estimate of every criterion bench that was run.
fn estimates(folder: &Path) -> Result<Vec<(String, String, [f64; 3])>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        if folder.file_name().is_none_or(|name| name != "new") {
            continue;
        }
        let read = |name: &str| -> Result<Value> {
            Ok(serde_json::from_str(&fs::read_to_string(folder.join(name))?)?)
        };
        let (bench, estimates) = (read("benchmark.json")?, read("estimates.json")?);
        let mean = &estimates["mean"];
        let interval = &mean["confidence_interval"];
        let times = [&interval["lower_bound"], &mean["point_estimate"], &interval["upper_bound"]];
        let (group, name) = (string(&bench["group_id"]), string(&bench["function_id"]));
        found.push((group.to_owned(), name.to_owned(), times.map(number)));
    }
    Ok(found)
}

fn said(program: &str, args: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// In a `Cargo.lock`.
fn version<'a>(lock: &'a str, name: &str) -> &'a str {
    let package = format!("name = \"{name}\"\nversion = \"");
    // Of several the last one is the newest, and ours.
    lock.split(&package).skip(1).last().and_then(|rest| rest.split('"').next()).unwrap_or("?")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn spread(value: &Value) -> [f64; 3] {
    [0, 1, 2].map(|at| number(&value[at]))
}

fn short(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

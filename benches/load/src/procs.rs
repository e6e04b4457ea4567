//! What the server process tree costs: CPU from /proc/PID/stat and schedstat, memory from
//! smaps_rollup.
use std::fs;

#[derive(Clone, Copy, Default, Debug)]
pub struct Sample {
    /// User and system time of all threads, exact to a tick of the timer.
    pub cpu_ns: u64,
    pub user_us: u64,
    pub sys_us: u64,
    pub rss_kb: u64,
    pub pss_kb: u64,
    pub anon_kb: u64,
    pub softirqd_us: u64,
    pub core_busy_us: u64,
    pub steal_us: u64,
}

pub struct Server {
    pids: Vec<u32>,
    softirqd: Option<u32>,
    core: Option<usize>,
    us_per_tick: u64,
}

/// Fields after the parenthesised command, so that any command name is safe.
fn stat_fields(pid: u32) -> Option<(String, Vec<String>)> {
    let s = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (a, b) = (s.find('(')?, s.rfind(')')?);
    Some((
        s[a + 1..b].to_string(),
        s[b + 1..].split_whitespace().map(str::to_string).collect(),
    ))
}

fn all_pids() -> Vec<u32> {
    fs::read_dir("/proc")
        .map(|d| {
            d.flatten()
                .filter_map(|e| e.file_name().to_str()?.parse().ok())
                .collect()
        })
        .unwrap_or_default()
}

impl Server {
    /// `root` and every descendant it has now; `core` adds that core's own account.
    pub fn new(root: Option<u32>, core: Option<usize>) -> Server {
        let mut pids: Vec<u32> = Vec::new();
        let all: Vec<(u32, u32, String)> = all_pids()
            .into_iter()
            .filter_map(|p| {
                let (name, f) = stat_fields(p)?;
                Some((p, f.get(1)?.parse().ok()?, name))
            })
            .collect();
        if let Some(r) = root {
            pids.push(r);
            loop {
                let more: Vec<u32> = all
                    .iter()
                    .filter(|(p, pp, _)| pids.contains(pp) && !pids.contains(p))
                    .map(|x| x.0)
                    .collect();
                if more.is_empty() {
                    break;
                }
                pids.extend(more);
            }
        }
        let softirqd = core.and_then(|c| {
            let want = format!("ksoftirqd/{c}");
            all.iter().find(|x| x.2 == want).map(|x| x.0)
        });
        Server {
            pids,
            softirqd,
            core,
            us_per_tick: 1_000_000 / crate::sys::clk_tck(),
        }
    }
    pub fn known(&self) -> bool {
        !self.pids.is_empty()
    }
    pub fn alive(&self) -> bool {
        self.pids
            .first()
            .is_none_or(|p| fs::metadata(format!("/proc/{p}")).is_ok())
    }
    fn cpu_of(&self, pid: u32) -> (u64, u64) {
        match stat_fields(pid) {
            Some((_, f)) if f.len() > 12 => (
                f[11].parse::<u64>().unwrap_or(0) * self.us_per_tick,
                f[12].parse::<u64>().unwrap_or(0) * self.us_per_tick,
            ),
            _ => (0, 0),
        }
    }
    /// What the threads of a process have run, to the nanosecond. Threads that ended are not in it.
    fn run_ns_of(pid: u32) -> Option<u64> {
        let mut ns = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            ns += text.split_whitespace().next()?.parse::<u64>().ok()?;
        }
        Some(ns)
    }
    /// CPU only: cheap enough for the edge of a timed window.
    pub fn cpu(&self) -> Sample {
        let mut s = Sample::default();
        for &p in &self.pids {
            let (u, k) = self.cpu_of(p);
            s.user_us += u;
            s.sys_us += k;
            s.cpu_ns += Self::run_ns_of(p).unwrap_or((u + k) * 1000);
        }
        if let Some(p) = self.softirqd {
            s.softirqd_us = self.cpu_of(p).1;
        }
        if let Ok(t) = fs::read_to_string("/proc/stat") {
            let busy = |l: &str| -> (u64, u64) {
                let v: Vec<u64> = l
                    .split_whitespace()
                    .skip(1)
                    .filter_map(|x| x.parse().ok())
                    .collect();
                if v.len() < 8 {
                    return (0, 0);
                }
                // user nice system irq softirq (+ steal); not idle, not iowait
                (
                    (v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) * self.us_per_tick,
                    v[7] * self.us_per_tick,
                )
            };
            for l in t.lines().take_while(|l| l.starts_with("cpu")) {
                match l[3..].split(' ').next() {
                    Some("") => s.steal_us = busy(l).1,
                    Some(n) if n.parse() == Ok(self.core.unwrap_or(usize::MAX)) => {
                        s.core_busy_us = busy(l).0
                    }
                    _ => {}
                }
            }
        }
        s
    }
    /// CPU of everything that is neither the server tree nor we, ended children included, in µs.
    /// From each process's own exact account: /proc/stat is sampled by the timer tick and miscounts
    /// work that is in step with it.
    pub fn others_us(&self) -> u64 {
        let me = std::process::id();
        let mut t = 0u64;
        for p in all_pids() {
            if let Some((_, f)) = stat_fields(p) {
                let n = |i: usize| f.get(i).and_then(|x| x.parse::<u64>().ok()).unwrap_or(0);
                if p != me && !self.pids.contains(&p) {
                    t += n(11) + n(12);
                }
                t += n(13) + n(14);
            }
        }
        t * self.us_per_tick
    }
    pub fn rss_kb(&self) -> u64 {
        let kb = crate::sys::page_size() / 1024;
        self.pids
            .iter()
            .filter_map(|p| {
                let t = fs::read_to_string(format!("/proc/{p}/statm")).ok()?;
                Some(t.split_whitespace().nth(1)?.parse::<u64>().ok()? * kb)
            })
            .sum()
    }
    pub fn full(&self) -> Sample {
        let mut s = self.cpu();
        for p in &self.pids {
            if let Ok(t) = fs::read_to_string(format!("/proc/{p}/smaps_rollup")) {
                for l in t.lines() {
                    let mut w = l.split_whitespace();
                    let (k, v) = (w.next().unwrap_or(""), w.next().unwrap_or("0"));
                    let v: u64 = v.parse().unwrap_or(0);
                    match k {
                        "Rss:" => s.rss_kb += v,
                        "Pss:" => s.pss_kb += v,
                        "Anonymous:" => s.anon_kb += v,
                        _ => {}
                    }
                }
            }
        }
        s
    }
    /// Open descriptors of the whole tree (Linux 6.2+ tells the number as the folder's size).
    pub fn fds(&self) -> u64 {
        self.pids
            .iter()
            .map(|p| {
                let d = format!("/proc/{p}/fd");
                match fs::metadata(&d) {
                    Ok(m) if m.len() > 0 => m.len(),
                    _ => fs::read_dir(&d).map(|x| x.count() as u64).unwrap_or(0),
                }
            })
            .sum()
    }
}

/// Kernel memory that sockets can grow: (Slab + kernel-stack-free estimate) in KiB, whole machine.
pub fn kernel_slab_kb() -> u64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|t| {
            t.lines()
                .find(|l| l.starts_with("Slab:"))?
                .split_whitespace()
                .nth(1)?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// JSON members for the cost of `n` messages between two samples; `foreign` is what neither the
/// server nor we used, in cores: it must be near zero for the result to count.
pub fn cost_json(a: &Sample, b: &Sample, n: u64, wall_s: f64, foreign: f64) -> String {
    let d = |x: u64, y: u64| y.saturating_sub(x) as f64;
    let (u, s) = (d(a.user_us, b.user_us), d(a.sys_us, b.sys_us));
    let cpu = d(a.cpu_ns, b.cpu_ns) / 1000.0;
    let (q, c) = (
        d(a.softirqd_us, b.softirqd_us),
        d(a.core_busy_us, b.core_busy_us),
    );
    let steal = d(a.steal_us, b.steal_us);
    let m = n.max(1) as f64;
    let w = wall_s.max(1e-9) * 1e6;
    format!(
        "\"server_cpu_us_per_msg\":{:.4},\"server_user_us_per_msg\":{:.4},\
         \"server_sys_us_per_msg\":{:.4},\"ksoftirqd_us_per_msg\":{:.4},\
         \"core_busy_us_per_msg\":{:.4},\"server_cpu_share\":{:.4},\"foreign_cpu_share\":{:.4},\
         \"steal_share\":{:.4}",
        cpu / m,
        u / m,
        s / m,
        q / m,
        c / m,
        cpu / w,
        foreign,
        steal / w
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn sees_this_process() {
        let me = Server::new(Some(std::process::id()), Some(0));
        let a = me.full();
        let t = crate::sys::now_ns();
        let mut x = 0u64;
        while crate::sys::now_ns() - t < 60_000_000 {
            x = x.wrapping_add(1);
        }
        assert!(x > 0 && a.rss_kb > 0 && me.rss_kb() > 0 && me.fds() > 2 && me.alive());
        let b = me.cpu();
        assert!(b.user_us + b.sys_us > a.user_us + a.sys_us);
        assert!(b.cpu_ns > a.cpu_ns + 30_000_000);
    }
}

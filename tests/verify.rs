//! `roomcast verify` finds what is planted, and nothing where nothing is.
//!
//! The endpoint is a fake that keeps every promise but one; see [`fake`].

#[path = "verify/fake.rs"]
mod fake;

use std::process::{Command, Stdio};

use fake::{Fake, Plant};

/// What a run said.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    /// Runs the tool with these arguments.
    fn of(arguments: &str) -> Self {
        let output = Command::new(env!("CARGO_BIN_EXE_roomcast"))
            .arg("verify")
            .args(arguments.split_whitespace())
            .env_remove("ROOMCAST_TOKEN")
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A row of the account.
    fn count(&self, name: &str) -> u64 {
        let row = self.stdout.lines().find(|line| line.starts_with(name));
        let row = row.unwrap_or_else(|| panic!("no row {name}: {self:?}"));
        let number = row[name.len()..].trim();
        number.parse().unwrap_or_else(|_| panic!("{row}: {self:?}"))
    }

    /// The rows that must be 0 for a kept contract.
    fn faults(&self) -> [(&'static str, u64); 4] {
        ["lost silently", "repeated", "reordered", "contradicted"]
            .map(|name| (name, self.count(name)))
    }

    /// Asserts the exit status, and that these are the only faults.
    fn assert(&self, code: i32, faults: &[(&str, u64)]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for (name, count) in self.faults() {
            let planted = faults.iter().find(|fault| fault.0 == name);
            assert_eq!(
                count,
                planted.map_or(0, |fault| fault.1),
                "{name}: {self:?}"
            );
        }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n{}\n{}", self.code, self.stdout, self.stderr)
    }
}

/// Runs against an endpoint with this fault; asserts that the fault happened.
fn run(plant: Plant, arguments: &str) -> Run {
    let fake = Fake::start(plant);
    let run = Run::of(&format!("--url {} --secs 1 {arguments}", fake.url()));
    assert_eq!(
        fake.is_planted(),
        plant != Plant::Nothing,
        "{plant:?}: {run:?}"
    );
    run
}

/// As [`run`], by commands.
fn sdk(plant: Plant, arguments: &str) -> Run {
    run(plant, &format!("--protocol centrifugo {arguments}"))
}

const CALM: &str = "--cuts 0 --members 4 --rate 50";
const CUT: &str = "--cuts 30 --members 6 --rate 50";

#[test]
fn a_calm_run_is_kept_and_every_delivery_is_counted() {
    let run = run(Plant::Nothing, CALM);
    run.assert(0, &[]);
    let published = run.count("published");
    assert!((40..=102).contains(&published), "{run:?}");
    assert_eq!(run.count("delivered"), 4 * published, "{run:?}");
    for name in [
        "cuts",
        "resumes",
        "unacknowledged",
        "lost and told",
        "closed by server",
    ] {
        assert_eq!(run.count(name), 0, "{name}: {run:?}");
    }
    assert!(run.stdout.contains("latency ms"), "{run:?}");
    assert!(run.stdout.ends_with("contract          kept\n"), "{run:?}");
}

#[test]
fn who_is_sent_away_stays_away_for_as_long_as_asked() {
    let retry_ms = 800;
    let fake = Fake::start(Plant::GoAway { retry_ms });
    let arguments = "--secs 3 --cuts 0 --members 2 --publishers 1 --rate 50";
    let run = Run::of(&format!("--url {} {arguments}", fake.url()));
    assert!(fake.is_planted(), "{run:?}");
    run.assert(0, &[]);
    let absences = fake.absences();
    assert_eq!(
        absences.len(),
        3,
        "two members, one publisher: {absences:?}"
    );
    for absence in &absences {
        assert!(absence.as_millis() >= 790, "{absences:?}");
        assert!(absence.as_millis() < 2500, "{absences:?}");
    }
}

#[test]
fn members_that_are_cut_resume_where_they_were() {
    let fake = Fake::start(Plant::Nothing);
    let arguments = "--secs 2 --cuts 40 --members 8 --rooms 2 --rate 100 --size 200 --token a/b";
    let run = Run::of(&format!("--url {} {arguments}", fake.url()));
    run.assert(0, &[]);
    assert!(run.count("cuts") > 20, "{run:?}");
    // Whoever is cut again before `joined` was read has not resumed.
    let (cuts, resumes) = (run.count("cuts"), run.count("resumes"));
    assert!((cuts / 2..=cuts).contains(&resumes), "{run:?}");
    // Each publisher has a room of its own, with half of the members.
    assert_eq!(
        run.count("delivered"),
        4 * run.count("published"),
        "{run:?}"
    );
    assert!(run.stdout.contains("    1 s  published "), "{run:?}");

    let queries = fake.queries();
    let has = |name: &str, value: &str| {
        let hits = queries.iter().filter(|query| {
            query
                .get(name)
                .is_some_and(|found| found.starts_with(value))
        });
        hits.count() as u64
    };
    assert_eq!(
        has("token", "a/b"),
        queries.len() as u64,
        "every connection"
    );
    assert_eq!(has("room", "verify:"), queries.len() as u64);
    assert_eq!(has("echo", "0"), 2, "publishers are not cut");
    assert!(has("since", "e0.") >= run.count("resumes"));
    assert!(queries.iter().any(|query| {
        let since = query
            .get("since")
            .and_then(|since| since.strip_prefix("e0."));
        since.is_some_and(|offset| offset.parse::<u64>().is_ok_and(|offset| offset > 20))
    }));
}

#[test]
fn of_several_urls_each_connection_takes_the_next() {
    let fake = Fake::start(Plant::Nothing);
    let urls = format!("--url {0}?node=a --url {0}?node=b", fake.url());
    let run = Run::of(&format!(
        "{urls} --secs 2 --cuts 15 --members 1 --publishers 1 --rate 50"
    ));
    run.assert(0, &[]);
    assert!(run.count("cuts") > 3, "{run:?}");
    let queries = fake.queries();
    let members = queries.iter().filter(|query| !query.contains_key("echo"));
    let nodes: Vec<&str> = members.map(|query| &*query["node"]).collect();
    for (place, node) in nodes.iter().enumerate() {
        assert_eq!(*node, ["a", "b"][place % 2], "{nodes:?}");
    }

    let fake = Fake::start(Plant::Nothing);
    let urls = format!("--url {0}?node=a --url {0}?node=b", fake.url());
    let dealt = "--secs 1 --cuts 0 --members 8 --publishers 4 --rooms 2 --rate 20";
    Run::of(&format!("{urls} {dealt}")).assert(0, &[]);
    let mut counts = std::collections::BTreeMap::new();
    for query in fake.queries() {
        let of = (query["node"].clone(), query["room"].clone());
        *counts.entry(of).or_insert(0) += 1;
    }
    // Two rooms on two nodes, half of eight members and of four publishers in each.
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [3; 4]);
}

#[test]
fn each_run_has_rooms_of_its_own() {
    let fake = Fake::start(Plant::Nothing);
    let arguments = format!("--url {} --secs 1 {CALM}", fake.url());
    Run::of(&arguments).assert(0, &[]);
    Run::of(&arguments).assert(0, &[]);
    let mut rooms: Vec<String> = fake
        .queries()
        .iter()
        .filter_map(|query| query.get("room").cloned())
        .collect();
    rooms.sort();
    rooms.dedup();
    assert_eq!(rooms.len(), 2, "{rooms:?}");
}

#[test]
fn one_loss_is_found() {
    let run = run(Plant::Loss, CALM);
    run.assert(1, &[("lost silently", 1)]);
    assert!(run.stdout.contains("offset 20 of epoch e0"), "{run:?}");
    assert!(run.stdout.contains("BROKEN"), "{run:?}");
}

#[test]
fn a_loss_that_all_members_share_is_found_for_each() {
    run(Plant::LossForAll, CALM).assert(1, &[("lost silently", 4)]);
}

#[test]
fn a_message_that_was_never_numbered_is_found_for_each_member() {
    run(Plant::Swallowed, CALM).assert(1, &[("lost silently", 4)]);
}

#[test]
fn one_duplicate_is_found() {
    run(Plant::Duplicate, CALM).assert(1, &[("repeated", 1)]);
}

#[test]
fn one_swap_is_found() {
    run(Plant::Swap, CALM).assert(1, &[("reordered", 1)]);
}

#[test]
fn messages_of_one_publisher_numbered_in_the_wrong_order_are_found() {
    let arguments = format!("{CALM} --publishers 1");
    run(Plant::SwapNumbers, &arguments).assert(1, &[("reordered", 4)]);
}

#[test]
fn a_changed_byte_is_found() {
    // The letter did not come, and something came that nobody sent.
    run(Plant::Garbled, CALM).assert(1, &[("contradicted", 1), ("lost silently", 1)]);
}

#[test]
fn a_replay_that_begins_too_late_is_found() {
    run(Plant::ReplayLoss, CALM).assert(1, &[("lost silently", 1)]);
}

#[test]
fn a_replay_that_begins_too_early_is_found() {
    run(Plant::ReplayDuplicate, CALM).assert(1, &[("repeated", 1)]);
}

#[test]
fn a_server_that_does_not_resume_is_found() {
    let run = run(Plant::NoHistory, CUT);
    assert_eq!(run.code, Some(1), "{run:?}");
    let silent = run.count("lost silently");
    assert!(silent > 0, "{run:?}");
    assert_eq!(
        run.count("delivered") + silent,
        6 * run.count("published"),
        "{run:?}"
    );
}

#[test]
fn a_message_to_everybody_is_no_fault() {
    run(Plant::ToAll, CALM).assert(0, &[]);
    sdk(Plant::ToAll, CALM).assert(0, &[]);
}

#[test]
fn what_is_skipped_and_told_is_no_fault() {
    let run = run(Plant::Skip { told: 3 }, CALM);
    run.assert(0, &[]);
    assert_eq!(run.count("lost and told"), 3, "{run:?}");
    assert_eq!(
        run.count("delivered") + 3,
        4 * run.count("published"),
        "{run:?}"
    );
}

#[test]
fn skipping_more_than_is_told_is_found() {
    run(Plant::Skip { told: 2 }, CALM).assert(1, &[("lost silently", 1)]);
}

#[test]
fn telling_of_more_than_was_skipped_is_found() {
    run(Plant::Skip { told: 4 }, CALM).assert(1, &[("contradicted", 1)]);
}

#[test]
fn a_resume_that_states_its_loss_is_no_fault() {
    let run = run(Plant::ReplayTold { short_by: 0 }, CALM);
    run.assert(0, &[]);
    assert!(run.count("lost and told") > 2, "{run:?}");
}

#[test]
fn a_resume_that_understates_its_loss_is_found() {
    run(Plant::ReplayTold { short_by: 2 }, CALM).assert(1, &[("lost silently", 2)]);
}

#[test]
fn what_a_broken_publisher_sent_last_is_unacknowledged() {
    let run = run(Plant::BrokenPublisher, CALM);
    run.assert(0, &[]);
    let unacknowledged = run.count("unacknowledged");
    assert!(unacknowledged > 0, "{run:?}");
    let acknowledged = run.count("published") - unacknowledged;
    assert_eq!(run.count("delivered"), 4 * acknowledged, "{run:?}");
}

#[test]
fn an_epoch_that_ends_is_told() {
    // Whoever was connected is dropped, and comes back with a position of the epoch before.
    let run = run(Plant::NewEpoch, CALM);
    run.assert(0, &[]);
    assert_eq!(run.count("closed by server"), 4, "{run:?}");
    assert_eq!(run.count("resumes"), 4, "{run:?}");
}

#[test]
fn who_is_not_let_in_again_leaves_no_verdict() {
    let run = run(Plant::Shut, CUT);
    run.assert(2, &[]);
    assert!(run.count("members away") > 0, "{run:?}");
    assert!(run.stderr.contains("no verdict"), "{run:?}");
    assert!(run.stdout.contains("403"), "{run:?}");
}

#[test]
fn who_is_not_let_in_at_all_is_told_at_once() {
    let run = run(Plant::Closed, CALM);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("403"), "{run:?}");
}

// By commands.

#[test]
fn a_run_by_commands_is_kept_and_every_delivery_is_counted() {
    let fake = Fake::start(Plant::Nothing);
    let arguments = "--protocol centrifugo --secs 2 --cuts 40 --members 8 --rooms 2 --rate 100";
    let run = Run::of(&format!("--url {} {arguments} --token a/b", fake.url()));
    run.assert(0, &[]);
    assert!(run.count("cuts") > 20, "{run:?}");
    assert_eq!(
        run.count("delivered"),
        4 * run.count("published"),
        "{run:?}"
    );
    for name in ["unacknowledged", "lost and told", "closed by server"] {
        assert_eq!(run.count(name), 0, "{name}: {run:?}");
    }
    // The token goes with the command, and nothing with the URL.
    assert!(fake.queries().iter().all(|query| query.is_empty()));
    let commands = fake.commands();
    let connects = commands.iter().filter_map(|one| one.get("connect"));
    assert!(connects.clone().all(|one| one["token"] == "a/b"));
    assert_eq!(connects.count(), fake.queries().len());
    let resumes = commands.iter().filter_map(|one| one.get("subscribe"));
    let resumes: Vec<_> = resumes.filter(|one| one["recover"] == true).collect();
    assert!(resumes.len() as u64 >= run.count("resumes"));
    assert!(resumes.iter().all(|one| one["epoch"] == "e0"));
    assert!(resumes.iter().any(|one| one["offset"].as_u64() > Some(20)));
    let published = commands.iter().filter(|one| one.get("publish").is_some());
    assert_eq!(published.count() as u64, run.count("published"));
}

#[test]
fn faults_of_pushes_are_found() {
    sdk(Plant::Loss, CALM).assert(1, &[("lost silently", 1)]);
    sdk(Plant::LossForAll, CALM).assert(1, &[("lost silently", 4)]);
    sdk(Plant::Duplicate, CALM).assert(1, &[("repeated", 1)]);
    sdk(Plant::Swap, CALM).assert(1, &[("reordered", 1)]);
    sdk(Plant::Garbled, CALM).assert(1, &[("contradicted", 1), ("lost silently", 1)]);
    sdk(Plant::EmptyLine, CALM).assert(1, &[("contradicted", 1)]);
}

#[test]
fn a_false_recovered_is_found() {
    sdk(Plant::ReplayLoss, CALM).assert(1, &[("lost silently", 1)]);
    sdk(Plant::ReplayDuplicate, CALM).assert(1, &[("repeated", 1)]);
    sdk(Plant::ReplayElsewhere, CALM).assert(1, &[("contradicted", 1)]);
    let run = sdk(Plant::NoHistory, CUT);
    assert_eq!(run.code, Some(1), "{run:?}");
    let silent = run.count("lost silently");
    assert!(silent > 0, "{run:?}");
    let all = 6 * run.count("published");
    assert_eq!(run.count("delivered") + silent, all, "{run:?}");
}

#[test]
fn what_is_not_recovered_is_told() {
    let run = sdk(Plant::ReplayTold { short_by: 0 }, CALM);
    run.assert(0, &[]);
    assert!(run.count("lost and told") > 2, "{run:?}");
    let run = sdk(Plant::NewEpoch, CALM);
    run.assert(0, &[]);
    assert_eq!(run.count("resumes"), 4, "{run:?}");
    // Who begins anew too early has a hole behind its beginning.
    sdk(Plant::ReplayTold { short_by: 2 }, CALM).assert(1, &[("lost silently", 2)]);
}

#[test]
fn skips_are_told_by_messages() {
    let run = sdk(Plant::Skip { told: 3 }, CALM);
    run.assert(0, &[]);
    assert_eq!(run.count("lost and told"), 3, "{run:?}");
    sdk(Plant::Skip { told: 2 }, CALM).assert(1, &[("lost silently", 1)]);
    sdk(Plant::Skip { told: 4 }, CALM).assert(1, &[("contradicted", 1)]);
}

#[test]
fn who_is_unsubscribed_comes_back_or_stays_away_by_the_code() {
    let run = sdk(Plant::Unsubscribed { code: 2500 }, CALM);
    run.assert(0, &[]);
    assert_eq!(run.count("resumes"), 1, "{run:?}");
    assert_eq!(run.count("closed by server"), 0, "{run:?}");
    let told = "unsubscribed by server: 2500 said so (1)";
    assert!(run.stdout.contains(told), "{run:?}");
    for (plant, word) in [
        (Plant::Unsubscribed { code: 2499 }, "2499 said so"),
        (Plant::Terminal, "3503 force disconnect"),
    ] {
        let run = sdk(plant, CALM);
        run.assert(2, &[]);
        assert_eq!(run.count("members away"), 1, "{run:?}");
        assert!(run.stdout.contains(word), "{run:?}");
    }
}

#[test]
fn every_ping_is_answered_once() {
    let fake = Fake::start(Plant::Ping);
    let arguments = format!("--protocol centrifugo --secs 1 {CALM}");
    Run::of(&format!("--url {} {arguments}", fake.url())).assert(0, &[]);
    // Four members and two publishers.
    assert_eq!(fake.pings(), (6, 6));
}

#[test]
fn answers_to_publishers_are_held_against_what_members_receive() {
    // Answered, and never numbered.
    sdk(Plant::Swallowed, CALM).assert(1, &[("lost silently", 4)]);
    sdk(Plant::Unanswered, CALM).assert(1, &[("contradicted", 1)]);
    sdk(Plant::AnsweredTwice, CALM).assert(1, &[("contradicted", 1)]);
    for plant in [Plant::Refused, Plant::BrokenPublisher] {
        let run = sdk(plant, CALM);
        run.assert(0, &[]);
        let unacknowledged = run.count("unacknowledged");
        assert_eq!(unacknowledged, 1, "{run:?}");
        let acknowledged = run.count("published") - unacknowledged;
        assert_eq!(run.count("delivered"), 4 * acknowledged, "{run:?}");
    }
}

#[test]
fn who_is_not_let_in_by_commands_leaves_no_verdict() {
    let run = sdk(Plant::Shut, CUT);
    run.assert(2, &[]);
    assert!(run.count("members away") > 0, "{run:?}");
    assert!(run.stdout.contains("error 103 said so"), "{run:?}");
    let run = sdk(Plant::Closed, CALM);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("error 103 said so"), "{run:?}");
}

#[test]
fn nobody_there_is_an_error_of_its_own() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound listener");
    drop(listener);
    let run = Run::of(&format!("--url ws://{addr}/ws {CALM}"));
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("refused"), "{run:?}");
}

#[test]
fn wrong_options_are_named() {
    for (arguments, word) in [
        ("", "--url"),
        ("--url wss://localhost/ws", "not supported yet"),
        ("--url ws://localhost/ws --rooms 9", "--rooms"),
        ("--url ws://localhost/ws --members none", "--members"),
    ] {
        let run = Run::of(arguments);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.stderr.contains(word), "{run:?}");
    }
}

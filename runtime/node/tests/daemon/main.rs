//! Nodes in this process, with real workers: each test starts its own cluster on loopback.
//!
//! This program plays several parts: the tests and their nodes, the nodes' wardens, and the workers that they start. It
//! has no harness, because a warden and a worker are known before anything else of a program runs.

mod clusters;
mod far;
mod one_node;
mod refusals;
mod stage;
mod submitted;
mod two_nodes;

use std::process::ExitCode;
use std::time::Instant;

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("a_task_goes_to_a_worker_and_its_answer_comes_back", one_node::task),
    ("a_killed_worker_is_told_with_its_cause", one_node::killed),
    ("a_driver_that_goes_takes_its_workers_with_it", one_node::driver_gone),
    ("what_does_not_fit_waits_and_says_why", one_node::waits),
    ("names_and_values_are_kept_by_the_head", one_node::names_and_values),
    ("what_goes_nowhere_is_in_the_status_with_its_cause", one_node::lost),
    ("placement_groups_have_what_they_have_reserved", one_node::placement_groups),
    ("strangers_are_refused_with_what_would_be_right", refusals::strangers),
    ("a_second_node_in_one_folder_is_refused", refusals::same_folder),
    ("a_place_on_another_node_runs_the_same_program", two_nodes::elsewhere),
    ("a_program_runs_where_it_can_and_waits_with_the_reason", two_nodes::platforms),
    ("a_list_says_who_is_silent", two_nodes::silent),
    ("the_death_of_a_far_worker_is_told", two_nodes::far_death),
    ("names_are_seen_from_another_node", two_nodes::names),
    ("a_node_that_stops_is_told_to_all", two_nodes::node_stops),
    ("a_drained_node_takes_nothing_and_ends", clusters::drained),
    ("a_token_is_good_once", clusters::tokens),
    ("a_head_that_was_stopped_starts_at_its_port_at_once", clusters::started_again),
    ("a_head_at_any_port_is_found_on_its_host", clusters::any_port),
    ("the_state_shows_every_node", clusters::state),
    ("a_node_with_many_names_registers_again", clusters::names),
    ("a_certificate_is_renewed_without_a_restart", clusters::renewed),
    ("a_node_without_its_head_fences_itself", clusters::fenced),
    ("a_driver_on_another_host_runs_tasks", far::runs),
    ("a_program_that_is_not_what_was_said_is_not_kept", far::another_program),
    ("who_may_not_submit_is_refused_and_counted", far::roles),
    ("a_far_driver_resumes_and_nothing_is_lost", far::cut_for_a_while),
    ("a_far_driver_that_stays_away_ends_its_job", far::cut_for_good),
    ("a_killed_far_driver_takes_its_job_with_it", far::killed),
    ("the_command_line_asks_from_another_host", far::tool),
    ("a_certificate_from_another_host_is_renewed_without_a_token", far::renewed),
    ("a_submitted_driver_gets_the_job_that_was_made_for_it", submitted::first_driver),
];

fn main() -> ExitCode {
    if let Some(code) = mobula_node::daemon::workers::warden::run_if_warden() {
        return code;
    }
    match mobula_node::daemon::workers::guard::enter() {
        Ok(Some(role)) => return stage::work(&role),
        Ok(None) => {}
        Err(error) => {
            eprintln!("no worker: {error}");
            return ExitCode::from(3);
        }
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == submitted::DRIVE) {
        return submitted::drive();
    }
    let filter = words.iter().find(|word| !word.starts_with('-'));
    let chosen = TESTS.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())));
    if words.iter().any(|word| word == "--list") {
        chosen.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut count = 0;
    for (name, test) in chosen {
        let began = Instant::now();
        test();
        println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
        count += 1;
    }
    println!("\ntest result: ok. {count} passed; 0 failed");
    ExitCode::SUCCESS
}

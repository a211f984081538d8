//! A program that a node runs as a driver: which job it gets, and that it ends when it ends by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use mobula_node::daemon::SOCKET;
use mobula_types::state::{LogPart, SubmissionStatus};
use mobula_wire::local::ToolQuestion;

use crate::stage::{Driver, ask, head, play};

/// The word that makes this program a driver that begins two sessions and says who it is in each.
pub(crate) const DRIVE: &str = "drive";

/// What the driver ends with, long after its sessions.
const CODE: u8 = 5;

/// The driver.
pub(crate) fn drive() -> ExitCode {
    let folder = PathBuf::from(std::env::var_os("MOBULA_ADDRESS").expect("the node says where it is"));
    play(async {
        for _ in 0..2 {
            let driver = Driver::attach_at(&folder.join(SOCKET)).await;
            println!("{} {}", driver.welcome.process, driver.welcome.job);
        }
    });
    // Longer than what is left of a job has to end by itself: the end of a session is not the end of the program.
    std::thread::sleep(Duration::from_millis(1_500));
    ExitCode::from(CODE)
}

pub(crate) fn first_driver() {
    play(async {
        let folder = tempfile::tempdir().unwrap();
        let node = head(folder.path(), 1).await;
        let exe = std::env::current_exe().unwrap();
        // A shell around it, as scripts are.
        let script = format!("{} {DRIVE}; exit $?", exe.display());
        let question = ToolQuestion::Submit {
            program: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script],
            working_dir: folder.path().display().to_string(),
            env: BTreeMap::new(),
        };
        let submitted: SubmissionStatus = serde_json::from_str(&ask(&node, question).await.unwrap()).unwrap();
        let (process, job) = (submitted.process_id, submitted.job_id);
        let ended = loop {
            let question = ToolQuestion::Submission { process: process.clone() };
            let status: SubmissionStatus = serde_json::from_str(&ask(&node, question).await.unwrap()).unwrap();
            if status.state == "ended" {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let question = ToolQuestion::Logs { id: format!("{process}.out"), offset: 0 };
        let log: LogPart = serde_json::from_str(&ask(&node, question).await.unwrap()).unwrap();
        let lines: Vec<&str> = log.text.lines().collect();
        assert_eq!(ended.exit_code, Some(CODE.into()), "{ended:?} {lines:?}");
        assert_eq!(lines.first(), Some(&format!("{process} {job}").as_str()), "the job that was made for it");
        let second = lines.get(1).expect("two sessions");
        assert!(!second.starts_with(&format!("{process} ")) && !second.ends_with(&job), "{second}");
        node.stop().await;
    });
}

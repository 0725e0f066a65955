//! Tests that need a process of their own.

use std::process::Command;

/// Runs an ignored test in another process with these variables and returns what it prints.
#[track_caller]
pub fn passes_alone(test: &str, variables: &[(&str, &str)]) -> String {
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success() && text.contains("1 passed"), "{ran:?}");
    text
}

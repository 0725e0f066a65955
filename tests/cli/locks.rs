//! Two processes and one folder.

use super::*;

#[test]
fn a_second_training_in_a_folder_is_refused() {
    let data = &shared().data;
    let out = TempDir::new().unwrap();
    let steps = || fs::read_to_string(out.path().join("training.csv")).unwrap_or_default();
    let mut first = train(data, out.path(), 100_000);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while steps().lines().count() < 3 {
        assert!(first.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let says = [out.path().to_str().unwrap(), "another process is writing here; wait for it"];
    let before = steps();
    let mut refusals = 0;
    for resume in [&[][..], &["--resume"]] {
        train(data, out.path(), 5).args(resume).run().refused(&says);
        refusals += 1;
    }
    program("quickstart").arg("--out").arg(out.path()).run().refused(&says);
    refusals += 1;
    // The first did not notice.
    assert!(first.try_wait().unwrap().is_none());
    assert!(steps().starts_with(&before));

    // A kill leaves no one behind who is still waited for.
    first.kill().unwrap();
    first.wait().unwrap();
    train(data, out.path(), 3).run().expect(0);
    assert!(!cfg!(unix) || !out.path().join(".lock").exists());
    println!("| a second training in a folder | {refusals} started | {refusals} refused | 0 | 0 |");
}

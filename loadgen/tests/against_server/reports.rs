//! Files that a run writes, conditions that fail it, and two runs side by side.

use std::fs;

use crate::process::Site;

const LOAD: [&str; 4] = ["--count", "20", "--connections", "2"];

#[test]
fn json_percentiles_and_page_tell_of_the_same_run() {
    let site = Site::new();
    let (json, hgrm, html) = (site.path("a.json"), site.path("a.hgrm"), site.path("a.html"));
    let process = site.process().to_string();
    let files = ["--json", &json, "--hgrm", &hgrm, "--html", &html, "--server-pid", &process];
    let ended = site.run(&[&LOAD[..], &files].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(report["total"]["acknowledged"], 20);
    assert!(report["server"]["resident_bytes_max"].as_u64().unwrap() > 1 << 20, "{report}");
    let percentiles = fs::read_to_string(hgrm).unwrap();
    assert!(percentiles.contains("Total count    =           20]"), "{percentiles}");
    let page = fs::read_to_string(html).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"), "{page}");
    assert!(page.contains("full-resumed") && page.contains("<svg"), "{page}");
    assert!(!page.contains("<script src") && !page.contains("<link "), "a page stands alone");
}

#[test]
fn a_condition_that_holds_sets_the_exit_code_and_is_named() {
    let site = Site::new();
    let run = |condition: &str| site.run(&[&LOAD[..], &["--fail-if", condition]].concat());
    let met = run("max>0ms");
    assert_eq!(met.code, 1, "{met:?}");
    assert!(met.out.contains("FAILED: max>0ms"), "{}", met.out);
    assert_eq!(run("errors>0").code, 0);
    assert_eq!(run("full-resumed:messages<20").code, 0);
}

#[test]
fn two_runs_are_shown_side_by_side() {
    let site = Site::new();
    let before = site.path("before.json");
    assert_eq!(site.run(&[&LOAD[..], &["--json", &before]].concat()).code, 0);
    let ended = site.run(&[&LOAD[..], &["--compare-to", &before]].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("before"), "{}", ended.out);
}

#[test]
fn a_report_that_is_none_is_refused_before_the_run() {
    let site = Site::new();
    let other = site.path("password");
    let ended = site.run(&[&LOAD[..], &["--compare-to", &other]].concat());
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.out.is_empty() && ended.err.contains("this is no report"), "{ended:?}");
}

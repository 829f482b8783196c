//! Holds every crate that can come into a binary to the licences that `deny.toml` allows. `cargo deny` checks more than this,
//! and is not on every machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Is the expression (SPDX, or the older form with slashes) met by allowed licences alone? Without alternatives that are
/// nested in others, which no crate of the tree has.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let is_allowed = |name: &str| allowed.iter().any(|allowed| allowed == name.trim().trim_end_matches('+'));
    let expression = expression.replace('/', " OR ");
    let any_of = |group: &str| group.trim_matches(['(', ')']).split(" OR ").any(is_allowed);
    expression.split(" AND ").all(any_of)
}

fn words(list: &toml::Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_crate_has_a_licence_that_is_allowed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let deny: toml::Table = std::fs::read_to_string(root.join("deny.toml")).unwrap().parse().unwrap();
    let allowed = words(&deny["licenses"]["allow"]);
    let exceptions = deny["licenses"]["exceptions"].as_array().unwrap();
    let allowed_for = |name: &str| {
        let own = exceptions.iter().filter(|exception| exception["crate"].as_str() == Some(name));
        let own = own.flat_map(|exception| words(&exception["allow"]));
        allowed.iter().cloned().chain(own).collect::<Vec<_>>()
    };
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "only {} crates were found", packages.len());
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let expression = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(is_met(expression, &allowed_for(name)), "{name}: {expression} is not in deny.toml");
    }
}

#[test]
fn an_expression_is_met_by_one_of_its_alternatives_and_by_all_of_its_parts() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for expression in ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "MIT AND ISC", "(MIT OR GPL-3.0) AND ISC"] {
        assert!(is_met(expression, &allowed), "{expression}");
    }
    for expression in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0"] {
        assert!(!is_met(expression, &allowed), "{expression}");
    }
}

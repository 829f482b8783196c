//! A scanner's view of TLS: that nothing old, weak or needlessly dear can be agreed, over STARTTLS and over implicit TLS.
//!
//! sslscan looks from outside, with a TLS library of its own, at what a server takes. Where it is missing, its test is
//! skipped; the matrix of `openssl s_client` asks for each thing by name.

use std::process::Command;

use crate::process::{Site, run_with_input};
use crate::{Tls, is_there, port, s_client, words};

#[test]
fn sslscan_finds_nothing_old_or_weak() {
    if !is_there("sslscan", "sslscan") {
        return;
    }
    let site = Site::new();
    let server = site.serve(&[]);
    for tls in [Tls::Implicit, Tls::Starttls] {
        let mut command = Command::new("sslscan");
        command.args(["--no-colour", "--xml=-"]);
        command.args((tls == Tls::Starttls).then_some("--starttls-smtp"));
        let output = command.arg(format!("127.0.0.1:{}", port(&server, tls))).output().unwrap();
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", words(&output));
        let enabled = |version: &str| page.contains(&format!("type=\"{version}\" enabled=\"1\""));
        let has = |version: (&str, &str)| {
            page.contains(&format!("<protocol type=\"{}\" version=\"{}\" enabled=\"1\"", version.0, version.1))
        };
        assert!(!enabled("ssl") && !has(("tls", "1.0")) && !has(("tls", "1.1")), "{page}");
        assert!(has(("tls", "1.2")) && has(("tls", "1.3")), "{page}");
        assert!(page.contains("<renegotiation supported=\"0\""), "{page}");
        assert!(!page.contains("<compression supported=\"1\""), "{page}");
        assert!(!page.contains("vulnerable=\"1\""), "{page}");
        let suites: Vec<&str> = page
            .lines()
            .filter(|line| line.contains("<cipher ") && line.contains("sslversion="))
            .filter_map(|line| line.split_once("cipher=\"")?.1.split_once('"').map(|(suite, _)| suite))
            .collect();
        assert!(!suites.is_empty(), "{page}");
        for suite in suites {
            let is_ours =
                ["AES128-GCM-SHA256", "AES_128_GCM_SHA256", "CHACHA20"].iter().any(|name| suite.contains(name));
            assert!(is_ours && (suite.starts_with("TLS_") || suite.starts_with("ECDHE-")), "{suite}: {page}");
        }
    }
    server.stop(&site);
}

#[test]
fn openssl_agrees_on_what_is_offered_and_on_nothing_else() {
    if !is_there("openssl", "openssl") {
        return;
    }
    let offered: &[&[&str]] = &[
        &["-tls1_3"],
        &["-tls1_2"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        &["-tls1_3", "-groups", "X25519"],
        &["-tls1_3", "-groups", "P-256"],
        &["-tls1_3", "-groups", "P-521:P-256"],
    ];
    let refused: &[&[&str]] = &[
        &["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"],
        &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES128-SHA:DHE-RSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-NULL-SHA:AECDH-NULL-SHA:@SECLEVEL=0"],
        &["-tls1_3", "-groups", "P-384"],
        &["-tls1_3", "-groups", "P-521"],
        &["-tls1_2", "-curves", "P-384"],
    ];
    let site = Site::new();
    let server = site.serve(&[]);
    for tls in [Tls::Implicit, Tls::Starttls] {
        for (arguments, is_offered) in offered.iter().map(|a| (a, true)).chain(refused.iter().map(|a| (a, false))) {
            let mut command = s_client(&site, tls, port(&server, tls));
            let output = run_with_input(command.args(*arguments).arg("-ign_eof"), b"QUIT\n");
            assert_eq!(output.status.success(), is_offered, "{arguments:?}: {}", words(&output));
        }
    }
    server.stop(&site);
}

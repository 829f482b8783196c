//! The packets of one submission over a link with a real delay: needs root and /dev/net/tun, and says so where they are not.

use std::path::Path;

use crate::process::{USER, directory_with_users, generator, server_program};

/// Is a link with a real delay to be had here?
fn may_make_links() -> bool {
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let may = is_root && Path::new("/dev/net/tun").exists();
    if !may {
        println!("skipped: a real link needs root and /dev/net/tun");
    }
    may
}

#[test]
fn two_programs_meet_over_a_real_link_and_the_near_one_decides_how_it_ends() {
    if !may_make_links() {
        return;
    }
    let meet = r#"
        until python3 -c "import socket; socket.create_connection(('$LINK_FAR', 7), 1).close()" 2> /dev/null; do sleep 0.05; done
        echo "from $LINK_NEAR over $LINK_MS ms"
        exit 3"#;
    let far =
        r#"python3 -c "import socket; s = socket.create_server(('$LINK_FAR', 7)); [s.accept() for _ in iter(int, 1)]""#;
    let ended = generator(&["link", "--link", "20", "--far", far, "--", "sh", "-c", meet]);
    assert_eq!((ended.code, &*ended.out), (3, "from 198.18.0.1 over 20 ms\n"), "{ended:?}");
    let ended = generator(&["link", "--far", "true", "--", "/nonexistent/program"]);
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.err.contains("cannot start /nonexistent/program"), "{ended:?}");
}

#[test]
fn on_a_real_link_mail_is_in_the_packet_that_the_draft_counts() {
    if !may_make_links() {
        return;
    }
    let directory = directory_with_users(&[]);
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for (scenario, tls, packet) in
        [("esmtp", "1.2", 9), ("basic", "1.2", 5), ("basic", "1.3", 4), ("full-resumed", "1.3", 3)]
    {
        let ended = generator(
            &[
                &["ladder", "--scenario", scenario, "--tls", tls, "--link", "20", "--user", USER][..],
                &[
                    "--password-file",
                    &path("password"),
                    "--",
                    &server_program(),
                    "serve",
                    "--state-dir",
                    &path("state"),
                ],
                &["--listen", "0.0.0.0:2587", "--listen-tls", "0.0.0.0:2465", "--shards", "1", "--log-level", "error"],
            ]
            .concat(),
        );
        assert_eq!(ended.code, 0, "{scenario}: {ended:?}");
        let count = format!("MAIL in the client's packet {packet};");
        assert!(ended.out.contains(&count), "{scenario} with TLS {tls}: {}", ended.out);
    }
}

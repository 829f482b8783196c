//! The users file of any text.
//!
//! Promises: what is read is written so that it reads the same; users can be replaced and removed one by one; an error
//! says a line of the file.

use onetrip::auth::users::{Put, Users};

/// See the [module](self).
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut users = match Users::parse(text) {
        Ok(users) => users,
        Err(error) => {
            assert!((1..=text.lines().count()).contains(&error.line));
            assert!(!error.to_string().contains('\n'), "{error}");
            return;
        }
    };
    let written = users.render();
    // A last line that ends in CR alone gets its LF, and then ends in both; a comma after the last sender is left out.
    let lines = |text: &str| text.lines().map(|line| line.trim_end_matches(['\r', ',']).to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(&written), lines(text), "a line was altered");
    let again = Users::parse(&written).unwrap();
    assert!(again.iter().eq(users.iter()));
    let all: Vec<_> = users.iter().cloned().collect();
    for user in &all {
        assert_eq!(users.put(user.clone()), Put::Replaced);
        assert_eq!(users.find(&user.member.name), Some(user));
    }
    for (gone, user) in all.iter().enumerate() {
        assert!(users.remove(&user.member.name) && !users.remove(&user.member.name));
        assert_eq!(users.len(), all.len() - gone - 1);
    }
    assert!(users.is_empty());
}

//! The server's half of SASL PLAIN (RFC 4616) and LOGIN, from Base64 to a [`Credential`].

use data_encoding::BASE64;

use super::credential::{Credential, Mechanism};
use super::secret::Secret;
use crate::limits::{PASSWORD_BYTES_MAX, USER_NAME_BYTES_MAX};

/// Why a response is not a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadResponse {
    /// It cannot be decoded, or is not what the mechanism defines.
    Malformed,
    /// It asks to act as somebody else (RFC 4616 §2), which nobody may.
    Impersonation,
}

impl Mechanism {
    /// The mechanism of that name, if it is offered. Names are in capitals (RFC 4422 §3.1), but some clients write
    /// them otherwise.
    pub fn named(name: &[u8]) -> Option<Self> {
        [Self::Plain, Self::Login].into_iter().find(|mechanism| mechanism.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// Reads the one message of PLAIN: `authzid NUL authcid NUL password`, in Base64.
pub fn plain(response: &[u8]) -> Result<Credential, BadResponse> {
    let message = decode(response)?;
    let mut parts = message.expose().split(|byte| *byte == 0);
    let (Some(acting_as), Some(user), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadResponse::Malformed);
    };
    if !acting_as.is_empty() && acting_as != user {
        return Err(BadResponse::Impersonation);
    }
    Ok(Credential { mechanism: Mechanism::Plain, user: user_name(user)?, password: checked_password(password)? })
}

/// Reads LOGIN's first answer, the user name.
pub fn login_user(response: &[u8]) -> Result<String, BadResponse> {
    user_name(decode(response)?.expose())
}

/// Reads LOGIN's second answer, the password.
pub fn login_password(user: String, response: &[u8]) -> Result<Credential, BadResponse> {
    let password = checked_password(decode(response)?.expose())?;
    Ok(Credential { mechanism: Mechanism::Login, user, password })
}

/// Base64; `=` stands for an empty response (RFC 4954 §4).
fn decode(response: &[u8]) -> Result<Secret<Vec<u8>>, BadResponse> {
    if response == b"=" {
        return Ok(Secret::default());
    }
    BASE64.decode(response).map(Secret::new).map_err(|_| BadResponse::Malformed)
}

fn user_name(bytes: &[u8]) -> Result<String, BadResponse> {
    let name = std::str::from_utf8(bytes).map_err(|_| BadResponse::Malformed)?;
    let in_bounds = (1..=USER_NAME_BYTES_MAX).contains(&name.len());
    if in_bounds && !name.contains(char::is_control) { Ok(name.to_owned()) } else { Err(BadResponse::Malformed) }
}

fn checked_password(bytes: &[u8]) -> Result<Secret<Vec<u8>>, BadResponse> {
    let in_bounds = (1..=PASSWORD_BYTES_MAX).contains(&bytes.len());
    if in_bounds { Ok(Secret::new(bytes.to_vec())) } else { Err(BadResponse::Malformed) }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;

    use super::{BadResponse, login_password, login_user, plain};
    use crate::proto::credential::Mechanism;

    fn plain_of(message: &[u8]) -> Result<(String, Vec<u8>), BadResponse> {
        plain(BASE64.encode(message).as_bytes()).map(|c| (c.user.clone(), c.password.expose().clone()))
    }

    #[test]
    fn plain_carries_a_user_and_a_password() {
        assert_eq!(plain_of(b"\0ann\0secret"), Ok(("ann".to_owned(), b"secret".to_vec())));
        assert_eq!(plain_of(b"ann\0ann\0secret"), Ok(("ann".to_owned(), b"secret".to_vec())));
    }

    #[test]
    fn plain_refuses_what_is_not_a_claim_of_ones_own() {
        assert_eq!(plain_of(b"bob\0ann\0secret"), Err(BadResponse::Impersonation));
        for bad in [&b""[..], b"\0ann", b"\0\0secret", b"\0ann\0", b"\0ann\0a\0b", b"\0a\nb\0c", b"\0\xff\0c"] {
            assert_eq!(plain_of(bad), Err(BadResponse::Malformed), "{bad:?}");
        }
        assert_eq!(plain(b"not base64!").err(), Some(BadResponse::Malformed));
        assert_eq!(plain(b"=").err(), Some(BadResponse::Malformed));
        let long = [b"\0ann\0".as_slice(), &vec![b'x'; 1_025]].concat();
        assert_eq!(plain_of(&long), Err(BadResponse::Malformed));
    }

    #[test]
    fn login_asks_twice() {
        let user = login_user(BASE64.encode(b"ann").as_bytes()).unwrap();
        let credential = login_password(user, BASE64.encode(b"secret").as_bytes()).unwrap();
        assert_eq!((credential.user.as_str(), credential.mechanism), ("ann", Mechanism::Login));
        assert_eq!(credential.password.expose(), b"secret");
        assert!(login_user(b"=").is_err());
    }

    #[test]
    fn mechanisms_are_found_in_any_case_and_no_others() {
        assert_eq!(Mechanism::named(b"plain"), Some(Mechanism::Plain));
        assert_eq!(Mechanism::named(b"LOGIN"), Some(Mechanism::Login));
        assert_eq!(Mechanism::named(b"CRAM-MD5"), None);
    }
}

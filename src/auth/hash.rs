//! Passwords as they are stored: argon2id in the PHC string format, made and compared.
//!
//! It must not run on a shard (about 20 ms and 19 MiB of memory for one password), and it must not tell by its time
//! whether a user exists.

use std::fmt;
use std::sync::Arc;

use argon2::password_hash::{Output, ParamsString, Salt, SaltString, Value};
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordVerifier, Version};

use super::users::Users;
use crate::limits;
use crate::proto::credential::{Credential, Member};

/// A password's hash, known to be one that can be compared at a bearable cost.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredHash(Box<str>);

/// Why a text is no [`StoredHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashError {
    /// Not `$argon2id$v=19$m=…,t=…,p=…$SALT$HASH`.
    NotArgon2,
    /// Comparing it would take more memory or more passes than [`limits::HASH_MEMORY_KIB_MAX`] and
    /// [`limits::HASH_WORK_KIB_MAX`] allow.
    TooDear,
}

impl StoredHash {
    /// Reads a PHC string. Argon2i and argon2d are read too, so that hashes made elsewhere can be brought along.
    ///
    /// # Errors
    /// [`HashError`], with the remedy in its text.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let hash = PasswordHash::new(text).map_err(|_| HashError::NotArgon2)?;
        Algorithm::try_from(hash.algorithm).map_err(|_| HashError::NotArgon2)?;
        hash.version.map(Version::try_from).transpose().map_err(|_| HashError::NotArgon2)?;
        // Asked first: what comes next multiplies the lanes before it asks how many there are.
        if has_too_many_lanes(&hash) {
            return Err(HashError::NotArgon2);
        }
        let params = Params::try_from(&hash).map_err(|_| HashError::NotArgon2)?;
        if hash.hash.is_none() || !hash.salt.is_some_and(is_long_enough) {
            return Err(HashError::NotArgon2);
        }
        if params.m_cost() > limits::HASH_MEMORY_KIB_MAX || work_kib(&params) > limits::HASH_WORK_KIB_MAX {
            return Err(HashError::TooDear);
        }
        Ok(Self(text.into()))
    }

    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Memory written while comparing, in KiB: what the time goes by.
    pub(super) fn work_kib(&self) -> u64 {
        Params::try_from(&self.parsed()).map_or(0, |params| work_kib(&params))
    }

    /// A hash that costs the same to compare as this one and that no password is known for.
    pub(super) fn decoy(&self) -> Self {
        let original = self.parsed();
        let nobody = Output::new(&DECOY_OUTPUT[..original.hash.map_or(DECOY_OUTPUT.len(), |output| output.len())]);
        Self(PasswordHash { hash: nobody.ok().or(original.hash), ..original }.to_string().into())
    }

    fn matches(&self, password: &[u8]) -> bool {
        Argon2::default().verify_password(password, &self.parsed()).is_ok()
    }

    fn parsed(&self) -> PasswordHash<'_> {
        PasswordHash::new(&self.0).expect("checked when it was read")
    }
}

impl Default for StoredHash {
    /// A hash with the recommended parameters that no password is known for.
    fn default() -> Self {
        let salt = SaltString::encode_b64(&[0; limits::HASH_SALT_BYTES]).expect("16 bytes are a salt");
        Self(phc_string(&salt, Output::new(&DECOY_OUTPUT[..HASH_BYTES]).expect("32 bytes are a hash")))
    }
}

impl fmt::Debug for StoredHash {
    /// Prints dots: a log is no place for what can be cracked at leisure.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredHash(…)")
    }
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotArgon2 => f.write_str(
                "the password is not an argon2 hash ($argon2id$v=19$m=…,t=…,p=…$SALT$HASH); \
                 set it anew with `onetrip user add`",
            ),
            Self::TooDear => f.write_str(
                "the password hash takes too much memory or too many passes to compare; \
                 set it anew with `onetrip user add`",
            ),
        }
    }
}

impl std::error::Error for HashError {}

/// Hashes a password with argon2id, 19 MiB, 2 passes, 1 lane: the first choice of the OWASP Password Storage Cheat
/// Sheet. `salt` is to be drawn at random for each password (RFC 9106 §3.1 recommends 16 bytes).
pub fn hash(password: &[u8], salt: [u8; limits::HASH_SALT_BYTES]) -> StoredHash {
    let mut output = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, recommended())
        .hash_password_into(password, &salt, &mut output)
        .expect("constant parameters, and a password below 4 GiB");
    let salt = SaltString::encode_b64(&salt).expect("16 bytes are a salt");
    StoredHash(phc_string(&salt, Output::new(&output).expect("32 bytes are a hash")))
}

/// Judges a credential; `None` is "wrong password, or no such user".
///
/// A user that does not exist costs as much as the dearest one that does, so that the time tells nothing. (Where the
/// file mixes hashes of different cost, those who have a cheaper one can be told from the rest.)
pub fn verify(users: &Users, credential: &Credential) -> Option<Arc<Member>> {
    let user = users.find(&credential.user);
    let stored = user.map_or(users.decoy(), |user| &user.hash);
    let matches = stored.matches(credential.password.expose());
    user.filter(|_| matches).map(|user| Arc::clone(&user.member))
}

fn phc_string(salt: &SaltString, output: Output) -> Box<str> {
    let params = ParamsString::try_from(&recommended()).expect("constant parameters");
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params,
        salt: Some(salt.as_salt()),
        hash: Some(output),
    };
    hash.to_string().into()
}

fn recommended() -> Params {
    Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES)).expect("constant parameters")
}

/// A hash with a shorter salt could be read, but never be compared: its user would be locked out without a word.
fn is_long_enough(salt: Salt<'_>) -> bool {
    salt.decode_b64(&mut [0; Salt::MAX_LENGTH]).is_ok_and(|bytes| bytes.len() >= argon2::MIN_SALT_LEN)
}

/// A parameter may stand there more than once.
fn has_too_many_lanes(hash: &PasswordHash<'_>) -> bool {
    let too_many = |value: Value<'_>| value.decimal().is_ok_and(|lanes| lanes > Params::MAX_P_COST);
    hash.params.iter().any(|(name, value)| name.as_str() == "p" && too_many(value))
}

fn work_kib(params: &Params) -> u64 {
    u64::from(params.m_cost()) * u64::from(params.t_cost())
}

const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const HASH_BYTES: usize = 32;

/// Nobody's hash. It need not be secret: finding a password for it would be a preimage, and [`verify`] would refuse
/// even that.
const DECOY_OUTPUT: [u8; Output::MAX_LENGTH] = [0; Output::MAX_LENGTH];

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{HashError, StoredHash, hash, verify};
    use crate::auth::users::{User, Users};
    use crate::limits;
    use crate::proto::credential::{Credential, Mechanism, Senders};
    use crate::proto::secret::Secret;

    /// "secret", with the least that argon2 allows, so that tests are quick.
    const CHEAP: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$";

    fn cheap(password: &str) -> StoredHash {
        use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version, password_hash::Salt};
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let hash = hasher.hash_password(password.as_bytes(), Salt::from_b64("c29tZXNhbHQ").unwrap()).unwrap();
        assert!(hash.to_string().starts_with(CHEAP));
        StoredHash::parse(&hash.to_string()).unwrap()
    }

    fn users(entries: &[(&str, StoredHash)]) -> Users {
        let mut users = Users::default();
        for (name, hash) in entries {
            users.put(User::new(name, hash.clone(), Senders::Any).unwrap());
        }
        users
    }

    fn credential(user: &str, password: &[u8]) -> Credential {
        Credential { mechanism: Mechanism::Plain, user: user.to_owned(), password: Secret::new(password.to_vec()) }
    }

    #[test]
    fn a_hash_has_the_recommended_parameters_and_is_matched_by_its_password_alone() {
        let stored = hash(b"correct horse", [7; limits::HASH_SALT_BYTES]);
        assert!(stored.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", stored.as_str());
        assert_eq!(StoredHash::parse(stored.as_str()), Ok(stored.clone()));
        assert!(stored.matches(b"correct horse"));
        assert!(!stored.matches(b"correct horse "));
    }

    #[test]
    fn a_user_is_verified_by_the_right_password_only() {
        let users = users(&[("ann", cheap("secret")), ("bob", cheap("other"))]);
        assert_eq!(verify(&users, &credential("ann", b"secret")).unwrap().name, "ann");
        for (user, password) in [("ann", "other"), ("ann", ""), ("Ann", "secret"), ("eve", "secret"), ("", "")] {
            assert_eq!(verify(&users, &credential(user, password.as_bytes())), None, "{user}");
        }
    }

    #[test]
    fn a_password_that_is_not_text_is_as_good_as_any() {
        let stored = hash(b"\xff\x00\xfe", [7; limits::HASH_SALT_BYTES]);
        assert!(verify(&users(&[("ann", stored)]), &credential("ann", b"\xff\x00\xfe")).is_some());
    }

    #[test]
    fn an_unknown_user_costs_as_much_as_the_dearest_known_one() {
        let dear = hash(b"secret", [7; limits::HASH_SALT_BYTES]);
        let users = users(&[("ann", cheap("secret")), ("bob", dear.clone()), ("eve", cheap("secret"))]);
        assert_eq!(users.decoy().work_kib(), dear.work_kib());
        assert_eq!(Users::default().decoy().work_kib(), dear.work_kib());
    }

    #[test]
    fn a_decoy_differs_from_its_model_in_the_output_only() {
        let model = cheap("secret");
        let decoy = model.decoy();
        assert!(decoy.as_str().starts_with(CHEAP));
        assert_eq!(decoy.as_str().len(), model.as_str().len());
        assert!(!decoy.matches(b"secret"));
    }

    #[test]
    fn what_is_no_argon2_hash_is_refused() {
        for text in [
            "",
            "secret",
            "$2b$12$KIXQ1vZ0kY9cJ1l8v5e5kO9x5c5r5t5y5u5i5o5p5a5s5d5f5g5h5",
            "$argon2id$v=19$m=8,t=1,p=1",
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=8,t=1,p=1$c29tZQ$WGlLPpgY0xJFWvaWMqxNYQ",
            "$argon2id$v=18$m=8,t=1,p=1$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ",
            "$argon2id$v=19$m=8,t=0,p=1$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ",
            "$argon2id$v=19$m=19456,t=2,p=1999999999$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ",
            "$argon2id$v=19$m=19456,t=2,p=1,p=536870913$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ",
            "$scrypt$ln=16,r=8,p=1$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ",
        ] {
            assert_eq!(StoredHash::parse(text), Err(HashError::NotArgon2), "{text}");
        }
    }

    #[test]
    fn a_hash_that_would_stall_the_service_is_refused() {
        for costs in ["m=1048577,t=1,p=1", "m=1048576,t=5,p=1", "m=8,t=4294967295,p=1"] {
            let text = format!("$argon2id$v=19${costs}$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ");
            assert_eq!(StoredHash::parse(&text), Err(HashError::TooDear), "{costs}");
        }
    }

    #[test]
    fn a_hash_never_prints() {
        assert_eq!(format!("{:?}", cheap("secret")), "StoredHash(…)");
    }

    /// A measurement: `cargo test --release --lib cost_of_a_hash -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement, not a proof"]
    fn cost_of_a_hash() {
        let users = users(&[("ann", hash(b"secret", [7; limits::HASH_SALT_BYTES]))]);
        for (user, password) in [("ann", "secret"), ("ann", "wrong"), ("nobody", "secret")] {
            let credential = credential(user, password.as_bytes());
            let started = Instant::now();
            for _ in 0..20 {
                verify(&users, &credential);
            }
            println!("{user} with {password}: {:?}", started.elapsed() / 20);
        }
    }
}

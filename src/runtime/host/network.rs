//! Addresses that are to be listened on, and Fast Open, tried on sockets of our own.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::check::facts::{AddressFacts, FastOpenTrial, Refused};
use crate::config::Config;
use crate::fast_open::carried_data;
use crate::runtime::listeners::{self, set_fast_open};

/// Every address of the configuration, bound for a moment.
pub(super) fn addresses(config: &Config) -> Vec<AddressFacts> {
    let listen = config.listen.iter().map(|listen| ("listen", listen.address));
    let listen_tls = config.listen_tls.iter().map(|listen| ("listen-tls", listen.address));
    let metrics = config.metrics.iter().map(|address| ("metrics", *address));
    let facts = |(flag, address)| {
        let bind = listeners::try_bind(address).map_err(|error| Refused::from(&error));
        AddressFacts { flag, address, bind }
    };
    listen.chain(listen_tls).chain(metrics).map(facts).collect()
}

/// Connects to ourselves twice: the first connection earns a cookie, the second may bring its data in the SYN.
pub(super) fn try_fast_open() -> FastOpenTrial {
    let listener = match fast_open_listener() {
        Ok(listener) => listener,
        Err(Trouble::Option(error)) => return FastOpenTrial::OptionRefused(Refused::from(&error)),
        Err(Trouble::Other(error)) => return FastOpenTrial::Unknown(error.to_string()),
    };
    match connect(&listener).and_then(|_| connect(&listener)) {
        Ok(true) => FastOpenTrial::Carried,
        Ok(false) => FastOpenTrial::NotCarried,
        Err(error) => FastOpenTrial::Unknown(error.to_string()),
    }
}

enum Trouble {
    /// The option itself was refused.
    Option(io::Error),
    /// It did not come so far.
    Other(io::Error),
}

fn fast_open_listener() -> Result<TcpListener, Trouble> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP)).map_err(Trouble::Other)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&address.into()).map_err(Trouble::Other)?;
    set_fast_open(&socket, QUEUE).map_err(Trouble::Option)?;
    socket.listen(BACKLOG).map_err(Trouble::Other)?;
    Ok(socket.into())
}

/// Was the byte that a new connection sends taken with its SYN?
fn connect(listener: &TcpListener) -> io::Result<bool> {
    let address = SockAddr::from(listener.local_addr()?);
    let client = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    client.set_write_timeout(Some(PATIENCE))?;
    client.send_to_with_flags(b"x", &address, libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL)?;
    let (mut server, _) = listener.accept()?;
    server.set_read_timeout(Some(PATIENCE))?;
    server.read_exact(&mut [0])?;
    carried_data(&client)
}

/// Two connections are made, one after the other.
const QUEUE: u32 = 2;

/// The same.
const BACKLOG: i32 = 2;

/// The loopback interface takes microseconds; a filter that swallows packets must not hold the check up for long.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::{addresses, try_fast_open};
    use crate::check::facts::FastOpenTrial;
    use crate::config::{Config, Flags, Host};

    #[test]
    fn data_in_a_syn_is_taken_exactly_where_the_kernel_lets_servers_take_it() {
        let bits: u64 = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap().trim().parse().unwrap();
        let expected = match bits & 3 {
            3 => FastOpenTrial::Carried,
            1 => FastOpenTrial::NotCarried,
            _ => return assert!(matches!(try_fast_open(), FastOpenTrial::Unknown(_))),
        };
        assert_eq!(try_fast_open(), expected);
    }

    #[test]
    fn an_address_is_free_again_after_it_was_tried_and_one_in_use_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let host = Host { name: "mail.example.org".to_owned(), cores: vec![0] };
        let config = Config::resolve(&Flags::of(&[("listen", &address)]), None, &host).unwrap();
        let facts = addresses(&config);
        assert_eq!(facts[0].bind.as_ref().unwrap_err().kind, std::io::ErrorKind::AddrInUse);
        drop(listener);
        assert_eq!(addresses(&config)[0].bind, Ok(()));
        assert_eq!(addresses(&config)[0].bind, Ok(()), "the trial left nothing behind");
    }
}

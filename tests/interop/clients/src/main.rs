//! Submits the message on standard input by one of two mail crates, as `tests/interop.rs` tells it to:
//!
//! `clients lettre|mail-send starttls|implicit HOST PORT USER PASSWORD SENDER RECIPIENT CERTIFICATE`

use std::error::Error;
use std::io::{self, Read};
use std::sync::Arc;

use lettre::Transport;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

struct Task {
    is_implicit: bool,
    host: String,
    port: u16,
    user: String,
    password: String,
    sender: String,
    recipient: String,
    certificate: String,
    message: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("an argument is missing");
    let program = next()?;
    let mut task = Task {
        is_implicit: next()? == "implicit",
        host: next()?,
        port: next()?.parse()?,
        user: next()?,
        password: next()?,
        sender: next()?,
        recipient: next()?,
        certificate: next()?,
        message: Vec::new(),
    };
    io::stdin().read_to_end(&mut task.message)?;
    match program.as_str() {
        "lettre" => lettre(&task),
        "mail-send" => tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(mail_send(&task)),
        _ => Err("lettre or mail-send".into()),
    }
}

fn lettre(task: &Task) -> Result<(), Box<dyn Error>> {
    let certificate = Certificate::from_pem(&std::fs::read(&task.certificate)?)?;
    let tls = TlsParameters::builder(task.host.clone()).add_root_certificate(certificate).build()?;
    let tls = if task.is_implicit { Tls::Wrapper(tls) } else { Tls::Required(tls) };
    let transport = lettre::SmtpTransport::builder_dangerous(&task.host)
        .port(task.port)
        .tls(tls)
        .credentials(Credentials::new(task.user.clone(), task.password.clone()))
        .build();
    let envelope = lettre::address::Envelope::new(Some(task.sender.parse()?), vec![task.recipient.parse()?])?;
    transport.send_raw(&envelope, &task.message)?;
    Ok(())
}

async fn mail_send(task: &Task) -> Result<(), Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&task.certificate)?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut builder = mail_send::SmtpClientBuilder::new(task.host.as_str(), task.port)
        .implicit_tls(task.is_implicit)
        .credentials((task.user.as_str(), task.password.as_str()));
    builder.tls_connector = TlsConnector::from(Arc::new(config));
    let message = mail_send::smtp::message::Message::new(
        task.sender.as_str(),
        [task.recipient.as_str()],
        task.message.as_slice(),
    );
    let mut client = builder.connect().await?;
    client.send(message).await?;
    client.quit().await?;
    Ok(())
}

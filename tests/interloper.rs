//! Somebody between a client and a server of whom neither knows: encrypted towards both, with a certificate of its own towards the
//! client.
//!
//! Also the tests of the crate `pool` use it.

use std::sync::Arc;

use pool::tls::{Tls, TlsOptions, Trust, certificates, private_key};
use pool::{Target, reach};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Pair;

/// Starts between clients and the server that listens on this port; the port for clients. It ends with the runtime.
pub(crate) async fn start(pair: &Pair, port: u16) -> u16 {
    let chain = certificates(pair.chain.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private_key(pair.key.as_bytes()).unwrap())
        .unwrap();
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, acceptor.clone(), port));
        }
    });
    address.port()
}

async fn pass(mut client: TcpStream, acceptor: TlsAcceptor, port: u16) -> std::io::Result<()> {
    // SSLRequest.
    client.read_exact(&mut [0; 8]).await?;
    client.write_all(b"S").await?;
    let mut client = acceptor.accept(client).await?;
    let mut server = reach(&target(port)).await.map_err(std::io::Error::other)?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

fn target(port: u16) -> Target {
    let options = TlsOptions {
        optional: false,
        trust: Trust::Anybody,
        roots: None,
        identity: None,
        versions: &[&TLS13, &TLS12],
        ciphers: &[],
    };
    Target {
        whereabouts: Default::default(),
        host: "127.0.0.1".to_owned(),
        port,
        user: String::new(),
        wallet: pool::Wallet::default(),
        database: String::new(),
        timeout: std::time::Duration::from_secs(60),
        keepalive: None,
        tls: Some(Tls::new(&options).unwrap()),
    }
}

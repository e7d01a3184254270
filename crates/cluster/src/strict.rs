//! Managers that trust nobody: what etcd and Patroni are told so that they want certificates, names and passwords.
//!
//! Owns their settings and the questions over TLS. Who signs what, the test says.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::programs::Programs;

/// What managers want to see of those who ask.
#[derive(Clone)]
pub struct Strict {
    /// The certificate that signs everybody's.
    pub ca: String,
    /// The managers' own certificate, for 127.0.0.1; without a common name, as etcd's gateway wants it. They show it to each other, too.
    pub chain: String,
    /// Its key.
    pub key: String,
    /// Shows a certificate that they believe.
    pub connector: TlsConnector,
    /// A name and a password: of etcd's root, of the user that Patroni is to etcd, and of whoever may tell Patroni what to do.
    pub login: [String; 2],
    /// Somebody who may only read Patroni's keys in etcd, and his password.
    pub reader: [String; 2],
    /// For how many seconds etcd remembers a login that is not made use of.
    pub token_seconds: u32,
}

impl Strict {
    pub(crate) fn write(&self, programs: &Programs, home: &Path) -> Result<()> {
        for (path, text) in files(home).iter().zip([&self.ca, &self.chain, &self.key]) {
            programs.write(path, text)?;
        }
        Ok(())
    }

    pub(crate) async fn connect(&self, port: u16) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        Ok(self.connector.connect(Ipv4Addr::LOCALHOST.into(), stream).await?)
    }

    pub(crate) fn etcd(&self, command: &mut Command, home: &Path) {
        let [ca, chain, key] = files(home);
        command.arg("--trusted-ca-file").arg(ca).arg("--cert-file").arg(chain).arg("--key-file").arg(key);
        command.args(["--client-cert-auth", "--auth-token-ttl", &self.token_seconds.to_string()]);
    }

    /// What `etcdctl` has to be told, and to whom it speaks; `known`: once there are users.
    pub(crate) fn etcdctl(&self, command: &mut Command, home: &Path, known: bool) {
        let [ca, chain, key] = files(home);
        command.arg("--cacert").arg(ca).arg("--cert").arg(chain).arg("--key").arg(key);
        if known {
            command.args(["--user", &format!("root:{}", self.login[1])]);
        }
    }

    /// What `etcdctl` is to do so that etcd has users.
    pub(crate) fn users(&self) -> Vec<Vec<String>> {
        let ([name, password], [reader, secret]) = (&self.login, &self.reader);
        [
            format!("user add root:{password}"),
            "user grant-role root root".to_owned(),
            format!("user add {name}:{password}"),
            "role add patroni".to_owned(),
            "role grant-permission patroni readwrite /service/ --prefix=true".to_owned(),
            format!("user grant-role {name} patroni"),
            format!("user add {reader}:{secret}"),
            "role add reader".to_owned(),
            "role grant-permission reader read /service/main/ --prefix=true".to_owned(),
            format!("user grant-role {reader} reader"),
            "auth enable".to_owned(),
        ]
        .iter()
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect()
    }

    /// What is added to Patroni's `restapi` and `etcd3`, and a section of its own for what Patroni asks of Patroni.
    pub(crate) fn patroni(&self, home: &Path) -> [String; 3] {
        let [ca, chain, key] = files(home).map(|path| path.display().to_string());
        let [name, password] = &self.login;
        let rest = format!(
            "  certfile: {chain}\n  keyfile: {key}\n  cafile: {ca}\n  verify_client: required\n  authentication: {{username: {name}, password: {password}}}\n"
        );
        let etcd = format!(
            "  protocol: https\n  cacert: {ca}\n  cert: {chain}\n  key: {key}\n  username: {name}\n  password: {password}\n"
        );
        [rest, etcd, format!("ctl:\n  cacert: {ca}\n  certfile: {chain}\n  keyfile: {key}\n")]
    }
}

impl std::fmt::Debug for Strict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Strict").finish_non_exhaustive()
    }
}

/// The authority's certificate, the managers' own, and its key.
fn files(home: &Path) -> [PathBuf; 3] {
    ["ca.crt", "managers.crt", "managers.key"].map(|name| home.join(name))
}

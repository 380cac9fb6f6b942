//! Whom to trust: the authorities of the machine, read when the first guest asks for https.
//!
//! SSL_CERT_FILE and SSL_CERT_DIR of the engine's environment name others.

use crate::traffic::connect::HTTP2;
use rustls::{ClientConfig, RootCertStore};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;
use wasmtime_wasi_http::Error;

/// What the links in directories of certificates lead to.
const LINKED: [&str; 2] = [
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

/// Where [`load`] looks, to be readable when it does: never directories that have private keys too.
pub fn places() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    let found = openssl_probe::probe();
    let mut places = vec![PathBuf::from(variable(openssl_probe::ENV_CERT_FILE))];
    places.extend(std::env::split_paths(&variable(
        openssl_probe::ENV_CERT_DIR,
    )));
    places.extend(found.cert_file);
    places.extend(openssl_probe::candidate_cert_dirs().map(PathBuf::from));
    places.extend(LINKED.map(PathBuf::from));
    places.retain(|it| !it.as_os_str().is_empty());
    places
}

/// The authorities of the machine.
#[derive(Default)]
pub struct Trust {
    config: OnceCell<Arc<ClientConfig>>,
}

impl Trust {
    /// How to speak TLS. Without an authority nobody can be trusted, which is looked at again the next time.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        let made = self.config.get_or_try_init(|| async {
            let loaded = tokio::task::spawn_blocking(load).await;
            loaded.unwrap_or(Err(Error::ConfigurationError))
        });
        made.await.cloned().map_err(|_| Error::ConfigurationError)
    }
}

fn load() -> Result<Arc<ClientConfig>, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::error!(errors = ?found.errors, "certificates of authorities are missing");
        return Err(Error::ConfigurationError);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::ConfigurationError)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

//! Who may use a cluster: passwords, certificates, and that nobody gets to see the former.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use esker::{Config, ErrorKind, Event, ScyllaConfig, ScyllaTier, Store, Stream};

use crate::node::Node;

const SECRET: &str = "c0rrect-h0rse";
const WRONG: &str = "wr0ng-st4ple";

/// Makes a key for the node and says where it is. Gives the certificate of its authority, in PEM.
fn make_certificate(dir: &Path, name: &str, address: &str) -> String {
    let store = dir.join(format!("{name}.p12"));
    let keytool = |arguments: &[&str]| {
        let output = Command::new("keytool")
            .args(arguments)
            .args([
                "-keystore",
                store.to_str().unwrap(),
                "-storetype",
                "PKCS12",
                "-storepass",
                "changeit",
                "-alias",
                "node",
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "keytool {arguments:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let name = format!("san={address}");
    keytool(&["-genkeypair", "-keyalg", "EC", "-dname", "CN=esker-test", "-ext", &name, "-validity", "2"]);
    keytool(&["-exportcert", "-rfc"])
}

fn try_it(config: &ScyllaConfig) -> esker::Result<()> {
    let tier = Arc::new(ScyllaTier::connect(config.clone())?);
    assert!(!format!("{tier:?}").contains(SECRET));
    let store = Store::builder(Config::builder().memory("16MiB").build()?).cold(tier).open()?;
    store.append(&Event::new(Stream::from(1), 1, 1, 1).payload(b"x"))?;
    store.flush(std::time::Duration::from_secs(60))?;
    store.close(std::time::Duration::from_secs(60))?;
    Ok(())
}

fn is_denied(config: &ScyllaConfig) {
    let error = try_it(config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    for text in [format!("{error}"), format!("{error:?}"), format!("{config:?}")] {
        assert!(!text.contains(SECRET) && !text.contains(WRONG), "a secret is shown: {text}");
    }
}

#[test]
fn wrong_passwords_and_wrong_certificates_are_denied_and_secrets_are_not_shown() {
    let keys = tempfile::tempdir().unwrap();
    let authority = make_certificate(keys.path(), "node", "ip:127.0.0.1");
    let other = make_certificate(keys.path(), "other", "ip:127.0.0.1");
    let (right, wrong) = (keys.path().join("right.pem"), keys.path().join("wrong.pem"));
    std::fs::write(&right, authority).unwrap();
    std::fs::write(&wrong, other).unwrap();
    let yaml = format!(
        "authenticator: PasswordAuthenticator\nauthorizer: CassandraAuthorizer\nclient_encryption_options:\n  \
         enabled: true\n  optional: true\n  keystore: {}\n  keystore_password: changeit\n  store_type: PKCS12",
        keys.path().join("node.p12").display()
    );
    let node = Node::start(&[("CASSANDRA_YAML", &yaml)]);
    let dir = tempfile::tempdir().unwrap();
    let config = node.config("access", dir.path());
    // The superuser that every new node has makes another one.
    let root = config.clone().user("cassandra", "cassandra").tls(&right);
    crate::common::wait_until("the node has its superuser", std::time::Duration::from_secs(60), || {
        ScyllaTier::connect(root.clone()).is_ok()
    });
    node.cql_with(
        |builder| builder.user("cassandra", "cassandra").tls_context(Some(trust(&right))),
        &[
            &format!("CREATE ROLE shop WITH PASSWORD = '{SECRET}' AND LOGIN = true"),
            "GRANT CREATE ON ALL KEYSPACES TO shop",
        ],
    );
    let user = config.clone().user("shop", SECRET);
    try_it(&user.clone().tls(&right)).unwrap();
    is_denied(&config.clone().user("shop", WRONG).tls(&right));
    is_denied(&config.clone().tls(&right));
    // The node would take a connection without TLS, but nobody has asked for one.
    is_denied(&user.clone().tls(&wrong));
    is_denied(&user.clone().tls(keys.path().join("nowhere.pem")));
    let logs = std::fs::read_to_string(node.dir().join("logs/system.log")).unwrap();
    assert!(!logs.contains(SECRET));
}

fn trust(authority: &Path) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

//! The connection to a cluster: a session of the driver, and statements prepared on it.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency as Level;
use scylla::statement::prepared::PreparedStatement;

use crate::config::ClassConfig;
use crate::error::{Error, ErrorKind};
use crate::tiers::scylla::config::{Consistency, ScyllaConfig, Tls};
use crate::tiers::scylla::errors::{self, Failure, Meaning};
use crate::tiers::scylla::schema;

/// Rows of a page where rows are small.
const SMALL_ROWS: i32 = 256;
/// Rows of a page where each may be a piece of a block.
const PIECE_ROWS: i32 = 4;

/// Statements for the tables of one class.
pub(crate) struct ClassStatements {
    pub(crate) put_piece: PreparedStatement,
    pub(crate) put_summary: PreparedStatement,
    pub(crate) put_period: PreparedStatement,
    pub(crate) put_removed: PreparedStatement,
    pub(crate) pieces: PreparedStatement,
    pub(crate) summaries: PreparedStatement,
    pub(crate) periods: PreparedStatement,
    pub(crate) removed: PreparedStatement,
}

/// All statements.
pub(crate) struct Statements {
    pub(crate) classes: Vec<ClassStatements>,
    pub(crate) namespace: PreparedStatement,
    pub(crate) first_namespace: PreparedStatement,
    pub(crate) put_namespace: PreparedStatement,
    pub(crate) more_classes: PreparedStatement,
    pub(crate) writers: PreparedStatement,
    pub(crate) first_writer: PreparedStatement,
    pub(crate) put_writer: PreparedStatement,
    pub(crate) names: PreparedStatement,
    pub(crate) put_name: PreparedStatement,
}

/// A session, and what is prepared on it.
pub(crate) struct Connected {
    pub(crate) session: Session,
    /// `None` before the tables are known to be there.
    pub(crate) statements: Option<Statements>,
    /// Asks a node for its generation, which is another after each start of its process.
    pub(crate) generation: PreparedStatement,
}

fn level(consistency: Consistency) -> Level {
    match consistency {
        Consistency::One => Level::One,
        Consistency::Two => Level::Two,
        Consistency::Quorum => Level::Quorum,
        Consistency::LocalQuorum => Level::LocalQuorum,
        Consistency::All => Level::All,
    }
}

/// Connects, and prepares what can be.
pub(crate) async fn connect(config: &ScyllaConfig, classes: Option<usize>) -> Result<Connected, Failure> {
    let mut balancing = DefaultPolicy::builder().token_aware(true).permit_dc_failover(true);
    if let Some(datacenter) = &config.datacenter {
        balancing = balancing.prefer_datacenter(datacenter.clone());
    }
    let profile = ExecutionProfile::builder()
        .consistency(level(config.consistency))
        .request_timeout(Some(config.request_timeout))
        .load_balancing_policy(balancing.build())
        // Trying again is this crate's own affair: it knows what can be.
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(config.connect_timeout)
        .keepalive_interval(Duration::from_secs(2))
        .keepalive_timeout(config.request_timeout.max(Duration::from_secs(1)))
        .fetch_schema_metadata(false);
    if let Some((user, password)) = &config.user {
        builder = builder.user(user, &password.0);
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(tls_context(tls)?));
    }
    // Resolving and connecting have no end of their own when packets are dropped.
    let limit = config.connect_timeout.saturating_mul(4);
    let session = match tokio::time::timeout(limit, builder.build()).await {
        Ok(session) => session.map_err(errors::of_connecting)?,
        Err(late) => return Err(Failure::new(Meaning::Away, "connect to", late)),
    };
    // Cassandra's driver answers once it knows the cluster, not once it has connections to speak of.
    let generation = prepare(
        &session,
        "SELECT host_id, gossip_generation FROM system.local WHERE key = 'local'",
        SMALL_ROWS,
    )
    .await?;
    let statements = match classes {
        Some(classes) => Some(prepare_all(&session, config, classes).await?),
        None => None,
    };
    Ok(Connected { session, statements, generation })
}

fn tls_context(tls: &Tls) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let fault = |text: String| Failure { meaning: Meaning::Away, error: Error::new(ErrorKind::Denied, text) };
    let read = |path: &std::path::Path| {
        let all = CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
        all.map_err(|error| fault(format!("cannot read the certificates of {}: {error}", path.display())))
    };
    let mut authorities = rustls::RootCertStore::empty();
    for certificate in read(&tls.authorities)? {
        authorities
            .add(certificate)
            .map_err(|error| fault(format!("{} holds no authority: {error}", tls.authorities.display())))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(format!("TLS cannot be used: {error}")))?
        .with_root_certificates(authorities);
    let client = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                fault(format!("cannot read the private key of {}: {error}", key.display()))
            })?;
            builder.with_client_auth_cert(read(chain)?, secret).map_err(|error| {
                fault(format!("the certificate {} cannot be used: {error}", chain.display()))
            })?
        }
    };
    Ok(Arc::new(client))
}

async fn prepare(session: &Session, text: &str, rows: i32) -> Result<PreparedStatement, Failure> {
    let mut statement =
        session.prepare(text).await.map_err(|error| errors::of_prepare("prepare a statement on", error))?;
    statement.set_page_size(rows);
    // Each of them can be sent twice: keys and timestamps are part of the change.
    statement.set_is_idempotent(true);
    Ok(statement)
}

async fn prepare_all(
    session: &Session,
    config: &ScyllaConfig,
    classes: usize,
) -> Result<Statements, Failure> {
    let k = &config.keyspace;
    let small = |text: String| async move { prepare(session, &text, SMALL_ROWS).await };
    let lane = "namespace = ? AND lane = ?";
    let place = "namespace = ? AND lane = ? AND writer = ? AND period = ?";
    let mut all = Vec::with_capacity(classes);
    for n in 0..classes {
        let pieces =
            format!("SELECT piece, pieces, bytes FROM {k}.esker_blocks_{n} WHERE {place} AND first_seq = ?");
        let put_piece = small(format!(
            "INSERT INTO {k}.esker_blocks_{n} (namespace, lane, writer, period, first_seq, piece, pieces, bytes) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
        ))
        .await?;
        let put_summary = small(format!(
            "INSERT INTO {k}.esker_summaries_{n} (namespace, lane, writer, period, first_seq, summary) \
             VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
        ))
        .await?;
        all.push(ClassStatements {
            put_piece,
            put_summary,
            put_period: small(format!(
                "INSERT INTO {k}.esker_periods_{n} (namespace, lane, writer, period) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            put_removed: small(format!(
                "INSERT INTO {k}.esker_removed_{n} (namespace, lane, id, seq) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            pieces: prepare(session, &pieces, PIECE_ROWS).await?,
            summaries: small(format!(
                "SELECT first_seq, summary, WRITETIME(summary) FROM {k}.esker_summaries_{n} WHERE {place} AND first_seq > ? \
                 AND first_seq < ?"
            ))
            .await?,
            periods: small(format!("SELECT writer, period FROM {k}.esker_periods_{n} WHERE {lane}")).await?,
            removed: small(format!("SELECT id, seq FROM {k}.esker_removed_{n} WHERE {lane}")).await?,
        });
    }
    let namespaces = "(namespace, partitions, seed, classes) VALUES (?, ?, ?, ?)";
    let writers = "(namespace, first, opened) VALUES (?, ?, ?)";
    Ok(Statements {
        classes: all,
        namespace: small(format!("SELECT partitions, seed, classes FROM {k}.esker_namespaces WHERE namespace = ?")).await?,
        first_namespace: small(format!("INSERT INTO {k}.esker_namespaces {namespaces} IF NOT EXISTS")).await?,
        put_namespace: small(format!("INSERT INTO {k}.esker_namespaces {namespaces} USING TIMESTAMP ?")).await?,
        more_classes: small(format!(
            "UPDATE {k}.esker_namespaces SET classes = ? WHERE namespace = ? IF classes = ?"
        ))
        .await?,
        writers: small(format!("SELECT first FROM {k}.esker_writers WHERE namespace = ?")).await?,
        first_writer: small(format!("INSERT INTO {k}.esker_writers {writers} IF NOT EXISTS")).await?,
        put_writer: small(format!("INSERT INTO {k}.esker_writers {writers} USING TIMESTAMP ?")).await?,
        names: small(format!("SELECT name, stream FROM {k}.esker_names WHERE namespace = ? AND bucket = ?")).await?,
        put_name: small(format!(
            "INSERT INTO {k}.esker_names (namespace, bucket, name, stream) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
        ))
        .await?,
    })
}

/// Creates what is missing, if that is allowed, and compares what is there with what is needed.
pub(crate) async fn check_tables(
    connected: &Connected,
    config: &ScyllaConfig,
    classes: &[ClassConfig],
    create: bool,
) -> Result<(), Failure> {
    let session = &connected.session;
    let run = |text: String| async move {
        let outcome = session.query_unpaged(text, ()).await;
        outcome.map_err(|error| errors::of_execution("create tables on", error))
    };
    let tables = schema::tables(config, classes);
    if create {
        run(schema::keyspace(config)).await?;
        for table in &tables {
            run(table.create.clone()).await?;
        }
    }
    let columns = "SELECT table_name, column_name, type FROM system_schema.columns WHERE keyspace_name = ?";
    let columns = prepare(session, columns, SMALL_ROWS).await?;
    let mut found: Vec<(String, String, String)> = Vec::new();
    pages(connected, &columns, (&config.keyspace,), |row: (String, String, String)| {
        found.push(row);
        Ok(())
    })
    .await?;
    let ttls = "SELECT table_name, default_time_to_live FROM system_schema.tables WHERE keyspace_name = ?";
    let ttls = prepare(session, ttls, SMALL_ROWS).await?;
    let mut lives: Vec<(String, Option<i32>)> = Vec::new();
    pages(connected, &ttls, (&config.keyspace,), |row: (String, Option<i32>)| {
        lives.push(row);
        Ok(())
    })
    .await?;
    let mut faults = Vec::new();
    for table in &tables {
        let columns: Vec<(String, String)> = found
            .iter()
            .filter(|(name, ..)| *name == table.name)
            .map(|(_, column, kind)| (column.clone(), kind.clone()))
            .collect();
        let ttl = lives.iter().find(|(name, _)| *name == table.name).and_then(|(_, ttl)| *ttl);
        faults.extend(schema::faults(&config.keyspace, table, &columns, ttl));
    }
    if faults.is_empty() {
        return Ok(());
    }
    let text = format!(
        "the tables do not fit; run what ScyllaConfig::ddl gives, or allow create_tables: {}",
        faults.join("; ")
    );
    Err(Failure { meaning: Meaning::Unprepared, error: Error::new(ErrorKind::Incompatible, text) })
}

/// Reads all pages of a statement's rows.
pub(crate) async fn pages<Row>(
    connected: &Connected,
    statement: &PreparedStatement,
    values: impl SerializeRow,
    mut take: impl FnMut(Row) -> crate::error::Result<()>,
) -> Result<(), Failure>
where
    Row: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
{
    let bound = statement.clone().bind(&values).map_err(|error| odd(&error))?;
    let mut state = PagingState::start();
    loop {
        let page = connected.session.execute_bound_single_page(&bound, state).await;
        let (page, next) = page.map_err(|error| errors::of_execution("read from", error))?;
        let rows = page.into_rows_result().map_err(|error| odd(&error))?;
        for row in rows.rows::<Row>().map_err(|error| odd(&error))? {
            take(row.map_err(|error| odd(&error))?)
                .map_err(|error| Failure { meaning: Meaning::Refused, error })?;
        }
        match next {
            PagingStateResponse::HasMorePages { state: more } => state = more,
            PagingStateResponse::NoMorePages => return Ok(()),
        }
    }
}

/// An answer that is not what was asked for: of another table, or another server.
pub(crate) fn odd(error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = format!(
        "the cluster's answer cannot be understood ({error}); see whether its tables are those of ScyllaConfig::ddl"
    );
    Failure { meaning: Meaning::Unprepared, error: Error::new(ErrorKind::Cold, text) }
}

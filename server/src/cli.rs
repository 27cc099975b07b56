//! The command line: what can be typed, and which verb it reaches.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::runtime::Runtime;

use crate::client::{Client, ClientSettings};
use crate::config::{self, Config, Environment, Flags, Layer, LogFormat};
use crate::exit::Exit;
use crate::{command, serve};

/// An open lakehouse for multimodal datasets: Lance tables behind Arrow Flight and HTTP.
#[derive(Debug, Parser)]
#[command(name = "lakebed", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server.
    Serve(ServeArgs),
    /// Import files, rows and recordings.
    Import(command::import::Import),
    /// List tables, by their whole ids.
    Ls(command::ls::Ls),
    /// Find tables, columns, tags, models and more by words.
    Find(command::find::Find),
    /// Show one table: version, rows, columns, tags.
    Show(command::show::Show),
    /// Run a statement in SQL and print its rows.
    Sql(command::sql::Sql),
    /// Search a column of vectors by a vector, a text or a picture, a text index by words, or both.
    Search(command::search::Search),
    /// Count what a search by words finds by the values of columns.
    Facets(command::facets::Facets),
    /// Say which words were meant.
    Suggest(command::suggest::Suggest),
    /// Say how far two columns of vectors find the same, and how well their indexes do.
    CompareEmbeddings(command::compare_embeddings::CompareEmbeddings),
    /// Name columns of vectors by words that can be pointed to another one.
    #[command(subcommand)]
    VectorAlias(VectorAliasVerb),
    /// Show what was inserted, updated and deleted between two versions of a table.
    Changes(command::changes::Changes),
    /// Keep how far a reader of changes has come.
    #[command(subcommand)]
    Cursor(CursorVerb),
    /// Keep sets of rows by name, to search and read within them.
    #[command(subcommand)]
    RowSets(RowSetsVerb),
    /// Begin, compare and merge branches of a table.
    #[command(subcommand)]
    Branch(BranchVerb),
    /// Name versions of a table.
    #[command(subcommand)]
    Tag(TagVerb),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(KeysVerb),
    /// Build and list indexes.
    #[command(subcommand)]
    Index(IndexVerb),
    /// Have attached workers compute columns.
    #[command(subcommand)]
    Jobs(JobsVerb),
    /// Look at attached workers.
    #[command(subcommand)]
    Workers(WorkersVerb),
    /// Look at models.
    #[command(subcommand)]
    Models(ModelsVerb),
    /// Join small fragments of a table.
    Compact(command::compact::Compact),
    /// Say which tools can open a table
    Profile(command::profile::Profile),
    /// Delete old versions of a table, and what only they use; or large blobs that nothing refers to.
    Gc(command::gc::Gc),
    /// Take the bytes of deleted rows away, and all older versions with them.
    Purge(command::purge::Purge),
    /// Copy a lake, or some of its tables, to another place; only what is new the next time.
    Backup(command::backup::Backup),
    /// Make a lake of a backup, or put a table of it back, offline.
    Restore(command::restore::Restore),
    /// Examine a lake, offline, and say what was found.
    Doctor(command::doctor::Doctor),
    /// Rewrite the paths of a lake that was moved or copied, offline.
    Relocate(command::relocate::Relocate),
    /// Print the version.
    Version(command::version::Version),
    /// Print a completion script for a shell.
    Completion(command::completion::Completion),
}

#[derive(Debug, Subcommand)]
enum BranchVerb {
    /// Begin a branch with a version of a table, the latest unless one is given.
    Create(command::branch_create::BranchCreate),
    /// List the branches of a table.
    List(command::branch_list::BranchList),
    /// Say how a branch differs from the one that it began on.
    Diff(command::branch_diff::BranchDiff),
    /// Take what a branch changed into the one that it began on.
    Merge(command::branch_merge::BranchMerge),
    /// Delete a branch with all versions that are only its own.
    Delete(command::branch_delete::BranchDelete),
}

#[derive(Debug, Subcommand)]
enum TagVerb {
    /// Name a version, the latest unless one is given.
    Create(command::tag_create::TagCreate),
    /// List the tags of a table.
    List(command::tag_list::TagList),
    /// Delete a tag; the version stays until retention takes it.
    Delete(command::tag_delete::TagDelete),
}

#[derive(Debug, Subcommand)]
enum VectorAliasVerb {
    /// Point an alias to a column, and searches by it from then on.
    Set(command::vector_alias_set::VectorAliasSet),
    /// List the aliases of a table.
    List(command::vector_alias_list::VectorAliasList),
    /// Drop an alias; the column stays.
    Drop(command::vector_alias_drop::VectorAliasDrop),
}

#[derive(Debug, Subcommand)]
enum CursorVerb {
    /// Make a cursor; changes behind its version are kept for it.
    Create(command::cursor_create::CursorCreate),
    /// List the cursors of a table.
    List(command::cursor_list::CursorList),
    /// Move a cursor forward: everything up to a version is done with.
    Advance(command::cursor_advance::CursorAdvance),
    /// Delete a cursor, and what only it keeps may be cleaned.
    Delete(command::cursor_delete::CursorDelete),
}

#[derive(Debug, Subcommand)]
enum RowSetsVerb {
    /// Make the next version of a row set.
    Create(Box<command::row_sets_create::RowSetsCreate>),
    /// List the row sets of a table.
    List(command::row_sets_list::RowSetsList),
    /// Show what a row set is and how it came to be.
    Describe(command::row_sets_describe::RowSetsDescribe),
    /// Print the row ids of a row set, one a line.
    Rows(command::row_sets_rows::RowSetsRows),
    /// Forget a row set, or one version of it; the rows stay.
    Drop(command::row_sets_drop::RowSetsDrop),
}

#[derive(Debug, Subcommand)]
enum KeysVerb {
    /// Make a key and print it; it is not shown again.
    Create(command::keys_create::KeysCreate),
    /// List keys without their secrets.
    List(command::keys_list::KeysList),
    /// Revoke a key.
    Revoke(command::keys_revoke::KeysRevoke),
    /// Replace a lost admin key, offline: the server of the lake must be stopped.
    Reset(command::keys_reset::KeysReset),
}

#[derive(Debug, Subcommand)]
enum IndexVerb {
    /// Build an index, and wait for it.
    Create(command::index_create::IndexCreate),
    /// List the indexes of a table.
    List(command::index_list::IndexList),
}

#[derive(Debug, Subcommand)]
enum JobsVerb {
    /// Begin to compute a column, and print the job's id.
    Submit(command::jobs_submit::JobsSubmit),
    /// Begin to find near duplicates, and print the job's id.
    NearDuplicates(command::jobs_near_duplicates::JobsNearDuplicates),
    /// Begin to fill a computed column, and print the job's id.
    Refresh(command::jobs_refresh::JobsRefresh),
    /// List jobs, newest first.
    List(command::jobs_list::JobsList),
    /// Show one job and how far it is.
    Describe(command::jobs_describe::JobsDescribe),
    /// List the rows that a job could give no value, and why.
    Errors(command::jobs_errors::JobsErrors),
    /// Wait for the end of a job.
    Wait(command::jobs_wait::JobsWait),
    /// Give out no more tasks of a job.
    Pause(command::jobs_change::JobsPause),
    /// Go on with a paused job.
    Resume(command::jobs_change::JobsResume),
    /// Call a job off; what it has filled in stays.
    Cancel(command::jobs_change::JobsCancel),
}

#[derive(Debug, Subcommand)]
enum WorkersVerb {
    /// List the workers that are attached.
    List(command::workers_list::WorkersList),
}

#[derive(Debug, Subcommand)]
enum ModelsVerb {
    /// Register a version of a model: its files, and what workers need to know to run it.
    Register(command::models_register::ModelsRegister),
    /// List the models that are built in, offered by a worker, or registered.
    List(command::models_list::ModelsList),
    /// Show the versions of a registered model, or the files of one.
    Describe(command::models_describe::ModelsDescribe),
    /// Have a tag name a version of a model.
    Tag(command::models_tag::ModelsTag),
    /// Take a tag of a model away.
    Untag(command::models_tag::ModelsUntag),
    /// Write the files of a version to a folder.
    Export(command::models_export::ModelsExport),
    /// Drop a version of a model, or all of it.
    Drop(command::models_drop::ModelsDrop),
}

/// Flags of `serve`. Each has a variable `LAKEBED_…` and a key in the file beside it.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The lake's root: a directory or s3://bucket/prefix [default: ./lakebed-data]
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// Where HTTP listens; port 0 takes any [default: 127.0.0.1:10024]
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: Option<String>,
    /// Where Arrow Flight listens [default: HTTP host, HTTP port + 1]
    #[arg(long, value_name = "HOST:PORT")]
    flight_addr: Option<String>,
    /// Write a JSON file with both addresses once both ports accept
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the first start writes the admin key [default: ~/.config/lakebed/<lake id>.key]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The key that secrets are encrypted under; made with the first secret
    /// [default: ~/.config/lakebed/<lake id>.secrets-key]
    #[arg(long, value_name = "FILE")]
    secrets_key_file: Option<PathBuf>,
    /// Let requests without a key do everything; loopback only
    #[arg(long)]
    allow_anonymous: bool,
    /// Speak TLS on both ports with this certificate chain in PEM; it is read anew when it changes
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Allow listening beyond loopback without TLS
    #[arg(long)]
    insecure: bool,
    /// How log lines are written [default: text]
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// How long to wait for running requests when stopping, such as 10s [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    shutdown_timeout: Option<Duration>,
}

impl ServeArgs {
    fn into_flags(self) -> Flags {
        let ServeArgs {
            data,
            http_addr,
            flight_addr,
            ready_file,
            config,
            api_key_file,
            secrets_key_file,
            allow_anonymous,
            tls_cert,
            tls_key,
            insecure,
            log_format,
            shutdown_timeout,
        } = self;
        let layer = Layer {
            data,
            http_addr,
            flight_addr,
            ready_file,
            api_key_file,
            secrets_key_file,
            // A flag that is absent says nothing; it must not stand above a variable.
            allow_anonymous: allow_anonymous.then_some(true),
            tls_cert,
            tls_key,
            insecure: insecure.then_some(true),
            log_format,
            shutdown_timeout_ms: shutdown_timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            ..Layer::default()
        };
        Flags { layer, config }
    }
}

/// How a client verb finds the server.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The server's HTTP address [env: LAKEBED_URL] [default: http://127.0.0.1:10024]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The API key [env: LAKEBED_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// The database [env: LAKEBED_DATABASE] [default: default]
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Certificates in PEM to check an https URL against [env: LAKEBED_CA_CERT] [default: the
    /// system's]
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
}

impl ClientArgs {
    fn settings(&self, environment: &Environment) -> ClientSettings {
        let variable = |wanted: &str| {
            environment
                .iter()
                .find(|(name, value)| name == wanted && !value.is_empty())
                .map(|(_, value)| value.clone())
        };
        ClientSettings {
            url: self
                .url
                .clone()
                .or_else(|| variable("LAKEBED_URL"))
                .unwrap_or_else(|| "http://127.0.0.1:10024".to_owned()),
            api_key: self.api_key.clone().or_else(|| variable("LAKEBED_API_KEY")),
            database: self.database.clone().or_else(|| variable("LAKEBED_DATABASE")),
            ca_cert: self
                .ca_cert
                .clone()
                .or_else(|| variable("LAKEBED_CA_CERT").map(PathBuf::from)),
        }
    }
}

/// How a verb prints its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Parses the command line and runs its verb. Wrong usage ends the process here, with code 2.
pub(crate) fn run() -> Result<(), Exit> {
    let environment = config::environment();
    match Cli::parse().verb {
        Verb::Serve(args) => {
            let config = Config::load(args.into_flags(), &environment)?;
            serve::run(config)
        }
        Verb::Import(verb) => run_client(verb, &environment),
        Verb::Ls(verb) => run_client(verb, &environment),
        Verb::Find(verb) => run_client(verb, &environment),
        Verb::Show(verb) => run_client(verb, &environment),
        Verb::CompareEmbeddings(verb) => run_client(verb, &environment),
        Verb::VectorAlias(VectorAliasVerb::Set(verb)) => run_client(verb, &environment),
        Verb::VectorAlias(VectorAliasVerb::List(verb)) => run_client(verb, &environment),
        Verb::VectorAlias(VectorAliasVerb::Drop(verb)) => run_client(verb, &environment),
        Verb::Changes(verb) => run_client(verb, &environment),
        Verb::Cursor(CursorVerb::Create(verb)) => run_client(verb, &environment),
        Verb::Cursor(CursorVerb::List(verb)) => run_client(verb, &environment),
        Verb::Cursor(CursorVerb::Advance(verb)) => run_client(verb, &environment),
        Verb::Cursor(CursorVerb::Delete(verb)) => run_client(verb, &environment),
        Verb::RowSets(RowSetsVerb::Create(verb)) => run_client(*verb, &environment),
        Verb::RowSets(RowSetsVerb::List(verb)) => run_client(verb, &environment),
        Verb::RowSets(RowSetsVerb::Describe(verb)) => run_client(verb, &environment),
        Verb::RowSets(RowSetsVerb::Rows(verb)) => run_client(verb, &environment),
        Verb::RowSets(RowSetsVerb::Drop(verb)) => run_client(verb, &environment),
        Verb::Branch(BranchVerb::Create(verb)) => run_client(verb, &environment),
        Verb::Branch(BranchVerb::List(verb)) => run_client(verb, &environment),
        Verb::Branch(BranchVerb::Diff(verb)) => run_client(verb, &environment),
        Verb::Branch(BranchVerb::Merge(verb)) => run_client(verb, &environment),
        Verb::Branch(BranchVerb::Delete(verb)) => run_client(verb, &environment),
        Verb::Tag(TagVerb::Create(verb)) => run_client(verb, &environment),
        Verb::Tag(TagVerb::List(verb)) => run_client(verb, &environment),
        Verb::Tag(TagVerb::Delete(verb)) => run_client(verb, &environment),
        Verb::Sql(verb) => run_client(verb, &environment),
        Verb::Search(verb) => run_client(verb, &environment),
        Verb::Facets(verb) => run_client(verb, &environment),
        Verb::Suggest(verb) => run_client(verb, &environment),
        Verb::Compact(verb) => run_client(verb, &environment),
        Verb::Profile(verb) => run_client(verb, &environment),
        Verb::Gc(verb) => run_client(verb, &environment),
        Verb::Purge(verb) => run_client(verb, &environment),
        Verb::Index(IndexVerb::Create(verb)) => run_client(verb, &environment),
        Verb::Index(IndexVerb::List(verb)) => run_client(verb, &environment),
        Verb::Jobs(verb) => match verb {
            JobsVerb::Submit(verb) => run_client(verb, &environment),
            JobsVerb::NearDuplicates(verb) => run_client(verb, &environment),
            JobsVerb::Refresh(verb) => run_client(verb, &environment),
            JobsVerb::List(verb) => run_client(verb, &environment),
            JobsVerb::Describe(verb) => run_client(verb, &environment),
            JobsVerb::Errors(verb) => run_client(verb, &environment),
            JobsVerb::Wait(verb) => run_client(verb, &environment),
            JobsVerb::Pause(verb) => run_client(verb, &environment),
            JobsVerb::Resume(verb) => run_client(verb, &environment),
            JobsVerb::Cancel(verb) => run_client(verb, &environment),
        },
        Verb::Workers(WorkersVerb::List(verb)) => run_client(verb, &environment),
        Verb::Models(verb) => match verb {
            ModelsVerb::Register(verb) => run_client(verb, &environment),
            ModelsVerb::List(verb) => run_client(verb, &environment),
            ModelsVerb::Describe(verb) => run_client(verb, &environment),
            ModelsVerb::Tag(verb) => run_client(verb, &environment),
            ModelsVerb::Untag(verb) => run_client(verb, &environment),
            ModelsVerb::Export(verb) => run_client(verb, &environment),
            ModelsVerb::Drop(verb) => run_client(verb, &environment),
        },
        Verb::Keys(KeysVerb::Create(verb)) => run_client(verb, &environment),
        Verb::Keys(KeysVerb::List(verb)) => run_client(verb, &environment),
        Verb::Keys(KeysVerb::Revoke(verb)) => run_client(verb, &environment),
        Verb::Keys(KeysVerb::Reset(verb)) => command::keys_reset::run(verb, &environment),
        Verb::Backup(verb) => command::backup::run(verb, &environment),
        Verb::Restore(verb) => command::restore::run(verb, &environment),
        Verb::Doctor(verb) => command::doctor::run(verb, &environment),
        Verb::Relocate(verb) => command::relocate::run(verb, &environment),
        Verb::Version(verb) => command::version::run(&verb),
        Verb::Completion(verb) => command::completion::run(&verb),
    }
}

/// A verb that talks to a running server.
pub(crate) trait ClientVerb {
    /// How it finds the server.
    fn client(&self) -> &ClientArgs;

    /// Does it.
    async fn run(&self, client: &Client) -> Result<(), Exit>;
}

pub(crate) fn run_client(verb: impl ClientVerb, environment: &Environment) -> Result<(), Exit> {
    let client = Client::new(verb.client().settings(environment))?;
    runtime()?.block_on(verb.run(&client))
}

/// Stack of a thread. Plans of nested SQL are walked by recursion, and a stack that overflows ends the
/// process; the limits on SQL leave a wide margin to this. Only touched pages take memory.
const THREAD_STACK_BYTES: usize = 16 << 20;

/// A runtime for one verb.
pub(crate) fn runtime() -> Result<Runtime, Exit> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().thread_stack_size(THREAD_STACK_BYTES).build();
    runtime.map_err(|error| Exit::failed(format!("start the runtime: {error}")))
}

/// The whole command line, for completion scripts.
pub(crate) fn command_line() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn an_absent_flag_says_nothing() {
        let flags = |args: &[&str]| match Cli::try_parse_from(args).unwrap().verb {
            Verb::Serve(args) => args.into_flags(),
            _ => panic!("not serve"),
        };
        assert_eq!(flags(&["lakebed", "serve"]).layer, Layer::default());
        let given = flags(&["lakebed", "serve", "--insecure", "--http-addr", "[::1]:0"]);
        assert_eq!(given.layer.insecure, Some(true));
        assert_eq!(given.layer.http_addr.as_deref(), Some("[::1]:0"));
        assert!(Cli::try_parse_from(["lakebed", "serve", "--tls-certificate", "x"]).is_err());
    }

    #[test]
    fn client_flags_stand_above_variables() {
        let environment: Environment = [("LAKEBED_URL", "http://a"), ("LAKEBED_API_KEY", "k")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let args = ClientArgs {
            url: Some("http://b".to_owned()),
            api_key: None,
            database: None,
            ca_cert: None,
        };
        let settings = args.settings(&environment);
        assert_eq!(settings.url, "http://b");
        assert_eq!(settings.api_key.as_deref(), Some("k"));
        assert_eq!(settings.database, None);
    }
}

//! What a user registers: code, what it takes and gives, and what it runs in.
//!
//! The shapes are those of the LanceDB SDKs (`lancedb.functions`). What is not acted on is refused here,
//! before anything is kept.

use std::collections::{BTreeMap, BTreeSet};

use arrow_schema::{DataType, Field, Fields};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lakebed_core::{DatabaseName, Error, ErrorKind, Result, TableId};
use lakebed_jobs::Interpreter;
use lakebed_storage::sha256_text;
use serde::{Deserialize, Serialize};

use super::types;

/// The module of a bundle that has the entry point.
const ENTRY_FILE: &str = "user_function.py";
const NAME_CHARACTERS_MAX: usize = 128;
/// Secrets of one function.
const SECRETS_MAX: usize = 64;
/// What stands beside the results of rows on their way from workers.
const BESIDE_RESULTS: [&str; 4] = ["_rowid", "error", "error_type", "traceback"];

/// A registration, as the SDKs send it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The name, which the path says as well.
    #[serde(default, skip_serializing)]
    pub name: Option<String>,
    pub(super) artifact: Artifact,
    pub(super) signature: Signature,
    pub(super) runtime: Runtime,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) secret_bindings: Vec<SecretBinding>,
}

/// How a secret reaches a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretBinding {
    kind: String,
    /// The variable of its environment that gets the value.
    pub(crate) variable: String,
    secret_ref: SecretReference,
}

/// Where a secret is, in the database of the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretReference {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    namespace_path: Vec<String>,
}

impl SecretBinding {
    /// The secret.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks the rules.
    pub(crate) fn secret(&self, database: &DatabaseName) -> Result<TableId> {
        let SecretReference { name, namespace_path } = &self.secret_ref;
        let segments: Vec<&str> = namespace_path.iter().chain([name]).map(String::as_str).collect();
        TableId::from_segments(database, &segments)
            .map_err(|error| error.context("the secret of a function"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Artifact {
    kind: String,
    pub(super) digest: String,
    pub(super) entrypoint: String,
    /// Taken out before it is kept: the code lies by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<Content>,
    adapter: Adapter,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    encoding: String,
    data: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adapter {
    kind: String,
    version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signature {
    pub(super) inputs: Vec<Parameter>,
    pub(super) output: Output,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) initialization: Vec<Parameter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) arrow_type: String,
    pub(super) nullable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob_access: Option<String>,
}

/// What a function gives for a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) arrow_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nullable: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) fields: Vec<Parameter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Runtime {
    kind: String,
    python_version: String,
    environment: Environment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    env: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gpu: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Environment {
    kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    packages: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    channels: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    modules: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
}

/// What a function gives, with its types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    /// One value.
    Scalar(DataType),
    /// Some values, each with its name and whether it may be null.
    Struct(Fields),
}

impl Registration {
    /// Checks it, and takes its code out.
    ///
    /// # Errors
    /// `InvalidArgument` naming what does not fit, `NotImplemented` what is not built.
    pub(super) fn take_code(&mut self) -> Result<Vec<u8>> {
        self.check()?;
        // Their order says nothing, and is no other function.
        self.secret_bindings.sort_by(|a, b| a.variable.cmp(&b.variable));
        let Artifact { kind, digest, entrypoint, content, adapter } = &mut self.artifact;
        if (adapter.kind.as_str(), adapter.version) != ("scalar_to_arrow_batch", 1) {
            return Err(not_built(format!("the adapter `{}` {}", adapter.kind, adapter.version)));
        }
        if !is_identifier(entrypoint) {
            return Err(Error::invalid("`artifact.entrypoint` is no name of Python"));
        }
        let content =
            content.take().ok_or_else(|| Error::invalid("`artifact.content` is missing"))?;
        if content.encoding != "base64" {
            return Err(not_built(format!("content encoded as `{}`", content.encoding)));
        }
        let code = STANDARD.decode(&content.data).map_err(|error| {
            Error::invalid("`artifact.content.data` is no base64").with_source(error)
        })?;
        let found = sha256_text(&code);
        if *digest != found {
            let message = format!("`artifact.digest` is `{digest}`, and the content has {found}");
            return Err(Error::invalid(message));
        }
        let text =
            std::str::from_utf8(&code).map_err(|_| Error::invalid("the code is not UTF-8"))?;
        match kind.as_str() {
            "python_callable" => {}
            "python_bundle" => check_bundle(text)?,
            other => return Err(not_built(format!("an artifact of kind `{other}`"))),
        }
        Ok(code)
    }

    fn check(&self) -> Result<()> {
        let Signature { inputs, initialization, .. } = &self.signature;
        for parameter in inputs.iter().chain(initialization) {
            if !is_identifier(&parameter.name) {
                let shown = parameter.name.escape_debug();
                return Err(Error::invalid(format!("parameter `{shown}` is no name of Python")));
            }
            types::parse(&parameter.arrow_type)
                .map_err(|error| error.context(format!("parameter `{}`", parameter.name)))?;
        }
        let names = inputs.iter().chain(initialization).map(|parameter| parameter.name.as_str());
        check_unique(names)?;
        self.given()?;
        let Runtime { kind, python_version, environment, env, gpu } = &self.runtime;
        match (kind.as_str(), gpu) {
            ("python", None) | ("python_v2", Some(true)) => {}
            ("python" | "python_v2", _) => {
                return Err(Error::invalid(
                    "`runtime.gpu` is true in `python_v2` and nowhere else",
                ));
            }
            _ => return Err(not_built(format!("a runtime of kind `{kind}`"))),
        }
        let is_version = python_version.strip_prefix("3.").is_some_and(|minor| {
            (1..=2).contains(&minor.len()) && minor.bytes().all(|digit| digit.is_ascii_digit())
        });
        if !is_version {
            return Err(Error::invalid("`runtime.python_version` is not like `3.11`"));
        }
        for name in env.iter().flat_map(BTreeMap::keys) {
            if !is_identifier(name) {
                let shown = name.escape_debug();
                return Err(Error::invalid(format!("`{shown}` is no name of a variable")));
            }
        }
        self.check_bindings()?;
        environment.check()
    }

    fn check_bindings(&self) -> Result<()> {
        if self.secret_bindings.len() > SECRETS_MAX {
            let message = format!("a function has at most {SECRETS_MAX} secrets");
            return Err(Error::invalid(message));
        }
        let mut seen: BTreeSet<&str> =
            self.runtime.env.iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
        for SecretBinding { kind, variable, .. } in &self.secret_bindings {
            if kind != "env" {
                return Err(not_built(format!("a secret of kind `{kind}`")));
            }
            if !is_identifier(variable) {
                let shown = variable.escape_debug();
                return Err(Error::invalid(format!("`{shown}` is no name of a variable")));
            }
            if !seen.insert(variable) {
                let message = format!("the variable `{variable}` of the function is set twice");
                return Err(Error::invalid(message));
            }
        }
        Ok(())
    }

    /// What the function gives.
    ///
    /// # Errors
    /// `InvalidArgument` for an output that is none.
    pub(super) fn given(&self) -> Result<Given> {
        let Output { kind, arrow_type, fields, .. } = &self.signature.output;
        match (kind.as_str(), arrow_type, fields.as_slice()) {
            ("scalar", Some(arrow_type), []) => {
                let data_type =
                    types::parse(arrow_type).map_err(|error| error.context("the output"))?;
                Ok(Given::Scalar(data_type))
            }
            ("named_struct", None, [_, ..]) => {
                check_unique(fields.iter().map(|field| field.name.as_str()))?;
                let is_taken = |field: &&Parameter| BESIDE_RESULTS.contains(&field.name.as_str());
                if let Some(field) = fields.iter().find(is_taken) {
                    let message = format!("a field of results cannot be called `{}`", field.name);
                    return Err(Error::invalid(message));
                }
                let fields = fields.iter().map(|field| {
                    let data_type = types::parse(&field.arrow_type)
                        .map_err(|error| error.context(format!("result `{}`", field.name)))?;
                    Ok(Field::new(&field.name, data_type, true))
                });
                Ok(Given::Struct(fields.collect::<Result<Vec<Field>>>()?.into()))
            }
            _ => Err(Error::invalid(
                "`signature.output` is neither a scalar with a type nor a named_struct with fields",
            )),
        }
    }

    /// What runs it.
    pub(super) fn interpreter(&self) -> Interpreter {
        Interpreter {
            python_version: self.runtime.python_version.clone(),
            gpu: self.runtime.gpu == Some(true),
        }
    }

    /// As it is kept, and the digest of all that decides what it computes.
    ///
    /// # Errors
    /// `Internal`.
    pub(super) fn kept(&self) -> Result<(serde_json::Value, String)> {
        let kept = serde_json::to_value(self)
            .map_err(|error| Error::internal("write a function").with_source(error))?;
        // The keys of objects are sorted, so the same function has the same text.
        let digest = sha256_text(kept.to_string().as_bytes());
        Ok((kept, digest))
    }
}

impl Environment {
    fn check(&self) -> Result<()> {
        match self.kind.as_str() {
            "pip" => {}
            "conda" => {
                return Err(not_built("an environment of conda; name packages of pip instead"));
            }
            other => return Err(not_built(format!("an environment of kind `{other}`"))),
        }
        let odd = [
            (!self.channels.is_empty(), "channels"),
            (self.path.is_some(), "path"),
            (!self.modules.is_empty(), "modules"),
            (self.image.is_some(), "image"),
        ];
        if let Some((_, field)) = odd.iter().find(|(is_set, _)| *is_set) {
            return Err(not_built(format!("`environment.{field}` of pip")));
        }
        for package in &self.packages {
            // What begins with a hyphen would be an option of pip and not a package.
            let is_plain = package.trim() == package
                && !package.is_empty()
                && !package.starts_with('-')
                && !package.chars().any(char::is_control);
            if !is_plain {
                let shown = package.escape_debug();
                return Err(Error::invalid(format!("`{shown}` is no requirement of a package")));
            }
        }
        Ok(())
    }
}

/// Checks a bundle: JSON of files, the entry among them, none outside of its folder.
fn check_bundle(text: &str) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bundle {
        files: BTreeMap<String, String>,
    }
    let bundle: Bundle = serde_json::from_str(text)
        .map_err(|error| Error::invalid("the bundle is no JSON of files").with_source(error))?;
    if !bundle.files.contains_key(ENTRY_FILE) {
        return Err(Error::invalid(format!("the bundle has no `{ENTRY_FILE}`")));
    }
    for path in bundle.files.keys() {
        let parts = path.strip_suffix(".py").map(|stem| stem.split('/'));
        if !parts.is_some_and(|mut parts| parts.all(is_identifier)) {
            let shown = path.escape_debug();
            return Err(Error::invalid(format!("`{shown}` is no path of a Python module")));
        }
    }
    Ok(())
}

fn is_identifier(name: &str) -> bool {
    let mut characters = name.chars();
    let first = characters.next();
    name.len() <= NAME_CHARACTERS_MAX
        && first.is_some_and(|c| c == '_' || c.is_alphabetic())
        && characters.all(|c| c == '_' || c.is_alphanumeric())
}

fn check_unique<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::invalid(format!("the name `{name}` comes twice in the signature")));
        }
    }
    Ok(())
}

fn not_built(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotImplemented, format!("{what}: this is not built"))
}

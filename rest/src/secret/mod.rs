//! Verbs on secrets, one file each. No answer has a value in it, nor has an error.

pub(crate) mod alter;
pub(crate) mod create;
pub(crate) mod describe;
pub(crate) mod drop_secret;
pub(crate) mod list;

use lakebed_core::{Error, Result};
use lakebed_service::{SecretSummary, Zeroizing};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::{BodyBytes, parse};
use crate::target::Target;

/// The body that names nothing but the secret.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OneSecret {
    id: Option<Vec<String>>,
}

/// The body that has a value, which may be anything: an error of its type would quote it.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ValueBody {
    id: Option<Vec<String>>,
    value: Option<Value>,
}

/// The value in a body.
///
/// # Errors
/// `InvalidArgument` saying what is wrong without saying the value.
fn value(target: &Target, BodyBytes(bytes): BodyBytes) -> Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(bytes);
    // What is no object is quoted by its error as well.
    if bytes.trim_ascii().first().is_some_and(|first| *first != b'{') {
        return Err(Error::invalid("the body is not understood: it is no JSON object"));
    }
    let body: ValueBody = parse(&bytes)?;
    target.check_id(body.id.as_deref())?;
    match body.value {
        Some(Value::String(value)) => Ok(Zeroizing::new(value)),
        Some(_) => Err(Error::invalid("field `value` is no text")),
        None => Err(Error::invalid("field `value` is missing")),
    }
}

/// A secret as clients know it.
fn described(secret: &SecretSummary) -> Value {
    json!({
        "name": secret.id.name.as_str(),
        "namespace_path": secret.id.namespace.segments(),
        "created_at_millis": secret.created_at_ms,
        "updated_at_millis": secret.updated_at_ms,
    })
}

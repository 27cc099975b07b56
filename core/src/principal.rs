//! Who asks: roles, the principal behind a key, and what travels with each request.

use crate::DatabaseName;

/// What a key may do. `Admin` includes the others, `Write` includes `Read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything, keys included.
    Admin,
    /// Read and change tables.
    Write,
    /// Read tables.
    Read,
    /// Take tasks of jobs, read their rows and hand in their results; nothing else.
    Worker,
}

impl Role {
    /// The name in configuration, listings and audit lines.
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Write => "write",
            Role::Read => "read",
            Role::Worker => "worker",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Role> {
        [Role::Admin, Role::Write, Role::Read, Role::Worker]
            .into_iter()
            .find(|role| role.name() == name)
    }

    /// Whether a holder of `self` may do what `needed` asks for.
    pub fn includes(self, needed: Role) -> bool {
        match needed {
            Role::Admin => self == Role::Admin,
            Role::Write => matches!(self, Role::Admin | Role::Write),
            Role::Read => self != Role::Worker,
            // Who may write may hand in results; who may only read may not.
            Role::Worker => self != Role::Read,
        }
    }
}

/// Who a request was found to come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The public part of the key, or `anonymous`.
    pub key_id: String,
    /// What the key may do.
    pub role: Role,
}

impl Principal {
    /// The caller of a server that was started with `--allow-anonymous`.
    pub fn anonymous() -> Self {
        Principal { key_id: "anonymous".to_owned(), role: Role::Admin }
    }
}

/// How new the data of an answer has to be: what a client has seen before, here or on another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freshness {
    /// At least this version of the branch that is asked.
    pub version_min: Option<u64>,
    /// Nothing that was last looked up in the store before this time, in milliseconds since the Unix
    /// epoch.
    pub looked_up_ms_min: Option<i64>,
}

/// What travels with one request from the door to the commit. An explicit parameter and not a
/// task-local, so that a spawned task cannot lose it.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Who asks.
    pub principal: Principal,
    /// The id that appears in every log line and error of this request.
    pub request_id: String,
    /// The database that the request chose by header, or `default`.
    pub database: DatabaseName,
    /// How new the answer has to be.
    pub freshness: Freshness,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_include_those_below() {
        assert!(Role::Admin.includes(Role::Write) && Role::Write.includes(Role::Read));
        assert!(!Role::Read.includes(Role::Write) && !Role::Write.includes(Role::Admin));
        assert!(Role::Write.includes(Role::Worker) && !Role::Read.includes(Role::Worker));
        assert!(!Role::Worker.includes(Role::Read) && Role::Worker.includes(Role::Worker));
        assert_eq!(Role::parse("write"), Some(Role::Write));
        assert_eq!(Role::parse("root"), None);
    }
}

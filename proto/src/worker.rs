//! The worker protocol: messages and the gRPC service of `proto/lakebed/worker/v1/worker.proto`.
//!
//! The code is generated and committed; `scripts/generate_proto.sh` writes it anew.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

/// Version 1.
pub mod v1 {
    include!("generated/worker_v1.rs");
}

/// The Flight action that carries a `SyncRequest` and answers with a `SyncResponse`.
pub const SYNC_ACTION: &str = "lakebed.worker.v1.Sync";
/// The Flight action that carries an `AttemptId` and answers with the function that it is to run, as JSON.
pub const FUNCTION_ACTION: &str = "lakebed.worker.v1.Function";
/// The Flight action that carries an `AttemptId` and answers with the registered model that it is to run,
/// as JSON.
pub const MODEL_ACTION: &str = "lakebed.worker.v1.Model";
/// The Flight action that carries a `ModelFileRequest` and answers with bytes of a file of that model.
pub const MODEL_FILE_ACTION: &str = "lakebed.worker.v1.ModelFile";
/// All of them: they are answered where the jobs run.
pub const WORKER_ACTIONS: [&str; 4] =
    [SYNC_ACTION, FUNCTION_ACTION, MODEL_ACTION, MODEL_FILE_ACTION];

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    #[test]
    fn the_generated_code_is_current() {
        let proto = include_bytes!("../lakebed/worker/v1/worker.proto");
        let digest: String = Sha256::digest(proto).iter().map(|b| format!("{b:02x}")).collect();
        let generated = include_str!("generated/worker_v1.rs");
        assert!(generated.contains(&digest), "run scripts/generate_proto.sh");
    }
}

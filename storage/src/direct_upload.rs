//! Uploads whose bytes go from the client to the bucket, past the server.
//!
//! ```text
//!   create: a multipart upload of the store ─► signed addresses of parts ─► the client PUTs them there
//!       ─► complete: the store puts the parts together ─► their bytes are read once and checked
//! ```
//!
//! Which parts are stored the store knows and the client, which gets an ETag for each. A completion that
//! was cut off is sent again: the parts are one object by then, and are only checked.

use std::time::Duration;

use async_recursion::async_recursion as boxed;
use futures::TryStreamExt as _;
use http::Method;
use lakebed_core::{Error, ErrorKind, Result};
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::signer::{SignedUrlOptions, Signer as _};
use object_store::{Error as StoreError, ObjectStoreExt as _};
use serde::Serialize;

use crate::checksums::{Claimed, Hasher};
use crate::lance_error::from_object_store;
use crate::upload::{Created, Uploads, check_claim};

/// Parts of one object, as S3 counts them from 1.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
pub const PARTS_MAX: u64 = 10_000;
/// Addresses that are signed at a time.
pub const SIGNED_PARTS_MAX: u64 = 1_000;
/// How long an address may be used.
const SIGNED_FOR: Duration = Duration::from_secs(3_600);

/// Where a client sends one part, with `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedPart {
    /// Its number, from 1.
    pub number: u64,
    /// The address, which holds what permits it.
    pub url: String,
}

/// Addresses of parts and how long they may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedParts {
    /// One address for each part.
    pub parts: Vec<SignedPart>,
    /// When the store takes them no more, in milliseconds since 1970.
    pub expires_at_ms: i64,
}

impl Uploads {
    /// Begins an upload whose parts go to the store, and returns its id.
    ///
    /// # Errors
    /// `InvalidArgument` for a lake that is not in a bucket; `Busy` when there are `uploads_max` already.
    #[boxed]
    pub async fn create_direct(&self) -> Result<String> {
        self.bucket()?;
        self.begin(true).await
    }

    fn bucket(&self) -> Result<&AmazonS3> {
        self.shared.root.bucket().ok_or_else(|| {
            Error::invalid("`direct` is for a lake in a bucket; this one is in a folder")
        })
    }

    pub(crate) async fn begin_multipart(&self, id: &str) -> Result<String> {
        let path = self.path(&format!("{}/blob", self.folder(id)?));
        let begun = self.bucket()?.create_multipart(&path).await;
        begun.map_err(|error| from_object_store(error, "begin of a direct upload"))
    }

    /// Signs the addresses of `count` parts from the one with the number `first` on.
    ///
    /// # Errors
    /// `NotFound` when there is no such upload; `InvalidArgument` for numbers out of range and an upload
    /// that is not direct; `AlreadyExists` when its parts are one object already.
    #[boxed]
    pub async fn sign_parts(&self, id: &str, first: u64, count: u64) -> Result<SignedParts> {
        let last = first.saturating_add(count).saturating_sub(1);
        if first == 0 || last > PARTS_MAX {
            return Err(Error::invalid(format!("parts are numbered from 1 to {PARTS_MAX}")));
        }
        if count == 0 || count > SIGNED_PARTS_MAX {
            return Err(Error::invalid(format!("`count` is from 1 to {SIGNED_PARTS_MAX}")));
        }
        let folder = self.folder(id)?;
        let multipart = direct(id, self.check_open(id, &folder).await?)?;
        if self.put_together(&folder).await?.is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("the parts of upload `{id}` are put together and it takes no more"),
            ));
        }
        let path = self.path(&format!("{folder}/blob"));
        let expires_at_ms = self.shared.clock.now_ms() + SIGNED_FOR.as_millis() as i64;
        let mut parts = Vec::new();
        for number in first..=last {
            let number_text = number.to_string();
            let query = [("partNumber", number_text.as_str()), ("uploadId", multipart.as_str())];
            let options = SignedUrlOptions::default().with_query(query);
            let url = self
                .bucket()?
                .signed_url_opts(Method::PUT, &path, SIGNED_FOR, &options)
                .await
                .map_err(|error| from_object_store(error, "signature of an upload part"))?;
            parts.push(SignedPart { number, url: url.into() });
        }
        Ok(SignedParts { parts, expires_at_ms })
    }

    /// Ends a direct upload: the store puts the parts together, in the order of `etags`, and size and
    /// checksum of what came of it are checked; its SHA-256. Completing twice with the same values is fine.
    ///
    /// # Errors
    /// `InvalidArgument` when the store does not know a part, when size or checksum differ, and beyond
    /// `upload_bytes_max`. Once the parts are put together a wrong size or checksum can be corrected.
    #[boxed]
    pub async fn complete_direct(
        &self,
        id: &str,
        size: u64,
        claimed: &Claimed,
        etags: &[String],
    ) -> Result<String> {
        let _claim = self.claim(id)?;
        let folder = self.folder(id)?;
        let multipart = direct(id, self.check_open(id, &folder).await?)?;
        if let Some(sha256) = self.completed_before(id, &folder, size, claimed).await? {
            return Ok(sha256);
        }
        let limit = self.shared.limits.upload_bytes_max;
        if size > limit {
            return Err(Error::invalid(format!(
                "upload `{id}` would exceed the limit upload_bytes_max of {limit} bytes"
            )));
        }
        let path = self.path(&format!("{folder}/blob"));
        if self.put_together(&folder).await?.is_none() {
            let parts = etags.iter().map(|etag| PartId { content_id: etag.clone() }).collect();
            let done = self.bucket()?.complete_multipart(&path, &multipart, parts).await;
            done.map_err(|error| refused(id, error))?;
        }
        let stored = self.put_together(&folder).await?.unwrap_or(0);
        if stored != size {
            return Err(Error::invalid(format!(
                "`size` is {size}, and the parts of upload `{id}` have {stored} bytes together; \
                 nothing was completed"
            )));
        }
        let mut hasher = Hasher::new();
        let mut chunks = self.stream(&path).await?;
        while let Some(chunk) = chunks.try_next().await? {
            hasher.update(&chunk);
        }
        let actual = hasher.finish();
        check_claim(id, &actual, claimed)?;
        let sha256 = self.finish(id, &folder, size, actual).await?;
        metrics::counter!("lakebed_uploaded_bytes_total").increment(size);
        Ok(sha256)
    }

    /// Bytes of the object that the store made of the parts; nothing before.
    pub(crate) async fn put_together(&self, folder: &str) -> Result<Option<u64>> {
        let path = self.path(&format!("{folder}/blob"));
        match self.shared.root.store().head(&path).await {
            Ok(found) => Ok(Some(found.size)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(from_object_store(error, "look at a direct upload")),
        }
    }

    /// Lets the store forget the parts of a direct upload that is thrown away.
    pub(crate) async fn abort_multipart(&self, folder: &str) -> Result<()> {
        let Some(bytes) = self.shared.system.get(&format!("{folder}/upload.json")).await? else {
            return Ok(());
        };
        let created: Option<Created> = serde_json::from_slice(&bytes).ok();
        let multipart = created.and_then(|created| created.multipart);
        let (Some(multipart), Some(bucket)) = (multipart, self.shared.root.bucket()) else {
            return Ok(());
        };
        match bucket.abort_multipart(&self.path(&format!("{folder}/blob")), &multipart).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(from_object_store(error, "end of a direct upload")),
        }
    }
}

/// The store's name of a direct upload.
fn direct(id: &str, created: Created) -> Result<String> {
    created.multipart.ok_or_else(|| {
        Error::invalid(format!(
            "upload `{id}` is not direct: its bytes go to `PUT /v1/uploads/{id}`, and it has no parts"
        ))
    })
}

/// What the store says of parts that it cannot put together: that it is the client's to mend.
fn refused(id: &str, error: StoreError) -> Error {
    let said = error.to_string();
    let of_parts = ["InvalidPart", "EntityTooSmall", "NoSuchUpload", "MalformedXML"];
    match of_parts.iter().find(|code| said.contains(**code)) {
        Some(code) => Error::invalid(format!(
            "the store cannot put the parts of upload `{id}` together: {code}; nothing was completed"
        ))
        .with_source(error),
        None => from_object_store(error, "end of a direct upload"),
    }
}

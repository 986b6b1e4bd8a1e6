//! Parses the URL of a folder in a store: the kind of store, and how often requests are repeated. Nothing here connects
//! to the store.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use url::Url;

use crate::{StoreError, cause};

/// How often, and for how long, a failed request is repeated. The caller handles longer outages.
const RETRIES: usize = 4;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause before the first repetition, and the longest pause; each further pause is about twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A folder in an object store.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) folder: Path,
    /// The hint to add when the store does not answer; only if the environment holds no credentials.
    pub(crate) hint: Option<&'static str>,
}

impl Remote {
    pub(crate) fn open(text: &str) -> Result<Remote, StoreError> {
        let refused = |reason: &str| StoreError::Url { url: text.into(), reason: reason.into() };
        let url = Url::parse(text).map_err(|_| refused("is no URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("holds credentials, which must be in the environment"));
        }
        if url.port().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(refused("names more than a folder"));
        }
        let folder = Path::from_url_path(url.path()).map_err(|_| refused("names no folder"))?;
        let bucket = url.host_str().unwrap_or_default();
        match (url.scheme(), bucket) {
            // A URL parser turns `file:relative` into `/relative`.
            ("file", "") if is_relative(text) => Err(refused("names a relative folder")),
            ("file", "") if !folder.as_ref().is_empty() => Ok(Remote::local(folder)),
            ("file", "") => Err(refused("names no folder")),
            ("file", _) => Err(refused("has two slashes instead of three")),
            ("s3" | "gs", "") => Err(refused("names no bucket")),
            ("s3", bucket) => s3(bucket, folder).map_err(|error| unusable(text, &error)),
            ("gs", bucket) => gcs(bucket, folder).map_err(|error| unusable(text, &error)),
            _ => Err(refused("has a scheme that is not known here")),
        }
    }

    fn local(folder: Path) -> Remote {
        // With fsync, the copy is as durable as a checkpoint on this disk.
        let objects = Arc::new(LocalFileSystem::new().with_fsync(true));
        Remote { objects, folder, hint: None }
    }
}

/// Whether no slash follows the scheme, in the text of a URL of files.
fn is_relative(text: &str) -> bool {
    text.split_once(':').is_none_or(|(_, path)| !path.starts_with('/'))
}

/// The error for settings in the environment that object_store refuses.
fn unusable(url: &str, error: &object_store::Error) -> StoreError {
    StoreError::Failed { action: "use", object: url.into(), cause: cause::of(error) }
}

fn s3(bucket: &str, folder: Path) -> object_store::Result<Remote> {
    secure::prefer_ring();
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry());
    let keys = [
        AmazonS3ConfigKey::AccessKeyId,
        AmazonS3ConfigKey::WebIdentityTokenFile,
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ];
    let hint = keys.iter().all(|key| builder.get_config_value(key).is_none());
    let hint = hint.then_some(
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role",
    );
    Ok(Remote { objects: Arc::new(builder.build()?), folder, hint })
}

fn gcs(bucket: &str, folder: Path) -> object_store::Result<Remote> {
    secure::prefer_ring();
    let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
    let keys = [
        GoogleConfigKey::ServiceAccount,
        GoogleConfigKey::ServiceAccountKey,
        GoogleConfigKey::ApplicationCredentials,
    ];
    let hint = keys.iter().all(|key| builder.get_config_value(key).is_none());
    let hint = hint.then_some(
        "there are no credentials: set GOOGLE_APPLICATION_CREDENTIALS, or give this machine a service account",
    );
    Ok(Remote { objects: Arc::new(builder.with_retry(retry()).build()?), folder, hint })
}

fn retry() -> RetryConfig {
    let (init_backoff, max_backoff) = (BACKOFF_MIN, BACKOFF_MAX);
    RetryConfig {
        backoff: BackoffConfig { init_backoff, max_backoff, base: 2.0 },
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_meant_are_named_with_what_can() {
        for (url, words) in [
            ("", "no URL"),
            ("/mnt/checkpoints", "no URL"),
            ("s3:bucket", "no bucket"),
            ("s3://", "no bucket"),
            ("s3:///folder", "no bucket"),
            ("gs:///folder", "no bucket"),
            ("file:///", "no folder"),
            ("file:relative", "a relative folder"),
            ("file:../relative/inner", "a relative folder"),
            ("FILE:relative", "a relative folder"),
            ("file://mnt/checkpoints", "three"),
            ("ftp://host/folder", "not known"),
            ("memory:///folder", "not known"),
            ("https://bucket.s3.amazonaws.com/folder", "not known"),
            ("s3://key:secret@bucket/folder", "environment"),
            ("s3://bucket:9000/folder", "more than a folder"),
            ("s3://bucket/folder?versions", "more than a folder"),
            ("s3://bucket/folder#1", "more than a folder"),
        ] {
            let message = Remote::open(url).expect_err(url).to_string();
            let whole = [words, "s3://BUCKET/FOLDER", &format!("{url:?}")];
            assert!(whole.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn a_url_names_a_folder_in_a_bucket_or_on_a_disk() {
        for (url, folder) in [
            ("s3://bucket", ""),
            ("s3://bucket/", ""),
            ("s3://bucket/runs/a/", "runs/a"),
            ("gs://bucket/runs", "runs"),
            ("file:///mnt/my%20runs/a", "mnt/my runs/a"),
            ("file:/mnt/runs", "mnt/runs"),
        ] {
            assert_eq!(Remote::open(url).expect(url).folder.as_ref(), folder);
        }
    }
}

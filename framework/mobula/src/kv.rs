//! Values that all processes of a job find under a name: its driver, its actors, its functions.
//!
//! They live as long as the job. A value is small (256 KiB at most); larger ones are [`put`](crate::put), and their
//! reference is passed on in messages.
//!
//! ```
//! # #[mobula::main]
//! # async fn main() -> mobula::Result<()> {
//! # let _session = mobula::init().await?;
//! mobula::kv::put("rate", &0.5f64).await?;
//! assert_eq!(mobula::kv::get::<f64>("rate").await?, Some(0.5));
//! mobula::kv::delete("rate").await?;
//! assert_eq!(mobula::kv::get::<f64>("rate").await?, None);
//! # Ok(())
//! # }
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use mobula_node::ValueError as KvError;

/// Stores `value` under `key`, in place of what was there.
///
/// # Errors
///
/// [`KvError`].
pub async fn put<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<(), KvError> {
    mobula_node::put_value(key, value).await
}

/// The value under `key`, if there is one.
///
/// # Errors
///
/// [`KvError`]; [`KvError::Codec`] when it is of another type.
pub async fn get<T: DeserializeOwned>(key: &str) -> Result<Option<T>, KvError> {
    mobula_node::get_value(key).await
}

/// Removes the value under `key`; one that is not there is removed already.
///
/// # Errors
///
/// [`KvError`].
pub async fn delete(key: &str) -> Result<(), KvError> {
    mobula_node::delete_value(key).await
}

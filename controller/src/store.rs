//! From what the user wrote to an object store and a folder in it: for recordings and for models.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use thiserror::Error;
use url::Url;

/// Why a store cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{url}\": {detail}")]
pub struct OpenError {
    /// What the user wrote.
    pub url: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

/// Opens the store. A folder is made if it is not there.
///
/// # Errors
/// The URL cannot be used, or the folder cannot be made.
pub fn open(url: &str) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    let wrong = |detail: String| OpenError { url: url.to_owned(), detail };
    match Url::parse(url) {
        Ok(parsed) if parsed.scheme() == "file" => {
            let folder = parsed.to_file_path().map_err(|()| {
                wrong("a file URL has three slashes and an absolute path: file:///var/lib/trimtab".into())
            })?;
            local(&folder).map_err(|error| wrong(error.to_string()))
        }
        Ok(parsed) => {
            let (store, prefix) = object_store::parse_url_opts(&parsed, std::env::vars()).map_err(|error| {
                wrong(format!("{error}; a folder's path, or a URL beginning with file:, s3:, gs: or az: would do"))
            })?;
            Ok((store.into(), prefix))
        }
        Err(url::ParseError::RelativeUrlWithoutBase) if !url.is_empty() => {
            local(std::path::Path::new(url)).map_err(|error| wrong(error.to_string()))
        }
        Err(error) => Err(wrong(format!("{error}: a folder's path, or a URL like s3://bucket/folder would do"))),
    }
}

fn local(folder: &std::path::Path) -> Result<(Arc<dyn ObjectStore>, Path), std::io::Error> {
    std::fs::create_dir_all(folder)?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(std::io::Error::other)?;
    Ok((Arc::new(store), Path::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_urls_are_understood_and_the_rest_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a").join("b");
        assert!(open(path.to_str().unwrap()).is_ok());
        assert!(path.is_dir());
        assert!(open(&format!("file://{}", path.display())).is_ok());
        for wrong in ["", "ftp://host/x", "/proc/nowhere/x", "file://host.example/x"] {
            let error = open(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{wrong}\"")), "{error}");
        }
    }
}

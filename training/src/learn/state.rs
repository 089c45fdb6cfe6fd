//! The state of training as a file: numbers as they are, to the last bit, beside what describes them. Written whole or not at
//! all, so that a kill at any moment leaves the last one.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Write,
    path::Path,
};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Serialize, de::DeserializeOwned};

use super::LearnError;

/// Where the description is in the file's metadata.
const METADATA_KEY: &str = "trimtab-training";

/// What is kept: a description, and vectors of numbers by name.
#[derive(Debug, Clone, PartialEq)]
pub struct State<T> {
    /// Everything that is no floating-point number.
    pub description: T,
    /// Everything that is.
    pub numbers: BTreeMap<String, Vec<f64>>,
}

impl<T: Serialize + DeserializeOwned> State<T> {
    /// The file's bytes; the same for the same state.
    ///
    /// # Errors
    /// If the description cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, LearnError> {
        let broken = |error: &dyn std::error::Error| content(Path::new("the state"), error.to_string());
        let data: BTreeMap<&str, Vec<u8>> = self
            .numbers
            .iter()
            .map(|(name, numbers)| (name.as_str(), numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = data
            .iter()
            .map(|(name, data)| Ok((*name, TensorView::new(Dtype::F64, vec![data.len() / 8], data)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| broken(&error))?;
        let text = serde_json::to_string(&self.description).map_err(|error| broken(&error))?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), text)]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| broken(&error))
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Names the file, and says what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, LearnError> {
        let bytes = fs::read(path).map_err(|source| LearnError::File { path: path.to_owned(), source })?;
        let broken = |problem: String| {
            content(
                path,
                format!("not the state of a training ({problem}); start anew without --resume, or in another folder"),
            )
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
        let text = metadata.metadata().as_ref().and_then(|map| map.get(METADATA_KEY));
        let text = text.ok_or_else(|| broken(format!("no metadata `{METADATA_KEY}`")))?;
        let description = serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
        let mut numbers = BTreeMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F64 {
                return Err(broken(format!("`{name}` holds {:?}, it must hold F64", view.dtype())));
            }
            let (values, _) = view.data().as_chunks::<8>();
            numbers.insert(name, values.iter().map(|value| f64::from_le_bytes(*value)).collect());
        }
        Ok(Self { description, numbers })
    }
}

/// A file that holds something else than it should.
pub fn content(path: &Path, problem: String) -> LearnError {
    LearnError::Content { path: path.to_owned(), problem }
}

/// Writes a file whole or not at all: a reader, or a kill, finds the old one or the new one.
///
/// # Errors
/// Names the file.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), LearnError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|source| LearnError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let numbers =
            BTreeMap::from([("mean".to_owned(), vec![0.1 + 0.2, f64::MIN_POSITIVE]), ("none".to_owned(), vec![])]);
        let state = State { description: vec!["a".to_owned()], numbers };
        write_whole(&path, &state.to_bytes().unwrap()).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_state_is_refused_with_the_name_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let check = |bytes: Option<&[u8]>, expected: &str| {
            let path = folder.path().join("state.safetensors");
            bytes.into_iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
            let error = State::<Vec<String>>::read(&path).unwrap_err().to_string();
            assert!(error.starts_with(&*path.to_string_lossy()) && error.contains(expected), "{error}");
        };
        check(None, "No such file");
        check(Some(b"nonsense"), "not the state of a training");
        let other = State { description: 5, numbers: BTreeMap::new() };
        check(Some(&other.to_bytes().unwrap()), "invalid type");
    }
}

//! What the names of images stand for here: programs that were built from this tree.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trimtab::demo::faults::Faults;

use crate::tools::own_binary;

/// An image: one program, and the user that its Dockerfile names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The program on this machine.
    pub program: PathBuf,
    /// Where a container has it: its entry point.
    pub entry_point: String,
    /// Who it runs as, unless a security context says otherwise.
    pub user: i64,
}

/// How a container of the image `pod` behaves; tests `PUT` it to `/state` on its port 9090.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodState {
    /// What `/readyz` says.
    pub ready: bool,
    /// What `/livez` says.
    pub live: bool,
    /// What is wrong with its answers: slow, failing, hanging.
    pub faults: Faults,
}

impl Default for PodState {
    fn default() -> Self {
        Self { ready: true, live: true, faults: Faults::default() }
    }
}

/// The image of a reference such as `ghcr.io/trimtab/trimtab:1.2`: only its last name counts.
///
/// # Errors
/// If there is no such image, or its program has not been built; for people, and for the message of `ErrImagePull`.
pub fn find(reference: &str) -> Result<Image, String> {
    let (binary, user) = match short(reference) {
        "trimtab" => ("trimtab", 65532),
        "pod" => ("cluster-pod", 65532),
        other => return Err(format!("there is no image {other:?} here, expected trimtab or pod")),
    };
    let program = own_binary(binary).map_err(|error| error.to_string())?;
    Ok(Image { program, entry_point: format!("/{binary}"), user })
}

fn short(reference: &str) -> &str {
    let without_digest = reference.split('@').next().unwrap_or(reference);
    let last = without_digest.rsplit('/').next().unwrap_or(without_digest);
    last.split(':').next().unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_name_of_a_reference_counts() {
        for reference in ["trimtab", "trimtab:1", "example.org:5000/a/trimtab:1", "a/trimtab@sha256:0123"] {
            assert_eq!(short(reference), "trimtab", "{reference}");
        }
        assert!(find("example.org/nginx").is_err_and(|error| error.contains("\"nginx\"")));
    }
}

//! Where the real parts are: runs `tests/tools.sh`, which installs what is missing, and reads what it prints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

/// Paths by name, as `tests/tools.sh` printed them.
#[derive(Debug, Clone, Default)]
pub struct Tools(BTreeMap<String, PathBuf>);

impl Tools {
    /// Makes sure that the tools of these groups are here.
    ///
    /// # Errors
    /// If the script fails; what it said is on standard error.
    pub async fn find(groups: &[&str]) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools.sh");
        let output = Command::new("bash")
            .arg(&script)
            .args(groups)
            .stderr(std::process::Stdio::inherit())
            .output()
            .await
            .with_context(|| format!("cannot run {}", script.display()))?;
        ensure!(output.status.success(), "{} failed ({})", script.display(), output.status);
        let text = String::from_utf8(output.stdout).context("tools.sh prints text")?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(Self(pairs.map(|(name, path)| (name.to_owned(), path.into())).collect()))
    }

    /// Where a tool is.
    ///
    /// # Errors
    /// If its group was not asked for.
    pub fn path(&self, name: &str) -> anyhow::Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("tests/tools.sh did not name {name}"))
    }
}

/// A binary of this workspace, built in the same profile as the running one.
///
/// # Errors
/// If it has not been built.
pub fn own_binary(name: &str) -> anyhow::Result<PathBuf> {
    let folder = std::env::current_exe()?;
    // Tests run in target/PROFILE/deps, binaries in target/PROFILE.
    let mut folder = folder.parent().context("this program has no folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps has no parent")?;
    }
    let path = folder.join(name);
    if !path.exists() {
        bail!("{} is missing; build it: cargo build --release --workspace --bins", path.display());
    }
    Ok(path)
}

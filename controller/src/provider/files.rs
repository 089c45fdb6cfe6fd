//! Configuration from a YAML or JSON file, or from a folder of them (`*.yaml`, `*.yml`, `*.json`; not its subfolders), watched.
//!
//! At the start everything must hold. Later, a file that does not hold keeps its last good version, a deleted file takes its objects with
//! it, and a folder that vanishes or is suddenly empty keeps everything: each but the deletion is a problem that is shown until it
//! is gone. Of two objects with one name the one that was there first stays.

use std::{
    collections::BTreeMap,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Provider, ProviderError, Snapshot, poll,
    watched::{Reading, Settler, read},
    yaml::document::{self, Placed},
};
use crate::{
    gateway::ingress::IngressPorts,
    objects::Objects,
    problem::{ObjectId, Origin, Problem},
};

/// More files than this are refused.
const FILES_MAX: usize = 1000;

/// Files that are larger than this together, in bytes, are refused: all of them are read at every look.
const FOLDER_BYTES_MAX: u64 = 64 << 20;

/// Extensions of files that are read.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A file or folder that is followed.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    ingress_ports: IngressPorts,
    files: BTreeMap<String, File>,
    /// What is wrong with the folder itself.
    folder: Option<Problem>,
    /// The file that holds an object, for objects that are in use.
    owners: BTreeMap<ObjectId, String>,
}

#[derive(Debug, Default)]
struct File {
    settler: Settler,
    good: Vec<Placed>,
    problems: Vec<Problem>,
}

impl Files {
    /// Follows `path`.
    pub fn new(path: PathBuf) -> Self {
        Files {
            path,
            ingress_ports: IngressPorts::default(),
            files: BTreeMap::new(),
            folder: None,
            owners: BTreeMap::new(),
        }
    }

    /// The same with Ingresses on other ports than usual.
    #[must_use]
    pub fn with_ingress_ports(self, ingress_ports: IngressPorts) -> Self {
        Files { ingress_ports, ..self }
    }

    /// Reads everything once, without waiting for anything to settle.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(&mut self) -> Result<Snapshot, ProviderError> {
        let listed = match list(&self.path) {
            Ok(listed) if listed.is_empty() => return Err(self.broken_folder(NO_FILES).into()),
            Ok(listed) => listed,
            Err(reason) => return Err(self.broken_folder(&reason).into()),
        };
        for (name, path) in listed {
            let mut file = File::default();
            let reading = read(&path);
            file.settler.accept(&reading);
            file.apply(&name, reading, true);
            self.files.insert(name, file);
        }
        let snapshot = self.assemble();
        match snapshot.problems.is_empty() {
            true => Ok(snapshot),
            false => Err(ProviderError { problems: snapshot.problems }),
        }
    }

    /// Looks once; a new snapshot if something has changed and settled.
    pub fn look(&mut self) -> Option<Snapshot> {
        let folder_before = self.folder.take();
        let listed = match list(&self.path) {
            Ok(listed) if listed.is_empty() && !self.files.is_empty() => {
                self.folder = Some(self.broken_folder(&format!("{NO_FILES}: the last configuration stays")));
                Vec::new()
            }
            Ok(listed) => listed,
            Err(reason) => {
                self.folder = Some(self.broken_folder(&format!("{reason}: the last configuration stays")));
                Vec::new()
            }
        };
        let mut changed = self.folder != folder_before;
        if self.folder.is_none() {
            changed |= self.look_at(&listed);
        }
        changed.then(|| self.assemble())
    }

    fn look_at(&mut self, listed: &[(String, PathBuf)]) -> bool {
        let mut changed = false;
        for (name, path) in listed {
            let file = self.files.entry(name.clone()).or_default();
            let reading = match read(path) {
                // Listed, so not deleted: that is for the files that are no longer listed.
                Reading::Gone => Reading::Unreadable("leads nowhere".to_owned()),
                reading => reading,
            };
            if file.settler.settle(&reading) {
                file.apply(name, reading, false);
                changed = true;
            }
        }
        let folder = &self.path;
        self.files.retain(|name, file| {
            if listed.iter().any(|(listed, _)| listed == name) {
                return true;
            }
            // Something else in its place is no deletion.
            let is_folder = folder.join(name).is_dir();
            let reading = if is_folder { Reading::Unreadable("is a folder now".to_owned()) } else { Reading::Gone };
            if !file.settler.settle(&reading) {
                return true;
            }
            changed = true;
            if is_folder {
                file.apply(name, reading, false);
            }
            is_folder
        });
        changed
    }

    /// Puts the objects of all files together.
    fn assemble(&mut self) -> Snapshot {
        let mut objects = Objects { ingress_ports: self.ingress_ports, ..Objects::default() };
        let mut problems: Vec<Problem> = self.folder.iter().cloned().collect();
        let mut by_id: BTreeMap<&ObjectId, Vec<(&String, &Placed)>> = BTreeMap::new();
        for (name, file) in &self.files {
            problems.extend(file.problems.iter().cloned());
            for placed in &file.good {
                by_id.entry(&placed.id).or_default().push((name, placed));
            }
        }
        let mut owners = BTreeMap::new();
        for (id, candidates) in by_id {
            let before = self.owners.get(id);
            let Some((owner, placed)) =
                candidates.iter().find(|(name, _)| Some(*name) == before).or(candidates.first())
            else {
                continue;
            };
            for (_, other) in candidates.iter().filter(|(name, _)| name != owner) {
                problems.push(Problem::at(
                    other.origin.clone(),
                    format!("{id} stands twice, the other one is in {} and is used", placed.origin),
                ));
            }
            owners.insert(id.clone(), (*owner).clone());
            objects.origins.insert(id.clone(), placed.origin.clone());
            placed.object.clone().insert_into(&mut objects);
        }
        self.owners = owners;
        Snapshot { objects, problems }
    }

    fn broken_folder(&self, reason: &str) -> Problem {
        Problem::at(Origin::file(&self.path.display().to_string()), reason)
    }
}

const NO_FILES: &str = "holds no *.yaml, *.yml or *.json file";

impl File {
    /// Takes in a new version, if it holds.
    fn apply(&mut self, name: &str, reading: Reading, first: bool) {
        let stays =
            if self.good.is_empty() { "the file is not used" } else { "the last good version of the file stays" };
        let outcome = match reading {
            Reading::Bytes(bytes) => parse(name, &bytes),
            Reading::Gone => Err(vec![Problem::at(Origin::file(name), "is not there")]),
            Reading::Unreadable(reason) => Err(vec![Problem::at(Origin::file(name), reason)]),
        };
        self.problems = match outcome {
            Ok(good) if good.is_empty() && !self.good.is_empty() => {
                vec![Problem::at(
                    Origin::file(name),
                    format!("holds no object any more: {stays}; delete the file to remove its objects"),
                )]
            }
            Ok(good) => {
                self.good = good;
                Vec::new()
            }
            Err(mut problems) => {
                if !first {
                    problems.push(Problem::at(Origin::file(name), format!("does not hold: {stays}")));
                }
                problems
            }
        };
    }
}

/// A fault in a parser that is not ours must not end the watching of files.
fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Placed>, Vec<Problem>> {
    catch_unwind(|| document::read(name, bytes))
        .unwrap_or_else(|_| Err(vec![Problem::at(Origin::file(name), "makes the YAML parser fail; please report it")]))
}

/// Names and paths of the files to read, sorted by name.
fn list(path: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    if !fs::metadata(path).map_err(cannot)?.is_dir() {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        return Ok(vec![(name, path.to_owned())]);
    }
    let mut listed = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let wanted = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| EXTENSIONS.contains(&extension));
        // Hidden files are editors' and ConfigMap volumes' own; folders are not read.
        if wanted && !name.starts_with('.') && !path.is_dir() {
            listed.push((name, path));
        }
    }
    if listed.len() > FILES_MAX {
        return Err(format!("holds {} files, expected at most {FILES_MAX}", listed.len()));
    }
    let bytes: u64 = listed.iter().filter_map(|(_, path)| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum();
    if bytes > FOLDER_BYTES_MAX {
        return Err(format!("holds {} MiB, expected at most {} MiB", bytes >> 20, FOLDER_BYTES_MAX >> 20));
    }
    listed.sort();
    Ok(listed)
}

impl Provider for Files {
    async fn first(&mut self) -> Result<Snapshot, ProviderError> {
        let mut files = std::mem::replace(self, Files::new(PathBuf::new()));
        let (files, loaded) = poll::blocking(move || {
            let loaded = files.load();
            (files, loaded)
        })
        .await
        .map_err(|problem| ProviderError { problems: vec![problem] })?;
        *self = files;
        loaded
    }

    async fn watch(self, snapshots: watch::Sender<Arc<Snapshot>>, shutdown: CancellationToken) {
        poll::follow(self, Files::look, snapshots, shutdown).await;
    }
}

//! The volumes of a pod, as folders on this machine. What comes from objects is written as kubelet does it: files behind a link
//! that is swapped as a whole, and written again when the objects change.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::environment::{Facts, field};

type Files = BTreeMap<String, Vec<u8>>;

/// The volumes of one pod.
pub struct Volumes {
    client: Client,
    namespace: String,
    facts: Facts,
    folder: PathBuf,
    claims: PathBuf,
    /// What was written last, by volume.
    written: BTreeMap<String, Files>,
    /// Tokens by where they go: made once, valid for at least an hour.
    tokens: BTreeMap<String, Vec<u8>>,
}

impl Volumes {
    /// Volumes below `folder`; those of PersistentVolumeClaims below `claims`, where other pods find them too.
    pub fn new(client: Client, pod: &Pod, facts: Facts, folder: PathBuf, claims: PathBuf) -> Self {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        Self { client, namespace, facts, folder, claims, written: BTreeMap::new(), tokens: BTreeMap::new() }
    }

    /// Where a volume is.
    pub fn path(&self, volume: &Volume) -> PathBuf {
        match (&volume.persistent_volume_claim, &volume.host_path) {
            (Some(claim), _) => self.claims.join(&self.namespace).join(&claim.claim_name),
            (_, Some(host)) => PathBuf::from(&host.path),
            _ => self.folder.join(&volume.name),
        }
    }

    /// Makes the volumes, or brings them up to date.
    ///
    /// # Errors
    /// If an object is missing that is not optional, or a kind of volume is not supported; for people.
    pub async fn write(&mut self, pod: &Pod) -> Result<(), String> {
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let failed = |error: String| format!("volume {}: {error}", volume.name);
            let path = self.path(volume);
            if !path.exists() {
                let open = std::fs::Permissions::from_mode(0o777);
                let made = std::fs::create_dir_all(&path).and_then(|()| std::fs::set_permissions(&path, open));
                made.map_err(|error| failed(error.to_string()))?;
            }
            let Some(files) = self.files(pod, volume).await.map_err(failed)? else { continue };
            if self.written.get(&volume.name) != Some(&files) {
                swap(&path, &files).map_err(|error| failed(error.to_string()))?;
                self.written.insert(volume.name.clone(), files);
            }
        }
        Ok(())
    }

    /// The files of a volume that is made of objects; `None` of one that is not.
    async fn files(&mut self, pod: &Pod, volume: &Volume) -> Result<Option<Files>, String> {
        let mut files = Files::new();
        if let Some(source) = &volume.config_map {
            self.config_map(&source.name, source.items.as_deref(), source.optional, &mut files).await?;
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            self.secret(name, source.items.as_deref(), source.optional, &mut files).await?;
        } else if let Some(source) = &volume.downward_api {
            self.downward(pod, source.items.as_deref(), &mut files)?;
        } else if let Some(source) = &volume.projected {
            for source in source.sources.iter().flatten() {
                if let Some(source) = &source.config_map {
                    self.config_map(&source.name, source.items.as_deref(), source.optional, &mut files).await?;
                } else if let Some(source) = &source.secret {
                    self.secret(&source.name, source.items.as_deref(), source.optional, &mut files).await?;
                } else if let Some(source) = &source.downward_api {
                    self.downward(pod, source.items.as_deref(), &mut files)?;
                } else if let Some(source) = &source.service_account_token {
                    let token = self.token(pod, source).await?;
                    files.insert(source.path.clone(), token);
                } else {
                    return Err("this kind of projection is not supported here".to_owned());
                }
            }
        } else if volume.empty_dir.is_some() || volume.persistent_volume_claim.is_some() || volume.host_path.is_some() {
            return Ok(None);
        } else {
            return Err("this kind of volume is not supported here".to_owned());
        }
        Ok(Some(files))
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        files: &mut Files,
    ) -> Result<(), String> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some(found) = found(api.get_opt(name).await, "configmap", name, optional)? else { return Ok(()) };
        let text = found.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
        let bytes = found.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
        select(text.chain(bytes).collect(), items, files, name)
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        files: &mut Files,
    ) -> Result<(), String> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some(found) = found(api.get_opt(name).await, "secret", name, optional)? else { return Ok(()) };
        select(found.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect(), items, files, name)
    }

    fn downward(&self, pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>, files: &mut Files) -> Result<(), String> {
        for item in items.into_iter().flatten() {
            let path = item.field_ref.as_ref().map(|field| field.field_path.as_str()).unwrap_or_default();
            files.insert(item.path.clone(), field(path, pod, &self.facts)?.into_bytes());
        }
        Ok(())
    }

    /// A token of the pod's ServiceAccount that is bound to the pod, as kubelet asks for it.
    async fn token(&mut self, pod: &Pod, source: &ServiceAccountTokenProjection) -> Result<Vec<u8>, String> {
        if let Some(token) = self.tokens.get(&source.path) {
            return Ok(token.clone());
        }
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: source.audience.iter().cloned().collect(),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
                expiration_seconds: Some(source.expiration_seconds.unwrap_or(3600).max(3600)),
            },
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let answer = api.create_token_request(account, &PostParams::default(), &request).await;
        let status = answer.map_err(|error| error.to_string())?.status.ok_or("a TokenRequest without an answer")?;
        self.tokens.insert(source.path.clone(), status.token.clone().into_bytes());
        Ok(status.token.into_bytes())
    }
}

fn found<T>(
    answer: kube::Result<Option<T>>,
    kind: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<T>, String> {
    match answer {
        Ok(None) if optional != Some(true) => Err(format!("{kind} {name:?} not found")),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

/// Keys under their own names, or those of `items` under the paths that it gives them.
fn select(data: Files, items: Option<&[KeyToPath]>, files: &mut Files, name: &str) -> Result<(), String> {
    match items {
        None => files.extend(data),
        Some(items) => {
            for item in items {
                let value = data.get(&item.key).ok_or_else(|| format!("{name} has no key {}", item.key))?;
                files.insert(item.path.clone(), value.clone());
            }
        }
    }
    Ok(())
}

/// Writes a new generation of files and swaps the link `..data` to it; each file is a link through `..data`.
fn swap(folder: &Path, files: &Files) -> std::io::Result<()> {
    let generation = (0..).map(|n| format!("..{n}")).find(|name| !folder.join(name).exists()).expect("numbers go on");
    let target = folder.join(&generation);
    std::fs::create_dir(&target)?;
    for (path, bytes) in files {
        let file = target.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&file, bytes)?;
    }
    let (data, next) = (folder.join("..data"), folder.join("..next"));
    let old = std::fs::read_link(&data).ok();
    symlink(&generation, &next)?;
    std::fs::rename(&next, &data)?;
    for path in files.keys() {
        // Links are by the first part of the path: what lies below comes with it.
        let first = path.split('/').next().unwrap_or(path);
        if !folder.join(first).is_symlink() {
            symlink(Path::new("..data").join(first), folder.join(first))?;
        }
    }
    if let Some(old) = old {
        std::fs::remove_dir_all(folder.join(old))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
        let files = |value: &str| Files::from([("a/b".to_owned(), value.into()), ("c".to_owned(), value.into())]);
        swap(folder.path(), &files("one")).expect("written");
        assert_eq!((read("a/b"), read("c")), (Some("one".to_owned()), Some("one".to_owned())));
        swap(folder.path(), &files("two")).expect("written");
        assert_eq!((read("a/b"), read("c")), (Some("two".to_owned()), Some("two".to_owned())));
        swap(folder.path(), &Files::from([("c".to_owned(), "three".into())])).expect("written");
        assert_eq!((read("a/b"), read("c")), (None, Some("three".to_owned())));
    }
}

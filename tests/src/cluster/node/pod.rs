//! The life of a pod on its node: a place in the network, volumes, containers, a status that says what is, and the end with grace.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all, select_all};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::container::{self, Plan, Probes, Restart};
use super::environment::{Facts, command_line, environment};
use super::images;
use super::probe::Checks;
use super::status::{Picture, Report, State};
use super::volumes::Volumes;
use crate::cluster::network::{Network, Place};

/// How long is waited before what failed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How often volumes that are made of objects are brought up to date; kubelet takes a minute.
const REFRESH: Duration = Duration::from_secs(1);

/// What the pods of a cluster share.
pub struct Shared {
    /// As an administrator.
    pub client: Client,
    /// Where they run.
    pub network: Arc<Network>,
}

/// A pod on its node.
pub struct Life {
    /// What pods share.
    pub shared: Arc<Shared>,
    /// The node's name and place.
    pub node: (String, Place),
    /// The number of the pod's own place.
    pub index: u16,
    /// The pod, as the API server has it.
    pub latest: watch::Receiver<Arc<Pod>>,
    /// Cancelled when the API server has it no longer.
    pub gone: CancellationToken,
}

impl Life {
    /// Lives it. What the pod took is given back in the end, whatever ends it.
    pub async fn live(mut self) {
        let pod = Arc::clone(&self.latest.borrow());
        let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let place = if on_host { self.node.1.clone() } else { self.shared.network.pod(self.index) };
        let folder = self.shared.network.folder().join("pods").join(pod.metadata.uid.clone().unwrap_or_default());
        let gone = self.gone.clone();
        tokio::select! {
            () = gone.cancelled() => {}
            () = self.run(&pod, &place, &folder, on_host) => gone.cancelled().await,
        }
        let cleaned = spawn_blocking(move || {
            if !on_host {
                place.remove();
            }
            // Its containers' processes are gone, and their mounts with them.
            let _ = std::fs::remove_dir_all(folder);
        });
        let _ = cleaned.await;
    }

    async fn run(&mut self, pod: &Arc<Pod>, place: &Place, folder: &Path, on_host: bool) {
        let spec = pod.spec.clone().unwrap_or_default();
        let creating = || Report::waiting("ContainerCreating", "");
        let mut picture = Picture {
            address: None,
            node_address: self.node.1.address.to_string(),
            since: Timestamp::now(),
            init: spec.init_containers.iter().flatten().map(|_| Report::waiting("PodInitializing", "")).collect(),
            containers: spec.containers.iter().map(|_| creating()).collect(),
        };
        let facts = Facts {
            address: place.address.to_string(),
            node_address: self.node.1.address.to_string(),
            node: self.node.0.clone(),
        };
        if !on_host {
            let (network, at) = (Arc::clone(&self.shared.network), place.clone());
            let made = spawn_blocking(move || network.add(&at)).await;
            if let Some(problem) = problem(made) {
                return self.cannot_run(picture, "CreatePodSandboxError", &problem).await;
            }
            for sysctl in spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten()) {
                // Others are not the namespace's own, but this machine's.
                let allowed = sysctl.name.starts_with("net.ipv4.");
                let script = r#"printf %s "$2" >"/proc/sys/${1//.//}""#;
                let mut set = Network::command(&place.namespace, "bash");
                set.args(["-c", script, "sysctl", &sysctl.name, &sysctl.value]);
                if !allowed || !set.status().is_ok_and(|status| status.success()) {
                    return self.cannot_run(picture, "SysctlForbidden", &sysctl.name).await;
                }
            }
        }
        let claims = self.shared.network.folder().join("claims");
        let mut volumes = Volumes::new(self.shared.client.clone(), pod, facts.clone(), folder.join("volumes"), claims);
        while let Err(error) = volumes.write(pod).await {
            picture.containers.fill(Report::waiting("ContainerCreating", &error));
            self.write(&picture).await;
            if self.told_to_end(RETRY).await {
                return self.finish(picture).await;
            }
        }
        picture.address = Some(facts.address.clone());
        let shared = Arc::clone(&self.shared);
        let make = Maker { shared: &shared, pod, place, folder, facts: &facts, volumes: &volumes };
        let restart = match spec.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        };
        let init_restart = if restart == Restart::Never { Restart::Never } else { Restart::OnFailure };
        let (mut init, mut containers) = (Vec::new(), Vec::new());
        for (own, policy, plans) in [
            (spec.init_containers.clone().unwrap_or_default(), init_restart, &mut init),
            (spec.containers.clone(), restart, &mut containers),
        ] {
            for container in &own {
                loop {
                    match make.plan(container, policy).await {
                        Ok(plan) => break plans.push(plan),
                        Err((reason, error)) => {
                            picture.containers.fill(Report::waiting(reason, &error));
                            self.write(&picture).await;
                            if self.told_to_end(RETRY).await {
                                return self.finish(picture).await;
                            }
                        }
                    }
                }
            }
        }
        picture.containers.fill(creating());

        let senders = |reports: &[Report]| -> Vec<watch::Sender<Report>> {
            reports.iter().map(|report| watch::Sender::new(report.clone())).collect()
        };
        let (init_reports, reports) = (senders(&picture.init), senders(&picture.containers));
        let stop = watch::Sender::new(None);
        let done = CancellationToken::new();
        let running = async {
            for (plan, report) in init.iter().zip(&init_reports) {
                container::run(plan, report, stop.subscribe()).await;
                let failed = !matches!(report.borrow().state, State::Terminated(ended) if ended.code == 0);
                if failed || stop.borrow().is_some() {
                    return done.cancel();
                }
            }
            let all = containers.iter().zip(&reports);
            join_all(all.map(|(plan, report)| container::run(plan, report, stop.subscribe()))).await;
            done.cancel();
        };
        // It ends by itself, never in the middle of a request: a late write would undo the last one.
        let telling = async {
            let mut all: Vec<_> = init_reports.iter().chain(&reports).map(watch::Sender::subscribe).collect();
            loop {
                let current: Vec<Report> = all.iter_mut().map(|report| report.borrow_and_update().clone()).collect();
                let (init, own) = current.split_at(init_reports.len());
                (picture.init, picture.containers) = (init.to_vec(), own.to_vec());
                self.write(&picture).await;
                let mut latest = self.latest.clone();
                let changed = select_all(all.iter_mut().map(|report| Box::pin(report.changed())));
                tokio::select! {
                    _ = changed => {}
                    () = changed_gates(&mut latest) => {}
                    () = done.cancelled() => return,
                }
            }
        };
        let ending = async {
            let mut latest = self.latest.clone();
            // The task that sends it lives longer than this one.
            let _ = latest.wait_for(|pod| pod.metadata.deletion_timestamp.is_some()).await;
            let seconds = latest.borrow().metadata.deletion_grace_period_seconds.unwrap_or(30);
            stop.send_replace(Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))));
            std::future::pending::<()>().await;
        };
        let refreshing = async {
            loop {
                tokio::time::sleep(REFRESH).await;
                // What has gone missing since stays as it was, as kubelet has it.
                let _ = volumes.write(pod).await;
            }
        };
        tokio::select! {
            _ = join(running, telling) => {}
            () = ending => {}
            () = refreshing => {}
        }
        picture.init = init_reports.iter().map(|report| report.borrow().clone()).collect();
        picture.containers = reports.iter().map(|report| report.borrow().clone()).collect();
        self.finish(picture).await;
    }

    /// Says why the pod cannot run, until it is deleted.
    async fn cannot_run(&mut self, mut picture: Picture, reason: &str, message: &str) {
        picture.containers.fill(Report::waiting(reason, message));
        self.finish(picture).await;
    }

    /// Writes the last status, waits until the pod is to be deleted, and lets it go.
    async fn finish(&mut self, picture: Picture) {
        self.write(&picture).await;
        if self.latest.wait_for(|pod| pod.metadata.deletion_timestamp.is_some()).await.is_err() {
            return;
        }
        let (pods, name, uid) = self.api();
        let delete = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        loop {
            match pods.delete(&name, &delete).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => return,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Writes the status, again and again until the API server takes it or the pod is gone.
    async fn write(&self, picture: &Picture) {
        let (pods, name, _) = self.api();
        loop {
            let pod = Arc::clone(&self.latest.borrow());
            let patch = Patch::Merge(picture.status(&pod, Timestamp::now()));
            match pods.patch_status(&name, &PatchParams::default(), &patch).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    async fn told_to_end(&mut self, within: Duration) -> bool {
        let deleted = self.latest.wait_for(|pod| pod.metadata.deletion_timestamp.is_some());
        tokio::time::timeout(within, deleted).await.is_ok()
    }

    fn api(&self) -> (Api<Pod>, String, String) {
        let metadata = &self.latest.borrow().metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let pods = Api::namespaced(self.shared.client.clone(), namespace);
        (pods, metadata.name.clone().unwrap_or_default(), metadata.uid.clone().unwrap_or_default())
    }
}

/// Returns when a condition that readiness waits for has changed.
async fn changed_gates(latest: &mut watch::Receiver<Arc<Pod>>) {
    let gates = |pod: &Pod| -> Vec<(String, String)> {
        let names = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let all = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        names
            .flat_map(|gate| all.iter().filter(|condition| condition.type_ == gate.condition_type))
            .map(|condition| (condition.type_.clone(), condition.status.clone()))
            .collect()
    };
    let before = gates(&latest.borrow());
    if latest.wait_for(|pod| gates(pod) != before).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn problem(made: Result<anyhow::Result<()>, tokio::task::JoinError>) -> Option<String> {
    match made {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(error) => Some(error.to_string()),
    }
}

/// Makes plans of containers.
struct Maker<'a> {
    shared: &'a Shared,
    pod: &'a Pod,
    place: &'a Place,
    folder: &'a Path,
    facts: &'a Facts,
    volumes: &'a Volumes,
}

impl Maker<'_> {
    /// The plan of a container; else the reason, as kubelet has it, and what is wrong.
    async fn plan(&self, container: &Container, restart: Restart) -> Result<Plan, (&'static str, String)> {
        let config = |error: String| ("CreateContainerConfigError", error);
        let spec = self.pod.spec.as_ref().ok_or_else(|| config("a pod without spec".to_owned()))?;
        let image = images::find(container.image.as_deref().unwrap_or_default());
        let image = image.map_err(|error| ("ErrImagePull", error))?;
        let (own, shared) =
            (container.security_context.clone().unwrap_or_default(), spec.security_context.clone().unwrap_or_default());
        let user = own.run_as_user.or(shared.run_as_user).unwrap_or(image.user);
        if user == 0 && own.run_as_non_root.or(shared.run_as_non_root) == Some(true) {
            return Err(config("container has runAsNonRoot and image will run as root".to_owned()));
        }
        let group = own.run_as_group.or(shared.run_as_group).unwrap_or(user);
        let mut environment =
            environment(&self.shared.client, self.pod, container, self.facts).await.map_err(config)?;
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", self.shared.network.kubernetes().to_string()),
            ("KUBERNETES_SERVICE_PORT", "443".to_owned()),
            ("HOSTNAME", self.pod.metadata.name.clone().unwrap_or_default()),
        ] {
            environment.entry(name.to_owned()).or_insert(value);
        }
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let names = self.shared.network.names(namespace).map_err(|error| config(error.to_string()))?;
        let mut mounts = vec![(names, "/.names".to_owned(), false), (image.program, image.entry_point.clone(), false)];
        for mount in container.volume_mounts.iter().flatten() {
            let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
            let mut source = self.volumes.path(volume.ok_or_else(|| config(format!("no volume {}", mount.name)))?);
            if let Some(part) = &mount.sub_path {
                source.push(part);
            }
            mounts.push((source, mount.mount_path.clone(), mount.read_only != Some(true)));
        }
        let root = self.folder.join("roots").join(&container.name);
        let logs = self.shared.network.logs(namespace, self.pod.metadata.name.as_deref().unwrap_or_default());
        for folder in [&root, &logs] {
            std::fs::create_dir_all(folder).map_err(|error| config(error.to_string()))?;
        }
        let probe = |probe: &Option<Probe>| {
            probe.as_ref().map(|probe| Checks::of(probe, container)).transpose().map_err(config)
        };
        let pre_stop = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if pre_stop.is_some_and(|handler| handler.sleep.is_none()) {
            return Err(config("only lifecycle.preStop.sleep is supported here".to_owned()));
        }
        let seconds = pre_stop.and_then(|handler| handler.sleep.as_ref()).map_or(0, |sleep| sleep.seconds);
        Ok(Plan {
            namespace: self.place.namespace.clone(),
            root,
            read_only: own.read_only_root_filesystem == Some(true),
            user: format!("{user}:{group}"),
            mounts,
            command: command_line(container, &image.entry_point, &environment),
            environment,
            log: logs.join(format!("{}.log", container.name)),
            address: self.place.address.into(),
            probes: Probes {
                startup: probe(&container.startup_probe)?,
                readiness: probe(&container.readiness_probe)?,
                liveness: probe(&container.liveness_probe)?,
            },
            pre_stop: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            restart,
        })
    }
}

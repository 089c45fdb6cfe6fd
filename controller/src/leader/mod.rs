//! One leader among several controllers, by a Lease of the Kubernetes API. The leader decides, pushes to proxies and writes statuses; the
//! others follow the cluster and scrape as it does, so that they can take over at once, and send proxies on to the next address.
//!
//! A leader that cannot reach the API server goes on serving the proxies that it has: nobody else can take the lease then, and routing
//! matters more. It steps down when it sees that another one holds the lease.

pub mod elector;

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::elector::{Elector, Record, Step};
use crate::clock;

/// Name of the Lease unless it is said otherwise.
pub const LEASE_NAME: &str = "trimtab-controller";

/// Whether this controller leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// It does.
    Leading,
    /// It does not.
    Following {
        /// Who does, if anybody is known to.
        leader: Option<String>,
    },
}

impl Leadership {
    /// Whether this controller leads.
    pub fn leads(&self) -> bool {
        *self == Leadership::Leading
    }

    /// Why a proxy is sent on to another controller, if it is.
    ///
    /// # Errors
    /// This controller does not lead. Proxies try the next address at once on a failed precondition.
    pub fn admit(&self) -> Result<(), tonic::Status> {
        match self {
            Leadership::Leading => Ok(()),
            Leadership::Following { leader: Some(leader) } => {
                Err(tonic::Status::failed_precondition(format!("not the leader: {leader} is")))
            }
            Leadership::Following { leader: None } => {
                Err(tonic::Status::failed_precondition("not the leader: there is none at the moment"))
            }
        }
    }
}

/// Waits until this controller does not lead, and says what to tell proxies then.
pub async fn lost(leadership: &mut watch::Receiver<Leadership>) -> tonic::Status {
    let refused = match leadership.wait_for(|leadership| !leadership.leads()).await {
        Ok(leadership) => leadership.admit().err(),
        // Nobody speaks of it any more: it stays as it is.
        Err(_) => None,
    };
    match refused {
        Some(refused) => refused,
        None => std::future::pending().await,
    }
}

/// A channel that says that this controller always leads: there is no other.
pub fn alone() -> watch::Receiver<Leadership> {
    watch::channel(Leadership::Leading).1
}

/// Which Lease, who wants it, and how long it is good for.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// Namespace of the Lease; `None`: that of the service account or the kubeconfig.
    pub namespace: Option<String>,
    /// Name of the Lease.
    pub name: String,
    /// Unique among the candidates.
    pub identity: String,
    /// How long a lease is good for without renewal, in whole seconds. It is renewed four times in it.
    pub duration: Duration,
}

/// Takes part in the election until `shutdown`; then the lease is given up, so that another one need not wait. The channel says how it stands.
pub fn run(
    client: Client,
    options: LeaseOptions,
    shutdown: CancellationToken,
) -> (watch::Receiver<Leadership>, tokio::task::JoinHandle<()>) {
    let (sender, leadership) = watch::channel(Leadership::Following { leader: None });
    let namespace = options.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let candidate = Candidate {
        api: Api::namespaced(client, &namespace),
        elector: Elector::new(options.identity.clone(), options.duration / 8),
        held: None,
        options,
        failing: false,
        rng: StdRng::from_os_rng(),
    };
    (leadership, tokio::spawn(candidate.run(sender, shutdown)))
}

struct Candidate {
    api: Api<Lease>,
    options: LeaseOptions,
    elector: Elector,
    /// The Lease as it was last read or written.
    held: Option<Lease>,
    /// Whether the last attempt failed: it is said once.
    failing: bool,
    rng: StdRng,
}

impl Candidate {
    async fn run(mut self, leadership: watch::Sender<Leadership>, shutdown: CancellationToken) {
        loop {
            let began = clock::now().instant;
            // A request that hangs must not outlast what it is about.
            let limit = self.options.duration / 2;
            let wait = match tokio::time::timeout(limit, self.round()).await {
                Ok(Ok(wait)) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("the lease can be read and written again");
                    }
                    self.tell(&leadership);
                    wait
                }
                Ok(Err(error)) => self.failed(&error.to_string()),
                Err(_) => self.failed("the API server does not answer in time"),
            };
            let wait = wait
                .saturating_sub(clock::now().instant.saturating_duration_since(began))
                .mul_f64(self.rng.random_range(0.9..1.0));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        if leadership.borrow().leads() {
            self.give_up().await;
        }
        leadership.send_replace(Leadership::Following { leader: None });
    }

    fn failed(&mut self, reason: &str) -> Duration {
        if !std::mem::replace(&mut self.failing, true) {
            let leads = self.elector.leads();
            tracing::warn!(reason, leads, "the lease can be neither read nor written; who leads stays as it is");
        }
        // What is held here may be old news.
        self.held = None;
        self.elector.lost_sight();
        self.options.duration / 8
    }

    /// Reads the lease where it is not known, does what there is to do, and says when to look again.
    async fn round(&mut self) -> Result<Duration, kube::Error> {
        if self.held.is_none() || !self.elector.leads() {
            self.held = self.api.get_opt(&self.options.name).await?;
            self.elector.observe(self.held.as_ref().map(record), clock::now().instant);
        }
        let transitions = match self.elector.step(clock::now().instant) {
            Step::Wait(wait) => return Ok(wait),
            Step::Write { transitions } => transitions,
        };
        match self.write(Some(self.options.identity.clone()), transitions).await {
            Ok(()) => Ok(self.options.duration / 4),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Somebody else was faster: see who.
                self.held = None;
                Ok(Duration::ZERO)
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&mut self, holder: Option<String>, transitions: i32) -> Result<(), kube::Error> {
        let now = MicroTime(Timestamp::now());
        let before = self.held.as_ref().and_then(|lease| lease.spec.as_ref());
        let kept = before.filter(|spec| spec.holder_identity == holder).and_then(|spec| spec.acquire_time.clone());
        let lease = Lease {
            metadata: match &self.held {
                Some(held) => ObjectMeta { managed_fields: None, ..held.metadata.clone() },
                None => ObjectMeta { name: Some(self.options.name.clone()), ..ObjectMeta::default() },
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.or_else(|| Some(String::new())),
                lease_duration_seconds: i32::try_from(self.options.duration.as_secs()).ok(),
                acquire_time: kept.or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        };
        let params = PostParams { field_manager: Some(crate::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match self.held {
            Some(_) => self.api.replace(&self.options.name, &params, &lease).await?,
            None => self.api.create(&params, &lease).await?,
        };
        self.elector.observe(Some(record(&written)), clock::now().instant);
        self.held = Some(written);
        Ok(())
    }

    fn tell(&self, leadership: &watch::Sender<Leadership>) {
        let now = match self.elector.leads() {
            true => Leadership::Leading,
            false => Leadership::Following { leader: self.elector.holder().map(str::to_owned) },
        };
        leadership.send_if_modified(|told| {
            let news = *told != now;
            if news {
                match &now {
                    Leadership::Leading => tracing::info!(identity = self.options.identity, "this controller leads"),
                    Leadership::Following { leader } => {
                        let leader = leader.as_deref().unwrap_or("nobody");
                        tracing::info!(identity = self.options.identity, leader, "this controller follows");
                    }
                }
                *told = now;
            }
            news
        });
    }

    /// Lets another one lead at once. Failing that, it waits until the lease has run out.
    async fn give_up(&mut self) {
        let transitions = self.held.as_ref().map_or(0, |lease| record(lease).transitions);
        if self.held.is_some()
            && let Ok(Err(error)) = tokio::time::timeout(self.options.duration / 2, self.write(None, transitions)).await
        {
            tracing::debug!(%error, "the lease could not be given up");
        }
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        renewed: spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or_default(),
        duration: Duration::from_secs(
            u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default(),
        ),
    }
}

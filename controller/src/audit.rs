//! The audit log: who changed what the proxies do. A JSON object a line, for changes of the configuration (which object, and who wrote it
//! last, as far as its source tells), for the life of models (the events of their store, with who caused them), and for leadership.
//!
//! A thread of its own writes, so that no disk holds up the control loop; what it cannot take is counted and said in the next line.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
    jiff::Timestamp,
};
use kube::Resource;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use trimtab_model::rollout::Event;

use crate::{clock, leader::Leadership, objects::Objects, problem::ObjectId, provider::Snapshot};

/// Lines that wait for the disk at most.
const QUEUE: usize = 4_096;

/// Where audit records go. Clones write to the same place.
#[derive(Clone)]
pub struct Audit {
    queue: SyncSender<String>,
    lost: Arc<AtomicU64>,
    controller: Arc<str>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audit({})", self.controller)
    }
}

impl PartialEq for Audit {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lost, &other.lost)
    }
}

impl Audit {
    /// Of the controller that is called so; to the end of a file, or to standard output if the path is `-`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path, controller: &str) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(fs::OpenOptions::new().create(true).append(true).open(path)?)
        };
        let (queue, lines) = sync_channel(QUEUE);
        let audit = Self { queue, lost: Arc::default(), controller: controller.into() };
        let path = path.to_owned();
        thread::Builder::new().name("audit".to_owned()).spawn(move || write(&lines, output, &path))?;
        Ok(audit)
    }

    /// An object of the configuration is another one.
    pub fn configuration(&self, change: &ObjectChange, at_ms: i64) {
        let mut record = self.record("configuration", at_ms);
        record.insert("change".to_owned(), change.what.into());
        record.insert("object".to_owned(), change.object.to_string().into());
        let known = [
            ("generation", change.generation.map(Value::from)),
            ("manager", change.manager.clone().map(Value::from)),
            ("origin", change.origin.clone().map(Value::from)),
        ];
        record.extend(known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        self.offer(record);
    }

    /// Something has happened to a version of the policy.
    pub fn model(&self, event: &Event) {
        let mut record = self.record("model", event.at_ms);
        if let Ok(Value::Object(event)) = serde_json::to_value(event) {
            let told = event.into_iter().filter(|(name, _)| !matches!(name.as_str(), "at_ms" | "schema_version"));
            record.extend(told);
        }
        self.offer(record);
    }

    /// This controller begins or ceases to lead.
    pub fn leadership(&self, leads: bool, at_ms: i64) {
        let mut record = self.record("leadership", at_ms);
        record.insert("leads".to_owned(), leads.into());
        self.offer(record);
    }

    fn record(&self, kind: &str, at_ms: i64) -> Map<String, Value> {
        let time = Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |time| time.to_string());
        let fields = json!({ "time": time, "kind": kind, "controller": &*self.controller });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn offer(&self, mut record: Map<String, Value>) {
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            record.insert("lost_before".to_owned(), lost.into());
        }
        let mut line = Value::Object(record).to_string();
        line.push('\n');
        if self.queue.try_send(line).is_err() {
            self.lost.fetch_add(lost + 1, Relaxed);
        }
    }
}

fn write(lines: &Receiver<String>, mut output: Box<dyn Write + Send>, path: &Path) {
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        // At once: a record that matters is not to wait for the next one.
        match output.write_all(line.as_bytes()).and_then(|()| output.flush()) {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(path = %path.display(), %error, "the audit log cannot be written");
                }
            }
        }
    }
}

/// Writes what changes from snapshot to snapshot, from the first one on, until there are no more. Changes that come within one are one.
pub async fn follow(audit: Audit, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut before = Arc::<Snapshot>::default();
    loop {
        let after = snapshots.borrow_and_update().clone();
        let at_ms = clock::now().at_ms;
        for change in changes(&before.objects, &after.objects) {
            audit.configuration(&change, at_ms);
        }
        before = after;
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Writes when this controller begins and ceases to lead.
pub async fn follow_leadership(audit: Audit, mut leadership: watch::Receiver<Leadership>) {
    let mut led = false;
    loop {
        let leads = leadership.borrow_and_update().leads();
        if std::mem::replace(&mut led, leads) != leads {
            audit.leadership(leads, clock::now().at_ms);
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectChange {
    /// `added`, `changed` or `removed`.
    pub what: &'static str,
    /// Which.
    pub object: ObjectId,
    /// Counts the changes of its specification.
    pub generation: Option<i64>,
    /// The field manager that wrote it last; of one that was removed, before that.
    pub manager: Option<String>,
    /// File and line, where it comes from a file.
    pub origin: Option<String>,
}

/// Objects that people write and that are others now. Services, endpoints, pods and namespaces are the cluster's doing, and not told.
pub fn changes(before: &Objects, after: &Objects) -> Vec<ObjectChange> {
    let mut found = Vec::new();
    let origin = |id: &ObjectId| after.origins.get(id).or_else(|| before.origins.get(id)).map(ToString::to_string);
    macro_rules! compare {
        ($($name:literal $field:ident),* $(,)?) => {
            $(differences($name, &before.$field, &after.$field, &origin, &mut found);)*
        };
    }
    compare!(
        "GatewayClass" gateway_classes,
        "Gateway" gateways,
        "HTTPRoute" http_routes,
        "GRPCRoute" grpc_routes,
        "ReferenceGrant" reference_grants,
        "BackendTrafficPolicy" policies,
        "Secret" secrets,
    );
    found
}

fn differences<K: Resource + PartialEq>(
    kind: &'static str,
    before: &[K],
    after: &[K],
    origin: &dyn Fn(&ObjectId) -> Option<String>,
    found: &mut Vec<ObjectChange>,
) {
    let by_id = |objects: &'_ [K]| -> BTreeMap<(String, String), usize> {
        let id =
            |meta: &ObjectMeta| (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        objects.iter().enumerate().map(|(index, object)| (id(object.meta()), index)).collect()
    };
    let (old, new) = (by_id(before), by_id(after));
    let mut note = |what, (namespace, name): &(String, String), meta: &ObjectMeta| {
        let object = ObjectId::new(kind, namespace, name);
        let manager = meta.managed_fields.iter().flatten().find_map(|entry| entry.manager.clone());
        let origin = origin(&object);
        found.push(ObjectChange { what, generation: meta.generation, manager, origin, object });
    };
    for (id, index) in &new {
        match old.get(id) {
            None => note("added", id, after[*index].meta()),
            Some(earlier) if before[*earlier] != after[*index] => note("changed", id, after[*index].meta()),
            Some(_) => {}
        }
    }
    for (id, index) in old.iter().filter(|(id, _)| !new.contains_key(*id)) {
        note("removed", id, before[*index].meta());
    }
}

/// Of the managers of an object's fields the one that wrote last, statuses apart: all that is kept of them.
pub fn last_writer(entries: Option<Vec<ManagedFieldsEntry>>) -> Option<Vec<ManagedFieldsEntry>> {
    let written = entries?.into_iter().filter(|entry| entry.subresource.is_none());
    let last = written.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    Some(vec![ManagedFieldsEntry { manager: last.manager, operation: last.operation, ..ManagedFieldsEntry::default() }])
}

#[cfg(test)]
mod tests {
    use gateway_api::gateways::Gateway;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn gateway(name: &str, generation: i64, manager: &str) -> Gateway {
        let at = |second| Some(Time(Timestamp::from_second(second).unwrap()));
        let entry = |manager: &str, second, subresource: Option<&str>| ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            time: at(second),
            subresource: subresource.map(str::to_owned),
            ..ManagedFieldsEntry::default()
        };
        let entries = vec![entry(manager, 2, None), entry("earlier", 1, None), entry("trimtab", 3, Some("status"))];
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("shop".to_owned()),
            generation: Some(generation),
            managed_fields: last_writer(Some(entries)),
            ..ObjectMeta::default()
        };
        Gateway { metadata, spec: Default::default(), status: None }
    }

    fn objects(gateways: Vec<Gateway>) -> Objects {
        Objects { gateways, ..Objects::default() }
    }

    #[test]
    fn a_change_is_told_with_who_wrote_it() {
        let before = objects(vec![gateway("stays", 1, "a"), gateway("changes", 1, "a"), gateway("goes", 4, "a")]);
        let after =
            objects(vec![gateway("changes", 2, "kubectl"), gateway("stays", 1, "a"), gateway("comes", 1, "helm")]);
        let told: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|c| format!("{} {} {} {}", c.what, c.object, c.generation.unwrap(), c.manager.unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                "changed Gateway shop/changes 2 kubectl",
                "added Gateway shop/comes 1 helm",
                "removed Gateway shop/goes 4 a",
            ]
        );
    }

    #[tokio::test]
    async fn records_are_lines_of_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let audit = Audit::open(&path, "one").unwrap();
        let (sender, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let following = tokio::spawn(follow(audit.clone(), snapshots));
        let objects = objects(vec![gateway("a\nb", 1, "kubectl")]);
        sender.send(Arc::new(Snapshot { objects, problems: Vec::new() })).unwrap();
        audit.leadership(true, 0);
        let read = || fs::read_to_string(&path).unwrap();
        for _ in 0..500 {
            if read().lines().count() == 2 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let lines: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |kind: &str| lines.iter().find(|line| line["kind"] == kind).unwrap();
        assert_eq!(
            *of("leadership"),
            json!({"time": "1970-01-01T00:00:00Z", "kind": "leadership", "controller": "one", "leads": true})
        );
        assert_eq!(
            (&of("configuration")["object"], &of("configuration")["manager"]),
            (&json!("Gateway shop/a\nb"), &json!("kubectl"))
        );
        drop(sender);
        following.await.unwrap();
    }
}

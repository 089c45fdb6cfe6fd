//! The status of a pod, from what its containers do. Pure.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not yet, or not at the moment.
    Waiting {
        /// A word, such as `CrashLoopBackOff`.
        reason: String,
        /// For people.
        message: String,
    },
    /// Its process runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Its process has ended, for good.
    Terminated(Ended),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 128 and the signal's number after a signal.
    pub code: i32,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// A container, as its status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it does.
    pub state: State,
    /// How its last process ended, if another one followed.
    pub last: Option<Ended>,
    /// How often it was started again.
    pub restarts: u32,
    /// Its readiness probe's opinion.
    pub ready: bool,
    /// Its startup probe's opinion.
    pub started: bool,
}

impl Report {
    /// Of a container that waits.
    pub fn waiting(reason: &str, message: &str) -> Self {
        let state = State::Waiting { reason: reason.to_owned(), message: message.to_owned() };
        Self { state, last: None, restarts: 0, ready: false, started: false }
    }
}

/// A pod, as its status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Its address, once it has one.
    pub address: Option<String>,
    /// Its node's.
    pub node_address: String,
    /// Since when it is on its node.
    pub since: Timestamp,
    /// Init containers, in order.
    pub init: Vec<Report>,
    /// Containers, in order.
    pub containers: Vec<Report>,
}

impl Picture {
    fn initialized(&self) -> bool {
        self.init.iter().all(|report| matches!(report.state, State::Terminated(ended) if ended.code == 0))
    }

    fn phase(&self) -> &'static str {
        let ended = |report: &Report| if let State::Terminated(ended) = report.state { Some(ended.code) } else { None };
        if self.init.iter().filter_map(ended).any(|code| code != 0) {
            return "Failed";
        }
        let codes: Vec<Option<i32>> = self.containers.iter().map(ended).collect();
        let begun = self.containers.iter().any(|report| report.restarts > 0 || report.last.is_some());
        if codes.iter().all(Option::is_some) {
            if codes.iter().all(|code| *code == Some(0)) { "Succeeded" } else { "Failed" }
        } else if begun || self.containers.iter().any(|report| !matches!(report.state, State::Waiting { .. })) {
            "Running"
        } else {
            "Pending"
        }
    }

    /// The `status` of the pod at this time, as a merge patch. Conditions that are not kubelet's are kept from `pod`, and so are the
    /// times of those that do not change.
    pub fn status(&self, pod: &Pod, now: Timestamp) -> Value {
        let phase = self.phase();
        let over = matches!(phase, "Succeeded" | "Failed");
        let all_ready = self.containers.iter().all(|report| report.ready) && !over;
        let old = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let gates_open = gates.into_iter().all(|gate| {
            old.iter().any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
        });
        let own = [
            ("PodScheduled", true),
            ("PodReadyToStartContainers", self.address.is_some()),
            ("Initialized", self.initialized()),
            ("ContainersReady", all_ready),
            ("Ready", all_ready && gates_open),
        ];
        let mut conditions: Vec<Value> = own
            .iter()
            .map(|(name, holds)| {
                let status = if *holds { "True" } else { "False" };
                let before = old.iter().find(|condition| condition.type_ == *name && condition.status == status);
                let since =
                    before.and_then(|condition| condition.last_transition_time.as_ref()).map_or(now, |time| time.0);
                let reason = match (holds, over) {
                    (true, _) => None,
                    (false, true) => Some("PodCompleted"),
                    (false, false) if *name == "Initialized" => Some("ContainersNotInitialized"),
                    (false, false) => Some("ContainersNotReady"),
                };
                json!({ "type": name, "status": status, "reason": reason, "lastTransitionTime": time(since) })
            })
            .collect();
        let others = old.iter().filter(|condition| own.iter().all(|(name, _)| *name != condition.type_));
        conditions.extend(others.map(|condition| json!(condition)));
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let statuses = |containers: &[Container], reports: &[Report]| -> Vec<Value> {
            containers.iter().zip(reports).map(|(container, report)| container_status(container, uid, report)).collect()
        };
        let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let own = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        json!({ "status": {
            "phase": phase,
            "observedGeneration": pod.metadata.generation,
            "conditions": conditions,
            "hostIP": self.node_address,
            "hostIPs": [{ "ip": self.node_address }],
            "podIP": self.address,
            "podIPs": self.address.as_ref().map(|address| json!([{ "ip": address }])),
            "startTime": time(self.since),
            "initContainerStatuses": statuses(init, &self.init),
            "containerStatuses": statuses(own, &self.containers),
        }})
    }
}

fn container_status(container: &Container, uid: &str, report: &Report) -> Value {
    let (name, image) = (&container.name, container.image.as_deref().unwrap_or_default());
    let id = format!("process://{uid}-{name}-{}", report.restarts);
    let ended = |ended: &Ended| {
        json!({ "terminated": {
            "exitCode": ended.code,
            "reason": if ended.code == 0 { "Completed" } else { "Error" },
            "startedAt": time(ended.started),
            "finishedAt": time(ended.finished),
            "containerID": id,
        }})
    };
    let state = match &report.state {
        State::Waiting { reason, message } => json!({ "waiting": { "reason": reason, "message": message } }),
        State::Running { since } => json!({ "running": { "startedAt": time(*since) } }),
        State::Terminated(how) => ended(how),
    };
    json!({
        "name": name,
        "image": image,
        "imageID": image,
        "containerID": id,
        "ready": report.ready,
        "started": report.started,
        "restartCount": report.restarts,
        "state": state,
        "lastState": report.last.as_ref().map_or(json!({}), ended),
    })
}

/// Kubernetes has seconds in these places; what is finer it would refuse to keep.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    fn picture(containers: Vec<Report>) -> Picture {
        let address = Some("10.224.1.0".to_owned());
        Picture { address, node_address: "10.224.0.11".to_owned(), since: at(0), init: Vec::new(), containers }
    }

    fn report(state: State, ready: bool, restarts: u32) -> Report {
        Report { state, last: None, restarts, ready, started: true }
    }

    fn ended(code: i32) -> State {
        State::Terminated(Ended { code, started: at(1), finished: at(2) })
    }

    #[test]
    fn the_phase_follows_the_containers() {
        let running = || State::Running { since: at(1) };
        let waiting = || Report::waiting("ContainerCreating", "").state;
        for (containers, expected) in [
            (vec![report(waiting(), false, 0)], "Pending"),
            (vec![report(running(), true, 0), report(waiting(), false, 0)], "Running"),
            (vec![report(waiting(), false, 3)], "Running"),
            (vec![report(ended(0), false, 0), report(running(), true, 0)], "Running"),
            (vec![report(ended(0), false, 0), report(ended(0), false, 0)], "Succeeded"),
            (vec![report(ended(0), false, 0), report(ended(137), false, 0)], "Failed"),
        ] {
            assert_eq!(picture(containers.clone()).phase(), expected, "{containers:?}");
        }
    }

    #[test]
    fn conditions_keep_their_time_until_they_change_and_others_are_kept() {
        let pod = |status: Value| -> Pod {
            let spec = json!({ "containers": [{ "name": "c", "image": "pod" }], "readinessGates": [{ "conditionType": "gate" }] });
            serde_json::from_value(json!({ "spec": spec, "status": status["status"] })).expect("a pod")
        };
        let gate = json!({ "status": { "conditions": [{ "type": "gate", "status": "True" }] } });
        let well = picture(vec![report(State::Running { since: at(1) }, true, 0)]);
        let first = well.status(&pod(gate), at(10));
        let condition = |status: &Value, name: &str| {
            let all = status["status"]["conditions"].as_array().expect("conditions").clone();
            all.into_iter().find(|condition| condition["type"] == name).expect("the condition")
        };
        assert_eq!(condition(&first, "Ready")["status"], "True");
        assert_eq!(condition(&first, "gate")["status"], "True");
        assert_eq!(well.status(&pod(first.clone()), at(20)), first);
        let ill = picture(vec![report(State::Running { since: at(1) }, false, 0)]).status(&pod(first.clone()), at(20));
        assert_eq!(condition(&ill, "Ready")["status"], "False");
        assert_ne!(condition(&ill, "Ready")["lastTransitionTime"], condition(&first, "Ready")["lastTransitionTime"]);
        assert_eq!(condition(&ill, "Initialized"), condition(&first, "Initialized"));
        let closed = well.status(&pod(json!({ "status": {} })), at(10));
        assert_eq!(condition(&closed, "Ready")["status"], "False");
        assert_eq!(condition(&closed, "ContainersReady")["status"], "True");
    }
}

//! The test cluster itself: what other tests rely on.

#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use trimtab_tests::cluster::Cluster;
use trimtab_tests::cluster::node::images::PodState;
use trimtab_tests::http::{self, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace with a Deployment `web` of simulated pods behind a Service `web`, in which all replicas are ready.
async fn web(cluster: &Cluster, namespace: &str, replicas: usize, args: &str) -> Client {
    let yaml = format!(
        r"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec:
  selector: {{app: web}}
  ports:
  - {{name: http, port: 80, targetPort: http}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
      - name: web
        image: pod
        args: {args}
        ports:
        - {{name: http, containerPort: 8080}}
        readinessProbe: {{httpGet: {{path: /readyz, port: 9090}}, periodSeconds: 1, failureThreshold: 1}}
        livenessProbe: {{httpGet: {{path: /livez, port: 9090}}, periodSeconds: 1, failureThreshold: 2}}
"
    );
    cluster.apply(&yaml).await.expect("the objects are taken");
    let client = cluster.client().await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let ready = async || {
        let status = deployments.get("web").await.expect("the Deployment").status;
        status.and_then(|status| status.ready_replicas).unwrap_or(0)
    };
    eventually("replicas are ready", PATIENCE, ready, |ready| *ready as usize == replicas).await;
    client
}

async fn endpoints(client: &Client, namespace: &str) -> Vec<Endpoint> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let all = slices.list(&ListParams::default().labels("kubernetes.io/service-name=web")).await.expect("slices");
    all.items.into_iter().flat_map(|slice| slice.endpoints).collect()
}

/// ready, serving and terminating, as the slice has them.
fn conditions(endpoint: &Endpoint) -> (Option<bool>, Option<bool>, Option<bool>) {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    (conditions.ready, conditions.serving, conditions.terminating)
}

fn address(endpoint: &Endpoint, port: u16) -> SocketAddr {
    SocketAddr::new(endpoint.addresses[0].parse().expect("an address"), port)
}

async fn pod_of(client: &Client, namespace: &str) -> Pod {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let all = pods.list(&ListParams::default()).await.expect("pods").items;
    assert_eq!(all.len(), 1, "one pod");
    all.into_iter().next().expect("one pod")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.and_then(|statuses| statuses.first()).map_or(0, |status| status.restart_count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_ready_and_its_endpoints_and_its_service_answer() {
    let cluster = Cluster::shared().await;
    let client = web(cluster, "three", 3, "[]").await;
    let ready = |all: &Vec<Endpoint>| {
        all.iter().filter(|one| conditions(one) == (Some(true), Some(true), Some(false))).count() == 3
    };
    eventually("three endpoints are ready", PATIENCE, || endpoints(&client, "three"), ready).await;
    let all = endpoints(&client, "three").await;
    let requests = http::Client::default();
    for endpoint in &all {
        let answer = requests.get(address(endpoint, 8080), "/").await.expect("the pod answers");
        assert_eq!(answer.status, 200);
    }
    let mut zones: Vec<_> = all.iter().filter_map(|endpoint| endpoint.zone.clone()).collect();
    zones.sort();
    assert_eq!(zones, ["zone-a", "zone-b", "zone-c"], "pods are spread");

    let services: Api<Service> = Api::namespaced(client.clone(), "three");
    let cluster_ip =
        services.get("web").await.expect("the Service").spec.and_then(|spec| spec.cluster_ip).expect("an IP");
    let service = SocketAddr::new(cluster_ip.parse().expect("an address"), 80);
    let asked = || async { requests.get(service, "/").await.map(|answer| answer.status) };
    eventually("the Service answers", PATIENCE, asked, |status| *status == Ok(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fails_its_probes_is_taken_out_and_started_again() {
    let cluster = Cluster::shared().await;
    let client = web(cluster, "probes", 1, "[]").await;
    let only = || async { endpoints(&client, "probes").await.first().map(conditions) };
    let up = Some((Some(true), Some(true), Some(false)));
    eventually("the endpoint is ready", PATIENCE, only, |found| *found == up).await;
    let at = address(&endpoints(&client, "probes").await[0], 9090);
    http::put(at, "/state", &PodState { ready: false, ..PodState::default() }).await.expect("it obeys");
    eventually("it is not ready", PATIENCE, only, |found| *found == Some((Some(false), Some(false), Some(false))))
        .await;
    http::put(at, "/state", &PodState::default()).await.expect("it obeys");
    eventually("it is ready again", PATIENCE, only, |found| *found == up).await;
    assert_eq!(restarts(&pod_of(&client, "probes").await), 0);

    http::put(at, "/state", &PodState { live: false, ..PodState::default() }).await.expect("it obeys");
    let count = || async { restarts(&pod_of(&client, "probes").await) };
    eventually("its liveness probe restarts it", PATIENCE, count, |count| *count == 1).await;
    eventually("it is ready again", PATIENCE, only, |found| *found == up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_deleted_shows_that_it_ends_serves_on_and_is_killed_after_its_grace() {
    let cluster = Cluster::shared().await;
    let client = web(cluster, "grace", 1, "[--stubborn]").await;
    let pod = pod_of(&client, "grace").await.metadata.name.expect("a name");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "grace");
    let at = address(&endpoints(&client, "grace").await[0], 8080);
    let start = Instant::now();
    pods.delete(&pod, &DeleteParams::default()).await.expect("deleted");
    let ending = || async {
        let all = endpoints(&client, "grace").await;
        all.iter().find(|endpoint| address(endpoint, 8080) == at).map(conditions)
    };
    let shown = Some((Some(false), Some(true), Some(true)));
    eventually("the slice shows that it ends", PATIENCE, ending, |found| *found == shown).await;
    let answer = http::Client::default().get(at, "/").await.expect("it still serves");
    assert_eq!(answer.status, 200);
    let there = || async { pods.get_opt(&pod).await.expect("an answer").is_some() };
    eventually("it is gone", PATIENCE, there, |there| !there).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(3), "its grace is 3 s, it was gone after {took:?}");
    // Nobody has the address any more: a connection is refused by nobody, it just does not come about.
    let connecting = tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(at)).await;
    assert!(!matches!(connecting, Ok(Ok(_))), "its process has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_crashes_is_started_again_with_back_off() {
    let cluster = Cluster::shared().await;
    let yaml = "
apiVersion: v1
kind: Namespace
metadata: {name: crash}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: crash}
---
apiVersion: v1
kind: Pod
metadata: {name: crash, namespace: crash}
spec:
  containers: [{name: crash, image: pod, args: [--exit=3]}]
";
    cluster.apply(yaml).await.expect("the objects are taken");
    let client = cluster.client().await;
    let count = || async { restarts(&pod_of(&client, "crash").await) };
    eventually("it is started again", PATIENCE, count, |count| *count >= 2).await;
    let waits = || async {
        let status = pod_of(&client, "crash").await.status;
        let status = status.and_then(|status| status.container_statuses).expect("container statuses").remove(0);
        let reason = status.state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason);
        let last = status.last_state.and_then(|state| state.terminated).map(|ended| ended.exit_code);
        (reason, last, status.ready)
    };
    let backs_off = (Some("CrashLoopBackOff".to_owned()), Some(3), false);
    eventually("it backs off", PATIENCE, waits, |found| *found == backs_off).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_has_its_volumes_environment_user_and_read_only_root() {
    let cluster = Cluster::shared().await;
    web(cluster, "inside", 2, "[]").await;
    let yaml = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: inside}
data: {greeting: hello}
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: inside}
spec:
  clusterIP: None
  selector: {app: web}
---
apiVersion: batch/v1
kind: Job
metadata: {name: look, namespace: inside}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      securityContext:
        sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]
      containers:
      - name: look
        image: pod
        command: [sh, -c]
        args:
        - |
          set -e
          echo user=$(id -u) pod=$POD_NAME/$POD_NAMESPACE ip=$(POD_IP) greeting=$GREETING
          test "$(cat /etc/settings/greeting)" = hello
          test -s /var/run/secrets/kubernetes.io/serviceaccount/token
          if touch /new 2>/dev/null; then echo writable; fi
          touch /scratch/new
          until [ "$(getent ahostsv4 all.inside.svc | grep -c STREAM)" = 2 ]; do sleep 0.1; done
          getent hosts web web.inside.svc
          cat /proc/sys/net/ipv4/ip_unprivileged_port_start
        env:
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: settings, key: greeting}}}
        securityContext: {runAsNonRoot: true, readOnlyRootFilesystem: true}
        volumeMounts:
        - {name: settings, mountPath: /etc/settings}
        - {name: scratch, mountPath: /scratch}
      volumes:
      - {name: settings, configMap: {name: settings}}
      - {name: scratch, emptyDir: {}}
"#;
    cluster.apply(yaml).await.expect("the objects are taken");
    let client = cluster.client().await;
    let jobs: Api<Job> = Api::namespaced(client.clone(), "inside");
    let over = || async {
        let status = jobs.get("look").await.expect("the Job").status.unwrap_or_default();
        (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0))
    };
    eventually("the Job is over", PATIENCE, over, |(succeeded, failed)| succeeded + failed > 0).await;
    let pods: Api<Pod> = Api::namespaced(client, "inside");
    let pod = pods.list(&ListParams::default().labels("job-name=look")).await.expect("pods").items.remove(0);
    let name = pod.metadata.name.expect("a name");
    let ip = pod.status.and_then(|status| status.pod_ip).expect("an address");
    let text = cluster.logs("inside", &name, "look");
    assert_eq!(over().await, (1, 0), "{text}");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(format!("user=65532 pod={name}/inside ip={ip} greeting=hello").as_str()), "{text}");
    let names: Vec<&str> = lines.by_ref().take(2).collect();
    assert!(names[0].ends_with(" web") && names[1].ends_with(" web.inside.svc"), "{text}");
    assert_eq!(lines.collect::<Vec<_>>(), ["0"], "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_without_rights_is_refused_and_one_with_a_role_may_do_what_it_says() {
    let cluster = Cluster::shared().await;
    let apply = cluster.apply(
        r"
apiVersion: v1
kind: Namespace
metadata: {name: rights}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: nobody, namespace: rights}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: rights}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: rights}
rules:
- {apiGroups: [''], resources: [configmaps], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: rights}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: rights}]
",
    );
    apply.await.expect("the objects are taken");
    let list = async |client: Client| {
        let configs: Api<ConfigMap> = Api::namespaced(client, "rights");
        configs.list(&ListParams::default()).await
    };
    let nobody = cluster.service_account("rights", "nobody").await.expect("a token");
    let refused = list(nobody).await.expect_err("no right to do that");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");

    let reader = cluster.service_account("rights", "reader").await.expect("a token");
    list(reader.clone()).await.expect("its role says so");
    let namespaces: Api<Namespace> = Api::all(reader);
    let refused = namespaces.list(&ListParams::default()).await.expect_err("its role does not say so");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
}

//! The charts: linted, rendered with the values that people set, and every object checked by a real API server.

use std::path::{Path, PathBuf};

use kube::api::DynamicObject;
use tokio::process::Command;
use trimtab_tests::cluster::{Cluster, objects};
use trimtab_tests::tools::Tools;

/// Groups whose definitions are other people's, and not in the test cluster.
const NOT_DEFINED_HERE: [&str; 2] = ["gateway.networking.k8s.io/", "monitoring.coreos.com/"];

fn chart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm").join(name)
}

/// What `helm` prints; else what it says.
async fn helm(args: &[&str]) -> Result<String, String> {
    let tools = Tools::find(&["kubernetes"]).await.expect("helm is built");
    let mut command = Command::new(tools.path("helm").expect("helm is named"));
    let output = command.args(args).output().await.expect("helm runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("helm prints text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stdout) + &text(output.stderr)) }
}

/// The objects of the chart `trimtab` with these values.
async fn render(values: &[&str]) -> Result<Vec<DynamicObject>, String> {
    let chart = chart("trimtab").display().to_string();
    let mut args = vec!["template", "trimtab", &chart, "--namespace", "trimtab"];
    for value in values {
        args.extend(["--set", value]);
    }
    let text = helm(&args).await?;
    Ok(objects::parse(&text).unwrap_or_else(|error| panic!("{error:#}\n{text}")))
}

fn kinds(objects: &[DynamicObject]) -> Vec<&str> {
    objects.iter().filter_map(|object| object.types.as_ref()).map(|types| types.kind.as_str()).collect()
}

#[tokio::test]
async fn charts_pass_the_linter() {
    for name in ["trimtab", "trimtab-crds"] {
        let chart = chart(name).display().to_string();
        helm(&["lint", "--strict", &chart]).await.unwrap_or_else(|said| panic!("{said}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_takes_every_object_of_the_charts() {
    let cluster = Cluster::shared().await;
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: trimtab}}").await.expect("a namespace");
    let definitions = helm(&["template", "crds", &chart("trimtab-crds").display().to_string()]).await;
    let definitions = objects::parse(&definitions.expect("the chart renders")).expect("objects");
    assert_eq!(kinds(&definitions), ["CustomResourceDefinition"]);
    cluster.try_apply(definitions).await.expect("definitions are taken");
    let sets: [&[&str]; 5] = [
        &[],
        &[
            "proxy.kind=DaemonSet",
            "proxy.hostNetwork=true",
            "proxy.service.type=ClusterIP",
            "networkPolicy.enabled=false",
            "ingressClass.default=true",
        ],
        &[
            "proxy.gatewayServices.enabled=true,proxy.gatewayServices.annotations.note=yes",
            "proxy.gatewayServices.loadBalancerClass=example.com/lb",
        ],
        &[
            "proxy.service.type=NodePort",
            "proxy.service.ports[0].name=http,proxy.service.ports[0].port=80,proxy.service.ports[0].nodePort=30080",
            "tls.managed=false,tls.controllerSecret=one,tls.proxySecret=two",
            "sessions.keySecret=three",
            "namespaces={a,b}",
            "networkPolicy.monitoringFrom[0].namespaceSelector.matchLabels.name=monitoring",
            "controller.extraEnv[0].name=A,controller.extraEnv[0].value=b",
            "proxy.extraEnvFrom[0].secretRef.name=credentials",
            "proxy.podLabels.team=edge,proxy.podAnnotations.note=yes",
            "proxy.tolerations[0].operator=Exists,proxy.nodeSelector.pool=edge",
        ],
        &[
            "recordings.url=s3://bucket/recordings,models.url=s3://bucket/models",
            "train.job=true,train.cronJob=true,train.backend=shop/web:80",
            "train.extraEnvFrom[0].secretRef.name=credentials,train.extraArgs={--seed=2}",
            "serviceMonitor.enabled=true,podMonitor.enabled=true,serviceMonitor.labels.release=prometheus",
        ],
    ];
    for values in sets {
        let objects = render(values).await.unwrap_or_else(|said| panic!("{values:?}: {said}"));
        let group = |object: &DynamicObject| object.types.clone().unwrap_or_default().api_version;
        let here = |object: &DynamicObject| !NOT_DEFINED_HERE.iter().any(|other| group(object).starts_with(other));
        let objects = objects.into_iter().filter(here).collect();
        cluster.try_apply(objects).await.unwrap_or_else(|error| panic!("{values:?}: {error:#}"));
    }
}

#[tokio::test]
async fn values_decide_which_objects_there_are() {
    let usual = render(&[]).await.expect("it renders");
    let usual = kinds(&usual);
    for kind in
        ["GatewayClass", "Deployment", "PodDisruptionBudget", "NetworkPolicy", "ClusterRole", "Role", "IngressClass"]
    {
        assert!(usual.contains(&kind), "no {kind} in {usual:?}");
    }
    for kind in ["DaemonSet", "Job", "CronJob", "ServiceMonitor", "PodMonitor"] {
        assert!(!usual.contains(&kind), "{kind} in {usual:?}");
    }
    let said = render(&["train.job=true"]).await.expect_err("there are no recordings");
    assert!(said.contains("recordings.url"), "{said}");
    let said = render(&["tls.managed=false"]).await.expect_err("there are no Secrets");
    assert!(said.contains("tls.proxySecret") || said.contains("tls.controllerSecret"), "{said}");
    let said = render(&["proxy.kind=StatefulSet"]).await.expect_err("it is none of those that there are");
    assert!(said.contains("kind"), "{said}");
}

#[tokio::test]
async fn keys_of_sessions_are_the_controllers_own_secret_or_one_that_is_named() {
    let controller = async |values: &[&str]| {
        let objects = render(values).await.expect("it renders");
        let of = |kind: &str| {
            let found = objects.iter().find(|object| {
                let is = object.types.as_ref().is_some_and(|types| types.kind == kind);
                is && object.metadata.name.as_deref() == Some("trimtab-controller")
            });
            found.unwrap_or_else(|| panic!("a {kind}")).data.clone()
        };
        let pod = of("Deployment")["spec"]["template"]["spec"].clone();
        let args: Vec<String> = serde_json::from_value(pod["containers"][0]["args"].clone()).expect("arguments");
        let args: Vec<String> = args.into_iter().filter(|arg| arg.starts_with("--session")).collect();
        let rules = of("Role")["rules"].as_array().expect("rules").clone();
        let secrets = rules.into_iter().filter(|rule| rule["resources"] == serde_json::json!(["secrets"]));
        let secrets: Vec<String> = secrets.map(|rule| format!("{} {}", rule["verbs"], rule["resourceNames"])).collect();
        (args, pod, secrets)
    };
    let (args, pod, secrets) = controller(&[]).await;
    assert_eq!(args, ["--session-key-secret"]);
    assert!(secrets.contains(&r#"["get"] ["trimtab-session-keys"]"#.to_owned()), "{secrets:?}");
    assert_eq!(pod["volumes"].as_array().map(Vec::len), Some(1));
    let theirs = ["tls.managed=false,tls.controllerSecret=one,tls.proxySecret=two", "sessions.keySecret=three"];
    let (args, pod, secrets) = controller(&theirs).await;
    assert_eq!(args, ["--session-key-file=/etc/trimtab/sessions/keys"]);
    assert!(secrets.is_empty(), "who is given everything makes nothing: {secrets:?}");
    let volume = pod["volumes"].as_array().expect("volumes").iter().find(|volume| volume["name"] == "sessions");
    assert_eq!(volume.expect("a volume")["secret"]["secretName"], "three");
    let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
    let mounted = mounts.iter().find(|mount| mount["name"] == "sessions").expect("it is mounted");
    assert_eq!((&mounted["mountPath"], &mounted["readOnly"]), (&"/etc/trimtab/sessions".into(), &true.into()));
    let said = render(&["sessions.key=x"]).await.expect_err("there is no such value");
    assert!(said.contains("sessions"), "{said}");
}

#[tokio::test]
async fn no_container_may_do_more_than_it_needs() {
    let values = ["recordings.url=s3://bucket/recordings", "train.job=true,train.cronJob=true"];
    let mut containers = 0;
    for object in render(&values).await.expect("it renders") {
        let data = &object.data;
        let pod = ["/spec/template/spec", "/spec/jobTemplate/spec/template/spec"]
            .into_iter()
            .find_map(|path| data.pointer(path));
        let Some(pod) = pod else { continue };
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let shared = &pod["securityContext"];
        assert_eq!((&shared["runAsNonRoot"], &shared["runAsUser"]), (&true.into(), &65532.into()), "{name}");
        assert_eq!(shared["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for container in pod["containers"].as_array().expect("containers") {
            let own = &container["securityContext"];
            assert_eq!(own["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(own["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(own["capabilities"], serde_json::json!({ "drop": ["ALL"] }), "{name}");
            assert!(container["resources"]["requests"].is_object(), "{name}");
            containers += 1;
        }
    }
    assert_eq!(containers, 4, "controller, proxy, job and cron job");
}

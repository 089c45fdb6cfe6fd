//! The test cluster itself: what other tests rely on.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::ListParams;
use kube::{Api, Client};
use trimtab_tests::cluster::Cluster;

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

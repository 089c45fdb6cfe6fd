//! The network of a cluster: a network namespace of its own with a bridge, joined to the machine by one pair of virtual interfaces.
//!
//! Pods get a namespace and an address each, so that they may listen on `0.0.0.0`, on the same port as their neighbours, and on loopback
//! without anybody hearing it, as in a real cluster. It also contains everything: what runs in these namespaces is found by them and
//! ended with them.
//!
//! Clusters side by side get numbers. Number N has pods in 10.(224+N).0.0/16, Services in 10.(192+N).0.0/16 and crowds (see `crowd`) in
//! 10.(160+N).0.0/16. A *janitor*, a small
//! shell process, holds the lock of the number. It cleans up when its standard input closes, which happens however this process
//! ends, a kill included.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Clusters that fit beside each other on a machine.
const CLUSTERS_MAX: u8 = 32;

/// The first number of a pod: what comes before is for the machine, the API server and nodes.
pub const PODS_FROM: u16 = 256;

/// What the janitor runs under the lock: cleans what an earlier owner of the number may have left (a machine that lost power), says so,
/// waits for the end of its input, cleans again. `$1` is the name of the namespace, `$2` the folder, `$3` the network of Services.
const JANITOR: &str = r#"
trap '' INT TERM HUP
clean() {
    local namespace
    for namespace in $(ip netns list | cut -d' ' -f1 | grep -E "^$1(-|\$)"); do
        ip netns pids "$namespace" | xargs -r kill -KILL
        ip netns delete "$namespace"
    done
    ip link delete "$1"
    ip route delete unreachable "$3"
    rm -rf "$2"
} 2>/dev/null
clean "$@"
mkdir -p "$2" && echo claimed
cat >/dev/null
clean "$@"
"#;

/// The network of one cluster. Dropping it ends every process in it and removes it.
#[derive(Debug)]
pub struct Network {
    name: String,
    number: u8,
    folder: PathBuf,
    janitor: Child,
}

impl Network {
    /// Takes the first number that is free, and sets its network up.
    ///
    /// # Errors
    /// If this is not root, all numbers are taken, or the kernel refuses.
    pub fn create() -> anyhow::Result<Self> {
        let root = std::env::temp_dir().join("trimtab-cluster");
        std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        for number in 0..CLUSTERS_MAX {
            if let Some(network) = Self::claim(number, &root)? {
                network.set_up().context("cannot set up network namespaces, which needs root on Linux")?;
                return Ok(network);
            }
        }
        bail!("all {CLUSTERS_MAX} clusters of this machine are in use, by the locks in {}", root.display());
    }

    fn claim(number: u8, root: &Path) -> anyhow::Result<Option<Self>> {
        let (name, folder) = (format!("trimtab{number}"), root.join(number.to_string()));
        let services = format!("{}/16", Ipv4Addr::new(10, 192 + number, 0, 0));
        let mut janitor = Command::new("flock")
            .args(["--nonblock", "--conflict-exit-code", "75"])
            .arg(root.join(format!("{number}.lock")))
            .args(["bash", "-c", JANITOR, "janitor", &name])
            .arg(&folder)
            .arg(services)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start flock, of util-linux")?;
        let mut line = String::new();
        BufReader::new(janitor.stdout.take().context("no standard output")?).read_line(&mut line)?;
        if line == "claimed\n" {
            return Ok(Some(Self { name, number, folder, janitor }));
        }
        let status = janitor.wait()?;
        ensure!(status.code() == Some(75), "the janitor of cluster {number} ended with {status}");
        Ok(None)
    }

    fn set_up(&self) -> anyhow::Result<()> {
        let (name, host, api, services) = (&self.name, self.host(), self.api(), self.services());
        // A bridge without a hardware address of its own takes the lowest of its ports', and changes it as ports come: connections break.
        let hardware = "02:74:74:00:00:01";
        ip(
            &[],
            &format!(
                "netns add {name}
                link add {name} type veth peer name uplink netns {name}
                address add {host}/16 dev {name}
                link set {name} up
                route add unreachable {services}"
            ),
        )?;
        ip(
            &["-n", name],
            &format!(
                "link set lo up
                link add bridge address {hardware} type bridge
                address add {api}/16 dev bridge
                link set bridge up
                link set uplink master bridge up
                route add default via {host}"
            ),
        )
    }

    /// A folder for the cluster's files; removed with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder that containers of a Kubernetes namespace have as `/.names`: with the file `hosts`, in which Services are found by name.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn names(&self, namespace: &str) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join("names").join(namespace);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let hosts = folder.join("hosts");
        if !hosts.exists() {
            std::fs::write(&hosts, "127.0.0.1 localhost\n")?;
        }
        Ok(folder)
    }

    /// The folder of what a pod's containers print, `CONTAINER.log` each.
    pub fn logs(&self, namespace: &str, pod: &str) -> PathBuf {
        self.folder.join("logs").join(namespace).join(pod)
    }

    /// The namespace of the control plane, which holds the bridge.
    pub fn namespace(&self) -> &str {
        &self.name
    }

    /// This machine's own address in the network.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 224 + self.number, 0, 1)
    }

    /// The address of the API server.
    pub fn api(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 224 + self.number, 0, 2)
    }

    /// Where Services get their cluster IPs from.
    pub fn services(&self) -> String {
        format!("{}/16", Ipv4Addr::new(10, 192 + self.number, 0, 0))
    }

    /// The cluster IP of the Service `kubernetes`: the first of [`Network::services`].
    pub fn kubernetes(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 192 + self.number, 0, 1)
    }

    /// A namespace with an address in this network, for a node or a pod.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add(&self, place: &Place) -> anyhow::Result<()> {
        let Place { namespace, address } = place;
        let (fabric, host) = (&self.name, self.host());
        // Unique, and short enough for an interface: the last two bytes of the address.
        let [_, _, third, fourth] = address.octets();
        let port = format!("p{third}-{fourth}");
        ip(
            &[],
            &format!(
                "netns add {namespace}\nlink add eth0 netns {namespace} type veth peer name {port} netns {fabric}"
            ),
        )?;
        ip(
            &["-n", namespace],
            &format!(
                "link set lo up
                address add {address}/16 dev eth0
                link set eth0 up
                route add default via {host}"
            ),
        )?;
        ip(&["-n", fabric], &format!("link set {port} master bridge up"))
    }

    /// Where number `index` of the pods goes.
    pub fn pod(&self, index: u16) -> Place {
        let [third, fourth] = index.to_be_bytes();
        self.place(format!("pod-{index}"), third, fourth)
    }

    /// Where number `index` of the nodes goes, from 1.
    pub fn node(&self, index: u8) -> Place {
        self.place(format!("node-{index}"), 0, 10 + index)
    }

    /// Where a crowd of pods that share a process goes.
    pub fn crowd(&self) -> Place {
        self.place("crowd".to_owned(), 0, 9)
    }

    /// The first of the 65,536 addresses of a crowd.
    pub fn crowd_addresses(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 160 + self.number, 0, 0)
    }

    /// Has all addresses of a crowd lead to `place`, and be addresses of it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn route_crowd(&self, place: &Place) -> anyhow::Result<()> {
        let addresses = self.crowd_addresses();
        ip(&[], &format!("route replace {addresses}/16 via {}", place.address))?;
        ip(&["-n", &place.namespace], &format!("route add local {addresses}/16 dev lo"))
    }

    fn place(&self, name: String, third: u8, fourth: u8) -> Place {
        Place {
            namespace: format!("{}-{name}", self.name),
            address: Ipv4Addr::new(10, 224 + self.number, third, fourth),
        }
    }

    /// Gives this machine the cluster IP of a Service, so that what is sent there from anywhere in the cluster arrives here.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_service(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        ip(&[], &format!("address replace {address}/32 dev {}", self.name))
    }

    /// Takes it away again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_service(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        ip(&[], &format!("address delete {address}/32 dev {}", self.name))
    }

    /// A command that runs in a namespace of this network, in its place (same process id).
    pub fn command(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command.stdin(Stdio::null());
        command
    }
}

/// A network namespace and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the namespace.
    pub namespace: String,
    /// Its address, on `eth0`.
    pub address: Ipv4Addr,
}

impl Place {
    /// Kills what still runs in it and removes it. What is gone already is fine.
    pub fn remove(&self) {
        let script = r#"ip netns pids "$1" | xargs -r kill -KILL; ip netns delete "$1""#;
        // Whatever fails here is done by the janitor when the cluster ends.
        let _ = Command::new("bash").args(["-c", script, "remove", &self.namespace]).stderr(Stdio::null()).status();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // A janitor that failed has said why; the next owner of the number cleans up.
        let _ = self.janitor.wait();
    }
}

/// Runs commands of `ip`, one a line.
fn ip(options: &[&str], batch: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip, of iproute2")?;
    child.stdin.take().context("no standard input")?.write_all(batch.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

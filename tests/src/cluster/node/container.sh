# Runs in the network namespace and the mount namespace of a container, and becomes its process.
#   $1 an empty folder for its root   $2 ro|rw   $3 user:group   then mounts, as MODE SOURCE TARGET, `--`, the command
# The root is what an image without a distribution has: nothing but the machine's libraries, and what is mounted.
set -eu
root=$1 mode=$2 user=$3
shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir -p "$root"/{dev,proc,sys,usr,run,var,etc/ssl,tmp}
chmod 1777 "$root/tmp"
ln -s ../run "$root/var/run"
for name in bin sbin lib lib64; do
    if [[ -L /$name ]]; then
        cp -P "/$name" "$root/$name"
    elif [[ -d /$name ]]; then
        mkdir "$root/$name"
        mount --bind -o ro "/$name" "$root/$name"
    fi
done
for name in dev proc sys; do mount --rbind "/$name" "$root/$name"; done
mount --bind -o ro /usr "$root/usr"
mount --bind -o ro /etc/ssl "$root/etc/ssl"
printf 'hosts: files\n' >"$root/etc/nsswitch.conf"
# Without it a name has only the first of its addresses.
printf 'multi on\n' >"$root/etc/host.conf"
ln -s /.names/hosts "$root/etc/hosts"
while [[ $1 != -- ]]; do
    if [[ -d $2 ]]; then
        mkdir -p "$root$3"
    else
        mkdir -p "$(dirname "$root$3")"
        touch "$root$3"
    fi
    mount --bind -o "$1" "$2" "$root$3"
    shift 3
done
shift
if [[ $mode == ro ]]; then mount -o remount,ro "$root"; fi
exec chroot --userspec="$user" --groups= "$root" "$@"

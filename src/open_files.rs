//! Connections are open files, and many systems let a process open only 1,024 of them (256 on macOS) until it asks for more.

/// Asked for at most: more connections than one machine's ports allow to one address.
const WANTED: u64 = 1 << 18;

/// Fewer than so many deserve a word: the demo's two worlds need about that at most.
const NEEDED: u64 = 8_192;

/// Raises the limit of open files as far as the system lets this process.
pub fn raise_limit() {
    match rlimit::increase_nofile_limit(WANTED) {
        Ok(limit) if limit >= NEEDED => {}
        Ok(limit) => tracing::warn!(limit, needed = NEEDED, "few open files are allowed, connections may fail for it"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

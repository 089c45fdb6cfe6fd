//! Two worlds in one process need more sockets than many systems let a process open at first (a soft limit of 1024, 256 on
//! macOS), although they would let it open more.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Sockets that two worlds need at the most: four for each request in flight, and some.
const NEEDED: u64 = 8192;

/// Marks that the limit was raised already.
const RAISED: &str = "TRIMTAB_DEMO_RAISED";

/// Starts this process anew under a higher soft limit where the present one is too low. The shell's `ulimit` does it: the
/// system call has no safe wrapper in the standard library. Where even that fails, the demo goes on with what there is.
pub fn raise_limit() {
    let asked = Command::new("sh").args(["-c", "ulimit -n"]).output();
    let soft = asked.ok().and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse::<u64>().ok());
    // "unlimited" does not parse, and needs nothing.
    let (Some(soft), Ok(program)) = (soft, std::env::current_exe()) else { return };
    if soft >= NEEDED {
        return;
    }
    if std::env::var_os(RAISED).is_some() {
        tracing::warn!(
            limit = soft,
            needed = NEEDED,
            "too few open files are allowed, requests may fail for that reason"
        );
        return;
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let script = format!("ulimit -n {NEEDED} 2>/dev/null || ulimit -n \"$(ulimit -H -n)\"; exec \"$0\" \"$@\"");
    let error = Command::new("sh").arg("-c").arg(script).arg(program).args(arguments).env(RAISED, "1").exec();
    tracing::warn!(%error, soft, needed = NEEDED, "cannot raise the limit of open files");
}

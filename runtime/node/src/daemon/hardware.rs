//! What this host has: CPUs and GPUs, as far as they can be counted without any vendor's library.

use std::fs;

use mobula_types::resources::{Amount, Resources};

/// All CPUs this process may use, and all GPUs.
pub fn resources() -> Resources {
    Resources { cpus: Amount::whole(cpus()), gpus: Amount::whole(gpus()), others: Default::default() }
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// NVIDIA's driver lists its devices in `/proc`; inside a container that was given some of them, only those have a file
/// in `/dev`.
fn gpus() -> u64 {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let numbered = |name: &str| {
        name.strip_prefix("nvidia").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let in_dev = entries("/dev").filter(|entry| entry.file_name().to_str().is_some_and(numbered)).count() as u64;
    let in_proc = entries("/proc/driver/nvidia/gpus").count() as u64;
    if in_proc == 0 { 0 } else { in_dev.min(in_proc) }
}

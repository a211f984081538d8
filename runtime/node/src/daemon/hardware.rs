//! What this host has: CPUs and GPUs.

use std::ffi::OsStr;
use std::fs;

use mobula_types::resources::{Amount, Resources};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// The name that every driver installs; the one without a number comes with development packages only.
const NVML: &str = "libnvidia-ml.so.1";

/// All CPUs this process may use, and all GPUs.
pub fn resources() -> Resources {
    Resources { cpus: Amount::whole(cpus()), gpus: Amount::whole(gpus()), others: Default::default() }
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// The devices that NVIDIA's library lists. A driver without that library, as containers may have it, is asked by its
/// files.
fn gpus() -> u64 {
    match listed() {
        Ok(count) => count,
        Err(error) => {
            tracing::debug!(%error, "NVML lists no devices");
            filed()
        }
    }
}

fn listed() -> Result<u64, NvmlError> {
    let nvml = Nvml::builder().lib_path(OsStr::new(NVML)).init()?;
    nvml.device_count().map(u64::from)
}

/// NVIDIA's driver lists its devices in `/proc`; inside a container that was given some of them, only those have a file
/// in `/dev`.
fn filed() -> u64 {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let numbered = |name: &str| {
        name.strip_prefix("nvidia")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let in_dev = entries("/dev").filter(|entry| entry.file_name().to_str().is_some_and(numbered)).count() as u64;
    let in_proc = entries("/proc/driver/nvidia/gpus").count() as u64;
    if in_proc == 0 { 0 } else { in_dev.min(in_proc) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_driver_has_no_gpus_and_says_so_at_once() {
        if std::path::Path::new("/proc/driver/nvidia").exists() {
            // Both ways of counting must agree where there are some.
            assert_eq!(listed().expect("a driver has its library"), filed());
        } else {
            assert_eq!(gpus(), 0);
        }
        assert!(cpus() >= 1);
    }
}

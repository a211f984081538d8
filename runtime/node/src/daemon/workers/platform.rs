//! Which programs this host can run, and what the file of a program was built for; what is read stands in `logic::elf`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mobula_types::program::{Glibc, Platform, Target};

use super::logic::elf;

/// What this host can run. Its glibc is asked by its file, the one that this process runs with if there is one: asking the
/// library itself takes a call that is not safe, and running `ldd` a process.
pub fn of_this_host() -> Platform {
    let machine = match std::env::consts::ARCH {
        "x86" => "i686",
        other => other,
    };
    let has_musl = Path::new(&format!("/lib/ld-musl-{machine}.so.1")).exists();
    let glibc = loaded_libc().into_iter().chain(usual_places(machine)).find_map(|path| glibc_of(&path));
    Platform { machine: machine.to_owned(), glibc, has_musl }
}

/// What the program in a file was built for; none when it does not say, as a script does not.
pub(crate) fn target_of(file: &File) -> Option<Target> {
    elf::target(&mut |at, len| part(file, at, len))
}

fn glibc_of(path: &Path) -> Option<Glibc> {
    let file = File::open(path).ok()?;
    elf::newest(&mut |at, len| part(&file, at, len))
}

/// The libc that this process has loaded, by the name that it has had in every version.
fn loaded_libc() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = |line: &str| line.split_once('/').map(|(_, path)| PathBuf::from(format!("/{path}")));
    maps.lines().filter_map(path).find(|path| {
        // Before 2.34 the file had its version in its name.
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name == "libc.so.6" || name.starts_with("libc-2."))
    })
}

/// Where the libc of a host is when this process has none of it: it is linked statically, or to musl.
fn usual_places(machine: &str) -> impl Iterator<Item = PathBuf> {
    let folders =
        [format!("/lib/{machine}-linux-gnu"), "/lib64".into(), "/usr/lib64".into(), "/usr/lib".into(), "/lib".into()];
    folders.into_iter().map(|folder| PathBuf::from(folder).join("libc.so.6"))
}

fn part(file: &File, at: u64, len: usize) -> Option<Vec<u8>> {
    let (mut bytes, mut have) = (vec![0; len], 0);
    while have < len {
        match file.read_at(&mut bytes[have..], at.checked_add(have as u64)?) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(have);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_runs_this_program() {
        let host = of_this_host();
        let target = target_of(&File::open("/proc/self/exe").unwrap()).expect("it has been linked");
        assert!(host.runs(&target), "{target} on {host}");
        assert_eq!(host.machine, target.machine);
    }

    #[test]
    fn a_script_says_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"#!/bin/sh\necho\n").unwrap();
        assert_eq!(target_of(&file), None);
    }
}

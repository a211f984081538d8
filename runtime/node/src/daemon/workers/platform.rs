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
    use super::super::logic::elf::tests::{gnu, over, program};
    use super::super::logic::elf::{newest, target};
    use super::*;
    use mobula_types::program::Libc;

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

    #[test]
    fn this_program_and_its_libc_are_read() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let target = over(&own, target).expect("this program has been linked");
        assert_eq!(target.machine, std::env::consts::ARCH);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc =
            maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|path| path.ends_with("/libc.so.6")));
        if let (Libc::Gnu(needed), Some(libc)) = (target.library, libc) {
            let has = over(&std::fs::read(libc).unwrap(), newest).expect("it has versions");
            assert!(has >= needed && needed.major == 2, "{has} and {needed}");
        }
    }

    /// A run prints its seed; `MOBULA_FUZZ_SEED` repeats it.
    #[test]
    fn a_mangled_file_is_read_within_bounds() {
        const INPUTS: usize = 50_000;
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed = std::env::var("MOBULA_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("MOBULA_FUZZ_SEED={seed}");
        let mut state = seed | 1;
        // xorshift64* (Vigna 2016).
        let mut below = |bound: usize| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
        };
        let seeds = [gnu(), program(false, false, 40, "/lib/ld-linux.so.3", &["GLIBC_2.17"; 8])];
        let mut read = 0;
        for _ in 0..INPUTS {
            let mut bytes = seeds[below(seeds.len())].clone();
            for _ in 0..=below(6) {
                // Most of the file is empty: the changes go where something is.
                let regions = [(0, 64), (0x40, 168), (0x200, 64), (0x380, 32), (0x400, 64), (0x600, 160)];
                let (start, len) = regions[below(regions.len())];
                bytes[start + below(len)] = [0, 1, 0x7f, 0x80, 0xff, below(256) as u8][below(6)];
            }
            if below(4) == 0 {
                bytes.truncate(below(bytes.len()));
            }
            read += usize::from(over(&bytes, target).is_some());
            over(&bytes, newest);
        }
        assert!(read > INPUTS / 100, "changes of {INPUTS} left only {read} programs");
    }
}

//! What a program needs of the host that runs it, and what a host offers (design.md §2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of the symbols of glibc, as `GLIBC_2.34`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Glibc {
    /// Before the first dot.
    pub major: u16,
    /// Behind it.
    pub minor: u16,
}

impl Glibc {
    /// The version in the name of a version, if it is one of glibc's public ones. A third number, as of `GLIBC_2.2.5`, is
    /// left out: hosts have differed in it for the last time in 2004.
    ///
    /// ```
    /// use mobula_types::program::Glibc;
    /// assert_eq!(Glibc::parse("GLIBC_2.2.5"), Some(Glibc { major: 2, minor: 2 }));
    /// assert_eq!(Glibc::parse("GLIBC_PRIVATE"), None);
    /// ```
    pub fn parse(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix("GLIBC_")?.split('.');
        let mut number = || numbers.next().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok();
        Some(Self { major: number()?, minor: number()? })
    }
}

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GLIBC_{}.{}", self.major, self.minor)
    }
}

/// The C library that a program was linked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Libc {
    /// None that a host must have: it is linked statically.
    #[default]
    Static,
    /// glibc, of at least this version of its symbols.
    Gnu(Glibc),
    /// musl, loaded when it starts.
    Musl,
}

/// What a program was built for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The machine, as target triples begin with it.
    pub machine: String,
    /// The C library.
    pub library: Libc,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        match self.library {
            Libc::Static => write!(f, "{machine}-unknown-linux, linked statically"),
            Libc::Gnu(version) => write!(f, "{machine}-unknown-linux-gnu with {version}"),
            Libc::Musl => write!(f, "{machine}-unknown-linux-musl"),
        }
    }
}

/// What a host can run. An empty machine means that it is not known: then all programs are tried there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The machine, as target triples begin with it.
    pub machine: String,
    /// The newest symbols of its glibc, if it has one.
    pub glibc: Option<Glibc>,
    /// Whether it has musl's loader.
    pub has_musl: bool,
}

impl Platform {
    /// Whether it can run what was built for `target`.
    ///
    /// ```
    /// use mobula_types::program::{Glibc, Libc, Platform, Target};
    /// let glibc = |minor| Glibc { major: 2, minor };
    /// let host = Platform { machine: "x86_64".into(), glibc: Some(glibc(31)), has_musl: false };
    /// let target = |minor| Target { machine: "x86_64".into(), library: Libc::Gnu(glibc(minor)) };
    /// assert!(host.runs(&target(31)) && !host.runs(&target(34)));
    /// ```
    pub fn runs(&self, target: &Target) -> bool {
        let has_libc = match target.library {
            Libc::Static => true,
            Libc::Gnu(version) => self.glibc.is_some_and(|has| has >= version),
            Libc::Musl => self.has_musl,
        };
        self.machine.is_empty() || self.machine == target.machine && has_libc
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-unknown-linux", self.machine)?;
        match (self.glibc, self.has_musl) {
            (Some(version), false) => write!(f, "-gnu with {version}"),
            (Some(version), true) => write!(f, "-gnu with {version}, and musl"),
            (None, true) => f.write_str("-musl"),
            (None, false) => f.write_str(" without a C library"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered_as_numbers() {
        let version = |text| Glibc::parse(text);
        assert!(version("GLIBC_2.4") < version("GLIBC_2.34") && version("GLIBC_2.34") < version("GLIBC_3.0"));
        assert_eq!(version("GLIBC_2.34").unwrap().to_string(), "GLIBC_2.34");
        for odd in ["GLIBC_PRIVATE", "GLIBC_2", "GLIBC_", "GLIBC_2.x", "GLIBC_+2.1", "GLIBC_2.70000", "GCC_3.0", ""] {
            assert_eq!(version(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_host_runs_what_its_machine_and_libc_can() {
        let glibc = |minor| Glibc { major: 2, minor };
        let of = |machine: &str, library| Target { machine: machine.into(), library };
        let gnu = Platform { machine: "x86_64".into(), glibc: Some(glibc(31)), has_musl: false };
        let musl = Platform { glibc: None, has_musl: true, ..gnu.clone() };
        let unknown = Platform::default();
        for (target, on_gnu, on_musl) in [
            (of("x86_64", Libc::Static), true, true),
            (of("x86_64", Libc::Gnu(glibc(31))), true, false),
            (of("x86_64", Libc::Gnu(glibc(32))), false, false),
            (of("x86_64", Libc::Musl), false, true),
            (of("aarch64", Libc::Static), false, false),
        ] {
            let runs = (gnu.runs(&target), musl.runs(&target), unknown.runs(&target));
            assert_eq!(runs, (on_gnu, on_musl, true), "{target}");
        }
    }
}

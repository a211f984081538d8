//! What the file of a program says of the host that it needs: its machine, its C library, the symbols of glibc.
//!
//! ELF as the System V ABI describes it, with the version sections of the LSB: the segments lead to the dynamic table, and
//! that to the versions that the program needs of its libraries, or that a library has. What a file says is believed in no
//! place: every number is checked, and only so much is read. What cannot be read says nothing, and the program is tried
//! where it is sent. Knows no files: it is given a way to read parts of one.

use mobula_types::program::{Glibc, Libc, Target};

/// Reads bytes of a file, from an offset on; fewer where it ends.
pub(crate) type Read<'a> = dyn FnMut(u64, usize) -> Option<Vec<u8>> + 'a;

/// Segments that are looked at: programs have a dozen.
const SEGMENTS_MAX: u64 = 128;

/// Entries of the dynamic table that are looked at: programs have some thirty, and one for each library.
const DYNAMIC_MAX: u64 = 4_096;

/// Libraries, and versions of one library: glibc itself has forty.
const VERSIONS_MAX: usize = 1_024;

/// Bytes of a name: those that are looked for are shorter.
const NAME_BYTES_MAX: usize = 64;

/// What a program was built for; none when the file does not say.
pub(crate) fn target(read: &mut Read<'_>) -> Option<Target> {
    let file = Elf::open(read)?;
    let machine = machine(file.machine)?.to_owned();
    let library = match file.interpreter(read) {
        None => Libc::Static,
        Some(name) if name.rsplit('/').next().is_some_and(|name| name.starts_with("ld-musl-")) => Libc::Musl,
        // An interpreter of something else has no versions of glibc: the program says nothing of them.
        Some(_) => Libc::Gnu(file.needs(read)?),
    };
    Some(Target { machine, library })
}

/// The newest symbols that a library has; for the libc of a host.
pub(crate) fn newest(read: &mut Read<'_>) -> Option<Glibc> {
    let file = Elf::open(read)?;
    file.has(read)
}

/// Numbers of the ABI, and the names that Rust's targets begin with.
fn machine(number: u16) -> Option<&'static str> {
    Some(match number {
        3 => "i686",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        _ => return None,
    })
}

struct Elf {
    is_64: bool,
    is_little: bool,
    machine: u16,
    segments: Vec<Segment>,
}

struct Segment {
    kind: u32,
    offset: u64,
    addr: u64,
    bytes: u64,
}

const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;

/// Entries of the dynamic table.
mod tag {
    pub(super) const STRINGS: u64 = 5;
    pub(super) const HAS: u64 = 0x6fff_fffc;
    pub(super) const HAS_COUNT: u64 = 0x6fff_fffd;
    pub(super) const NEEDS: u64 = 0x6fff_fffe;
    pub(super) const NEEDS_COUNT: u64 = 0x6fff_ffff;
}

impl Elf {
    fn open(read: &mut Read<'_>) -> Option<Self> {
        let head = read(0, 64)?;
        let is_64 = match (head.get(..4)?, head.get(4)?) {
            (b"\x7fELF", 1) => false,
            (b"\x7fELF", 2) => true,
            _ => return None,
        };
        let is_little = match head.get(5)? {
            1 => true,
            2 => false,
            _ => return None,
        };
        let mut file = Self { is_64, is_little, machine: 0, segments: Vec::new() };
        file.machine = file.half(&head, 18)?;
        let (table, each, count) = match is_64 {
            true => (file.double(&head, 32)?, file.half(&head, 54)?, file.half(&head, 56)?),
            false => (file.word(&head, 28)?.into(), file.half(&head, 42)?, file.half(&head, 44)?),
        };
        for at in 0..u64::from(count).min(SEGMENTS_MAX) {
            let entry = read(table.checked_add(at * u64::from(each))?, 56)?;
            file.segments.push(file.segment(&entry)?);
        }
        Some(file)
    }

    fn segment(&self, entry: &[u8]) -> Option<Segment> {
        let kind = self.word(entry, 0)?;
        let field = |wide, narrow| match self.is_64 {
            true => self.double(entry, wide),
            false => self.word(entry, narrow).map(u64::from),
        };
        Some(Segment { kind, offset: field(8, 4)?, addr: field(16, 8)?, bytes: field(32, 16)? })
    }

    fn interpreter(&self, read: &mut Read<'_>) -> Option<String> {
        let segment = self.segments.iter().find(|segment| segment.kind == INTERPRETER)?;
        text(read, segment.offset)
    }

    /// The newest symbols of glibc that it needs of any library.
    fn needs(&self, read: &mut Read<'_>) -> Option<Glibc> {
        let (first, count, strings) = self.versions(read, tag::NEEDS, tag::NEEDS_COUNT)?;
        let (mut at, mut left, mut newest) = (first, VERSIONS_MAX, None);
        // Each library, and of each the versions: both lists are linked by distances.
        for _ in 0..count {
            let library = read(at, 16)?;
            let mut version_at = at.checked_add(self.word(&library, 8)?.into())?;
            for _ in 0..self.half(&library, 2)? {
                left = left.checked_sub(1)?;
                let version = read(version_at, 16)?;
                newest = newest.max(name(read, strings, self.word(&version, 8)?));
                version_at = version_at.checked_add(self.word(&version, 12)?.into())?;
            }
            left = left.checked_sub(1)?;
            at = at.checked_add(self.word(&library, 12)?.into())?;
        }
        newest
    }

    /// The newest symbols of glibc that it has itself.
    fn has(&self, read: &mut Read<'_>) -> Option<Glibc> {
        let (first, count, strings) = self.versions(read, tag::HAS, tag::HAS_COUNT)?;
        let (mut at, mut newest) = (first, None);
        for _ in 0..count.min(VERSIONS_MAX as u64) {
            let version = read(at, 20)?;
            // Its own name comes first; those behind are of versions that it follows.
            let own = read(at.checked_add(self.word(&version, 12)?.into())?, 8)?;
            newest = newest.max(name(read, strings, self.word(&own, 0)?));
            at = at.checked_add(self.word(&version, 16)?.into())?;
        }
        newest
    }

    /// Where a list of versions begins, how many there are, and where the names are.
    fn versions(&self, read: &mut Read<'_>, list: u64, count: u64) -> Option<(u64, u64, u64)> {
        let table = self.segments.iter().find(|segment| segment.kind == DYNAMIC)?;
        let each = if self.is_64 { 16 } else { 8 };
        let (mut found, mut number, mut strings) = (None, None, None);
        for at in 0..(table.bytes / each).min(DYNAMIC_MAX) {
            let entry = read(table.offset.checked_add(at * each)?, 16)?;
            let (key, value) = match self.is_64 {
                true => (self.double(&entry, 0)?, self.double(&entry, 8)?),
                false => (self.word(&entry, 0)?.into(), self.word(&entry, 4)?.into()),
            };
            match key {
                0 => break,
                tag::STRINGS => strings = self.offset_of(value),
                key if key == list => found = self.offset_of(value),
                key if key == count => number = Some(value),
                _ => {}
            }
        }
        Some((found?, number?, strings?))
    }

    /// Where in the file an address of the running program is.
    fn offset_of(&self, addr: u64) -> Option<u64> {
        let loaded = self.segments.iter().filter(|segment| segment.kind == LOAD);
        loaded.filter_map(|segment| Some((addr.checked_sub(segment.addr)?, segment))).find_map(|(within, segment)| {
            (within < segment.bytes).then(|| segment.offset.checked_add(within)).flatten()
        })
    }

    fn half(&self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn word(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn double(&self, bytes: &[u8], at: usize) -> Option<u64> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    }
}

/// The version of glibc under a name in the table of strings.
fn name(read: &mut Read<'_>, strings: u64, at: u32) -> Option<Glibc> {
    Glibc::parse(&text(read, strings.checked_add(at.into())?)?)
}

/// Text that ends with a zero; none when it is longer than names are.
fn text(read: &mut Read<'_>, at: u64) -> Option<String> {
    let bytes = read(at, NAME_BYTES_MAX)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    String::from_utf8(bytes[..end].to_vec()).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes that one look at a file may read: some thousand small parts.
    const READ_BYTES_MAX: usize = 4 << 20;

    /// Runs `look` over `bytes`, and counts what is read.
    pub(crate) fn over<T>(bytes: &[u8], look: fn(&mut Read<'_>) -> T) -> T {
        let mut sum = 0;
        let result = look(&mut |at, len| {
            sum += len;
            let at = usize::try_from(at).ok()?;
            let end = at.saturating_add(len).min(bytes.len());
            bytes.get(at..end).map(<[u8]>::to_vec)
        });
        assert!(sum <= READ_BYTES_MAX, "{sum} bytes were read");
        result
    }

    /// A program as a linker would make it, with all that is looked at and nothing else.
    pub(crate) fn program(is_64: bool, is_little: bool, machine: u16, interpreter: &str, versions: &[&str]) -> Vec<u8> {
        const STRINGS: usize = 0x400;
        const NEEDS: usize = 0x600;
        const BASE: u64 = 0x10_000;
        let mut bytes = vec![0; 0x800];
        let put = |bytes: &mut Vec<u8>, at: usize, len: usize, value: u64| {
            let all = value.to_le_bytes();
            let part: Vec<u8> =
                if is_little { all[..len].to_vec() } else { all[..len].iter().rev().copied().collect() };
            bytes[at..at + len].copy_from_slice(&part);
        };
        let long = if is_64 { 8 } else { 4 };
        bytes[..4].copy_from_slice(b"\x7fELF");
        (bytes[4], bytes[5]) = (1 + u8::from(is_64), 2 - u8::from(is_little));
        put(&mut bytes, 18, 2, machine.into());
        let each = if is_64 { 56 } else { 32 };
        put(&mut bytes, if is_64 { 32 } else { 28 }, long, 0x40);
        put(&mut bytes, if is_64 { 54 } else { 42 }, 2, each);
        let mut segments = vec![(LOAD, 0, BASE, 0x800), (DYNAMIC, 0x200, BASE + 0x200, 0x100)];
        if !interpreter.is_empty() {
            segments.push((INTERPRETER, 0x380, BASE + 0x380, interpreter.len() as u64 + 1));
            bytes[0x380..0x380 + interpreter.len()].copy_from_slice(interpreter.as_bytes());
        }
        put(&mut bytes, if is_64 { 56 } else { 44 }, 2, segments.len() as u64);
        for (at, (kind, offset, addr, len)) in segments.into_iter().enumerate() {
            let at = 0x40 + at * each as usize;
            put(&mut bytes, at, 4, kind.into());
            let fields = if is_64 { [(8, offset), (16, addr), (32, len)] } else { [(4, offset), (8, addr), (16, len)] };
            for (field, value) in fields {
                put(&mut bytes, at + field, long, value);
            }
        }
        let table =
            [(tag::STRINGS, BASE + STRINGS as u64), (tag::NEEDS, BASE + NEEDS as u64), (tag::NEEDS_COUNT, 1), (0, 0)];
        for (at, (key, value)) in table.into_iter().enumerate() {
            put(&mut bytes, 0x200 + at * 2 * long, long, key);
            put(&mut bytes, 0x200 + at * 2 * long + long, long, value);
        }
        put(&mut bytes, NEEDS + 2, 2, versions.len() as u64);
        put(&mut bytes, NEEDS + 8, 4, 16);
        let mut names = 1;
        for (at, version) in versions.iter().enumerate() {
            let at = NEEDS + 16 + at * 16;
            put(&mut bytes, at + 8, 4, names as u64);
            put(&mut bytes, at + 12, 4, 16);
            bytes[STRINGS + names..STRINGS + names + version.len()].copy_from_slice(version.as_bytes());
            names += version.len() + 1;
        }
        bytes
    }

    const GNU: &str = "/lib64/ld-linux-x86-64.so.2";

    pub(crate) fn gnu() -> Vec<u8> {
        program(true, true, 62, GNU, &["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.4"])
    }

    #[test]
    fn a_program_says_what_it_was_built_for() {
        let of = |machine: &str, library| Some(Target { machine: machine.into(), library });
        let glibc = |minor| Libc::Gnu(Glibc { major: 2, minor });
        assert_eq!(over(&gnu(), target), of("x86_64", glibc(34)), "not 2.4, which is greater as text");
        for (is_64, is_little, number, machine) in [
            (true, true, 183, "aarch64"),
            (true, false, 22, "s390x"),
            (false, true, 40, "arm"),
            (false, true, 3, "i686"),
        ] {
            let bytes = program(is_64, is_little, number, "/lib/ld-linux.so.2", &["GLIBC_2.17"]);
            assert_eq!(over(&bytes, target), of(machine, glibc(17)), "{machine}");
        }
        assert_eq!(over(&program(true, true, 62, "", &[]), target), of("x86_64", Libc::Static));
        let musl = program(true, true, 62, "/lib/ld-musl-x86_64.so.1", &[]);
        assert_eq!(over(&musl, target), of("x86_64", Libc::Musl));
    }

    #[test]
    fn what_does_not_say_it_is_no_fault() {
        for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\necho", &[0x7f; 4096]] {
            assert_eq!(over(bytes, target), None);
            assert_eq!(over(bytes, newest), None);
        }
        assert_eq!(over(&program(true, true, 9_999, GNU, &["GLIBC_2.34"]), target), None, "a machine of the future");
        assert_eq!(over(&program(true, true, 62, "/lib/ld.so", &["FBSD_1.0"]), target), None, "another system");
    }

    #[test]
    fn a_cut_file_is_no_fault() {
        let whole = gnu();
        for len in 0..whole.len() {
            over(&whole[..len], target);
            over(&whole[..len], newest);
        }
    }
}

//! What a node is said to have: amounts and labels of the command line.

use std::collections::BTreeMap;

use anyhow::Result;
use mobula_types::resources::{Amount, CPUS, GPUS, Resources};

use crate::exit::Usage;

/// What a node is said to have.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// CPUs to offer, in place of those of this host
    #[arg(long, value_name = "N")]
    num_cpus: Option<f64>,

    /// GPUs to offer, in place of those of this host
    #[arg(long, value_name = "N")]
    num_gpus: Option<u32>,

    /// More that it has, by name, as in `tpu=2,licence=1`
    #[arg(long, value_name = "NAME=AMOUNT,…")]
    resources: Option<String>,

    /// What it is called and where it stands, as in `zone=a,disk=ssd`
    #[arg(long, value_name = "KEY=VALUE,…")]
    labels: Option<String>,
}

impl Options {
    /// What the host has, unless something else was said.
    pub(crate) fn resources(&self, host: Resources) -> Result<Resources> {
        let mut resources = host;
        if let Some(cpus) = self.num_cpus {
            resources.cpus = amount("--num-cpus", &cpus.to_string())?;
        }
        if let Some(gpus) = self.num_gpus {
            resources.gpus = Amount::whole(gpus.into());
        }
        for (name, value) in pairs("--resources", self.resources.as_deref())? {
            if name == CPUS || name == GPUS {
                return Err(Usage(format!("--resources {name}: say it with --{}", name.replace('_', "-"))).into());
            }
            let amount = amount(&format!("--resources {name}"), &value)?;
            resources.others.insert(name, amount);
        }
        Ok(resources)
    }

    pub(crate) fn labels(&self) -> Result<BTreeMap<String, String>> {
        pairs("--labels", self.labels.as_deref())
    }
}

fn amount(what: &str, text: &str) -> Result<Amount> {
    let number = text.parse::<f64>().ok().and_then(Amount::new);
    number.ok_or_else(|| Usage(format!("{what} = {text}: expected a number from 0 on")).into())
}

/// A number of bytes, as `4GiB`, `500MB` or `1048576`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let unit = UNITS.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let bytes = number.trim().parse::<f64>().ok().filter(|number| *number > 0.0).map(|number| number * unit as f64);
    let bytes = bytes.filter(|bytes| *bytes >= 1.0 && *bytes < u64::MAX as f64).map(|bytes| bytes as u64);
    bytes.ok_or_else(|| "expected a number of bytes, as 4GiB or 500MB".to_owned())
}

/// The same, or 0 for none.
pub(crate) fn bytes_or_none(text: &str) -> Result<u64, String> {
    match text.trim() {
        "0" => Ok(0),
        some => bytes(some).map_err(|expected| format!("{expected}, or 0 for none")),
    }
}

fn pairs(option: &str, text: Option<&str>) -> Result<BTreeMap<String, String>> {
    let parts = text.unwrap_or_default().split(',').filter(|part| !part.trim().is_empty());
    let pair = |part: &str| {
        let found = part.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let found = found.filter(|(name, value)| !name.is_empty() && !value.is_empty());
        let found = found.ok_or_else(|| Usage(format!("{option} {part}: expected name=value, several with commas")))?;
        Ok((found.0.to_owned(), found.1.to_owned()))
    };
    parts.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(resources: &str) -> Result<Resources> {
        let options = Options { resources: Some(resources.to_owned()), num_cpus: Some(1.5), ..Options::default() };
        options.resources(Resources::default())
    }

    #[test]
    fn bytes_are_read() {
        let read = ["1048576", "1MiB", "1.5 GiB", "500MB", "7B"].map(|text| bytes(text).unwrap());
        assert_eq!(read, [1 << 20, 1 << 20, 3 << 29, 500_000_000, 7]);
        for wrong in ["", "GiB", "-1GiB", "0", "much", "1e40", "4Gi", "NaN"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!((bytes_or_none("0"), bytes_or_none("2KB")), (Ok(0), Ok(2_000)));
        assert!(bytes_or_none("none").unwrap_err().contains("or 0 for none"));
    }

    #[test]
    fn amounts_are_read_and_what_is_none_is_named() {
        let found = of("tpu=2, licence=0.5").unwrap();
        assert_eq!(found.cpus, Amount::new(1.5).unwrap());
        assert_eq!(found.others["licence"], Amount::new(0.5).unwrap());
        for wrong in ["tpu", "tpu=", "=2", "tpu=two", "tpu=-1", "num_cpus=3"] {
            let error = of(wrong).unwrap_err();
            assert!(error.is::<Usage>(), "{wrong}: {error}");
        }
    }
}

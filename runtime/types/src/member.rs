//! Who somebody is to a cluster for longer than a process lives: the cluster itself, its members, and what they may do.
//!
//! Names that are easily confused: a [`MemberId`] is in a certificate and stays over restarts; a
//! [`NodeId`](crate::NodeId) is given at each start.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                // `from_str_radix` takes a sign, which is no digit of an id.
                let is_hex = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                let number = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().ok_or(NotAnId)?;
                Ok(Self(number.to_be_bytes()))
            }
        }
    };
}

random_id! {
    /// One cluster, from the first start of its head on.
    ///
    /// ```
    /// use mobula_types::ClusterId;
    /// let id = ClusterId([0xab; 16]);
    /// assert_eq!(id.to_string().parse(), Ok(id));
    /// ```
    ClusterId
}
random_id! {
    /// One folder of a node, one driver elsewhere: whoever was given a certificate.
    MemberId
}

/// The text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 32 hexadecimal digits in lower case")
    }
}

impl std::error::Error for NotAnId {}

/// What a member may be in its cluster; stands in its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Hosts workers, and talks to every other node.
    Node,
    /// Submits jobs.
    Driver,
    /// Submits jobs, and changes the cluster.
    Admin,
    /// Looks.
    Viewer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Node, Self::Driver, Self::Admin, Self::Viewer];

    /// The word for it, in certificates and on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Driver => "driver",
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }

    /// Whether it may run a job, which is running code (promises.md).
    pub const fn may_submit(self) -> bool {
        matches!(self, Self::Driver | Self::Admin)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Role {
    type Err = NotARole;

    fn from_str(text: &str) -> Result<Self, NotARole> {
        Self::ALL.into_iter().find(|role| role.word() == text).ok_or(NotARole)
    }
}

/// The text is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARole;

impl fmt::Display for NotARole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected one of node, driver, admin, viewer")
    }
}

impl std::error::Error for NotARole {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_nothing_else_does() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert_eq!("head".parse::<Role>(), Err(NotARole));
        let id = MemberId([1; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        let text = id.to_string();
        for wrong in ["", "+1", &text[1..], &text.to_uppercase().replace('0', "A"), &format!("+{}", &text[1..])] {
            assert_eq!(wrong.parse::<MemberId>(), Err(NotAnId), "{wrong:?}");
        }
    }
}

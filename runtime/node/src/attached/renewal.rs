//! The certificate of a program or command line on another host lasts for days; when two thirds of them are over the next
//! one takes its place, without a restart and without a token (promises.md, "Trust").

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mobula_net::identity::{Credentials, Key};
use mobula_net::{Identity, Renewal};
use mobula_wire::cluster::{ClusterTalk, RenewalWish};
use tokio::time::Instant;

/// Between two looks at the certificate: there are two days of them before it ends.
const LOOK: Duration = Duration::from_secs(3_600);

/// The certificate in use, and the key for which the next one was asked.
pub(super) struct Renewing {
    identity: Identity,
    credentials: Arc<Credentials>,
    /// Where it is kept, if it is.
    folder: Option<PathBuf>,
    next_look: Instant,
    asked: Option<Key>,
}

impl Renewing {
    pub(super) fn new(identity: Identity, credentials: Arc<Credentials>, folder: Option<PathBuf>) -> Self {
        Self { identity, credentials, folder, next_look: Instant::now(), asked: None }
    }

    /// When it is to be looked at again.
    pub(super) fn next_look(&self) -> Instant {
        self.next_look
    }

    /// What the node is to be asked, if two thirds of the certificate's life are over.
    pub(super) fn look(&mut self, now: Instant, wall: SystemTime) -> Option<ClusterTalk> {
        if now < self.next_look {
            return None;
        }
        self.next_look = now + LOOK;
        if !self.identity.needs_renewal(wall) {
            return None;
        }
        let wished = Key::new().and_then(|key| Ok((Renewal::new(&self.identity, &key)?, key)));
        match wished {
            Ok((Renewal { certificate, key: public, signature }, key)) => {
                self.asked = Some(key);
                Some(ClusterTalk::RenewAsk(RenewalWish { certificate, key: public, signature }))
            }
            Err(error) => {
                tracing::error!(%error, "no key for a new certificate");
                None
            }
        }
    }

    /// The head has issued the certificate for a key, or has not.
    pub(super) fn came(&mut self, key: [u8; 32], certificate: Result<Vec<u8>, String>) {
        let Some(key) = self.asked.take_if(|asked| asked.public() == key) else { return };
        let renewed = certificate.and_then(|certificate| {
            let authority = self.identity.authority().clone();
            let new = Identity::new(&key, certificate.into(), authority).map_err(|error| error.to_string())?;
            self.credentials.renew(&new).map_err(|error| error.to_string())?;
            Ok(new)
        });
        match renewed {
            Ok(new) => {
                self.identity = new;
                tracing::debug!("the certificate was renewed");
            }
            // The next look tries again.
            Err(why) => return tracing::warn!(why, "the certificate was not renewed"),
        }
        if let Some(folder) = &self.folder
            && let Err(error) = self.identity.store(folder)
        {
            tracing::warn!(%error, "the new certificate cannot be kept: the next start may need a new token");
        }
    }
}

#[cfg(test)]
mod tests {
    use mobula_net::Authority;
    use mobula_types::{ClusterId, MemberId, Role};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn of_age(authority: &Authority, days: u32) -> Renewing {
        let identity =
            Identity::issue(authority, MemberId([2; 16]), Role::Driver, SystemTime::now() - days * DAY).unwrap();
        let credentials = Credentials::new(&identity).unwrap();
        Renewing::new(identity, credentials, None)
    }

    fn wish(said: Option<ClusterTalk>) -> RenewalWish {
        match said {
            Some(ClusterTalk::RenewAsk(wish)) => wish,
            other => panic!("{other:?}"),
        }
    }

    fn answer(authority: &Authority, RenewalWish { certificate, key, signature }: RenewalWish) -> Vec<u8> {
        authority.renew(&Renewal { certificate, key, signature }, SystemTime::now()).unwrap().to_vec()
    }

    #[test]
    fn it_is_asked_for_after_two_thirds_and_then_no_more() {
        let authority = Authority::new(ClusterId([7; 16]), SystemTime::now()).unwrap();
        // It grows old while the program runs.
        let mut old = of_age(&authority, 4);
        let now = old.next_look();
        assert_eq!(old.look(now, SystemTime::now()), None, "four of seven days");
        assert_eq!(old.look(now + LOOK / 2, SystemTime::now() + DAY), None, "not looked at all the time");
        let asked = wish(old.look(now + LOOK, SystemTime::now() + DAY));
        // Nobody answers; the next look asks again, and what comes late is not taken.
        let again = wish(old.look(now + 2 * LOOK, SystemTime::now() + DAY));
        assert_ne!(asked.key, again.key);
        let before = old.identity.not_after();
        old.came(asked.key, Ok(answer(&authority, asked)));
        assert_eq!(old.identity.not_after(), before);
        old.came(again.key, Ok(answer(&authority, again)));
        assert!(old.identity.not_after() >= before + 3 * DAY);
        assert_eq!(old.look(now + 3 * LOOK, SystemTime::now() + DAY), None, "it is new");
    }

    #[test]
    fn what_is_no_answer_changes_nothing() {
        let authority = Authority::new(ClusterId([7; 16]), SystemTime::now()).unwrap();
        let mut old = of_age(&authority, 5);
        let now = old.next_look();
        let before = old.identity.not_after();
        for (turn, answer) in [Err("no".to_owned()), Ok(vec![7; 100]), Ok(Vec::new())].into_iter().enumerate() {
            let asked = wish(old.look(now + LOOK * turn as u32, SystemTime::now()));
            old.came(asked.key, answer);
            assert_eq!(old.identity.not_after(), before);
        }
        let another = Identity::issue(&authority, MemberId([3; 16]), Role::Admin, SystemTime::now()).unwrap();
        let asked = wish(old.look(now + 3 * LOOK, SystemTime::now()));
        old.came(asked.key, Ok(another.certificate().to_vec()));
        assert_eq!(old.identity.peer().role, Role::Driver, "another's certificate is not taken");
    }
}

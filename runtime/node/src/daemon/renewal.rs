//! A node's certificate lasts for days; well before its end a new one for the same member takes its place, without a
//! restart (promises.md, "Trust").

use std::sync::Arc;
use std::time::SystemTime;

use mobula_net::Identity;
use mobula_net::identity::{Credentials, Key};
use mobula_types::Time;
use mobula_wire::cluster::{AskId, ToHead};

use super::state::State;

/// The certificate in use, and the key of the one that was asked for.
pub(crate) struct Renewal {
    credentials: Arc<Credentials>,
    next: Time,
    asked: Option<(AskId, Key)>,
    count: AskId,
}

impl Renewal {
    pub(crate) fn new(credentials: Arc<Credentials>) -> Self {
        Self { credentials, next: Time::ZERO, asked: None, count: 0 }
    }

    pub(crate) fn next_timeout(&self) -> Time {
        self.next
    }
}

impl State {
    pub(crate) fn tick_renewal(&mut self, now: Time) {
        if self.renewal.next > now {
            return;
        }
        self.renewal.next = now + self.config.renewal_look;
        let identity = Identity::load(&self.config.folder);
        let is_due = matches!(identity, Ok(Some(identity)) if identity.needs_renewal(SystemTime::now()));
        if is_due {
            self.renew();
        }
    }

    fn renew(&mut self) {
        match Key::new() {
            Ok(key) => {
                self.renewal.count += 1;
                let (ask, public) = (self.renewal.count, key.public());
                self.renewal.asked = Some((ask, key));
                self.tell_head(ToHead::Renew { ask, key: public });
            }
            Err(error) => tracing::error!(%error, "no key for a new certificate"),
        }
    }

    /// The head has issued the certificate.
    pub(crate) fn renewed(&mut self, ask: AskId, certificate: Result<Vec<u8>, String>) {
        let Some((_, key)) = self.renewal.asked.take_if(|(asked, _)| *asked == ask) else { return };
        let renewed = certificate.and_then(|certificate| {
            let old = Identity::load(&self.config.folder).map_err(|error| error.to_string())?;
            let authority = old.ok_or("this node's certificate is gone from its folder")?.authority().clone();
            let new = Identity::new(&key, certificate.into(), authority).map_err(|error| error.to_string())?;
            self.renewal.credentials.renew(&new).map_err(|error| error.to_string())?;
            new.store(&self.config.folder).map_err(|error| error.to_string())
        });
        match renewed {
            Ok(()) => tracing::info!("the certificate was renewed"),
            // The next look tries again; there are two days of them.
            Err(why) => tracing::error!(why, "the certificate was not renewed"),
        }
    }
}

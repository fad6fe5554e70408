//! Sessions that end: with their refresh families, and with the revocation that tells every verifier, in one transaction.

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind},
    time::UnixMillis,
};

use super::{Session, session};
use crate::{Appended, NewRevocation, StoreError, Tx};

/// How sessions end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When.
    pub now: UnixMillis,
    /// Why, in a word.
    pub reason: String,
    /// Who says so.
    pub source: String,
    /// The policy's issuer, in whose name its tokens are.
    pub issuer: Option<String>,
    /// When the last access token of these sessions expires: as long the revocation is needed.
    pub tokens_expire: UnixMillis,
    /// The policy's bound of live entries about its access tokens.
    pub max_entries: usize,
}

/// What has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The sessions' ids.
    pub sessions: Vec<String>,
    /// The rows to publish once the transaction is committed.
    pub revocations: Appended,
}

/// A subject's sessions that nobody has ended.
pub(crate) const OPEN: &str =
    "SELECT * FROM sessions WHERE policy = $1 AND subject = $2 AND ended IS NULL ORDER BY created, id";
pub(crate) const END: &str = "UPDATE sessions SET ended = $3, ended_because = $4 WHERE policy = $1 AND id = $2";
pub(crate) const END_FAMILIES: &str =
    "UPDATE refresh_families SET ended = $3 WHERE policy = $1 AND session_id = $2 AND ended IS NULL";

impl Tx {
    /// Ends a session. Absent when there is none of that id, or it had ended before.
    pub async fn end_session(
        &mut self,
        policy: &PolicyName,
        id: &str,
        ending: &Ending,
    ) -> Result<Option<Ended>, StoreError> {
        let Some(found) = self.session(policy, id).await? else { return Ok(None) };
        self.lock_subject(policy, &found.subject).await?;
        match self.session(policy, id).await? {
            Some(held) if held.ended.is_none() => Ok(Some(self.end(vec![held], ending).await?)),
            _ => Ok(None),
        }
    }

    /// Ends a subject's sessions, but for the one of id `except`.
    pub async fn end_sessions(
        &mut self,
        policy: &PolicyName,
        subject: &str,
        except: Option<&str>,
        ending: &Ending,
    ) -> Result<Ended, StoreError> {
        self.lock_subject(policy, subject).await?;
        let rows = sqlx::query(OPEN).bind(policy.as_str()).bind(subject).fetch_all(self.connection()).await?;
        let mut sessions = rows.iter().map(session).collect::<Result<Vec<_>, _>>()?;
        sessions.retain(|session| Some(session.id.as_str()) != except);
        self.end(sessions, ending).await
    }

    /// Ends a session's refresh families and leaves the session: another family is to take their place.
    pub async fn end_families(&mut self, policy: &PolicyName, session: &str, now: UnixMillis) -> Result<(), StoreError> {
        sqlx::query(END_FAMILIES).bind(policy.as_str()).bind(session).bind(now.0).execute(self.connection()).await?;
        Ok(())
    }

    /// Ends sessions that were read under their subject's lock.
    pub(crate) async fn end(&mut self, sessions: Vec<Session>, ending: &Ending) -> Result<Ended, StoreError> {
        for session in &sessions {
            sqlx::query(END)
                .bind(session.policy.as_str())
                .bind(&session.id)
                .bind(ending.now.0)
                .bind(&ending.reason)
                .execute(self.connection())
                .await?;
            self.end_families(&session.policy, &session.id, ending.now).await?;
        }
        let revocations: Vec<_> = sessions.iter().map(|session| revocation(session, ending)).collect();
        let revocations = self.revoke(&revocations, ending.now, |_| ending.max_entries).await?;
        Ok(Ended { sessions: sessions.into_iter().map(|session| session.id).collect(), revocations })
    }
}

fn revocation(session: &Session, ending: &Ending) -> NewRevocation {
    NewRevocation {
        entry: Entry {
            policy: session.policy.clone(),
            kind: Kind::Session,
            issuer: ending.issuer.clone(),
            id: session.id.clone(),
            cutoff: UnixMillis::FOREVER,
            expires: ending.tokens_expire,
            version: 0,
            reason: ending.reason.clone(),
            source: ending.source.clone(),
        },
        subject: Some(session.subject.clone()),
        access_only: true,
    }
}

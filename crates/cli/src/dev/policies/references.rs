//! What a policy's references gave, kept, so that its last good version can be made again.

use std::{cell::RefCell, collections::BTreeMap, fmt, path::Path};

use countersign_api::references::{DirectoryReferences, ReferenceError, ReferenceKind, References};
use countersign_core::jose::base64url;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::dev::legacy::{LegacyJwt, SECRET_KEY, SECRET_NAME};

/// Values by `KIND/NAME/KEY`, base64url. As secret as what is in them: kept in the database, whose mode is their guard.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Recorded(BTreeMap<String, String>);

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// References that note what they gave.
pub(super) struct Recording<'a> {
    from: From,
    environment: Option<&'a LegacyJwt>,
    recorded: RefCell<Recorded>,
}

enum From {
    Nowhere,
    Directory(DirectoryReferences),
    Record(Recorded),
}

impl<'a> Recording<'a> {
    /// References below a directory, or without one none.
    pub(super) fn new(dir: Option<&Path>, environment: Option<&'a LegacyJwt>) -> Self {
        let from = dir.map_or(From::Nowhere, |dir| From::Directory(DirectoryReferences::new(dir)));
        Self { from, environment, recorded: RefCell::default() }
    }

    /// References as they were.
    pub(super) fn of(record: Recorded, environment: Option<&'a LegacyJwt>) -> Self {
        Self { from: From::Record(record), environment, recorded: RefCell::default() }
    }

    /// What was given.
    pub(super) fn recorded(&self) -> Recorded {
        self.recorded.borrow().clone()
    }
}

impl References for Recording<'_> {
    fn value(&self, kind: ReferenceKind, name: &str, key: &str) -> Result<Zeroizing<Vec<u8>>, ReferenceError> {
        if let Some(jwt) =
            self.environment.filter(|_| (kind, name, key) == (ReferenceKind::Secret, SECRET_NAME, SECRET_KEY))
        {
            // The environment is there at every start; nothing of it is kept.
            return Ok(Zeroizing::new(jwt.secret.clone()));
        }
        let place = match kind {
            ReferenceKind::Secret => format!("secrets/{name}/{key}"),
            ReferenceKind::ConfigMap => format!("configmaps/{name}/{key}"),
        };
        match &self.from {
            From::Nowhere => Err(ReferenceError::NotFound { place }),
            From::Record(record) => {
                let kept = record.0.get(&place).and_then(|text| base64url::decode(text.as_bytes()).ok());
                kept.map(Zeroizing::new).ok_or(ReferenceError::NotFound { place })
            }
            From::Directory(directory) => {
                let value = directory.value(kind, name, key)?;
                self.recorded.borrow_mut().0.insert(place, base64url::encode(value.as_slice()));
                Ok(value)
            }
        }
    }
}

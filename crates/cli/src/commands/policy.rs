//! `policy`.

use crate::{
    Session,
    args::{PolicyCheck, PolicyShow, PolicyTest},
    failure::{Exit, Failure},
};

pub(crate) fn check(_session: &Session, _args: &PolicyCheck) -> Result<Exit, Failure> {
    Ok(Exit::Done)
}
pub(crate) async fn show(_session: &Session, _args: &PolicyShow) -> Result<Exit, Failure> {
    Ok(Exit::Done)
}
pub(crate) fn test(_session: &Session, _args: &PolicyTest) -> Result<Exit, Failure> {
    Ok(Exit::Done)
}

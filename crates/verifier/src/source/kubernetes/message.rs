//! What the reader hands over, and why it begins again.

use super::{connect::ApiError, object::Change};

/// What the reader hands over, in order.
#[derive(Debug)]
pub(super) enum Message {
    /// A list begins; what an earlier one brought of it was broken off.
    ListBegun,
    /// A part of it.
    Page(Vec<Change>),
    /// That was all: this is what there is at this version.
    Listed {
        /// The list's version.
        version: u64,
        /// The history that it is of.
        history: String,
        /// When it was asked for, by `Clock::boot_millis`.
        asked_at: i64,
    },
    /// What changed up to a version.
    Events {
        /// In order.
        changes: Vec<Change>,
        /// Up to here.
        version: u64,
    },
    /// What was handed over is what the API server held at that moment or later.
    Confirmed {
        /// By `Clock::boot_millis`.
        asked_at: i64,
    },
    /// The API server can't be asked; it is asked again.
    Trouble(ApiError),
}

/// Why a watch, or a list, ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// As it was asked to.
    InTime,
    /// It brought nothing for too long.
    Silent,
    /// Its version is no longer known.
    Gone,
    /// The API server's version is behind ours.
    WentBack,
    /// The API server's versions are of another history.
    OtherHistory,
    /// An event that isn't after the one before it.
    OutOfOrder,
    /// The API server, or the way to it.
    Failed(ApiError),
    /// Nobody listens any more.
    Unheard,
}

impl Ended {
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::InTime => "ended",
            Self::Silent => "silent",
            Self::Gone => "gone",
            Self::WentBack => "went_back",
            Self::OtherHistory => "other_history",
            Self::OutOfOrder => "out_of_order",
            Self::Failed(_) => "failed",
            Self::Unheard => "unheard",
        }
    }

    pub(super) const fn can_be_resumed(&self) -> bool {
        matches!(self, Self::InTime | Self::Silent | Self::Failed(_))
    }
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Gone => Self::Gone,
            error => Self::Failed(error),
        }
    }
}

//! People: passwords, second factors, sessions, mail.

mod credentials;

pub use credentials::*;

use super::{RateLimit, SecretKeyRef, Switch};
use crate::{
    settings::{settings, words},
    values::Duration,
};

settings! {
    /// Everything about people.
    Login => EffectiveLogin {
        optional {
            /// How mails are sent. Absent: the issuer's own SMTP settings, and plain pages of ours behind the links.
            mail: Mail,
            /// A webhook that sends codes by SMS. Absent: no SMS.
            sms: Sms,
            /// Which web pages of other origins may call the issuer. Absent: none.
            cors: Cors,
        }
        defaulted {
            /// Sessions of people.
            sessions: Sessions = Sessions::default(),
            /// What wrong passwords and codes lead to.
            lockout: Lockout = Lockout::default(),
            /// What a password must be.
            passwords: Passwords = Passwords::default(),
            /// Second factors.
            mfa: Mfa = Mfa::default(),
            /// Who may make an account.
            registration: Registration = Registration::default(),
            /// How often things may be tried. A limit that turns a login away is not a failed login.
            rate_limits: RateLimits = RateLimits::default(),
            /// Blocking of addresses that try many passwords.
            address_blocking: AddressBlocking = AddressBlocking::default(),
            /// Tokens in cookies, for web pages.
            cookies: Cookies = Cookies::default(),
            /// Clients of `/oauth/token` (client credentials).
            #[schemars(length(max = 64))]
            #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["clientID"]))]
            clients: Vec<OauthClient> = Vec::new(),
            /// Who may log in already, while a migration goes on. Tokens that were issued run out by themselves.
            rollout: Rollout = Rollout::default(),
        }
    }
}

settings! {
    /// Sessions of people. A session ends at the earlier of idle (since its last activity) and absolute (since login).
    Sessions => EffectiveSessions {
        defaulted {
            /// How many one subject may have.
            #[schemars(range(min = 1, max = 1000))]
            max_concurrent: u32 = 5,
            /// What happens to one more: the oldest ends (`EvictOldest`), the least recently seen (`EvictIdle`), or the login is
            /// refused (`Reject`).
            on_limit: OnLimit = OnLimit::EvictOldest,
            /// How long one lives without activity. Longer than `tokens.accessTTL`.
            idle_timeout: Duration = Duration::hours(168),
            /// How long one lives at all.
            absolute_timeout: Duration = Duration::hours(720),
            /// What takes the place of both timeouts when the login said `remember_me`.
            remember_me: RememberMe = RememberMe::default(),
            /// What a changed address or device leads to; judged at refresh.
            binding: Binding = Binding::default(),
        }
    }
}

words! {
    /// What happens to one session too many.
    OnLimit {
        /// The oldest ends.
        EvictOldest,
        /// The least recently seen ends.
        EvictIdle,
        /// The login is refused.
        Reject,
    }
}

settings! {
    /// Timeouts of remembered sessions.
    RememberMe => EffectiveRememberMe {
        defaulted {
            /// How long one lives without activity.
            idle_timeout: Duration = Duration::hours(720),
            /// How long one lives at all.
            absolute_timeout: Duration = Duration::hours(2160),
        }
    }
}

settings! {
    /// What a changed address or device leads to.
    Binding => EffectiveBinding {
        defaulted {
            /// A changed address.
            ip: OnChange = OnChange::Observe,
            /// A changed device or user agent.
            device: OnChange = OnChange::Observe,
        }
    }
}

words! {
    /// What a change leads to.
    OnChange {
        /// Nothing.
        Disabled,
        /// An event.
        Observe,
        /// A second factor is asked for.
        StepUp,
        /// The session ends.
        Deny,
    }
}

settings! {
    /// What wrong passwords and codes lead to. Only new logins are turned away.
    Lockout => EffectiveLockout {
        defaulted {
            /// Whether it is on.
            mode: Switch = Switch::Enabled,
            /// So many failures lock the account.
            #[schemars(range(min = 1, max = 1000))]
            max_failures: u32 = 5,
            /// Within so long a time.
            window: Duration = Duration::minutes(15),
            /// For so long a time.
            duration: Duration = Duration::minutes(30),
            /// Each further lock lasts so many times as long as the one before.
            #[schemars(range(min = 1, max = 10))]
            backoff_factor: u32 = 2,
            /// But not longer than this.
            max_duration: Duration = Duration::hours(24),
        }
    }
}

/// Defaults of one limit.
fn limit(limit: u32, window: Duration) -> RateLimit {
    RateLimit { limit, window }
}

settings! {
    /// How often things may be tried. When an entry is given, a kind of limit that is absent in it doesn't exist.
    RateLimits => EffectiveRateLimits {
        defaulted {
            /// Logins.
            login: LoginLimits = LoginLimits {
                per_account_and_address: Some(limit(5, Duration::minutes(5))),
                per_address: Some(limit(100, Duration::minutes(5))),
            },
            /// New accounts.
            register: AddressLimits = AddressLimits { per_address: Some(limit(3, Duration::minutes(10))) },
            /// Mails to reset a password.
            password_reset: ResetLimits = ResetLimits {
                per_account: Some(limit(2, Duration::hours(1))),
                per_address: Some(limit(20, Duration::hours(1))),
            },
            /// All other calls to the issuer.
            api: SubjectLimits = SubjectLimits { per_subject: Some(limit(100, Duration::minutes(1))) },
        }
    }
}

settings! {
    /// Limits on logins.
    LoginLimits => EffectiveLoginLimits {
        optional {
            /// For one account from one address.
            per_account_and_address: RateLimit,
            /// From one address.
            per_address: RateLimit,
        }
    }
}

settings! {
    /// Limits on what strangers do.
    AddressLimits => EffectiveAddressLimits {
        optional {
            /// From one address.
            per_address: RateLimit,
        }
    }
}

settings! {
    /// Limits on resets.
    ResetLimits => EffectiveResetLimits {
        optional {
            /// For one account.
            per_account: RateLimit,
            /// From one address.
            per_address: RateLimit,
        }
    }
}

settings! {
    /// Limits on what subjects do.
    SubjectLimits => EffectiveSubjectLimits {
        optional {
            /// Of one subject.
            per_subject: RateLimit,
        }
    }
}

settings! {
    /// Blocking of addresses that try many passwords.
    AddressBlocking => EffectiveAddressBlocking {
        defaulted {
            /// Whether it is on.
            mode: Switch = Switch::Enabled,
            /// So many failed logins block an address.
            #[schemars(range(min = 1, max = 1_000_000))]
            failed_logins: u32 = 50,
            /// Within so long a time.
            window: Duration = Duration::minutes(10),
            /// For so long a time.
            duration: Duration = Duration::hours(1),
            /// Whether verifiers deny blocked addresses too; otherwise only logins are turned away.
            verifiers: bool = false,
        }
    }
}

settings! {
    /// Tokens in cookies, for web pages.
    Cookies => EffectiveCookies {
        optional {
            /// The cookies' `Domain`. Needs a prefix that begins with `__Secure-`. Absent: the issuer's host alone.
            #[schemars(length(min = 1, max = 253), regex(pattern = crate::values::OBJECT_NAME))]
            domain: String,
        }
        defaulted {
            /// Whether logins may ask for cookies, and verifiers read them.
            mode: Switch = Switch::Disabled,
            /// What the cookies' names begin with; `access` and `refresh` follow.
            #[schemars(length(min = 1, max = 64), regex(pattern = super::patterns::COOKIE_PREFIX))]
            prefix: String = "__Host-cs_".to_owned(),
            /// Whether other sites' pages send them.
            same_site: SameSite = SameSite::Lax,
        }
    }
}

words! {
    /// Whether other sites' pages send cookies (RFC 6265bis).
    SameSite {
        /// When a link is followed.
        Lax,
        /// Never.
        Strict,
        /// Always.
        None,
    }
}

settings! {
    /// How mails are sent.
    Mail => EffectiveMail {
        optional {
            /// The sender, as in `Shop <no-reply@shop.example>`.
            #[schemars(length(min = 3, max = 320), regex(pattern = super::patterns::SENDER))]
            from: String,
            /// The page that verifies an address; `{token}` is replaced. Absent: a plain page of ours.
            #[schemars(length(max = 1024), regex(pattern = super::patterns::PAGE))]
            verify_url as "verifyURL": String,
            /// The page that resets a password; `{token}` is replaced. Absent: a plain page of ours.
            #[schemars(length(max = 1024), regex(pattern = super::patterns::PAGE))]
            reset_url as "resetURL": String,
            /// The Secret with `host`, `port`, `username`, `password` and `tls`. Absent: the issuer's SMTP settings.
            smtp_secret_ref: SecretRef,
        }
    }
}

settings! {
    /// A Secret in this namespace.
    SecretRef => EffectiveSecretRef {
        required {
            /// The Secret.
            #[schemars(length(min = 1, max = 253), regex(pattern = crate::values::OBJECT_NAME))]
            name: String,
        }
    }
}

settings! {
    /// A webhook that sends codes by SMS.
    Sms => EffectiveSms {
        required {
            /// Where to.
            #[schemars(length(max = 1024), regex(pattern = super::patterns::ADDRESS))]
            url: String,
            /// The key that signs each call.
            signing_secret_key_ref: SecretKeyRef,
        }
    }
}

settings! {
    /// Which web pages of other origins may call the issuer.
    Cors => EffectiveCors {
        required {
            /// Origins, as in `https://shop.example`; `*` for all, when credentials aren't allowed.
            #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256), regex(pattern = super::patterns::ORIGIN)))]
            allowed_origins: Vec<String>,
        }
        defaulted {
            /// Whether cookies are sent along.
            allow_credentials: bool = false,
        }
    }
}

settings! {
    /// A client of `/oauth/token`.
    OauthClient => EffectiveOauthClient {
        required {
            /// Its `client_id`.
            #[schemars(length(min = 1, max = 128), regex(pattern = super::patterns::CLIENT_ID))]
            client_id as "clientID": String,
            /// Its secret.
            secret_key_ref: SecretKeyRef,
        }
        defaulted {
            /// The scopes that it may ask for.
            #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
            scopes: Vec<String> = Vec::new(),
            /// The roles that its tokens carry.
            #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
            roles: Vec<String> = Vec::new(),
        }
    }
}

settings! {
    /// Who may log in already. The others get 403 `not_rolled_out`.
    Rollout => EffectiveRollout {
        defaulted {
            /// So many of a hundred accounts.
            #[schemars(range(max = 100))]
            percentage: u32 = 100,
            /// These besides: ids, names or e-mail addresses.
            #[schemars(length(max = 1000), inner(length(min = 1, max = 320)))]
            subjects: Vec<String> = Vec::new(),
        }
    }
}

//! What people prove themselves with, and how they come to it.

use crate::{
    policy::ConfigMapKeyRef,
    settings::{settings, words},
    values::{Duration, Memory},
};

settings! {
    /// What a password must be.
    Passwords => EffectivePasswords {
        optional {
            /// After so long it must be changed. Absent: never.
            max_age: Duration,
        }
        defaulted {
            /// At least so many characters.
            #[schemars(range(min = 1, max = 128))]
            min_length: u32 = 8,
            /// At most so many.
            #[schemars(range(min = 16, max = 1024))]
            max_length: u32 = 128,
            /// Which kinds of characters it must have.
            #[schemars(length(max = 4))]
            #[schemars(extend("x-kubernetes-list-type" = "set"))]
            require: Vec<CharacterClass> = Vec::new(),
            /// It must differ from so many before it.
            #[schemars(range(max = 100))]
            history: u32 = 5,
            /// Passwords that everybody knows.
            breached_passwords: BreachedPasswords = BreachedPasswords::default(),
            /// What hashing costs.
            argon2id: Argon2id = Argon2id::default(),
        }
    }
}

words! {
    /// A kind of characters.
    CharacterClass {
        /// Capital letters.
        Upper,
        /// Small letters.
        Lower,
        /// Digits.
        Digit,
        /// Neither letter, digit nor space.
        Symbol,
    }
}

settings! {
    /// Passwords that everybody knows.
    BreachedPasswords => EffectiveBreachedPasswords {
        optional {
            /// The list of the mode `Custom`: one password a line.
            config_map_key_ref: ConfigMapKeyRef,
        }
        defaulted {
            /// `Builtin`: a shipped list of common passwords. `Custom`: a list of yours.
            mode: BreachedPasswordsMode = BreachedPasswordsMode::Builtin,
        }
    }
}

words! {
    /// Where the list comes from.
    BreachedPasswordsMode {
        /// Shipped.
        Builtin,
        /// Yours.
        Custom,
        /// No list.
        Disabled,
    }
}

settings! {
    /// What hashing a password costs (RFC 9106).
    Argon2id => EffectiveArgon2id {
        defaulted {
            /// Memory.
            memory: Memory = Memory::mib(19),
            /// Passes over it.
            #[schemars(range(min = 1, max = 20))]
            iterations: u32 = 2,
            /// Lanes.
            #[schemars(range(min = 1, max = 16))]
            parallelism: u32 = 1,
        }
    }
}

settings! {
    /// Second factors.
    Mfa => EffectiveMfa {
        defaulted {
            /// Whether there are any, and who needs one.
            mode: MfaMode = MfaMode::Optional,
            /// These need one whatever the mode.
            #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
            required_for_roles: Vec<String> = Vec::new(),
            /// Codes of an authenticator app (RFC 6238).
            totp: Totp = Totp::default(),
            /// How long a challenge can be answered.
            challenge_ttl as "challengeTTL": Duration = Duration::minutes(5),
            /// How many codes one challenge takes.
            #[schemars(range(min = 1, max = 100))]
            max_attempts: u32 = 5,
            /// How many backup codes there are.
            #[schemars(range(min = 1, max = 50))]
            backup_codes: u32 = 10,
        }
    }
}

words! {
    /// Who needs a second factor.
    MfaMode {
        /// There are none.
        Disabled,
        /// Who enrolled one.
        Optional,
        /// Everyone.
        Required,
    }
}

settings! {
    /// Codes of an authenticator app.
    Totp => EffectiveTotp {
        defaulted {
            /// The name that the app shows; empty: the host of the policy's issuer.
            #[schemars(length(max = 64))]
            issuer_name: String = String::new(),
            /// Digits of a code.
            #[schemars(range(min = 6, max = 8))]
            digits: u32 = 6,
            /// How long a code stands.
            period: Duration = Duration::secs(30),
            /// So many codes before and after are taken too.
            #[schemars(range(max = 10))]
            skew: u32 = 1,
        }
    }
}

settings! {
    /// Who may make an account.
    Registration => EffectiveRegistration {
        defaulted {
            /// `Open`: anyone. `InviteOnly`: who was invited. `Closed`: only administrators make accounts.
            mode: RegistrationMode = RegistrationMode::Open,
            /// Whether an address must be shown to be one's own: before the first login (`Required`), some time (`Optional`), or
            /// not (`Disabled`).
            email_verification: EmailVerification = EmailVerification::Required,
            /// What a new account has.
            #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
            default_roles: Vec<String> = Vec::new(),
        }
    }
}

words! {
    /// Who may make an account.
    RegistrationMode {
        /// Anyone.
        Open,
        /// Who was invited.
        InviteOnly,
        /// Administrators.
        Closed,
    }
}

words! {
    /// Whether an e-mail address must be shown to be one's own.
    EmailVerification {
        /// Before the first login.
        Required,
        /// Some time.
        Optional,
        /// Not.
        Disabled,
    }
}

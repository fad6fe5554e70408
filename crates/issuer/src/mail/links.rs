//! The links that mails hold. They come from the policy and its issuer, never from a request.

use countersign_api::policy::EffectiveMail;
use countersign_core::percent::segment;

/// What stands for the token in a policy's own links.
const PLACE: &str = "{token}";

/// The page that confirms an e-mail address: the policy's, or a plain one of ours.
pub(crate) fn verification_link(mail: Option<&EffectiveMail>, issuer: &str, token: &str) -> String {
    let template = mail.and_then(|mail| mail.verify_url.as_deref());
    link(template, issuer, "/auth/verify-email?token={token}", token)
}

/// The page that sets a new password: the policy's, or a plain one of ours.
pub(crate) fn reset_link(mail: Option<&EffectiveMail>, issuer: &str, token: &str) -> String {
    let template = mail.and_then(|mail| mail.reset_url.as_deref());
    link(template, issuer, "/auth/reset-password?token={token}", token)
}

fn link(template: Option<&str>, issuer: &str, own: &str, token: &str) -> String {
    let token = segment(token);
    match template {
        Some(template) => template.replace(PLACE, &token),
        None => format!("{}{}", issuer.trim_end_matches('/'), own.replace(PLACE, &token)),
    }
}

#[cfg(test)]
mod tests {
    use countersign_api::{Resolve as _, policy::Mail};

    use super::*;

    #[test]
    fn a_link_is_the_policy_s_or_a_page_of_ours_and_its_token_can_t_leave_its_place() {
        let mail = Mail {
            verify_url: Some("https://shop.example/verify?token={token}&x=1".into()),
            reset_url: Some("https://shop.example/reset#{token}".into()),
            ..Mail::default()
        }
        .resolve();
        let issuer = "https://auth.shop.example";
        for (link, expected) in [
            (verification_link(None, issuer, "abc_-9"), "https://auth.shop.example/auth/verify-email?token=abc_-9"),
            (reset_link(None, issuer, "abc"), "https://auth.shop.example/auth/reset-password?token=abc"),
            (verification_link(Some(&mail), issuer, "a&b="), "https://shop.example/verify?token=a%26b%3D&x=1"),
            (reset_link(Some(&mail), issuer, "a\r\nb"), "https://shop.example/reset#a%0D%0Ab"),
        ] {
            assert_eq!(link, expected);
        }
    }
}

//! The plain pages behind mailed links, for policies that have none of their own.
//!
//! They are static: the token is read from the address by the page itself, taken out of it (so that it stays in no history),
//! and sent back to the same address in a POST once the person presses the button. A scanner that follows links in mails
//! therefore uses nothing up. Nothing else is loaded, and no other page can frame them.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};

const STYLE: &str = include_str!("pages/page.css");
const SCRIPT: &str = include_str!("pages/page.js");

static VERIFICATION: LazyLock<String> = LazyLock::new(|| {
    page("Confirm your e-mail address", "<button>Confirm</button>", "Your address is confirmed. You can log in now.")
});

static RESET: LazyLock<String> = LazyLock::new(|| {
    let field = "<label>New password <input name=\"new_password\" type=\"password\" autocomplete=\"new-password\" required></label>";
    page("Choose a new password", &format!("{field}<button>Save</button>"), "Your password is changed. You can log in now.")
});

/// What may run on a page: the one script and the one style that are in it, by their hashes, and calls to ourselves.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let hash = |text: &str| BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; form-action 'none'; \
         base-uri 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    HeaderValue::try_from(policy).ok()
});

/// `GET /auth/verify-email`.
pub(crate) fn verification_page() -> Response {
    answer(&VERIFICATION)
}

/// `GET /auth/reset-password`.
pub(crate) fn reset_page() -> Response {
    answer(&RESET)
}

fn answer(page: &'static str) -> Response {
    let Some(policy) = POLICY.clone() else {
        return crate::problem::Problem::internal(&"a page's policy is no header").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    (headers, page).into_response()
}

fn page(title: &str, fields: &str, done: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><main><h1>{title}</h1>\n<form data-done=\"{done}\">{fields}</form>\n\
         <p role=\"status\"></p><noscript><p>This page needs JavaScript.</p></noscript></main>\n\
         <script>{SCRIPT}</script></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_runs_its_own_script_and_nothing_else() {
        for page in [verification_page(), reset_page()] {
            let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
            assert!(
                policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"),
                "{policy}"
            );
            assert_eq!(page.headers()[header::CACHE_CONTROL], "no-store");
            assert_eq!(page.headers()[header::REFERRER_POLICY], "no-referrer");
            let body = axum::body::to_bytes(page.into_body(), 1 << 16).await.unwrap();
            let html = String::from_utf8(body.to_vec()).unwrap();
            let script = html.split("<script>").nth(1).unwrap().split("</script>").next().unwrap();
            let hash = BASE64_STANDARD.encode(digest(&SHA256, script.as_bytes()));
            assert!(policy.contains(&format!("'sha256-{hash}'")), "the hash is of what the page holds");
            for foreign in ["http://", "https://", " src=", " href=", " onclick=", "innerHTML"] {
                assert!(!html.contains(foreign), "{foreign}");
            }
            assert!(html.contains("<form data-done=") && html.matches("<button>").count() == 1);
        }
    }
}

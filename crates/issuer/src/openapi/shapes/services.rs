//! What services and libraries of OAuth are told.

use serde_json::Value;
use utoipa::ToSchema;

/// An error of RFC 6749 section 5.2; with `detail` in place of `error_description` where the request was refused before it was
/// known to be one of OAuth.
#[derive(ToSchema)]
pub(crate) struct OauthProblem {
    #[schema(example = "invalid_client")]
    error: String,
    #[schema(nullable = false)]
    error_description: Option<String>,
    #[schema(nullable = false)]
    detail: Option<String>,
    #[schema(nullable = false)]
    fix: Option<String>,
}

/// What a token is asked for by.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum TokenRequest {
    Client(ClientGrant),
    Refresh(RefreshGrant),
}

/// RFC 6749 section 4.4.2. The client authenticates by Basic, or by `client_id` and `client_secret`.
#[derive(ToSchema)]
pub(crate) struct ClientGrant {
    grant_type: ClientCredentials,
    /// Of the client's scopes, separated by spaces; all of them unless asked otherwise.
    #[schema(nullable = false)]
    scope: Option<String>,
    #[schema(nullable = false)]
    client_id: Option<String>,
    #[schema(nullable = false)]
    client_secret: Option<String>,
}

/// RFC 6749 section 6. No client is needed.
#[derive(ToSchema)]
pub(crate) struct RefreshGrant {
    grant_type: RefreshToken,
    #[schema(min_length = 1)]
    refresh_token: String,
}

/// The name of the grant.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum ClientCredentials {
    ClientCredentials,
}

/// The name of the grant.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum RefreshToken {
    RefreshToken,
}

/// A token that a client asks about, or ends.
#[derive(ToSchema)]
pub(crate) struct AboutToken {
    #[schema(min_length = 1)]
    token: String,
    /// Not needed: the kind is seen from the token.
    #[schema(nullable = false)]
    token_type_hint: Option<String>,
    #[schema(nullable = false)]
    client_id: Option<String>,
    #[schema(nullable = false)]
    client_secret: Option<String>,
}

/// RFC 6749 section 5.1.
#[derive(ToSchema)]
pub(crate) struct OauthTokens {
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: String,
    expires_in: i64,
    #[schema(nullable = false)]
    refresh_token: Option<String>,
    #[schema(nullable = false)]
    scope: Option<String>,
}

/// RFC 7662 section 2.2. Of a token that is no good nothing but `active` is told.
#[derive(ToSchema)]
pub(crate) struct Introspected {
    active: bool,
    #[schema(nullable = false)]
    iss: Option<String>,
    #[schema(nullable = false)]
    sub: Option<String>,
    /// One audience, or several.
    #[schema(nullable = false)]
    aud: Option<Value>,
    #[schema(nullable = false)]
    exp: Option<i64>,
    #[schema(nullable = false)]
    iat: Option<i64>,
    #[schema(nullable = false)]
    jti: Option<String>,
    #[schema(nullable = false)]
    sid: Option<String>,
    #[schema(nullable = false)]
    scope: Option<String>,
    #[schema(nullable = false)]
    client_id: Option<String>,
    #[schema(nullable = false)]
    roles: Option<Vec<String>>,
    #[schema(nullable = false, example = "Bearer")]
    token_type: Option<String>,
}

/// OpenID Connect Core section 5.3; what the account lacks is missing.
#[derive(ToSchema)]
pub(crate) struct UserInfo {
    sub: String,
    #[schema(nullable = false)]
    name: Option<String>,
    #[schema(nullable = false)]
    given_name: Option<String>,
    #[schema(nullable = false)]
    family_name: Option<String>,
    #[schema(nullable = false)]
    preferred_username: Option<String>,
    #[schema(nullable = false)]
    email: Option<String>,
    #[schema(nullable = false)]
    email_verified: Option<bool>,
}

/// RFC 7517.
#[derive(ToSchema)]
pub(crate) struct Jwks {
    keys: Vec<Value>,
}

/// RFC 8414 and OpenID Connect Discovery. What the policy hasn't is missing.
#[derive(ToSchema)]
pub(crate) struct Metadata {
    issuer: String,
    jwks_uri: String,
    response_types_supported: Vec<String>,
    grant_types_supported: Vec<String>,
    #[schema(nullable = false)]
    token_endpoint: Option<String>,
    #[schema(nullable = false)]
    introspection_endpoint: Option<String>,
    #[schema(nullable = false)]
    revocation_endpoint: Option<String>,
    #[schema(nullable = false)]
    userinfo_endpoint: Option<String>,
    #[schema(nullable = false)]
    scopes_supported: Option<Vec<String>>,
    #[schema(nullable = false)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[schema(nullable = false)]
    introspection_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[schema(nullable = false)]
    revocation_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Of OpenID Connect alone.
    #[schema(nullable = false)]
    subject_types_supported: Option<Vec<String>>,
    /// Of OpenID Connect alone.
    #[schema(nullable = false)]
    id_token_signing_alg_values_supported: Option<Vec<String>>,
}

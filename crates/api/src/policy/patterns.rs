//! What texts of a policy look like. Each has its words in `schema::texts`.

/// Names of rules and of trusted issuers' entries.
pub(crate) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// Keys of Secrets and ConfigMaps, as Kubernetes has them.
pub(crate) const DATA_KEY: &str = "^[-._a-zA-Z0-9]+$";
/// The policy's own issuer: as it stands in tokens, compared character for character.
pub(crate) const ISSUER: &str = r"^https?://[^\s/?#]+(/[^\s/?#]+)*$";
/// Others' issuers, which needn't be addresses.
pub(crate) const FOREIGN_ISSUER: &str = r"^[^\s]+$";
/// Where something is fetched from, or sent to.
pub(crate) const ADDRESS: &str = r"^https?://[^\s/?#]+([/?][^\s#]*)?$";
/// Pages that mails link to.
pub(crate) const PAGE: &str = r"^https?://[^\s]+$";
/// Origins of web pages (RFC 6454), or all of them.
pub(crate) const ORIGIN: &str = r"^(\*|https?://[^\s/?#]+)$";
/// Names of roles.
pub(crate) const ROLE: &str = r"^[^\s\x00-\x1f]+$";
/// Permissions.
pub(crate) const PERMISSION: &str = r"^(\*|[^\s*:]+)(:(\*|[^\s*:]+))*$";
/// What a cookie's name may begin with (RFC 6265, a token).
pub(crate) const COOKIE_PREFIX: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
/// Senders of mails.
pub(crate) const SENDER: &str = r"^[^\r\n]*@[^\r\n]+$";
/// `client_id` (RFC 6749, VSCHAR without the space).
pub(crate) const CLIENT_ID: &str = r"^[\x21-\x7e]+$";

//! Base64url without padding (RFC 7515 section 2), one encoding for each byte string.

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// No padding, and no bits beyond the last byte: a second text for the same bytes would let a token pass under two names.
const STRICT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// A text that is not the base64url of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not strict base64url")]
pub struct NotBase64Url;

/// The text of `bytes`.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    STRICT.encode(bytes)
}

/// The bytes of `text`: refuses padding, white space, `+` and `/`, and set bits after the last byte.
pub fn decode(text: impl AsRef<[u8]>) -> Result<Vec<u8>, NotBase64Url> {
    STRICT.decode(text).map_err(|_| NotBase64Url)
}

/// The same, put after what `bytes` holds.
pub(crate) fn decode_onto(bytes: &mut Vec<u8>, text: impl AsRef<[u8]>) -> Result<(), NotBase64Url> {
    STRICT.decode_vec(text, bytes).map_err(|_| NotBase64Url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_string_has_one_text() {
        for bytes in [&b""[..], b"\0", b"f", b"fo", b"foo", b"foob", b"\xff\xef\xbe", b"\xfb\xff"] {
            assert_eq!(decode(encode(bytes)).unwrap(), bytes);
        }
        assert_eq!(encode(b"\xfb\xff"), "-_8");
        let refused =
            ["Zg==", "Zg=", "Zh", "Zm9", "Z", "Zm9vY", "Zm 9", "Zm9v\n", "+_8", "-/8", "Zm9v.", "Zm\u{e9}v", "=", "Zm9\0"];
        for text in refused {
            assert_eq!(decode(text), Err(NotBase64Url), "{text:?}");
        }
    }
}

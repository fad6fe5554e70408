//! The numbers inside a public JWK, checked for everything that would make signatures worthless.

use aws_lc_rs::{encoding::AsDer as _, rsa::PublicKeyComponents};
use curve25519_dalek::edwards::CompressedEdwardsY;

use super::verifying::KeyError;
use crate::jose::{Jwk, base64url};

/// A public key as the cryptographic library takes it.
pub(super) struct Material {
    /// SubjectPublicKeyInfo for RSA, an uncompressed point for EC, 32 bytes for Ed25519.
    pub(super) encoded: Vec<u8>,
    /// Type, curve and numbers in the one canonical writing.
    pub(super) canonical: Jwk,
    /// What it means when the library refuses it.
    pub(super) when_rejected: KeyError,
}

/// Reads the numbers. The type and curve must be ones that [`super::VerifyingKey`] knows.
pub(super) fn read(jwk: &Jwk) -> Result<Material, KeyError> {
    match jwk.kty.as_str() {
        "RSA" => rsa(jwk),
        "EC" => ec(jwk),
        "OKP" => ed25519(jwk),
        _ => Err(KeyError::UnsupportedType),
    }
}

fn number(text: Option<&String>, missing: &'static str, not_base64url: &'static str) -> Result<Vec<u8>, KeyError> {
    base64url::decode(text.ok_or(KeyError::Malformed(missing))?).map_err(|_| KeyError::Malformed(not_base64url))
}

fn rsa(jwk: &Jwk) -> Result<Material, KeyError> {
    /// What the library takes, bytes: 33 bits.
    const MAX_EXPONENT_BYTES: usize = 5;

    let n = number(jwk.n.as_ref(), "has no n", "has an n that is not base64url")?;
    let e = number(jwk.e.as_ref(), "has no e", "has an e that is not base64url")?;
    // RFC 7518 section 6.3.1.1 knows of issuers that write a leading zero, and warns instead of forbidding.
    let (n, e) = (without_leading_zeros(&n), without_leading_zeros(&e));

    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if bits < 2048 {
        return Err(KeyError::ShortModulus(bits));
    }
    if bits > 8192 {
        return Err(KeyError::LongModulus(bits));
    }
    if e.len() > MAX_EXPONENT_BYTES {
        return Err(KeyError::WeakExponent);
    }
    let exponent = e.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    if exponent.is_multiple_of(2) || !(65537..1 << 33).contains(&exponent) {
        return Err(KeyError::WeakExponent);
    }

    if is_roca(n) {
        return Err(KeyError::Roca);
    }

    let when_rejected = KeyError::Malformed("has an RSA modulus that is none");
    let encoded = PublicKeyComponents { n, e }.as_der().map_err(|_| when_rejected.clone())?.as_ref().to_vec();
    let canonical =
        Jwk { kty: "RSA".to_owned(), n: Some(base64url::encode(n)), e: Some(base64url::encode(e)), ..Jwk::default() };
    Ok(Material { encoded, canonical, when_rejected })
}

/// Whether a modulus has the mark of the faulty generator of CVE-2017-15361: modulo each of these primes it is a power of
/// 65537. A sound modulus has it with a probability under one in 2^150.
fn is_roca(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
        113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    PRIMES.iter().all(|&prime| {
        let remainder = modulus.iter().fold(0, |r, byte| (r * 256 + u32::from(*byte)) % prime);
        let powers = std::iter::successors(Some(1), |power| Some(power * (65537 % prime) % prime));
        powers.take(prime as usize).any(|power| power == remainder)
    })
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    &bytes[zeros..]
}

fn ec(jwk: &Jwk) -> Result<Material, KeyError> {
    let length = match jwk.crv.as_deref() {
        Some("P-256") => 32,
        Some("P-384") => 48,
        Some("P-521") => 66,
        _ => return Err(KeyError::UnsupportedType),
    };
    let x = number(jwk.x.as_ref(), "has no x", "has an x that is not base64url")?;
    let y = number(jwk.y.as_ref(), "has no y", "has a y that is not base64url")?;
    // RFC 7518 section 6.2.1.2: the full length, leading zeros included.
    if x.len() != length || y.len() != length {
        return Err(KeyError::Malformed("has a coordinate of a length that is not its curve's"));
    }
    let mut encoded = Vec::with_capacity(1 + 2 * length);
    encoded.push(0x04);
    encoded.extend_from_slice(&x);
    encoded.extend_from_slice(&y);
    let canonical =
        Jwk { kty: "EC".to_owned(), crv: jwk.crv.clone(), x: jwk.x.clone(), y: jwk.y.clone(), ..Jwk::default() };
    Ok(Material { encoded, canonical, when_rejected: KeyError::OffCurve })
}

fn ed25519(jwk: &Jwk) -> Result<Material, KeyError> {
    let encoded = number(jwk.x.as_ref(), "has no x", "has an x that is not base64url")?;
    let compressed =
        CompressedEdwardsY::from_slice(&encoded).map_err(|_| KeyError::Malformed("has an x that is not 32 bytes"))?;
    // The library in use decompresses at each verification and tells nobody that a key can never verify.
    let point = compressed.decompress().ok_or(KeyError::OffCurve)?;
    if point.is_small_order() {
        return Err(KeyError::SmallOrder);
    }
    // RFC 8032 section 5.1.3: a y of p or more is no encoding.
    if point.compress() != compressed {
        return Err(KeyError::OffCurve);
    }
    let canonical = Jwk { kty: "OKP".to_owned(), crv: jwk.crv.clone(), x: jwk.x.clone(), ..Jwk::default() };
    Ok(Material { encoded, canonical, when_rejected: KeyError::OffCurve })
}

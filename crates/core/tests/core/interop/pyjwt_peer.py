"""Verifies the tokens on its input with PyJWT, and answers with tokens of its own. See ../interop.rs."""

import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

given = json.load(sys.stdin)

key_set = jwt.PyJWKSet.from_dict(given["jwks"])
verified = []
for token in given["tokens"]:
    header = jwt.get_unverified_header(token)
    key = key_set[header["kid"]]
    verified.append(
        jwt.decode(
            token,
            key,
            algorithms=[header["alg"]],
            audience=given["audience"],
            issuer=given["issuer"],
            options={"require": ["exp", "iat", "sub", "jti"]},
        )
    )

rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
private_keys = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    **dict.fromkeys(["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"], rsa_key),
}
keys, tokens = [], []
for alg, private_key in private_keys.items():
    algorithm = jwt.get_algorithm_by_name(alg)
    public = algorithm.to_jwk(private_key.public_key(), as_dict=True)
    keys.append({**public, "kid": alg, "alg": alg, "use": "sig"})
    tokens.append(jwt.encode(given["claims"], private_key, algorithm=alg, headers={"kid": alg}))

secret = bytes(range(64))
for alg in ["HS256", "HS384", "HS512"]:
    tokens.append(jwt.encode(given["claims"], secret, algorithm=alg))

json.dump({"verified": verified, "jwks": {"keys": keys}, "secret": secret.hex(), "tokens": tokens}, sys.stdout)

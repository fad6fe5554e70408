"""How a service asks whether a token is good, in place of decoding it with a shared secret."""

import requests

VERIFIER = "http://127.0.0.1:7480/v1/policies/shop/app"


class Refused(Exception):
    """What to answer: HTTPException(status, detail, headers) in FastAPI."""

    def __init__(self, status, detail, headers):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


def current_user(token, *permissions, verifier=VERIFIER):
    """Whose token it is, with roles, permissions and claims. It knows a logout of a moment ago."""
    body = {"token": token, "require": {"permissions": list(permissions)}}
    answer = requests.post(f"{verifier}/verify", json=body, timeout=10)
    if answer.status_code == 200:
        return answer.json()
    headers = {name: answer.headers[name] for name in ("WWW-Authenticate", "Retry-After") if name in answer.headers}
    raise Refused(answer.status_code, answer.json()["detail"], headers)

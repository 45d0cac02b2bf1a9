"""Signed tokens that expire: who may watch which batch. Pure; the time is given."""

import base64
import hashlib
import hmac
import json
from uuid import UUID

from .errors import TokenError


def issue(secret: str, batch_id: UUID, owner: str, expires_at: float) -> str:
    """Make a token for one batch and one user; `expires_at` is in seconds of the epoch."""
    body = base64.urlsafe_b64encode(json.dumps([str(batch_id), owner, expires_at]).encode()).decode()
    return f"{body}.{_sign(secret, body)}"


def check(secret: str, token: str, batch_id: UUID, now: float) -> str:
    """Return the user whom a token is for. Raises TokenError."""
    body, _, signature = token.partition(".")
    if not hmac.compare_digest(_sign(secret, body).encode(), signature.encode(errors="surrogatepass")):
        raise TokenError("the token was not signed here")
    subject, owner, expires_at = json.loads(base64.urlsafe_b64decode(body))
    if now >= expires_at:
        raise TokenError("the token has expired")
    if subject != str(batch_id):
        raise TokenError("the token is for another batch")
    return str(owner)


def _sign(secret: str, body: str) -> str:
    return hmac.new(secret.encode(), body.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()

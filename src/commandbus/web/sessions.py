"""Signed cookies: who has signed in, and the token that a form must bring. Nothing is kept on the server."""

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from secrets import token_urlsafe

import orjson

_LONGEST = 4_096


class Signer:
    """Signs small values with the console's secret; a value that was changed, or signed for another use, is none."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def sign(self, use: str, value: object) -> str:
        """Return text that fits into a cookie."""
        body = base64.urlsafe_b64encode(orjson.dumps(value)).decode()
        return f"{body}.{self.digest(use, body)}"

    def read(self, use: str, text: str | None) -> object:
        """Return what was signed for that use, None for anything else."""
        if text is None or len(text) > _LONGEST or not text.isascii():
            return None
        body, _, signature = text.partition(".")
        if not hmac.compare_digest(signature, self.digest(use, body)):
            return None
        found: object = orjson.loads(base64.urlsafe_b64decode(body))
        return found

    def digest(self, use: str, text: str) -> str:
        """Return a keyed digest of a text, another one for each use."""
        raw = hmac.digest(self._secret, f"{use}:{text}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's session; `user` is None until somebody has signed in, `expires` in seconds since 1970."""

    session_id: str
    user: str | None
    expires: float


class Sessions:
    """Makes and reads the sessions of one console."""

    def __init__(self, signer: Signer, hours: float) -> None:
        self._signer = signer
        self.seconds = int(hours * 3_600)

    def new(self, user: str | None = None) -> Session:
        """Begin one, with an id of its own: signing in never goes on with an id that somebody else may know."""
        return Session(token_urlsafe(18), user, time.time() + self.seconds)

    def text(self, session: Session) -> str:
        """Return the session as its cookie has it."""
        return self._signer.sign("session", [session.session_id, session.user, session.expires])

    def read(self, text: str | None) -> Session | None:
        """Return the session of a cookie, None when it is none of ours or has expired."""
        found = self._signer.read("session", text)
        if not isinstance(found, list):
            return None
        session = Session(*found)
        return session if session.expires > time.time() else None

    def token(self, session: Session) -> str:
        """Return the token that forms of this session bring."""
        return self._signer.digest("csrf", session.session_id)

    def is_token(self, session: Session, token: str) -> bool:
        """Whether a form brought the right one."""
        return hmac.compare_digest(token.encode(), self.token(session).encode())

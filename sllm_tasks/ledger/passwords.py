"""Passwords as scrypt hashes; what is kept says how it was made, so that the cost can be raised later."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import threading
from typing import Final

#: OWASP's recommendation; 32 MiB and about 0.1 s for each guess.
_N, _R, _P = 2**15, 8, 1
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
#: OpenSSL's own limit is just below what these parameters need.
_MAX_MEMORY_BYTES: Final = 64 * 2**20
MIN_PASSWORD_LENGTH: Final = 12
#: Hashing takes time that grows with it.
MAX_PASSWORD_LENGTH: Final = 256

# Guesses queue here: many at once must take neither all memory nor the cores that answer everybody else.
_turns = threading.BoundedSemaphore(2)


def hash_password(password: str) -> str:
    """Hash a password with a fresh salt."""
    salt = os.urandom(_SALT_BYTES)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), _text(salt), _text(_scrypt(password, salt, _N, _R, _P))))


def is_password(password: str, stored: str | None) -> bool:
    """Whether a password is the one that was hashed; takes as long for None, which no password is."""
    _, n, r, p, salt, key = (stored or _NOBODYS).split("$")
    found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, base64.b64decode(key)) and stored is not None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # A lone surrogate is no character, but a guess may hold one.
    secret = password.encode("utf-8", "surrogatepass")
    with _turns:
        return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY_BYTES, dklen=_KEY_BYTES)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


#: Compared with where there is nothing to compare with.
_NOBODYS: Final = "$".join(
    ("scrypt", str(_N), str(_R), str(_P), _text(bytes(_SALT_BYTES)), _text(bytes(_KEY_BYTES))),
)

"""Secrets: the environment holds them, and nothing that is written or shown does."""

import os
import re
from collections.abc import Iterator

# How the name of a secret ends, in the environment and in params.yaml: HF_TOKEN, AWS_ACCESS_KEY_ID, api_key.
_NAME = re.compile(
    r"(token|secret|password|passwd|(^|_)((api_?)?key|key_id|auth_string|connection_string))$", re.IGNORECASE
)
# Of an address, the user and the password, which may hold any sign: up to the last @. A port is not a password.
_USER = re.compile(r"://(?P<user>[^\s/@:]*)(?P<password>:(?!\d+/)[^\s'\"<>]*)?@")
_QUERY = re.compile(r"([?&][\w.-]*(?:token|secret|password|key|signature|sig)=)[^\s&'\"<>]+", re.IGNORECASE)
SHORTEST = 6  # characters: a value that is shorter may be part of any word


def is_secret(name: str) -> bool:
    """Whether what has this name is a secret."""
    return _NAME.search(name) is not None


def redact(text: str) -> str:
    """`text` with *** for every password in an address and for every secret that the environment holds.

    The user of an address stays (http://me:***@host); one that comes alone may be a token, and does not.
    """
    text = _QUERY.sub(
        r"\1***", _USER.sub(lambda found: f"://{found['user']}:***@" if found["password"] else "://***@", text)
    )
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets() -> Iterator[str]:
    """Values of the environment that are secrets, and the passwords of the addresses in it."""
    for name, value in os.environ.items():
        found = [value.strip()] if is_secret(name) else []
        found += [(match["password"] or "")[1:] or match["user"] for match in _USER.finditer(value)]
        yield from (secret for secret in found if len(secret) >= SHORTEST)

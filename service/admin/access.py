"""Who may ask: a bearer token out of BACKTRACK_TOKENS."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

SCHEME = "bearer"


def refusal(authorization: str, tokens: Sequence[str]) -> tuple[int, str] | None:
    """None for somebody who may ask, else the HTTP status and a sentence. authorization: the header, "" without one.

    Every token is compared, and each in a time that does not depend on where it differs.
    """
    if not tokens:
        return 403, "the status API is closed: set BACKTRACK_TOKENS to a secret of 16 characters or more to open it"
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != SCHEME or not given.strip():
        return 401, "say who you are: send the header Authorization: Bearer TOKEN"
    matches = [hmac.compare_digest(given.strip().encode(), token.encode()) for token in tokens]
    return None if any(matches) else (401, "this token is not one of BACKTRACK_TOKENS")

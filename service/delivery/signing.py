"""Signatures of webhooks by Standard Webhooks: HMAC-SHA256 over id, timestamp and body, one for each secret in use."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence


class SecretError(Exception):
    """A secret that is not there or cannot be read; the message never holds the secret."""


def sign(secrets: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """Value of the header `webhook-signature`: `v1,` and the base64 signature, per secret, separated by spaces."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode() for secret in secrets
    )


def read_secrets(reference: str, environment: Mapping[str, str]) -> list[bytes]:
    """The secrets behind `env:NAME`, or `env:OLD env:NEW` during a rotation.

    A variable holds base64, with or without `whsec_`; two with a space between are two secrets. Raises SecretError if a
    variable is not set or is no base64.
    """
    return [secret for one in reference.split() for secret in _read(one, environment)]


def read_text(reference: str, environment: Mapping[str, str]) -> str:
    """What the variable of `env:NAME` holds, to be sent in a header. Raises SecretError if that cannot be."""
    name = reference.removeprefix("env:")
    text = environment.get(name, "").strip()
    if not text:
        raise SecretError(f"the variable {name} is not set in the worker's environment")
    if not (text.isascii() and text.isprintable()):
        raise SecretError(f"the variable {name} cannot be sent in a header: it is not visible ASCII")
    return text


def _read(reference: str, environment: Mapping[str, str]) -> list[bytes]:
    name = reference.removeprefix("env:")
    parts = environment.get(name, "").split()
    if not parts:
        raise SecretError(f"the variable {name} is not set in the worker's environment")
    try:
        secrets = [base64.b64decode(part.removeprefix("whsec_"), validate=True) for part in parts]
    except ValueError:
        secrets = []
    if not secrets or not all(secrets):  # an empty key would sign too, but so could anybody
        raise SecretError(f"the variable {name} holds no base64 secret such as whsec_...")
    return secrets

"""Signatures: the published vector of Standard Webhooks, rotation, and secrets that cannot be used."""

from __future__ import annotations

import base64

import pytest

from service.delivery.signing import SecretError, read_secrets, sign

# the published vector of the Standard Webhooks specification
SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP_S = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = base64.b64encode(b"another secret of 24 byt").decode()


@pytest.mark.parametrize("text", [SECRET, f"whsec_{SECRET}"])
def test_the_published_vector_is_met(text: str) -> None:
    secrets = read_secrets("env:ACME_SECRET", {"ACME_SECRET": text})
    assert sign(secrets, ID, TIMESTAMP_S, BODY) == SIGNATURE


def test_during_a_rotation_both_secrets_sign() -> None:
    # given an old and a new secret
    secrets = read_secrets("env:S", {"S": f"whsec_{OTHER} whsec_{SECRET}"})
    # when something is signed
    signatures = sign(secrets, ID, TIMESTAMP_S, BODY).split(" ")
    # then there is one signature of each
    assert len(signatures) == 2 and signatures[1] == SIGNATURE
    assert signatures[0] == sign(secrets[:1], ID, TIMESTAMP_S, BODY) != SIGNATURE


@pytest.mark.parametrize(
    "changed", [(ID + "x", TIMESTAMP_S, BODY), (ID, TIMESTAMP_S + 1, BODY), (ID, TIMESTAMP_S, b"")]
)
def test_id_time_and_body_are_signed(changed: tuple[str, int, bytes]) -> None:
    assert sign(read_secrets("env:S", {"S": SECRET}), *changed) != SIGNATURE


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "the variable ACME_SECRET is not set"),
        ({"ACME_SECRET": ""}, "the variable ACME_SECRET is not set"),
        ({"ACME_SECRET": "  "}, "the variable ACME_SECRET is not set"),
        ({"ACME_SECRET": "not base64!"}, "holds no base64 secret"),
        ({"ACME_SECRET": "abc"}, "holds no base64 secret"),
        ({"ACME_SECRET": "gehéim"}, "holds no base64 secret"),
        ({"ACME_SECRET": "whsec_"}, "holds no base64 secret"),
        ({"ACME_SECRET": f"{SECRET} whsec_"}, "holds no base64 secret"),
    ],
)
def test_a_secret_that_cannot_be_used_is_an_error_that_does_not_hold_it(
    environment: dict[str, str], words: str
) -> None:
    # when the secrets are read
    with pytest.raises(SecretError, match=words) as raised:
        read_secrets("env:ACME_SECRET", environment)
    # then the message names the variable only: an empty key would sign, but so could anybody
    for part in environment.get("ACME_SECRET", "").split():
        assert part.removeprefix("whsec_") == "" or part not in str(raised.value)

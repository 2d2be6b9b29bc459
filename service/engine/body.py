"""The JSON of a postback that has no template."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

_Field = str | msgspec.UnsetType


class Body(msgspec.Struct, gc=False):
    """What it holds: the order of these fields is the order of its keys; what is unset is left out."""

    postback_id: str
    hit_id: str
    trigger: str
    event: str
    time: str
    client: str
    affiliate: str | None
    visitor: str
    uid: _Field = UNSET
    click_id: _Field = UNSET
    tag_id: _Field = UNSET
    txid: _Field = UNSET
    amount: _Field = UNSET
    currency: _Field = UNSET
    ts: _Field = UNSET
    payout: _Field = UNSET
    payout_currency: _Field = UNSET
    params: dict[str, str] = {}

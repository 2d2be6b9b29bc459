"""The values that travel through the engine. Plain, frozen where they leave it, and equal wherever they are made.

Times are integer microseconds since 1970-01-01 UTC (`_us`). Sequence numbers (`seq`) order the entries of one partition
and never fall, not even across epochs. Texts are Unicode without exception: the decoder in `parse` sees to that.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

DECODER_VERSION = 1  # raised when the same bytes would be decoded to other parameters

RESERVED = (
    "client", "affiliate", "event", "uid", "click_id", "tag_id", "txid", "amount", "currency", "ts", "test", "sig",
)  # fmt: skip
IDENTIFIERS = ("uid", "tag_id", "click_id")  # in order of strength


class Verdict(StrEnum):
    """What the engine says about a hit as a whole."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    ENGINE_ERROR = "engine_error"


class Reason(StrEnum):
    """Why a hit was rejected. The set is closed; README.md says what the sender can do about each."""

    MISSING_CLIENT = "missing_client"
    UNKNOWN_CLIENT = "unknown_client"
    MISSING_EVENT = "missing_event"
    INVALID_EVENT = "invalid_event"
    EVENT_NOT_ALLOWED = "event_not_allowed"
    INVALID_AMOUNT = "invalid_amount"
    INVALID_CURRENCY = "invalid_currency"
    NOT_UTF8 = "not_utf8"
    QUERY_TOO_LONG = "query_too_long"
    BODY_TOO_LONG = "body_too_long"
    INVALID_BODY = "invalid_body"
    TOO_MANY_PARAMETERS = "too_many_parameters"
    NAME_TOO_LONG = "name_too_long"
    VALUE_TOO_LONG = "value_too_long"
    BAD_PATH = "bad_path"
    BAD_METHOD = "bad_method"
    BATCH_TOO_LONG = "batch_too_long"
    MISSING_SIGNATURE = "missing_signature"
    BAD_SIGNATURE = "bad_signature"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    PREFETCH = "prefetch"
    BOT = "bot"
    DO_NOT_TRACK = "do_not_track"
    ERASED = "erased"


class Stage(StrEnum):
    """Where a trigger stopped, in the order in which the stages are asked."""

    INACTIVE = "inactive"
    EVENT = "event"
    RECIPIENT = "recipient"
    STEPS = "steps"
    CONDITION = "condition"
    SAMPLE = "sample"
    ONCE = "once"
    CAP = "cap"


class PostbackState(StrEnum):
    """What is to be done with a postback at the moment it is promised."""

    DUE = "due"  # to be delivered
    WITHHELD = "withheld"  # a required value or the endpoint is missing: stored and counted, not sent
    RECORDED = "recorded"  # a test without a test endpoint: stored, not sent


class Hit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One HTTP request as it came in, with what the intake found.

    id: UUIDv7 as 32 hex digits. received_at_us: clock of the web process. refusal: the reason the intake answered, or ""
    (it binds the engine). flags: what the intake found, such as `body_cut` or `signed`; service/intake/README.md names all.
    """

    id: str
    received_at_us: int
    route: str
    method: str
    path: bytes
    query: bytes
    body: bytes = b""
    content_type: str = ""
    address: str = ""
    user_agent: str = ""
    referrer: str = ""
    refusal: str = ""
    flags: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One item of the journal: a hit, or (hit is None) a rulebook taking effect.

    partition, epoch, seq: its place. time_us: log time, which never falls within a partition.
    """

    partition: int
    epoch: int
    seq: int
    time_us: int
    hit: Hit | None = None
    rulebook_id: str = ""


class Event(msgspec.Struct, frozen=True, gc=False):
    """What a valid hit says. `fields` are the reserved names, sorted; `params` the custom parameters; absent is not there.

    detail: identifiers that came but are none (an unfilled macro, `null`), for the person who sent them.
    Nobody changes an event after it is made: outcomes and state share its mappings.
    """

    client: str
    name: str
    fields: dict[str, str]
    params: dict[str, str]
    test: bool = False
    detail: str = ""


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """A hit that says nothing valid: the reason and, in `detail`, the thing and the value for the person who sent it.

    reason: a value of `Reason`. client, event and params are what could be read all the same; client is "" unless the
    rulebook knows it, so that rejected hits can be counted per client.
    """

    reason: str
    detail: str = ""
    client: str = ""
    event: str = ""
    params: dict[str, str] = msgspec.field(default_factory=dict)


class Firing(msgspec.Struct, frozen=True, gc=False):
    """One trigger fired by one event. payout is a decimal in its written form, "" if there is none."""

    trigger: str
    payout: str = ""
    currency: str = ""


class Postback(msgspec.Struct, frozen=True, gc=False):
    """One message of a firing to one recipient: an immutable promise.

    id: hash of hit id, trigger and recipient. recipient: `client:NAME` or `affiliate:NAME`. method: webhook, ...
    verb, url, body: the request. missing: macros without a value. time_us: log time of the firing.
    """

    id: str
    hit_id: str
    seq: int
    time_us: int
    client: str
    affiliate: str
    trigger: str
    event: str
    recipient: str
    method: str
    state: str
    verb: str
    url: str
    body: str = ""
    missing: tuple[str, ...] = ()
    payout: str = ""
    currency: str = ""
    test: bool = False


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """Everything the engine says about one hit.

    reason: of a rejection, else "". detail: what was wrong, or which identifiers were none, or the engine's own bug.
    params: own and remembered parameters merged, sorted by name; of a rejected hit all that could be read. not_fired: the
    triggers on this event that did not fire and the stage that stopped them; every trigger of the client that is named
    nowhere stopped at `event`. absorbed, conflicts: ids of other visitors. fields: reserved names of the event that had
    a value, sorted by name.
    """

    hit_id: str
    seq: int
    time_us: int
    verdict: str
    reason: str = ""
    detail: str = ""
    client: str = ""
    event: str = ""
    affiliate: str = ""
    visitor: str = ""
    test: bool = False
    new_visitor: bool = False
    fields: dict[str, str] = msgspec.field(default_factory=dict)
    params: dict[str, str] = msgspec.field(default_factory=dict)
    fired: tuple[Firing, ...] = ()
    not_fired: dict[str, str] = msgspec.field(default_factory=dict)
    postbacks: tuple[Postback, ...] = ()
    absorbed: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    rulebook_id: str = ""

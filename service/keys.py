"""Names of everything that lies in the journal's Redis. One place, so that two parts never disagree."""

from __future__ import annotations

META = "bt:meta"  # hash: version of the stored state, number of partitions
RULEBOOK = "bt:rulebook"  # id of the rulebook in force
RULEBOOKS = "bt:rulebooks"  # hash: id -> text
ARCHIVE_LEASE = "bt:archive:lease"
ARCHIVED = (
    "bt:archived"  # hash: table/partition -> highest archived number, a hint for status; the tables are the truth
)

STATE_VERSION = 1  # raised when visitors, postbacks or the journal are stored differently


class Partition:
    """Keys of one partition."""

    __slots__ = (
        "attempts", "caps", "counts", "dead", "decisions", "due", "fence", "head", "inflight", "journal", "lease",
        "number", "owners", "poison", "postbacks", "promises", "tracked", "tries", "txids", "visitors", "wake", "writers",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        base = f"bt:{number}:"
        self.number = number
        self.journal = base + "journal"  # stream: epoch-seq -> t (time_us), h (hit) or r (rulebook id)
        self.head = base + "head"  # hash: epoch, seq, time of the last entry; postbacks, attempts: last numbers
        self.writers = base + "writers"  # hash: writer -> counter of its last batch
        self.wake = base + "wake"  # set while a wake-up is on its way or an actor is at work
        self.lease = base + "lease"  # fence number of the actor at work, with expiry
        self.fence = base + "fence"  # counter without expiry; a commit with an older number is refused
        self.tracked = base + "tracked"  # hash: seq, epoch of the last decided entry; rulebook in force
        self.owners = base + "owners"  # hash: identifier key -> visitor id
        self.visitors = base + "visitors"  # hash: visitor id -> visitor
        self.txids = base + "txids"  # hash: transaction key -> time_us
        self.caps = base + "caps"  # hash: cap key -> count
        self.counts = base + "counts"  # hash: hour, client, affiliate, trigger, event, measure -> integer
        self.decisions = base + "decisions"  # stream: epoch-seq -> outcome
        self.postbacks = base + "postbacks"  # stream: 1-n -> postback
        self.attempts = base + "attempts"  # stream: 1-n -> attempt
        self.promises = base + "promises"  # hash: postback id -> postback that is not settled yet
        self.tries = base + "tries"  # hash: postback id -> tries so far
        self.due = base + "due"  # sorted set: postback id by time_us when it is due
        self.inflight = base + "inflight"  # hash: postback id -> token of the delivery under way
        self.dead = base + "dead"  # sorted set: postback id by time_us of giving up
        self.poison = base + "poison"  # hash: seq -> error of an entry that could not be handled


def partitions(count: int) -> tuple[Partition, ...]:
    """Keys of all partitions."""
    return tuple(Partition(number) for number in range(count))

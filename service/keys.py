"""Names of everything that lies in the journal's Redis. One place, so that two parts never disagree."""

from __future__ import annotations

META = "bt:meta"  # hash: version of the stored state, number of partitions; run of the server, mark of the tables
RULEBOOK = "bt:rulebook"  # id of the rulebook in force
RULEBOOKS = "bt:rulebooks"  # hash: id -> text
ROOMS = "bt:rooms"  # set: recipients for whom postbacks wait outside of the due index
FAILING = "bt:failing"  # hash: recipient -> failures in a row
FAILING_SINCE = "bt:failing:since"  # hash: recipient -> time_us of the first of them
PAUSED = "bt:paused"  # hash: recipient -> since when, why, how often it was probed
PROBES = "bt:probes"  # sorted set: paused recipient by time_us of its next probe
DECIDED = "bt:decided"  # channel: ids of hits of browsers, 32 characters each, as soon as they are decided
RATES = "bt:rates"  # hash: recipient -> time_us from which on its rate allows the next call
ARCHIVE_LEASE = "bt:archive:lease"
ARCHIVED = (
    "bt:archived"  # hash: table/partition -> highest archived number, a hint for status; the tables are the truth
)

STATE_VERSION = 1  # raised when visitors, postbacks or the journal are stored differently


class Partition:
    """Keys of one partition."""

    __slots__ = (
        "attempts", "bases", "caps", "counts", "dead", "decisions", "due", "ended", "fence", "handed", "head", "inflight",
        "journal", "kept", "late", "lease", "new", "number", "owners", "poison", "postbacks", "promises", "settled",
        "tracked", "tries", "txids", "verdicts", "visitors", "waiting", "wake", "writers",
    )  # fmt: skip

    def __init__(self, number: int, name: str = "") -> None:
        base = f"bt:{name or number}:"
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
        self.verdicts = base + "verdicts"  # hash: verdict, reason, live or test -> how many were ever decided so
        self.decisions = base + "decisions"  # stream: epoch-seq -> outcome
        self.postbacks = base + "postbacks"  # stream: 1-n -> postback
        self.attempts = base + "attempts"  # stream: 1-n -> attempt
        self.promises = base + "promises"  # hash: postback id -> postback that is not settled yet
        self.tries = base + "tries"  # hash: postback id -> number of the last try that was handed out
        self.bases = base + "bases"  # hash: postback id -> tries that count no more for the ladder
        self.ended = base + "ended"  # hash: id of a postback that was given up -> number of its last try and its state
        self.late = (
            base + "late"
        )  # with : and a postback id: number of the last try, for tries that are still under way
        self.due = base + "due"  # sorted set: postback id by time_us when it is due
        self.new = base + "new"  # sorted set: those in due that were promised within the last minute and never tried
        self.inflight = (
            base + "inflight"
        )  # hash: postback id -> token of the delivery under way | first number not recorded
        self.dead = base + "dead"  # sorted set: postback id by time_us of giving up
        self.kept = base + "kept"  # set: ids of hits that the tables have and Redis has lost; they are not taken again
        self.settled = base + "settled"  # hash: postback id -> what the tables know of it, until it is promised again
        self.waiting = base + "waiting"  # with : and a visitor id: list of the postbacks that wait for its browser
        self.handed = base + "handed"  # with : and a postback id: token and time_us of its hand-out to a browser
        self.poison = base + "poison"  # hash: seq -> error of an entry that could not be handled

    def waiting_of(self, visitor: str) -> str:
        """List of the postbacks that wait for the browser of a visitor."""
        return f"{self.waiting}:{visitor}"


OPERATOR_NAME = "operator"
OPERATOR = Partition(-1, OPERATOR_NAME)  # the postbacks to whoever runs this: notices of pauses


def room(recipient: str) -> str:
    """Sorted set: partition/postback id by time_us, of postbacks that wait until their recipient can be called."""
    return f"bt:room:{recipient}"


def partitions(count: int) -> tuple[Partition, ...]:
    """Keys of all partitions."""
    return tuple(Partition(number) for number in range(count))

"""Every metric of `/metrics`: name, kind, meaning, labels. README.md has the same table, and what to be woken for."""

from __future__ import annotations

from service.admin.exposition import COUNTER, GAUGE, Metric

METRICS = (
    # the process that answers
    Metric("backtrack_build_info", GAUGE, "1, with the version of the program.", ("version",)),
    Metric("backtrack_journal_up", GAUGE, "1 if the journal's Redis answered this scrape, else 0."),
    Metric("backtrack_journal_look_seconds", GAUGE, "Seconds that the journal's Redis took to answer this scrape."),
    Metric("backtrack_broker_up", GAUGE, "1 if the broker's Redis answered this scrape, else 0."),
    # the intake of this machine
    Metric("backtrack_hits_acknowledged_total", COUNTER, "Hits answered with an id: they are on disk."),
    Metric("backtrack_hits_not_stored_total", COUNTER, "Hits answered without an id (not_stored), to be sent again."),
    Metric("backtrack_spool_files", GAUGE, "Files of spools in which hits wait for the journal."),
    Metric("backtrack_spool_bytes", GAUGE, "Bytes of these files; one goes when all of it has arrived."),
    Metric("backtrack_spool_free_bytes", GAUGE, "Free bytes on the disk of the spools."),
    Metric("backtrack_spool_floor_bytes", GAUGE, "Free bytes below which the spool takes nothing more."),
    # the journal
    Metric("backtrack_rulebook_info", GAUGE, "1, with the id of the rulebook in force, empty if there is none.", ("id",)),
    Metric("backtrack_journal_epoch", GAUGE, "Epoch of the journal; it rises when Redis has lost data."),
    Metric("backtrack_entries_logged_total", COUNTER, "Entries of the journal: hits, rulebooks, beginnings of epochs."),
    Metric("backtrack_stream_items", GAUGE, "Items in Redis of the streams that feed a table.", ("table",)),
    Metric("backtrack_unreadable_keys", GAUGE, "Keys of the wrong type: their partition stands still."),
    # tracking
    Metric("backtrack_hits_decided_total", COUNTER, "Hits decided, by verdict and reason of a rejection, live or test.",
           ("verdict", "reason", "kind")),
    Metric("backtrack_tracking_behind_entries", GAUGE, "Entries that are logged and not decided.", ("partition",)),
    Metric("backtrack_tracking_behind_seconds", GAUGE, "Seconds since the oldest of them was logged.", ("partition",)),
    Metric("backtrack_partitions_held", GAUGE, "Partitions that a worker holds; an idle one is given back."),
    Metric("backtrack_partitions_left", GAUGE, "Partitions with something to decide that no worker holds."),
    Metric("backtrack_set_aside_entries", GAUGE, "Entries that could not be decided and were set aside (poison)."),
    Metric("backtrack_visitors", GAUGE, "Visitors that are remembered."),
    Metric("backtrack_identifiers", GAUGE, "Identifiers that lead to them."),
    # delivery
    Metric("backtrack_postbacks_total", COUNTER, "Postbacks promised, those included that are rightly kept back."),
    Metric("backtrack_attempts_total", COUNTER, "Tries to deliver them."),
    Metric("backtrack_postbacks_waiting", GAUGE, "Postbacks that are not settled: due, later (a retry, under way, or for a "
           "browser), busy or paused (in the room of a recipient that is).", ("state",)),
    Metric("backtrack_delivery_behind_seconds", GAUGE, "Seconds for which the oldest due postback waits to be taken."),
    Metric("backtrack_room_oldest_seconds", GAUGE, "Seconds since the oldest postback in a room was promised.", ("state",)),
    Metric("backtrack_postbacks_given_up", GAUGE, "Postbacks that failed or are dead, until they are sent again."),
    Metric("backtrack_recipients", GAUGE, "Recipients that are paused; that fail, the paused ones included.", ("state",)),
    # archive
    Metric("backtrack_archive_behind_rows", GAUGE, "Rows that a table does not have yet.", ("table",)),
    Metric("backtrack_archive_behind_seconds", GAUGE, "Seconds since the oldest of them came to be.", ("table",)),
    Metric("backtrack_archive_held", GAUGE, "1 if an archive is at work, else 0."),
    # the journal's Redis
    Metric("backtrack_redis_memory_bytes", GAUGE, "Bytes that the journal's Redis uses."),
    Metric("backtrack_redis_memory_limit_bytes", GAUGE, "Bytes that it may use: its maxmemory, else those of its machine."),
    Metric("backtrack_redis_log_bytes", GAUGE, "Bytes of its append-only file."),
    Metric("backtrack_redis_log_ok", GAUGE, "1 if its last write to that file went well, else 0."),
)  # fmt: skip

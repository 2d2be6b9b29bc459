"""Hit ids: their shape, their order, and that nobody ever gets one twice."""

from __future__ import annotations

import os
import uuid

from service.intake.ids import DRAWN_AT_ONCE, new_hit_id


def test_an_id_is_a_uuid_of_version_7_that_begins_with_its_time() -> None:
    # when an id is made for a moment
    found = uuid.UUID(hex=new_hit_id(1_700_000_000_123_456))
    # then version, variant and the milliseconds are where RFC 9562 has them
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == 1_700_000_000_123


def test_ids_of_one_moment_differ_and_are_of_one_length() -> None:
    # when more ids are made than random bytes are drawn for at once
    found = {new_hit_id(0) for _ in range(3 * DRAWN_AT_ONCE)}
    # then none came twice
    assert len(found) == 3 * DRAWN_AT_ONCE and {len(one) for one in found} == {32}


def test_a_forked_process_makes_other_ids() -> None:
    # given random bytes that are drawn and not used up
    new_hit_id(0)
    # when the process forks and both make an id
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_hit_id(0).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 32).decode()
    os.close(reading)
    os.close(writing)
    # then they differ
    assert len(theirs) == 32 and theirs != new_hit_id(0)

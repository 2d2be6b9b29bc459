"""Which partition a client's hits go to."""

import pytest

from service.engine.partition import partition_of


def test_a_client_has_the_same_partition_everywhere() -> None:
    # fixed for ever: stored journals depend on it
    assert [partition_of(name, 16) for name in ("acme", "bolt", "cozy", "größe")] == [14, 7, 8, 9]


@pytest.mark.parametrize("partitions", [1, 3, 16, 1024])
def test_clients_spread_over_all_partitions_and_no_others(partitions: int) -> None:
    found = {partition_of(f"client-{number}", partitions) for number in range(partitions * 20)}
    assert found == set(range(partitions))


def test_no_known_client_means_partition_0() -> None:
    assert partition_of("", 16) == 0

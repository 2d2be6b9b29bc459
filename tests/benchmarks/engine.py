"""How fast one core reads and decides: `python -m tests.benchmarks.engine [--json] [--hits N]`.

Traffic of 2,000 visitors of one client of the sample rulebook: tracker links, logins, registrations and sales with eight
parameters, an alias, a percent-encoded value; every seventh hit fires, with two postbacks. Hits are in memory, for
`reference` they are decoded already; every round begins with an empty state.

Each figure is hits per second of this process's processor time (who waits for a core does not count) in the best of nine
rounds, the three measures in turn, so that a neighbour on the machine spoils rounds and not the figure. Caches and cores
that are shared still cost: on a busy machine figures fall, and only two versions measured in turn can be compared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

from service import native
from service.engine import Entry, Hit, State, load, parse, process

RULES = Path(__file__).parents[2] / "datasets" / "rules.toml"
START_US = 1_700_000_000_000_000
VISITORS = 2000
ROUNDS = 9


def traffic(hits: int) -> Iterator[Entry]:
    """Hits of one partition, one second apart: of every ten, one click, one registration, one sale, else logins."""
    for seq in range(1, hits + 1):
        visitor = seq // 10 * 7919 % VISITORS
        query = f"client=acme&uid=u{visitor}&tag_id=t{visitor}&country=DE&sub1=a%20b&device=ios&event="
        if seq % 10 == 0:
            hit = _hit(seq, "c", b"/c/acme/bestodds", f"sub1=banner-{seq % 50}&country=DE&subid=x{seq}&device=ios")
        elif seq % 10 == 1:
            hit = _hit(seq, "e", b"/e", f"{query}registration&subid={seq - 1:032x}")
        elif seq % 10 == 2:
            hit = _hit(seq, "e", b"/e", f"{query}sale&amount={seq % 97}.50&currency=EUR&order_id=o{seq}")
        else:
            hit = _hit(seq, "e", b"/e", f"{query}login&sub2=header")
        yield Entry(0, 1, seq, START_US + seq * 1_000_000, hit)


def _hit(seq: int, route: str, path: bytes, query: str) -> Hit:
    return Hit(f"{seq:032x}", START_US, route, "GET", path, query.encode())


def measure(hits: int) -> dict[str, float]:
    """Hits per second of processor time: `parse`, the reference engine (`process` of parsed hits), and both in turn."""
    rulebook = load(RULES.read_text(encoding="utf-8"))
    entries = list(traffic(hits))
    requests = [entry.hit for entry in entries if entry.hit is not None]

    def read() -> None:
        for hit in requests:
            parse(hit, rulebook)

    parsed = [parse(hit, rulebook) for hit in requests]

    def decide() -> None:
        state = State()
        for entry, event in zip(entries, parsed, strict=True):
            process(entry, state, rulebook, event)

    def whole() -> None:
        state = State()
        for entry in entries:
            process(entry, state, rulebook)

    measures = {"parse_hits_per_s": read, "reference_hits_per_s": decide, "both_hits_per_s": whole}
    best_s = dict.fromkeys(measures, inf)
    for _ in range(ROUNDS):
        for name, work in measures.items():
            best_s[name] = min(best_s[name], _seconds(work))
    return {name: round(hits / seconds) for name, seconds in best_s.items()}


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    arguments.add_argument("--hits", type=int, default=20_000, help="hits per run")
    chosen = arguments.parse_args()
    figures = measure(chosen.hits)
    if chosen.json:
        print(json.dumps(figures | {"compiled": native.in_use()}))
    else:
        for name, value in figures.items():
            print(f"{name:24}{value:12,.0f}")
        print("by the compiled engine" if native.in_use() else "by the engine's sources; `make engine` compiles them")


if __name__ == "__main__":
    main()

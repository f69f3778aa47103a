"""What Redis needs: bytes a journey by its touches and conversions, of ids, and of a million people of the benchmark.

    python -m bench.memory [--people 30000] [--of-a-kind 500]

The product itself writes everything: files go through `touchstream replay --keep` on the embedded broker, and a
redis-server of this run's own is asked with MEMORY USAGE and INFO memory. MEMORY USAGE knows a key and its value; what
Redis keeps beside them (tables of keys and of their ends) is the difference to INFO, and is told by the key.

Live, touches come one by one, and Redis leaves room behind a value that is appended to, up to its own length; once a
dump was loaded it is gone. So all keys of touches are written again in both ways before they are looked at.
"""

import argparse
import json
import random
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from bench import generate
from bench.servers import Redis
from bench.systems import ROOT
from models.journey import frame_again, read_frames

Record = dict[str, Any]

KINDS = {b"t:": "touches", b"c:": "conversions", b"f:": "pointer", b"i:": "ids", b"w:": "whose"}
MINUTE_MS = 60_000
PAGE = 1_000
# Ids of the shapes say which shape they are of: two digits, then the number.
NAMED = re.compile(rb"(?:anonymous:|conversion:)?(\d\d)\d{6}")
RUN_SECONDS = 1_800


@dataclass(frozen=True)
class Shape:
    """People who are alike. With `ids` each has so many anonymous ids, which hold the touches, and a user id."""

    name: str
    touches: int
    conversions: int = 0
    ids: int = 0
    corrections: int = 0


SHAPES = (
    Shape("1 touch", 1),
    Shape("5 touches", 5),
    Shape("20 touches", 20),
    Shape("100 touches", 100),
    Shape("5 touches, 1 conversion", 5, 1),
    Shape("20 touches, 1 conversion", 20, 1),
    Shape("20 touches, 5 conversions", 20, 5),
    Shape("5 touches, 1 correction that waits", 5, corrections=1),
    Shape("5 touches of a visitor, known as a user", 5, ids=1),
    Shape("the same with 1 conversion", 5, 1, ids=1),
    Shape("the same with 3 visitors", 15, 1, ids=3),
)


class Store:
    """What the server says of itself and of its keys."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def used(self) -> int:
        """Bytes in use for keys: without what the allocator, clients and the append-only file keep for a while."""
        told = self._client.info("memory")
        found: int = told["used_memory"] - told["mem_clients_normal"] - told["mem_aof_buffer"]
        return found

    def version(self) -> str:
        found: str = self._client.info("server")["redis_version"]
        return found

    def sizes(self) -> Iterator[tuple[bytes, int]]:
        """Subkey and bytes of each key."""
        for names in self._pages("*"):
            yield from self._sizes(names)

    def write_again(self, one_by_one: bool) -> None:
        """Write all touches again: as if they had come one at a time, or as they are after a dump was loaded."""
        for names in self._pages("{*}:t:*"):
            with self._client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.get(name)
                    pipe.pttl(name)
                found = pipe.execute()
                for name, blob, ttl_ms in zip(names, found[::2], found[1::2], strict=True):
                    pipe.delete(name)
                    for part in map(frame_again, read_frames(blob)) if one_by_one else [blob]:
                        pipe.append(name, part)
                    pipe.pexpire(name, ttl_ms)
                pipe.execute()

    def _pages(self, pattern: str) -> Iterator[list[bytes]]:
        names = list({*self._client.scan_iter(pattern, count=PAGE)})
        return (names[at : at + PAGE] for at in range(0, len(names), PAGE))

    def _sizes(self, names: list[bytes]) -> Iterator[tuple[bytes, int]]:
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.memory_usage(name, samples=0)
            sizes = pipe.execute()
        yield from ((name.split(b"}:", 1)[1], size) for name, size in zip(names, sizes, strict=True))

    def clear(self) -> None:
        self._client.flushall()


def people_of(shapes: Iterable[Shape], count: int) -> dict[str, list[Record]]:
    """Touches, conversions and identities of so many people of each shape."""
    records: dict[str, list[Record]] = {"touches": [], "conversions": [], "identities": []}
    draw = random.Random(generate.SEED)
    for number, shape in enumerate(shapes):
        for n in range(count):
            _add(records, shape, f"{number:02d}{n:06d}", draw)
    return records


def _add(records: Mapping[str, list[Record]], shape: Shape, person: str, draw: random.Random) -> None:
    visitors = [f"{person}-{k}" for k in range(shape.ids)]
    for visitor in visitors:
        said = {"anonymous_id": visitor, "user_id": person, "occurred_at": generate.START_MS}
        records["identities"].append(said)
    whose = {"user_id": person} if visitors else {"person_id": person}
    for k in range(shape.touches):
        named = {"anonymous_id": visitors[k % len(visitors)]} if visitors else whose
        touch = generate._touch(k, generate.START_MS + k * MINUTE_MS, draw)
        records["touches"].append({**named, **touch, "event_id": f"t{person}{k:03d}"})
    for k in range(shape.conversions + shape.corrections):
        conversion = generate._conversion(k, generate.START_MS + (shape.touches + k) * MINUTE_MS, draw)
        conversion |= {"conversion_id": f"{person}c{k}", "event_id": f"{person}e{k}"}
        if k >= shape.conversions:
            conversion |= {"action": "restate"}
        records["conversions"].append({**whose, **conversion})


def write_mix(people: int, folder: Path) -> tuple[int, int, int]:
    """What `bench/generate.py` draws for so many people: ten touches each, unevenly, and a conversion each twenty.

    Gives how many people, touches and conversions there are.
    """
    draw = random.Random(generate.SEED)
    seen, conversions = set(), 0
    with (folder / "touches.ndjson").open("w") as touched, (folder / "conversions.ndjson").open("w") as converted:
        for i in range(people * 10):
            person = {"person_id": f"p{int(people * draw.random() ** 1.5):07d}"}
            seen.add(person["person_id"])
            at_ms = generate.START_MS + i * 100
            touched.write(json.dumps({**person, **generate._touch(i, at_ms, draw)}) + "\n")
            if i % 20 == 19:
                converted.write(json.dumps({**person, **generate._conversion(i, at_ms + 50, draw)}) + "\n")
                conversions += 1
    return len(seen), people * 10, conversions


def write(records: Mapping[str, list[Record]], folder: Path) -> None:
    for name, some in records.items():
        (folder / f"{name}.ndjson").write_text("".join(json.dumps(record) + "\n" for record in some))


def replay(kinds: Iterable[str], url: str, folder: Path) -> None:
    """The files of these kinds through the product, which leaves its keys in Redis."""
    command = [str(ROOT / ".venv" / "bin" / "touchstream"), "replay", "--keep", "--redis", url]
    for kind in kinds:
        command += [f"--{kind}", str(folder / f"{kind}.ndjson")]
    command += ["--credits", str(folder / "credits.ndjson"), "--set", "processing.settle=0s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, cwd=folder, check=False)
    if done.returncode:
        raise RuntimeError(f"the replay failed:\n{done.stderr[-2_000:]}")


def by_shape(store: Store) -> dict[int, Counter[str]]:
    """Bytes of all people of a shape, by kind of key; and under `keys` how many these are."""
    found: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for subkey, size in store.sizes():
        kind = KINDS.get(subkey[:2])
        named = NAMED.match(subkey[2:].split(b":", 1)[1] if kind == "touches" else subkey[2:])
        if kind is not None and named is not None:
            found[int(named[1])].update({kind: size, "keys": 1})
    return found


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head)]
    lines += [["---", *("---:" for _ in lines[0][1:])], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shapes(store: Store, url: str, count: int, folder: Path) -> str:
    """The table of shapes: bytes a person."""
    before = store.used()
    records = people_of(SHAPES, count)
    write(records, folder)
    replay(records, url, folder)
    store.write_again(one_by_one=False)
    loaded, used = by_shape(store), store.used() - before
    store.write_again(one_by_one=True)
    live = by_shape(store)
    rows = []
    for number, shape in enumerate(SHAPES):
        parts = [round(live[number][kind] / count) for kind in KINDS.values()]
        after = round(loaded[number]["touches"] / count)
        sizes = [parts[0], after, *parts[1:], sum(parts)]
        rows.append([shape.name, f"{live[number]['keys'] / count:.1f}", *(f"{n:,}" if n else "" for n in sizes)])
    keys = sum(sizes["keys"] for sizes in loaded.values())
    known = sum(sum(sizes[kind] for kind in KINDS.values()) for sizes in loaded.values())
    kinds = list(KINDS.values())
    text = table(["a person with", "keys", kinds[0], "after a load", *kinds[1:], "bytes"], rows)
    return f"{text}\n\n{(used - known) / keys:.0f} bytes a key beside these, over {keys:,} keys"


def mix(store: Store, url: str, people: int, folder: Path) -> str:
    """What the mix of the benchmark needs."""
    store.clear()
    before = store.used()
    there, touches, conversions = write_mix(people, folder)
    replay(("touches", "conversions"), url, folder)
    found = []
    for one_by_one in (True, False):
        store.write_again(one_by_one)
        found.append(store.used() - before)
    live, loaded = (f"{n / there:,.0f} bytes a person, {n / there * 1e6 / 2**30:.2f} GiB a million" for n in found)
    return (
        f"{there:,} people of the mix, on average {touches / there:.1f} touches and {conversions / there:.2f}"
        f" conversions each, by INFO memory: {live}; after a load {loaded}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="What Redis needs.")
    parser.add_argument("--people", type=int, default=30_000, help="people of the benchmark's mix (default 30,000)")
    parser.add_argument("--of-a-kind", type=int, default=500, help="people of each shape (default 500)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="touchstream-memory-") as name:
        server = Redis(Path(name) / "redis")
        try:
            store = Store(server.url)
            print(shapes(store, server.url, given.of_a_kind, Path(name)), flush=True)
            print(mix(store, server.url, given.people, Path(name)))
            print(f"redis-server {store.version()}")
        finally:
            server.child.stop()


if __name__ == "__main__":
    main()

"""Where records lie and where their keys belong."""

from types import SimpleNamespace

from streams.murmur import partition_of
from streams.routing import SAMPLE_EVERY, misrouted

# Taken from Kafka's own UtilsTest: murmur2 of these texts.
KNOWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
}


def test_the_partition_is_that_of_kafkas_default_partitioner() -> None:
    """murmur2 without its sign, modulo the partitions, as in Kafka's tests."""
    for key, hashed in KNOWN.items():
        assert partition_of(key, 1_000) == (hashed & 0x7FFFFFFF) % 1_000


def records(keys: list[bytes | None]) -> list[SimpleNamespace]:
    return [SimpleNamespace(key=key) for key in keys]


def test_keys_in_their_partition_are_not_counted_and_others_all_are() -> None:
    """One wrong key in the sample makes the whole chunk count; null keys belong nowhere and are not counted."""
    right = [key for key in (b"p%d" % i for i in range(2_000)) if partition_of(key, 4) == 1][: 3 * SAMPLE_EVERY]
    wrong = [key for key in (b"q%d" % i for i in range(2_000)) if partition_of(key, 4) != 1][:10]
    assert misrouted(records([*right, None]), 1, 4, partition_of) == 0
    assert misrouted(records([wrong[0], *right, *wrong[1:]]), 1, 4, partition_of) == len(wrong)

"""The demo's view: sums that restatements do not inflate, rates, and a whole demo that cleans up behind itself."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import psutil
import pytest
from rich.console import Console

from streams.demo import setup_seconds, shown_model
from streams.demo_view import KEYS_MAX, Rates, Tally, headline, money_text, screen
from streams.settings import load_settings

ROOT = Path(__file__).parents[2]


def credit(value_micros: int, **fields: object) -> bytes:
    record = {"conversion_id": "c", "attribution_model": "last_touch", "status": "credited", "share": 1.0}
    return msgspec.json.encode({**record, "value_micros": value_micros, "currency": "USD", **fields})


def test_a_restatement_replaces_and_a_tombstone_removes() -> None:
    """The sum is that of the latest revisions, not of everything ever published."""
    tally = Tally("last_touch")
    tally.add(b"c|last_touch|1", credit(5_000_000), 100)
    tally.add(b"c|last_touch|1", credit(7_000_000, revision=2), 100)
    tally.add(b"d|last_touch|1", credit(1_000_000, currency="EUR"), 100)
    assert tally.money == {"USD": 7_000_000, "EUR": 1_000_000}
    tally.add(b"c|last_touch|1", None, 100)
    assert tally.money == {"USD": 0, "EUR": 1_000_000}
    assert (tally.credits, tally.restated) == (3, 1)


def test_money_is_of_one_attribution_model_and_additive_only() -> None:
    """Adding up several attribution models would count every conversion several times."""
    tally = Tally("last_touch")
    tally.add(b"1", credit(5, attribution_model="linear"), 1)
    tally.add(b"2", credit(5, additive=False), 1)
    assert tally.money == {}
    assert tally.credits == 2


def test_retracted_credits_without_a_channel_are_read() -> None:
    """A retracted record has no touch, so most fields are absent."""
    tally = Tally("last_touch")
    tally.add(b"1", credit(0, status="retracted", share=0), 1)
    assert tally.last[0].status == "retracted"


def test_the_tally_stays_bounded() -> None:
    """A demo left running for days forgets the keys of old credits, and keeps their money."""
    tally = Tally("last_touch")
    for number in range(KEYS_MAX + 10):
        tally._keep(str(number).encode(), _SEEN)
    assert len(tally._values) == KEYS_MAX
    assert tally.money == {"USD": (KEYS_MAX + 10) * _SEEN.value_micros}


_SEEN = msgspec.json.decode(credit(3), type=type(Tally("x")._decode.decode(credit(3))))


def test_percentiles_are_of_what_was_read() -> None:
    """p50 and p99 of 1…100 ms, and 0 before anything came."""
    tally = Tally("last_touch")
    assert tally.percentile(0.5) == 0
    tally.latencies_ms.extend(range(1, 101))
    assert (tally.percentile(0.5), tally.percentile(0.99)) == (51, 100)


def test_rates_need_two_looks() -> None:
    """A rate is the way between two counts over the time between them."""
    rates = Rates()
    rates.update({"touches": 1000}, now=10.0)
    assert rates.per_second == {}
    rates.update({"touches": 3000}, now=12.0)
    assert rates.per_second == {"touches": 1000.0}


def test_currencies_stand_side_by_side() -> None:
    """They are never added together."""
    assert money_text({"USD": 1_234_500_000, "EUR": 1_000}) == "EUR 0.00 · USD 1,234.50"
    assert money_text({}) == "–"


def test_both_views_show_the_same_figures() -> None:
    """The line and the screen name the dead letters, the money and the last credit."""
    tally, rates = Tally("last_touch"), Rates()
    tally.add(b"1", credit(2_500_000, channel="Email", conversion_id="order-1"), 42)
    tally.dead_letters = 3
    console = Console(width=140, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    console.print(screen(tally, rates, ["a note"]))
    drawn = console.export_text()
    for text in ("USD 2.50", "3", "42 ms"):
        assert text in drawn
        assert text in headline(tally, rates)
    assert "order-1" in drawn
    assert "a note" in drawn


def test_the_seconds_of_a_set_up_are_told_only_right_after_it(tmp_path: Path) -> None:
    """What `deploy/set_up.py` noted counts for the demo that `make demo` starts next, and for no later one."""
    path = tmp_path / ".setup-seconds"
    path.write_text('{"set_up_s": 41.3, "build_s": 30.2}\n', encoding="ascii")
    written = path.stat().st_mtime
    assert setup_seconds(path, now=written + 1) == {"set-up": 41.3, "of it broker build": 30.2}
    assert setup_seconds(path, now=written + 3600) == {}


@pytest.mark.parametrize("text", ["", "12.5", "[]", "{}", '{"set_up_s": null, "build_s": 1}', None])
def test_a_note_that_cannot_be_read_is_no_reason_to_fail(tmp_path: Path, text: str | None) -> None:
    """Without the note, or with a broken one, the demo starts all the same."""
    path = tmp_path / ".setup-seconds"
    if text is not None:
        path.write_text(text, encoding="ascii")
    assert setup_seconds(path) == {}


def test_the_shown_attribution_model_is_one_that_is_computed() -> None:
    """last_touch where it is among them, else the first."""
    assert shown_model(load_settings(environ={})) == "last_touch"
    assert shown_model(load_settings(None, {"attribution.models": ["linear"]}, {})) == "linear"


DEADLINE_S = 120.0


def demo_command(*more: str) -> list[str]:
    return [sys.executable, "-m", "streams.cli", "demo", "--plain", "--rate", "300", *more]


def test_a_demo_credits_and_cleans_up() -> None:
    """Servers, worker and generator come up, credits come out, the limit ends it with 0, and no process stays."""
    done = subprocess.run(demo_command("--credits", "30"), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "first credit" in done.stdout
    assert "last credits (last_touch)" in done.stdout
    assert done.stdout.rstrip().endswith("stopped; nothing is left behind")
    assert done.stderr == ""


def test_ctrl_c_ends_a_demo_with_0_and_no_process_stays() -> None:
    """SIGINT after the first credit: summary, exit code 0, and every process that was started is gone."""
    with subprocess.Popen(
        demo_command(),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # Whoever runs the tests in the background may have SIGINT ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 there are no threads yet
    ) as process:
        deadline = threading.Timer(DEADLINE_S, process.kill)
        deadline.start()
        try:
            assert process.stdout is not None
            assert any("first credit" in line for line in process.stdout)
            started = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
        finally:
            deadline.cancel()
    assert process.returncode == 0
    assert "stopped; nothing is left behind" in rest
    assert len(started) >= 6  # broker, Valkey, run, its worker, the generator, and their keepers
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []

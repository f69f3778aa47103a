"""The mutants: each takes one rule out of the product, and names the tests that must notice.

A mutant is an exact text and what replaces it. The text must occur exactly once in the product, wherever it lies: so a
rule may move to another file without a change here, and one that is reworded shows up at once.
"""

from typing import NamedTuple

PROCESSOR = "tests/streams/test_processor.py"
CONTRACT = "tests/state/test_contract.py"
CREDITING = "tests/models/test_crediting.py"
PUBLISH = "tests/streams/test_publish.py"
TRANSPORT = "tests/streams/test_transport.py"
MOVES = "tests/streams/test_moves.py"
FORGETTING = "tests/streams/test_forgetting.py"
WAITING = "tests/streams/test_waiting.py"
CAUGHT = "tests/mutants/test_caught.py"
POLICIES = "tests/simulation/test_policies.py"
FOLLOWING = "tests/streams/test_following.py"


class Mutant(NamedTuple):
    """`old` becomes `new`. Each of `tests` (a file, a class or a test) passes before, and fails after."""

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


# -- the store

STORE = (
    Mutant(
        "unfenced-load",
        "_prove(partition, token, applied, owner, at)",
        "pass",
        (f"{CONTRACT}::test_load_proves_owner_and_applied",),
    ),
    Mutant(
        "unfenced-load-memory",
        """        pre = self._owned(partition, token)
        self._at(partition, pre, applied)
        now = self._now_ms()
        return [""",
        """        pre = prefix(self._app, partition)
        now = self._now_ms()
        return [""",
        (f"{CONTRACT}::test_load_proves_owner_and_applied", f"{CAUGHT}::test_nothing_is_decided_from_an_emptied_store"),
    ),
    Mutant(
        "unfenced-save",
        "if owner ~= ARGV[1] then return {3} end\n",
        "",
        (f"{CONTRACT}::test_refused_save_writes_nothing",),
    ),
    Mutant(
        "script-without-already-applied",
        "  if applied == args[3] then return {1} end\n",
        "",
        (f"{CONTRACT}::test_save_twice_appends_once",),
    ),
    Mutant(
        "script-without-applied",
        "if applied ~= args[2] then\n",
        "if false then\n",
        (f"{CONTRACT}::test_refused_save_writes_nothing", f"{CONTRACT}::test_stale_copy_is_seen"),
    ),
    Mutant(
        "ttl-as-eligibility",
        "self._ttl_ms = rules.kept_ms",
        "self._ttl_ms = rules.policy.retention_ms",
        (f"{CAUGHT}::test_a_touch_counts_by_record_time_whatever_has_expired",),
    ),
)

# -- the order of a step, and what a claim does

STEP = (
    Mutant(
        "loading-back-from-the-youngest",
        "first_ms = min(decided_ms, default=front_ms)",
        "first_ms = max(decided_ms, default=front_ms)",
        (f"{CAUGHT}::test_a_younger_conversion_in_the_same_step_takes_no_touch_from_an_older_one",),
    ),
    Mutant(
        "loading-back-from-the-touches",
        "first_ms = min(decided_ms, default=front_ms)",
        "first_ms = front_ms",
        (f"{CAUGHT}::test_touches_read_far_ahead_take_none_from_a_conversion",),
    ),
    Mutant(
        "publish-and-save-swapped",
        """        if self.replaying:
            # What these records came to was counted when they were published.
            report = BatchReport(self.partition, replayed=sum(taken.counts))
        elif decided.output or self._must_commit(ends) or self._is_commit_due(ends):
            await self._publish(decided.output, ends, report)
        self._crash_point("published")
        # ---- past this line the batch counts as done ----
        await self._save(decided, ends, report)
""",
        """        await self._save(decided, ends, report)
        if self.replaying:
            report = BatchReport(self.partition, replayed=sum(taken.counts))
        elif decided.output or self._must_commit(ends) or self._is_commit_due(ends):
            await self._publish(decided.output, ends, report)
        self._crash_point("published")
""",
        (f"{PROCESSOR}::TestOrderOfEffects",),
    ),
    Mutant(
        "conversions-applied-ahead-of-committed",
        "decided.output or self._must_commit(ends) or self",
        "decided.output or self",
        (f"{PROCESSOR}::TestCommits::test_conversions_are_never_applied_ahead_of_committed",),
    ),
    Mutant(
        "offsets-past-held-conversions",
        "self._gate.first_offset(otherwise=conversions)",
        "conversions",
        (f"{PROCESSOR}::TestCommits::test_offsets_never_pass_a_held_record",),
    ),
    Mutant(
        "stop-commits-older-offsets",
        "if not self.replaying and self._is_ahead(self._applied.offsets):",
        "if not self.replaying:",
        (f"{PROCESSOR}::TestCommits::test_a_stop_after_a_failed_save_takes_no_offsets_back",),
    ),
    Mutant(
        "catch-up-beyond-committed",
        "return self._up_to_committed(taken) if self.replaying else taken",
        "return taken",
        (f"{PROCESSOR}::TestClaim::test_an_emptied_store_is_replayed_up_to_committed_and_no_further",),
    ),
    Mutant(
        "catch-up-one-conversion-too-far",
        "(now if held.offset < conversions_end else later)",
        "(now if held.offset <= conversions_end else later)",
        (f"{PROCESSOR}::TestClaim::test_an_emptied_store_is_replayed_up_to_committed_and_no_further",),
    ),
    Mutant(
        "catch-up-publishes",
        "elif decided.output or self._must_commit(ends)",
        "if decided.output or self._must_commit(ends)",
        (f"{CAUGHT}::test_a_catch_up_publishes_no_dead_letter_again",),
    ),
    Mutant(
        "emptied-store-not-rebuilt",
        "applied = Applied(tuple(first))",
        "applied = Applied(tuple(offset or 0 for offset in done))",
        (f"{PROCESSOR}::TestClaim::test_an_emptied_store_is_replayed_up_to_committed_and_no_further",),
    ),
    Mutant(
        "claim-again-after-a-fence",
        """            await self.step(batches)
        except BY_A_NEW_CLAIM as exc:""",
        """            await self.step(batches)
        except (*BY_A_NEW_CLAIM, Superseded) as exc:""",
        (
            f"{PROCESSOR}::TestClaimAgain::test_it_leaves_where_another_may_own_the_partition",
            f"{CAUGHT}::test_a_superseded_worker_does_not_fence_the_new_owner",
        ),
    ),
    Mutant(
        "store-claimed-before-producer",
        """        await self._publisher.start()
        self._crash_point("claim_producer")
""",
        """        await self._store.claim(self.partition, b"early")
        await self._publisher.start()
        self._crash_point("claim_producer")
""",
        (f"{PROCESSOR}::TestClaim::test_the_producer_is_fenced_before_the_store",),
    ),
    Mutant(
        "batches-of-an-earlier-claim",
        "if batch.incarnation != incarnation:",
        "if False:",
        (f"{PROCESSOR}::TestClaimAgain::test_batches_of_an_earlier_claim_are_ignored",),
    ),
)

# -- Kafka

KAFKA = (
    Mutant(
        "produce-future-not-awaited",
        """            if pending:
                await asyncio.gather(*pending)
""",
        "",
        (f"{PUBLISH}::test_a_refused_batch_is_never_committed_around",),
    ),
    Mutant(
        "no-answer-taken-for-refused",
        "raise Uncertain(repr(exc)) from exc",
        "raise Refused(repr(exc)) from exc",
        (f"{PUBLISH}::test_no_answer_to_the_commit_is_uncertain",),
    ),
    Mutant(
        "fence-by-another-name",
        "if producer._txn_manager.is_fatal_error():",
        "if False:",
        (f"{PUBLISH}::test_a_fence_by_whatever_name_is_a_fence",),
    ),
    Mutant(
        "read-uncommitted",
        'consumer._isolation_level = "read_committed"',
        'consumer._isolation_level = "read_uncommitted"',
        ("tests/streams/test_isolation.py",),
    ),
    Mutant(
        "accepting-while-claiming",
        """        partitions = self._partition_numbers(mine)
        self._claimed -= partitions
""",
        """        partitions = self._partition_numbers(mine)
""",
        (f"{TRANSPORT}::test_nothing_is_fetched_while_a_partition_is_being_claimed",),
    ),
    Mutant(
        "asking-while-not-claimed",
        "            tp.partition in self._claimed\n            and tp not in self._held_back",
        "            tp not in self._held_back",
        (
            f"{TRANSPORT}::test_nothing_is_fetched_while_a_partition_is_being_claimed",
            f"{TRANSPORT}::test_a_revoked_partition_is_not_asked_for",
        ),
    ),
    Mutant(
        "gap-accepted",
        "if chunk.start != self._reached.get(tp):",
        "if chunk.start < self._reached.get(tp, 0):",
        (f"{TRANSPORT}::test_a_chunk_that_does_not_follow_is_fetched_again",),
    ),
    Mutant(
        "gate-out-of-order",
        """        while self._held and len(ready) < count_max and self._may_go(self._held[0], now_s, processed):
            ready.append(self._held.popleft())
""",
        """        for held in list(self._held):
            if len(ready) < count_max and self._may_go(held, now_s, processed):
                self._held.remove(held)
                ready.append(held)
""",
        ("tests/streams/test_gate.py::test_first_in_first_out",),
    ),
    Mutant(
        "gate-opens-by-the-clock",
        "return processed(held.end)",
        "return True",
        (f"{PROCESSOR}::TestHolding::test_a_conversion_waits_for_touches_that_were_there_before_it",),
    ),
)

# -- the core

CORE = (
    Mutant(
        "pruning-by-the-touch-clock",
        """    first, last = rules.window(c)
    if all(""",
        """    first, last = rules.window(c)
    return [t for t in touches if first <= t.occurred_ms <= last]
    if all(""",
        (
            f"{CREDITING}::test_touches_before_their_time_do_not_count",
            f"{CREDITING}::test_touches_after_allowed_lateness_change_nothing",
        ),
    ),
    Mutant(
        "conversions-forgotten-by-event-time",
        "if c.record_ms + kept_ms(self._rules, c) >= record_ms:",
        "if c.occurred_ms + kept_ms(self._rules, c) >= record_ms:",
        (f"{CAUGHT}::test_a_conversion_is_kept_by_its_record_time",),
    ),
    Mutant(
        "rebuild-takes-up-what-a-merge-brought-too-late",
        "elif self._is_too_old(known, merged_ms):",
        "elif self._is_too_old(known, -1):",
        (f"{MOVES}::test_a_correction_that_a_merge_brought_too_late_is_too_late_in_a_rebuild_too",),
    ),
    Mutant(
        "old-conversions-forgotten-in-part",
        "reach_ms = self._rules.whole_ms if taken.moves else self._rules.reach_ms",
        "reach_ms = self._rules.reach_ms",
        (f"{FORGETTING}::TestForgetting::test_an_old_conversion_is_published_whole_or_not_at_all",),
    ),
    Mutant(
        "waiting-counted-by-batch",
        "if entry is None or entry.record_ms + self._wait_ms > record.record_ms:",
        "if entry is None or entry.record_ms + self._wait_ms > last_ms:",
        (f"{WAITING}::test_batches_and_restarts_do_not_matter",),
    ),
    Mutant(
        "touches-kept-by-event-time",
        "_, record_ms, key, _, frame = touch",
        "_, _, key, record_ms, frame = touch",
        (f"{CAUGHT}::test_a_touch_is_kept_by_its_record_time",),
    ),
    Mutant(
        "restated-without-the-touches-that-are-gone",
        "created.sealed = self._replaying and e.record_ms < self._sealed_below_ms",
        "created.sealed = False",
        (f"{CREDITING}::test_a_sealed_conversion_stays_as_it_was_published",),
    ),
    Mutant(
        "whatever-is-stored-counts",
        "return c.record_ms - policy.retention_ms, c.record_ms + self.lateness_of(policy)",
        "return 0, c.record_ms + self.lateness_of(policy)",
        (f"{CREDITING}::test_touches_before_their_time_do_not_count",),
    ),
    Mutant(
        "tombstones-from-rebuilt-state",
        """        if now.rebuilt:
            return self._all_of(now, [n for _, n in changed])
""",
        "",
        (f"{CREDITING}::test_a_restatement_after_a_rebuild_takes_back_every_key_it_does_not_publish",),
    ),
    Mutant(
        "no-suppression",
        """        if not self._replaying:
            for conversion_id, source""",
        """        if True:
            for conversion_id, source""",
        (f"{CREDITING}::test_a_replay_publishes_nothing_and_ends_in_the_same_state",),
    ),
    Mutant(
        "rounding-tie-to-the-later",
        "for index in sorted(range(count), key",
        "for index in sorted(reversed(range(count)), key",
        ("tests/models/test_money.py::test_examples",),
    ),
    Mutant(
        "rounding-tie-to-the-later-evenly",
        "return [part + 1] * left + [part] * (count - left)",
        "return [part] * (count - left) + [part + 1] * left",
        ("tests/models/test_money.py::test_examples",),
    ),
)

# -- what changes over time: policies, and the format of state

CHANGES = (
    Mutant(
        "policy-of-today",
        "self._scheduled[bisect_right(self._starts_ms, record_ms)]",
        "self._scheduled[-1]",
        (f"{POLICIES}::test_the_policy_is_that_of_the_record_time_whoever_works",),
    ),
    Mutant(
        "policies-of-the-start",
        "await self._look(record_ms)",
        "pass",
        (
            f"{POLICIES}::test_the_policy_is_that_of_the_record_time_whoever_works",
            f"{FOLLOWING}::test_every_record_finds_its_policy_in_time",
        ),
    ),
    Mutant(
        "policies-looked-at-too-seldom",
        "max(self._sure_ms, record_ms + SURE_MS)",
        "max(self._sure_ms, record_ms + 2 * SURE_MS)",
        (f"{FOLLOWING}::test_every_record_finds_its_policy_in_time",),
    ),
    Mutant(
        "policies-not-looked-at-by-a-claim",
        "self._use(await self._following.again())",
        "pass",
        (f"{FOLLOWING}::test_who_takes_over_knows_what_the_one_before_knew",),
    ),
    Mutant(
        "policy-announced-too-late",
        "if from_ms < now_ms + LEAD_MS:",
        "if from_ms < now_ms - LEAD_MS:",
        ("tests/models/test_schedule.py::TestAnnouncing::test_the_past_keeps_its_policies",),
    ),
    Mutant(
        "any-format-claimed",
        "if not OLDEST <= found <= FORMAT:",
        "if not found:",
        ("tests/streams/test_formats.py::test_a_fleet_goes_to_a_new_format_and_back",),
    ),
    Mutant(
        "format-not-said",
        """if self.state_format > int((applied is stored and number) or b"1"):""",
        "if not self.state_format:",
        ("tests/streams/test_formats.py::test_a_fleet_goes_to_a_new_format_and_back",),
    ),
)

MUTANTS: tuple[Mutant, ...] = (*STORE, *STEP, *KAFKA, *CORE, *CHANGES)

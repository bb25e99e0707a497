"""Workers that give no sign of life are named, once, and nobody else is."""

from __future__ import annotations

from wsi_seg.engine.cluster.silence import ALL_SILENT_S, SILENT_S, Silence


def test_who_is_silent_for_too_long_is_named_once() -> None:
    now = 0.0
    silence = Silence(lambda: now)
    assert silence.too_long({"a": 5.0, "b": 7.0}) == []
    named = []
    for step in range(1, 30):
        now = step * 5.0
        named += [(now, address) for address in silence.too_long({"a": 5.0, "b": 7.0 + step})]
    assert named == [(SILENT_S + 5.0, "a")]


def test_who_comes_back_is_heard_anew() -> None:
    now = 0.0
    silence = Silence(lambda: now)
    silence.too_long({"a": 1.0, "b": 1.0})
    now = 2 * SILENT_S
    assert silence.too_long({"a": 1.0, "b": 2.0}) == ["a"]
    assert silence.too_long({"a": 2.0, "b": 3.0}) == []
    now = 4 * SILENT_S
    assert silence.too_long({"a": 2.0, "b": 4.0}) == ["a"]


def test_where_nobody_is_heard_it_may_be_the_network() -> None:
    now = 0.0
    silence = Silence(lambda: now)
    silence.too_long({"a": 1.0, "b": 1.0})
    now = ALL_SILENT_S
    assert silence.too_long({"a": 1.0, "b": 1.0}) == []
    now = ALL_SILENT_S + 1
    assert silence.too_long({"a": 1.0, "b": 1.0}) == ["a", "b"]
    assert silence.too_long({"a": 1.0, "b": 1.0}) == []


def test_a_clock_far_off_is_no_silence() -> None:
    now = 1000.0
    silence = Silence(lambda: now)
    for sign in (-1e9, 0.0, 1e12):
        now += 10 * SILENT_S
        assert silence.too_long({"a": sign}) == []

"""Captions in one buffer: each image has its own, in order, whatever they are written in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdrift.data.caption_store import CaptionPacker, PackedCaptions, count_too_long

TEXTS = st.lists(st.text(max_size=8), min_size=1, max_size=3)


def packed(*rows: tuple[int, list[str]]) -> tuple[list[int], PackedCaptions]:
    packer = CaptionPacker()
    for image, texts in rows:
        packer.add(image, texts)
    positions, captions = packer.packed()
    return positions.tolist(), captions


@given(st.lists(st.tuples(st.integers(0, 9), TEXTS), max_size=20), st.data())
@settings(max_examples=60, deadline=None)
def test_captions_follow_their_image(rows: list[tuple[int, list[str]]], data: st.DataObject) -> None:
    """Rows in any order, several for one image, any letters."""
    expected: dict[int, tuple[str, ...]] = {}
    for image, texts in rows:
        expected[image] = (*expected.get(image, ()), *texts)
    positions, captions = packed(*rows)
    assert positions == sorted(expected)
    assert list(captions) == [expected[image] for image in positions]
    assert captions.counts.tolist() == [len(expected[image]) for image in positions]
    order = np.array(
        data.draw(st.lists(st.sampled_from(range(len(positions))))) if positions else [], np.int64
    )
    part = captions.subset(order)
    assert [part.all(i) for i in range(len(part))] == [expected[positions[i]] for i in order]
    last = part.counts - 1
    assert part.texts(np.arange(len(part)), last) == [expected[positions[i]][-1] for i in order]


def test_numbers_that_are_not_there() -> None:
    _, captions = packed((3, ["a", "b"]), (5, ["c"]))
    assert [captions.text(0, 0), captions.text(0, 1), captions.text(1, 0)] == ["a", "b", "c"]
    for number in (-1, 2):
        with pytest.raises(IndexError, match=f"an image with 2 captions has no caption number {number}"):
            captions.text(0, number)


def test_half_a_surrogate_pair_is_a_question_mark() -> None:
    """Lines of JSON may hold one; neither UTF-8 nor a tokenizer can."""
    assert packed((0, ["a \ud83d b"]))[1].all(0) == ("a ? b",)


def test_fingerprints_tell_texts_order_and_owners() -> None:
    made = [
        packed((0, ["ab"]), (1, ["c"])),
        packed((0, ["a"]), (1, ["bc"])),
        packed((0, ["ab", "c"])),
        packed((0, ["c"]), (1, ["ab"])),
        packed((0, ["ab"]), (1, ["d"])),
    ]
    assert len({captions.fingerprint() for _, captions in made}) == len(made)
    _, first = packed((4, ["ab"]), (9, ["c"]))  # elsewhere, and added in another order
    _, again = packed((1, ["c"]), (0, ["ab"]))
    assert first.fingerprint() == again.fingerprint() == made[0][1].fingerprint()


def test_captions_that_are_too_long() -> None:
    _, captions = packed(*((i, ["a b c"] if i % 3 else ["a", "a b c d"]) for i in range(1000)))
    seen: list[int] = []
    calls: list[tuple[int, int]] = []

    def count_tokens(texts: list[str]) -> list[int]:
        seen.append(len(texts))
        return [len(text.split()) for text in texts]

    assert count_too_long(captions, count_tokens, 3, lambda *call: calls.append(call)) == 334
    assert count_too_long(captions, count_tokens, 2) == 1000
    assert seen[:2] == [1000, 334]
    assert calls == [(1000, 1334), (1334, 1334)]

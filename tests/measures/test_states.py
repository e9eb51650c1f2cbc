"""States in memory and in a temporary file are the same states, and so is everything made from them."""

from __future__ import annotations

import gc
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from measure_oracles import numpy_biased_cka, numpy_cka, numpy_hsic
from torch import Tensor

import clipdrift.measures.internals as reading
import clipdrift.measures.states as keeping
from clipdrift.data.deck import Prepared
from clipdrift.measures import (
    Internals,
    MeasureError,
    cka_matrix,
    cka_minibatch,
    read_internals,
    representation,
)
from clipdrift.measures.states import KeptStates
from clipdrift.model.clip import Clip

representing = import_module("clipdrift.measures.representation")  # the package has a function of that name

L, N, D = 3, 29, 6


def random_states(seed: int, images: int = N) -> Tensor:
    """(L, N, D), not centred, each block otherwise."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(L, 1, D, generator=generator)
    return torch.randn(L, images, D, generator=generator) + 3 * shift


def keep(states: Tensor, size: int = 5, limit: int = keeping.IN_MEMORY) -> KeptStates:
    """Filled in batches of ``size``, the last one short."""
    kept = KeptStates(limit)
    for part in states.split(size, dim=1):
        kept.add(part)
    return kept


SPILLED = [0, 4 * L * 5 * D, 4 * L * 22 * D]
"""Limits in bytes: everything to disk, from the second batch on, from the fifth on."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files of these tests go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# --- what is kept


@pytest.mark.parametrize("limit", SPILLED)
@pytest.mark.parametrize("size", [1, 5, N])
def test_spilled_states_are_the_same_bits(limit: int, size: int) -> None:
    """Blocks, slices and pieces, whatever the batches and wherever the limit falls."""
    states = random_states(0)
    memory, disk = keep(states, size), keep(states, size, limit)
    assert (memory.on_disk, disk.on_disk) == (False, True)
    for kept in (memory, disk):
        assert (len(kept), kept.images, kept.widths) == (L, N, (D,) * L)
        assert all(torch.equal(kept[block], states[block]) for block in range(L))
        assert torch.equal(kept[-1], states[-1])
        assert torch.equal(torch.stack(list(kept)), states)
        for piece in (slice(0, 1), slice(3, 17), slice(28, None), slice(7, 7), slice(9, 4), slice(25, 99)):
            assert torch.equal(kept.block(1, piece), states[1, piece]), piece
        for step in (1, 4, 28, 29, 100):
            found = list(kept.pieces(2, step))
            assert [len(part) for part in found] == [len(part) for part in states[2].split(step)]
            assert torch.equal(torch.cat(found), states[2])
        with pytest.raises(IndexError):
            kept[L]
        with pytest.raises(ValueError, match="contiguous"):
            kept.block(0, slice(0, N, 2))


@pytest.mark.parametrize("limit", [keeping.IN_MEMORY, 0])
def test_reading_in_between_disturbs_nothing(limit: int) -> None:
    """Batches that come after a read are appended all the same."""
    states, kept = random_states(0), KeptStates(limit)
    for part in states.split(5, dim=1):
        kept.add(part)
        assert torch.equal(kept[1], states[1, : kept.images])
    assert torch.equal(torch.stack(list(kept)), states)


@pytest.mark.parametrize("limit", [keeping.IN_MEMORY, 0])
def test_states_of_any_kind_become_float32(limit: int) -> None:
    """Also those that carry a gradient or lie across memory."""
    states = random_states(0)
    strange = states.double().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    kept = keep(strange, 7, limit)
    assert all(block.dtype == torch.float32 and not block.requires_grad for block in kept)
    assert torch.equal(torch.stack(list(kept)), states)


def test_memory_is_the_limit(own_folder: Path) -> None:
    """Up to the limit nothing is written; beyond it everything is, and nothing stays in memory."""
    whole = 4 * L * N * D
    kept = keep(random_states(0), 5, whole)
    assert not kept.on_disk
    assert not list(own_folder.iterdir())
    kept = keep(random_states(0), 5, whole - 1)
    assert kept.on_disk
    files = sorted(own_folder.glob("clipdrift-*/*"))
    assert sum(file.stat().st_size for file in files) == whole
    assert not [value for value in vars(kept).values() if isinstance(value, list) and value]


def test_the_folder_goes_with_the_states(own_folder: Path) -> None:
    """When the last reference does, and without a warning, which would fail this test."""
    kept = keep(random_states(0), 5, 0)
    states = internals(random_states(0), kept)
    del kept
    gc.collect()
    assert len(list(own_folder.iterdir())) == 1
    del states
    gc.collect()
    assert not list(own_folder.iterdir())


def test_a_model_read_to_disk(
    tiny_clip: Clip, probe: Prepared, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading spills by itself; states and what is made of them are the same."""
    memory = read_internals(tiny_clip.model, probe, 4)
    monkeypatch.setattr(reading, "KeptStates", partial(KeptStates, 0))
    disk = read_internals(tiny_clip.model, probe, 4)
    assert not memory.states.on_disk
    assert disk.states.on_disk
    assert len(list(own_folder.iterdir())) == 1
    assert all(torch.equal(*pair) for pair in zip(memory.states, disk.states, strict=True))
    same = representation(memory, disk)
    assert same["cka"] == pytest.approx([1, 1], abs=1e-12)


# --- no room


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: the system refuses to let any file grow further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_folder_is_named(own_folder: Path) -> None:
    """With what to do; and what was written until then is removed."""
    states, kept = random_states(0), KeptStates(0)
    with files_of_at_most(300):
        kept.add(states[:, :5])
        with pytest.raises(MeasureError) as caught:
            kept.add(states[:, 5:])
    (folder,) = own_folder.iterdir()
    assert str(caught.value) == (
        "the states of 29 images cannot be kept in a temporary folder: "
        f"File too large: {folder}; make room there, or name another folder in TMPDIR"
    )
    del kept, caught
    gc.collect()
    assert not list(own_folder.iterdir())


def test_a_folder_that_cannot_be_written_is_named(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder that is none."""
    (own_folder / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(own_folder / "file"))
    with pytest.raises(MeasureError, match=r"Not a directory: .*/file/clipdrift-.*; make room .* TMPDIR"):
        keep(random_states(0), 5, 0)


def test_no_temporary_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own words for it, without a folder to name."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/no/such/place"])
    with pytest.raises(
        MeasureError, match=r"No usable temporary directory found in \['/no/such/place'\]; make"
    ):
        keep(random_states(0), 5, 0)


def test_a_reading_without_room_fails_in_one_line(
    tiny_clip: Clip, probe: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an error of measuring, and the model is as it was."""
    monkeypatch.setattr(reading, "KeptStates", partial(KeptStates, 0))
    monkeypatch.setattr(tempfile, "tempdir", os.devnull)
    tiny_clip.model.train()
    with pytest.raises(MeasureError, match="the states of 4 images cannot be kept"):
        read_internals(tiny_clip.model, probe, 4)
    assert tiny_clip.model.training


# --- what is made of them


def internals(states: Tensor, kept: KeptStates | None = None) -> Internals:
    embedding = states[0] @ torch.randn(D, 4, generator=torch.Generator().manual_seed(9))
    return Internals({}, {}, {}, keep(states) if kept is None else kept, embedding, "class token")


def pair(images: int = N, limit: int = keeping.IN_MEMORY) -> tuple[Internals, Internals]:
    """Two models whose later blocks are less alike."""
    before, noise = random_states(0, images), random_states(1, images)
    after = before + torch.arange(1, L + 1)[:, None, None] * 0.5 * noise
    one, other = (internals(states, keep(states, 5, limit)) for states in (before, after))
    return one, other


def arrays(side: Internals) -> list[np.ndarray]:
    return [block.double().numpy() for block in side.states]


def close(found: object, target: object, tolerance: float = 1e-9) -> None:
    assert np.abs(np.asarray(found) - np.asarray(target)).max() < tolerance


def test_representation_by_numpy() -> None:
    """Debiased and biased, block by block, and of the embedding."""
    before, after = pair()
    found = representation(before, after)
    close(found["cka"], [numpy_cka(x, y) for x, y in zip(arrays(before), arrays(after), strict=True)])
    close(
        found["cka_biased"],
        [numpy_biased_cka(x, y) for x, y in zip(arrays(before), arrays(after), strict=True)],
    )
    z, w = before.embedding.double().numpy(), after.embedding.double().numpy()
    close(found["cka_embedding"], [numpy_cka(z, w)])
    cosines = (z * w).sum(1) / np.sqrt((z * z).sum(1) * (w * w).sum(1))
    close(found["embedding_drift"], [1 - cosines.mean()])
    assert len({round(value, 2) for value in found["cka"]}) == L  # an order would show


@pytest.mark.parametrize("limit", SPILLED)
def test_from_disk_as_from_memory(limit: int) -> None:
    """Every measure of two readings; also with one side here and the other there."""
    memory, disk = pair(), pair(limit=limit)
    for sides in (disk, (memory[0], disk[1]), (disk[0], memory[1])):
        for name, values in representation(*memory).items():
            close(representation(*sides)[name], values)
        close(cka_minibatch(*sides, size=8), cka_minibatch(*memory, size=8))
        close(cka_matrix(*sides), cka_matrix(*memory))


@pytest.mark.parametrize("limit", [keeping.IN_MEMORY, 0])
@pytest.mark.parametrize("images", [1, 7, 28])
def test_many_images_as_few(monkeypatch: pytest.MonkeyPatch, limit: int, images: int) -> None:
    """Summed over pieces, the last of a single image, CKA is that of all images at once."""
    whole = representation(*pair())
    monkeypatch.setattr(representing, "GRAM_IMAGES", images)
    found = representation(*pair(limit=limit))
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        close(found[name], values)


def test_many_images_are_never_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of states on disk, a piece at a time is in memory."""
    before, after = pair(limit=0)
    read: list[int] = []
    block = KeptStates.block

    def watched(kept: KeptStates, index: int, images: slice = slice(None)) -> Tensor:
        found = block(kept, index, images)
        read.append(len(found))
        return found

    monkeypatch.setattr(KeptStates, "block", watched)
    monkeypatch.setattr(representing, "GRAM_IMAGES", 7)
    representation(before, after)
    cka_matrix(before, after)
    assert max(read) == 7
    read.clear()
    cka_minibatch(before, after, size=5)
    assert max(read) == 5


@pytest.mark.parametrize("limit", [keeping.IN_MEMORY, 0])
def test_minibatch_cka_by_numpy(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Sums of unbiased terms over batches of 8, the last of 5; neither the mean of CKAs nor CKA of all."""
    before, after = pair(limit=limit)
    sums, means = [], []
    for x, y in zip(arrays(before), arrays(after), strict=True):
        parts = [(x[i : i + 8], y[i : i + 8]) for i in range(0, N, 8)]
        kk, km, mm = (
            sum(numpy_hsic(part[i], part[j]) for part in parts) for i, j in ((0, 0), (0, 1), (1, 1))
        )
        sums.append(km / np.sqrt(kk * mm))
        means.append(np.mean([numpy_cka(a, b) for a, b in parts]))
    monkeypatch.setattr(representing, "GRAM_IMAGES", 3)  # of no consequence here
    close(cka_minibatch(before, after, size=8), sums)
    assert np.abs(np.array(sums) - means).max() > 1e-3
    assert np.abs(np.array(sums) - representation(before, after)["cka"]).max() > 1e-3
    close(cka_minibatch(before, after, size=N), representation(before, after)["cka"])


def test_minibatch_cka_leaves_out_a_rest_that_is_too_small() -> None:
    """Three images have no unbiased estimate; too few in all are an error."""
    long, longer = pair(27)
    first = [internals(torch.stack([b[:24] for b in side.states])) for side in (long, longer)]
    close(cka_minibatch(long, longer, size=8), cka_minibatch(*first, size=8))  # type: ignore[arg-type, misc]
    few = [internals(torch.stack([b[:3] for b in side.states])) for side in (long, longer)]
    with pytest.raises(MeasureError, match=r"minibatch cka of block 1: .*at least one batch"):
        cka_minibatch(*few)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [keeping.IN_MEMORY, 0])
def test_cka_matrix_by_numpy(limit: int) -> None:
    """Rows are the backbone's blocks, columns the adapted model's; on its diagonal stands cka."""
    before, after = pair(limit=limit)
    found = cka_matrix(before, after)
    target = [[numpy_cka(x, y) for y in arrays(after)] for x in arrays(before)]
    close(found, target)
    close(found.diagonal(), representation(before, after)["cka"])
    assert np.abs(found - found.T).max() > 1e-3  # rows and columns are not the same thing
    close(cka_matrix(after, before), found.T)


@pytest.mark.parametrize("limit", [keeping.IN_MEMORY, 0])
@pytest.mark.parametrize("most", [8, 10, 15, 28])
def test_cka_matrix_of_many_images_takes_some_evenly(
    monkeypatch: pytest.MonkeyPatch, limit: int, most: int
) -> None:
    """As many different ones as are allowed, the first and the last among them, the same on both sides."""
    before, after = pair(limit=limit)
    chosen = np.round(np.linspace(0, N - 1, most)).astype(int)
    assert len(set(chosen)) == most
    monkeypatch.setattr(representing, "GRAM_IMAGES", most)
    found = cka_matrix(before, after)
    close(found, [[numpy_cka(x[chosen], y[chosen]) for y in arrays(after)] for x in arrays(before)])


@pytest.mark.parametrize("most", [1024, 7])
def test_a_collapsed_block_is_named(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """By either way of computing."""
    states = random_states(0)
    collapsed = states.clone()
    collapsed[1] = collapsed[1, 0]
    monkeypatch.setattr(representing, "GRAM_IMAGES", most)
    with pytest.raises(MeasureError, match="cka of block 2: cka is undefined"):
        representation(internals(states), internals(collapsed))
    with pytest.raises(MeasureError, match="minibatch cka of block 2: cka is undefined"):
        cka_minibatch(internals(states), internals(collapsed))
    with pytest.raises(MeasureError, match="cka matrix: cka is undefined"):
        cka_matrix(internals(states), internals(collapsed))

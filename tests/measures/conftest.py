"""Models and readings that tests of the measures share."""

from __future__ import annotations

import pytest
import torch
from measure_oracles import Eager, eager, make_b32, make_siglip
from torch import Tensor
from transformers import SiglipModel

from clipdrift.data.deck import Prepared
from clipdrift.measures import Internals, read_internals


@pytest.fixture
def siglip() -> SiglipModel:
    """Made anew, so that a test may change it."""
    return make_siglip()


@pytest.fixture
def images() -> Tensor:
    """15 of them, as the tiny models take them."""
    return torch.randn(15, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def probe(images: Tensor) -> Prepared:
    return Prepared(images, torch.device("cpu"))


@pytest.fixture(scope="session")
def b32() -> tuple[Internals, Eager]:
    """Two images in a model of ViT-B/32's shape: what is read, one by one, and what transformers gives."""
    model = make_b32()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    probe = Prepared(images, torch.device("cpu"))
    found = read_internals(model, probe, 1, flow=True, detail=True, masses=(0.5, 0.95))
    return found, eager(model, images)

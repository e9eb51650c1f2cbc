"""Training objectives: cross-entropy of a head, the contrastive loss against class texts, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from clipdrift import formulas
from clipdrift.model.clip import Clip, logit_bias_of
from clipdrift.model.towers.text import Prompt


@runtime_checkable
class Objective(Protocol):
    """A loss on one batch."""

    @property
    def mean_over_images(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its images, each by itself."""
        ...

    def __call__(self, head: Any, embedding: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (scalar, float32) of embeddings (B, E), and (B,) whether each image's best guess is right.

        Args:
            target: (B,) labels, or whatever else the training was given for each image.
        """
        ...

    def refresh(self, head: Any) -> None:
        """Bring a head that follows something else up to date."""
        ...


@runtime_checkable
class Coupled(Objective, Protocol):
    """A loss that couples the images of a batch, but only through embeddings.

    A batch can then be done in parts: embeddings first, their gradients next, then each part again.
    """

    def texts(self, target: Tensor) -> Tensor:
        """(B, E) embeddings of the texts of some images, with their gradient if they have one."""
        ...

    def prompts(self, target: Tensor) -> list[Prompt]:
        """The same texts as the text tower takes them, for what is read inside it."""
        ...

    def couple(self, head: Any, embedding: Tensor, texts: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """As a call, with embeddings of the texts."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy loss on the head's logits."""

    mean_over_images = True

    def __call__(self, head: nn.Module, embedding: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(embedding)
        return cross_entropy(logits.float(), target), logits.argmax(-1) == target

    def refresh(self, head: nn.Module) -> None:
        pass


@dataclass(frozen=True)
class NoLoss:
    """No task: nothing is asked of the head, and what is known of the images is not looked at."""

    mean_over_images = True

    def __call__(self, head: Any, embedding: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        nothing = embedding.new_zeros((), dtype=torch.float32)
        return nothing, torch.zeros(len(embedding), dtype=torch.bool, device=embedding.device)

    def refresh(self, head: Any) -> None:
        pass

    @staticmethod
    def targets(images: int) -> NDArray[np.int64]:
        """(n,) what the loss is told in place of labels."""
        return np.full(images, -1, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Contrastive:
    """CLIP's or SigLIP's loss between images of a batch and the texts of their classes (Goyal et al. 2023).

    Images of one class share a text, so all of them are its positives: from image to text over the classes
    of the batch, from text to image with the mean over its positives; by the sigmoid loss each image with
    each class of the batch is a yes or no. The head is the class texts, unit vectors without a bias, so its
    arg max is the zero-shot class.
    """

    clip: Clip
    texts: tuple[str, ...]
    trains_texts: bool
    loss: Literal["softmax", "sigmoid"] = "softmax"
    mean_over_images = False

    def __call__(self, head: nn.Linear, embedding: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        present, row = target.unique(return_inverse=True)
        features = self._features(present) if self.trains_texts else head.weight[present]
        with torch.autocast(embedding.device.type, enabled=False):
            image = normalize(embedding.float(), dim=-1)
            scale = self.clip.model.logit_scale.exp().float()
            similarity = scale * image @ normalize(features.float(), dim=-1).T  # (B, classes of the batch)
            positive = torch.nn.functional.one_hot(row, len(present)).bool()
            with torch.no_grad():
                logits = image @ head.weight.float().T
            if self.loss == "softmax":
                loss = formulas.contrastive_loss(similarity, positive)
            else:
                bias = logit_bias_of(self.clip.model)
                assert bias is not None  # check_method has seen to it
                loss = formulas.sigmoid_loss(similarity + bias.float(), positive)
        return loss, logits.argmax(-1) == target

    def _features(self, classes: Tensor) -> Tensor:
        """(n, E) of the texts of some classes, with gradient."""
        encode: Any = self.clip.texts
        found: Tensor = encode.embed([self.texts[i] for i in classes.tolist()])
        return found

    @torch.no_grad()
    def refresh(self, head: nn.Linear) -> None:
        parts = [self.clip.texts(self.texts[i : i + 256]) for i in range(0, len(self.texts), 256)]
        head.weight.copy_(normalize(torch.cat(parts).float(), dim=-1))

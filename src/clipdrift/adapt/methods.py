"""The methods' table. To add one: options in ``config``, a function here, a line in ``METHODS``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from clipdrift.config import FullFineTuning, LinearProbe, Lora
from clipdrift.model.clip import Clip, ModelError
from clipdrift.model.quiet import quiet
from clipdrift.model.towers import tower_of
from clipdrift.model.towers.huggingface import HuggingFaceClip

Artefact = Literal["model", "adapter", "head"]

_MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "mlp": "mlp.fc[12]",
}


@dataclass(frozen=True)
class Adapted:
    """A model on its way: the live CLIP, the head, and what of them is trained.

    ``clip.model`` is the very object that runs, adapters included, so everything that measures it measures
    the adapted image tower. ``peft`` is peft's view of it, where there are adapters.
    """

    clip: Clip
    head: nn.Linear
    artefact: Artefact
    peft: PeftModel | None = None

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything trained, by name, in a fixed order; the head's names start with ``head.``."""
        for name, parameter in self.clip.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter
        for name, parameter in self.head.named_parameters():
            yield f"head.{name}", parameter

    def train(self) -> None:
        self.clip.model.train()
        self.head.train()

    def eval(self) -> None:
        self.clip.model.eval()
        self.head.eval()

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of everything trained, on the CPU."""
        return {name: p.detach().to("cpu", copy=True) for name, p in self.parameters()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Put a :meth:`snapshot` back; the names must fit exactly."""
        own = dict(self.parameters())
        if own.keys() != state.keys():
            raise ValueError(
                f"snapshot does not fit: {sorted(own.keys() ^ state.keys())[:3]} on one side only"
            )
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise ValueError(f"snapshot does not fit: {name} is {tuple(state[name].shape)} in it")
            parameter.copy_(state[name])

    def save(self, folder: Path) -> None:
        """Write what plain transformers or peft load: a full model, an adapter, or the head alone."""
        folder.mkdir(parents=True, exist_ok=True)
        head = {k: v.detach().to("cpu").contiguous() for k, v in self.head.state_dict().items()}
        save_file(head, folder / "head.safetensors")
        with quiet():
            if self.artefact == "model":
                self.clip.model.save_pretrained(folder)
            elif self.peft is not None:
                self.peft.save_pretrained(str(folder))
        if self.artefact != "head":
            self.clip.tokenizer.save_pretrained(folder)
            text = json.dumps(self.clip.preprocessor, indent=2, sort_keys=True)
            (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


def _head(clip: Clip, classes: int, seed: int) -> nn.Linear:
    """A linear head on the projected embedding, drawn from its own generator."""
    head = nn.Linear(clip.embedding_width, classes)
    generator = torch.Generator().manual_seed(seed)
    bound = clip.embedding_width**-0.5
    with torch.no_grad():
        head.weight.uniform_(-bound, bound, generator=generator)
        head.bias.zero_()
    return head.to(clip.model.device)


def _full_ft(clip: Clip, options: FullFineTuning) -> tuple[Artefact, PeftModel | None]:
    clip.model.requires_grad_(False)
    clip.model.vision_model.requires_grad_(True)
    clip.model.visual_projection.requires_grad_(True)
    return "model", None


def _lora(clip: Clip, options: Lora) -> tuple[Artefact, PeftModel | None]:
    wanted = "|".join(_MATRICES[t] for t in options.targets)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank if options.alpha is None else options.alpha,
        lora_dropout=options.dropout,
        bias="none",
        # the image tower alone: the bare names would hit the text tower as well
        target_modules=rf"vision_model\.encoder\.layers\.\d+\.({wanted})",
        modules_to_save=["visual_projection"] if options.train_projection else None,
    )
    clip.model.requires_grad_(False)
    with quiet():
        peft = get_peft_model(clip.model, config)
    if not isinstance(peft, PeftModel):
        raise TypeError(f"peft returned {type(peft).__name__}")
    return "adapter", peft


def _linear_probe(clip: Clip, options: LinearProbe) -> tuple[Artefact, PeftModel | None]:
    clip.model.requires_grad_(False)
    return "head", None


METHODS: dict[str, Callable[[Clip, Any], tuple[Artefact, PeftModel | None]]] = {
    "full_ft": _full_ft,
    "lora": _lora,
    "linear_probe": _linear_probe,
}
"""What prepares the model, by name; described in ``clipdrift.listing``."""


def adapt(clip: Clip, options: FullFineTuning | Lora | LinearProbe, classes: int, seed: int) -> Adapted:
    """Prepare ``clip`` for training by the method that ``options`` names; changes the model in place.

    Args:
        clip: the backbone. Measure it before: afterwards this object is the adapted model.
        options: the method and its options.
        classes: size of the head.
        seed: of the head and the adapters.

    Raises:
        ModelError: another model than a Hugging Face CLIP, whose modules the methods do not know.
    """
    if not isinstance(tower_of(clip.model), HuggingFaceClip):
        raise ModelError(
            f"{clip.name}: training works on Hugging Face CLIP models; this one can be measured and compared"
        )
    torch.manual_seed(seed)  # peft draws its adapters from the global generator
    artefact, peft = METHODS[options.name](clip, options)
    return Adapted(clip, _head(clip, classes, seed), artefact, peft)

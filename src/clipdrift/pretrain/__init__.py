"""Contrastive pretraining of a small CLIP on captioned images, resumable at any step.

A step's batch consists of ``parts``, each contrasted within itself; their gradients are averaged. Parts are
done one after another or by several processes, with the same result, so the number of workers is a matter
of speed alone: on a CPU, two processes of one thread each are much faster than one of two at this size.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from transformers import CLIPModel, PreTrainedTokenizerBase

from clipdrift import accelerator
from clipdrift.config import PretrainConfig
from clipdrift.data.corpus import CaptionedBatch, Corpus, DrawnAhead, ObjectsCorpus
from clipdrift.data.labelled import open_labelled
from clipdrift.data.pixels import normalise
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.build import new_clip, preprocessor
from clipdrift.model.quiet import quiet
from clipdrift.model.tokens import train_tokenizer
from clipdrift.pretrain.examiner import Examiner
from clipdrift.pretrain.learning import contrastive_loss, optimizers_of, patches_dropped, rate_at
from clipdrift.runs.files import write_text
from clipdrift.runs.layout import cache_folder
from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.training.checkpoint import CheckpointError, load_state, save_state

__all__ = ["STATE", "contrastive_loss", "pretrain"]

STATE = "state.pt"
OBJECTS = "objects"
"""The captioned world, which is drawn anew for each batch."""
_LARGEST_SCALE = math.log(100)
_PATCHES = 29
"""Purpose of a random stream."""


def pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    workers: int | None = None,
    loaders: int = 0,
    save_every: int = 250,
    stop_after: int | None = None,
    cache: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, float]:
    """Pretrain, or go on where an interrupted pretraining in ``out`` stopped; write the model to ``out``.

    Args:
        config: model, data, optimisation. The defaults made `clipdrift/mini`.
        out: gets the model in Hugging Face format when done, and the state until then.
        workers: processes that share a step's parts on the CPU; none: one per core, at most one per part.
        loaders: processes that draw images ahead; 0: a thread. Worth it beside a GPU.
        save_every: steps between checkpoints, and between looks at zero-shot accuracy.
        stop_after: stop after this many steps, to go on later.
        cache: where decoded images are kept; default `~/.cache/clipdrift` or $CLIPDRIFT_CACHE.
        reporter: told how it goes.

    Returns:
        Zero-shot accuracy in percent: ``all`` held-out images and each group; empty if stopped early.

    Raises:
        DataError: the images cannot be read, or are too few.
        CheckpointError: ``out`` holds a pretraining with other settings, or a damaged state.
    """
    out.mkdir(parents=True, exist_ok=True)
    on_gpu = accelerator.default_device().type == "cuda"
    count = 1 if on_gpu else min(workers or os.cpu_count() or 1, config.parts)
    job = _Job(config, out, count, loaders, save_every, stop_after, cache_folder(cache))
    if count > 1:  # decode with a progress bar, before several processes want the same
        _corpus(job, reporter or Silent())
    if count == 1:
        return _work(job, 0, "", reporter or Silent())
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    with tempfile.TemporaryDirectory() as meeting:
        address = f"file://{meeting}/meeting"
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_work, args=(job, rank, address), daemon=True) for rank in range(1, count)
        ]
        for process in others:
            process.start()
        try:
            return _work(job, 0, address, reporter or Silent())
        finally:
            torch.set_num_threads(threads)
            for process in others:
                process.join(timeout=10)
                process.kill()


def _corpus(job: _Job, reporter: Reporter) -> Corpus:
    config = job.config
    if config.data.name == OBJECTS and config.data.path is None:
        return ObjectsCorpus(config.seed, config.image_size)
    reporter.stage(f"decoding {config.data.name} train")
    preprocess = Preprocess.from_config(preprocessor(config.image_size))
    return open_labelled(config, preprocess, job.cache, reporter.advance, reporter.warn)


@dataclass(frozen=True)
class _Job:
    config: PretrainConfig
    out: Path
    workers: int
    loaders: int
    save_every: int
    stop_after: int | None
    cache: Path


def _work(job: _Job, rank: int, address: str, reporter: Reporter | None = None) -> dict[str, float]:
    """One worker, from start to end. Rank 0 reports and writes."""
    config, reporter = job.config, reporter or Silent()
    if job.workers > 1:
        if rank:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.workers))
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=job.workers)
    try:
        device = accelerator.default_device()
        corpus = _corpus(job, reporter)
        reporter.stage("training the tokenizer")
        tokenizer = train_tokenizer(corpus.texts())
        # in bf16 on the CPU, torch's fused attention is several times slower backwards than plain products
        model = new_clip(config, tokenizer, "sdpa" if device.type == "cuda" else "eager").to(device)
        optimizers = optimizers_of(model, config)
        first = _resume(job, model, optimizers)
        examiner = Examiner(corpus.held_out(), tokenizer, device)
        reporter.stage(f"pretraining on {config.data.name}, {config.images:,} images")
        steps, scores = config.steps, {}
        last = min(steps, first + job.stop_after) if job.stop_after else steps
        mine = range(rank, config.parts, job.workers)
        part_size = config.batch_size // config.parts
        with DrawnAhead(corpus, mine, part_size, range(first, last), job.loaders) as drawn:
            for step in range(first, last):
                rate = rate_at(step, steps, config)
                parts = zip(mine, drawn.parts(step), strict=True)
                loss = _step(model, tokenizer, optimizers, step, parts, rate, job, device)
                reporter.step(step + 1, steps, loss)
                if rank == 0 and ((step + 1) % job.save_every == 0 or step + 1 == last):
                    _save(job, model, optimizers, step + 1)
                    scores = examiner.scores(model)
                    shown = ", ".join(f"{name} {value:.1f} %" for name, value in scores.items())
                    reporter.stage(f"step {step + 1}/{steps}, loss {loss:.3f}, zero-shot: {shown}")
        if first >= steps and rank == 0:
            scores = examiner.scores(model)
        if rank or last < steps:
            return {}
        _export(config, job.out, model, tokenizer, scores)
        return scores
    finally:
        if job.workers > 1:
            dist.destroy_process_group()


def _step(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    parts: Iterable[tuple[int, CaptionedBatch]],
    rate: float,
    job: _Job,
    device: torch.device,
) -> float:
    """One update from this worker's parts and, summed over workers, everyone's; the mean loss here."""
    model.train()
    config = job.config
    dropped = config.patch_dropout if step < (1 - config.whole) * config.steps else 0.0
    losses = []
    for number, part in parts:
        tokens = tokenizer(part.texts, padding=True, return_tensors="pt")["input_ids"].to(device)
        images = normalise(torch.from_numpy(part.pixels).to(device), Preprocess())
        rng = np.random.default_rng([config.seed, _PATCHES, step, number])
        with torch.autocast(device.type, torch.bfloat16), patches_dropped(model, dropped, rng):
            image = model.get_image_features(pixel_values=images).pooler_output
            text = model.get_text_features(input_ids=tokens).pooler_output
        loss = contrastive_loss(image, text, model.logit_scale, torch.from_numpy(part.positives).to(device))
        loss.backward()
        losses.append(loss.item())
    _average_gradients(model, job)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        model.logit_scale.clamp_(max=_LARGEST_SCALE)
    return sum(losses) / len(losses)


def _average_gradients(model: CLIPModel, job: _Job) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    if job.workers > 1:
        dist.all_reduce(flat)
    flat /= job.config.parts
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _save(job: _Job, model: CLIPModel, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    state = {
        "config": _identity(job.config),
        "step": step,
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
    }
    save_state(job.out / STATE, state)


def _identity(config: PretrainConfig) -> str:
    """The settings, wherever the data lie."""
    return config.model_dump_json(exclude={"data": {"path"}})


def _resume(job: _Job, model: CLIPModel, optimizers: list[torch.optim.Optimizer]) -> int:
    """Put a saved state in place; the number of steps already done."""
    state = load_state(job.out / STATE)
    if state is None:
        return 0
    if lost := {"config", "step", "model", "optimizers"} - state.keys():
        raise CheckpointError(
            f"{job.out / STATE}: not a pretraining's state ({min(lost)} is missing); delete it"
        )
    if state["config"] != _identity(job.config):
        raise CheckpointError(f"{job.out}: holds a pretraining with other settings; choose another folder")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def _export(
    config: PretrainConfig, out: Path, model: CLIPModel, tokenizer: Any, scores: dict[str, float]
) -> None:
    """Write the model in half precision, tokenizer and preprocessing, and how it was made."""
    with quiet():
        model.half().save_pretrained(out)
        tokenizer.save_pretrained(out)
    write_text(out / "preprocessor_config.json", json.dumps(preprocessor(config.image_size), indent=2) + "\n")
    made = {"config": json.loads(_identity(config)), "zero_shot": scores, "torch": torch.__version__}
    write_text(out / "pretrain.json", json.dumps(made, indent=2) + "\n")

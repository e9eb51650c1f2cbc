from __future__ import annotations

import math, os, sys, time, json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from clipdrift.config import PretrainConfig
from clipdrift.data.worlds import objects
from clipdrift.model.tokens import train_tokenizer

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Batch:
    pixels: np.ndarray
    texts: list[str]
    positives: np.ndarray


def world_batch(seed: int, step: int, n: int, size: int) -> Batch:
    rng = np.random.default_rng([seed, 7, step])
    scenes = objects.sample(rng, rng.choice(objects.SEEN, n))
    texts, said = objects.captions(rng, scenes)
    return Batch(objects.render(rng, scenes, size), texts, objects.matches(scenes, said))


def build(c: PretrainConfig, tok: CLIPTokenizer) -> CLIPModel:
    special = dict(bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.eos_token_id)
    cfg = CLIPConfig(
        text_config=dict(vocab_size=len(tok), hidden_size=c.text_width, intermediate_size=4 * c.text_width,
                         num_hidden_layers=c.text_blocks, num_attention_heads=4, hidden_act="gelu",
                         max_position_embeddings=64, projection_dim=c.projection, **special),
        vision_config=dict(hidden_size=c.width, intermediate_size=4 * c.width, num_hidden_layers=c.blocks,
                           num_attention_heads=c.heads, image_size=c.image_size, patch_size=c.patch_size,
                           hidden_act="gelu", projection_dim=c.projection),
        projection_dim=c.projection, attn_implementation="eager")
    torch.manual_seed(c.seed)
    m = CLIPModel(cfg)
    return m


def optimizers(model: nn.Module, c: PretrainConfig) -> list[torch.optim.Optimizer]:
    mat, decay, rest = [], [], []
    for name, p in model.named_parameters():
        hidden = p.ndim == 2 and "encoder.layers" in name
        (mat if hidden and c.optimizer == "muon" else decay if p.ndim >= 2 and "position" not in name else rest).append(p)
    out: list[torch.optim.Optimizer] = [torch.optim.AdamW([{"params": decay, "weight_decay": c.weight_decay},
        {"params": rest, "weight_decay": 0.0}], lr=c.learning_rate, betas=(0.9, 0.98), eps=1e-6)]
    if mat:
        out.append(torch.optim.Muon(mat, lr=c.learning_rate, weight_decay=c.weight_decay, adjust_lr_fn="match_rms_adamw"))
    return out


def loss_of(image: Tensor, text: Tensor, scale: Tensor, positives: Tensor) -> Tensor:
    image = nn.functional.normalize(image.float(), dim=-1)
    text = nn.functional.normalize(text.float(), dim=-1)
    logits = scale.exp() * image @ text.T
    a = positives / positives.sum(1, keepdim=True)
    b = positives.T / positives.T.sum(1, keepdim=True)
    ce = nn.functional.cross_entropy
    return 0.5 * (ce(logits, a) + ce(logits.T, b))


def normalise(x: np.ndarray) -> Tensor:
    t = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    return (t - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def evaluate(model, tok, x, y, prompts) -> tuple[float, float]:
    ids = tok(prompts, padding=True, return_tensors="pt")
    t = nn.functional.normalize(model.get_text_features(**ids).pooler_output.float(), dim=-1)
    z = torch.cat([model.get_image_features(pixel_values=b).pooler_output for b in x.split(250)])
    ok = ((z.float() @ t.T).argmax(1) == y).numpy()
    unseen = np.isin(y.numpy(), objects.UNSEEN)
    return 100 * ok.mean(), 100 * ok[unseen].mean()


def main(c: PretrainConfig, out: Path, limit: float = 1e9, every=100) -> None:
    rng = np.random.default_rng([c.seed, 11])
    s = objects.sample(rng, rng.choice(objects.SEEN, 20000))
    tok = train_tokenizer(objects.captions(rng, s)[0])
    model = build(c, tok)
    opts = optimizers(model, c)
    steps = c.images // c.batch_size
    warm = int(c.warmup * steps)
    rng = np.random.default_rng([c.seed, 13])
    y = np.arange(1000) % 100
    x = normalise(objects.render(rng, objects.sample(rng, y, single=True)))
    prompts = [objects.PROMPT.format(p) for p in objects.PAIRS]
    pool = ThreadPoolExecutor(1)
    nxt = pool.submit(world_batch, c.seed, 0, c.batch_size, c.image_size)
    t0 = time.time()
    for step in range(steps):
        b = nxt.result()
        nxt = pool.submit(world_batch, c.seed, step + 1, c.batch_size, c.image_size)
        f = min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (steps - warm)))
        for o in opts:
            for g in o.param_groups:
                g["lr"] = f * c.learning_rate
        ids = tok(b.texts, padding=True, return_tensors="pt")["input_ids"]
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            zi = model.get_image_features(pixel_values=normalise(b.pixels)).pooler_output
            zt = model.get_text_features(input_ids=ids).pooler_output
        loss = loss_of(zi, zt, model.logit_scale, torch.from_numpy(b.positives).float())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step(); o.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if (step + 1) % every == 0:
            model.eval()
            a, u = evaluate(model, tok, x, torch.from_numpy(y), prompts)
            print(f"{c.optimizer} {c.learning_rate} w{c.width} step {step+1}/{steps} {(step+1)*c.batch_size/1e3:.0f}k {time.time()-t0:.0f}s loss {loss:.3f} scale {model.logit_scale.exp():.1f} zs {a:.1f} unseen {u:.1f}", flush=True)
            if time.time() - t0 > limit:
                return


if __name__ == "__main__":
    kw = json.loads(sys.argv[1])
    main(PretrainConfig(**kw), Path("/tmp/out"), limit=float(sys.argv[2]))

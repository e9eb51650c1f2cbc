"""A forecast: its steps are those of a plain loop, its accuracies scikit-learn's, and it leaves no trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoTokenizer, CLIPModel

from clipdrift import Forecast, forecast
from clipdrift.config import RunConfig
from clipdrift.data.deck import Deck
from clipdrift.forecasting import FirstStep, ForecastError, read_forecast
from clipdrift.forecasting.first_steps import Trial, first_steps
from clipdrift.forecasting.opening import open_target, spread
from clipdrift.forecasting.suggesting import crossing, suggested
from clipdrift.forecasting.tested import Evidence, Threshold, evidence
from clipdrift.model.clip import Clip, load
from clipdrift.runs.reporter import Silent
from clipdrift.training.decks import DeckFactory
from commands import Say, fails, runner

RATES = [1e-3, 1e-2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def made(tiny_clip_dir: Path, pictures: Path, cache: Path) -> Forecast:
    return forecast(
        tiny_clip_dir, pictures, labels=True, transfer=f"colours={pictures}", rates=RATES, draws=2,
        train_batch=8, limit=40, cache=cache,
    )  # fmt: skip


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return runner(capsys)


def trial(deck: Deck, other: Deck, steps: int = 1, **method: Any) -> Trial:
    options = RunConfig.model_validate({"method": {"name": "full_ft"} | method}).method
    return Trial(deck, other, {}, ("a", "b"), options, steps, 1, 8, 5, 0.01, None)


# --- the steps


@pytest.mark.parametrize("steps", [1, 2])
def test_steps_are_those_of_a_plain_loop(
    tiny_clip_dir: Path, tiny_clip: Clip, make_deck: Callable[..., Deck], steps: int
) -> None:
    """transformers' own model, torch's AdamW, and the order of images said here once more."""
    deck, other = make_deck(20), make_deck(12, seed=1)
    (found,), gradient = first_steps(tiny_clip, trial(deck, other, steps), [1e-3], Silent())

    model = CLIPModel.from_pretrained(tiny_clip_dir)
    head = torch.nn.Linear(24, 2)
    bound = 24**-0.5
    with torch.no_grad():
        head.weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(5))
        head.bias.zero_()
    trained = [*model.vision_model.parameters(), *model.visual_projection.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    rng = np.random.default_rng([5, 1])
    order, mirrored = rng.permutation(20), rng.random(20) < 0.5

    def embedded(pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return found

    with torch.no_grad():
        before = embedded(other.images(np.arange(12)))
    for step in range(steps):
        picked = order[8 * step : 8 * step + 8]
        pixels = deck.images(picked)
        flips = torch.from_numpy(mirrored[picked])
        pixels[flips] = pixels[flips].flip(-1)
        optimizer.zero_grad()
        logits = head(embedded(pixels))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(deck.labels[picked])).backward()
        if step == 0:
            image = [*model.vision_model.parameters(), *model.visual_projection.parameters()]
            total = sum(float(p.grad.double().square().sum()) for p in image if p.grad is not None) ** 0.5
            assert gradient.total == pytest.approx(total, rel=1e-4)
            first = model.vision_model.encoder.layers[0].parameters()
            block = sum(float(p.grad.double().square().sum()) for p in first if p.grad is not None) ** 0.5
            assert gradient.blocks[0] == pytest.approx(block, rel=1e-4)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:  # no warm-up; a cosine over 20 epochs of three steps
            group["lr"] = 1e-3 * 0.5 * (1 + np.cos(np.pi * step / 60))
        optimizer.step()
    with torch.no_grad():
        after = embedded(other.images(np.arange(12)))
    drift = 1 - torch.nn.functional.cosine_similarity(before.double(), after.double()).mean().item()
    assert found.drift == pytest.approx(drift, rel=1e-3)
    assert drift > 1e-4


def test_each_rate_starts_anew_and_the_model_stays(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    before = {name: weight.clone() for name, weight in tiny_clip.model.state_dict().items()}
    deck, other = make_deck(20), make_deck(12, seed=1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    both, _ = first_steps(tiny_clip, trial(deck, other, name="lora"), [1e-2, 1e-3], Silent())
    assert torch.equal(torch.rand(1), expected)
    (alone,), _ = first_steps(tiny_clip, trial(deck, other, name="lora"), [1e-3], Silent())
    assert both[1] == alone
    assert 0 < (alone.drift or 0) < (both[0].drift or 0)
    after = tiny_clip.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in tiny_clip.model.parameters())


def test_what_moves_nothing_or_breaks(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    deck, other = make_deck(20), make_deck(12, seed=1)
    with pytest.raises(ForecastError, match="linear_probe trains nothing of the image tower"):
        first_steps(tiny_clip, trial(deck, other, name="linear_probe"), [1e-3], Silent())
    with pytest.raises(ForecastError, match="lp_ft trains its head alone first"):
        first_steps(tiny_clip, trial(deck, other, name="lp_ft"), [1e-3], Silent())
    with pytest.raises(ForecastError, match="61 steps: a training on these images has 60"):
        first_steps(tiny_clip, trial(deck, other, 61), [1e-3], Silent())
    broken, whole = first_steps(tiny_clip, trial(deck, other), [1e30, 1e-3], Silent())[0]
    assert (broken.drift, broken.broken) == (None, 1)
    assert whole.broken == 0


# --- ability


def test_accuracies_are_those_of_transformers_and_scikit_learn(
    made: Forecast, tiny_clip_dir: Path, pictures: Path, cache: Path
) -> None:
    clip = load(tiny_clip_dir)
    factory = DeckFactory(clip.preprocess, cache, torch.device("cpu"), Silent())
    target = open_target(pictures, True, (), 40, 0, 16, factory)
    assert target.deck is not None
    labels = target.deck.labels
    model, tokenizer = CLIPModel.from_pretrained(tiny_clip_dir), AutoTokenizer.from_pretrained(tiny_clip_dir)
    texts = [f"a photo of a {name}" for name in target.facts.classes]
    with torch.no_grad():
        images = model.get_image_features(pixel_values=target.deck.images(slice(None))).pooler_output
        words = model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
    unit = torch.nn.functional.normalize
    cosines = unit(images.double(), dim=-1) @ unit(words.double(), dim=-1).T
    assert made.zero_shot is not None
    assert made.zero_shot.value == pytest.approx(100 * (cosines.argmax(1).numpy() == labels).mean())
    share = (model.logit_scale.detach().double().exp() * cosines).softmax(-1)
    entropy = torch.special.entr(share).sum(-1).mean() / np.log(len(texts))
    assert made.entropy is not None
    assert made.entropy.value == pytest.approx(float(entropy), rel=1e-4)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.316, max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    right = cross_val_predict(probe, images.double().numpy(), labels, cv=folds) == labels
    assert made.probe is not None
    assert made.probe.value == pytest.approx(100 * right.mean(), abs=100 / len(labels))
    assert made.probe.low is not None
    assert made.probe.low <= made.probe.value


def test_halves_share_no_image_and_have_all_classes(tiny_clip: Clip, pictures: Path, cache: Path) -> None:
    factory = DeckFactory(tiny_clip.preprocess, cache, torch.device("cpu"), Silent())
    target = open_target(pictures, True, (), 20, 0, 16, factory)
    assert target.deck is not None
    assert target.stepped is not None
    assert target.held_out is not None
    assert sorted([*target.stepped, *target.held_out]) == list(range(20))
    for half in (target.stepped, target.held_out):
        assert set(target.deck.labels[half]) == {0, 1, 2}
    labels = np.array([0] * 50 + [1] * 3)
    assert (labels[spread(labels, 6, 0)] == 1).sum() == 3


# --- suggested rates


def test_a_rate_is_suggested_where_the_drift_crosses_the_threshold() -> None:
    rates = [1e-4, 1e-3, 1e-2]
    drifts = [rate**2 for rate in rates]
    assert crossing(rates, drifts, 2.5e-5) == pytest.approx(5e-3)
    assert crossing(rates, drifts, 1e-9) is None
    assert crossing(rates, drifts, 1.0) == 1e-2
    assert crossing(rates, [1e-8, np.inf, np.inf], 1.0) == 1e-4
    steps = [
        FirstStep(rate=r, drift=d, drift_draws=(d / 4, d * 4), cka_loss=d)
        for r, d in zip(rates, drifts, strict=True)
    ]
    bound = Threshold(level=90, steps=1, drift=2.5e-5, methods=("lora",), sensitivity=1, specificity=1)
    known = Evidence(
        studies=("s",), runs=1, cells=1, targets=("t",), models=("m",), tested=(), thresholds=(bound,)
    )
    found = suggested(steps, 1, known)
    assert found is not None
    assert [found.low, found.most, found.high] == pytest.approx([2.5e-3, 5e-3, 1e-2])
    assert not found.open_above
    assert suggested(steps, 2, known) is None  # no threshold after two steps was tested
    assert suggested(steps, 1, known.model_copy(update={"thresholds": ()})) is None


def test_only_what_predicts_gives_advice(made: Forecast) -> None:
    known = evidence()
    kept = {one.number: one for one in known.tested if one.outcome.startswith("zero-shot accuracy kept")}
    for threshold in known.thresholds:
        assert kept["drift" if threshold.steps == 1 else f"drift_{threshold.steps}"].verdict == "predicts"
    said = made.summary()
    without = {one.verdict for one in known.tested} - {"predicts"}
    assert 1 <= said.count("No advice follows from") <= len(without)  # one line for each reason
    assert "entropy" in said.partition("No advice follows from")[2]
    assert known.source in said


# --- the result


def test_a_saved_forecast_comes_back_and_damage_is_noticed(made: Forecast, tmp_path: Path) -> None:
    made.save(tmp_path)
    assert read_forecast(tmp_path) == made
    frame = made.to_frame()
    assert set(frame["number"]) >= {"zero_shot_accuracy", "probe_accuracy", "overlap", "first_step_drift"}
    file = tmp_path / "forecast.json"
    file.write_text(file.read_text().replace('"draws": 2', '"draws": 3'))
    with pytest.raises(ForecastError, match="its checksum does not fit"):
        read_forecast(tmp_path)
    with pytest.raises(ForecastError, match="no forecast here"):
        read_forecast(tmp_path / "elsewhere")


def test_the_figure_has_a_panel_for_each_part(made: Forecast) -> None:
    assert len(made.plot().axes) == 3
    bare = made.model_copy(update={"first_steps": (), "gradient": None})
    assert len(bare.plot().axes) == 1


# --- the command


def test_command(say: Say, tiny_clip_dir: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    common = [tiny_clip_dir, "--images", pictures, "--cache", cache, "--draws", 1, "--limit", 30]
    said = say("forecast", *common, "--labels", "--rates", "1e-3,1e-2", "--out", tmp_path / "out")
    assert said.code == 0
    assert "in the committed studies" in said.out
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        *(f"forecast.{e}" for e in ("json", "csv", "txt", "png")), "index.html"
    }  # fmt: skip
    page = tmp_path / "some" / "page.html"
    said = say("forecast", *common, "--json", "--classes", "red,green,blue", "--page", page)
    assert "Not computed" in page.read_text(encoding="utf-8")
    found = json.loads(said.out)
    assert found["probe"] is None
    assert 0 < found["entropy"]["value"] < 1
    assert "--labels" in found["missing"]["probe"]
    assert found["missing"]["first_steps"] == "no labels: the loss of a step needs them"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rates", "fast"], "write numbers with commas"),
        (["--rates", "0"], "above 0 and below 1"),
        (["--rates", ","], "no rates"),
        (["--method", "lorra"], "method.name = 'lorra': unknown"),
        (["--labels", "--classes", "a,b"], "without --labels only"),
        (["--classes", "a"], "two different names"),
        (["--labels", "--limit", "4"], "two of each class are needed"),
    ],
)
def test_bad_input_is_one_line(
    say: Say, tiny_clip_dir: Path, pictures: Path, cache: Path, options: list[str], message: str
) -> None:
    said = say("forecast", tiny_clip_dir, "--images", pictures, "--cache", cache, *options)
    assert message in fails(said)


def test_one_class_or_few_images_are_refused(
    tiny_clip: Clip, pictures: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures / "train" / "red", tmp_path / "one" / "red")
    with pytest.raises(Exception, match="class") as error:
        forecast(tiny_clip, tmp_path / "one", labels=True, cache=cache)
    assert "\n" not in str(error.value)
    with pytest.raises(ForecastError, match="give images= as a name or a folder"):
        forecast(tiny_clip, torch.zeros(8, 3, 16, 16), labels=True, cache=cache)

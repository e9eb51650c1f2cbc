"""A run's configuration: defaults, errors that say what is legal, and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from clipdrift.config import (
    ConfigError,
    DataSet,
    FullFineTuning,
    Lora,
    ModelConfig,
    PretrainConfig,
    RunConfig,
    load_config,
    parse_config,
)


def made(*overrides: str) -> RunConfig:
    return load_config(None, overrides)


def error_of(*overrides: str) -> str:
    """The message, which must be one line."""
    with pytest.raises(ConfigError) as caught:
        made(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- defaults


def test_every_default() -> None:
    """A changed default changes results and keys: it must be meant, and SCHEMA raised with it."""
    own = {"fingerprint": None, "path": None}
    data_set = own | {
        "classes": None,
        "image_column": None,
        "label_column": None,
        "caption_column": None,
        "per_class": None,
        "retrieval": False,
        "prompts": None,
        "test_split": None,
        "train_split": None,
    }
    assert RunConfig().model_dump(mode="json") == {
        "model": own | {"name": "openai/clip-vit-base-patch32", "revision": None},
        "data": {
            "target": data_set | {"name": "eurosat"},
            "transfer": [data_set | {"name": "cifar100"}],
            "protocol": "strict",
            "seed": 0,
            "train_per_class": None,
            "validation_per_class": None,
            "probe_per_class": None,
            "train_images": None,
            "validation_images": None,
            "probe_images": None,
            "test_images": None,
            "flip": True,
            "skip_bad_images": False,
        },
        "method": {"name": "full_ft", "frozen_blocks": 0, "freeze_embeddings": False},
        "penalty": [],
        "objective": {"name": "classification"},
        "optim": {
            "learning_rate": 1e-5,
            "weight_decay": 0.01,
            "epochs": 20,
            "batch_size": 64,
            "micro_batch": None,
            "warmup": 0.05,
            "clip_norm": 1.0,
            "precision": "auto",
            "keep_frozen": True,
        },
        "evaluation": {
            "batch_size": None,
            "per_epoch": 1,
            "at": [],
            "shown_images": 4,
            "epoch_transfer_per_class": 0,
            "transfer_at": "epochs",
            "prompt_ensemble": False,
            "least_retention": None,
        },
        "seed": 42,
    }


def test_the_defaults_of_lora() -> None:
    """Rank 8 on queries and values, scale 2, as in the published study."""
    assert made("method=lora").method.model_dump() == {
        "name": "lora",
        "rank": 8,
        "alpha": None,
        "dropout": 0.05,
        "targets": ("q", "v"),
        "train_projection": True,
        "frozen_blocks": 0,
    }


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    """There is one set of defaults."""
    (tmp_path / "run.toml").write_text("")
    assert load_config() == load_config(tmp_path / "run.toml") == RunConfig()


# --- errors


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["optim.learning_rat=1"],
            ["optim.learning_rat = 1: unknown key", "did you mean learning_rate?", "warmup"],
        ),
        (
            ["sed=1"],
            [
                "sed = 1: unknown key",
                "seed",
                "data, evaluation, head, method, model, objective, optim, penalty, rules, seed",
            ],
        ),
        (["data.target.clases=['a']"], ["data.target.clases = ['a']: unknown key", "classes"]),
        (
            ["method.rank=4"],
            ["method.rank = 4: unknown key", "legal keys of full_ft: freeze_embeddings, frozen_blocks"],
        ),
        (["method=linear_probe", "method.rank=4"], ["method.rank = 4", "legal keys of linear_probe: none"]),
        (
            ["method=lora", "method.ranks=4"],
            [
                "method.ranks = 4",
                "mean rank?",
                "legal keys of lora: alpha, dropout, frozen_blocks, rank, targets, train_projection",
            ],
        ),
        (["method=lorra"], ["method.name = 'lorra': unknown; legal: 'full_ft', 'lora', 'rslora', 'dora', "]),
        (["method=lora", "method.frozen_blocks=-1"], ["method.frozen_blocks = -1: ", "or equal to 0"]),
        (["method=lora", "method.freeze_embeddings=true"], ["method.freeze_embeddings = True: unknown key"]),
        (["method=last_blocks", "method.blocks=0"], ["method.blocks = 0: ", "or equal to 1"]),
        (["method=lora_plus", "method.rate_ratio=0"], ["method.rate_ratio = 0: should be greater than 0"]),
        (["method=lp_ft", "method.probe_epochs=0"], ["method.probe_epochs = 0: ", "or equal to 1"]),
        (
            ["penalty=aprr"],
            [
                "penalty.name = 'aprr': unknown",
                "legal: 'apr', 'entropy_floor', 'entropy_pull', 'l2_sp', 'ldifs', 'zero_shot_kl'",
            ],
        ),
        (["penalty=['ldifs', 'nope']"], ["penalty.name = 'nope': unknown"]),
        (["penalty=3"], ["penalty = 3: "]),
        (
            ["penalty=[{name='apr', wieght=1}]"],
            [
                "penalty.apr.wieght = 1: unknown key (did you mean weight?); "
                "legal keys of apr: blocks, towers, weight"
            ],
        ),
        (["penalty=['apr', 'l2_sp', 'apr']"], ["penalty names 'apr' twice"]),
        (["penalty=apr", "penalty.weight=0"], ["penalty.apr.weight = 0: should be greater than 0"]),
        (["penalty=l2_sp", "penalty.blocks=[1]"], ["penalty.l2_sp.blocks = [1]: unknown key"]),
        (["penalty=apr", "penalty.blocks=[0, 1]"], ["penalty.apr: blocks count from 1"]),
        (["penalty=apr", "penalty.blocks=[]"], ["penalty.apr: blocks count from 1; leave the key out"]),
        (["penalty=ldifs", "penalty.blocks=[2, 2]"], ["penalty.ldifs: blocks names a block twice"]),
        (["penalty=entropy_floor", "penalty.ratio=0"], ["penalty.entropy_floor.ratio = 0: "]),
        (
            ["penalty=apr", "method=linear_probe"],
            ["penalty apr with method linear_probe", "only the head is trained", "leave one of them out"],
        ),
        (["method=3"], ["method = 3: "]),
        (["optim.epochs=two"], ["optim.epochs = 'two': should be a valid integer"]),
        (["optim.epochs=2.5"], ["optim.epochs = 2.5: should be a valid integer"]),
        (["optim.epochs=0"], ["optim.epochs = 0: should be greater than or equal to 1"]),
        (["optim.learning_rate=-1"], ["optim.learning_rate = -1: should be greater than 0"]),
        (["optim.learning_rate=nan"], ["optim.learning_rate = nan: should be a finite number"]),
        (["optim.learning_rate=inf"], ["optim.learning_rate = inf: should be a finite number"]),
        (["optim.warmup=1"], ["optim.warmup = 1: should be less than 1"]),
        (["optim.clip_norm=0"], ["optim.clip_norm = 0: should be greater than 0"]),
        (["optim.precision=fp16"], ["optim.precision = 'fp16': should be 'auto', 'bf16' or 'fp32'"]),
        (["optim=fast"], ["optim = 'fast': "]),
        (["seed=-1"], ["seed = -1: should be greater than or equal to 0"]),
        (["method=lora", "method.rank=0"], ["method.rank = 0: should be greater than or equal to 1"]),
        (["method=lora", "method.dropout=1"], ["method.dropout = 1: should be less than 1"]),
        (
            ["method=lora", "method.targets=['z']"],
            ["method.targets.0 = 'z': should be 'q', 'k', 'v', 'out' or 'mlp'"],
        ),
        (["method=lora", "method.targets=[]"], ["method.targets = []: "]),
        (["method=lora", "method.targets=['q', 'q']"], ["targets names a matrix twice: q, q"]),
        (["data.protocol=loose"], ["data.protocol = 'loose': should be 'strict' or 'published'"]),
        (
            ["data.protocol=published", "data.validation_per_class=3"],
            ["data: validation_per_class has no meaning under the published protocol"],
        ),
        (["data.transfer=['a', 'a']"], ["data: transfer names 'a' twice"]),
        (["data.transfer=cifar10"], ["data.transfer = 'cifar10': should be a valid tuple"]),
        (["data.target.prompts=['a photo']"], ["data.target: prompt 'a photo' must contain {} exactly once"]),
        (["data.target.per_class=0"], ["data.target.per_class = 0: should be greater than or equal to 1"]),
        (["model.name="], ["model.name = '': String should have at least 1 character"]),
        (["model=3"], ["model = 3: "]),
    ],
)
def test_an_error_names_key_value_and_what_is_legal(overrides: list[str], parts: list[str]) -> None:
    """Mended without looking anything up."""
    message = error_of(*overrides)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("text", ["seed", "=1", ".seed=1", "optim.=1", "optim..epochs=1"])
def test_an_override_that_cannot_be_read(text: str) -> None:
    """The form is shown."""
    assert error_of(text) == f"--set {text}: write it as key=value, for example optim.learning_rate=1e-5"


def test_an_override_below_a_value() -> None:
    """A list or number has no keys."""
    assert error_of("data.transfer=['a']", "data.transfer.name=b") == (
        "--set data.transfer.name=b: transfer is not a table"
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """The file is named, and the line where TOML is broken."""
    file = tmp_path / "run.toml"
    with pytest.raises(ConfigError, match=r"run\.toml: no such file"):
        load_config(file)
    file.write_text("seed = 1\nepochs = = 2\n")
    with pytest.raises(ConfigError, match=r"run\.toml: not valid TOML: .*line 2"):
        load_config(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"run\.toml: cannot be read"):
        load_config(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_other_parts_are_parsed_with_the_same_errors() -> None:
    """Pretraining's configuration has keys of its own, and combinations that cannot be."""
    assert parse_config({"width": 64}, PretrainConfig).width == 64
    with pytest.raises(ConfigError, match=r"widht = 64: unknown key \(did you mean width\?\)"):
        parse_config({"widht": 64}, PretrainConfig)
    with pytest.raises(ConfigError, match="image_size 57 is not a multiple of patch_size 8"):
        parse_config({"image_size": 57}, PretrainConfig)


# --- overrides and files


def test_overrides_are_toml_or_plain_words() -> None:
    """Numbers, lists, booleans and nothing are written as in TOML; words need no quotes."""
    config = made(
        "seed=7",
        "optim.learning_rate=3e-6",
        "data.flip=false",
        "data.target=pets",
        "optim.clip_norm=none",
        "data.transfer = ['cifar10', {name = 'dtd', per_class = 3}]",
    )
    assert (config.seed, config.optim.learning_rate, config.data.flip) == (7, 3e-6, False)
    assert config.data.target == DataSet(name="pets")
    assert config.optim.clip_norm is None
    assert config.data.transfer == (DataSet(name="cifar10"), DataSet(name="dtd", per_class=3))


def test_a_name_alone_stands_for_its_table() -> None:
    """`method=lora` and `method.name=lora` are one, and options can follow."""
    short, long = made("method=lora", "method.rank=4"), made("method.rank=4", "method.name=lora")
    assert short == long
    assert short.method == Lora(name="lora", rank=4)
    assert made("model=clipdrift/mini", "model.revision=abc").model == ModelConfig(
        name="clipdrift/mini", revision="abc"
    )
    assert made("data.target.per_class=3").data.target == DataSet(name="eurosat", per_class=3)


@pytest.mark.parametrize(
    ("text", "name"), [("./a/clip", "clip"), ("/a/b/clip", "clip"), ("~/clip", "clip"), ("../clip/", "clip")]
)
def test_what_looks_like_a_path_is_one(text: str, name: str) -> None:
    """Named by its last part, so that the key does not depend on where it lies; a hub id has no path."""
    assert made(f"model={text}").model == ModelConfig(name=name, path=text)
    assert made(f"data.target={text}").data.target == DataSet(name=name, path=text)
    assert made("model=org/clip").model.path is None


def test_a_file_with_overrides_on_top(tmp_path: Path) -> None:
    """The later wins; what the file says of other keys stays."""
    file = tmp_path / "run.toml"
    file.write_text(
        'seed = 3\nmodel = "clipdrift/mini"\n[optim]\nepochs = 5\nlearning_rate = 1e-4\n'
        '[method]\nname = "lora"\nrank = 2\n'
    )
    config = load_config(file, ["optim.epochs=6", "method.rank=4", "method.rank=5"])
    assert (config.seed, config.optim.epochs, config.optim.learning_rate) == (3, 6, 1e-4)
    assert config.method == Lora(name="lora", rank=5)
    assert load_config(file, ["method=full_ft"]).method == FullFineTuning(name="full_ft")


def test_a_configuration_cannot_be_changed() -> None:
    """Its key would no longer be that of the run."""
    config = made("method=lora")
    for part, name in (
        (config, "seed"),
        (config.optim, "epochs"),
        (config.method, "rank"),
        (config.data, "flip"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, 1)
    assert hash(config) == hash(made("method=lora"))


@pytest.mark.parametrize(
    "text", ["apr", "['apr']", "{name = 'apr'}", "[{name = 'apr'}]", "[{name = 'apr', weight = 0.1}]"]
)
def test_a_penalty_is_a_name_a_table_or_a_list(text: str) -> None:
    """However it is written, it is one run."""
    assert made(f"penalty={text}").key == made("penalty=apr").key
    assert [p.name for p in made("penalty=['l2_sp', {name = 'apr', blocks = [2]}]").penalty] == [
        "l2_sp",
        "apr",
    ]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Some editors put one at the beginning of every file."""
    path = tmp_path / "run.toml"
    path.write_bytes(b'\xef\xbb\xbfmodel = "clipdrift/mini"\n')
    assert load_config(path).model.name == "clipdrift/mini"

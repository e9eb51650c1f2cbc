from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import datasets
import pytest
from data_tables import IMAGE, NUMBER, names
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from clipdrift.config.named import DataSet
from clipdrift.data.catalog import CATALOG
from clipdrift.data.errors import DataError
from clipdrift.data.sources import open_source

OPEN_HUB = """
import socket, sys

def refuse(*_, **__):
    raise OSError("no network in tests")

socket.socket.connect = socket.getaddrinfo = refuse
from clipdrift.config.named import DataSet
from clipdrift.data.errors import DataError
from clipdrift.data.sources import open_source
try:
    source = open_source(DataSet(name=sys.argv[1]), image_size=56)
    train, test = source.train, source.test
    print(source.kind, source.classes, train.labels.tolist(), len(test.read(0)), train.where(1))
    print(source.prompts[0])
    print("torch" in sys.modules)
except DataError as error:
    print("error:", error)
"""


def hub_cache(home: Path, hub: str) -> Path:
    """The hub's own layout: snapshots of links to blobs. Gives the folder that a commit's files go to."""
    repo = home / "hub" / ("datasets--" + hub.replace("/", "--"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(commit)
    (repo / "blobs").mkdir()
    (repo / "snapshots" / commit).mkdir(parents=True)
    return repo / "snapshots" / commit


@pytest.mark.parametrize("offline", ["0", "1"])
def test_the_hubs_cache_serves_without_a_network(
    tmp_path: Path,
    write_parquet: Any,
    encode: Any,
    run_python: Callable[..., subprocess.Popen[str]],
    offline: str,
) -> None:
    snapshot = hub_cache(tmp_path, "uoft-cs/cifar100")
    for split in ("train", "test"):
        blob = snapshot.parents[1] / "blobs" / split
        pictures = [{"bytes": encode(i), "path": None} for i in range(3)]
        features = {"img": IMAGE, "fine_label": names("aquarium_fish", "fox"), "coarse_label": NUMBER}
        columns = {"img": pictures, "fine_label": [0, 1, 1], "coarse_label": [0, 0, 0]}
        write_parquet(blob, columns, features)
        file = snapshot / "cifar100" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(exist_ok=True)
        file.symlink_to(os.path.relpath(blob, file.parent))
    (snapshot / "README.md").write_text("---\ndataset_info: {}\n---\n")
    home = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline}
    by_name, errors = run_python(OPEN_HUB, "cifar100", **home).communicate()
    size = len(encode(0))
    expected = (
        f"hub ('aquarium fish', 'fox') [0, 1, 1] {size} cifar100 train row 1\na photo of a {{}}\nFalse\n"
    )
    assert by_name == expected, errors
    assert errors.strip() == ""  # no progress bars where nobody watches


def test_neither_network_nor_cache(tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]) -> None:
    snapshot = hub_cache(tmp_path, "some/half")  # only the card was ever fetched
    (snapshot / "README.md").write_text("# Half\n")
    home = {"HF_HOME": str(tmp_path)}
    asked = [("eurosat", "0"), ("some/half", "1")]
    runs = [run_python(OPEN_HUB, name, **home, HF_HUB_OFFLINE=offline) for name, offline in asked]
    for run, (name, _) in zip(runs, asked, strict=True):
        out, errors = run.communicate()
        hub = CATALOG[name].hub if name in CATALOG else name
        assert out.startswith(
            f"error: {name}: {hub} is not in the hub's cache and the hub cannot be reached"
        ), errors
        assert len(out.splitlines()) == 1
        assert "set `path` to a local copy" in out


def test_a_download_then_serves_like_the_cache(
    tmp_path: Path, make_table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(hub: str, *, local_files_only: bool = False, **options: Any) -> str:
        calls.append((hub, local_files_only, options["repo_type"]))
        if local_files_only:
            raise LocalEntryNotFoundError("nothing here")
        for split in ("train", "test"):
            make_table(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [0, 1], names("a", "b"))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = open_source(DataSet(name="some/thing"), image_size=56)
    assert source.kind == "hub"
    assert source.classes == ("a", "b")
    assert calls == [("some/thing", True, "dataset"), ("some/thing", False, "dataset")]
    monkeypatch.setattr("datasets.load_dataset", lambda hub: {"train": None, "test": None})
    with pytest.raises(DataError, match=r"some/thing: no split 'val'; it has test, train; set `test_split`"):
        open_source(DataSet(name="some/thing", test_split="val"), image_size=56)


def test_a_hub_set_of_loose_images(image_folder: Any, encode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder({f"{split}/{name}": 2 for split in ("train", "test") for name in ("a", "b")})
    read = datasets.load_dataset
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub, **options: str(root))
    monkeypatch.setattr("datasets.load_dataset", lambda hub: read("imagefolder", data_dir=str(root)))
    source = open_source(DataSet(name="some/folder"), image_size=56)
    assert source.kind == "hub"
    assert source.classes == ("a", "b")
    assert source.train is not None
    assert source.train.labels.tolist() == [0, 0, 1, 1]
    assert source.train.read(3) == encode(1001)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [(RepositoryNotFoundError, "is not on the hub, or private"), (GatedRepoError, "is gated")],
)
def test_what_the_hub_refuses(kind: Any, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(hub: str, *, local_files_only: bool = False, **options: Any) -> str:
        raise LocalEntryNotFoundError("nothing") if local_files_only else kind("no", response=MagicMock())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(DataError, match=f"some/thing: some/thing {advice}"):
        open_source(DataSet(name="some/thing"), image_size=56)

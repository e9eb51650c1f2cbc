from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_pictures import encoded, expected, picture

from clipdrift.config.named import DataSet
from clipdrift.data.decode import decode
from clipdrift.data.errors import BadImage, DataError
from clipdrift.data.images import Files, ImageSet, image_set
from clipdrift.data.pixels import Pixels, load_pixels
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.sources import open_source


@pytest.fixture
def folder_set(tmp_path: Path) -> Callable[..., ImageSet]:
    """An image set of files with these contents; labels go round ``classes``."""

    def make(contents: list[bytes], classes: int = 2, name: str = "im{}.jpg") -> ImageSet:
        root = tmp_path / "photos"
        root.mkdir(exist_ok=True)
        paths = tuple(root / name.format(i) for i in range(len(contents)))
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return image_set(np.arange(len(contents)) % classes, Files(paths))

    return make


SMALL = Preprocess(size=24, crop=(24, 24))


def sound(count: int, size: int = 30) -> list[bytes]:
    return [encoded(picture(seed, size + seed % 7, size)) for seed in range(count)]


class Decoded:
    """Progress that tells whether anything was decoded."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


def reload(
    images: ImageSet, cache: Path, preprocess: Preprocess = SMALL, **options: Any
) -> tuple[Pixels, bool]:
    """The pixels and whether they were decoded just now."""
    progress = Decoded()
    pixels = load_pixels(images, preprocess, cache, progress=progress, **options)
    return pixels, bool(progress.calls)


@pytest.mark.parametrize("workers", [0, 3])
def test_pixels_are_those_of_each_image(folder_set: Any, tmp_path: Path, workers: int) -> None:
    images = folder_set(sound(150))
    progress = Decoded()
    pixels = load_pixels(images, SMALL, tmp_path / "c", workers=workers, progress=progress)
    want = np.stack([SMALL.apply(decode(images.read(i), "x")) for i in range(150)])
    assert np.array_equal(pixels.data, want)
    assert isinstance(pixels.data, np.memmap)
    assert not pixels.data.flags.writeable
    assert pixels.data.dtype == np.uint8
    assert np.array_equal(pixels.labels, images.labels)
    assert pixels.kept.tolist() == list(range(150))
    assert pixels.bad == ()
    assert len(pixels) == 150
    assert progress.calls == [(64, 150), (128, 150), (150, 150)]


def test_decoded_once_and_found_again(folder_set: Any, tmp_path: Path) -> None:
    images, cache = folder_set(sound(6)), tmp_path / "c"
    first, fresh = reload(images, cache)
    again, decoded = reload(images, cache)
    assert fresh
    assert not decoded
    assert np.array_equal(first.data, again.data)
    # Mean and std are no part of it, everything geometrical and the choice of images are.
    assert not reload(images, cache, Preprocess(size=24, crop=(24, 24), mean=None, std=None))[1]
    assert reload(images, cache, Preprocess(size=25, crop=(24, 24)))[1]
    assert reload(images, cache, Preprocess(size=24, crop=(24, 24), resample=2))[1]
    assert reload(images.subset([0, 1, 2, 4]), cache)[1]
    assert reload(images.subset([5, 4, 3, 2, 1, 0]), cache)[1]
    assert not [path for path in cache.iterdir() if path.suffix == ".tmp"]


def test_worlds_go_the_same_way(tmp_path: Path) -> None:
    source = open_source(DataSet(name="terrain-10"), image_size=24, train_per_class=2, parts=("train",))
    assert source.train is not None
    pixels, fresh = reload(source.train, tmp_path)
    assert fresh
    assert all(np.array_equal(pixels.data[i], source.train.read(i)) for i in range(20))
    again = open_source(DataSet(name="terrain-10"), image_size=24, train_per_class=2, parts=("train",)).train
    assert again is not None
    assert not reload(again, tmp_path)[1]
    assert "images" not in vars(again.store)  # found in the cache, so nothing was even drawn


def cut_off(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)


def flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-500, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-500, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def another_shape(path: Path) -> None:
    path.write_text(path.read_text().replace("24, 24", "24, 25"))


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


@pytest.mark.parametrize(
    "damage", [cut_off, flip_a_bit, overwrite, Path.unlink, lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_damage_is_noticed_and_mended(
    folder_set: Any, tmp_path: Path, damage: Callable[[Path], Any], suffix: str
) -> None:
    if suffix == ".json" and damage is flip_a_bit:
        damage = another_shape
    images, cache = folder_set(sound(6)), tmp_path / "c"
    want = np.array(reload(images, cache)[0].data)
    damage(next(cache.glob(f"*{suffix}")))
    pixels, decoded = reload(images, cache)
    assert decoded
    assert np.array_equal(pixels.data, want)
    assert not reload(images, cache)[1]


def test_a_copied_cache_is_still_good(folder_set: Any, tmp_path: Path) -> None:
    """Other times on the files, same content: read through once instead of decoded."""
    images, cache = folder_set(sound(6)), tmp_path / "c"
    reload(images, cache)
    os.utime(next(cache.glob("*.npy")), (1, 1))
    assert not reload(images, cache)[1]


WORKER = """
import hashlib, os, signal, sys, time
from pathlib import Path
import numpy as np
from clipdrift.data.images import Files, image_set
from clipdrift.data.pixels import Preprocess, load_pixels

root, cache, start = (Path(argument) for argument in sys.argv[1:4])
me, mode = sys.argv[4:6]
paths = tuple(sorted(root.iterdir()))
images = image_set(np.arange(len(paths)) % 2, Files(paths))
decoded = []

def progress(done, total):
    decoded.append(done)
    if mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)  # the other one comes upon work half done

(start / me).touch()
while len(list(start.iterdir())) < int(sys.argv[6]):
    time.sleep(0.01)
pixels = load_pixels(images, Preprocess(size=24, crop=(24, 24)), cache, progress=progress)
print(len(decoded), hashlib.sha256(pixels.data.tobytes()).hexdigest())
"""


def test_two_processes_decode_once_and_a_killed_one_leaves_no_trace(
    folder_set: Any, tmp_path: Path, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    images = folder_set(sound(200), name="im{:04}.jpg")
    photos, cache, start = tmp_path / "photos", tmp_path / "c", tmp_path / "start"
    start.mkdir()
    victim = run_python(WORKER, photos, cache, start, "victim", "die", 1)
    _, errors = victim.communicate()
    assert victim.returncode == -signal.SIGKILL, errors
    assert list(cache.glob(".*.tmp"))
    assert not list(cache.glob("*.npy"))
    (start / "victim").unlink()
    both = [run_python(WORKER, photos, cache, start, me, "live", 2) for me in ("a", "b")]
    answers = []
    for process in both:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        answers.append(out.split())
    assert sorted(int(calls) for calls, _ in answers) == [0, 4]
    pixels, decoded = reload(images, cache)
    assert not decoded
    assert {digest for _, digest in answers} == {hashlib.sha256(pixels.data.tobytes()).hexdigest()}
    assert len(list(cache.glob("*.npy"))) == 1
    assert not list(cache.glob(".*.tmp"))


# --- bad images in a set --------------------------------------------------------------------------------


def test_the_first_bad_image_stops(folder_set: Any, tmp_path: Path) -> None:
    contents = sound(8)
    contents[5], contents[6] = b"", b"junk"
    images = folder_set(contents)
    with pytest.raises(BadImage, match=r"im5\.jpg: the file is empty; .*--skip-bad-images"):
        load_pixels(images, SMALL, tmp_path / "c")
    assert not [path for path in (tmp_path / "c").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_and_listed(folder_set: Any, tmp_path: Path, workers: int) -> None:
    contents = sound(8)
    contents[0], contents[6] = b"", b"junk"
    images, cache = folder_set(contents), tmp_path / "c"
    Path(images.where(3)).unlink()
    kept = [1, 2, 4, 5, 7]
    for decoded in (True, False):
        pixels, fresh = reload(images, cache, skip_bad=True, workers=workers)
        assert fresh == decoded
        assert pixels.kept.tolist() == kept
        assert pixels.labels.tolist() == [i % 2 for i in kept]
        assert [Path(where).name for where, _ in pixels.bad] == ["im0.jpg", "im3.jpg", "im6.jpg"]
        assert pixels.bad[0][1] == "the file is empty"
        assert np.array_equal(pixels.data, np.stack([SMALL.apply(decode(contents[i], "x")) for i in kept]))
    # Cached or not, who did not ask to skip is told; now the number is known.
    with pytest.raises(BadImage, match=r"im0\.jpg: the file is empty \(one of 3\); .*--skip-bad-images"):
        load_pixels(images, SMALL, cache)


def test_a_class_without_images_is_an_error(folder_set: Any, tmp_path: Path) -> None:
    contents = sound(6)
    contents[1] = contents[3] = contents[5] = b"junk"
    images = folder_set(contents)
    with pytest.raises(
        DataError, match=r"im1\.jpg: not an image.*and so are all 3 images of its class \(1\)"
    ):
        load_pixels(images, SMALL, tmp_path / "c", skip_bad=True)
    with pytest.raises(DataError, match="all 3 images of its class"):
        load_pixels(folder_set([b""] * 6), SMALL, tmp_path / "c", skip_bad=True)


def test_different_sizes_are_an_error(folder_set: Any, tmp_path: Path) -> None:
    images = folder_set(sound(3))
    uncropped = Preprocess(size=24, crop=None)
    with pytest.raises(
        DataError, match=r"im2\.jpg: 25x24 pixels after preprocessing, others 24x24; the model's"
    ):
        load_pixels(images, uncropped, tmp_path / "c")


def test_a_cache_that_cannot_be_written(folder_set: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the pixel cache cannot be written"):
        load_pixels(folder_set(sound(2)), SMALL, tmp_path / "file" / "c")


@pytest.mark.parametrize("name", ["pets-37", "land-use-7", "cifar100"])
def test_real_images_equal_transformers(shared_data: Path, tmp_path: Path, name: str) -> None:
    spec = DataSet(name=name, path=str(shared_data / name))
    source = open_source(spec, image_size=224, parts=("test",))
    assert source.test is not None
    images = source.test.subset(np.linspace(0, len(source.test) - 1, 12).astype(int))
    pixels = load_pixels(images, Preprocess(), tmp_path)
    assert pixels.data.shape == (12, 224, 224, 3)
    for i in range(12):
        data = images.read(i)
        assert isinstance(data, bytes)
        want = expected(decode(data, images.where(i)), {})
        assert np.abs(pixels.data[i].astype(np.int64) - want).max() <= 1


def test_each_picture_has_a_digest(folder_set: Callable[..., ImageSet], tmp_path: Path) -> None:
    """Equal where pixels are, kept beside them, and taken again where a cache has none."""
    contents = sound(4)
    images = folder_set([*contents, contents[1], contents[2][:40]])
    pixels, _ = reload(images, tmp_path / "cache", skip_bad=True)
    assert len(pixels.digests) == len(pixels) == 5
    assert pixels.digests[4] == pixels.digests[1]
    assert len(set(pixels.digests.tolist())) == 4
    (sidecar,) = (tmp_path / "cache").glob("*.json")
    note = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({key: value for key, value in note.items() if key != "digests"}))
    again, decoded = reload(images, tmp_path / "cache", skip_bad=True)
    assert not decoded
    assert np.array_equal(again.digests, pixels.digests)
    assert json.loads(sidecar.read_text()) == note

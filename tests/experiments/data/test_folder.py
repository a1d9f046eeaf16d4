"""Own images in class folders: the data set, what makes it another one, and runs on it."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import experiments
from experiments.common.errors import UserError
from experiments.data.dataset import Dataset
from experiments.data.sources import fingerprint, load
from experiments.figures.runs import folder as figure_folder
from experiments.lambda_max import main as lambda_max
from experiments.train import main as train
from experiments.training.config import TrainConfig, canonical, identity
from experiments.training.resolve import resolve
from experiments.training.run import train as run_training
from experiments.workers.planned import Planned
from tests.experiments.conftest import Fails

SIZES = {"cat": 20, "dog": 10, "emu": 3}


def write(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def write_classes(directory: Path, seed: int = 0, size: int = 6) -> None:
    """Images whose first pixel is the number of the class, and the second one their own."""
    rng = np.random.default_rng(seed)
    for label, (name, count) in enumerate(SIZES.items()):
        for i in range(count):
            pixels = rng.integers(0, 256, (size, size), np.uint8)
            pixels[0, :2] = label, i
            write(directory / name / f"{i}.png", pixels)


def ids(images: NDArray[np.uint8]) -> list[tuple[int, int]]:
    return [(int(image[0, 0, 0]), int(image[0, 1, 0])) for image in images]


def assert_same(found: Dataset, expected: Dataset) -> None:
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_classes(tmp_path / "own")
    return tmp_path / "own"


def test_a_fifth_of_each_class_is_held_out(own: Path) -> None:
    data = load("folder", own)
    assert data.train_images.shape == (26, 6, 6, 1)
    assert (data.num_classes, data.crop_padding, data.flip) == (3, 1, True)
    assert np.bincount(data.test_labels).tolist() == [4, 2, 1]
    for images, labels in (
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
    ):
        assert [label for label, _ in ids(images)] == labels.tolist()
        assert labels.dtype == np.int32
    everything = ids(data.train_images) + ids(data.test_images)
    assert sorted(everything) == [(k, i) for k, n in enumerate(SIZES.values()) for i in range(n)]
    # The classes are mixed.
    assert len(set(data.train_labels[:12].tolist())) > 1


def test_the_same_images_are_the_same_data(own: Path, tmp_path: Path) -> None:
    """Whatever they are called, and wherever they are: also which of them are held out."""
    expected, images = load("folder", own), fingerprint("folder", own)
    copy = tmp_path / "copy" / "train"
    for file in own.glob("*/*"):
        place = copy / file.parent.name / f"x{99 - int(file.stem)}.PNG"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    assert_same(load("folder", copy.parent), expected)
    assert fingerprint("folder", copy.parent) == images


def test_a_test_folder(own: Path, tmp_path: Path) -> None:
    before = fingerprint("folder", own)
    shutil.copytree(own, tmp_path / "both" / "train")
    write(tmp_path / "both/val/emu/0.png", np.full((6, 6), 2, np.uint8))
    data = load("folder", tmp_path / "both")
    assert (len(data.train_labels), data.test_labels.tolist()) == (33, [2])
    assert fingerprint("folder", tmp_path / "both") != before


def test_copies_are_held_out_together(own: Path) -> None:
    for i in range(1, 10):
        shutil.copy(own / "dog/0.png", own / f"dog/{i}.png")
    with pytest.raises(UserError, match=r"only image of the class dog \(10 copies\)"):
        load("folder", own)
    write(own / "dog/10.png", np.ones((6, 6), np.uint8))
    data = load("folder", own)
    train = {image.tobytes() for image in data.train_images}
    assert not any(image.tobytes() in train for image in data.test_images)
    assert set(data.train_labels) == set(data.test_labels) == {0, 1, 2}


def test_copies_elsewhere_are_warned_of(own: Path, tmp_path: Path) -> None:
    shutil.copytree(own, tmp_path / "both/train")
    shutil.copytree(own / "cat", tmp_path / "both/test/cat")
    with pytest.warns(UserWarning, match="20 of the 20 test images are training images too"):
        load("folder", tmp_path / "both")
    shutil.copy(own / "dog/0.png", own / "emu/9.png")
    with pytest.warns(UserWarning, match="is in another class too"):
        load("folder", own)


def test_sizes(own: Path, fails: Fails) -> None:
    write(own / "cat/big.png", np.zeros((9, 12, 3), np.uint8))
    with pytest.raises(UserError, match=r"cat/0\.png has 6x6 .*big\.png 12x9: .*--image-size"):
        load("folder", own)
    data = load("folder", own, image_size=32)
    assert data.train_images.shape[1:] == (32, 32, 3)
    assert data.crop_padding == 4
    with pytest.raises(UserError, match=r"^--image-size must be at least 1, not 0"):
        load("folder", own, image_size=0)
    with pytest.raises(UserError, match=r"^--image-size is for folder, not for digits"):
        load("digits", image_size=8)
    assert "not for digits" in fails(train, ["--image-size", "8"])


def test_one_image_cannot_be_trained_and_tested_on(own: Path) -> None:
    for i in range(1, 3):
        (own / "emu" / f"{i}.png").unlink()
    with pytest.raises(UserError, match=r"emu/0\.png is the only image of the class emu"):
        load("folder", own)


@pytest.mark.parametrize("change", ["pixel", "label", "gone", "test"])
def test_other_images_are_another_run(own: Path, change: str) -> None:
    config = TrainConfig(dataset="folder", data_dir=own, model="mlp")
    before = resolve(config)
    image = own / "dog/1.png"
    if change == "pixel":
        pixels = np.array(Image.open(image))
        pixels[3, 3] ^= 1
        Image.fromarray(pixels).save(image)
    elif change == "label":
        image.rename(own / "cat/new.png")
    elif change == "gone":
        image.unlink()
    else:
        (own / "train").mkdir()
        for name in SIZES:
            (own / name).rename(own / "train" / name)
        (own / "test/dog").mkdir(parents=True)
        (own / "train/dog/1.png").rename(own / "test/dog/1.png")
    after = resolve(config)
    assert before.images != after.images
    assert before.out != after.out
    assert canonical(before) != canonical(after)


def test_what_a_run_is_known_by(own: Path, tmp_path: Path) -> None:
    config = TrainConfig(dataset="folder", data_dir=own, model="mlp")
    shutil.copytree(own, tmp_path / "elsewhere")
    moved = replace(config, data_dir=tmp_path / "elsewhere")
    assert canonical(resolve(config)) == canonical(resolve(moved))
    assert Planned("final", config).key == Planned("final", moved).key
    write_classes(tmp_path / "other", seed=1)
    other = replace(config, data_dir=tmp_path / "other")
    resized = replace(config, image_size=8)
    assert len({Planned("final", c).key for c in (config, other, resized)}) == 3
    assert len({figure_folder(c, Path("runs")) for c in (config, other, resized)}) == 3
    # Nothing of it is part of a run on other data.
    assert not {"images", "image_size"} & identity(resolve(TrainConfig()).to_json()).keys()


def test_a_run(
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: Fails,
) -> None:
    out = tmp_path / "run"
    arguments = ["--dataset", "folder", "--data-dir", str(own), "--model", "mlp", "--epochs", "1"]
    arguments += ["--batch-size", "8", "--curvature-every", "0", "--method", "sam"]
    arguments += ["--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    train()
    said = capsys.readouterr().out
    assert str(out) in said
    assert "3 classes (cat, dog, emu), 26 training and 7 test images" in said
    run = experiments.load(out)
    assert run.classes == run.data.classes == ("cat", "dog", "emu")
    assert json.loads((out / "result.json").read_text())["steps"] == 4
    images = json.loads((out / "config.json").read_text())["images"]
    assert images == fingerprint("folder", own)
    result = (out / "result.json").read_bytes()
    shutil.move(own / "cat/1.png", own / "dog/new.png")
    assert "other values of images" in fails(train, arguments)
    assert (out / "result.json").read_bytes() == result


def test_a_run_knows_its_images(own: Path, tmp_path: Path) -> None:
    """Also after the training: others are no data of it, wherever they are measured."""
    out, other = tmp_path / "run", tmp_path / "other"
    config = TrainConfig(dataset="folder", data_dir=own, model="mlp", method="sam", out=out)
    run_training(replace(config, epochs=1, batch_size=8, curvature_every=0))
    shutil.copytree(own, other)
    (own / "dog/1.png").unlink()
    with pytest.raises(UserError, match=r"own does not hold the images of the run .*--data-dir"):
        _ = experiments.load(out).data
    assert len(experiments.load(out, data_dir=other).data.train_labels) == 26
    shutil.rmtree(own)
    with pytest.raises(UserError, match=r"own cannot be read: .* --data-dir"):
        _ = experiments.load(out).data


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_folder_without_a_name_in_utf_8(own: Path, tmp_path: Path, fails: Fails) -> None:
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    shutil.move(own, bad)
    arguments = ["--dataset", "folder", "--data-dir", str(bad), "--model", "mlp"]
    assert "is no name in UTF-8: name another" in fails(train, arguments)


def test_nothing_is_written_before_all_is_read(own: Path, tmp_path: Path, fails: Fails) -> None:
    bad = own / "dog/1.png"
    bad.write_bytes(bad.read_bytes()[:-20])
    out = tmp_path / "run"
    arguments = ["--dataset", "folder", "--data-dir", str(own), "--out", str(out)]
    assert str(bad) in fails(train, arguments)
    with bad.open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert f"{bad} has 1,099,511,627,776 bytes" in fails(train, arguments)
    assert "--dataset folder needs --data-dir" in fails(train, ["--dataset", "folder"])
    assert not out.exists()


def test_the_largest_eigenvalue(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "other", seed=1)
    arguments = ["--dataset", "folder", "--model", "mlp", "--images", "16", "--batch-size", "8"]
    arguments += ["--num-matvecs", "2", "--image-size", "4", "--out", str(tmp_path / "found")]
    for directory in (own, tmp_path / "other"):
        monkeypatch.setattr(sys, "argv", ["program", *arguments, "--data-dir", str(directory)])
        lambda_max()
    first, second = (json.loads(x.read_text()) for x in (tmp_path / "found").iterdir())
    assert first["lambda_max"] != second["lambda_max"]

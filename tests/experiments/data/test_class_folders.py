"""Class folders: what is found in them, and each thing that is wrong with them."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from experiments.common.errors import UserError
from experiments.data.class_folders import ClassFolders, find_images


def make(directory: Path, *files: str) -> None:
    """Empty files: nothing is opened."""
    for file in files:
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).touch()


def found(directory: Path, files: Iterable[tuple[Path, int]] | None) -> list[tuple[str, int]]:
    assert files is not None
    return [(path.relative_to(directory).as_posix(), label) for path, label in files]


def test_training_and_test_images(tmp_path: Path) -> None:
    make(
        tmp_path,
        "train/b/1.png",
        "train/b/0.JPG",
        "train/a/x.webp",
        "test/b/2.jpeg",
        "test/a/3.png",
    )
    classes, train, test = find_images(tmp_path)
    assert classes == ("a", "b")
    expected = [("train/a/x.webp", 0), ("train/b/0.JPG", 1), ("train/b/1.png", 1)]
    assert found(tmp_path, train) == expected
    assert found(tmp_path, test) == [("test/a/3.png", 0), ("test/b/2.jpeg", 1)]


@pytest.mark.parametrize("folder", ["test", "val", "valid", "validation", "Test", "VAL"])
def test_names_of_the_test_folder(tmp_path: Path, folder: str) -> None:
    make(tmp_path, "Train/a/0.png", "Train/b/1.png", f"{folder}/a/2.png", "notes/x/0.txt")
    _, train, test = find_images(tmp_path)
    assert found(tmp_path, train) == [("Train/a/0.png", 0), ("Train/b/1.png", 1)]
    assert found(tmp_path, test) == [(f"{folder}/a/2.png", 0)]


@pytest.mark.parametrize("parent", ["", "train/"])
def test_without_a_test_folder(tmp_path: Path, parent: str) -> None:
    make(tmp_path, f"{parent}a/0.png", f"{parent}b/1.png")
    assert find_images(tmp_path).test is None


def test_parts_of_other_names_say_what_to_call_them(tmp_path: Path) -> None:
    make(tmp_path, "training/a/0.png", "testing/a/1.png")
    with pytest.raises(UserError, match="call the parts of the data set train and test"):
        find_images(tmp_path)


def test_an_accent_is_one_letter_or_two(tmp_path: Path) -> None:
    make(tmp_path, "train/e\u0301te/0.png", "train/a/0.png", "test/\u00e9te/1.png")
    classes, _, test = find_images(tmp_path)
    assert classes == ("a", "\u00e9te")
    assert test is not None
    assert test[0].label == 1


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make(tmp_path, "train/0.png", "tram/1.png")
    assert find_images(tmp_path).classes == ("train", "tram")


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a/0.png", "b/1.png")
    alone: ClassFolders = find_images(tmp_path)
    make(tmp_path, "README", "labels.csv", "a/.DS_Store", "a/Thumbs.db", "a/._0.png", "b/notes.txt")
    make(tmp_path, ".git/x/0.png", "a/.ipynb_checkpoints/0.png", "__MACOSX/a/0.png", "b/png")
    assert find_images(tmp_path) == alone


@pytest.mark.parametrize(
    ("damage", "place", "words"),
    [
        (lambda x: make(x, "train/c/notes.txt"), "train/c", "holds no PNG, JPEG or WebP image"),
        (lambda x: make(x, "test/a/y"), "test/a", "holds no PNG, JPEG or WebP image"),
        (lambda x: make(x, "test/c/0.png"), "test/c", "is a class of which .*train has no images"),
        (lambda x: shutil.rmtree(x / "train/b"), "train", "one class folder, a: .* needs two"),
        (lambda x: make(x, "train/a/more/1.png"), "train/a/more", "a folder within a class folder"),
        (lambda x: make(x, "train/1.png"), "train/1.png", "lies in no class folder"),
        (lambda x: make(x, "testing/a/1.png"), "testing", "stands beside train"),
        (lambda x: make(x, "emu/1.png"), "emu", "stands beside train"),
        (lambda x: make(x, "1.png"), "1.png", "stands beside train"),
        (lambda x: make(x, "train/e\u0301/1.png", "train/\u00e9/1.png"), "train/\u00e9", "twice"),
        (lambda x: make(x, "train/a/1.gif"), "train/a/1.gif", "convert it to PNG, JPEG or WebP"),
        (lambda x: make(x, "train/a/1.TIFF"), "train/a/1.TIFF", "convert it to PNG"),
        (lambda x: os.mkfifo(x / "train/a/1.png"), "train/a/1.png", "is no file"),
        (
            lambda x: (x / "train/a/1.png").symlink_to(x / "train/b/0.png"),
            "train/a/1.png",
            "is a symbolic link",
        ),
        (lambda x: (x / "train/a/1.png").symlink_to("1.png"), "train/a/1.png", "symbolic link"),
        (lambda x: (x / "train/c").symlink_to(x / "train/a"), "train/c", "is a symbolic link"),
        (lambda x: shutil.rmtree(x / "train"), "", "holds test, but no training images"),
        (lambda x: shutil.rmtree(x), "", "cannot be read: No such file"),
        (
            lambda x: (shutil.move(x / "train", x.parent), shutil.move(x / "test", x.parent)),
            "",
            "holds no class folders",
        ),
    ],
)
def test_what_is_wrong(
    tmp_path: Path, damage: Callable[[Path], object], place: str, words: str
) -> None:
    folder = tmp_path / "images"
    make(folder, "train/a/0.png", "train/b/0.png")
    if place != "test/a":
        make(folder, "test/a/0.png")
    damage(folder)
    with pytest.raises(UserError, match=words) as error:
        find_images(folder)
    said = str(error.value)
    assert said.startswith(f"{folder / place} ")
    assert "\n" not in said


def test_images_that_lie_in_train_and_test_themselves(tmp_path: Path) -> None:
    make(tmp_path, "train/0.png", "test/1.png")
    with pytest.raises(UserError, match=r"holds test and train, but no training images in class"):
        find_images(tmp_path)


def test_folders_that_are_linked_to(tmp_path: Path) -> None:
    make(tmp_path, "disk/a/0.png", "disk/b/1.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/train").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    assert find_images(tmp_path / "link").classes == ("a", "b")

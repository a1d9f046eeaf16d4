"""Folders of images, one a class: which files they hold, and what is wrong with them."""

import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from experiments.common.errors import UserError

# What the names of image files say of their format.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
}
# Images that a user would miss; what has another name is none.
_NOT_READ = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".pbm", ".pgm", ".ppm"}
_NOT_READ |= {".svg", ".tga", ".tif", ".tiff"}
_TRAIN = "train"
# The first of these that is there.
_TEST = ("test", "val", "valid", "validation")


class ImageFile(NamedTuple):
    """A file and the number of its class."""

    path: Path
    label: int


class ClassFolders(NamedTuple):
    """What folders hold.

    Attributes:
        classes: Names of the classes in the order of their characters: digits, capitals, small
            letters. A label is a place in it.
        train: Training images, class by class in the order of their names.
        test: Test images; None where they have no folder.
    """

    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...] | None


def find_images(directory: Path) -> ClassFolders:
    """List images in class folders; none of them is opened.

    Args:
        directory: Holds train/CLASS and test/CLASS (or val, valid, validation), or train/CLASS
            alone, or CLASS. Hidden files, and files that are no images, are left out.

    Returns:
        The images.

    Raises:
        UserError: There are none, or a class has none, is in the test set only or is the only one,
            or what would be missed is there: another folder or an image beside train, a folder in
            a class folder, a link, an image of another format.
    """
    train_folder, test_folder = _parts(directory)
    folders = _class_folders(train_folder)
    if len(folders) == 1:
        raise UserError(
            f"{train_folder} holds one class folder, {folders[0].name}: a network needs two "
            "classes to tell apart."
        )
    numbers: dict[str, int] = {}
    for folder in folders:
        if _name(folder) in numbers:
            raise UserError(f"{folder} is a class that {train_folder} has twice: rename one.")
        numbers[_name(folder)] = len(numbers)
    train, classes = _labelled(folders, numbers), tuple(numbers)
    if test_folder is None:
        return ClassFolders(classes, train, None)
    folders = _class_folders(test_folder)
    for folder in folders:
        if _name(folder) not in numbers:
            raise UserError(f"{folder} is a class of which {train_folder} has no images.")
    return ClassFolders(classes, train, _labelled(folders, numbers))


def _parts(directory: Path) -> tuple[Path, Path | None]:
    """The folders of the training and of the test images."""
    entries = _entries(directory)
    folders = {x.name.lower(): Path(x) for x in entries if x.is_dir()}
    # Not what is the class of trains, as CIFAR-100 has one.
    if _TRAIN in folders and any(x.is_dir() for x in _entries(folders[_TRAIN])):
        for entry in entries:
            if entry.name.lower() in {_TRAIN, *_TEST}:
                continue
            if _holds_images(entry) if entry.is_dir() else _is_image(entry):
                raise UserError(
                    f"{entry.path} stands beside {folders[_TRAIN].name} and would not be read: "
                    f"call test images one of {', '.join(_TEST)}, and move away what is none."
                )
        return folders[_TRAIN], next((folders[x] for x in _TEST if x in folders), None)
    if folders and folders.keys() <= {_TRAIN, *_TEST}:
        raise UserError(
            f"{directory} holds {' and '.join(sorted(folders))}, but no training images in class "
            f"folders: put them into {directory / _TRAIN}/CLASS."
        )
    return directory, None


def _holds_images(folder: os.DirEntry[str]) -> bool:
    """Whether there are images anywhere in a folder."""
    names = (name for *_, names in os.walk(folder) for name in names)
    return any(os.path.splitext(name)[1].lower() in FORMATS for name in names)


def _class_folders(directory: Path) -> list[Path]:
    found = []
    for entry in _entries(directory):
        _refuse_link(entry)
        if entry.is_dir():
            found.append(Path(entry))
        elif _is_image(entry):
            raise UserError(
                f"{entry.path} lies in no class folder: put the images of each class into a folder "
                "of their own."
            )
    if not found:
        raise UserError(
            f"{directory} holds no class folders: put the images of each class into a folder of "
            "their own, and these into one."
        )
    return found


def _labelled(folders: list[Path], numbers: dict[str, int]) -> tuple[ImageFile, ...]:
    return tuple(
        ImageFile(file, numbers[_name(folder)]) for folder in folders for file in _images(folder)
    )


def _name(of: Path | os.DirEntry[str]) -> str:
    """A name in which an accent is part of its letter, whatever system made the file or folder."""
    return unicodedata.normalize("NFC", of.name)


def _images(folder: Path) -> list[Path]:
    """The images of a class."""
    found = []
    for entry in _entries(folder):
        _refuse_link(entry)
        if entry.is_dir():
            raise UserError(
                f"{entry.path} is a folder within a class folder: move its images out of it. If "
                f"{folder.name} is no class, call the parts of the data set train and test."
            )
        if _is_image(entry):
            if not entry.is_file():
                raise UserError(f"{entry.path} is no file.")
            found.append(Path(entry))
    if not found:
        raise UserError(f"{folder} holds no PNG, JPEG or WebP image: fill the folder or remove it.")
    return found


def _is_image(entry: os.DirEntry[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in _NOT_READ:
        raise UserError(f"{entry.path} is not read: convert it to PNG, JPEG or WebP.")
    return suffix in FORMATS


def _refuse_link(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink():
        raise UserError(f"{entry.path} is a symbolic link: put what it names in its place.")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, but for what is hidden."""
    try:
        with os.scandir(folder) as entries:
            visible = [x for x in entries if not x.name.startswith(".") and x.name != "__MACOSX"]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from None
    return sorted(visible, key=_name)

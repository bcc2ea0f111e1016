"""Where rows come from: files by their endings, directories of shards or that `datasets` saved, and the hub."""

from __future__ import annotations

import difflib
import glob
import gzip
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from alignzoo.data.cells import csv_rows
from alignzoo.data.packaged import located
from alignzoo.data.row import found
from alignzoo.errors import DataError, did_you_mean
from alignzoo.files import check_kind, decoded

LARGE = 64 * 2**20
"""From how many bytes on data stay on the disk: in memory they take about two and a half times as much."""

FIX = "One object a line; a list goes into a .json file."


@dataclass(frozen=True)
class Lines:
    """A JSON Lines file; a row's key is the byte at which its line begins."""

    path: str
    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    @property
    def bytes(self) -> int:
        return self.file.stat().st_size

    def scan(self) -> Iterator[tuple[int, Any]]:
        at = 0
        with self._opened() as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield at, decoded(line.rstrip(), self.file, line=number, fix=FIX)
                at += len(line)

    def get(self, key: int) -> Any:
        with self._opened() as file:
            file.seek(key)
            line = file.readline()
        try:
            return decoded(line.rstrip(), self.file)
        except DataError as error:
            raise DataError(f"{self.path} was changed after it was read: byte {key} begins no row any more") from error

    def _opened(self) -> BinaryIO:
        try:
            return self.file.open("rb")
        except OSError as error:
            raise DataError(f"{self.file} cannot be read: {error}.") from error


@dataclass(frozen=True, eq=False)
class Table:
    """A dataset of the `datasets` library, which maps its file into memory; a row's key is its number from 0."""

    path: str
    rows: Any
    files: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        return int(self.rows.data.nbytes)

    def scan(self) -> Iterator[tuple[int, Any]]:
        return enumerate(self.rows)

    def get(self, key: int) -> Any:
        return self.rows[key]


@dataclass(frozen=True)
class Shards:
    """Files, or one, whose rows can be read one by one."""

    sources: tuple[Lines | Table, ...]

    @property
    def large(self) -> bool:
        return sum(each.bytes for each in self.sources) >= LARGE

    def told(self) -> Iterator[tuple[Any, str]]:
        """Every row, with where it stands."""
        for source in self.sources:
            for number, (_, raw) in enumerate(source.scan(), 1):
                yield raw, f"{source.path}, row {number}"


def rows_at(path: str, split: str) -> Iterable[Any] | Shards:
    """The rows of a file, a directory or a hub dataset, one after the other."""
    if not path.strip():
        raise DataError("data.path is empty: give a file, a directory that `datasets` saved, or a hub dataset.")
    place = Path(located(path)).expanduser()
    check_kind(place)
    reader = next((reader for ending, reader in READERS.items() if path.lower().endswith(ending)), None)
    if place.is_dir():
        shards = [(f"{path}/{file.name}", file) for file in _shards(place, split)]
        return _together(path, shards) if shards else _saved(path, split)
    if place.is_file():
        check_split(path, split)
        return _together(path, [(path, place)])
    if "://" in path:
        raise DataError(f"{path} is an address: download it and give the file, or a hub dataset as OWNER/NAME.")
    # "data/pairs" is a misspelt path where there is a directory "data", and a hub dataset where there is none.
    if reader is None and re.fullmatch(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?", path) and not place.parent.is_dir():
        return _hub(path, split)
    if not place.parent.is_dir():
        raise DataError(f"{path}: no such file, and no directory {place.parent} either.")
    neighbours = [file.name for file in place.parent.iterdir() if not file.name.startswith(".")]
    nearest = difflib.get_close_matches(place.name, neighbours, n=8, cutoff=0)
    raise DataError(f"{path}: no such file. {did_you_mean(place.name, nearest)}")


def _shards(place: Path, split: str) -> list[Path]:
    """The files of a directory whose endings are known, by name, of one split where names tell it; none where it is
    what `datasets` saved."""
    if any((place / name).exists() for name in ("dataset_info.json", "dataset_dict.json", "state.json")):
        return []
    seen = sorted(file for file in place.iterdir() if not file.name.startswith((".", "_")))
    files = [file for file in seen if _ending(file.name) and not file.is_dir()]
    for file in files:
        check_kind(file)
    files = _of_split(place, files, split)
    kinds = {ending: file for file in reversed(files) if (ending := _ending(file.name))}
    if len(kinds) > 1:
        one, other = sorted(file.name for file in kinds.values())[:2]
        raise DataError(
            f"{place} holds files of several kinds, as {one} and {other}: shards are of one kind. Name a single file, "
            "or put them into directories of their own."
        )
    left = [file.name for file in seen if file.is_file() and not _ending(file.name) and not _DOCUMENT.match(file.name)]
    if files and left:
        _tell_left(place, left, f"their endings are none of {', '.join(READERS)}")
    if files and (folders := [each.name for each in seen if each.is_dir() and _holds_data(each)]):
        _tell_left(place, folders, "they are directories, and a directory's own files are its shards")
    if empty := [file.name for file in files if not file.stat().st_size]:
        _tell_left(place, empty, "they are empty, of 0 bytes")
    return files


def _holds_data(folder: Path) -> bool:
    """Whether a directory among shards may have been meant as one, by its name or what lies in it."""
    return bool(_ending(folder.name)) or any(_ending(file.name) for file in folder.iterdir())


_DOCUMENT = re.compile(r"(?i)(readme|licen[sc]e|notice|citation|copying)|.*\.(md|txt|bib|pdf|py|ya?ml|toml)$")
"""Files beside data that nobody takes for data."""

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "valid": "validation"}
_SPLITS |= dict.fromkeys(("validation", "val", "dev", "eval", "heldout"), "validation")
"""Words of a file's name that say which split it is."""


def _of_split(place: Path, files: list[Path], split: str) -> list[Path]:
    """The files of one split, where their names say that there are several: data held apart are not trained on."""
    words = {file: re.split(r"[-_.]", file.name.lower()) for file in files}
    splits = {file: next((_SPLITS[word] for word in words[file] if word in _SPLITS), "") for file in files}
    known, wanted = set(splits.values()), _SPLITS.get(split, split)
    if len(known) < 2:
        if known != {wanted}:
            check_split(str(place), split)
        return files
    if wanted == "train" and "train" not in known:
        wanted = ""  # files that say nothing, beside a test's
    if wanted not in known:
        raise DataError(f"{place} has no files of the split {split!r}. {did_you_mean(split, known - {''})}")
    _tell_left(place, [file.name for file in files if splits[file] != wanted], f"the split is {split!r}")
    return [file for file in files if splits[file] == wanted]


def _tell_left(place: Path, names: Sequence[str], why: str) -> None:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    warnings.warn(f"{place}: not read, for {why}: {', '.join(names[:3])}{more}", stacklevel=5)


def _ending(name: str) -> str:
    """The ending of READERS that a name has; "" for none."""
    return next((ending for ending in READERS if name.lower().endswith(ending)), "")


def _together(path: str, files: Sequence[tuple[str, Path]]) -> Iterable[Any] | Shards:
    """The rows of some files, each with its name for errors, one file after the other."""
    readers = [READERS.get(_ending(file.name)) for _, file in files]
    if None in readers:
        raise DataError(f"{path}: no reader for this ending. Known: {', '.join(READERS)}.")
    rows = [reader(file, name) for reader, (name, file) in zip(readers, files, strict=True) if reader]
    sources = tuple(each for each in rows if isinstance(each, Lines | Table))
    if len(sources) == len(rows):
        return Shards(sources)
    return chain.from_iterable(each for each in rows if not isinstance(each, Lines | Table))


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    """The file's bytes, unpacked when its name ends in .gz."""
    zipped = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        cure = " A name that ends in .gz wants a whole gzip file." if zipped else ""
        raise DataError(f"{path} cannot be read: {error}.{cure}") from error


def _json_lines_unpacked(path: Path, name: str) -> Iterator[Any]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield decoded(line.rstrip(), path, line=number, fix=FIX)


def _json(path: Path, name: str) -> Iterable[Any]:
    with _opened(path) as file:
        content = file.read().rstrip()
    cure = "A list of objects; one object a line goes into a .jsonl file."
    rows = decoded(content, path, fix=cure) if content else []
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError(f'{path}: expected a list of objects, or {{"data": [...]}}, found {found(rows)}.')
    return rows


def _parquet(path: Path, name: str) -> Table:
    cure = " It must be a Parquet file with one row or more."
    read = partial(_by_datasets, failed=f"{path} cannot be read", cure=cure)
    return Table(name, read(lambda hf: hf.Dataset.from_parquet(glob.escape(str(path)))), (path,))


def _arrow(path: Path, name: str) -> Table:
    cure = " It must be an Arrow file in the stream format, as `datasets` writes it."
    rows = _by_datasets(lambda hf: hf.Dataset.from_file(str(path)), f"{path} cannot be read", cure)
    return Table(name, rows, (path,))


def _csv(path: Path, name: str) -> Iterable[Any]:
    return csv_rows(path, _opened)


def check_split(name: str, split: str) -> None:
    """Raise where data without splits are asked for one of them."""
    if split != "train":
        raise DataError(
            f"{name}: there are no splits here, and so no {split!r}: give a dictionary of datasets, held-out rows of "
            "their own (data.heldout_path), or the share that is held out (data.heldout)"
        )


def _saved(name: str, split: str) -> Iterable[Any] | Shards:
    path = Path(name).expanduser()
    cure = " Give what datasets' save_to_disk wrote, files of one kind, or a single file."
    saved = _by_datasets(lambda hf: hf.load_from_disk(str(path)), f"{path} cannot be read", cure)
    if not isinstance(saved, Mapping):
        check_split(name, split)
        return _mapped(name, saved)
    if split not in saved:
        raise DataError(f"{path} has no split {split!r}. {did_you_mean(split, saved)}")
    return _mapped(name, saved[split])


def _hub(path: str, split: str) -> Iterable[Any] | Shards:
    name, _, config = path.partition(":")
    cure = " Check its name, split and configuration, the network and HF_TOKEN, or give a local path."
    rows = _by_datasets(
        lambda hf: hf.load_dataset(name, config or None, split=split),
        f"{path} is no file here, and its split {split!r} cannot be fetched from the hub",
        cure,
    )
    return _mapped(path, rows)


def _mapped(name: str, rows: Any) -> Iterable[Any] | Shards:
    """A dataset that `datasets` maps into memory, by the files that it has on the disk, where it has any."""
    files = tuple(Path(file) for file in sorted({each["filename"] for each in getattr(rows, "cache_files", ())}))
    mapped: Iterable[Any] | Shards = Shards((Table(name, rows, files),)) if files else rows
    return mapped


def _by_datasets(load: Callable[[ModuleType], Any], failed: str, cure: str = "") -> Any:
    """What `load` gets from the `datasets` library, whose many errors become one of ours that tells the first cause."""
    import datasets

    try:
        return load(datasets)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0].rstrip(".!") or type(cause).__name__
        raise DataError(f"{failed}: {reason}.{cure}") from error


READERS: dict[str, Callable[[Path, str], Iterable[Any] | Lines | Table]] = {
    ".jsonl": lambda path, name: Lines(name, path),
    ".jsonl.gz": _json_lines_unpacked,
    ".json": _json,
    ".json.gz": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".csv": _csv,
}
"""How a file is read, by the ending of its name; of some the rows can be read one by one."""

"""Which files a path stands for: one, those that match a pattern, or all of a folder; and whether one was changed."""

import glob
import os
from pathlib import Path

from .._text import did_you_mean


def files_of(paths: tuple[str, ...], endings: tuple[str, ...]) -> list[Path]:
    """The files that paths, patterns and folders stand for, those of each pattern or folder in the order of names.

    Parameters
    ----------
    paths : tuple of str
        As the user wrote them; "~" is the home folder.
    endings : tuple of str
        Those of files of events; others in a folder are left out.

    Raises
    ------
    FileNotFoundError
        If there is none for one of them.
    ValueError
        If one file would be read twice: under two of the paths, or beside its own compressed copy.
    """
    files = [file for path in paths for file in _files_of(Path(path).expanduser(), endings)]
    _require_different(files)
    return files


def ending_of(path: str | Path, endings: tuple[str, ...]) -> str | None:
    """The longest of these endings that a file has, in small letters; None if it has none."""
    name = str(path).rstrip("/").lower()
    return max((ending for ending in endings if name.endswith(ending)), key=len, default=None)


def stamp(path: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds, by which a change of a file, or folder, is noticed."""
    found = [each.stat() for each in (path, *path.rglob("*"))] if path.is_dir() else [path.stat()]
    return [sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)]


def _require_different(files: list[Path]) -> None:
    """Raise ValueError if events would be read twice."""
    known: set[Path] = set()
    for file in (each.resolve() for each in files):
        if file in known:
            raise ValueError(f"`{file}` would be read twice: under two paths or patterns, or by a link. Name it once.")
        known.add(file)
    places = dict.fromkeys(file.parent.resolve() / file.name for file in files)
    for place in places:
        if place.suffix.lower() == ".gz" and place.with_suffix("") in places:
            raise ValueError(
                f"`{place}` lies beside `{place.stem}`, so the same events may be read twice. Remove or rename one of "
                "them."
            )


def _files_of(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if path.is_dir() and not ending_of(path, endings):
        files = [file for file in path.iterdir() if ending_of(file, endings) and not file.name.startswith((".", "_"))]
    elif path.exists() or not glob.has_magic(str(path)):
        files = [path] if path.exists() else []
    else:
        files = [Path(name) for name in glob.glob(str(path))]
    if not files:
        is_misspelt = not path.exists() and path.parent.is_dir() and os.access(path.parent, os.R_OK)
        meant = did_you_mean(path.name, os.listdir(path.parent)) if is_misspelt else ""
        raise FileNotFoundError(f"There is no file of observed events `{path}`. {meant}Current folder: {Path.cwd()}")
    return sorted(files)

"""Which files a path stands for: one, those that match a pattern, or all of a folder; and whether one was changed."""

import glob
from pathlib import Path


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
    """
    return [file for path in paths for file in _files_of(Path(path).expanduser(), endings)]


def ending_of(path: str | Path, endings: tuple[str, ...]) -> str | None:
    """The longest of these endings that a file has, in small letters; None if it has none."""
    name = str(path).rstrip("/").lower()
    return max((ending for ending in endings if name.endswith(ending)), key=len, default=None)


def stamp(path: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds, by which a change of a file, or folder, is noticed."""
    found = [each.stat() for each in (path, *path.rglob("*"))] if path.is_dir() else [path.stat()]
    return [sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)]


def _files_of(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if path.is_dir() and not ending_of(path, endings):
        files = [file for file in path.iterdir() if ending_of(file, endings) and not file.name.startswith((".", "_"))]
    elif path.exists() or not glob.has_magic(str(path)):
        files = [path] if path.exists() else []
    else:
        files = [Path(name) for name in glob.glob(str(path))]
    if not files:
        raise FileNotFoundError(f"There is no file of observed events `{path}`. Current folder: {Path.cwd()}")
    return sorted(files)

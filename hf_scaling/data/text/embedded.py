"""Real text on every machine that has this project's dependencies: nothing is downloaded.

The documents differ with the versions of Python and of the packages, and so do the fingerprints.
"""

import ast
import importlib.util
import runpy
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_scaling.data.folders import hash_files

_MIN_CHARACTERS = 40  # a shorter text is not used as a document
_EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "_bundled"}
_LICENCE_WORDS = ("licen", "copying", "notice")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class FileTexts:
    """Local files, each of which gives documents.

    Attributes:
        name: Name in results; never a path.
        paths: The files.
        base: The folder to which their names are relative.
        extract: File -> its documents.
        version: Changes when `extract` gives other documents.
        is_available: Whether every machine has the files.
    """

    name: str
    paths: tuple[Path, ...]
    base: Path
    extract: Callable[[Path], Iterable[str]]
    version: str = "1"
    is_available: bool = True

    has_test = False

    def identity(self, root: Path, progress: bool) -> dict:
        """What determines the documents; `root` is the cache's folder."""
        digest = hash_files(self.paths, self.base, root, progress)
        return {"texts": self.name, "version": self.version, "files": digest}

    def documents(self, part: str) -> Iterator[str]:
        """The documents, in the order of the files' names."""
        for path in sorted(self.paths):
            yield from self.extract(path)


def embedded_texts(name: str) -> FileTexts | None:
    """The embedded source of that name; None where there is none."""
    if name not in EMBEDDED:
        return None
    base, paths, extract = EMBEDDED[name]()
    # What ast writes back depends on the version of Python.
    version = f"{sys.version_info[:2]}" if extract is _code else "1"
    return FileTexts(name, tuple(paths), base, extract, version)


Files = tuple[Path, Iterable[Path], Callable[[Path], Iterable[str]]]


def _python_code() -> Files:
    return _stdlib_folder(), _stdlib_files(), _code


def _python_docs() -> Files:
    return _stdlib_folder(), _stdlib_files(), _docstrings


def _python_manual() -> Files:
    return _stdlib_folder(), [_stdlib_folder() / "pydoc_data" / "topics.py"], _manual_topics


def _library_code() -> Files:
    base = _site_packages("sklearn")
    return base, (path for path in (base / "sklearn").rglob("*.py") if "tests" not in path.parts), _code


def _licences() -> Files:
    base = _site_packages("torch")
    paths = (path for path in base.glob("*.dist-info/**/*") if path.is_file())
    return base, (path for path in paths if any(word in path.name.lower() for word in _LICENCE_WORDS)), _whole_file


def _readmes() -> Files:
    base = _site_packages("torch")
    return base, base.glob("*.dist-info/METADATA"), _description


def _cpp_headers() -> Files:
    base = _site_packages("torch") / "torch" / "include"
    return base, (path for part in ("c10", "ATen/core") for path in (base / part).rglob("*.h")), _whole_file


#: Name -> function that gives its base folder, its files and what extracts documents from a file.
EMBEDDED: dict[str, Callable[[], Files]] = {
    "python_code": _python_code,
    "python_docs": _python_docs,
    "python_manual": _python_manual,
    "library_code": _library_code,
    "licences": _licences,
    "readmes": _readmes,
    "cpp_headers": _cpp_headers,
}


def _stdlib_folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"]).resolve()


def _stdlib_files() -> Iterator[Path]:
    base = _stdlib_folder()
    paths = (path.relative_to(base) for path in base.rglob("*.py"))
    return (base / path for path in paths if not _EXCLUDED_FOLDERS & set(path.parts))


def _site_packages(package: str) -> Path:
    """The folder in which a package and its dependencies are installed; it is not imported."""
    return Path(importlib.util.find_spec(package).origin).resolve().parents[1]


def _long_enough(texts: Iterable[str | None]) -> list[str]:
    return [text for text in texts if text and len(text) >= _MIN_CHARACTERS]


def _whole_file(path: Path) -> list[str]:
    return _long_enough([path.read_text(encoding="utf-8", errors="replace").strip()])


def _description(path: Path) -> list[str]:
    """The description in a package's METADATA, which follows its header."""
    return _long_enough([path.read_text(encoding="utf-8", errors="replace").partition("\n\n")[2].strip()])


def _manual_topics(path: Path) -> list[str]:
    return [text.strip() for text in _long_enough(runpy.run_path(str(path))["topics"].values())]


def _docstrings(path: Path) -> list[str]:
    return _long_enough(ast.get_docstring(node) for node in ast.walk(_parse(path)) if isinstance(node, _DOCUMENTED))


def _code(path: Path) -> list[str]:
    """The code alone: parsing drops the comments, docstrings are removed."""
    tree = _parse(path)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return _long_enough([ast.unparse(tree)])


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # Python ships a few files that are malformed on purpose.
        return ast.Module([], [])

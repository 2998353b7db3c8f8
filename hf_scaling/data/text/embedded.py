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

from hf_scaling.data.hashes import hash_files

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
        test_paths: The files of its test part, if it has one of its own.
    """

    name: str
    paths: tuple[Path, ...]
    base: Path
    extract: Callable[[Path], Iterable[str]]
    version: str = "1"
    is_available: bool = True
    test_paths: tuple[Path, ...] = ()

    @property
    def has_test(self) -> bool:
        """Whether it has a test part of its own."""
        return bool(self.test_paths)

    def identity(self, root: Path, progress: bool) -> dict:
        """What determines the documents; `root` is the cache's folder."""
        digest = hash_files((*self.paths, *self.test_paths), self.base, root, progress)
        identity = {"texts": self.name, "version": self.version, "files": digest}
        if self.has_test:
            identity["n_files"] = {"train": len(self.paths), "test": len(self.test_paths)}
        return identity

    def documents(self, part: str) -> Iterator[str]:
        """The documents, in the order of the files' names."""
        for path in sorted(self.test_paths if part == "test" else self.paths):
            yield from self.extract(path)


#: Names of the embedded sources.
EMBEDDED = (
    "python_code",
    "python_docs",
    "python_manual",
    "library_code",
    "torch_code",
    "licences",
    "readmes",
    "cpp_headers",
    "font_metrics",
)


def embedded_texts(name: str) -> FileTexts | None:
    """The embedded source of that name; None where there is none."""
    match name:
        case "python_code" | "python_docs" | "python_manual":
            base = Path(sysconfig.get_paths()["stdlib"]).resolve()
            relative = (path.relative_to(base) for path in base.rglob("*.py"))
            paths = [base / path for path in relative if not _EXCLUDED_FOLDERS & set(path.parts)]
            extract = _code if name == "python_code" else _docstrings
            if name == "python_manual":
                paths, extract = [base / "pydoc_data" / "topics.py"], _manual_topics
        case "library_code":
            base, extract = _site_packages("sklearn"), _code
            paths = [path for path in (base / "sklearn").rglob("*.py") if "tests" not in path.parts]
        case "torch_code":
            base, extract = _site_packages("torch"), _code
            paths = [path for path in (base / "torch").rglob("*.py") if "testing" not in path.parts]
        case "licences":
            base, extract = _site_packages("torch"), _whole_file
            files = (path for path in base.glob("*.dist-info/**/*") if path.is_file())
            paths = [path for path in files if any(word in path.name.lower() for word in _LICENCE_WORDS)]
        case "readmes":
            base, extract = _site_packages("torch"), _description
            paths = list(base.glob("*.dist-info/METADATA"))
        case "cpp_headers":
            base, extract = _site_packages("torch") / "torch" / "include", _whole_file
            paths = [path for part in ("c10", "ATen/core") for path in (base / part).rglob("*.h")]
        case "font_metrics":
            base, extract = _site_packages("matplotlib"), _whole_file
            paths = list((base / "matplotlib" / "mpl-data" / "fonts").rglob("*.afm"))
        case _:
            return None
    # What ast writes back depends on the version of Python.
    version = f"{sys.version_info[:2]}" if extract is _code else "1"
    return FileTexts(name, tuple(paths), base, extract, version)


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

"""Real text that every machine with our dependencies has: nothing is downloaded.

What is there differs with the versions of Python and of the packages, and so do the fingerprints.
"""

import ast
import importlib.util
import runpy
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_scaling.data.loading import hash_files

_SHORTEST = 40  # characters; what is shorter says too little to be a document
_NOT_PYTHON_ITSELF = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "_bundled"}
_LICENCE_WORDS = ("licen", "copying", "notice")


@dataclass(frozen=True)
class FileTexts:
    """Files of this machine, each giving documents.

    Attributes:
        name: What results call it; never a path.
        paths: The files.
        base: The folder below which their names count.
        extract: File -> its documents.
        version: Changes when the extraction gives other documents.
    """

    name: str
    paths: tuple[Path, ...]
    base: Path
    extract: Callable[[Path], Iterator[str]]
    version: str = "1"
    at_hand: bool = True

    has_test = False

    def identity(self, root: Path, progress: bool) -> dict:
        """What determines the documents; `root` is the cache's folder."""
        files = [str(path) for path in self.paths]
        return {"texts": self.name, "version": self.version, "files": hash_files(files, self.base, root, progress)}

    def documents(self, part: str) -> Iterator[str]:
        """The documents, in the order of the files' names."""
        for path in sorted(self.paths):
            yield from self.extract(path)


def embedded(name: str) -> FileTexts | None:
    """The embedded source of that name; None where there is none."""
    return EMBEDDED[name](name) if name in EMBEDDED else None


def _python_code(name: str) -> FileTexts:
    # What ast writes back depends on the version of Python.
    return FileTexts(name, _standard_library(), _stdlib(), _code, f"{sys.version_info[:2]}")


def _python_docs(name: str) -> FileTexts:
    return FileTexts(name, _standard_library(), _stdlib(), _docstrings)


def _python_manual(name: str) -> FileTexts:
    base = _stdlib()
    return FileTexts(name, (base / "pydoc_data" / "topics.py",), base, _topics)


def _library_code(name: str) -> FileTexts:
    base = _site("sklearn")
    paths = tuple(path for path in (base / "sklearn").rglob("*.py") if "tests" not in path.parts)
    return FileTexts(name, paths, base, _code, f"{sys.version_info[:2]}")


def _licences(name: str) -> FileTexts:
    base = _site("torch")
    found = (path for path in base.glob("*.dist-info/**/*") if path.is_file())
    paths = (path for path in found if any(word in path.name.lower() for word in _LICENCE_WORDS))
    return FileTexts(name, tuple(paths), base, _whole)


def _readmes(name: str) -> FileTexts:
    base = _site("torch")
    return FileTexts(name, tuple(base.glob("*.dist-info/METADATA")), base, _after_head)


def _cpp_headers(name: str) -> FileTexts:
    base = _site("torch") / "torch" / "include"
    paths = [path for part in ("c10", "ATen/core") for path in (base / part).rglob("*.h")]
    return FileTexts(name, tuple(paths), base, _whole)


#: Name -> what gives it.
EMBEDDED: dict[str, Callable[[str], FileTexts]] = {
    "python_code": _python_code,
    "python_docs": _python_docs,
    "python_manual": _python_manual,
    "library_code": _library_code,
    "licences": _licences,
    "readmes": _readmes,
    "cpp_headers": _cpp_headers,
}


def _stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"]).resolve()


def _site(package: str) -> Path:
    """The folder that a package is installed in, and with it those that came along; found without importing it."""
    return Path(importlib.util.find_spec(package).origin).resolve().parents[1]


def _standard_library() -> tuple[Path, ...]:
    base = _stdlib()
    found = (path.relative_to(base) for path in base.rglob("*.py"))
    return tuple(base / path for path in found if not _NOT_PYTHON_ITSELF & set(path.parts))


def _whole(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(text) >= _SHORTEST:
        yield text


def _after_head(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")[2].strip()
    if len(text) >= _SHORTEST:
        yield text


def _topics(path: Path) -> Iterator[str]:
    yield from (text.strip() for text in runpy.run_path(str(path))["topics"].values() if len(text) >= _SHORTEST)


def _docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(_parsed(path)):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text and len(text) >= _SHORTEST:
                yield text


def _code(path: Path) -> Iterator[str]:
    """The code alone: comments go with the parsing, docstrings are taken out."""
    tree = _parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    text = ast.unparse(tree)
    if len(text) >= _SHORTEST:
        yield text


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # Python ships a few files that are wrong on purpose.
        return ast.Module([], [])

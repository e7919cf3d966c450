"""The repository's own files, as git sees them, and the imports in them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = {".py", ".js", ".md", ".toml", ".json", ".txt", ".yml", ".yaml", ".css", ".html", ""}


def listed() -> list[Path]:
    """Every file that is committed or about to be, relative to the root."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    found = sorted({Path(name) for name in names if name and (ROOT / name).is_file()})
    assert len(found) > 30, "git lists hardly any file"
    return found


def python_files(*folders: str) -> list[Path]:
    """The Python files under these folders; of the whole repository without any."""
    files = [path for path in listed() if path.suffix == ".py"]
    return [path for path in files if not folders or path.parts[0] in folders]


@dataclass(frozen=True)
class Import:
    """One imported module: absolute by its name, relative also by how many levels up; `name` is what it takes."""

    file: Path
    line: int
    module: str
    level: int
    name: str = ""

    @property
    def top(self) -> str:
        """The first part of an absolute name."""
        return self.module.split(".")[0] if self.level == 0 else ""

    def target(self) -> tuple[str, ...]:
        """For a relative import: the path it leads to, from the root of the repository, what it takes last."""
        base = self.file.parent.parts
        assert self.level - 1 <= len(base), f"{self.file}:{self.line} leads out of the repository"
        place = base[: len(base) - (self.level - 1)]
        return tuple(part for part in (*place, *self.module.split("."), self.name) if part)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name or self.module} from {'.' * self.level}{self.module}"


def imports_of(file: Path, source: str | None = None) -> Iterator[Import]:
    """Every import statement of a file, wherever it stands."""
    text = (ROOT / file).read_text(encoding="utf-8") if source is None else source
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(file, node.lineno, node.module or "", node.level, alias.name)

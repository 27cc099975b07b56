#!/usr/bin/env python3
"""Checks the rules of the source tree that a compiler does not: which crate may depend on which,
where the storage engine may be seen, how long a file may be, and that nothing shipped is a stub.

    scripts/check_arrows.py [ROOT]

Prints one line per broken rule and exits 1, or one line and exits 0. It reads manifests and
source text only, so it takes well under a second and runs first.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

# A crate may depend only on crates of a lower level. So `index` and `compaction` do not know each
# other, nor do `flight` and `rest`: they stand on one level.
LEVELS = {
    "core": 0,
    "proto": 1,
    "media": 1,
    "storage": 1,
    "index": 2,
    "compaction": 2,
    "jobs": 3,
    "sql": 3,
    "service": 4,
    "flight": 5,
    "rest": 5,
    "server": 6,
    "fuzz": 6,
    "proto/codegen": 6,
    "tests/rust": 6,
}

# The engine's types must not reach a protocol, so the crates above level 3 cannot even name them.
ENGINE_CRATES = {"storage", "index", "compaction", "jobs", "sql"}
ENGINE_PACKAGE = re.compile(r"^(lance(-.*)?|datafusion(-.*)?|object_store)$")

FILE_LINES_MAX = 800
STUB = re.compile(r"\b(todo|unimplemented)!\s*[(\[{]")
SKIPPED_FOLDERS = {"target", "node_modules", "__pycache__"}


def package_name(crate: str) -> str:
    """The cargo package that lies in the folder `crate`."""
    return "lakebed" if crate == "server" else f"lakebed-{crate.replace('/', '-')}"


def dependencies(manifest: dict) -> Iterator[str]:
    """The package names that a manifest depends on, in whatever table and under whatever alias."""
    tables = [manifest, *manifest.get("target", {}).values()]
    for table in tables:
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            for alias, spec in table.get(kind, {}).items():
                yield spec.get("package", alias) if isinstance(spec, dict) else alias


def source_files(root: Path) -> Iterator[Path]:
    """Every Rust and Python file of the tree that people write."""
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or path.name in SKIPPED_FOLDERS:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from source_files(path)
        elif path.suffix in {".rs", ".py"}:
            yield path


def check_crates(root: Path) -> Iterator[str]:
    """Levels, unknown crates, and the engine's packages."""
    workspace = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]
    members = workspace["members"]
    aliases = {
        alias: spec["package"]
        for alias, spec in workspace.get("dependencies", {}).items()
        if isinstance(spec, dict) and "package" in spec
    }
    level_of = {package_name(crate): level for crate, level in LEVELS.items()}

    found = {path.parent.relative_to(root).as_posix() for path in root.glob("*/**/Cargo.toml")}
    for crate in sorted(found | set(members)):
        if any(part in SKIPPED_FOLDERS or part.startswith(".") for part in Path(crate).parts):
            continue
        if crate not in LEVELS:
            yield f"{crate}/Cargo.toml: the crate has no level in scripts/check_arrows.py"
            continue
        manifest_path = root / crate / "Cargo.toml"
        if not manifest_path.is_file():
            yield f"{crate}/Cargo.toml: the workspace names it and it is missing"
            continue
        manifest = tomllib.loads(manifest_path.read_text())
        # A workspace of its own, as `fuzz` is for its compiler flags, stands outside of the other.
        if crate not in members and "workspace" not in manifest:
            yield f"{crate}/Cargo.toml: the crate is not a member of the workspace"
        own_name = manifest["package"]["name"]
        if own_name != package_name(crate):
            yield f"{crate}/Cargo.toml: the package is `{own_name}`, not `{package_name(crate)}`"
        for dependency in sorted({aliases.get(name, name) for name in dependencies(manifest)}):
            if dependency.startswith("lakebed") and dependency not in level_of:
                yield f"{crate}/Cargo.toml: depends on `{dependency}`, which has no level"
            elif dependency in level_of and level_of[dependency] >= LEVELS[crate]:
                yield (
                    f"{crate}/Cargo.toml: level {LEVELS[crate]} depends on `{dependency}` of level "
                    f"{level_of[dependency]}; only lower levels are allowed"
                )
            if ENGINE_PACKAGE.match(dependency) and crate not in ENGINE_CRATES:
                yield (
                    f"{crate}/Cargo.toml: depends on `{dependency}`; only "
                    f"{', '.join(sorted(ENGINE_CRATES))} may"
                )


def check_files(root: Path) -> Iterator[str]:
    """Length of files, and stubs in what is shipped."""
    for path in source_files(root):
        shown = path.relative_to(root).as_posix()
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > FILE_LINES_MAX:
            yield f"{shown}: {len(lines)} lines; at most {FILE_LINES_MAX} are allowed"
        if path.suffix == ".rs":
            for number, line in enumerate(lines, 1):
                if (stub := STUB.search(line.split("//")[0])) is not None:
                    yield f"{shown}:{number}: `{stub.group(1)}!` in code that is shipped"


def main(root: Path) -> int:
    """Prints what is wrong below `root`; the exit status."""
    problems = [*check_crates(root), *check_files(root)]
    for problem in problems:
        print(problem)
    if problems:
        print(f"arrows: {len(problems)} broken rules")
        return 1
    print("arrows: no rule of the tree is broken")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent)))

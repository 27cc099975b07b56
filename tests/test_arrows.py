"""The rules of the source tree: this tree keeps them, and a tree that breaks one is caught."""

from pathlib import Path

import pytest

from scripts import check_arrows

REPOSITORY = Path(__file__).parent.parent

CLEAN_TREE = {
    "Cargo.toml": """
        [workspace]
        members = ["core", "storage", "index", "compaction", "service", "flight", "rest"]
        [workspace.dependencies]
        lakebed-core = { path = "core" }
        renamed = { package = "lance", version = "14" }
    """,
    "core": "strsim.workspace = true",
    "storage": "lakebed-core.workspace = true\nlance.workspace = true",
    "index": "lakebed-storage.workspace = true",
    "compaction": "lakebed-storage.workspace = true",
    "service": "lakebed-index.workspace = true\nlakebed-compaction.workspace = true",
    "flight": "lakebed-service.workspace = true",
    "rest": "lakebed-service.workspace = true",
}


def plant(root: Path, changes: dict[str, str]) -> Path:
    """Writes a small workspace below `root`, with `changes` laid over the clean one."""
    for name, text in {**CLEAN_TREE, **changes}.items():
        if "." in name:
            path = root / name
        else:
            path = root / name / "Cargo.toml"
            text = f'[package]\nname = "lakebed-{name}"\n[dependencies]\n{text}\n'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.strip() for line in text.splitlines()))
    return root


def test_this_tree_keeps_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    status = check_arrows.main(REPOSITORY)
    assert status == 0, capsys.readouterr().out


def test_a_clean_tree_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = check_arrows.main(plant(tmp_path, {}))
    assert status == 0, capsys.readouterr().out


UP = "lakebed-service.workspace = true"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"core": "lakebed-storage.workspace = true"}, "core/Cargo.toml", id="upwards"),
        pytest.param({"index": "lakebed-compaction.workspace = true"}, "index", id="sideways"),
        pytest.param({"flight": "lakebed-rest.workspace = true"}, "flight", id="between doors"),
        pytest.param({"storage": f"[dev-dependencies]\n{UP}"}, "storage", id="for tests"),
        pytest.param({"storage": f"[build-dependencies]\n{UP}"}, "storage", id="for the build"),
        pytest.param(
            {"storage": f"[target.'cfg(unix)'.dependencies]\n{UP}"}, "storage", id="for a platform"
        ),
        pytest.param(
            {"core": 'x = { package = "lakebed-rest", path = "../rest" }'}, "rest", id="alias"
        ),
        pytest.param({"service": "lance.workspace = true"}, "`lance`", id="engine in service"),
        pytest.param({"rest": "lance-io.workspace = true"}, "`lance-io`", id="part of the engine"),
        pytest.param({"flight": "datafusion.workspace = true"}, "datafusion", id="datafusion"),
        pytest.param({"flight": "renamed.workspace = true"}, "`lance`", id="engine, renamed"),
        pytest.param({"utils": ""}, "utils/Cargo.toml: the crate has no level", id="unknown crate"),
        pytest.param({"media": ""}, "not a member", id="outside the workspace"),
        pytest.param({"core": "lakebed-magic = '1'"}, "has no level", id="unknown dependency"),
        pytest.param({"core/src/long.rs": "//\n" * 801}, "801 lines", id="long Rust file"),
        pytest.param({"tests/long.py": "#\n" * 801}, "801 lines", id="long Python file"),
        pytest.param({"core/src/a.rs": "fn a() {\n  todo!()\n}"}, "a.rs:2: `todo!`", id="todo"),
        pytest.param(
            {"core/src/b/c.rs": 'unimplemented!("x")'}, "`unimplemented!`", id="unimplemented"
        ),
    ],
)
def test_a_broken_rule_is_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], words: str
) -> None:
    status = check_arrows.main(plant(tmp_path, changes))
    assert status == 1
    assert words in capsys.readouterr().out


def test_a_comment_about_a_stub_is_no_stub(tmp_path: Path) -> None:
    root = plant(tmp_path, {"core/src/a.rs": "// once this was todo!()\nfn a() {}"})
    assert check_arrows.main(root) == 0

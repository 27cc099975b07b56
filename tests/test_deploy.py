"""The container files and the compose file, checked for form: no engine is needed for that.

Every instruction is one that there is, what is copied exists, and what is run has that name.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
INSTRUCTIONS = {
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"),
    *("ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}
SERVICE_KEYS = {
    *("build", "command", "depends_on", "deploy", "entrypoint", "environment", "healthcheck"),
    *("image", "ports", "restart", "volumes"),
}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a container file, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    split = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    assert all(len(parts) == 2 for parts in split), split
    return [(parts[0], parts[1].strip()) for parts in split]


@pytest.mark.parametrize("name", ["Containerfile", "worker.Containerfile"])
def test_a_container_file(name: str) -> None:
    found = instructions(DEPLOY / name)
    assert {word for word, _ in found} <= INSTRUCTIONS
    assert found[0][0] == "FROM"
    stages = [text.split(" AS ")[1] for word, text in found if word == "FROM" and " AS " in text]
    for word, text in found:
        if word == "FROM":
            image = text.split(" AS ")[0]
            assert re.fullmatch(r"docker\.io/[a-z/]+:[\w.-]+", image), "an image with its version"
        if word == "COPY":
            parts = text.split()
            if parts[0].startswith("--from="):
                assert parts[0].removeprefix("--from=") in stages
            else:
                assert all((ROOT / source).exists() for source in parts[:-1]), text
        if word in {"ENTRYPOINT", "CMD"}:
            assert all(isinstance(argument, str) for argument in json.loads(text))
    # Nothing in it runs as root.
    users = [text for word, text in found if word == "USER"]
    assert users == ["lakebed"]


def test_the_worker_image_has_what_the_package_says() -> None:
    text = (DEPLOY / "worker.Containerfile").read_text()
    pinned = re.findall(r"^(\S+==\S+)", (ROOT / "tests/models.txt").read_text(), re.MULTILINE)
    assert len(pinned) == 2
    assert all(requirement in text for requirement in pinned)
    assert "lakebed-worker" in (ROOT / "python/pyproject.toml").read_text()


def compose() -> dict[str, Any]:
    """The compose file."""
    return YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text())


def test_the_compose_file() -> None:
    found = compose()
    assert set(found) == {"name", "services", "volumes"}
    services = found["services"]
    assert set(services) == {"s3", "bucket", "server", "worker"}
    for name, service in services.items():
        assert set(service) <= SERVICE_KEYS, name
        assert ("image" in service) != ("build" in service), name
        if build := service.get("build"):
            context = (DEPLOY / build["context"]).resolve()
            assert context == ROOT
            assert (context / build["dockerfile"]).is_file()
        needed = service.get("depends_on", {})
        assert set(needed) <= set(services), name
        for condition in needed.values() if isinstance(needed, dict) else ():
            assert condition["condition"] in CONDITIONS
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in found["volumes"], name
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port), "only this machine sees it"
    # No secret stands in the file: each comes from the environment, or the start is refused.
    for service in services.values():
        for variable, value in service.get("environment", {}).items():
            if "KEY" in variable or "SECRET" in variable:
                assert re.fullmatch(r"\$\{\w+:\?[\w' ]+\}", value), variable


def test_what_the_compose_file_runs_is_there() -> None:
    services = compose()["services"]
    server = services["server"]["command"]
    flags = (ROOT / "docs/configuration.md").read_text()
    assert server[0] == "serve"
    assert all(flag in flags for flag in server if flag.startswith("--"))
    worker = (ROOT / "python/src/lakebed/worker/main.py").read_text()
    assert all(f'"{flag}"' in worker for flag in services["worker"]["command"] if "--" in flag)
    ready = services["s3"]["healthcheck"]
    assert ready["test"][0] == "CMD-SHELL"

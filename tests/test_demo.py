"""`make demo` from its start to its page, twice: the second time it has little to do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.server import built_binary

ROOT = Path(__file__).parent.parent


def demo(folder: Path) -> str:
    """Runs it in a folder; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if name != "LAKEBED_SOAK"},
            "LAKEBED_BIN": str(built_binary()),
            "EXIT": "1",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_the_demo(tmp_path: Path) -> None:
    printed = demo(tmp_path)
    assert re.search(r"stamps: \d{5} rows added, 0 replaced, 0 unchanged", printed)
    assert re.search(r"done: 7\d\d rows, 0 of them with an error", printed)
    assert "An airplane.  (vehicles/flight/planes/747.png)" in printed
    assert "bigbuckbunny.mp4  h264  1280  720  132" in printed
    assert "mcap  /odom  nav_msgs/msg/Odometry  2639" in printed
    assert re.search(r"the new row \d+\.\d s after its insert", printed)
    assert re.search(r"words +function +words +1 +\[", printed)
    assert "colours@1" in printed
    assert "By the colours of a picture" in printed
    assert "What comes near a text, without an index" in printed
    page = (tmp_path / "lakebed-demo/page.html").read_text()
    assert page.count("data:image/png;base64,") > 20
    assert page.endswith("</html>")

    # Again: what is there stays, what was deleted for the show comes back and is embedded.
    printed = demo(tmp_path)
    assert re.search(r"stamps: 56 rows added, 0 replaced, \d{5} unchanged", printed)
    assert re.search(r"done: \d rows, 0 of them with an error", printed)

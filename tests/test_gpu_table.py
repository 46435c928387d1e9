import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lpsphere.experiments.recipes import TABLE_METHODS

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_table.sh"
STUB = """#!/usr/bin/env bash
echo "$*" >> asked
left=$((3 - $(wc -l < asked)))
if [ "$left" -gt 0 ]; then echo "stopped in time, all saved; $left runs are left: give the same command again"; fi
exit {status}
"""
SAVES = """#!/usr/bin/env bash
trap 'sleep 0.5; echo all saved; exit 130' INT
touch begun
while true; do sleep 0.1; done
"""


@pytest.fixture
def run(tmp_path):
    """Run the script with an ``lpsphere`` that needs three steps; returns status, output and the commands it gave."""

    def run_script(*words, status=0):
        stub = tmp_path / "bin" / "lpsphere"
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(STUB.replace("{status}", str(status)))
        stub.chmod(0o755)
        environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [SCRIPT, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        asked = tmp_path / "asked"
        return done.returncode, done.stdout, asked.read_text().splitlines() if asked.exists() else []

    return run_script


def test_steps_follow_until_all_is_done(run):
    status, out, asked = run("--methods", "semi-pruning,dense")
    assert status == 0
    assert out.endswith("all done\n")
    command = (
        f"reproduce table --cells mnist,fashion-mnist,cifar-10 --methods {','.join(TABLE_METHODS)} --seeds 5 "
        "--device cuda --minutes 9"
    )
    assert asked == [f"{command} --methods semi-pruning,dense"] * 3


def test_once_means_one_step_and_says_how_to_go_on(run):
    for step in (1, 2, 3):
        status, out, asked = run("--once")
        assert (status, len(asked)) == (0, step)
        assert ("give the same command again" in out, "all done" in out) == (step < 3, step == 3)


def test_a_failure_ends_it(run):
    status, _, asked = run(status=2)
    assert (status, len(asked)) == (2, 1)


def test_a_search_has_no_seeds(run):
    _, _, asked = run("--search", "--once")
    assert "--seeds" not in asked[0]
    assert asked[0].endswith("--minutes 9 --search")


def test_what_is_said_after_ctrl_c_is_shown(tmp_path):
    stub = tmp_path / "bin" / "lpsphere"
    stub.parent.mkdir()
    stub.write_text(SAVES)
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    script = subprocess.Popen(
        [SCRIPT],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored where tests run in background
    )
    while not (tmp_path / "begun").exists():
        assert script.poll() is None
        time.sleep(0.05)
    os.killpg(script.pid, signal.SIGINT)
    out, _ = script.communicate(timeout=30)
    assert "all saved" in out
    assert script.returncode != 0


def test_it_explains_itself(run):
    status, out, asked = run("--help")
    assert (status, asked) == (0, [])
    assert "--once" in out
    assert "set -e" not in out

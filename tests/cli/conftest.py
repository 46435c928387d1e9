import subprocess
import sys
import warnings

import pytest

from lpsphere.cli import main


@pytest.fixture
def lpsphere(monkeypatch, capsys, tmp_path):
    """Run a command line in an empty folder; returns the exit status, standard output and standard error."""

    def run(*words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["lpsphere", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def run_alone():
    """Run a command line in a process of its own; returns the exit status."""

    def run(*words):
        command = [sys.executable, "-c", "from lpsphere.cli import main; main()", *map(str, words)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    return run


@pytest.fixture
def run_piped():
    """Run a command line in a process of its own; returns its standard output, which is a pipe."""

    def run(*words):
        command = [sys.executable, "-m", "lpsphere", *map(str, words)]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=240).stdout

    return run

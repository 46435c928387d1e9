import subprocess
import sys

import pytest


@pytest.mark.parametrize("extra", ["lightning", "transformers"])
def test_a_missing_extra_is_named(extra):
    block = f"import sys; sys.modules['{extra}'] = sys.modules['{extra}.pytorch'] = None"
    code = f"{block}; import lpsphere.integrations.{extra}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.returncode == 1
    assert f"install it with pip install 'lpsphere[{extra}]'" in found.stderr

import pytest


class Crash(Exception):  # noqa: N818
    pass


@pytest.fixture
def crash_at():
    """Train until a step, at which the process is lost."""

    def crash_at(step, trainer):
        def on_step(progress):
            if progress.step == step:
                raise Crash

        with pytest.raises(Crash):
            trainer.fit(on_step)

    return crash_at

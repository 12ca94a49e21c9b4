"""One engine of each kind, started once; a test takes `engine` and runs over all that this machine has."""

from collections.abc import Iterator

import pytest
from engine_factory import ENGINE_NAMES, make_engine

from eager.engines import Engine


@pytest.fixture(scope="session", params=ENGINE_NAMES)
def shared_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = make_engine(request.param)
    yield engine
    engine.shutdown()


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """The engine with nothing open, before and after."""
    yield shared_engine
    for seq_id in range(1000):
        shared_engine.close(seq_id)
    shared_engine.step()

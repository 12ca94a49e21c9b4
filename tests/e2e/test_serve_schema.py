"""`eager serve` against what it says of itself: requests made up from its own OpenAPI page."""

import needs
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

needs.package("uvicorn", "serve")
needs.package("starlette", "serve")
needs.package("prometheus_client", "serve")
needs.package("openai", "dev")
schemathesis = needs.package("schemathesis", "dev")

from schemathesis import checks  # noqa: E402
from serving import serving  # noqa: E402

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def operations():
    """By path."""
    with serving() as running:
        schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
        yield {operation.ok().path: operation.ok() for operation in schema.get_all_operations()}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/models", "/health"])
def test_what_fits_the_page_is_answered_as_it_says(operations, path):
    """An answer or an error of the form that the page has; never a failure of the server."""

    @given(data=st.data())
    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(data):
        data.draw(operations[path].as_strategy()).call_and_validate(checks=CHECKS)

    ask()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_what_does_not_fit_the_page_is_refused(operations, path):
    """With an error of the same form: whatever breaks the page's rules is no request."""
    negative = operations[path].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @given(data=st.data())
    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(data):
        data.draw(negative).call_and_validate(checks=[*CHECKS, checks.negative_data_rejection])

    ask()

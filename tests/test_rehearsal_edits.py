"""Edits of a compose file: each applies, and only to what it names."""

import copy

import pytest

from tests.rehearsal import edits

TEXT = """
x-release: &release
  image: ${IMAGE}:${IMAGE_TAG}
  environment: &environment
    API_PORT: ${API_PORT}
    SENTRY_DSN:
services:
  front:
    image: caddy
    labels: &labels {quai.deploy: "${DEPLOY_ID:-0}", quai.tag: "${IMAGE_TAG}"}
  api:
    <<: *release
    labels:
      <<: *labels
      quai.health-path: /ready
    deploy:
      resources:
        limits: {memory: 512M}
  check: {<<: *release, deploy: {replicas: 0}}
  migrate:
    <<: *release
    environment: {<<: *environment, PGOPTIONS: ""}
  db: {image: postgres}
"""
EDITS = {
    "run_python": (edits.run_python("print('$HOME')"), {"api"}),
    "wrap_command": (edits.wrap_command('sleep 1; exec "$@"'), {"api"}),
    "migrate_with": (edits.migrate_with(""), {"check", "migrate"}),
    "limit_memory": (edits.limit_memory("64M"), {"api"}),
    "remove_health_check": (edits.remove_health_check, {"api"}),
    "report_another_release": (edits.report_another_release, {"front"}),
    "require_setting": (edits.require_setting("PARTNER"), {"api"}),
    "add_worker": (edits.add_worker("worker", edits.WORKER, single=True), {"worker"}),
    "remove_services": (edits.remove_services("db"), {"db"}),
    "reduce_to_short_lived_api": (edits.reduce_to_short_lived_api, {"api", "check", "migrate"}),
}


def parse(text=TEXT):
    return edits.parse(text, ["python", "-m", "app"])


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_the_services_that_it_is_for(name):
    edit, expected = EDITS[name]
    compose, before = parse(), copy.deepcopy(parse().services)
    edit(compose)
    after = compose.services
    assert {one for one in before | after if before.get(one) != after.get(one)} == expected
    assert parse(compose.text()).services == after


def test_dollar_signs_of_a_program_are_not_variables_of_compose():
    compose = parse()
    edits.run_python("print('$HOME')")(compose)
    assert compose.api["entrypoint"] == ["python3", "-u", "-c", "print('$$HOME')", "${API_PORT}"]


@pytest.mark.parametrize(
    ("service", "command"),
    [
        ({}, ["python", "-m", "app"]),
        ({"command": "gunicorn 'a b'"}, ["gunicorn", "a b"]),
        ({"entrypoint": ["run"], "command": ["x"]}, ["run", "x"]),
    ],
)
def test_the_command_of_the_api_is_wrapped(service, command):
    compose = parse()
    compose.api.update(service)
    edits.wrap_command('exec "$@"')(compose)
    assert compose.api["command"] == command
    assert compose.api["entrypoint"] == ["sh", "-c", 'exec "$$@"', "sh"]


def test_environment_may_be_a_list():
    service = {"environment": ["A=1", "B"]}
    edits.environment(service)["C"] = None
    assert service["environment"] == {"A": "1", "B": None, "C": None}

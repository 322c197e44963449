"""How services are given to Docker Swarm. No engine is needed."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
from server import commands, engine, stackfile
from server.compose import Project
from server.errors import Refused

from tests.server.conftest import NEW

LABELS = {"quai.deploy": "200", "quai.tag": NEW}


@pytest.fixture
def project(directory, settings):
    return Project(directory, replace(settings, engine="swarm"), NEW, "200")


@pytest.fixture(autouse=True)
def no_images(monkeypatch):
    monkeypatch.setattr(engine, "image", lambda name: None)


def test_what_a_stack_does_not_accept_is_converted(directory):
    service = {
        "image": "quai:1",
        "command": None,
        "depends_on": {"db": {}},
        "restart": "unless-stopped",
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp", "/logs:uid=10001"],  # noqa: S108
        "read_only": True,
        "ports": [{"target": 80, "published": "8080", "protocol": "tcp", "mode": "ingress"}],
        "volumes": [
            {"type": "bind", "source": f"{directory}/releases", "target": "/live", "bind": {"create_host_path": True}},
            {"type": "bind", "source": "/srv/media", "target": "/media", "bind": {"create_host_path": True}},
        ],
    }
    found = stackfile.convert("proxy", service, directory)
    assert {"command", "depends_on", "restart", "security_opt", "tmpfs"}.isdisjoint(found)
    assert found["read_only"]
    assert found["labels"] == {"quai.hash": stackfile.digest("proxy", service)}
    assert found["ports"] == [{"target": 80, "published": 8080, "protocol": "tcp", "mode": "host"}]
    assert found["volumes"] == [
        {"type": "bind", "source": "/srv/media", "target": "/media"},
        {"type": "tmpfs", "target": "/tmp"},  # noqa: S108
        {"type": "tmpfs", "target": "/logs"},
    ]
    assert found["deploy"]["endpoint_mode"] == "dnsrr"
    assert found["deploy"]["placement"]["constraints"] == ["node.labels.quai.main == true"]  # of /srv/media
    assert "update_config" not in found["deploy"]  # not a service of the release


def test_the_number_of_tasks_may_be_that_of_scale(directory):
    assert stackfile.convert("worker", {"image": "quai:1", "scale": 3}, directory)["deploy"]["replicas"] == 3


@pytest.mark.parametrize("key", ["secrets", "configs"])
def test_secrets_and_configs_are_refused(project, key):
    """Otherwise the stack would be refused after the migration, or when one changes."""
    services = {"api": {"image": "quai:1", key: [{"source": "token"}]}, "db": {"image": "postgres"}}
    with pytest.raises(Refused, match=f"^api has {key}, which Swarm cannot change later"):
        stackfile.check(project, {"services": services}, ["db", "api"])


@pytest.mark.parametrize(("replicas", "parallelism"), [(1, 1), (3, 1), (4, 2), (12, 4)])
def test_a_third_of_a_release_is_replaced_at_a_time_and_rolled_back(directory, replicas, parallelism):
    service = {"image": "quai:1", "labels": LABELS, "deploy": {"replicas": replicas}}
    deploy = stackfile.convert("api", service, directory)["deploy"]
    expected = {"order": "start-first", "failure_action": "rollback", "monitor": "5s", "parallelism": parallelism}
    assert deploy["update_config"] == expected
    assert deploy["rollback_config"] == stackfile.ROLLBACK | {"parallelism": parallelism}


def test_the_compose_file_takes_precedence(directory):
    service = {"image": "quai:1", "labels": LABELS, "deploy": {"update_config": {"parallelism": 7}}}
    found = stackfile.convert("api", service, directory)["deploy"]["update_config"]
    assert found == stackfile.ROLLING | {"parallelism": 7}


def test_the_live_release_is_never_rolled_back(directory):
    """What Swarm would go back to is the release that was refused."""
    services = {"api": {"image": "quai:1", "labels": LABELS}}
    found = stackfile.build({"services": services}, ["api"], directory, may_roll_back=False)["services"]["api"]
    assert found["deploy"]["update_config"]["failure_action"] == "continue"


@pytest.mark.parametrize(
    "port", [{"target": 80}, {"target": 80, "published": "8000-8010"}, {"published": "80", "host_ip": "127.0.0.1"}]
)
def test_ports_that_a_stack_does_not_publish_are_refused(directory, port):
    with pytest.raises(Refused, match=r"the ports of proxy .* accepts no range, and no address"):
        stackfile.convert("proxy", {"image": "caddy", "ports": [port]}, directory)


@pytest.mark.parametrize(("code", "error"), [(0, ""), (1, "services.api Additional property x is not allowed")])
def test_a_file_that_swarm_does_not_accept_is_refused_before_a_deploy(project, monkeypatch, code, error):
    monkeypatch.setattr(stackfile.commands, "run", lambda *_, **__: commands.Result(code, "", error))
    expected = (
        pytest.raises(Refused, match=r"Swarm does not accept .*: services\.api Additional") if code else nullcontext()
    )
    with expected:
        stackfile.check(project, {"services": {"api": {"image": "quai:1"}}}, ["api"])


@pytest.mark.parametrize(
    ("volumes", "placement", "expected"),
    [
        ([{"type": "volume", "source": "db", "target": "/data"}], {}, ["node.labels.quai.main == true"]),
        ([{"type": "volume", "source": "db", "target": "/data"}], {"constraints": ["a == b"]}, ["a == b"]),
        ([], {}, None),
    ],
)
def test_a_service_with_a_volume_stays_where_the_volume_is(directory, volumes, placement, expected):
    """Swarm would create an empty one on another machine."""
    service = {"image": "db", "volumes": volumes, "tmpfs": "/run", "deploy": {"placement": placement}}
    found = stackfile.convert("db", service, directory)["deploy"]["placement"]
    assert found.get("constraints") == expected


def test_a_singleton_stops_first_and_stays_on_the_main_machine(directory):
    """On another machine, a new one could start while the previous one still runs on a machine that is cut off."""
    labels = LABELS | {"quai.single": "true"}
    placement = {"constraints": ["node.labels.disk == ssd"]}
    unsafe = {"update_config": {"order": "start-first"}, "placement": placement}
    deploy = stackfile.convert("scheduler", {"image": "quai:1", "labels": labels, "deploy": unsafe}, directory)[
        "deploy"
    ]
    assert deploy["update_config"]["order"] == deploy["rollback_config"]["order"] == "stop-first"
    assert deploy["mode"] == "replicated"  # a global service cannot be stopped by its number of replicas
    assert deploy["placement"]["constraints"] == ["node.labels.disk == ssd", "node.labels.quai.main == true"]


@pytest.mark.parametrize(
    ("name", "digests", "expected"),
    [
        ("localhost:5000/quai:1", ["localhost:5000/quai@sha256:a"], "localhost:5000/quai:1@sha256:a"),
        ("localhost:5000/quai:1", ["mirror/quai@sha256:a"], "localhost:5000/quai:1"),
        ("localhost:5000/quai", ["localhost:5000/quai@sha256:a"], "localhost:5000/quai@sha256:a"),
        ("caddy:2@sha256:b", ["caddy@sha256:b"], "caddy:2@sha256:b"),
        ("local:1", [], "local:1"),
    ],
)
def test_all_nodes_run_the_digest_that_this_node_pulled(monkeypatch, name, digests, expected):
    monkeypatch.setattr(engine, "image", lambda image: {"RepoDigests": digests})
    assert stackfile.pinned(name) == expected
